"""The ledger of a store: for every address that was asked a row of what came of it, with the evidence.

    with Ledger(store).held(range(PARTITIONS)) as held:
        held.put([entry])
        held.get([web_address("https://example.org/a.jpg")])

Rows lie in partitions of hosts. Each is a SQLite file on this machine's disk, which one crawl writes at a time, and
what is new in it is published into the store as segments: tables that are named by their content and never change. A
file that is lost is made again from its segments. Of two rows for one address the newer holds, but a tombstone always.
Not here: what a row means today (`preprocessing.crawl.standing`), and how it comes about
(`preprocessing.crawl.crawler`).
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessing.crawl.database import FORMAT, opened, transaction
from preprocessing.crawl.hosts import ORIGIN_KEPT_S, HostPace, Memory, Origin, PutOff
from preprocessing.crawl.looks import Looks, LooksTable
from preprocessing.crawl.robots_txt import parse_robots
from preprocessing.crawl.rows import FOLDER, PARTITIONS, Entry, holds_over, partition_of, timestamp
from preprocessing.crawl.segments import (
    LEGACY,
    SEGMENT_ROWS,
    entries_of,
    erased,
    is_led_through,
    is_small,
    key_of,
    led_through,
    legacy_entries,
    segment_of,
    urls_of,
)
from preprocessing.crawl.urls import WebAddress, host_of
from preprocessing.reject import Reason
from storage.digest import bytes_digest
from storage.local import delete
from storage.store import Store, original_key
from storage.tables import BATCH_ROWS, Stored

logger = logging.getLogger(__name__)

MOST_SMALL = 16
"""Small segments of one partition: where there are more, they become few."""
_PLAIN = Entry._fields[:-3]
_NUM_PLAIN = len(_PLAIN)
_SELECT = f"""
    SELECT {", ".join(f"e.{name}" for name in _PLAIN)}, rules.text, said.text, {{headers}}
    FROM {{source}} LEFT JOIN texts AS rules ON rules.id = e.rule LEFT JOIN texts AS said ON said.id = e.signals
"""
_ERASED = """url IN (SELECT value FROM json_each(?1)) OR place IN (SELECT value FROM json_each(?1))
    OR sha256 IN (SELECT value FROM json_each(?2))"""
_INSERT = f"""
    INSERT OR REPLACE INTO entries ({", ".join(Entry._fields[:-1])}, evidence, is_published)
    VALUES ({", ".join("?" * (len(Entry._fields) + 1))})
"""
_TABLES = f"""
    CREATE TABLE entries ({", ".join(_PLAIN)}, rule, signals, evidence, is_published, PRIMARY KEY (url)) WITHOUT ROWID;
    CREATE INDEX unpublished ON entries (url) WHERE NOT is_published;
    CREATE TABLE texts (id INTEGER PRIMARY KEY, text UNIQUE);
    CREATE TABLE evidence (id INTEGER PRIMARY KEY, headers);
    CREATE TABLE segments (name PRIMARY KEY) WITHOUT ROWID;
    PRAGMA user_version = {FORMAT};
"""
_HOST_TABLES = f"""
    CREATE TABLE origins (origin PRIMARY KEY, robots, tdmrep, read_at) WITHOUT ROWID;
    CREATE TABLE hosts (host PRIMARY KEY, until, reason, detail) WITHOUT ROWID;
    PRAGMA user_version = {FORMAT};
