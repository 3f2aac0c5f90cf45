"""The outermost boxes of an MP4 file (ISO 14496-12): where they lie, boxes of our own, and the digest of the media.

Not here: what is in a film, and what our boxes say (`storage.lineage.origin`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

XMP = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")
"""Of a box that holds an XMP packet (ISO 16684-3)."""
LINEAGE = UUID("6c696b65-6e65-5373-8c69-6e6561676521")
"""Of a box that holds our lineage as JSON."""
_MEDIA = b"mdat"
_BLOCK = 2**20


@dataclass(frozen=True)
class Box:
    """A box: its type, and where its content lies in the file."""

    kind: bytes
    start: int
    stop: int


def boxes(file: BinaryIO) -> Iterator[Box]:
    """The outermost boxes, in order; none of a file that is no MP4, and none after one that is damaged."""
    size = file.seek(0, 2)
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind, start = int.from_bytes(header[:4], "big"), header[4:8], at + 8
        if length == 1:
            length, start = int.from_bytes(header[8:16], "big"), at + 16
        stop = size if length == 0 else at + length
        if stop < start or stop > size or (at == 0 and kind != b"ftyp"):
            return
        yield Box(kind, start, stop)
        at = stop


def uuid_box(of: UUID, content: bytes) -> bytes:
    """A box of a type of one's own."""
    return (24 + len(content)).to_bytes(4, "big") + b"uuid" + of.bytes + content


def uuid_content(path: Path, of: UUID) -> bytes | None:
    """The content of the last box of that type, or None."""
    found = None
    with path.open("rb") as file:
        for box in boxes(file):
            file.seek(box.start)
            if box.kind == b"uuid" and file.read(16) == of.bytes:
                found = file.read(box.stop - box.start - 16)
    return found


def media_digest(path: Path) -> str | None:
    """sha256 of the encoded frames alone, whatever else was written around them; None where there are none."""
    digest, is_there = hashlib.sha256(), False
    with path.open("rb") as file:
        for box in boxes(file):
            if box.kind != _MEDIA:
                continue
            is_there = True
            file.seek(box.start)
            left = box.stop - box.start
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest() if is_there else None
