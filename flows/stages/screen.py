"""After the crawl: photographs that are in the store, and must not be used by the rules of today.

Tombstones and lists of hashes grow, and policies become stricter, after a photograph was fetched. Nothing is asked for
here: what was said of each is in the ledger. Not here: what is looked at before and while it is fetched
(`preprocessing.crawl`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from flows.stages.crawl import Crawled
from flows.stages.work import Context, spread
from preprocessing.columns import REJECTED_SCHEMA, rejection_columns
from preprocessing.config import BuildConfig
from preprocessing.crawl.blocklist import (
    BlockConfig,
    Blocklist,
    alike,
    hashes,
    is_forgotten,
    open_blocklist,
)
from preprocessing.crawl.ledger import Held, Ledger
from preprocessing.crawl.looks import Looks, LooksTable
from preprocessing.crawl.rows import FOLDER
from preprocessing.crawl.segments import LEGACY
from preprocessing.crawl.standing import Standing
from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.records import Item, Rejection
from preprocessing.reject import Rejected
from storage.store import Store
from storage.tables import BATCH_ROWS, arrow, fitted, texts
from storage.tombstones import Tombstones


def screened(crawled: Crawled, context: Context, config: BuildConfig, *, by_ledger: bool = False) -> Crawled:
    """What the crawl gave, without what must not be used; that is rejected, each by its reason, or it is no item any
    more, where it has a tombstone.

    What the ledger has of photographs is judged anew where `by_ledger`; a crawl has done so itself.
    """
    blocklist = open_blocklist(context.store, config.block)
    crawled = without(crawled, texts(*_buried(crawled, blocklist)))
    found = {rejection.ref: rejection for rejection in _by_hash(crawled, blocklist, context, config.block)}
    if by_ledger and any(context.store.path(folder).is_dir() for folder in (FOLDER, LEGACY)):
        standing = Standing(config.fetch, datetime.now(UTC))
        with Ledger(context.store).read() as held:
            found |= {rejection.ref: rejection for rejection in _withdrawn(crawled, held, standing)}
    if not found:
        return crawled
    refused_now = rejection_columns(found.values())
    is_refused = pc.is_in(crawled.photos["ref"], value_set=refused_now["ref"].combine_chunks())
    rejections = pa.concat_tables([crawled.rejections, fitted(refused_now, REJECTED_SCHEMA)])
    crawled = replace(crawled, photos=crawled.photos.filter(pc.invert(is_refused)), rejections=rejections)
    return without(
        crawled, rejections["ref"].filter(is_forgotten(rejections["reason"], rejections["detail"]))
    )


def forgotten_by_looks(crawled: Crawled, faces: pa.Table, store: Store) -> pa.ChunkedArray:
    """The refs of photographs of which a face's crop looks like one that has a tombstone.

    `faces` has the columns `photo`, the number of a photograph of those bytes, `pdq` and `pdq_quality`.
    """
    buried = hashes(Tombstones(store).digests["crop_pdq"])
    photos = faces["photo"].take(arrow(alike(faces, buried)))
    sha256s = crawled.photos["sha256"].take(photos).combine_chunks()
    return crawled.photos["ref"].filter(pc.is_in(crawled.photos["sha256"], value_set=sha256s))


def without(crawled: Crawled, refs: pa.Array | pa.ChunkedArray) -> Crawled:
    """What the crawl of a source without some items would have given."""
    if not len(refs):
        return crawled
    refs = refs.combine_chunks() if isinstance(refs, pa.ChunkedArray) else refs

    def left(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(pc.is_in(table["ref"], value_set=refs)))

    return replace(
        crawled, items=left(crawled.items), photos=left(crawled.photos), rejections=left(crawled.rejections)
    )


def _buried(crawled: Crawled, blocklist: Blocklist) -> list[str]:
    """The refs of items whose address, name, host, author or sha256 has a tombstone, whatever became of them."""
    refs = []
    if blocklist.names_items:
        for start in range(0, crawled.items.num_rows, BATCH_ROWS):
            rows = crawled.items.slice(start, BATCH_ROWS)
            for ref, author in zip(rows["ref"].to_pylist(), rows["author"].to_pylist(), strict=True):
                if blocklist.refusal_of_item(Item(ref, author=author), _address(ref)):
                    refs.append(ref)
    for table, column in ((crawled.photos, "sha256"), (crawled.rejections, "photo_sha256")):
        buried = blocklist.tombstones.among("sha256", table[column].drop_null().unique().to_pylist())
        refs += table["ref"].filter(pc.is_in(table[column], value_set=texts(*buried))).to_pylist()
    return refs


def _by_hash(
    crawled: Crawled, blocklist: Blocklist, context: Context, config: BlockConfig
) -> Iterator[Rejection]:
    """Photographs of which one has a hash that is on a list."""
    wanted = crawled.photos
    if not blocklist.looks_at_bytes:
        listed = texts(*sorted(blocklist.sha256))
        wanted = wanted.filter(pc.is_in(wanted["sha256"], value_set=listed))
    distinct = wanted["sha256"].unique().to_pylist()
    reasons: dict[str, Rejection] = {}
    work = partial(blocked_photographs, store=context.store, config=config)
    if distinct:
        with closing(LooksTable(context.store)) as table:
            jobs = ((sha256s, table.get(sha256s)) for sha256s in spread(distinct, context))
            for rejections, looks in context.workers.map(work, jobs):
                reasons |= {str(one.photo_sha256): one for one in rejections}
                table.put(looks)
    for ref, sha256 in zip(wanted["ref"].to_pylist(), wanted["sha256"].to_pylist(), strict=True):
        if one := reasons.get(sha256):
            yield replace(one, ref=ref)


def blocked_photographs(
    job: tuple[Sequence[str], dict[str, Looks]], store: Store, config: BlockConfig
) -> tuple[list[Rejection], dict[str, Looks]]:
    """Those of some photographs that a list refuses, and the hashes that were not known of them."""
    sha256s, known = job
    blocklist = replace(open_blocklist(store, config), looks=dict(known))
    found = []
    for sha256 in sha256s:
        if rejected := blocklist.refusal_of_photograph(sha256, partial(store.original, sha256), is_new=False):
            found.append(Rejection("", rejected.reason, sha256, detail=rejected.detail))
    return found, {sha256: looks for sha256, looks in blocklist.looks.items() if known.get(sha256) != looks}


def _withdrawn(crawled: Crawled, held: Held, standing: Standing) -> Iterator[Rejection]:
    """Photographs of which something was said that this policy honours, or whose address is gone by now."""
    refs = crawled.photos["ref"]
    for start in range(0, len(refs), BATCH_ROWS):
        addresses = {ref: _address(ref) for ref in refs.slice(start, BATCH_ROWS).to_pylist()}
        entries = held.get(address for address in addresses.values() if address)
        for ref, address in addresses.items():
            entry = entries.get(address.key) if address else None
            if entry and (rejected := standing.withdrawal(entry)):
                yield Rejection(ref, rejected.reason, detail=rejected.detail)


def _address(ref: str) -> WebAddress | None:
    try:
        return web_address(ref)
    except Rejected:
        return None
