"""What of a version can be mended from what else the store holds: other versions' files, chunks, tars, the tables.

    mend_version(Mender(store, dry=False), dataset)

Nothing takes a file's place that does not have the sha256 which the version's name or its manifest says. Not here:
what must be built again (`flows.rebuild`).
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.datasets.dataset import (
    SHARDS_LIST,
    SOURCE_COLUMNS,
    VERSION_DIGITS,
    Dataset,
    TableName,
    all_versions,
    shards_list,
)
from storage.datasets.lookup import lookup_key, lookup_problems, write_lookup
from storage.datasets.parts import PartFacts, Parts, column_digest, digest_of, part_files, part_key
from storage.datasets.records import ShardFacts, TableFacts
from storage.digest import bytes_digest, canonical_json, file_digest, rows_digest
from storage.errors import PipelineError
from storage.local import link_whole, listed, make_way, passed_over, write_whole
from storage.shards import Entry, Index, Sample, index_json, index_name, write_shard
from storage.store import Store
from storage.tables import Row, Stored, table_of, where, write_table

SUFFIXES = ("webp", "png", "jpg")
NOT_IN_TARS: tuple[tuple[str, ...], ...] = (
    ("shard", "offset", "size", *SOURCE_COLUMNS, "said"),
    ("shard", "offset", "size"),
)
"""Columns of an image that its entry in a tar lacks, by today's format and by older ones."""


@dataclass
class Mender:
    """Puts files in the place of damaged ones, or only says that it would."""

    store: Store
    dry: bool = False
    mended: dict[Path, str] = field(default_factory=dict)
    """Each file, and what it was mended from."""

    def put(self, path: Path, made: bytes | Path, how: str) -> None:
        """Write a file's bytes, or make it the same file as another."""
        self.check(path)
        if not self.dry:
            make_way(path)
            if isinstance(made, Path):
                link_whole(made, path)
            else:
                write_whole(path, made)
        self.mended[path] = how

    def drop(self, path: Path, how: str) -> None:
        """Delete what is made again where it is needed."""
        self.check(path)
        if not self.dry:
            make_way(path)
            path.unlink(missing_ok=True)
        self.mended[path] = how

    def check(self, path: Path) -> None:
        """IntegrityError where a link leads out of the store: nothing is written there."""
        self.store.spot(path.relative_to(self.store.root).as_posix())

    @cached_property
    def crops(self) -> dict[str, tuple[Path, int, int]]:
        """Where the crop lies that has a sha256, in aligned chunks: file, offset, size."""
        found: dict[str, tuple[Path, int, int]] = {}
        for key in self.store.keys("chunks/align"):
            if key.endswith(".parquet") and "/gathered/" not in key:
                path = self.store.path(key)
                columns = ["image_sha256", "offset", "size"]
                try:
                    rows = Stored(path, columns).read(columns).to_pylist()
                except PipelineError:
                    continue
                found |= {
                    row["image_sha256"]: (path.with_suffix(".images"), row["offset"], row["size"])
                    for row in rows
                }
        return found

    def image(self, sha256: str, tar: Path | None = None, offset: int = 0, size: int = 0) -> bytes | None:
        """The bytes of an image: out of its own tar, an aligned chunk, or another version's tar."""
        places = [(tar, offset, size)] if tar is not None else []
        if sha256 in self.crops:
            places.append(self.crops[sha256])
        for place in places:
            if (data := _piece(*place)) is not None and bytes_digest(data) == sha256:
                return data
        for path, offset, size in self._in_tars.get(sha256, ()):
            if (data := _piece(path, offset, size)) is not None and bytes_digest(data) == sha256:
                return data
        return None

    @cached_property
    def _in_tars(self) -> dict[str, list[tuple[Path, int, int]]]:
        found: dict[str, list[tuple[Path, int, int]]] = {}
        for dataset in all_versions(self.store, passed_over):
            try:
                columns = ["image_sha256", "shard", "offset", "size"]
                for row in dataset.table("images").read(columns).to_pylist():
                    place = (dataset.folder / row["shard"], row["offset"], row["size"])
                    found.setdefault(row["image_sha256"], []).append(place)
            except PipelineError:
                continue
        return found


