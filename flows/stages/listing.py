"""What the stage `crawl` begins with: every photograph that a source lists, and which of them are not asked for.

Licences, and what a source says against a photograph's use, decide before a byte of it is fetched. Not here: fetching
(`flows.stages.crawl`), and what a source asks of whom (`preprocessing.sources`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa

from flows.stages.work import Context, Progress, Report
from preprocessing.columns import ITEM_SCHEMA, rejection_columns
from preprocessing.config import BuildConfig
from preprocessing.crawl.fetch import refused
from preprocessing.crawl.readers import read_source
from preprocessing.records import CLAIMS, Item, Rejection
from preprocessing.sources import AskingSource, Source, WebSource, open_source
from preprocessing.sources.access import Access, environment
from preprocessing.sources.folder import FolderSource
from preprocessing.sources.licenses import declared, licensed
from preprocessing.sources.urls import UrlSource
from storage.errors import SourceError
from storage.tables import Row, leaders, table_of

THOUSAND = 1000

LISTED_SCHEMA = pa.schema([*ITEM_SCHEMA, *(pa.field(name, pa.string()) for name in CLAIMS)])
_COLUMNS = tuple(LISTED_SCHEMA.names)
_VALUES = attrgetter(*_COLUMNS)


def opened(config: BuildConfig, context: Context, report: Report) -> Source:
    """The source of a build, which keeps what services answer in the build's store, and reports how far listing is."""

    def listed(num: int) -> None:
        report(Progress("crawl", 0, config.limit or num, "photos", {"listed": num}))

    access = Access(
        licenses=config.licenses,
        secret=context.secret or environment,
        store=context.store,
        is_fresh=context.refetch,
        listed=listed,
    )
    return open_source(config.source, config.fetch, config.sources, access)


def planned(config: BuildConfig) -> dict[str, Any] | None:
    """What listing and fetching asks of a service, as `--dry-run` says it; None where no service is asked.

    It is of the first photographs where their number is limited, and of each thousand otherwise.
    """
    source = open_source(config.source, config.fetch, config.sources, Access(licenses=config.licenses))
    if not isinstance(source, AskingSource):
        return None
    quota = source.quota(config.limit or THOUSAND)
    return {
        "photographs": quota.photographs,
        "requests": quota.requests,
        "seconds": round(quota.seconds, 1),
        "rule": quota.rule,
        "at_once": source.fetch.per_host_concurrency,
        "fetch_seconds": round(quota.photographs * source.fetch.per_host_delay_s, 1),
    }


def listing(source: Source, config: BuildConfig) -> tuple[pa.Table, pa.Table]:
    """The photographs of a source, as columns of LISTED_SCHEMA, and rejections of those that are not asked for.

    SourceError where it lists none, or two under one name; and in a strict build where metadata is wrong.
    """
    rejections: list[Rejection] = []
    is_refused = isinstance(source, WebSource) or config.licenses.check_folder

    def judged(items: Iterable[Item]) -> Iterator[Row]:
        for item in items:
            if isinstance(source, UrlSource) and (wrong := source.refused(item)):
                rejection: Rejection | None = wrong
            elif is_refused:
                item, rejection = licensed(item, config.licenses)
            else:
                item, rejection = declared(item, config.licenses), None
            if rejection is None and item.opt_out is not None:
                rejection = _opted_out(item, config)
            if rejection is not None:
                rejections.append(rejection)
            yield dict(zip(_COLUMNS, _VALUES(item), strict=True))

    items = source.items(config.limit)
    if config.strict and isinstance(source, FolderSource | UrlSource) and source.problems:
        folder = source.root if isinstance(source, FolderSource) else PurePath(source.place).parent
        raise SourceError(f"{folder}/{source.problems[0]}: mend it, or build without --strict")
    listed = table_of(judged(_emptied(items)), LISTED_SCHEMA)
    refs = listed["ref"]
    if not len(refs):
        raise SourceError(f"source {config.source} lists no photograph")
    if len(again := np.flatnonzero(leaders(refs) != np.arange(len(refs)))):
        ref = refs[int(again[0])].as_py()
        raise SourceError(f"source {config.source} has two photographs that both read as {ref!r}: rename one")
    return listed, rejection_columns(rejections)


def _opted_out(item: Item, config: BuildConfig) -> Rejection | None:
    rejected = refused(read_source(True, item.opt_out or ""), config.fetch.signals)
    if rejected is None:
        return None
    return Rejection(item.ref, rejected.reason, detail=f"{rejected.detail} ({item.opt_out})")


def _emptied(items: list[Item]) -> Iterator[Item]:
    """Items, which are forgotten one by one: as records they take several times as much as in columns."""
    items.reverse()
    while items:
        yield items.pop()
