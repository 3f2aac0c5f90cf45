"""What sources of the web have in common: photographs at addresses, fetched as they arrive, by one set of rules.

Not here: which addresses, which each source lists, and how one is fetched (`preprocessing.crawl`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.crawl.crawler import check_contact
from preprocessing.crawl.fetch import FetchConfig, Wanted
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.records import Item, Rejection
from preprocessing.reject import Rejected
from preprocessing.sources.metadata import checked


@dataclass(frozen=True)
class Web:
    """Photographs whose `ref` is their address; a source adds its `kind`, `description` and `items`."""

    fetch: FetchConfig
    # What was learned of the hosts, for as long as this object lives.
    _memory: Memory = field(default_factory=Memory, repr=False, compare=False, kw_only=True)
    # URLs as they were given, by refs that must differ: records hold no passwords, and nothing but Unicode text.
    _listed: dict[str, str] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    def address(self, item: Item) -> WebAddress:
        """Where the photograph is, with user and password if it has any; raises `Rejected` where it is nowhere."""
        return web_address(self._listed.get(item.ref, item.ref))

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes] | Rejection]:
        """The photographs as they arrive, in any order; spellings of one address are fetched once."""
        wanted: dict[WebAddress, list[Item]] = {}
        spelled: dict[tuple[str, tuple[str, str] | None], WebAddress] = {}
        for item in items:
            try:
                address = self.address(item)
            except Rejected as rejected:
                yield Rejection(item.ref, rejected.reason, detail=rejected.detail)
                continue
            address = spelled.setdefault((address.key, address.credentials), address)
            wanted.setdefault(address, []).append(item)
        check_contact(self.fetch, wanted)
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(arriving(map(Wanted, wanted), self.fetch, self._memory, Path(folder))) as batches,
        ):
            for visit in (visit for batch in batches for visit in batch):
                for item in wanted[visit.address]:
                    if visit.rejected:
                        yield Rejection(item.ref, visit.rejected.reason, detail=visit.rejected.detail)
                    else:
                        assert visit.body is not None
                        yield checked(item, visit.body.path.read_bytes())
                if visit.body:
                    visit.body.path.unlink()

    def web_rules(self) -> dict[str, object]:
        """The rules by which photographs of the web are refused, for a source's description."""
        rules = {"max_bytes", "max_redirects", "respect_robots", "respect_opt_out"}
        if not self.fetch.reject_synthetic:
            rules.add("reject_synthetic")
        return self.fetch.model_dump(mode="json", include=rules)
