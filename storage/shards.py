"""Deterministic webdataset tars: the same samples give the same bytes, and any webdataset reader reads them.

A sample is an image entry and a JSON entry under one key. Entries are USTAR with time, owner and mode fixed, in
the order given. Beside each tar stands an index of where every entry's bytes lie, made while packing.

Not here: which samples go into which shard (`flows.stages.work`), or decoding them (`training.data`).
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from storage.config import Config
from storage.digest import bytes_digest, file_digest
from storage.errors import IntegrityError, NotFoundError
from storage.records import problem_of

KEY_DIGITS = 16
"""Of an image's sha256, in its key; no version has two images that share them."""


class ShardConfig(Config):
    """How images are grouped into tars."""

    images_per_shard: int = Field(
        1000, ge=1, le=100_000, description="Images in each tar; the last holds the rest."
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """One image on its way into a shard; `suffix` is the image's, such as "png"."""

    key: str
    suffix: str
    image: bytes
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tar entry's bytes lie: `offset` and `size` in bytes, and their sha256."""

    name: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    offset: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def write_shard(path: Path, samples: Iterable[Sample]) -> list[Entry]:
    """Write samples to a tar at `path`, in their order, and return its index."""
    entries: list[Entry] = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for suffix, data in ((sample.suffix, sample.image), ("json", sample.metadata)):
                member = _member(f"{sample.key}.{suffix}", len(data))
                tar.addfile(member, io.BytesIO(data))
                # tarfile has just written the data, padded to whole blocks
                start = tar.offset - _blocks(len(data)) * tarfile.BLOCKSIZE
                entries.append(Entry(member.name, start, len(data), bytes_digest(data)))
    return entries


@dataclass(frozen=True, slots=True)
class Index:
    """A tar's sha256 and its entries, in order."""

    sha256: str
    entries: list[Entry]


_INDEX = TypeAdapter(Index)


def index_json(sha256: str, entries: Iterable[Entry]) -> bytes:
    """The index as it is stored beside its tar."""
    return json.dumps({"sha256": sha256, "entries": [asdict(entry) for entry in entries]}, indent=1).encode()


def read_index(data: bytes) -> Index:
    """The inverse of `index_json`; IntegrityError where the data is no index."""
    try:
        return _INDEX.validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"a shard's index is damaged: {problem_of(error)}") from error


def open_index(path: Path, sha256: str | None) -> Index:
    """The index in a file, whose sha256 is on record in the manifest of its version, if any has it.

    NotFoundError where it is gone, IntegrityError where it is another, or none.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"index {path} is not there") from None
    if sha256 is not None and bytes_digest(data) != sha256:
        raise IntegrityError(f"{path} no longer has the sha256 of its version's manifest")
    try:
        return read_index(data)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from error


def read_entry(path: Path, entry: Entry) -> bytes:
    """One entry's bytes, without reading the rest of the tar; IntegrityError if they are not the recorded ones."""
    with path.open("rb") as file:
        if entry.offset + entry.size > os.fstat(file.fileno()).st_size:
            data = b""  # so much is not asked for
        else:
            file.seek(entry.offset)
            data = file.read(entry.size)
    if bytes_digest(data) != entry.sha256:
        raise IntegrityError(f"{entry.name} in {path} no longer has the sha256 of its index")
    return data


def check_shard(path: Path, sha256: str, entries: Iterable[Entry]) -> Iterator[str]:
    """Every way in which a shard differs from its record, one sentence each; nothing when it is intact."""
    if not path.is_file():
        yield f"{path} is missing"
        return
    if file_digest(path) == sha256:
        return
    yield f"{path} no longer has its recorded sha256"
    for entry in entries:
        try:
            read_entry(path, entry)
        except IntegrityError as error:
            yield str(error)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    member.mtime = 0
    return member


def _blocks(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE)


def index_name(shard: str) -> str:
    """The index that stands beside a tar."""
    return shard.removesuffix(".tar") + ".index.json"
