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
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.crawl.hosts import HostPace, Memory, Origin, PutOff
from preprocessing.crawl.retry import outcome_of
from preprocessing.crawl.robots import KEPT_S
from preprocessing.crawl.robots_txt import parse_robots
from preprocessing.crawl.urls import WebAddress, host_of, web_address
from preprocessing.reject import Reason, Rejected
from storage.digest import bytes_digest, file_digest
from storage.errors import IntegrityError, PipelineError
from storage.records import check_format
from storage.store import Store, original_key
from storage.tables import BATCH_ROWS, FORMAT_KEY, Stored

logger = logging.getLogger(__name__)

KEPT, REFUSED, GONE = "kept", "refused", "gone"
PARTITIONS = 16
FORMAT = 1
"""Of the SQLite files."""
FOLDER = "ledger"
SEGMENT_ROWS = 100_000
"""At most in one segment, so that few rows are held at a time."""
LEGACY = "chunks/crawl"
"""Where likeness 0.1 kept what it had fetched: a table a second, which is read as segments are."""
_BUSY_S = 60.0


class Entry(NamedTuple):
    """What is on record of one address.

    `state` is kept, refused or gone; `outcome` is final, doubtful or passing, and None where a photograph is whole.
    `status` to `headers` are of the last answer, `sha256` and `num_bytes` of the last photograph. Times are ISO 8601 in
    UTC, and sort as texts. `signals`, `headers` and `rule` are JSON; `rule` is what it was asked under.
    """

    url: str
    host: str
    state: str
    outcome: str | None = None
    reason: str | None = None
    detail: str | None = None
    attempts: int = 0
    sha256: str | None = None
    num_bytes: int | None = None
    status: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    place: str | None = None
    address: str | None = None
    robots: str | None = None
    first_asked_at: str = ""
    asked_at: str = ""
    seconds: float = 0.0
    rule: str | None = None
    signals: str | None = None
    headers: str | None = None


_INTEGERS = {"attempts", "num_bytes", "status"}
LEDGER_SCHEMA = pa.schema(
    [
        pa.field(
            name,
            pa.int64() if name in _INTEGERS else pa.float64() if name == "seconds" else pa.string(),
        )
        for name in Entry._fields
    ]
)
_PLAIN = Entry._fields[:-3]
_SELECT = f"""
    SELECT {", ".join(f"e.{name}" for name in _PLAIN)}, rules.text, said.text, {{headers}}
    FROM {{source}} LEFT JOIN texts AS rules ON rules.id = e.rule LEFT JOIN texts AS said ON said.id = e.signals
"""
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


@lru_cache(maxsize=65536)
def partition_of(host: str) -> int:
    """The partition that a host's addresses lie in, here and everywhere."""
    return int(bytes_digest(host.encode())[:8], 16) % PARTITIONS


def timestamp(at: datetime) -> str:
    """A time as the ledger has it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


class Partition:
    """One SQLite file; whoever writes holds its lock."""

    def __init__(self, store: Store, number: int) -> None:
        self.number = number
        self._store, self._root = store, str(store.root)
        self._db = _opened(store.path(f"{FOLDER}/working/{number:02d}.sqlite"), _TABLES)
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
        return entry.sha256 is not None and os.path.isfile(f"{self._root}/{original_key(entry.sha256)}")

    def each(self, condition: str = "TRUE") -> Iterator[Entry]:
        """All rows, whole, ordered by address."""
        source = "entries AS e LEFT JOIN evidence ON evidence.id = e.evidence"
        select = _SELECT.format(source=source, headers="evidence.headers")
        for row in self._db.execute(f"{select} WHERE {condition} ORDER BY e.url"):
            yield Entry._make(row)

    def put(self, entries: Iterable[Entry], *, is_published: bool = False) -> None:
        """Write rows in place of those of the same addresses; they are on the disk when this returns."""
        rows, evidence, urls = [], [], []
        with self._transaction():
            for entry in entries:
                place = None
                if entry.headers is not None:
                    place = self._next
                    self._next += 1
                    evidence.append((place, entry.headers))
                texts = (self._id(entry.rule), self._id(entry.signals))
                rows.append((*entry[: len(_PLAIN)], *texts, place, is_published))
                urls.append((entry.url,))
            self._db.executemany(
                "DELETE FROM evidence WHERE id = (SELECT evidence FROM entries WHERE url = ?)", urls
            )
            self._db.executemany("INSERT INTO evidence VALUES (?, ?)", evidence)
            self._db.executemany(_INSERT, rows)

    def publish(self) -> None:
        """Write what is new since the last time into the store, as segments."""
        while entries := list(islice(self.each("NOT e.is_published"), SEGMENT_ROWS)):
            data = _segment(entries)
            name = f"{self.prefix}/{bytes_digest(data)}.parquet"
            self._store.put(name, data)
            with self._transaction():
                self._db.execute("INSERT OR IGNORE INTO segments VALUES (?)", (name,))
                self._db.executemany(
                    "UPDATE entries SET is_published = TRUE WHERE url = ?",
                    [(entry.url,) for entry in entries],
                )

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
                if known is None or _holds_over(entry, known):
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
        with _transaction(self._db):
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
        self._hosts = _opened(store.path(f"{FOLDER}/working/hosts.sqlite"), _HOST_TABLES)

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
        """Write rows; they are on the disk when this returns."""
        apart: dict[int, list[Entry]] = {}
        for entry in entries:
            apart.setdefault(partition_of(entry.host), []).append(entry)
        for number, mine in apart.items():
            self._partitions[number].put(mine)

    def each(self) -> Iterator[Entry]:
        """All rows, whole."""
        for partition in self._partitions.values():
            yield from partition.each()

    def publish(self) -> None:
        """Write what is new into the store."""
        for partition in self._partitions.values():
            partition.publish()

    def memory(self) -> Memory:
        """What earlier crawls of the last day learned of hosts."""
        memory = Memory()
        now, now_s = datetime.now(UTC), time.monotonic()
        since = timestamp(now - timedelta(seconds=KEPT_S))
        with _transaction(self._hosts):
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

    def remember(self, memory: Memory, put_off: Iterable[PutOff]) -> None:
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
        hosts = {one.host: (one.host, timestamp(one.until), one.reason.value, one.detail) for one in put_off}
        if origins or hosts:
            with _transaction(self._hosts):
                self._hosts.executemany(
                    "INSERT OR REPLACE INTO origins (origin, robots, tdmrep, read_at) VALUES (?, ?, ?, ?)",
                    origins,
                )
                self._hosts.executemany("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?)", hosts.values())

    def close(self) -> None:
        """Close every file."""
        for partition in self._partitions.values():
            partition.close()
        self._hosts.close()


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
            partition.merge(name, _entries(self.store.path(name)))
        for name in partition.missing(self._legacy):
            mine = self._legacy[name].get(partition.number, ())
            partition.merge(name, mine)

    @cached_property
    def _legacy(self) -> dict[str, dict[int, list[Entry]]]:
        """The rows of likeness 0.1's tables, by table and partition."""
        found: dict[str, dict[int, list[Entry]]] = {}
        for name in self.store.keys(LEGACY):
            found[name] = {}
            for entry in _legacy_entries(self.store.path(name)):
                found[name].setdefault(partition_of(entry.host), []).append(entry)
        return found


