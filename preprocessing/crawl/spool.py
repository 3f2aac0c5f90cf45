"""Bodies on their way: written to disk as they arrive, hashed on the way, and judged by their first bytes.

So memory is bounded by the connections, whatever the bodies weigh: a small one is written when it is complete. A file
lies under a name of its own, which nothing that came over the network has a part in, until whoever asked for it takes
it from there.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.photo.magic import HEAD_BYTES, is_picture, is_whole, named
from preprocessing.reject import Reason, Rejected
from storage.errors import PipelineError


class Spooled:
    """A whole body: in memory as long as it is small and nobody asks for its file."""

    __slots__ = ("_data", "_path", "is_whole", "num_bytes", "sha256")

    def __init__(self, path: str, sha256: str, num_bytes: int, is_whole: bool, data: bytes | None) -> None:
        self.sha256 = sha256
        self.num_bytes = num_bytes
        self.is_whole = is_whole
        """Whether the picture reaches its end; a server may have sent less of it, and said so nowhere."""
        self._path = path
        self._data = data

    @property
    def path(self) -> Path:
        """As `file`."""
        return Path(self.file)

    @property
    def file(self) -> str:
        """Its file, which whoever asks for it moves or deletes; PipelineError where the disk does not take it."""
        if self._data is not None:
            try:
                file = _opened(self._path)
                try:
                    _write(file, self._data)
                finally:
                    os.close(file)
            except OSError as error:
                raise _not_written(self._path, error) from error
            _waiting.add(-len(self._data))
            self._data = None
        return self._path

    def discard(self) -> None:
        """Leave nothing of it."""
        if self._data is None:
            Path(self._path).unlink(missing_ok=True)
        else:
            _waiting.add(-len(self._data))
            self._data = b""


class _Waiting:
    """How many bytes of bodies are in memory, of all crawls of this process together."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> bool:
        """Count so many more, or less; whether all together are few enough."""
        with self._lock:
            self._num_bytes += num_bytes
            return self._num_bytes <= _MOST_WAITING_BYTES


_HELD_BYTES = 256 * 1024
"""Of a body, those that wait in memory to be written together."""
_MOST_WAITING_BYTES = 64 * 2**20
"""Of whole bodies that wait in memory for whoever moves them into the store, outside of the loop of requests."""
_waiting = _Waiting()
_numbers = itertools.count()


async def spooled(
    read: Callable[[], Awaitable[bytes]], max_bytes: int, folder: Path, look: Callable[[bytes], None]
) -> Spooled:
    """The picture that `read` gives by blocks up to an empty one, in a new file of `folder`.

    No other process writes there.

    Raises `Rejected` as soon as they are no picture, or more than `max_bytes`, and what `look` raises when it is
    handed all of them; nothing is left then. An empty body is a file of no bytes, which the decoder has a reason for.
    PipelineError where the disk does not take them.
    """
    digest = hashlib.sha256()
    held: list[bytes] = []
    num_bytes = num_held = 0
    is_judged = False
    path = f"{folder}/{next(_numbers)}"
    file = -1
    try:
        while block := await read():
            num_bytes += len(block)
            if num_bytes > max_bytes:
                raise Rejected(Reason.TOO_MANY_BYTES, f"more than {max_bytes}")
            digest.update(block)
            held.append(block)
            num_held += len(block)
            if not is_judged and num_bytes >= HEAD_BYTES:
                _judge((held[0] if len(held[0]) >= HEAD_BYTES else b"".join(held))[:HEAD_BYTES])
                is_judged = True
            if num_held > _HELD_BYTES:
                with _on_disk(path):
                    file = _opened(path) if file < 0 else file
                    _write(file, b"".join(held))
                held, num_held = [], 0
        data = held[0] if len(held) == 1 else b"".join(held)
        if not is_judged and num_bytes:
            _judge(data)
        if file < 0:
            look(data)
            body = Spooled(path, digest.hexdigest(), num_bytes, is_whole(data), data)
            if not _waiting.add(num_bytes):
                body.file  # noqa: B018  which writes it
            return body
        with _on_disk(path):
            _write(file, data)
            data = Path(path).read_bytes()
        look(data)
        return Spooled(path, digest.hexdigest(), num_bytes, is_whole(data), None)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    finally:
        if file >= 0:
            os.close(file)


def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _write(file: int, data: bytes) -> None:
    num_written = os.write(file, data)
    while num_written < len(data):
        num_written += os.write(file, memoryview(data)[num_written:])


@contextmanager
def _on_disk(path: str) -> Iterator[None]:
    """Tell an error of the disk, which ends a crawl, from those of the network, which do not."""
    try:
        yield
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: str, error: OSError) -> PipelineError:
    return PipelineError(f"{os.path.dirname(path)} cannot be written to: {error.strerror}")


def _judge(head: bytes) -> None:
    if not is_picture(head):
        raise Rejected(Reason.NOT_AN_IMAGE, f"{named(head)} with status 200")
