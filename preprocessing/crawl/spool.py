"""Bodies on their way: written to disk as they arrive, hashed on the way, and judged by their first bytes.

So memory is bounded by the connections, whatever the bodies weigh. A file lies under a name of its own, which nothing
that came over the network has a part in, until whoever asked for it takes it from there.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from preprocessing.photo.magic import HEAD_BYTES, is_picture, named
from preprocessing.reject import Reason, Rejected


@dataclass(frozen=True, slots=True)
class Spooled:
    """A whole body on disk; whoever has it moves or deletes the file."""

    path: Path
    sha256: str
    num_bytes: int


async def spooled(blocks: AsyncIterator[bytes], max_bytes: int, folder: Path) -> Spooled:
    """The picture that `blocks` are, in a new file of `folder`.

    Raises `Rejected` as soon as they are no picture, or more than `max_bytes`; nothing is left then. An empty body is
    a file of no bytes, which the decoder has a reason for.
    """
    digest = hashlib.sha256()
    num_bytes = 0
    head = b""
    is_judged = False
    descriptor, name = tempfile.mkstemp(dir=folder)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            async for block in blocks:
                num_bytes += len(block)
                if num_bytes > max_bytes:
                    raise Rejected(Reason.TOO_MANY_BYTES, f"more than {max_bytes}")
                if not is_judged:
                    head += block[:HEAD_BYTES]
                    is_judged = len(head) >= HEAD_BYTES
                    if is_judged:
                        _judge(head)
                digest.update(block)
                file.write(block)
        if head and not is_judged:
            _judge(head)
    except BaseException:
        os.unlink(name)
        raise
    return Spooled(Path(name), digest.hexdigest(), num_bytes)


def _judge(head: bytes) -> None:
    if not is_picture(head):
        raise Rejected(Reason.NOT_AN_IMAGE, f"{named(head)} with status 200")
