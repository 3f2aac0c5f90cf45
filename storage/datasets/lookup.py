"""Which rows of a version's tables are a photograph's, an image's, a reference's, a title's or an author's.

    for row in find_rows(dataset, "images", {"photo": "3f2a9c01", "image": "3f2a9c01"}): ...
    numbers = find_numbers(dataset, "images", {"author": "A. Pencil", "title": "A. Pencil"})

A lookup lies beside the tables, as `lookup.parquet`, and is derived from them: it is made anew where it is absent,
damaged, or another version's, and nothing is lost with it. It holds numbers alone, 64 bits of each digest, sorted, so
that a question reads a few kilobytes of it. Two texts may share those bits, so that the rows are compared with what was
asked. Licences are few, and each is of many rows: of each it holds the first row, and all are looked for in the table
itself. Not here: whether the rows are those that were published.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.cut import DIGITS, keys_of
from storage.datasets.dataset import COLUMNS_OF, Dataset, TableName
from storage.digest import json_digest
from storage.errors import IntegrityError
from storage.tables import Row, Stored, arrow, numbers, where

logger = logging.getLogger(__name__)

Kind = Literal["image", "photo", "ref", "name", "page", "title", "author", "license", "license_url"]

COLUMNS: dict[Kind, str] = {
    "image": "image_sha256",
    "photo": "photo_sha256",
    "ref": "ref",
    "name": "ref",
    "page": "page",
    "title": "title",
    "author": "author",
    "license": "license",
    "license_url": "license_url",
}
"""What can be asked for, and the column that holds it; of a sha256 the first digits will do.

A name is the last part of a ref: of `people/anna.jpg` or `https://photos.example/anna.jpg?large` it is `anna.jpg`."""
DIGESTS: tuple[Kind, ...] = ("image", "photo")
SCANNED: tuple[Kind, ...] = ("license", "license_url")
"""What is of many rows each: the table is looked through for one that is there."""
FORMAT = 2
PART_ROWS = 1 << 16
SCHEMA = pa.schema([pa.field("bits", pa.uint64()), pa.field("row", pa.uint32())])
METADATA = b"likeness"
NONE = np.empty(0, np.int64)
NOT_THE_NAME = "^[^?#]*/|[?#].*$"
"""Of a ref: all before the last slash of its path, and what follows the path."""


@dataclass(frozen=True)
class Part:
    """A row group of a lookup: the table and the kind that it is of, its number of rows, least and greatest bits."""

    table: TableName
    kind: Kind
    rows: int
    low: int
    high: int


@dataclass(frozen=True)
class Lookup:
    """An open lookup; `parts` says what the row groups of `stored` are."""

    stored: Stored
    parts: list[Part]

    def numbers(self, table: TableName, kind: Kind, value: str) -> NDArray[np.int64]:
        """The numbers of the rows that may hold `value`, in no order; IntegrityError where the lookup is damaged."""
        low, high = _range(kind, value)
        found = [np.empty(0, np.int64)]
        for number, part in enumerate(self.parts):
            if (part.table, part.kind) == (table, kind) and part.low <= high and low <= part.high:
                held = self.stored.part(number)
                bits = numbers(held["bits"])
                if (len(bits), *bits[[0, -1]].tolist()) != (part.rows, part.low, part.high):
                    raise IntegrityError(f"{self.stored.path} is damaged: part {number} is another")
                start, stop = bits.searchsorted(low, "left"), bits.searchsorted(high, "right")
                found.append(numbers(held["row"])[start:stop].astype(np.int64))
        return np.concatenate(found)


def find_rows(
    dataset: Dataset, table: TableName, asked: Mapping[Kind, str], columns: Sequence[str] | None = None
) -> list[Row]:
    """The rows of a table that hold any of what is asked, in the table's order; of a sha256 its first digits will do.

    Of all columns, or of some. IntegrityError where the table cannot be read.
    """
    found = find_numbers(dataset, table, asked)
    rows = np.unique(np.concatenate([NONE, *found.values()]))
    return dataset.table(table).take(rows, columns).to_pylist() if len(rows) else []


def find_numbers(
    dataset: Dataset, table: TableName, asked: Mapping[Kind, str]
) -> dict[Kind, NDArray[np.int64]]:
    """For each thing that is asked the numbers of the rows of a table that hold it, ascending."""
    maybe = _maybe(dataset, table, asked)
    if not any(len(numbers) for numbers in maybe.values()):
        return maybe  # the table is not opened
    stored = dataset.table(table)
    return {kind: _holding(stored, kind, value, maybe[kind]) for kind, value in asked.items()}


def _maybe(dataset: Dataset, table: TableName, asked: Mapping[Kind, str]) -> dict[Kind, NDArray[np.int64]]:
    """The rows that may hold it: by the lookup as it lies there, or else by one that is made."""

    def of(lookup: Lookup) -> dict[Kind, NDArray[np.int64]]:
        return {kind: np.sort(lookup.numbers(table, kind, value)) for kind, value in asked.items()}

    if dataset.store.exists(lookup_key(dataset)):
        try:
            return of(_opened(dataset, None))
        except IntegrityError as error:
            logger.info("%s: it is made again", error)
    return of(write_lookup(dataset))


def _holding(stored: Stored, kind: Kind, value: str, maybe: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the rows that do hold it; of a value of many rows all that do."""
    column = COLUMNS[kind]
    if not len(maybe):
        return NONE
    held = (stored.read([column]) if kind in SCANNED else stored.take(maybe, [column]))[column]
    held = _said(kind, held)
    found = where(pc.starts_with(held, value))
    if kind not in DIGESTS:
        sizes = numbers(pc.binary_length(held.take(arrow(found))))
        found = found[sizes == len(value.encode())]
    return found if kind in SCANNED else maybe[found]


