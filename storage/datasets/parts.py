"""The digests of a table's parts: of each 1,024 rows and each column one, so that what is read is checked, and no more.

    parts = Parts.read(folder / "images.parts.json")        its sha256 stands in the manifest
    table = Checked(folder / "images.parquet", parts, columns)

A digest is of values, in a form of their own, and not of a file's bytes: another Parquet library gives the same ones.
Not here: where the digests are kept (`storage.datasets.manifest`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.digest import canonical_json
from storage.errors import IntegrityError
from storage.records import StoredRecord
from storage.tables import PART_ROWS, Row, Stored, in_parts, numbers


class Parts(StoredRecord):
    """What a table holds, by the sha256 of the values of each column in each part."""

    rows: int
    part_rows: int = PART_ROWS
    """In each part, but for the last."""
    columns: dict[str, list[str]]

    def as_bytes(self) -> bytes:
        """The one form of it, whose sha256 the manifest holds."""
        return canonical_json(self.as_json()) + b"\n"


class PartsTally:
    """Notes the digests of a table's parts as its rows pass by."""

    def __init__(self, schema: pa.Schema) -> None:
        self._columns: dict[str, list[str]] = {name: [] for name in schema.names}
        self._rows = 0

    def noted(self, tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
        """The same rows, a part in each table."""
        for part in in_parts(tables, schema):
            for name, digests in self._columns.items():
                digests.append(column_digest(part[name]))
            self._rows += part.num_rows
            yield part

    def parts(self) -> Parts:
        """Of all rows that have passed."""
        return Parts.new(rows=self._rows, part_rows=PART_ROWS, columns=self._columns)


class Checked(Stored):
    """A table of which nothing is read that is not what it was when it was published.

    IntegrityError, which names the file, where it is not.
    """

    def __init__(self, path: Path, parts: Parts, columns: Sequence[str]) -> None:
        super().__init__(path, columns)
        self._digests = parts.columns
        sizes = np.diff(self.starts(), append=self.num_rows).tolist()
        whole, rest = divmod(parts.rows, parts.part_rows)
        if set(self.schema.names) != parts.columns.keys() or sizes != [parts.part_rows] * whole + [rest] * (
            rest > 0
        ):
            raise IntegrityError(f"{path} no longer has the columns and the parts that it was published with")

    def part(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one part."""
        table = super().part(number, columns)
        for name in table.column_names:
            if column_digest(table[name]) != self._digests[name][number]:
                raise IntegrityError(
                    f"{self.path} no longer holds what it was published with: "
                    f"part {number} of its column {name} has another sha256"
                )
        return table

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, of all columns or of some."""
        names = self.schema.names if columns is None else list(columns)
        parts = [self.part(number, names) for number in range(len(self.starts()))]
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
