"""The rows of many small tables, gathered into few large ones: what a stage's chunks hold, found without opening each.

    gathered = Gathered(store, "chunks/align/3f2a...", ALIGN_SCHEMA, key="photo_sha256", order="image_sha256")
    rows = gathered.rows(wanted, ["photo_sha256", "reason"])

Chunks are written once, a table each, by workers that know nothing of each other. `gather` copies their rows into
tables of some `MOST_ROWS` below `PREFIX/gathered/`, sorted by one column: small ones merge into larger ones, as logs
are compacted, so that there are few, and a row is copied few times. They are derived, and may be deleted: a chunk that
none of them holds, or that has changed since, is read itself. Two builds that gather at once keep some rows twice, of
which one counts. Not here: what the rows say.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.digest import json_digest
from storage.errors import IntegrityError
from storage.store import Store
from storage.tables import Stored, arrow, numbers, repeated, rows_holding, texts, where

logger = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "gathered"
MOST_ROWS = 16_384
"""In a gathered table, but for the last chunk's; changes no result."""
PART_ROWS = 1024
METADATA = b"likeness"
NUMBER, TABLE, ROW = "number", "table", "row"
"""The columns that say by which key a row was asked for, and where it was written: the table's name below the prefix,
and the row's number in it."""

Result = TypeVar("Result")
Stamp = tuple[int, int]
"""A table's size and time: one that has changed is not the one that was gathered."""


