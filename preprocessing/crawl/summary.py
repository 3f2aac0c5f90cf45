"""What was asked of whom: rows of the ledger counted by host, by reason and by class.

Not here: the rows (`preprocessing.crawl.ledger`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from preprocessing.crawl.ledger import Held, Ledger
from preprocessing.crawl.rows import KEPT, Entry
from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.reject import Reason, Rejected
from storage.datasets.dataset import Dataset
from storage.tables import BATCH_ROWS, table_of
from storage.wording import plural


@dataclass
class OfHost:
    """What came of the addresses of one host."""

    host: str
    addresses: int = 0
    requests: int = 0
    """Those for robots.txt and tdmrep.json are not counted."""
    kept: int = 0
    refused: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    robots: int = 0
    """Refused by robots.txt."""
    signals: int = 0
    """Refused by any other signal."""


HOSTS_SCHEMA = pa.schema(
    [
        pa.field(name, pa.string() if name == "host" else pa.float64() if name == "seconds" else pa.int64())
        for name in OfHost.__dataclass_fields__
    ]
)
_SIGNALS = (Reason.OPTED_OUT.value, Reason.SYNTHETIC.value)


@dataclass
class Summary:
    """Rows counted; `reasons` by reason and class."""

    hosts: dict[str, OfHost] = field(default_factory=dict)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, entry: Entry, reason: str | None) -> None:
        """One more row, which by today's settings is refused for a reason, or not."""
        of = self.hosts.get(entry.host)
        if of is None:
            of = self.hosts[entry.host] = OfHost(entry.host)
        of.addresses += 1
        of.requests += entry.attempts
        of.seconds += entry.seconds
        if reason is None:
            of.kept += 1
            of.num_bytes += entry.num_bytes or 0
            return
        of.refused += 1
        of.robots += reason == Reason.ROBOTS_DISALLOWED.value
        of.signals += reason in _SIGNALS
        self.reasons[reason, entry.outcome or ""] += 1

    def in_order(self) -> list[OfHost]:
        """Hosts, those with the most addresses first."""
        return sorted(self.hosts.values(), key=lambda of: (-of.addresses, of.host))

    def table(self) -> pa.Table:
        """The hosts as columns."""
        return table_of(map(asdict, self.in_order()), HOSTS_SCHEMA)

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        hosts = [{**asdict(of), "seconds": round(of.seconds, 3)} for of in self.in_order()]
        return {
            "addresses": sum(of.addresses for of in self.hosts.values()),
            "requests": sum(of.requests for of in self.hosts.values()),
            "refused": [
                {"reason": reason, "class": outcome, "addresses": count}
                for (reason, outcome), count in self.reasons.most_common()
            ],
            "hosts": hosts,
        }

    def lines(self, limit: int) -> Iterator[str]:
        """For people; of the hosts the first so many."""
        hosts = self.in_order()
        addresses, requests = sum(of.addresses for of in hosts), sum(of.requests for of in hosts)
        if not hosts:
            yield "no photograph of it came from the web: nobody was asked"
            return
        named = "address" if addresses == 1 else "addresses"
        yield (
            f"{addresses:,} {named} of {len(hosts):,} {plural(len(hosts), 'host')}, "
            f"asked by {requests:,} {plural(requests, 'request')}"
        )
        for (reason, outcome), count in self.reasons.most_common():
            yield f"  {count:,} refused: {reason} ({outcome})"
        width = max(len(of.host) for of in hosts[:limit])
        yield f"{'host':<{width}} addresses  requests      kept   refused         bytes   seconds  robots signals"
        for of in hosts[:limit]:
            yield (
                f"{of.host:<{width}} {of.addresses:>9,} {of.requests:>9,} {of.kept:>9,} {of.refused:>9,} "
                f"{of.num_bytes:>13,} {of.seconds:>9,.1f} {of.robots:>7,} {of.signals:>7,}"
            )
        if len(hosts) > limit:
            yield f"and {len(hosts) - limit:,} hosts more"


def summary_of(entries: Iterable[Entry]) -> Summary:
    """Rows as they are on record."""
    summary = Summary()
    for entry in entries:
        summary.add(entry, None if entry.state == KEPT else entry.reason)
    return summary


def entries_of(dataset: Dataset) -> Iterator[Entry]:
    """The rows, whole, of the addresses that a version's source listed, each once and by address."""
    addresses: dict[str, WebAddress] = {}
    for name in ("images", "rejections"):
        for ref in dataset.table(name).read(["ref"])["ref"].unique().to_pylist():
            try:
                address = web_address(ref)
            except Rejected:  # a file, or no address at all
                continue
            addresses[address.key] = address
    if addresses:
        with Ledger(dataset.store).read() as held:
            yield from _found(held, [addresses[key] for key in sorted(addresses)])


def _found(held: Held, addresses: list[WebAddress]) -> Iterator[Entry]:
    for start in range(0, len(addresses), BATCH_ROWS):
        found = held.get(addresses[start : start + BATCH_ROWS])
        yield from (found[key] for key in sorted(found))
