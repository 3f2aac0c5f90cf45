"""Rows as Parquet: written whole, read back as the same rows, whatever library version packed the file.

Tables are read as columns (`Stored`), or a part of them, and become Python rows only where there are few. A table's
identity is `rows_digest`, never the file's bytes. Not here: what the columns mean.
"""

from __future__ import annotations

import errno
import io
from array import array
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.errors import IntegrityError
from storage.local import here
from storage.records import check_format
from storage.store import Store

FORMAT = 1
"""What tables are written as, and the newest that is read: columns by name, of which a reader takes those it knows."""
FORMAT_KEY = b"likeness.format"
"""Where a file says its format, beside its columns; one that does not has format 1."""

Row = dict[str, Any]

BATCH_ROWS = 4096
"""Rows held as Python objects at a time, where all of a table's pass by."""
PART_ROWS = 1024
"""The most in a part of a table that is written in parts."""


def put_table(store: Store, key: str, rows: Iterable[Row], schema: pa.Schema) -> None:
    """Write rows under `key`; a row with a column that the schema does not know is an error."""
    rows = list(rows)
    for row in rows:
        if unknown := row.keys() - set(schema.names):
            raise ValueError(f"{key}: the schema has no column {', '.join(sorted(unknown))}")
    buffer = io.BytesIO()
    pq.write_table(table_of(rows, _with_format(schema)), buffer, compression="zstd")
    store.put(key, buffer.getvalue())


def write_table(path: Path, table: pa.Table) -> None:
    """Write the rows of a table to a file, with a checksum for each page."""
    table = table.replace_schema_metadata(_with_format(table.schema).metadata)
    pq.write_table(
        table, path, compression="zstd", write_page_checksum=True, use_dictionary=repeated(table.schema)
    )


def repeated(schema: pa.Schema) -> list[str]:
    """The columns whose values a file looks for in a dictionary: texts and whole numbers.

    Of measurements few are the same, and a dictionary of them takes most of the time and saves no room.
    """
    return [field.name for field in schema if not _is_measured(field.type)]


def _is_measured(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_floating(kind))


def resized(tables: Iterable[pa.Table], schema: pa.Schema, sizes: Iterable[int]) -> Iterator[pa.Table]:
    """The rows of tables, so many in each, however many there were in each before."""
    tables = iter(tables)
    waiting = pa.Table.from_batches([], schema)
    for size in sizes:
        while waiting.num_rows < size:
            waiting = pa.concat_tables([waiting, fitted(next(tables), schema)])
        yield waiting.slice(0, size).combine_chunks()
        waiting = waiting.slice(size)


def _with_format(schema: pa.Schema) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), FORMAT_KEY: str(FORMAT)})


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of `schema`, in its order; ValueError where it lacks one, or has another."""
    if set(table.column_names) != set(schema.names):
        raise ValueError(f"a table of {sorted(table.column_names)} is none of {sorted(schema.names)}")
    table = table.select(schema.names)
    return table if table.schema.equals(schema, check_metadata=True) else table.cast(schema)


def table_of(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as columns; a missing value is None. Of rows that are made as they are asked for, few exist at a time."""
    rows = iter(rows)
    batches = []
    while batch := list(islice(rows, BATCH_ROWS)):
        columns = [column_of([row.get(field.name) for row in batch], field.type) for field in schema]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    return pa.Table.from_batches(
        batches, schema
    ).combine_chunks()  # batches lie in more memory than they need


def get_table(store: Store, key: str, columns: Sequence[str]) -> list[Row]:
    """Read rows back, all of their columns; IntegrityError where the file cannot be read or lacks one of `columns`."""
    return Stored(store.file(key), columns).rows()


def get_columns(store: Store, key: str, columns: Sequence[str]) -> pa.Table:
    """Read these columns of all rows; IntegrityError as of `get_table`."""
    return Stored(store.file(key), columns).read(columns)


