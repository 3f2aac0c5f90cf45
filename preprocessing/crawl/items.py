"""The items of a source on the web, and what the ledger says of each; what it does not know is asked for.

    addressed = addressed_items(listed, source.address)
    outcomes = fetch_items(addressed.items, source.address, config, store, Asking()).outcomes

Items go as tables, since there may be millions: a record is made of a row where one is needed.
Not here: which rows are asked again (`preprocessing.crawl.standing`), and requests (`preprocessing.crawl.crawler`).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from preprocessing.crawl.blocklist import BlockConfig, open_blocklist
from preprocessing.crawl.crawler import crawl, known_of
from preprocessing.crawl.fetch import FetchConfig, Wanted
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.ledger import Ledger, Partition
from preprocessing.crawl.progress import TOLD_S, hosts_line
from preprocessing.crawl.rows import FOLDER, Entry, partition_of, timestamp
from preprocessing.crawl.standing import Standing
from preprocessing.crawl.summary import Summary
from preprocessing.crawl.urls import WebAddress, host_of
from preprocessing.records import Item
from preprocessing.reject import Reason, Rejected
from storage.local import write_whole
from storage.store import Store
from storage.tables import BATCH_ROWS, arrow, column_of, leaders, numbers

ITEM_COLUMNS = tuple(field.name for field in fields(Item))
OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("ref", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("num_bytes", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""What became of items: without a reason, the bytes are in the store."""

AddressOf = Callable[[Item], WebAddress]
Count = Callable[[Counter[str], str], None]


@dataclass(frozen=True)
class Asking:
    """Which addresses are asked although the ledger knows them: those refused for a reason of `retry`, or all."""

    retry: frozenset[str] = frozenset()
    refetch: bool = False


@dataclass(frozen=True, eq=False)
class FetchedItems:
    """The outcomes of items, how many of them were known before anybody was asked, and what came of each host."""

    outcomes: pa.Table
    num_known: int
    hosts: pa.Table


def addressed_items(listed: pa.Table, address_of: AddressOf) -> tuple[pa.Table, pa.Table]:
    """Items with their addresses, and the outcomes of those that have none.

    The new column `url` is the one text of all spellings of an address, by which the ledger knows it, and `partition`
    is where that has its row.
    """
    parts, bad = [], []
    for start in range(0, listed.num_rows, BATCH_ROWS):
        part = listed.slice(start, BATCH_ROWS)
        urls: list[str | None] = []
        partitions: list[int | None] = []
        for item in _items(part):
            try:
                address = address_of(item)
            except Rejected as rejected:
                bad.append((item.ref, None, None, rejected.reason.value, rejected.detail))
                urls.append(None)
                partitions.append(None)
            else:
                urls.append(address.key)
                partitions.append(partition_of(host_of(address)))
        part = part.append_column("url", column_of(urls, pa.string()))
        part = part.append_column("partition", column_of(partitions, pa.int8()))
        parts.append(part.filter(part["url"].is_valid()) if None in urls else part)
    columns = zip(*bad, strict=True) if bad else [[] for _ in OUTCOME_SCHEMA]
    outcomes = [column_of(column, of.type) for column, of in zip(columns, OUTCOME_SCHEMA, strict=True)]
    added = [pa.field("url", pa.string()), pa.field("partition", pa.int8())]
    empty = pa.Table.from_batches([], pa.schema([*listed.schema, *added]))
    return pa.concat_tables([empty, *parts]), pa.table(outcomes, schema=OUTCOME_SCHEMA)


def fetch_items(
    items: pa.Table,
    address_of: AddressOf,
    config: FetchConfig,
    store: Store,
    asking: Asking,
    count: Count = lambda *_: None,
    block: BlockConfig | None = None,
) -> FetchedItems:
    """What became of items, at least one, that have an address; what is not known of them is asked for.

    `count` is told what became of items, as they come to an end, and in a line how far it is with each host.
    """
    partition_of_items = numbers(items["partition"])
    now = datetime.now(UTC)
    begun = _begun(items, store, now) if asking.refetch else None
    standing = Standing(config, now, asking.retry, begun.read_text() if begun else None)
    outcomes = _Outcomes(items, standing, count)
    with Ledger(store).held(np.unique(partition_of_items).tolist()) as held:
        wanted: list[Wanted] = []
        for partition in np.unique(partition_of_items).tolist():
            mine = np.flatnonzero((partition_of_items == partition) & outcomes.is_first)
            for start in range(0, len(mine), BATCH_ROWS):
                rows = mine[start : start + BATCH_ROWS]
                wanted += _wanted(rows, items, address_of, held[partition], standing, outcomes)
        wanted.sort(key=lambda one: one.number)  # as they are listed
        num_known = outcomes.num
        blocklist = open_blocklist(store, block or BlockConfig())
        is_fresh = asking.refetch or bool(asking.retry)
        memory = held.memory()
        asked = crawl(wanted, config, held, blocklist=blocklist, is_fresh=is_fresh, memory=memory)
        with closing(asked) as batches:
            del wanted
            for batch in batches:
                for one, entry in batch:
                    outcomes.add(one.number, entry, is_asked=True)
                outcomes.tell(memory)
    if begun:
        begun.unlink(missing_ok=True)
    return FetchedItems(outcomes.table(), num_known, outcomes.summary.table())


