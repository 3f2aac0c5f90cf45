"""Deterministic webdataset tars: the same samples give the same bytes, and any webdataset reader reads them.

A sample is an image entry and a JSON entry under one key. Entries are USTAR with time, owner and mode fixed, in
the order given: the bytes are those that `tarfile` would write, of which it would make three times the work. Beside
each tar stands an index of where every entry's bytes lie; bytes, index and hashes are made in one pass.

Not here: which samples go into which shard (`storage.cut`), or decoding them (`training.data`).
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from storage.config import Config
from storage.digest import bytes_digest, file_digest
from storage.errors import IntegrityError, NotFoundError
from storage.local import here, image_of
from storage.records import Sha256, StoredRecord, problem_of

KEY_DIGITS = 16
"""Of an image's sha256, in its key; no version has two images that share them."""
BLOCK = 512
"""Bytes of a tar that a header takes, and of which data takes whole ones."""
RECORD = 20 * BLOCK
"""Bytes of which a tar takes whole ones."""

WRITE_BYTES = 1 << 17
"""Of a tar, handed to the disk at a time."""


class ShardConfig(Config):
    """How images are grouped into tars."""

    images_per_shard: int = Field(
        128,
        ge=1,
        le=100_000,
        description="The most images in a tar; there are half as many or more, where there are several tars. A new "
        "image rewrites one tar.",
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """One image on its way into a shard; `suffix` is the image's, such as "png".

    `image_sha256` is that of `image`, where it was taken already.
    """

    key: str
    suffix: str
    image: bytes
    metadata: bytes
    image_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tar entry's bytes lie: `offset` and `size` in bytes, and their sha256."""

    name: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    offset: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Index:
    """A tar's sha256 and its entries, in order."""

    sha256: str
    entries: list[Entry]


_INDEX = TypeAdapter(Index)


def write_shard(path: Path, samples: Iterable[Sample]) -> Index:
    """Write samples to a tar at `path`, in their order, and return its index.

    ValueError for a name that is not ASCII or longer than 100 characters, and for 8 GiB of data.
    """
    entries: list[Entry] = []
    digest = hashlib.sha256()
    written = 0
    with path.open("wb", buffering=WRITE_BYTES) as file:

        def write(*pieces: bytes) -> None:
            nonlocal written
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
                written += len(piece)

        for sample in samples:
            start = written + BLOCK
            sha256 = sample.image_sha256 or bytes_digest(sample.image)
            image = Entry(f"{sample.key}.{sample.suffix}", start, len(sample.image), sha256)
            start += image.size + -image.size % BLOCK + BLOCK
            facts = Entry(f"{sample.key}.json", start, len(sample.metadata), bytes_digest(sample.metadata))
            entries += image, facts
            write(_header(image), sample.image, _padding(image.size))
            write(_header(facts), sample.metadata, _padding(facts.size))
        end = 2 * BLOCK
        write(bytes(end + -(written + end) % RECORD))
    return Index(digest.hexdigest(), entries)


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _header(entry: Entry) -> bytes:
    """As USTAR has it; all but name, size and their sum is the same in every one."""
    name = entry.name.encode("ascii")
    if len(name) > 100 or entry.size >= 8**11:
        raise ValueError(f"{entry.name} of {entry.size} bytes does not fit into a tar")
    size = b"%011o" % entry.size
    total = _SUM + sum(name) + sum(size)
    return b"%b%b%b%b%06o%b" % (name.ljust(100, b"\x00"), _OWNER, size, _TIME, total, _REST)


_OWNER = b"0000644\x000000000\x000000000\x00"
"""Mode, user, group."""
_TIME = b"\x0000000000000\x00"
"""The end of the size, and the time; the sum follows."""
_REST = b"\x00 " + b"0".ljust(101, b"\x00") + b"ustar\x0000".ljust(255, b"\x00")
"""The end of the sum; the kind, which is a file's; what kind of tar it is; no names of owners, no device, no folder."""
_SUM = sum(_OWNER) + sum(_TIME) + sum(_REST[2:]) + 8 * ord(" ")
"""Of all bytes but the name's and the size's, where those of the sum count as spaces."""


def index_json(index: Index) -> bytes:
    """The index as it is stored beside its tar."""
    entries = [
        {"name": entry.name, "offset": entry.offset, "size": entry.size, "sha256": entry.sha256}
        for entry in index.entries
    ]
    return json.dumps({"sha256": index.sha256, "entries": entries}, indent=None).encode()


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
        data = here(path).read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"index {path} is not there") from None
    if sha256 is not None and bytes_digest(data) != sha256:
        raise IntegrityError(f"{path} no longer has the sha256 of its version's manifest")
    try:
        return read_index(data)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from error


def index_of(path: Path, sha256: str) -> Index:
    """The index of a tar that has this sha256, made of the tar alone; IntegrityError where it is none of ours."""
    entries = []
    try:
        with tarfile.open(path, "r:") as file:
            for member in file:
                data = file.extractfile(member)
                if data is None:
                    raise IntegrityError(f"{path} is no shard: its entry {member.name!r} is no file")
                entries.append(Entry(member.name, member.offset_data, member.size, bytes_digest(data.read())))
    except (tarfile.TarError, OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path} is no shard: {error}") from error
    return Index(sha256, entries)


class PackedRecord(StoredRecord):
    """What was packed under a key: of a tar, its index and the rows beside it each the sha256 that it is checked by."""

    sha256: Sha256
    size: int
    images: int
    index_sha256: Sha256
    rows_sha256: Sha256


def read_entry(path: Path, entry: Entry) -> bytes:
    """One entry's bytes, without reading the rest of the tar; IntegrityError if they are not the recorded ones."""
    try:  # a file object would take twice the time of the rest; a pipe is not waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise IntegrityError(f"{entry.name} in {path} cannot be read: the shard is missing") from None
    try:
        is_there = entry.offset + entry.size <= os.fstat(descriptor).st_size
        data = os.pread(descriptor, entry.size, entry.offset) if is_there else b""
    except IsADirectoryError as error:
        raise IntegrityError(f"{entry.name} in {path} cannot be read: the shard is no file") from error
    finally:
        os.close(descriptor)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise IntegrityError(f"{entry.name} in {path} no longer has the sha256 of its index")
    return data


def entry_bytes(path: Path, entry: Entry, *, whole_shards: bool = True) -> bytes:
    """As `read_entry`, of a tar that may be in a bucket yet: it is brought here first, or the entry alone is read."""
    image = image_of(path)
    if image is None or whole_shards or path.is_file():
        return read_entry(here(path), entry)
    data = image.piece(path, entry.offset, entry.size)
    if bytes_digest(data) != entry.sha256:
        raise IntegrityError(f"{entry.name} in {path} no longer has the sha256 of its index")
    return data


def check_shard(path: Path, sha256: str, entries: Iterable[Entry]) -> Iterator[str]:
    """Every way in which a shard differs from its record, one sentence each; nothing when it is intact."""
    if not here(path).is_file():
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


def index_name(shard: str) -> str:
    """The index that stands beside a tar."""
    return shard.removesuffix(".tar") + ".index.json"