def mend_version(mender: Mender, dataset: Dataset, schema: pa.Schema) -> None:
    """Mend what can be of a version; `schema` has the columns that images may have, and their kinds.

    Of one whose manifest cannot be mended nothing else is touched.
    """
    if not mend_manifest(mender, dataset):
        return
    dataset = Dataset(dataset.store, dataset.name, dataset.version)
    if dataset.manifest.format >= 3:
        path, data = dataset.folder / SHARDS_LIST, shards_list(dataset.manifest)
        if not path.is_file() or path.read_bytes() != data:
            mender.put(path, data, "the manifest")
    for shard in dataset.manifest.shards:
        _mend_from_copies(mender, dataset, shard)
        _mend_index(mender, dataset, shard)
    tables: tuple[TableName, ...] = ("images", "rejections")
    for name in tables:
        _mend_table(mender, dataset, name, schema)
    for shard in dataset.manifest.shards:
        if not _has(dataset.shard_path(shard), shard.sha256):
            _pack_again(mender, dataset, shard)
        _mend_index(mender, dataset, shard)
    if _is_broken(lambda: list(lookup_problems(dataset))):
        mender.drop(dataset.store.path(lookup_key(dataset)), "the tables")
        if not mender.dry:
            _quietly(lambda: write_lookup(dataset))


def mend_manifest(mender: Mender, dataset: Dataset) -> bool:
    """Whether the manifest holds, or does now: one byte that was altered is found by the version's name."""
    path = dataset.folder / "manifest.json"
    data = path.read_bytes() if path.is_file() else b""
    if bytes_digest(data)[:VERSION_DIGITS] == dataset.version:
        return True
    for position in range(len(data) if len(data) < 1 << 16 else 0):
        for value in range(256):
            other = data[:position] + bytes((value,)) + data[position + 1 :]
            if bytes_digest(other)[:VERSION_DIGITS] == dataset.version:
                mender.put(path, other, "one byte of it, by the version's name")
                return not mender.dry
    return False


def _mend_from_copies(mender: Mender, dataset: Dataset, shard: ShardFacts) -> None:
    """A tar and its index, where another version or a packed chunk has the same ones."""
    tar = dataset.shard_path(shard)
    index = dataset.folder / index_name(shard.file)
    for path, sha256, name in ((tar, shard.sha256, lambda tar: tar), (index, shard.index_sha256, index_name)):
        if _has(path, sha256):
            continue
        for copy in _copies(dataset, shard):
            if _has(other := copy.with_name(name(copy.name)), sha256):
                mender.put(path, other, str(other))
                break


def _copies(dataset: Dataset, shard: ShardFacts) -> Iterator[Path]:
    yield dataset.store.path(f"chunks/shard/{shard.sha256}.tar")
    for other in all_versions(dataset.store, passed_over):
        try:
            shards = other.manifest.shards
        except PipelineError:
            continue
        yield from (other.shard_path(of) for of in shards if of.sha256 == shard.sha256)
    for path in listed(
        dataset.store.path("chunks/shard"), "*.tar", passed_over
    ):  # before format 3 named otherwise
        if path.is_file() and path.stat().st_size == shard.size:
            yield path


def _mend_index(mender: Mender, dataset: Dataset, shard: ShardFacts) -> None:
    """An index from its tar, whose bytes are those on record."""
    path, tar = dataset.folder / index_name(shard.file), dataset.shard_path(shard)
    if _has(path, shard.index_sha256) or not _has(tar, shard.sha256):
        return
    entries = []
    with tarfile.open(tar) as file:
        for member in file.getmembers():
            data = _piece(tar, member.offset_data, member.size) or b""
            entries.append(Entry(member.name, member.offset_data, member.size, bytes_digest(data)))
    index = Index(shard.sha256, entries)
    today = index_json(index)
    for data in (today, json.dumps(json.loads(today), indent=1).encode()):  # as it was before format 3
        if bytes_digest(data) == shard.index_sha256:
            mender.put(path, data, str(tar))


def _mend_table(mender: Mender, dataset: Dataset, name: TableName, schema: pa.Schema) -> None:
    facts = dataset.manifest.table(name)
    if facts.parts is not None and not _has(dataset.folder / facts.parts, str(facts.parts_sha256)):
        _mend_parts(mender, dataset, name, facts)
    if facts.file is None:
        if not _is_broken(lambda: dataset.table_parts(name)):
            for part in dataset.table_parts(name):
                _mend_part(mender, dataset, part)
    elif name == "images" and _is_broken(lambda: dataset.table(name).rows()):
        _table_from_tars(mender, dataset, facts, schema)


def _mend_parts(mender: Mender, dataset: Dataset, name: TableName, facts: TableFacts) -> None:
    """The list of a table's parts, from the parts."""
    path = dataset.folder / str(facts.parts)

    def made() -> bytes:
        if facts.file is None:
            files = part_files(dataset.folder, name)
            parts = [
                _part_of(file).as_json() | {"file": file.relative_to(dataset.folder).as_posix()}
                for file in files
            ]
            return Parts.new(rows=facts.rows, parts=parts).as_bytes()
        stored = Stored(dataset.folder / facts.file, [])
        columns: dict[str, list[str]] = {column: [] for column in stored.schema.names}
        for part in stored.each_part():
            for column, digests in columns.items():
                digests.append(column_digest(part[column]))
        said = {"format": 1, "rows": facts.rows, "part_rows": 1024, "columns": columns}
        return canonical_json(said) + b"\n"

    data = _quietly(made)
    if data is not None and bytes_digest(data) == facts.parts_sha256:
        mender.put(path, data, "the table's parts")
        return
    for other in listed(dataset.store.path("datasets"), f"*/*/{path.name}", passed_over):
        if _has(other, str(facts.parts_sha256)):
            mender.put(path, other, str(other))
            return