def _holds_over(entry: Entry, other: Entry) -> bool:
    """Whether of two rows for one address the first holds."""
    return (entry.state == GONE, entry.asked_at) > (other.state == GONE, other.asked_at)


def _segment(entries: Sequence[Entry]) -> bytes:
    """Rows as a table; the same rows are the same bytes."""
    columns = [
        pa.array(column, field.type)
        for column, field in zip(zip(*entries, strict=True), LEDGER_SCHEMA, strict=True)
    ]
    schema = LEDGER_SCHEMA.with_metadata({FORMAT_KEY: b"1"})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _entries(path: Path) -> Iterator[Entry]:
    """The rows of a segment; IntegrityError where it is not what its name says."""
    if file_digest(path) != path.stem:
        raise IntegrityError(
            f"{path} no longer has the sha256 of its name: delete it, and its addresses are asked again"
        )
    for row in Stored(path, ["url", "host", "state", "asked_at"]).each_row():
        yield Entry(**{name: row[name] for name in Entry._fields if name in row})


def _legacy_entries(path: Path) -> Iterator[Entry]:
    """The rows of a table of likeness 0.1, as the ledger has them; what it does not say stays None."""
    for row in Stored(path, ["ref", "sha256", "num_bytes", "reason", "detail", "fetched_at"]).each_row():
        try:
            address = web_address(row["ref"])
        except Rejected:
            continue
        reason, detail, at = row["reason"], row["detail"], row["fetched_at"]
        at = timestamp(datetime.fromisoformat(at)) if at else ""
        refused = outcome_of(Rejected(Reason(reason), detail)) if reason else None
        yield Entry(
            address.key,
            host_of(address),
            state=REFUSED if reason else KEPT,
            outcome=refused,
            reason=reason,
            detail=detail,
            attempts=1,
            sha256=row["sha256"],
            num_bytes=row["num_bytes"],
            first_asked_at=at,
            asked_at=at,
            signals=row.get("signals"),
        )


def _opened(path: Path, tables: str) -> sqlite3.Connection:
    """A SQLite file that keeps what it was told: one that is damaged is made anew, and read from segments."""
    try:
        return _connected(path, tables)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise PipelineError(f"{path} cannot be opened: {error}") from error
        logger.warning("%s is damaged (%s): it is made again from the segments of its rows", path, error)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _connected(path, tables)


def _connected(path: Path, tables: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = OFF")  # a file that is new has nothing to lose
    db.execute("PRAGMA journal_mode = WAL")
    [(found,)] = db.execute("PRAGMA user_version")
    if found:
        check_format(found, FORMAT, path)
    else:
        with _transaction(db):  # another process may be making them too
            [(found,)] = db.execute("PRAGMA user_version")
            if not found:
                for statement in tables.split(";")[:-1]:
                    db.execute(statement)
    db.execute("PRAGMA synchronous = FULL")
    return db


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of what is written in the block, or nothing; PipelineError where the disk does not take it."""
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
    except sqlite3.OperationalError as error:
        [(_, _, path)] = db.execute("PRAGMA database_list")
        raise PipelineError(f"{path} cannot be written to: {error}") from error