def _begun(items: pa.Table, store: Store, now: datetime) -> Path:
    """The file that says when asking for all of these addresses again was begun; one that was killed goes on."""
    digest = hashlib.sha256()
    for batch in items.select(["url"]).to_batches(BATCH_ROWS):
        digest.update("\n".join(batch["url"].to_pylist()).encode())
    path = store.path(f"{FOLDER}/working/refetch-{digest.hexdigest()[:16]}")
    if not path.is_file():
        write_whole(path, timestamp(now).encode())
    return path


def _wanted(
    numbers: NDArray[np.int64],
    items: pa.Table,
    address_of: AddressOf,
    partition: Partition,
    standing: Standing,
    outcomes: _Outcomes,
) -> Iterator[Wanted]:
    """Of some items those whose addresses are to be asked; the outcomes of the others are added."""
    mine = items.take(arrow(numbers))
    urls = mine["url"].to_pylist()
    entries = partition.get(urls)
    due = []
    for place, (number, url) in enumerate(zip(numbers.tolist(), urls, strict=True)):
        entry = entries.get(url)
        if entry and not standing.is_due(
            entry, outcomes.promised(number), is_stored=partition.has_photo(entry)
        ):
            outcomes.add(number, entry)
        else:
            due.append(place)
    outcomes.tell()
    entries = partition.get([urls[place] for place in due if urls[place] in entries], whole=True)
    for place, item in zip(due, _items(mine.take(arrow(np.array(due, np.int64)))), strict=True):
        address, number = address_of(item), int(numbers[place])
        entry, promised = entries.get(urls[place]), outcomes.promised(number)
        known = known_of(address, entry) if entry and partition.has_photo(entry) else None
        accepted = None if None in promised else frozenset(filter(None, promised))
        yield Wanted(address, known, accepted, number)


def _items(rows: pa.Table) -> Iterator[Item]:
    """The items of some rows."""
    for values in zip(*(rows[name].to_pylist() for name in ITEM_COLUMNS), strict=True):
        yield Item(*values)


class _Outcomes:
    """The outcome of each item, filled by address: items of one address go by the number of the first of them."""

    def __init__(self, items: pa.Table, standing: Standing, count: Count) -> None:
        self._items = items
        self._standing = standing
        self._count = count
        self._counts: Counter[str] = Counter()
        self._found: list[tuple[str | None, int | None, str | None, str | None]] = [_NOTHING] * items.num_rows
        first = leaders(items["url"])
        self.is_first = first == np.arange(len(first))
        self._others: dict[int, list[int]] = {}
        for number in np.flatnonzero(~self.is_first).tolist():
            self._others.setdefault(int(first[number]), []).append(number)
        self._promised = items["expected_sha256"]
        self._promises_nothing = self._promised.null_count == len(self._promised)
        self._line, self._line_s = "", -TOLD_S
        self.num = 0
        self.summary, self._asked = Summary(), Summary()

    def promised(self, number: int) -> set[str | None]:
        """The sha256 of the photographs that the items of an address take, None among them where one takes any."""
        if self._promises_nothing:
            return _ANY
        return {self._promised[one].as_py() for one in self._with(number)}

    def add(self, number: int, entry: Entry, *, is_asked: bool = False) -> None:
        """What the row of an address means for its items."""
        reason = None
        for one in self._with(number):
            promised = None if self._promises_nothing else self._promised[one].as_py()
            refused = self._standing.refusal(entry, promised)
            if refused is None:
                self._found[one] = (entry.sha256, entry.num_bytes, None, None)
            else:
                has_other = refused.reason is Reason.CHECKSUM_MISMATCH
                sha256 = entry.sha256 if has_other else None
                self._found[one] = (sha256, None, refused.reason.value, refused.detail)
            reason = refused.reason.value if refused else None
            self._counts[reason or "photos"] += 1
            self.num += 1
        self.summary.add(entry, reason)
        if is_asked:
            self._asked.add(entry, reason)

    def tell(self, memory: Memory | None = None) -> None:
        """Say what was added since the last time, and now and then how far it is with each host."""
        now_s = time.monotonic()
        if memory is not None and now_s - self._line_s >= TOLD_S:
            self._line, self._line_s = hosts_line(self._asked.hosts, memory.paces), now_s
        self._count(self._counts, self._line)
        self._counts = Counter()

    def table(self) -> pa.Table:
        """Of OUTCOME_SCHEMA, in the order of the items."""
        columns = [
            column_of(column, of.type)
            for column, of in zip(zip(*self._found, strict=True), list(OUTCOME_SCHEMA)[1:], strict=True)
        ]
        return pa.table([self._items["ref"], *columns], schema=OUTCOME_SCHEMA)

    def _with(self, number: int) -> list[int]:
        return [number, *self._others.get(number, ())]


_NOTHING = (None, None, None, None)
_ANY: set[str | None] = {None}
