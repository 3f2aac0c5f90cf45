"""Bodies on their way: written to disk as they arrive, hashed on the way, and judged by their first bytes.

So memory is bounded by the connections, whatever the bodies weigh: a small one is written when it is complete. A file
lies under a name of its own, which nothing that came over the network has a part in, until whoever asked for it takes
it from there.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from preprocessing.photo.magic import HEAD_BYTES, is_picture, is_whole, named
from preprocessing.reject import Reason, Rejected
from storage.errors import PipelineError


@dataclass(frozen=True, slots=True)
class Spooled:
    """A whole body on disk; whoever has it moves or deletes the file."""

    path: Path
    sha256: str
    num_bytes: int
    is_whole: bool = True
    """Whether the picture reaches its end; a server may have sent less of it, and said so nowhere."""


_HELD_BYTES = 256 * 1024
"""Of a body, those that wait in memory to be written together."""
_numbers = itertools.count()


async def spooled(
    blocks: AsyncIterator[bytes], max_bytes: int, folder: Path, look: Callable[[bytes], None]
) -> Spooled:
    """The picture that `blocks` are, in a new file of `folder`, which no other process writes to.

    Raises `Rejected` as soon as they are no picture, or more than `max_bytes`, and what `look` raises when it is
    handed all of them; nothing is left then. An empty body is a file of no bytes, which the decoder has a reason for.
    PipelineError where the disk does not take them.
    """
    digest = hashlib.sha256()
    held: list[bytes] = []
    num_bytes = num_held = 0
    is_judged = False
    path = folder / str(next(_numbers))
    file = -1
    try:
        async for block in blocks:
            num_bytes += len(block)
            if num_bytes > max_bytes:
                raise Rejected(Reason.TOO_MANY_BYTES, f"more than {max_bytes}")
            digest.update(block)
            held.append(block)
            num_held += len(block)
            if not is_judged and num_bytes >= HEAD_BYTES:
                _judge(b"".join(held)[:HEAD_BYTES])
                is_judged = True
            if num_held > _HELD_BYTES:
                with _on_disk(path):
                    file = _opened(path) if file < 0 else file
                    _write(file, b"".join(held))
                held, num_held = [], 0
        data = b"".join(held)
        if not is_judged and num_bytes:
            _judge(data)
        if file < 0:
            look(data)
        with _on_disk(path):
            file = _opened(path) if file < 0 else file
            _write(file, data)
        if num_bytes > num_held:
            with _on_disk(path):
                data = path.read_bytes()
            look(data)
        return Spooled(path, digest.hexdigest(), num_bytes, is_whole(data))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        if file >= 0:
            os.close(file)


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    """Tell an error of the disk, which ends a crawl, from those of the network, which do not."""
    try:
        yield
    except OSError as error:
        raise PipelineError(f"{path.parent} cannot be written to: {error.strerror}") from error


def _judge(head: bytes) -> None:
    if not is_picture(head):
        raise Rejected(Reason.NOT_AN_IMAGE, f"{named(head)} with status 200")