"""


class Partition:
    """One SQLite file; whoever writes holds its lock."""

    def __init__(self, store: Store, number: int) -> None:
        self.number = number
        self._store, self._root = store, str(store.root)
        self._db = opened(store.path(f"{FOLDER}/working/{number:02d}.sqlite"), _TABLES)
        self._texts: dict[str, int] = {}
        [(last,)] = self._db.execute("SELECT max(id) FROM evidence")
        self._next = (last or 0) + 1

    @property
    def prefix(self) -> str:
        """Where its segments lie."""
        return f"{FOLDER}/segments/{self.number:02d}"

    def close(self) -> None:
        """Leave one file."""
        self._db.close()

    def get(self, urls: Sequence[str], *, whole: bool = False) -> dict[str, Entry]:
        """The rows of some addresses that have one; their headers only where `whole`."""
        joined = " LEFT JOIN evidence ON evidence.id = e.evidence" if whole else ""
        found = {}
        for start in range(0, len(urls), BATCH_ROWS):
            select = _SELECT.format(
                source=f"json_each(?) AS asked CROSS JOIN entries AS e ON e.url = asked.value{joined}",
                headers="evidence.headers" if whole else "NULL",
            )
            for row in self._db.execute(select, (json.dumps(urls[start : start + BATCH_ROWS]),)):
                found[row[0]] = Entry._make(row)
        return found

    def has_photo(self, entry: Entry) -> bool:
        """Whether the photograph of a row lies in the store."""
        if entry.sha256 is None:
            return False
        key = original_key(entry.sha256)
        return os.path.isfile(f"{self._root}/{key}") or (
            self._store.mirror is not None and self._store.exists(key)
        )

    def each(self, condition: str = "TRUE") -> Iterator[Entry]:
        """All rows, whole, ordered by address."""
        source = "entries AS e LEFT JOIN evidence ON evidence.id = e.evidence"
        select = _SELECT.format(source=source, headers="evidence.headers")
        for row in self._db.execute(f"{select} WHERE {condition} ORDER BY e.url"):
            yield Entry._make(row)

    def put(self, entries: Iterable[Entry], *, is_published: bool = False) -> None:
        """Write rows in place of those of the same addresses; no kill takes them back when this returns."""
        rows, evidence, urls = [], [], []
        with self._transaction():
            for entry in entries:
                place = None
                if entry.headers is not None:
                    place = self._next
                    self._next += 1
                    evidence.append((place, entry.headers))
                texts = (self._id(entry.rule), self._id(entry.signals))
                rows.append((*entry[:_NUM_PLAIN], *texts, place, is_published))
                urls.append(entry.url)
            self._db.execute(
                "DELETE FROM evidence WHERE id IN (SELECT evidence FROM entries WHERE url IN "
                "(SELECT value FROM json_each(?)))",
                (json.dumps(urls),),
            )
            self._db.executemany("INSERT INTO evidence VALUES (?, ?)", evidence)
            self._db.executemany(_INSERT, rows)

    def publish(self) -> None:
        """Write what is new since the last time into the store, as segments."""
        while entries := list(islice(self.each("NOT e.is_published"), SEGMENT_ROWS)):
            name = self._write(entries)
            with self._transaction():
                self._db.execute("INSERT OR IGNORE INTO segments VALUES (?)", (name,))
                urls = json.dumps([entry.url for entry in entries])
                self._db.execute(
                    "UPDATE entries SET is_published = TRUE WHERE url IN (SELECT value FROM json_each(?))",
                    (urls,),
                )

    @property
    def num_unpublished(self) -> int:
        """Rows that no segment has yet."""
        [(num,)] = self._db.execute("SELECT count(*) FROM entries WHERE NOT is_published")
        return int(num)

    def compact(self) -> None:
        """Write the rows of many small segments as few, and then delete those.

        Killed in between, both are there, which says nothing else: of two rows for one address the newer holds.
        """
        names = [name for (name,) in self._db.execute("SELECT name FROM segments")]
        small = {name for name in names if name.startswith(self.prefix) and is_small(self._store.file(name))}
        if len(small) <= MOST_SMALL:
            return
        urls = urls_of([self._store.file(name) for name in sorted(small)])
        new = set()
        for start in range(0, len(urls), SEGMENT_ROWS):
            found = self.get(urls[start : start + SEGMENT_ROWS], whole=True)
            if found:
                new.add(self._write([found[url] for url in sorted(found)]))
        with self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO segments VALUES (?)", [(name,) for name in sorted(new)]
            )
            self._db.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in small - new])
        for name in sorted(small - new):
            self._store.discard(name)

    def _write(self, entries: Sequence[Entry]) -> str:
        data = segment_of(entries)
        name = f"{self.prefix}/{bytes_digest(data)}.parquet"
        self._store.put(name, data)
        return name

    def addresses_of(self, sha256s: Collection[str]) -> list[str]:
        """The addresses that some photographs were fetched from."""
        select = "SELECT url FROM entries WHERE sha256 IN (SELECT value FROM json_each(?)) ORDER BY url"
        return [url for (url,) in self._db.execute(select, (json.dumps(sorted(sha256s)),))]

    def erase(self, urls: Collection[str], sha256s: Collection[str]) -> int:
        """Forget rows by their address, by that which a redirect led to, or by their photograph: how many there were.

        They are gone from the file too, and from the segments, which are written anew without them.
        """
        asked = (json.dumps(sorted(urls)), json.dumps(sorted(sha256s)))
        self._db.execute("PRAGMA secure_delete = ON")
        self._db.execute(
            f"CREATE TEMP TABLE erased AS SELECT url, evidence FROM entries WHERE {_ERASED}", asked
        )
        [(num,)] = self._db.execute("SELECT count(*) FROM erased")
        with self._transaction():
            self._db.execute("DELETE FROM evidence WHERE id IN (SELECT evidence FROM erased)")
            self._db.execute("DELETE FROM entries WHERE url IN (SELECT url FROM erased)")
            self._db.execute(
                "DELETE FROM texts WHERE id NOT IN (SELECT rule FROM entries WHERE rule IS NOT NULL "
                "UNION SELECT signals FROM entries WHERE signals IS NOT NULL)"
            )
        self._texts.clear()
        self._db.execute("DROP TABLE erased")
        for name in list(self._store.keys(self.prefix)):
            self._rewrite(name, urls, sha256s)
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(num)

    def _rewrite(self, name: str, urls: Collection[str], sha256s: Collection[str]) -> None:
        """Write a segment anew without some rows, where it has any of them."""
        table = Stored(self._store.path(name), ["url", "sha256"]).read()
        left = table.filter(pc.invert(erased(table, urls, sha256s)))
        if left.num_rows == table.num_rows:
            return
        new = None
        if left.num_rows:
            buffer = io.BytesIO()
            pq.write_table(left, buffer, compression="zstd")
            new = f"{self.prefix}/{bytes_digest(buffer.getvalue())}.parquet"
            self._store.put(new, buffer.getvalue())
        with self._transaction():
            if new is not None:
                self._db.execute("INSERT OR IGNORE INTO segments VALUES (?)", (new,))
            self._db.execute("DELETE FROM segments WHERE name = ?", (name,))
        delete(self._store.path(name))

    def missing(self, names: Iterable[str]) -> list[str]:
        """Of the names of segments, those that were not read yet."""
        known = {name for (name,) in self._db.execute("SELECT name FROM segments")}
        return sorted(set(names) - known)

    def merge(self, name: str, entries: Iterable[Entry]) -> None:
        """Take over the rows of a segment that are newer than those that are here."""
        entries = iter(entries)
        while batch := list(islice(entries, BATCH_ROWS)):
            here = self.get([entry.url for entry in batch])
            new: dict[str, Entry] = {}
            for entry in batch:
                known = new.get(entry.url) or here.get(entry.url)
                if known is None or holds_over(entry, known):
                    new[entry.url] = entry
            self.put(new.values(), is_published=True)
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO segments VALUES (?)", (name,))

    def _id(self, text: str | None) -> int | None:
        """The number of a text that many rows have."""
        if text is None:
            return None
        if text not in self._texts:
            if len(self._texts) > BATCH_ROWS:
                self._texts.clear()
            self._db.execute("INSERT OR IGNORE INTO texts (text) VALUES (?)", (text,))
            [(self._texts[text],)] = self._db.execute("SELECT id FROM texts WHERE text = ?", (text,))
        return self._texts[text]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with transaction(self._db):
            try:
                yield
            except BaseException:
                self._texts.clear()  # which a rollback takes back
                raise


class Held:
    """Some partitions of a ledger that are open; a row goes to the one of its host."""

    def __init__(self, store: Store, partitions: Iterable[Partition]) -> None:
        self.store = store
        self._partitions = {partition.number: partition for partition in partitions}
        self._hosts = opened(store.path(f"{FOLDER}/working/hosts.sqlite"), _HOST_TABLES)

    def __getitem__(self, number: int) -> Partition:
        return self._partitions[number]

    def get(self, addresses: Iterable[WebAddress]) -> dict[str, Entry]:
        """The rows of some addresses, whole."""
        urls: dict[int, list[str]] = {}
        for address in addresses:
            urls.setdefault(partition_of(host_of(address)), []).append(address.key)
        found: dict[str, Entry] = {}
        for number, mine in urls.items():
            found |= self._partitions[number].get(mine, whole=True)
        return found

    def put(self, entries: Iterable[Entry]) -> None:
        """Write rows; no kill takes them back when this returns."""
        apart: dict[int, list[Entry]] = {}
        for entry in entries:
            apart.setdefault(partition_of(entry.host), []).append(entry)
        for number, mine in apart.items():
            self._partitions[number].put(mine)

    def each(self) -> Iterator[Entry]:
        """All rows, whole."""
        for partition in self._partitions.values():
            yield from partition.each()

    def addresses_of(self, sha256s: Collection[str]) -> list[str]:
        """The addresses, in their one form, that some photographs were fetched from."""
        return [url for partition in self._partitions.values() for url in partition.addresses_of(sha256s)]

    def led_through(self, addresses: Iterable[WebAddress]) -> set[str]:
        """The addresses, in their one form, whose redirects led through or to some, now or when they were asked before.

        That is in the segments, which have rows that were replaced, and in rows that no segment has yet.
        """
        asked = list(addresses)
        keys, hosts = {address.key for address in asked}, {address.host for address in asked}
        found: set[str] = set()
        for name in self.store.keys(f"{FOLDER}/segments") if keys else ():
            found |= led_through(self.store.file(name), keys, hosts)
        for partition in self._partitions.values() if keys else ():
            new = partition.each("NOT e.is_published")
            found |= {entry.url for entry in new if is_led_through(entry.place, entry.signals, keys)}
        return found - keys

    def publish(self) -> None:
        """Write what is new into the store, and make few segments of many small ones."""
        partitions = self._partitions.values()
        is_little = sum(partition.num_unpublished for partition in partitions) <= SEGMENT_ROWS
        with ThreadPoolExecutor(
            PARTITIONS if is_little else 1
        ) as threads:  # most of it is waiting for the disk
            list(threads.map(Partition.publish, partitions))
        for partition in partitions:
            partition.compact()

    def memory(self) -> Memory:
        """What earlier crawls of the last day learned of hosts."""
        memory = Memory()
        now, now_s = datetime.now(UTC), time.monotonic()
        since = timestamp(now - timedelta(seconds=ORIGIN_KEPT_S))
        with transaction(self._hosts):
            self._hosts.execute("DELETE FROM origins WHERE read_at <= ?", (since,))
            self._hosts.execute("DELETE FROM hosts WHERE until <= ?", (timestamp(now),))
        for origin, robots, tdmrep, read_at in self._hosts.execute(
            "SELECT origin, robots, tdmrep, read_at FROM origins"
        ):
            read_s = now_s - max((now - datetime.fromisoformat(read_at)).total_seconds(), 0.0)
            memory.origins[origin] = Origin(parse_robots(robots), robots, read_s, tdmrep)
        for host, until, reason, detail in self._hosts.execute("SELECT * FROM hosts"):
            ends = datetime.fromisoformat(until)
            put_off = PutOff(Reason(reason), detail, host, ends)
            left_s = (ends - now).total_seconds()
            memory.paces[host] = HostPace(0.0, paused_until_s=now_s + left_s, put_off=put_off)
        return memory

    def remember(self, memory: Memory) -> None:
        """Note what origins have said since the last time, and hosts that asked to be left alone."""
        now, now_s = datetime.now(UTC), time.monotonic()
        names = {memory.news.popleft() for _ in range(len(memory.news))}
        origins = []
        for name in names:
            if origin := memory.origins.get(name):
                read_at = timestamp(now - timedelta(seconds=now_s - origin.read_s))
                # one that could not be had is asked for again by the next crawl
                tdmrep = origin.tdmrep if origin.is_tdmrep_read else None
                origins.append((name, origin.body, tdmrep, read_at))
        wishes = [memory.wishes.popleft() for _ in range(len(memory.wishes))]
        hosts = [(one.host, timestamp(one.until), one.reason.value, one.detail) for one in wishes]
        if origins or hosts:
            with transaction(self._hosts):
                self._hosts.executemany(
                    "INSERT OR REPLACE INTO origins (origin, robots, tdmrep, read_at) VALUES (?, ?, ?, ?)",
                    origins,
                )
                self._hosts.executemany(
                    "INSERT INTO hosts VALUES (?, ?, ?, ?) ON CONFLICT (host) DO UPDATE SET until = excluded.until, "
                    "reason = excluded.reason, detail = excluded.detail WHERE excluded.until > until",
                    hosts,
                )

    def keep_looks(self, looks: dict[str, Looks]) -> None:
        """Note the hashes that photographs were found to have, and empty the note of them."""
        if looks:
            with closing(LooksTable(self.store)) as table:
                table.put(looks)
            looks.clear()

    def close(self) -> None:
        """Close every file."""
        with ThreadPoolExecutor(PARTITIONS + 1) as threads:  # each waits for the disk
            list(threads.map(lambda held: held.close(), [*self._partitions.values(), self._hosts]))


class Ledger:
    """The ledger of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @contextmanager
    def held(self, numbers: Collection[int]) -> Iterator[Held]:
        """Partitions to write to, which no other crawl holds meanwhile: it waits, and so does this one.

        What is new in them is published at the end, however that comes about.
        """
        with ExitStack() as stack:
            for number in sorted(numbers):  # in one order, or two crawls might wait for each other
                stack.enter_context(self._locked(number))
            held = self._open(sorted(numbers))
            stack.callback(held.close)
            stack.callback(held.publish)
            for number in sorted(numbers):
                self._catch_up(held[number])
            yield held

    def erase(self, urls: Collection[str], sha256s: Collection[str]) -> int:
        """Forget all rows of some addresses, in their one form, or photographs: how many there were."""
        if not any(self.store.path(folder).is_dir() for folder in (FOLDER, LEGACY)):
            return 0
        for name in self.store.keys(LEGACY):
            table = Stored(self.store.path(name), ["ref", "sha256"]).read()
            keys = [key_of(ref) for ref in table["ref"].to_pylist()]
            keyed = table.append_column("url", pa.array(keys, pa.string()))
            left = table.filter(pc.invert(erased(keyed, urls, sha256s)))
            if left.num_rows < table.num_rows:
                buffer = io.BytesIO()
                pq.write_table(left, buffer, compression="zstd")
                self.store.put(name, buffer.getvalue())
        with closing(LooksTable(self.store)) as looks:
            looks.erase(sha256s)
        with self.held(range(PARTITIONS)) as held:
            return sum(held[number].erase(urls, sha256s) for number in range(PARTITIONS))

    @contextmanager
    def read(self) -> Iterator[Held]:
        """All partitions, to look at."""
        with ExitStack() as stack:
            held = self._open(range(PARTITIONS))
            stack.callback(held.close)
            for number in range(PARTITIONS):
                with self._locked(number, wait=False) as is_mine:
                    if is_mine:  # whoever writes has caught up
                        self._catch_up(held[number])
            yield held

    def _open(self, numbers: Iterable[int]) -> Held:
        self.store.path(f"{FOLDER}/working").mkdir(parents=True, exist_ok=True)
        return Held(self.store, [Partition(self.store, number) for number in numbers])

    @contextmanager
    def _locked(self, number: int, *, wait: bool = True) -> Iterator[bool]:
        path = self.store.path(f"{FOLDER}/working/{number:02d}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                logger.warning(
                    "another crawl is asking hosts of this one: this one waits until that has ended"
                )
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield True

    def _catch_up(self, partition: Partition) -> None:
        """Read the segments that a partition has not read."""
        for name in partition.missing(self.store.keys(partition.prefix)):
            partition.merge(name, entries_of(self.store.path(name)))
        for name in partition.missing(self._legacy):
            mine = self._legacy[name].get(partition.number, ())
            partition.merge(name, mine)

    @cached_property
    def _legacy(self) -> dict[str, dict[int, list[Entry]]]:
        """The rows of likeness 0.1's tables, by table and partition."""
        found: dict[str, dict[int, list[Entry]]] = {}
        for name in self.store.keys(LEGACY):
            found[name] = {}
            for entry in legacy_entries(self.store.path(name)):
                found[name].setdefault(partition_of(entry.host), []).append(entry)
        return found
