"""After the crawl: photographs that are in the store, and must not be used by the rules of today.

Tombstones and lists of hashes grow, and policies become stricter, after a photograph was fetched. Nothing is asked for
here: what was said of each is in the ledger. Not here: what is looked at before and while it is fetched
(`preprocessing.crawl`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from flows.stages.crawl import Crawled
from flows.stages.work import Context, spread
from preprocessing.columns import REJECTED_SCHEMA, rejection_columns
from preprocessing.config import BuildConfig
from preprocessing.crawl.blocklist import BlockConfig, Blocklist, open_blocklist
from preprocessing.crawl.fetch import refused
from preprocessing.crawl.ledger import FOLDER, LEGACY, Held, Ledger
from preprocessing.crawl.signals import Signals, SignalsConfig
from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.records import Item, Rejection
from preprocessing.reject import Rejected
from storage.store import Store
from storage.tables import BATCH_ROWS, arrow, fitted, rows_holding


def screened(crawled: Crawled, context: Context, config: BuildConfig, *, by_signals: bool = False) -> Crawled:
    """What the crawl gave, without what must not be used; that is rejected, each by its reason.

    What was said of photographs is judged anew where `by_signals`; a crawl has done so itself.
    """
    blocklist = open_blocklist(context.store, config.block)
    found = {rejection.ref: rejection for rejection in _by_hash(crawled, blocklist, context, config.block)}
    if blocklist.names_items:
        found |= {rejection.ref: rejection for rejection in _by_item(crawled, blocklist)}
    if by_signals and any(context.store.path(folder).is_dir() for folder in (FOLDER, LEGACY)):
        with Ledger(context.store).read() as held:
            found |= {
                rejection.ref: rejection for rejection in _by_signals(crawled, held, config.fetch.signals)
            }
    if not found:
        return crawled
    refused_now = rejection_columns(found.values())
    is_refused = pc.is_in(crawled.photos["ref"], value_set=refused_now["ref"].combine_chunks())
    rejections = pa.concat_tables([crawled.rejections, fitted(refused_now, REJECTED_SCHEMA)])
    return replace(crawled, photos=crawled.photos.filter(pc.invert(is_refused)), rejections=rejections)


def _by_item(crawled: Crawled, blocklist: Blocklist) -> Iterator[Rejection]:
    """Photographs whose address, host or author has a tombstone."""
    items = crawled.items.take(arrow(rows_holding(crawled.items["ref"], crawled.photos["ref"])))
    for start in range(0, items.num_rows, BATCH_ROWS):
        rows = items.slice(start, BATCH_ROWS)
        for ref, author in zip(rows["ref"].to_pylist(), rows["author"].to_pylist(), strict=True):
            if rejected := blocklist.refusal_of_item(Item(ref, author=author), _address(ref)):
                yield Rejection(ref, rejected.reason, detail=rejected.detail)


def _by_hash(
    crawled: Crawled, blocklist: Blocklist, context: Context, config: BlockConfig
) -> Iterator[Rejection]:
    """Photographs of which one has a hash that is on a list."""
    wanted = crawled.photos
    if not blocklist.looks_at_bytes:
        listed = pa.array(sorted(blocklist.sha256), pa.string())
        wanted = wanted.filter(pc.is_in(wanted["sha256"], value_set=listed))
    distinct = wanted["sha256"].unique().to_pylist()
    reasons: dict[str, Rejection] = {}
    work = partial(blocked_photographs, store=context.store, config=config)
    for rejections in context.workers.map(work, spread(distinct, context)):
        reasons |= {str(one.photo_sha256): one for one in rejections}
    for ref, sha256 in zip(wanted["ref"].to_pylist(), wanted["sha256"].to_pylist(), strict=True):
        if one := reasons.get(sha256):
            yield replace(one, ref=ref)


def blocked_photographs(sha256s: Sequence[str], store: Store, config: BlockConfig) -> list[Rejection]:
    """Those of these photographs that a list refuses."""
    blocklist = open_blocklist(store, config)
    found = []
    for sha256 in sha256s:
        if rejected := blocklist.refusal_of_photograph(sha256, partial(store.original, sha256)):
            found.append(Rejection("", rejected.reason, sha256, detail=rejected.detail))
    return found


def _by_signals(crawled: Crawled, held: Held, policy: SignalsConfig) -> Iterator[Rejection]:
    """Photographs of which something was said that this policy honours."""
    verdicts: dict[str, Rejected | None] = {}
    refs = crawled.photos["ref"]
    for start in range(0, len(refs), BATCH_ROWS):
        addresses = {ref: _address(ref) for ref in refs.slice(start, BATCH_ROWS).to_pylist()}
        entries = held.get(address for address in addresses.values() if address)
        for ref, address in addresses.items():
            signals = entries[address.key].signals if address and address.key in entries else None
            if signals is None:
                continue
            if signals not in verdicts:
                verdicts[signals] = refused(Signals.model_validate_json(signals), policy)
            if rejected := verdicts[signals]:
                yield Rejection(ref, rejected.reason, detail=rejected.detail)


def _address(ref: str) -> WebAddress | None:
    try:
        return web_address(ref)
    except Rejected:
        return None