# pa.array, pa.scalar, to_numpy and pc.fill_null of a plain value import pandas, where it is installed, to ask about
# types of its own: a quarter of a second and 28 MB, in each process of a build


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Plain values as a column of a kind, None where one is missing.

    TypeError, ValueError or OverflowError where one is none of that kind.
    """
    if pa.types.is_null(kind):
        return pa.nulls(len(values))
    is_there = [value is not None for value in values]
    num_missing = len(values) - sum(is_there)
    valid = _bits(is_there) if num_missing else None
    if pa.types.is_string(kind):
        data = [b"" if value is None else str.encode(value) for value in values]
        buffers, children = [valid, _offsets(data), pa.py_buffer(b"".join(data))], None
    elif pa.types.is_list(kind):
        held = [[] if value is None else value for value in values]
        buffers = [valid, _offsets(held)]
        children = [column_of([element for value in held for element in value], kind.value_type)]
    elif pa.types.is_boolean(kind):
        buffers, children = [valid, _bits([bool(value) for value in values])], None
    elif pa.types.is_integer(kind) or pa.types.is_float64(kind):
        there = [0 if value is None else value for value in values] if num_missing else values
        buffers, children = [valid, pa.py_buffer(array(_CODES[str(kind)], there))], None
    else:
        raise TypeError(f"no table has a column of {kind}")
    return pa.Array.from_buffers(kind, len(values), buffers, num_missing, children=children)


_CODES = {
    "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q",
    "double": "d",
}  # fmt: skip
"""By which Python's arrays, which take a number of no other kind, call kinds of numbers."""


def _bits(truths: Sequence[bool]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array(truths, bool), bitorder="little"))


def _offsets(values: Sequence[Sized]) -> pa.Buffer:
    """Where each of some values begins that lie end to end, and where the last ends."""
    ends = np.cumsum([0, *map(len, values)])
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{len(values)} values of {ends[-1]} bytes or numbers do not fit one column")
    return pa.py_buffer(ends.astype(np.int32))


def arrow(values: NDArray[Any]) -> pa.Array:
    """Numbers as Arrow holds them, uncopied."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """A column of numbers, none of them missing, as NumPy holds them, uncopied where it is in one piece."""
    pieces = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    dtype = np.dtype({"double": "float64", "float": "float32"}.get(str(column.type), str(column.type)))
    found = [
        np.frombuffer(piece.buffers()[1], dtype)[piece.offset :][: len(piece)]
        for piece in pieces
        if len(piece)
    ]
    return found[0] if len(found) == 1 else np.concatenate([np.empty(0, dtype), *found])


def texts(*values: str) -> pa.Array:
    """A column of these texts."""
    return column_of(values, pa.string())


def filled(column: pa.Array | pa.ChunkedArray, value: Any) -> Any:
    """A column with a plain `value` where it has none."""
    return pc.fill_null(column, column_of([value], column.type)[0])


def where(truths: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """The numbers of the rows of which a column says true."""
    pieces = truths.chunks if isinstance(truths, pa.ChunkedArray) else [truths]
    found, start = [np.empty(0, np.int64)], 0
    for piece in pieces:  # one by one: of no pieces at all, indices_nonzero reads what is not there
        found.append(numbers(pc.indices_nonzero(piece)).astype(np.int64) + start)
        start += len(piece)
    return np.concatenate(found)


def distinct_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The different numbers of rows, ascending; np.unique hashes them, which takes several times as long."""
    rows = np.sort(rows)
    is_first = np.ones(len(rows), bool)
    is_first[1:] = rows[1:] != rows[:-1]
    return rows[is_first]


def rows_by_value(column: pa.ChunkedArray) -> dict[str | None, NDArray[np.int64]]:
    """For each value of a column of text the numbers of the rows that hold it, ascending."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    codes = numbers(encoded.indices)
    order = np.argsort(codes, kind="stable")
    values = encoded.dictionary.to_pylist()
    limits = np.searchsorted(codes[order], np.arange(1, len(values)))
    return dict(zip(values, np.split(order, limits), strict=True)) if values else {}


def groups(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of the rows that are alike in all columns, which are of text, and for each row the number of its first
    among these, which ascend.

    Table.group_by does more, and loads what imports pandas.
    """
    codes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        _, codes = np.unique(
            codes * max(len(encoded.dictionary), 1) + numbers(encoded.indices), return_inverse=True
        )
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[group]


def counted(column: pa.ChunkedArray) -> dict[Any, int]:
    """Each value of a column, None among them, and how often it is there; in order of first rows."""
    return {count["values"]: count["counts"] for count in pc.value_counts(column).to_pylist()}


