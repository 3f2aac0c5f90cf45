"""The stage `crawl`: every photograph of a source, read or fetched into the store under its sha256.

Local photographs are read and hashed anew by every build. Fetched ones are kept, and asked for again only where the
last attempt failed for a passing reason, or on `refetch`. URLs are fetched by the build's own process, since the
limits that a host is given hold within one; their outcomes are written down every second. Not here: how a source reads
(`preprocessing.sources`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.stages.listing import listing
from flows.stages.work import Context, Progress, Report, reasons, spread
from preprocessing.columns import ITEM_SCHEMA, PHOTO_SCHEMA, REJECTED_SCHEMA
from preprocessing.config import BuildConfig
from preprocessing.records import Item, Rejection
from preprocessing.reject import TRANSIENT, Reason
from preprocessing.sources import Source, WebSource, open_source
from storage.digest import json_digest
from storage.store import Store, original_key
from storage.tables import (
    BATCH_ROWS,
    Row,
    arrow,
    counted,
    fitted,
    get_columns,
    numbers,
    put_table,
    rows_holding,
)

CRAWL_VERSION = 1
"""Raised only when fetched bytes must not be reused: hosts are not asked again for a change of our code."""

INCOMING = "incoming"
"""Where bodies are written as they arrive, on the store's own disk: what a kill leaves there is of no use."""

CRAWL_SCHEMA = pa.schema(
    [
        pa.field("ref", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("num_bytes", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("fetched_at", pa.string()),
        pa.field("signals", pa.string()),
    ]
)
"""`signals` is JSON: what was looked at, and what was said about the photograph's use, with its place and words."""
KNOWN_SCHEMA = pa.schema([field for field in CRAWL_SCHEMA if field.name != "signals"])
"""What a build needs of an outcome."""


@dataclass(frozen=True, eq=False)
class Crawled:
    """Every item of the source, as a photograph whose bytes are in the store or as a rejection.

    Tables of the columns ITEM_SCHEMA, PHOTO_SCHEMA and REJECTED_SCHEMA; an item's `ref` leads from one to the others.
    """

    source: dict[str, Any]
    items: pa.Table
    photos: pa.Table
    rejections: pa.Table
    reused: int

    def counts(self) -> dict[str, int]:
        """What became of the items."""
        return {"photos": self.photos.num_rows, "reused": self.reused, **reasons(self.rejections)}


def crawl(context: Context, report: Report, config: BuildConfig) -> Crawled:
    """Read or fetch every photograph of the source; SourceError as of `listing`."""
    source = open_source(config.source, config.fetch)
    listed, not_asked_for = listing(source, config)
    refs = listed["ref"]
    wanted = listed.filter(pc.invert(pc.is_in(refs, value_set=not_asked_for["ref"])))
    prefix = f"chunks/crawl/{json_digest([CRAWL_VERSION, source.description()])}"
    known = pa.Table.from_batches([], KNOWN_SCHEMA)
    if isinstance(source, WebSource) and not context.refetch:
        known = _known_outcomes(context.store, prefix, wanted)
    reused = known.num_rows
    todo = wanted.filter(pc.invert(pc.is_in(wanted["ref"], value_set=known["ref"])))
    items = listed.select(ITEM_SCHEMA.names)
    outcomes = [_outcomes_of(not_asked_for), known]
    counts: Counter[str] = Counter()

    def count(outcome: pa.Table) -> None:
        counts.update(counted(pc.fill_null(outcome["reason"], "photos")))
        report(Progress("crawl", counts.total(), len(refs), "photos", counts))

    for outcome in outcomes:
        count(outcome)
    results: Iterator[list[Row]]
    if isinstance(source, WebSource):
        results = fetched_rows(_items(todo), source, context.store, prefix)
    else:
        work = partial(read_rows, source=source, store=context.store)
        chunks = spread(range(todo.num_rows), context)
        results = context.workers.map(work, (_items(todo.slice(rows[0], len(rows))) for rows in chunks))
    for rows in results:
        outcomes.append(pa.Table.from_pylist(rows, KNOWN_SCHEMA))
        count(outcomes[-1])
    del listed, wanted, todo
    crawled = pa.concat_tables(outcomes)
    crawled = crawled.take(arrow(rows_holding(crawled["ref"], refs)))
    there = crawled["reason"].is_null()
    photos = fitted(crawled.filter(there).select(PHOTO_SCHEMA.names), PHOTO_SCHEMA)
    refused = crawled.filter(pc.invert(there))
    nothing = pa.nulls(refused.num_rows)
    rejections = refused.select(["ref", "reason", "detail"]).append_column("photo_sha256", refused["sha256"])
    rejections = rejections.append_column("duplicate_of", nothing).append_column("face_index", nothing)
    described = source.description()
    if isinstance(source, WebSource):
        described |= {"licenses": config.licenses.description()}
    return Crawled(described, items, photos, fitted(rejections, REJECTED_SCHEMA), reused)


def read_rows(items: Sequence[Item], source: Source, store: Store) -> list[Row]:
    """Read these items into the store; a row of CRAWL_SCHEMA for each."""
    rows: list[Row] = []
    for outcome in source.read(items):
        if isinstance(outcome, Rejection):
            rows.append(_rejection_row(outcome))
        else:
            item, data = outcome
            rows.append(_row(ref=item.ref, sha256=store.put_original(data), num_bytes=len(data)))
    return rows


def fetched_rows(
    items: Sequence[Item], source: WebSource, store: Store, prefix: str
) -> Generator[list[Row], None, None]:
    """Fetch these items into the store; rows of CRAWL_SCHEMA as they arrive, in a table before they are given."""
    store.path(INCOMING).mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=store.path(INCOMING)) as folder,
        closing(source.arriving(items, Path(folder))) as batches,
    ):
        for batch in batches:
            rows: list[Row] = []
            kept: set[Path] = set()  # other spellings of one address share a file
            for outcome in batch:
                if isinstance(outcome, Rejection):
                    rows.append(_rejection_row(outcome))
                    continue
                item, fetched = outcome
                body = fetched.body
                if body.path not in kept:
                    store.adopt_original(body.path, body.sha256)
                    kept.add(body.path)
                signals = fetched.signals.model_dump_json(exclude_defaults=True)
                rows.append(_row(ref=item.ref, sha256=body.sha256, num_bytes=body.num_bytes, signals=signals))
            now = datetime.now(UTC).isoformat()
            for row in rows:
                row["fetched_at"] = now
            key = f"{prefix}/{json_digest([row['ref'] for row in rows])}.parquet"
            put_table(store, key, rows, CRAWL_SCHEMA)
            yield rows


