"""The parts of a version's tables: of each a file, and the digests of its columns, so that what is read is checked.

    facts = put_part(store, "images", rows)                 a file named by what it holds, written once
    parts = Parts.read(folder / "images.parts.json")        its sha256 stands in the manifest
    table = Checked(folder / "images.parquet", parts, columns, locate)

A version's rows are cut by their keys (`storage.cut`), so that versions share the parts in which they do not differ. A
digest is of values, in a form of their own, and not of a file's bytes: another Parquet library gives the same ones.
Not here: where the digests are kept (`storage.datasets.manifest`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, model_validator

from storage.digest import canonical_json, json_digest
from storage.errors import IntegrityError
from storage.local import listed, whole_file
from storage.records import Inside, Part, Sha256, StoredRecord
from storage.store import Store
from storage.tables import Row, Stored, numbers, write_table


class PartFacts(Part):
    """A part of a table: its file, and the sha256 of the values of each column."""

    file: Inside | None = None
    """Below the version's folder; None where all parts are row groups of one file."""
    rows: int
    columns: dict[str, Sha256]

    @property
    def sha256(self) -> str:
        """Of all values."""
        return json_digest({"rows": self.rows, "columns": self.columns})


class Parts(StoredRecord):
    """What a table holds, part by part."""

    FORMAT: ClassVar[int] = 2
    """Format 1 was of the row groups of one file."""

    rows: int = Field(ge=0)
    parts: list[PartFacts] = Field([])
    part_rows: int = Field(1, ge=1)
    """In format 1: in each row group, but for the last."""
    columns: dict[str, list[Sha256]] = Field({})
    """In format 1: of each column the sha256 of its values in each row group."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        sizes = self._sizes()
        if sum(sizes) != self.rows or any(len(digests) != len(sizes) for digests in self.columns.values()):
            raise ValueError("it lacks parts")
        return self

    def _sizes(self) -> list[int]:
        if self.format > 1:
            return [part.rows for part in self.parts]
        starts = range(0, self.rows, self.part_rows)
        return [min(self.part_rows, self.rows - start) for start in starts]

    @classmethod
    def _converted(cls, value: dict[str, Any]) -> dict[str, Any]:
        """As it is: its bytes are what the manifest names."""
        return value

    def each(self) -> list[PartFacts]:
        """The parts, whatever the format."""
        if self.format > 1:
            return self.parts
        return [
            PartFacts(rows=rows, columns={name: digests[number] for name, digests in self.columns.items()})
            for number, rows in enumerate(self._sizes())
        ]

    def as_bytes(self) -> bytes:
        """The one form of it, whose sha256 the manifest holds."""
        return canonical_json(self.as_json()) + b"\n"


def put_part(store: Store, name: str, key: int, table: pa.Table) -> PartFacts:
    """Write a part of the table called `name`, unless what it holds is there already; `key` is that of its first row.

    It lies under `part_key` of its digest, and in a version below the folder NAME.parquet, which readers of Parquet
    take as one table.
    """
    columns = {column: column_digest(table[column]) for column in table.column_names}
    facts = PartFacts(rows=table.num_rows, columns=columns)
    path = store.file(part_key(facts.sha256))
    if not (path.is_file() and _holds(path, facts)):
        with whole_file(path) as partial:
            write_table(partial, table)
    return facts.model_copy(update={"file": f"{table_file(name)}/{key:016x}-{facts.sha256[:16]}.parquet"})


def table_file(name: str) -> str:
    """What the table called `name` is called below a version: a folder of parts, or a file where there is just one."""
    return f"{name}.parquet"


def part_files(folder: Path, name: str) -> list[Path]:
    """The parts of a table that lie below a version's folder, in order."""
    path = folder / table_file(name)
    return [path] if path.is_file() else listed(path, "*.parquet")


def part_key(sha256: str) -> str:
    """Where the part lies that has this digest, whatever versions it is of."""
    return f"chunks/table/{sha256}.parquet"


def _holds(path: Path, facts: PartFacts) -> bool:
    try:
        return digest_of(Stored(path, list(facts.columns))) == facts.sha256
    except IntegrityError:
        return False


def digest_of(stored: Stored) -> str:
    """The digest of a part, by what its file holds."""
    table = stored.read()
    return PartFacts(rows=table.num_rows, columns=digests_of(table, stored.path)).sha256