@dataclass(frozen=True)
class Source:
    """An open table, gathered or not, and the tables whose rows it holds, in the order of their numbers in it."""

    stored: Stored
    tables: list[tuple[str, Stamp]]
    is_gathered: bool

    def places(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """For every row the number of its table among `tables`, and its number there."""
        if not self.is_gathered:
            rows = np.arange(self.stored.num_rows, dtype=np.int32)
            return np.zeros_like(rows), rows
        found = self.stored.read([TABLE, ROW])
        return numbers(found[TABLE]), numbers(found[ROW])


@dataclass(frozen=True)
class Gathered:
    """The rows of all tables of `schema` directly below `prefix`, as they are when first asked for.

    Rows are asked for by the column `key`, a text; `order` is the column of text that gathered tables are sorted by.
    """

    store: Store
    prefix: str
    schema: pa.Schema
    key: str
    order: str

    def __reduce__(self) -> tuple[type[Gathered], tuple[Store, str, pa.Schema, str, str]]:
        return Gathered, (self.store, self.prefix, self.schema, self.key, self.order)

    def rows(self, wanted: pa.Array, columns: Sequence[str], since: Gathered | None = None) -> pa.Table:
        """The rows whose key is among `wanted`, which are different texts, in no order.

        Their `columns`, then NUMBER, that of the key among `wanted`, TABLE and ROW. Where several tables hold rows of
        one key, those of the first by name. A table that cannot be read counts as absent, with a warning. So does one
        that was there already, as it is now, at the time of `since`.
        """
        before = {} if since is None else since._stamps
        names = [name for name, stamp in self._stamps.items() if before.get(name) != stamp]
        numbered = {name: number for number, name in enumerate(names)}

        def keyed(source: Source, known: Collection[str]) -> tuple[Source, _Places, pa.ChunkedArray]:
            tables, rows = source.places()
            counted = [numbered[name] if name in known else -1 for name, _ in source.tables]
            places = _Places(np.array(counted, np.int32)[tables], rows)
            return source, places, source.stored.read([self.key])[self.key]

        each = list(self._each(keyed, numbered.keys()))
        sources, places, keys = zip(*each, strict=True) if each else ((), (), ())
        chunks = [chunk for column in keys for chunk in column.chunks]
        asked = rows_holding(wanted, pa.chunked_array(chunks, pa.string()))
        limits = np.cumsum([0, *(len(column) for column in keys)])
        del each, keys, chunks
        everywhere = _Places.together(places)
        chosen = np.flatnonzero((asked >= 0) & (everywhere.tables >= 0))
        first = np.full(len(wanted), len(names), np.int32)
        np.minimum.at(first, asked[chosen], everywhere.tables[chosen])
        chosen = chosen[first[asked[chosen]] == everywhere.tables[chosen]]
        schema = pa.schema([self.schema.field(name) for name in columns])
        nowhere = _Places(first[:0], first[:0])
        parts = [_placed(pa.Table.from_batches([], schema), first[:0], nowhere, texts(*names))]
        for source, start, stop in zip(sources, limits, limits[1:], strict=False):
            mine = chosen[slice(*chosen.searchsorted([start, stop]))]
            parts += self._taken(source, mine - start, everywhere.at(mine), asked[mine], names, columns)
        return pa.concat_tables(parts)

    def each(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all rows that count, in no order, those of one table after the other."""

        def read(source: Source, known: Collection[str]) -> pa.Table:
            table = source.stored.read(columns)
            if len(known) == len(source.tables):
                return table
            counts = np.array([name in known for name, _ in source.tables], bool)
            return table.take(arrow(np.flatnonzero(counts[source.places()[0]])))

        yield from self._each(read, self._stamps.keys())

    def at(self, places: pa.Table) -> pa.Table:
        """The whole rows at `places`, in that order; these have TABLE, ROW and the columns `key` and `order`.

        IntegrityError where a table is gone, or a row of it is another.
        """
        if not places.num_rows:
            return pa.Table.from_batches([], self.schema)
        tables = places[TABLE].cast(pa.string())
        names = tables.unique()
        numbered = {name: number for number, name in enumerate(names.to_pylist())}
        codes = _code(numbers(pc.index_in(tables, value_set=names)), numbers(places[ROW]))
        by_code = np.argsort(codes)
        parts: list[pa.Table] = []
        positions = [np.empty(0, np.int64)]

        def take(part: pa.Table, part_codes: NDArray[np.int64]) -> None:
            """Those rows of a part that are asked for and are what they were."""
            nearest = by_code[np.searchsorted(codes, part_codes, sorter=by_code).clip(max=len(codes) - 1)]
            rows = np.flatnonzero(codes[nearest] == part_codes)
            chosen, asked = part.take(arrow(rows)), places.take(arrow(nearest[rows]))
            same = pc.and_(*(pc.equal(chosen[name], asked[name]) for name in (self.key, self.order)))
            parts.append(chosen.filter(same))
            positions.append(nearest[rows][where(same)])

        for part, part_codes in self._around(places[self.order], numbered):
            take(part, part_codes)
        found = np.zeros(len(codes), bool)
        found[np.concatenate(positions)] = True
        for name, number in numbered.items():
            rows = np.sort(codes[~found & (codes >> 32 == number)] & 0xFFFFFFFF)
            if len(rows):
                take(self._stored(name).take(rows), _code(np.full(len(rows), number), rows))
        order = np.concatenate(positions)
        _, first = np.unique(order, return_index=True)
        if len(first) < len(codes):
            raise IntegrityError(
                f"{self.store.path(self.prefix)} no longer holds rows that it held: build again"
            )
        return pa.concat_tables(parts).take(arrow(first))

    @property
    def is_gathered(self) -> bool:
        """Whether `gather` would change nothing."""
        gathered, left = self._sources
        return not left and all(known for _, known in gathered)

    def gather(self) -> None:
        """Copy the rows that no gathered table holds into new ones, together with those of small ones."""
        gathered, left = self._sources
        batch = _Batch(self)
        for name, stamp in left.items():
            try:
                batch.add(Source(self._stored(name), [(name, stamp)], is_gathered=False), {name})
            except IntegrityError as error:
                logger.warning("%s: its rows are not gathered", error)
            if batch.num_rows >= MOST_ROWS:
                batch.write()
                batch = _Batch(self)
        merged = []
        for source, known in sorted(gathered, key=lambda pair: pair[0].stored.num_rows):
            if not known:
                merged.append(source)
            elif source.stored.num_rows <= batch.num_rows <= MOST_ROWS // 2:
                try:
                    batch.add(source, known)
                except IntegrityError as error:
                    logger.info("%s: its tables are read themselves", error)
                    continue
                merged.append(source)
        batch.write()
        for source in merged:
            self.store.discard(source.stored.path.relative_to(self.store.root).as_posix())

    def _taken(
        self,
        source: Source,
        rows: NDArray[np.int64],
        places: _Places,
        asked: NDArray[np.int32],
        names: Sequence[str],
        columns: Sequence[str],
    ) -> Iterator[pa.Table]:
        """Some rows of a source, by their numbers in it, ascending, or as the tables themselves hold them."""
        try:
            taken = source.stored.take(rows, columns)
        except IntegrityError as error:
            logger.info("%s: its tables are read themselves", error)
            for table in np.unique(places.tables).tolist():
                mine = np.flatnonzero(places.tables == table)
                mine = mine[np.argsort(places.rows[mine])]
                try:
                    taken = self._stored(names[table]).take(places.rows[mine].astype(np.int64), columns)
                except IntegrityError as error:
                    logger.warning("%s: its rows are made again", error)
                    continue
                yield _placed(taken, asked[mine], places.at(mine), texts(*names))
            return
        yield _placed(taken, asked, places, texts(*names))

    @cached_property
    def _stamps(self) -> dict[str, Stamp]:
        """Every table directly below the prefix, by its name there."""
        found = {}
        for entry in self.store.entries(self.prefix):
            name = entry.key.removeprefix(f"{self.prefix}/")
            if "/" not in name and name.endswith(".parquet"):
                found[name] = (entry.size, entry.modified_us)
        return dict(sorted(found.items()))

    @cached_property
    def _gathered(self) -> list[Source]:
        """Every gathered table that can be opened."""
        found = []
        for key in self.store.keys(f"{self.prefix}/{FOLDER}"):
            try:
                stored = Stored(self.store.file(key), [*self.schema.names, TABLE, ROW])
                facts = json.loads(stored.schema.metadata[METADATA])
                tables = [(name, (size, modified)) for name, size, modified in facts["tables"]]
            except (IntegrityError, KeyError, TypeError, ValueError) as error:
                logger.info("%s is not used: %s", self.store.path(key), error)
                continue
            if facts["format"] == FORMAT:
                found.append(Source(stored, tables, is_gathered=True))
        return found

    @cached_property
    def _sources(self) -> tuple[list[tuple[Source, set[str]]], dict[str, Stamp]]:
        """Every gathered table with the names of those that it holds, and the tables that none holds."""
        left = dict(self._stamps)
        gathered = []
        for source in self._gathered:
            known = {name for name, stamp in source.tables if left.get(name) == stamp}
            gathered.append((source, known))
            for name in known:
                del left[name]
        return gathered, left

    def _each(self, read: Callable[[Source, Collection[str]], Result], names: Set[str]) -> Iterator[Result]:
        """What `read` gives of every source of tables of these names, of which it is told which of its own count."""
        gathered, left = self._sources
        left = {name: stamp for name, stamp in left.items() if name in names}
        for source, known in gathered:
            known = known & names
            if not known:
                continue
            try:
                result = read(source, known)
            except IntegrityError as error:
                logger.info("%s: its tables are read themselves", error)
                left |= {name: self._stamps[name] for name in known}
                continue
            yield result
        for name, stamp in left.items():
            try:
                result = read(Source(self._stored(name), [(name, stamp)], is_gathered=False), {name})
            except IntegrityError as error:
                logger.warning("%s: its rows are made again", error)
                continue
            yield result

    def _around(
        self, values: pa.ChunkedArray, numbered: Mapping[str, int]
    ) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
        """The parts of gathered tables that may hold `values` of the column `order`, and the places of their rows."""
        span = pc.min_max(values).as_py()
        for source in self._gathered:
            local = np.array([numbered.get(name, -1) for name, _ in source.tables], np.int64)
            for number, (first, last) in enumerate(source.stored.bounds(self.order)):
                if first is None or last < span["min"] or span["max"] < first:
                    continue
                try:
                    part = source.stored.part(number)
                except IntegrityError as error:
                    logger.info("%s: its tables are read themselves", error)
                    break
                yield part.select(self.schema.names), _code(local[numbers(part[TABLE])], numbers(part[ROW]))

    def _stored(self, name: str) -> Stored:
        return Stored(self.store.file(f"{self.prefix}/{name}"), self.schema.names)


class _Batch:
    """Rows on their way into one gathered table."""

    def __init__(self, of: Gathered) -> None:
        self.of = of
        self.tables: dict[str, Stamp] = {}
        self.parts: list[pa.Table] = []
        self.num_rows = 0

    def add(self, source: Source, known: Collection[str]) -> None:
        """The rows of those tables of a source that count."""
        tables, rows = source.places()
        first = len(self.tables)
        counted = {name: stamp for name, stamp in source.tables if name in known}
        numbered = {name: first + number for number, name in enumerate(counted)}
        tables = np.array([numbered.get(name, -1) for name, _ in source.tables], np.int32)[tables]
        whole = source.stored.read(self.of.schema.names)
        whole = whole.append_column(TABLE, arrow(tables)).append_column(ROW, arrow(rows))
        if len(counted) < len(source.tables):
            whole = whole.take(arrow(np.flatnonzero(tables >= 0)))
        self.tables |= counted
        self.parts.append(whole)
        self.num_rows += whole.num_rows

    def write(self) -> None:
        """Write them, sorted; nothing where there are none."""
        if not self.num_rows:
            return
        listed = [[name, *stamp] for name, stamp in self.tables.items()]
        table = pa.concat_tables(self.parts).combine_chunks()
        self.parts.clear()
        schema = table.schema.with_metadata(
            {METADATA: json.dumps({"format": FORMAT, "tables": listed}).encode()}
        )
        order = pc.sort_indices(table[self.of.order])
        buffer = io.BytesIO()
        with pq.ParquetWriter(
            buffer, schema, compression="zstd", write_page_checksum=True, use_dictionary=repeated(schema)
        ) as writer:  # part by part, so that a second copy of all rows is never held
            for start in range(0, len(order), PART_ROWS):
                writer.write_table(table.take(order.slice(start, PART_ROWS)).cast(schema))
        key = f"{self.of.prefix}/{FOLDER}/{json_digest([FORMAT, listed])}.parquet"
        self.of.store.put_derived(key, buffer.getvalue())


def _code(tables: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A table's number and a row's as one."""
    return tables.astype(np.int64) << 32 | rows.astype(np.int64)


@dataclass(frozen=True)
class _Places:
    """Where rows were written: for each the number of its table among all names, -1 for none, and its number there."""

    tables: NDArray[np.int32]
    rows: NDArray[np.int32]

    @classmethod
    def together(cls, places: Sequence[_Places]) -> _Places:
        """Those of several sources, in their order."""
        none = np.empty(0, np.int32)
        return cls(
            np.concatenate([none, *(each.tables for each in places)]),
            np.concatenate([none, *(each.rows for each in places)]),
        )

    def at(self, numbers: NDArray[np.int64]) -> _Places:
        """Those of some rows."""
        return _Places(self.tables[numbers], self.rows[numbers])


def _placed(rows: pa.Table, asked: NDArray[np.int32], places: _Places, names: pa.Array) -> pa.Table:
    """Rows with what they were asked for by, and their places, as columns."""
    rows = rows.append_column(NUMBER, arrow(asked))
    rows = rows.append_column(TABLE, pa.DictionaryArray.from_arrays(arrow(places.tables), names))
    return rows.append_column(ROW, arrow(places.rows))
