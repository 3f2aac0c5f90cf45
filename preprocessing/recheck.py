"""Whether what photographs were taken under still holds: their addresses, robots.txt, signals, and pages asked again.

    rechecked = recheck(open_dataset(store, "faces"), FetchConfig(user_agent="..."))

Photographs are asked for conditionally, as a crawl with `--refetch` does, and the ledger has what came of it; pages are
asked whether they are there and which licences they link to. The result is a record beside the dataset: what was
withdrawn, by signal, for whoever forgets and retrains. Nothing is removed here.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from preprocessing.crawl.crawler import check_contact, crawl, known_of
from preprocessing.crawl.fetch import FetchConfig, Fetcher, Wanted
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.ledger import Ledger
from preprocessing.crawl.rows import Entry, partition_of, timestamp
from preprocessing.crawl.signals import Signals, policy
from preprocessing.crawl.standing import Standing
from preprocessing.crawl.urls import WebAddress, host_of, web_address
from preprocessing.reject import Reason, Rejected
from preprocessing.sources.licenses import license_of
from storage.datasets.dataset import Dataset
from storage.records import Part, StoredRecord
from storage.store import Store
from storage.tables import Row

_LICENSE_LINK = re.compile(rb"(?:https?:)?//(?:www\.)?(?:creativecommons|rightsstatements)\.org/[\w./-]+")


class Withdrawn(Part):
    """A photograph that must not be used any more, and why."""

    ref: str
    photo_sha256: str
    signal: str
    """What withdrew it: robots.txt, x-robots-tag and so on, `gone`, `http_status`, `page`, `license`."""
    detail: str | None = None
    images: list[str]
    """The keys of its images in the version."""


class RecheckRecord(StoredRecord):
    """What a recheck of a version found, by photograph."""

    dataset: str
    checked_at: str
    photographs: int
    """Those of the version's images that came from the web."""
    holds: int
    unreachable: int
    """Of which nothing was heard this time: they are as they were."""
    changed: int
    """Whose address has another photograph now."""
    by_signal: dict[str, int]
    withdrawn: list[Withdrawn]


def recheck(dataset: Dataset, config: FetchConfig) -> RecheckRecord:
    """Ask again for what the images of a version were made of, and put the result on record beside the dataset."""
    started = datetime.now(UTC)
    rows: dict[str, list[Row]] = {}
    for row in dataset.images():
        rows.setdefault(row["ref"], []).append(row)
    addresses = {ref: address for ref in rows if (address := _address(ref)) is not None}
    page_urls = {row["page"] for ref in addresses for row in rows[ref] if row["page"]}
    entries, pages = _asked_again(dataset, list(addresses.values()), page_urls, config)
    counts: Counter[str] = Counter()
    withdrawn = []
    for ref, address in addresses.items():
        row, entry = rows[ref][0], entries.get(address.key)
        found = _withdrawal(entry, config, row, pages)
        if found is not None:
            signal, detail = found
            keys = sorted(one["key"] for one in rows[ref])
            withdrawn.append(
                Withdrawn(
                    ref=ref, photo_sha256=row["photo_sha256"], signal=signal, detail=detail, images=keys
                )
            )
        elif entry is None or entry.asked_at < timestamp(started):
            counts["unreachable"] += 1
        else:
            counts["holds"] += 1
            counts["changed"] += entry.sha256 != row["photo_sha256"]
    record = RecheckRecord.new(
        dataset=dataset.reference,
        checked_at=timestamp(started),
        photographs=len(addresses),
        holds=counts["holds"],
        unreachable=counts["unreachable"],
        changed=counts["changed"],
        by_signal=dict(Counter(one.signal for one in withdrawn).most_common()),
        withdrawn=withdrawn,
    )
    dataset.store.put(recheck_key(dataset, started), record.as_bytes())
    return record


def last_recheck(store: Store, name: str) -> RecheckRecord | None:
    """What the last recheck of a dataset found, if there was one."""
    keys = list(store.keys(f"datasets/{name}/rechecks"))
    return RecheckRecord.read(store.file(keys[-1])) if keys else None