def _part_of(file: Path) -> PartFacts:
    table = Stored(file, []).read()
    return PartFacts(
        rows=table.num_rows, columns={column: column_digest(table[column]) for column in table.column_names}
    )


def _mend_part(mender: Mender, dataset: Dataset, part: PartFacts) -> None:
    """A part of a table, where another version, or what both are linked to, holds the same rows."""
    path = dataset.folder / str(part.file)

    def holds(file: Path) -> bool:
        return file.is_file() and _quietly(lambda: digest_of(Stored(file, []))) == part.sha256

    if holds(path):
        return
    others = listed(dataset.store.path("datasets"), f"*/*/{part.file}", passed_over)
    for copy in (dataset.store.path(part_key(part.sha256)), *others):
        if holds(copy):
            mender.put(path, copy, str(copy))
            return


def _table_from_tars(mender: Mender, dataset: Dataset, facts: TableFacts, schema: pa.Schema) -> None:
    """The table of a version before format 3, whose tars have all that it holds."""

    def rows() -> Iterator[Row]:
        for shard in dataset.manifest.shards:
            entries = dataset.index(shard).entries
            for image, said in zip(entries[::2], entries[1::2], strict=True):
                data = _piece(dataset.shard_path(shard), said.offset, said.size)
                if data is None or bytes_digest(data) != said.sha256:
                    raise ValueError("the tar is damaged too")
                yield json.loads(data) | {"shard": shard.file, "offset": image.offset, "size": image.size}

    def made() -> bytes | None:
        found = list(rows())
        fields = [field for field in schema if field.name in found[0]]
        table = table_of(found, pa.schema(fields))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.parquet"
            write_table(path, table)
            scratch = _as_if(dataset, facts, path)
            return path.read_bytes() if scratch else None

    if (data := _quietly(made)) is not None:
        mender.put(dataset.folder / str(facts.file), data, "the tars")


def _as_if(dataset: Dataset, facts: TableFacts, path: Path) -> bool:
    """Whether a table holds what a version of an older format was published with."""
    stored = Stored(path, [])
    if facts.sha256 is not None:
        return rows_digest(stored.each_row()) == facts.sha256
    listed = Parts.read(dataset.folder / str(facts.parts))
    table = stored.read()
    starts = np.cumsum([0, *(part.rows for part in listed.each())])
    return table.num_rows == listed.rows and all(
        part.columns
        == {name: column_digest(table.slice(start, part.rows)[name]) for name in table.column_names}
        for start, part in zip(starts.tolist(), listed.each(), strict=False)
    )


def _pack_again(mender: Mender, dataset: Dataset, shard: ShardFacts) -> None:
    """A tar from the table's rows and the crops, wherever these still lie."""
    path = dataset.shard_path(shard)

    def samples(rows: Iterable[Row], suffix: str, without: tuple[str, ...]) -> Iterator[Sample]:
        for row in rows:
            image = mender.image(row["image_sha256"], path, row["offset"], row["size"])
            if image is None:
                raise ValueError(f"image {row['image_sha256']} is nowhere")
            said = {name: value for name, value in row.items() if name not in without}
            yield Sample(row["key"], suffix, image, canonical_json(said), row["image_sha256"])

    def made() -> bytes | None:
        stored = dataset.table("images")
        numbers = where(pc.equal(stored.read(["shard"])["shard"], shard.file))
        rows = stored.take(numbers).to_pylist()
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / "shard.tar"
            for suffix in SUFFIXES:
                for without in NOT_IN_TARS:
                    if write_shard(tar, samples(rows, suffix, without)).sha256 == shard.sha256:
                        return tar.read_bytes()
        return None

    if (data := _quietly(made)) is not None:
        mender.put(path, data, "the table and the crops of chunks and of other tars")


def _piece(path: Path, offset: int, size: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError:
        return None


def _has(path: Path, sha256: str) -> bool:
    return path.is_file() and file_digest(path) == sha256


def _is_broken(read: Callable[[], Any]) -> bool:
    """Whether something cannot be read, or says that it has problems."""
    try:
        return isinstance(found := read(), list) and bool(found) and isinstance(found[0], str)
    except (PipelineError, OSError):
        return True


def _quietly(make: Callable[[], Any]) -> Any:
    """What can be made; None where what it would be made of is damaged too."""
    try:
        return make()
    except (
        PipelineError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        tarfile.TarError,
        pa.ArrowException,
    ):
        return None
