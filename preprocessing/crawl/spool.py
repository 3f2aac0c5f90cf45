"""Bodies on their way: written to disk as they arrive, hashed on the way, and judged by their first bytes.

So memory is bounded by the connections, whatever the bodies weigh. A file lies under a name of its own, which nothing
that came over the network has a part in, until whoever asked for it takes it from there.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from preprocessing.photo.magic import HEAD_BYTES, is_picture, named
from preprocessing.reject import Reason, Rejected
from storage.errors import PipelineError


@dataclass(frozen=True, slots=True)
class Spooled:
    """A whole body on disk; whoever has it moves or deletes the file."""

    path: Path
    sha256: str
    num_bytes: int


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
    num_bytes = 0
    head = b""
    path = folder / str(next(_numbers))
    with _on_disk(path):
        file = open(path, "x+b")  # noqa: SIM115  closed below, and errors of the network are not the disk's
    try:
        with file:
            async for block in blocks:
                num_bytes += len(block)
                if num_bytes > max_bytes:
                    raise Rejected(Reason.TOO_MANY_BYTES, f"more than {max_bytes}")
                if len(head) < HEAD_BYTES:
                    head += block[:HEAD_BYTES]
                    if len(head) >= HEAD_BYTES:
                        _judge(head)
                digest.update(block)
                with _on_disk(path):
                    file.write(block)
            if 0 < len(head) < HEAD_BYTES:
                _judge(head)
            with _on_disk(path):
                file.seek(0)  # which writes what is still in its buffer
                data = file.read()
            look(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Spooled(path, digest.hexdigest(), num_bytes)


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