def _row(**values: Any) -> Row:
    return dict.fromkeys(CRAWL_SCHEMA.names) | values


def _rejection_row(rejection: Rejection) -> Row:
    return _row(
        ref=rejection.ref,
        reason=rejection.reason.value,
        detail=rejection.detail,
        sha256=rejection.photo_sha256,
    )


def _outcomes_of(rejections: pa.Table) -> pa.Table:
    """Rejections of what was not asked for, as outcomes."""
    found = rejections.select(["ref", "reason", "detail"])
    for field in KNOWN_SCHEMA:
        if field.name not in found.column_names:
            found = found.append_column(field.name, pa.nulls(found.num_rows, field.type))
    return fitted(found, KNOWN_SCHEMA)


def _items(listed: pa.Table) -> list[Item]:
    return [Item(**row) for row in listed.to_pylist()]


def _known_outcomes(store: Store, prefix: str, listed: pa.Table) -> pa.Table:
    """The newest outcome of each item that has one which still holds."""
    tables = [get_columns(store, key, KNOWN_SCHEMA.names) for key in store.keys(prefix)]
    found = pa.concat_tables([pa.Table.from_batches([], KNOWN_SCHEMA), *tables])
    item = rows_holding(listed["ref"], found["ref"])
    order = numbers(pc.sort_indices(found["fetched_at"])).astype(np.int64)
    order = order[item[order] >= 0]
    newest = np.full(listed.num_rows, -1)
    newest[item[order]] = order  # of equally new ones the last
    items = np.flatnonzero(newest >= 0)
    newest = newest[items]
    holds = []
    for start in range(0, len(newest), BATCH_ROWS):
        part = slice(start, start + BATCH_ROWS)
        outcomes = found.take(arrow(newest[part])).to_pylist()
        promised = listed["expected_sha256"].take(arrow(items[part])).to_pylist()
        holds += [_still_holds(store, *pair) for pair in zip(outcomes, promised, strict=True)]
    return found.take(arrow(newest[np.array(holds, bool)]))


def _still_holds(store: Store, row: Row, promised_sha256: str | None) -> bool:
    if row["reason"] is not None:
        return Reason(row["reason"]) not in TRANSIENT | {Reason.CHECKSUM_MISMATCH}
    # a list may since claim another hash, and a photograph may have been removed from the store
    return promised_sha256 in (None, row["sha256"]) and store.exists(original_key(row["sha256"]))