def recheck_key(dataset: Dataset, at: datetime) -> str:
    """Where the record of a recheck lies."""
    return f"datasets/{dataset.name}/rechecks/{at.strftime('%Y%m%d-%H%M%S-%f')}.json"


def _asked_again(
    dataset: Dataset, addresses: list[WebAddress], page_urls: set[str], config: FetchConfig
) -> tuple[Mapping[str, Entry], Mapping[str, bytes | Rejected]]:
    """The rows of addresses, after each that is no tombstone was asked, and the pages; hosts say their rules once."""
    numbers = {partition_of(host_of(address)) for address in addresses}
    with Ledger(dataset.store).held(numbers) as held:
        entries = held.get(addresses)
        wanted = []
        for address in addresses:
            entry = entries.get(address.key)
            if entry is None or entry.state != "gone":
                wanted.append(Wanted(address, known_of(address, entry) if entry else None))
        memory = held.memory()
        memory.origins.clear()
        with closing(crawl(wanted, config, held, memory=memory)) as batches:
            for batch in batches:
                entries |= {entry.url: entry for _, entry in batch}
        pages = _pages(page_urls, config, memory)
        held.remember(memory)
    return entries, pages


def _withdrawal(
    entry: Entry | None, config: FetchConfig, row: Row, pages: Mapping[str, bytes | Rejected]
) -> tuple[str, str | None] | None:
    """The signal by which a photograph was withdrawn, and its words; None where it was not."""
    rejected = entry and Standing(config, datetime.now(UTC)).withdrawal(entry)
    if entry and rejected:
        verdict = policy(Signals.model_validate_json(entry.signals or "{}"), config.signals)
        if (
            rejected.reason in (Reason.OPTED_OUT, Reason.ROBOTS_DISALLOWED, Reason.SYNTHETIC)
            and verdict.evidence
        ):
            return verdict.evidence.signal.value, rejected.detail
        if rejected.reason is Reason.HTTP_STATUS and rejected.detail in ("404", "410"):
            return "gone", rejected.detail
        return rejected.reason.value, rejected.detail
    page = pages.get(row["page"]) if row["page"] else None
    if isinstance(page, Rejected):
        is_gone = page.reason is Reason.HTTP_STATUS and page.detail in ("404", "410", "451")
        return ("page", page.detail) if is_gone else None
    if page is not None:
        return _other_license(row, page)
    return None


def _other_license(row: Row, page: bytes) -> tuple[str, str | None] | None:
    """The licences that a page links to, where the photograph's is none of them; a page without links says nothing."""
    ours = license_of(row["license"], row["license_url"])
    linked = {license_of(None, link.decode()) for link in _LICENSE_LINK.findall(page)}
    families = {found.family: found.id for found in linked if found}
    if ours is None or not families or ours.family in families:
        return None
    return "license", f"{ours.id} was said, and the page links to {', '.join(sorted(families.values()))}"


def _pages(urls: set[str], config: FetchConfig, memory: Memory) -> dict[str, bytes | Rejected]:
    """The text of each page, or why it cannot be had."""
    addresses = {url: address for url in sorted(urls) if (address := _address(url)) is not None}
    if not addresses:
        return {}
    check_contact(config, addresses.values())

    async def all_pages() -> dict[str, bytes | Rejected]:
        with tempfile.TemporaryDirectory() as folder:
            async with Fetcher(config, memory, Path(folder)) as fetcher:
                found = await asyncio.gather(*(_page(fetcher, address) for address in addresses.values()))
        return dict(zip(addresses, found, strict=True))

    with ThreadPoolExecutor(1) as thread:  # the caller's may be running an event loop
        return thread.submit(asyncio.run, all_pages()).result()


async def _page(fetcher: Fetcher, address: WebAddress) -> bytes | Rejected:
    try:
        return await fetcher.page(address)
    except Rejected as rejected:
        return rejected


def _address(url: str) -> WebAddress | None:
    try:
        return web_address(url)
    except Rejected:
        return None