def digests_of(table: pa.Table, path: Path) -> dict[str, str]:
    """The digest of each column of what was read from `path`; IntegrityError for a kind that no table of ours has."""
    try:
        return {name: column_digest(table[name]) for name in table.column_names}
    except TypeError as error:
        raise IntegrityError(f"{path} is no table that was published: {error}") from error


class Checked(Stored):
    """A table of which nothing is read that is not what it was when it was published.

    Its parts are files that `locate` finds, or the row groups of the one at `path`. IntegrityError, which names the
    file, where one is not what it was. `footers` keeps what was read of files, for the next who opens them.
    """

    def __init__(
        self,
        path: Path,
        parts: Parts,
        columns: Sequence[str],
        locate: Callable[[str], Path] | None = None,
        footers: dict[str, pq.FileMetaData] | None = None,
    ) -> None:
        self.path = path
        self._parts = parts.each()
        self._locate = locate
        self._footers = {} if footers is None else footers
        if locate is None:
            whole = Stored(path, columns)
            self.file, self.schema = whole.file, whole.schema
            is_same = super().starts().tolist() == self.starts().tolist() and super().num_rows == parts.rows
        else:
            if not self._parts:
                raise IntegrityError(f"{path} has no parts, and so no columns")
            self.schema = self._file(0, locate, columns).schema
            is_same = True
        names = set(self.schema.names)
        if not is_same or any(part.columns.keys() != names for part in self._parts):
            raise IntegrityError(f"{path} no longer has the columns and the parts that it was published with")

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return sum(part.rows for part in self._parts)

    def starts(self) -> NDArray[np.int64]:
        """The number of each part's first row."""
        return np.cumsum([0, *(part.rows for part in self._parts)], dtype=np.int64)[:-1]

    def part(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one part."""
        if self._locate is None:
            path, table = self.path, super().part(number, columns)
        else:
            stored = self._file(number, self._locate, self.schema.names if columns is None else columns)
            path, table = stored.path, stored.read(columns)
        digests = digests_of(table, path)
        for name in table.column_names:
            if digests[name] != self._parts[number].columns[name]:
                raise IntegrityError(
                    f"{path} no longer holds what it was published with: "
                    f"part {number} of its column {name} has another sha256"
                )
        return table

    def _file(self, number: int, locate: Callable[[str], Path], columns: Sequence[str]) -> Stored:
        name = str(self._parts[number].file)
        stored = Stored(locate(name), columns, footer=self._footers.get(name))
        self._footers[name] = stored.file.metadata
        return stored

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, of all columns or of some."""
        names = self.schema.names if columns is None else list(columns)
        parts = [self.part(number, names) for number in range(len(self._parts))]
        schema = pa.schema([self.schema.field(name) for name in names], self.schema.metadata)
        return pa.concat_tables([pa.Table.from_batches([], schema), *parts])

    def each_row(self) -> Iterator[Row]:
        """All rows as Python objects, few of which exist at a time."""
        for part in self.each_part():
            yield from part.to_pylist()


def column_digest(column: pa.ChunkedArray) -> str:
    """sha256 of a column's values and kind, whatever memory or file they lie in."""
    digest = hashlib.sha256()
    for data in _forms(column.combine_chunks()):
        digest.update(data)
    return digest.hexdigest()


def _forms(values: pa.Array) -> Iterator[Any]:
    """What the digest is taken of: a heading, which values are there, and these, one after the other.

    Numbers are little-endian. Texts are their lengths in bytes, then all of them; lists their lengths, then the values
    in all of them, formed likewise.
    """
    kind, heading = values.type, f"{len(values)} {values.null_count}\n"
    is_there = _little_endian(values.is_valid().cast(pa.uint8())) if values.null_count else b""
    values = values.drop_null()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from (f"list {heading}".encode(), is_there)
        yield _little_endian(pc.list_value_length(values).cast(pa.int64()))
        yield from _forms(values.flatten())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from (f"text {heading}".encode(), is_there)
        yield _little_endian(pc.binary_length(values).cast(pa.int64()))
        if len(values):
            _, offsets, data = values.cast(pa.large_string()).buffers()
            first, last = np.frombuffer(offsets, np.int64)[[values.offset, values.offset + len(values)]]
            yield memoryview(data)[first:last] if last > first else b""
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield from (f"{kind} {heading}".encode(), is_there)
        yield _little_endian(values)
    else:
        raise TypeError(f"a column of {kind} has no digest")


def _little_endian(values: pa.Array) -> Any:
    found = numbers(values)
    return np.ascontiguousarray(found, found.dtype.newbyteorder("<"))
