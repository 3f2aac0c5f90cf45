"""Which rows of a version's tables are a photograph's, an image's, a reference's or an author's.

    for row in find_rows(dataset, "images", {"photo": "3f2a9c01", "image": "3f2a9c01"}): ...

A lookup lies beside the tables, as `lookup.parquet`, and is derived from them: it is made anew where it is absent,
damaged, or another version's, and nothing is lost with it. It holds numbers alone, 64 bits of each digest, sorted, so
that a question reads a few kilobytes of it. Whoever asks compares the rows with what was asked, since two texts may
share those bits. Not here: whether the rows are those that were published.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.datasets.dataset import COLUMNS_OF, Dataset, TableName
from storage.errors import IntegrityError
from storage.tables import Row, Stored, arrow, numbers, where

logger = logging.getLogger(__name__)

Kind = Literal["image", "photo", "ref", "author"]

COLUMNS: dict[Kind, str] = {
    "image": "image_sha256",
    "photo": "photo_sha256",
    "ref": "ref",
    "author": "author",
}
"""What can be asked for, and the column that holds it; of a sha256 the first digits will do."""
FORMAT = 1
PART_ROWS = 1 << 16
DIGITS = 16
"""Of a sha256, that its bits are made of."""
SCHEMA = pa.schema([pa.field("bits", pa.uint64()), pa.field("row", pa.uint32())])
METADATA = b"likeness"


@dataclass(frozen=True)
class Lookup:
    """An open lookup; `parts` says of each row group of `stored` which table and kind it is of."""

    stored: Stored
    parts: list[tuple[TableName, Kind]]

    def numbers(self, table: TableName, kind: Kind, value: str) -> NDArray[np.int64]:
        """The numbers of the rows that may hold `value`, in no order; IntegrityError where the lookup is damaged."""
        low, high = _range(kind, value)
        found = [np.empty(0, np.int64)]
        for number, (first, last) in enumerate(self.stored.bounds("bits")):
            if self.parts[number] == (table, kind) and first <= high and low <= last:
                part = self.stored.part(number)
                bits = numbers(part["bits"])
                start, stop = bits.searchsorted(low, "left"), bits.searchsorted(high, "right")
                found.append(numbers(part["row"])[start:stop].astype(np.int64))
        return np.concatenate(found)


def find_rows(
    dataset: Dataset, table: TableName, asked: Mapping[Kind, str], columns: Sequence[str] | None = None
) -> list[Row]:
    """The rows of a table that hold any of what is asked, in the table's order; of a sha256 its first digits will do.

    Of all columns, or of some, those that are asked for among them. IntegrityError where the table cannot be read.
    """
    stored = dataset.table(table)
    rows = stored.take(_numbers(dataset, table, asked), columns).to_pylist()
    return [row for row in rows if any(_holds(row, kind, value) for kind, value in asked.items())]


def _numbers(dataset: Dataset, table: TableName, asked: Mapping[Kind, str]) -> NDArray[np.int64]:
    """By the lookup as it lies there, or else by one that is made."""

    def of(lookup: Lookup) -> NDArray[np.int64]:
        return np.unique(np.concatenate([lookup.numbers(table, *one) for one in asked.items()]))

    if dataset.store.exists(lookup_key(dataset)):
        try:
            return of(_opened(dataset, None))
        except IntegrityError as error:
            logger.info("%s: it is made again", error)
    return of(write_lookup(dataset))


def _holds(row: Row, kind: Kind, value: str) -> bool:
    held = row.get(COLUMNS[kind])
    return held is not None and (held.startswith(value) if kind in ("image", "photo") else held == value)


def lookup_key(dataset: Dataset) -> str:
    """Where a version's lookup lies."""
    return f"{dataset.key}/lookup.parquet"


def lookup_problems(dataset: Dataset) -> Iterator[str]:
    """Why the lookup that lies there is not the one that the tables give; nothing where it is, or there is none."""
    if not dataset.store.exists(lookup_key(dataset)):
        return
    lookup = _opened(dataset, None)
    parts, tables = _made(dataset)
    if lookup.parts != parts or any(
        not lookup.stored.part(number).equals(table) for number, table in enumerate(tables)
    ):
        yield f"{lookup.stored.path} is not what its version's tables give: delete it, and it is made again"


def write_lookup(dataset: Dataset) -> Lookup:
    """Make the lookup of a version, whose tables stand."""
    parts, tables = _made(dataset)
    facts = {"format": FORMAT, "of": dataset.manifest_sha256, "parts": parts}
    schema = SCHEMA.with_metadata({METADATA: json.dumps(facts).encode()})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=PART_ROWS)
    data = buffer.getvalue()
    dataset.store.put_derived(lookup_key(dataset), data)
    return _opened(dataset, data)


def _made(dataset: Dataset) -> tuple[list[tuple[TableName, Kind]], list[pa.Table]]:
    """The parts of a lookup: of each its table and kind, and its rows."""
    parts: list[tuple[TableName, Kind]] = []
    tables = []
    for name in COLUMNS_OF:
        stored = dataset.table(name)
        for kind, column in COLUMNS.items():
            if column not in stored.schema.names:
                continue
            numbered = _numbered(stored, kind, column)
            for start in range(0, numbered.num_rows, PART_ROWS):
                tables.append(numbered.slice(start, PART_ROWS))
                parts.append((name, kind))
    return parts, tables


def _opened(dataset: Dataset, data: bytes | None) -> Lookup:
    """The lookup on disk, or in `data`; IntegrityError where it is damaged, or of another version."""
    stored = Stored(dataset.store.path(lookup_key(dataset)), SCHEMA.names, data)
    try:
        facts = json.loads(stored.schema.metadata[METADATA])
        parts = [(table, kind) for table, kind in facts["parts"]]
        known = (facts["format"], facts["of"]) == (FORMAT, dataset.manifest_sha256)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{stored.path} is damaged: {error}") from error
    if not known:
        raise IntegrityError(f"{stored.path} is of another version")
    if len(parts) != len(stored.starts()) or (None, None) in stored.bounds("bits"):
        raise IntegrityError(f"{stored.path} is damaged: it lacks parts")
    return Lookup(stored, parts)


def _numbered(stored: Stored, kind: Kind, column: str) -> pa.Table:
    """The bits of a column's values and the numbers of their rows, by rising bits."""
    values = stored.read([column])[column].combine_chunks()
    rows = where(values.is_valid()).astype(np.uint32)
    values = values.drop_null()
    if kind in ("image", "photo"):
        bits = _bits_of_digests(stored, column, values)
    else:
        bits = np.array([_bits(value) for value in values.to_pylist()], np.uint64)
    order = np.argsort(bits, kind="stable")
    return pa.Table.from_arrays([arrow(bits[order]), arrow(rows[order])], schema=SCHEMA)


def _bits_of_digests(stored: Stored, column: str, values: pa.Array) -> NDArray[np.uint64]:
    try:
        data = bytes.fromhex("".join(pc.utf8_slice_codeunits(values, 0, DIGITS).to_pylist()))
        return np.frombuffer(data, ">u8", count=len(values)).astype(np.uint64)
    except ValueError as error:
        raise IntegrityError(f"{stored.path} has a {column} that is no sha256") from error


def _bits(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _range(kind: Kind, value: str) -> tuple[int, int]:
    """The least and the greatest bits that `value`, or what begins with it, can have."""
    if kind in ("image", "photo"):
        digits = value[:DIGITS]
        return int(digits.ljust(DIGITS, "0"), 16), int(digits.ljust(DIGITS, "f"), 16)
    return _bits(value), _bits(value)
