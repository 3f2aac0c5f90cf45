"""The stage `crawl`: every photograph of a source, read or fetched into the store under its sha256.

Local photographs are read and hashed anew by every build. Fetched ones are kept, and asked for again only where the
last attempt failed for a passing reason, or on `refetch`. URLs are fetched by the build's own process, since the
limits that a host is given hold within one; their outcomes are written down every second. Not here: how a source reads
(`preprocessing.sources`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.stages.work import Context, Progress, Report, reasons, spread
from preprocessing.config import BuildConfig
from preprocessing.records import Item, Photo, Rejection
from preprocessing.reject import TRANSIENT, Reason
from preprocessing.sources import Source, WebSource, open_source
from storage.digest import json_digest
from storage.errors import SourceError
from storage.store import Store, original_key
from storage.tables import Row, get_columns, put_table

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
_KNOWN = ("ref", "sha256", "num_bytes", "reason", "detail", "fetched_at")


@dataclass(frozen=True)
class Crawled:
    """Every item of the source, as a photograph whose bytes are in the store or as a rejection."""

    source: dict[str, Any]
    items: dict[str, Item]
    photos: list[Photo]
    rejections: list[Rejection]
    reused: int

    def counts(self) -> dict[str, int]:
        """What became of the items."""
        return {"photos": len(self.photos), "reused": self.reused, **reasons(self.rejections)}


def crawl(context: Context, report: Report, config: BuildConfig) -> Crawled:
    """Read or fetch every photograph of the source; SourceError where it lists none, or two under one name."""
    source = open_source(config.source, config.fetch)
    listed = source.items()[: config.limit]
    items = {item.ref: item for item in listed}
    if not items:
        raise SourceError(f"source {config.source} lists no photograph")
    if len(items) != len(listed):
        [(ref, _)] = Counter(item.ref for item in listed).most_common(1)
        raise SourceError(f"source {config.source} has two photographs that both read as {ref!r}: rename one")
    prefix = f"chunks/crawl/{json_digest([CRAWL_VERSION, source.description()])}"
    outcomes: dict[str, Row] = {}
    if isinstance(source, WebSource) and not context.refetch:
        outcomes = _known_outcomes(context.store, prefix, items)
    reused = len(outcomes)
    todo = [item for ref, item in items.items() if ref not in outcomes]
    counts = Counter(_outcome_name(row) for row in outcomes.values())
    report(Progress("crawl", reused, len(items), "photos", counts))
    results: Iterator[list[Row]]
    if isinstance(source, WebSource):
        results = fetched_rows(todo, source, context.store, prefix)
    else:
        work = partial(read_rows, source=source, store=context.store)
        results = context.workers.map(work, spread(todo, context))
    for rows in results:
        outcomes.update((row["ref"], row) for row in rows)
        counts.update(_outcome_name(row) for row in rows)
        report(Progress("crawl", len(outcomes), len(items), "photos", counts))
    photos, rejections = [], []
    for ref, item in items.items():
        row = outcomes[ref]
        if row["reason"] is None:
            photos.append(Photo(item, row["sha256"], row["num_bytes"]))
        else:
            rejections.append(Rejection(ref, Reason(row["reason"]), row["sha256"], detail=row["detail"]))
    return Crawled(source.description(), items, photos, rejections, reused)


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


def _known_outcomes(store: Store, prefix: str, items: Mapping[str, Item]) -> dict[str, Row]:
    newest: dict[str, Row] = {}
    for key in store.keys(prefix):
        for row in get_columns(store, key, _KNOWN).to_pylist():
            if (
                row["ref"] in items
                and row["fetched_at"] >= newest.get(row["ref"], {"fetched_at": ""})["fetched_at"]
            ):
                newest[row["ref"]] = row
    return {ref: row for ref, row in newest.items() if _still_holds(store, row, items[ref])}


def _still_holds(store: Store, row: Row, item: Item) -> bool:
    if row["reason"] is not None:
        return Reason(row["reason"]) not in TRANSIENT | {Reason.CHECKSUM_MISMATCH}
    # a list may since claim another hash, and a photograph may have been removed from the store
    return item.expected_sha256 in (None, row["sha256"]) and store.exists(original_key(row["sha256"]))


def _outcome_name(row: Row) -> str:
    return "photos" if row["reason"] is None else str(row["reason"])
