"""A plain folder: images as files, and a line of JSON for each. Hugging Face's imagefolder reads it as it is.

images/00000/00000000.webp
metadata.jsonl                 {"file_name": "images/00000/00000000.webp", "author": ...}
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from storage.exports.archive import IMAGES, MOST_JSON_BYTES, Archive, Described, described
from storage.exports.pictures import Job, facts_of
from storage.exports.sinks import Sink
from storage.tables import Row

METADATA = "metadata.jsonl"
SUFFIXES = ("png", "webp", "jpg")


def write(job: Job, sink: Sink) -> None:
    """All images and their rows."""
    with sink.growing(METADATA) as file:
        for name, row in write_images(job, sink):
            write_row(file, name, facts_of(row))


def write_images(job: Job, sink: Sink, taken: Collection[str] = SUFFIXES) -> Iterator[tuple[str, Row]]:
    """Write all images, as PNG where their format is not `taken`, and say each one's name and row."""

    def made(row: Row, stored: bytes) -> tuple[Row, bytes, str]:
        return row, *job.as_file(stored, taken)

    for number, (row, data, suffix) in enumerate(job.each(made)):
        name = f"images/{number // 1000:05d}/{number:08d}.{suffix}"
        sink.add(name, data)
        yield name, row


def write_row(file: BinaryIO, name: str, facts: Row) -> None:
    """A line of what is on record of the image `name`."""
    file.write(json.dumps({"file_name": name, **facts}, ensure_ascii=False).encode() + b"\n")


def is_one(archive: Archive) -> bool:
    """Whether it can be read as this layout."""
    return bool(images_of(archive))


def read(archive: Archive) -> Iterator[Described]:
    """Every image, with what `metadata.jsonl` says of it; a line that cannot be read is a rejection."""
    facts: dict[str, dict[str, Any]] = {}
    if METADATA in archive.files:
        lines = archive.read(METADATA, MOST_JSON_BYTES).split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            at = f"{METADATA}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            name = row.get("file_name") if isinstance(row, dict) else None
            if not isinstance(name, str):
                yield Described(at, problem=("bad_metadata", "it is no JSON object with a file_name"))
            elif facts.setdefault(name, row) != row:
                yield Described(at, problem=("bad_metadata", f"it contradicts another line about {name}"))
            elif name not in archive.files:
                yield Described(at, problem=("unreadable_file", f"{name} is not there"))
    for name in images_of(archive):
        yield described(name, facts.get(name, {}))


def images_of(archive: Archive) -> list[str]:
    """The names of all images, sorted."""
    return sorted(name for name in archive.files if name.lower().endswith(IMAGES))