def rows_holding(column: pa.Array | pa.ChunkedArray, values: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
    """For each of `values` the number of the first row of a column that holds it, or -1."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return numbers(filled(pc.index_in(values, value_set=column), -1))


def leaders(column: pa.ChunkedArray, by: pa.ChunkedArray | None = None) -> NDArray[np.int64]:
    """For each row the number of the row that stands for its value: the first that holds it, in the order of `by`.

    By sorting, which takes less memory than a hash table of long texts does.
    """
    keys = {"value": column} if by is None else {"value": column, "by": by}
    ascending = [(name, "ascending") for name in keys]
    order = numbers(pc.sort_indices(pa.table(keys), ascending)).astype(np.int64)
    values = column.take(arrow(order))
    is_other = pc.not_equal(values.slice(1), values.slice(0, max(len(values) - 1, 0)))
    starts = np.concatenate([np.zeros(min(len(order), 1), np.int64), where(is_other) + 1])
    first = np.empty_like(order)
    first[order] = np.repeat(order[starts], np.diff(starts, append=len(order)))
    return first


def _are_all(rows: NDArray[np.int64], num: int) -> bool:
    """Whether these are the numbers of all rows of so many, in order."""
    return len(rows) == num and bool(np.array_equal(rows, np.arange(num)))


def _file(path: Path) -> Path:
    """The same path; OSError for what would be waited for without end."""
    if path.exists() and not path.is_file():
        raise OSError("it is no file")
    return path


_TOO_MANY = (errno.EMFILE, errno.ENFILE)
"""Numbers of the error that a process, or the system, has as many files open as it may."""


class Stored:
    """A table of which parts are read; IntegrityError where it cannot be, or lacks one of `columns`.

    FormatError where a newer version of likeness wrote it.

    It is the file at `path`, or `data`, which is meant for that place. Pages that carry a checksum are checked by it.
    `footer` is that of the file, where it was read before: to read it takes longer than a column does.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        data: bytes | None = None,
        footer: pq.FileMetaData | None = None,
    ) -> None:
        self.path = path
        with self._readable():
            source = _file(here(path)) if data is None else pa.BufferReader(data)
            self.file = pq.ParquetFile(source, metadata=footer, page_checksum_verification=True)
            self.schema: pa.Schema = self.file.schema_arrow
        self._check_format()
        if len(set(self.schema.names)) < len(self.schema.names):
            raise IntegrityError(f"{self.path} has two columns of one name")
        if missing := [name for name in columns if name not in self.schema.names]:
            raise IntegrityError(f"{self.path} lacks the columns {', '.join(missing)}")

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return int(self.file.metadata.num_rows)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, of all columns or of some."""
        with self._readable():
            return self.file.read(None if columns is None else list(columns), use_threads=False)

    def part(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one row group."""
        with self._readable():
            return self.file.read_row_group(
                number, None if columns is None else list(columns), use_threads=False
            )

    def take(self, rows: NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of these numbers, ascending; only the row groups that hold them are read."""
        if _are_all(rows, self.num_rows):
            return self.read(columns).replace_schema_metadata(None)
        starts = self.starts()
        limits = np.searchsorted(rows, np.append(starts, self.num_rows))
        schema = pa.schema([self.schema.field(name) for name in columns or self.schema.names])
        parts = [pa.Table.from_batches([], schema)]
        for group in np.flatnonzero(np.diff(limits)).tolist():
            chosen = rows[limits[group] : limits[group + 1]] - starts[group]
            part = self.part(group, columns)
            parts.append(part if _are_all(chosen, part.num_rows) else part.take(arrow(chosen)))
        return pa.concat_tables(parts)

    def starts(self) -> NDArray[np.int64]:
        """The number of each row group's first row."""
        metadata = self.file.metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        return np.cumsum([0, *sizes], dtype=np.int64)[:-1]

    def bounds(self, column: str) -> list[tuple[Any, Any]]:
        """The least and the greatest value of a column in each row group, both None where that is not on record."""
        metadata = self.file.metadata
        index = metadata.schema.names.index(column)
        found: list[tuple[Any, Any]] = []
        for number in range(metadata.num_row_groups):
            statistics = metadata.row_group(number).column(index).statistics
            known = statistics is not None and statistics.has_min_max
            found.append((statistics.min, statistics.max) if known else (None, None))
        return found

    def rows(self) -> list[Row]:
        """All rows as Python objects."""
        with self._readable():
            rows: list[Row] = self.read().to_pylist()
            return rows

    def each_part(self) -> Iterator[pa.Table]:
        """The rows of one row group after the other."""
        for number in range(len(self.starts())):
            yield self.part(number)

    def each_row(self) -> Iterator[Row]:
        """All rows as Python objects, few of which exist at a time."""
        with self._readable():
            for batch in self.file.iter_batches(BATCH_ROWS, use_threads=False):
                yield from batch.to_pylist()

    def _check_format(self) -> None:
        text = (self.schema.metadata or {}).get(FORMAT_KEY, b"1").decode(errors="replace")
        check_format(int(text) if text.isdecimal() and len(text) < 10 else text, FORMAT, self.path)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _TOO_MANY:
                raise  # which says nothing of this file
            raise IntegrityError(f"{self.path} cannot be read as Parquet: {error}") from error