def _said(kind: Kind, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """What is asked for, of a column that holds it."""
    return pc.replace_substring_regex(column, NOT_THE_NAME, "") if kind == "name" else column


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


def keep_lookup(dataset: Dataset) -> None:
    """Make the lookup of a version that has none, so that the first question to it is as quick as others."""
    if not dataset.store.exists(lookup_key(dataset)):
        write_lookup(dataset)


def write_lookup(dataset: Dataset) -> Lookup:
    """Make the lookup of a version, whose tables stand."""
    parts, tables = _made(dataset)
    facts = {"format": FORMAT, "of": dataset.manifest_sha256, "parts": [astuple(part) for part in parts]}
    said = json.dumps({**facts, "sha256": json_digest(facts)})
    schema = SCHEMA.with_metadata({METADATA: said.encode()})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=PART_ROWS)
    data = buffer.getvalue()
    dataset.store.put_derived(lookup_key(dataset), data)
    return _opened(dataset, data)


def _made(dataset: Dataset) -> tuple[list[Part], list[pa.Table]]:
    """The parts of a lookup, and the rows of each."""
    parts: list[Part] = []
    tables = []
    for name in COLUMNS_OF:
        stored = dataset.table(name)
        for kind, column in COLUMNS.items():
            if column not in stored.schema.names:
                continue
            numbered = _numbered(stored, kind, column)
            for start in range(0, numbered.num_rows, PART_ROWS):
                tables.append(numbered.slice(start, PART_ROWS))
                bits = numbers(tables[-1]["bits"])
                parts.append(Part(name, kind, len(bits), *bits[[0, -1]].tolist()))
    return parts, tables


def _opened(dataset: Dataset, data: bytes | None) -> Lookup:
    """The lookup on disk, or in `data`; IntegrityError where it is damaged, or of another version."""
    stored = Stored(dataset.store.path(lookup_key(dataset)), SCHEMA.names, data)
    try:
        facts = json.loads(stored.schema.metadata[METADATA])
        parts = [Part(*part) for part in facts["parts"]]
        whole = facts.pop("sha256") == json_digest(facts) and len(parts) == len(stored.starts())
        known = (facts["format"], facts["of"]) == (FORMAT, dataset.manifest_sha256)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{stored.path} is damaged: {error}") from error
    if not (whole and known):
        raise IntegrityError(f"{stored.path} is {'of another version' if whole else 'damaged'}")
    return Lookup(stored, parts)


def _numbered(stored: Stored, kind: Kind, column: str) -> pa.Table:
    """The bits of a column's values and the numbers of their rows, by rising bits."""
    values = _said(kind, stored.read([column])[column]).combine_chunks()
    rows = where(values.is_valid()).astype(np.uint32)
    values = values.drop_null()
    if kind in DIGESTS:
        bits = _bits_of_digests(stored, column, values)
    else:
        different = values.dictionary_encode()
        of_each = np.array([_bits(value) for value in different.dictionary.to_pylist()], np.uint64)
        bits = of_each[numbers(different.indices)]
    if kind in SCANNED:
        bits, first = np.unique(bits, return_index=True)
        rows = rows[first]
    order = np.argsort(bits, kind="stable")
    return pa.Table.from_arrays([arrow(bits[order]), arrow(rows[order])], schema=SCHEMA)


def _bits_of_digests(stored: Stored, column: str, values: pa.Array) -> NDArray[np.uint64]:
    try:
        return keys_of(values)
    except ValueError as error:
        raise IntegrityError(f"{stored.path} has a {column} that is no sha256") from error


def _bits(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _range(kind: Kind, value: str) -> tuple[int, int]:
    """The least and the greatest bits that `value`, or what begins with it, can have."""
    if kind in DIGESTS:
        digits = value[:DIGITS]
        return int(digits.ljust(DIGITS, "0"), 16), int(digits.ljust(DIGITS, "f"), 16)
    return _bits(value), _bits(value)
