"""The stage `crawl`: every photograph of a source, read or fetched into the store under its sha256.

Local photographs are read and hashed anew by every build. Of those on the web the ledger knows which were fetched, and
which addresses to ask (`preprocessing.crawl`). One process asks, since the limits that a host is given hold within one,
or several, each the hosts of other partitions. Not here: how a source reads (`preprocessing.sources`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.stages.listing import listing, opened
from flows.stages.work import Context, Progress, Report, reasons, spread
from preprocessing.columns import ITEM_SCHEMA, REJECTED_SCHEMA, rejection_columns
from preprocessing.config import BuildConfig
from preprocessing.crawl.blocklist import BlockConfig, Blocklist, is_forgotten, open_blocklist
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.crawl.items import (
    OUTCOME_SCHEMA,
    Asking,
    Count,
    FetchedItems,
    addressed_items,
    fetch_items,
)
from preprocessing.crawl.progress import hosts_line, of_several
from preprocessing.crawl.summary import HOSTS_SCHEMA
from preprocessing.curation.facts import with_standing
from preprocessing.records import Item, Rejection
from preprocessing.reject import Rejected
from preprocessing.sources import Source, WebSource
from preprocessing.sources.imported import ImportedSource, refusal_of_origin
from storage.digest import bytes_digest
from storage.store import Store, original_key
from storage.tables import BATCH_ROWS, Row, arrow, counted, filled, fitted, numbers, rows_holding, table_of

READ_CHUNKS = 8
"""How many times as many photographs are read at once as are aligned: to read one takes a hundredth of the time."""


@dataclass(frozen=True, eq=False)
class Crawled:
    """Every item of the source, as a photograph whose bytes are in the store or as a rejection.

    What has a tombstone is none of its items.
    Tables of the columns ITEM_SCHEMA, PHOTO_SCHEMA and REJECTED_SCHEMA; an item's `ref` leads from one to the others.
    """

    source: dict[str, Any]
    items: pa.Table
    photos: pa.Table
    rejections: pa.Table
    reused: int
    hosts: pa.Table | None = None
    """What came of the addresses of each host, where there were any, as columns of HOSTS_SCHEMA."""

    def counts(self) -> dict[str, int]:
        """What became of the items."""
        return {"photos": self.photos.num_rows, "reused": self.reused, **reasons(self.rejections)}


def crawl(
    context: Context,
    report: Report,
    config: BuildConfig,
    retry: Collection[str] = (),
    num_workers: int = 1,
) -> Crawled:
    """Read or fetch every photograph of the source; SourceError as of `listing`.

    Addresses that were refused for a reason of `retry` are asked again. `num_workers` processes ask, each the hosts of
    other partitions.
    """
    source = opened(config, context, report)
    listed, not_asked_for = listing(source, config)
    refs = listed["ref"]
    blocklist = open_blocklist(context.store, config.block)
    if blocklist.names_items or isinstance(source, ImportedSource):
        blocked = rejection_columns(_blocked(listed, source, blocklist))
        is_left = pc.invert(pc.is_in(refs, value_set=blocked["ref"]))
        listed, refs = listed.filter(is_left), refs.filter(is_left)
        not_asked_for = not_asked_for.filter(pc.is_in(not_asked_for["ref"], value_set=refs))
    wanted = listed.filter(pc.invert(pc.is_in(refs, value_set=not_asked_for["ref"])))
    items = listed.select(ITEM_SCHEMA.names)
    del listed
    outcomes = [_outcomes_of(not_asked_for)]
    counts: Counter[str] = Counter()

    def count(found: Counter[str], about: str = "") -> None:
        counts.update(found)
        report(Progress("crawl", counts.total(), len(refs), "photos", counts, about))

    count(_counted(outcomes[0]))
    reused, hosts = 0, None
    described = source.description()
    if isinstance(source, WebSource):
        described |= {"licenses": config.licenses.description()}
        asking = Asking(frozenset(retry), context.refetch)
        work = partial(fetch_group, source=source, store=context.store, asking=asking, block=config.block)
        fetched, reused, hosts = _fetched(wanted, source, work, context, num_workers, count)
        outcomes += fetched
    else:
        read = partial(read_rows, source=source, store=context.store, block=config.block)
        chunks = spread(range(wanted.num_rows), context, READ_CHUNKS * context.chunk_size)
        jobs = (_items(wanted.slice(rows[0], len(rows))) for rows in chunks)
        for rows in context.workers.map(read, jobs):
            outcomes.append(table_of(rows, OUTCOME_SCHEMA))
            count(_counted(outcomes[-1]))
    del wanted
    crawled = pa.concat_tables(outcomes)
    crawled = crawled.take(arrow(rows_holding(crawled["ref"], refs)))
    forgotten = is_forgotten(crawled["reason"], crawled["detail"])
    if pc.any(forgotten).as_py():
        crawled = crawled.filter(pc.invert(forgotten))
        items = items.filter(pc.is_in(items["ref"], value_set=crawled["ref"]))
    there = crawled["reason"].is_null()
    photos = with_standing(crawled.filter(there), items, config.licenses)
    refused = crawled.filter(pc.invert(there))
    nothing = pa.nulls(refused.num_rows)
    rejections = refused.select(["ref", "reason", "detail"]).append_column("photo_sha256", refused["sha256"])
    rejections = rejections.append_column("duplicate_of", nothing).append_column("face_index", nothing)
    return Crawled(described, items, photos, fitted(rejections, REJECTED_SCHEMA), reused, hosts)


def read_rows(items: Sequence[Item], source: Source, store: Store, block: BlockConfig) -> list[Row]:
    """Read these items into the store; a row of OUTCOME_SCHEMA for each."""
    blocklist = open_blocklist(store, block)
    rows: list[Row] = []
    for outcome in source.read(items):
        row: Row = dict.fromkeys(OUTCOME_SCHEMA.names)
        if isinstance(outcome, Rejection):
            row |= {"ref": outcome.ref, "sha256": outcome.photo_sha256}
            row |= {"reason": outcome.reason.value, "detail": outcome.detail}
        else:
            item, data = outcome
            sha256 = bytes_digest(data)
            row |= {"ref": item.ref, "sha256": sha256}
            # One that is not new is judged with all others, by hashes that are kept (`flows.stages.screen`).
            is_new = not store.exists(original_key(sha256))
            if is_new and (blocked := blocklist.refusal_of_photograph(sha256, partial(bytes, data))):
                row |= {"reason": blocked.reason.value, "detail": blocked.detail}
            else:
                row["num_bytes"] = len(data)
                store.put_original(data, sha256)
        rows.append(row)
    return rows


def _blocked(listed: pa.Table, source: Source, blocklist: Blocklist) -> list[Rejection]:
    """Items that have a tombstone; those of a folder may have one of their author alone."""
    found = []
    for start in range(0, listed.num_rows, BATCH_ROWS):
        for item in _items(listed.slice(start, BATCH_ROWS)):
            try:
                address = source.address(item) if isinstance(source, WebSource) else None
            except Rejected:  # which the crawl will say
                address = None
            refused = blocklist.refusal_of_item(item, address)
            if refused is None and isinstance(source, ImportedSource):
                refused = refusal_of_origin(item, blocklist)
            if refused:
                found.append(Rejection(item.ref, refused.reason, detail=refused.detail))
    return found


def _fetched(
    listed: pa.Table,
    source: WebSource,
    work: Callable[..., FetchedItems],
    context: Context,
    num_workers: int,
    count: Count,
) -> tuple[list[pa.Table], int, pa.Table]:
    """The outcomes of items, how many were known before anybody was asked, and what came of each host."""
    items, bad = addressed_items(listed, source.address)
    count(_counted(bad), "")
    partition = numbers(items["partition"])
    used = np.unique(partition).tolist()
    num_workers = max(1, min(num_workers, len(used)))
    share = -(-source.fetch.max_concurrency // num_workers)
    config = source.fetch.model_copy(update={"max_concurrency": share})
    work = partial(work, config=config)
    if num_workers == 1:
        results = iter([work(items, count=count)] if used else [])
    else:
        groups = (
            np.flatnonzero(np.isin(partition, used[start::num_workers])) for start in range(num_workers)
        )
        results = context.workers.map(work, (items.take(arrow(rows)) for rows in groups))
    outcomes, num_known, hosts = [bad], 0, [pa.Table.from_batches([], HOSTS_SCHEMA)]
    for fetched in results:
        outcomes.append(fetched.outcomes)
        num_known += fetched.num_known
        hosts.append(fetched.hosts)
        if num_workers > 1:
            asked = of_several(table.to_pylist() for table in hosts)
            count(_counted(fetched.outcomes), hosts_line(asked, {}))
    return outcomes, num_known, pa.concat_tables(hosts)


def fetch_group(
    items: pa.Table,
    source: WebSource,
    config: FetchConfig,
    store: Store,
    asking: Asking,
    block: BlockConfig,
    count: Count = lambda *_: None,
) -> FetchedItems:
    """What one process does: `fetch_items` of the hosts of some partitions."""
    return fetch_items(items, source.address, config, store, asking, count, block)


def _counted(outcomes: pa.Table) -> Counter[str]:
    return Counter(counted(filled(outcomes["reason"], "photos")))


def _outcomes_of(rejections: pa.Table) -> pa.Table:
    """Rejections of what was not asked for, as outcomes."""
    found = rejections.select(["ref", "reason", "detail"])
    for field in OUTCOME_SCHEMA:
        if field.name not in found.column_names:
            found = found.append_column(field.name, pa.nulls(found.num_rows, field.type))
    return fitted(found, OUTCOME_SCHEMA)


def _items(listed: pa.Table) -> list[Item]:
    return [Item(**row) for row in listed.to_pylist()]
