"""The ledger's files: rows come back as they were, from SQLite or from segments, and of two the newer holds."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.crawl.hosts import Memory, Origin, PutOff
from preprocessing.crawl.ledger import MOST_SMALL, Ledger
from preprocessing.crawl.retry import resumes_at
from preprocessing.crawl.robots_txt import parse_robots
from preprocessing.crawl.rows import PARTITIONS, Entry, partition_of, timestamp
from preprocessing.crawl.segments import LEGACY
from preprocessing.reject import Reason
from storage.errors import FormatError, IntegrityError
from storage.store import Store
from storage.tables import put_table

ALL = range(PARTITIONS)
WORDS = st.text(max_size=20)
NUMBERS = st.integers(0, 2**40) | st.none()
ENTRIES = st.builds(
    Entry,
    url=WORDS.map("http://a.example/{}".format),
    host=st.sampled_from(["a.example", "b.example"]),
    state=st.sampled_from(["kept", "refused"]),
    outcome=st.sampled_from([None, "final", "doubtful", "passing"]),
    detail=WORDS | st.none(),
    attempts=st.integers(0, 100),
    sha256=st.just("0" * 64) | st.none(),
    num_bytes=NUMBERS,
    status=st.integers(100, 999) | st.none(),
    asked_at=st.integers(1000, 9999).map("{}-01-01T00:00:00.000000+00:00".format),
    seconds=st.floats(0, 100),
    rule=st.sampled_from(['{"a":1}', '{"a":2}', None]),
    signals=WORDS | st.none(),
    headers=st.lists(st.tuples(WORDS, WORDS)).map(json.dumps) | st.none(),
)


def entry(number: int, **fields: Any) -> Entry:
    """A row of a photograph that was fetched in some year."""
    given: dict[str, Any] = {"state": "kept", "asked_at": "2026-01-01T00:00:00.000000+00:00"}
    return Entry(**{"url": f"http://a.example/{number}", "host": "a.example", **given, **fields})


@given(st.lists(ENTRIES, max_size=20, unique_by=lambda entry: entry.url))
@settings(max_examples=15, deadline=None)
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]) -> None:
    """Rows are read as they were written, from their own file and from the store's segments where that is lost."""
    store = Store(tmp_path_factory.mktemp("store"))
    here = [entry for entry in entries if "\0" not in entry.url]  # which no address holds
    numbers = {partition_of("a.example"), partition_of("b.example")}
    with Ledger(store).held(numbers) as held:
        held.put(here)
        for number in numbers:
            mine = {entry.url: entry for entry in here if partition_of(entry.host) == number}
            assert held[number].get([*mine], whole=True) == mine
    for path in store.path("ledger/working").iterdir():
        path.unlink()
    with Ledger(store).held(numbers) as held:
        assert {entry.url: entry for entry in held.each()} == {entry.url: entry for entry in here}


def test_what_is_erased_is_in_no_file(tmp_path: Path) -> None:
    """Rows by address, by redirect and by photograph are gone from SQLite, segments and older tables; others stay, and
    a file that is lost is made again without them.
    """
    store = Store(tmp_path)
    secret = [entry(7, sha256="7" * 64, headers='[["x","secret-7"]]', signals='{"secret":7}')]
    secret += [entry(8, place="http://b.example/secret"), entry(9, sha256="9" * 64, detail="secret-9")]
    kept = [entry(number, sha256="1" * 64, headers='[["x","y"]]') for number in range(3)]
    with Ledger(store).held(ALL) as held:
        held.put([*kept, *secret])
    with Ledger(store).held(ALL) as held:
        held.put([entry(10, sha256="7" * 64, detail="secret-10")])
    with Ledger(store).read() as held:
        assert held.addresses_of(["7" * 64]) == ["http://a.example/10", "http://a.example/7"]
    assert Ledger(store).erase(["http://b.example/secret", "http://a.example/9"], ["7" * 64]) == 4
    assert Ledger(store).erase(["http://b.example/secret"], ["7" * 64]) == 0
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        held_bytes = path.read_bytes()
        if path.suffix == ".parquet":
            held_bytes += str(pq.read_table(path).to_pylist()).encode()
        assert b"secret" not in held_bytes, path
    for path in store.path("ledger/working").glob("*.sqlite*"):
        path.unlink()
    with Ledger(store).held(ALL) as held:
        assert {one.url for one in held.each()} == {one.url for one in kept}


def test_a_row_replaces_the_one_before(tmp_path: Path) -> None:
    """An address has one row, the last that was written, and its headers are the last ones."""
    store = Store(tmp_path)
    with Ledger(store).held(ALL) as held:
        held.put([entry(1, headers="[]"), entry(2, headers="[2]")])
        held.put([entry(1, headers="[1]", attempts=2)])
        assert list(held.each()) == [entry(1, headers="[1]", attempts=2), entry(2, headers="[2]")]


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_segments_the_newer_row_holds(tmp_path: Path, is_first: bool) -> None:
    """Whatever order segments are met in, the newest row is read; a tombstone holds over every other."""
    old, new = entry(1, attempts=1), entry(1, attempts=2, asked_at="2026-01-02T00:00:00.000000+00:00")
    gone, later = entry(2, state="gone"), entry(2, asked_at="2026-01-02T00:00:00.000000+00:00")
    stores = [Store(tmp_path / name) for name in ("a", "b", "c")]
    pairs = [(old, gone), (new, later)] if is_first else [(new, later), (old, gone)]
    for store, rows in zip(stores, pairs, strict=False):
        with Ledger(store).held(ALL) as held:
            held.put(rows)
        for key in store.keys("ledger/segments"):
            stores[2].put(key, store.get(key))
    with Ledger(stores[2]).held(ALL) as held:
        assert list(held.each()) == [new, gone]


def test_many_small_segments_become_few(tmp_path: Path) -> None:
    """However many crawls there were, a partition has few segments, which say all; a damaged one stays as it is."""
    store = Store(tmp_path)
    segments = f"ledger/segments/{partition_of('a.example'):02d}"
    for day in range(1, 2 * MOST_SMALL + 4):
        at = f"2026-01-{day:02d}T00:00:00.000000+00:00"
        with Ledger(store).held(ALL) as held:
            held.put([entry(day, headers="[]"), entry(0, asked_at=at, attempts=day)])
        keys = list(store.keys(segments))
        assert len(keys) <= MOST_SMALL + 1
        if day == 3:
            damaged = keys[0]
            held_by = store.get(damaged)
            store.path(damaged).write_bytes(held_by[:-1])
    assert store.exists(damaged)
    store.path(damaged).write_bytes(held_by)
    with Ledger(store).read() as held:
        rows = list(held.each())
    assert [row.attempts for row in rows if row.url.endswith("/0")] == [2 * MOST_SMALL + 3]
    assert len(rows) == 2 * MOST_SMALL + 4
    for path in store.path("ledger/working").iterdir():
        path.unlink()
    with Ledger(store).read() as held:
        assert list(held.each()) == rows


def test_damage_is_named_and_a_lost_file_is_made_again(tmp_path: Path) -> None:
    """A segment that is not what its name says is an error; a SQLite file that is none is read from segments."""
    store = Store(tmp_path)
    with Ledger(store).held(ALL) as held:
        held.put([entry(1)])
    number = partition_of("a.example")
    working = store.path(f"ledger/working/{number:02d}.sqlite")
    working.write_bytes(b"no database" * 100)
    with Ledger(store).read() as held:
        assert list(held.each()) == [entry(1)]
    [segment] = store.keys("ledger/segments")
    store.path(segment).write_bytes(store.get(segment)[:-1])
    with Ledger(store).read() as held:
        assert list(held.each()) == [entry(1)], "a segment that was read is not read again"
    working.unlink()
    with pytest.raises(IntegrityError, match="no longer has the sha256"), Ledger(store).read():
        pass


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A file of a later version of likeness is left alone."""
    store = Store(tmp_path)
    with Ledger(store).held([0]) as held:
        held[0]._db.execute("PRAGMA user_version = 99")
    with pytest.raises(FormatError, match="format 99"), Ledger(store).held([0]):
        pass


def test_what_hosts_said_is_known_to_the_next_crawl(tmp_path: Path) -> None:
    """robots.txt, and until when a host wants to be left alone, outlive the process that was told."""
    store = Store(tmp_path)
    body = b"User-agent: *\nDisallow: /x\n"
    memory = Memory({"http://a.example": Origin(parse_robots(body), body, time.monotonic())})
    memory.origins["http://b.example"] = Origin(parse_robots(b""), b"", time.monotonic(), b"", False)
    memory.origins["http://c.example"] = Origin(parse_robots(b""), b"", time.monotonic(), b"[]")
    memory.news.extend(memory.origins)
    soon = resumes_at(datetime.now(UTC), 3600)
    put_off = PutOff(Reason.SERVER_ERROR, "429, asks to be left alone", "b.example", soon)
    past = PutOff(Reason.SERVER_ERROR, "429", "c.example", datetime(2020, 1, 1, tzinfo=UTC))
    sooner = PutOff(Reason.SERVER_ERROR, "503", "b.example", resumes_at(datetime.now(UTC), 60))
    with Ledger(store).held([0]) as held:
        for wish in (put_off, past, sooner):
            memory.wishes.append(wish)
            held.remember(memory)
    with Ledger(store).held([1]) as held:
        again = held.memory()
    assert again.origins["http://a.example"].robots == parse_robots(body)
    known_tdmrep = {origin: known.tdmrep for origin, known in again.origins.items()}
    assert known_tdmrep == {"http://a.example": None, "http://b.example": None, "http://c.example": b"[]"}
    assert again.paces.keys() == {"b.example"}
    known = again.paces["b.example"].put_off
    assert known is not None
    assert (timestamp(known.until), known.detail) == (timestamp(soon), put_off.detail)


def test_tables_of_version_0_1_are_read(tmp_path: Path) -> None:
    """What an earlier version had fetched or been refused is known, with the class that its refusal has today."""
    columns = ("ref", "sha256", "num_bytes", "reason", "detail", "fetched_at")
    schema = pa.schema(
        [pa.field(name, pa.int64() if name == "num_bytes" else pa.string()) for name in columns]
    )
    at = "2026-01-01T00:00:00+00:00"
    rows = [
        ("http://A.example/a", "a" * 64, 3, None, None, at),
        ("http://a.example/b", None, None, "http_status", "404", at),
        ("http://a.example/c", None, None, "robots_disallowed", "Disallow: /", at),
        ("http://a.example/d", None, None, "timed_out", None, at),
        ("no address", None, None, "bad_url", None, at),
    ]
    store = Store(tmp_path)
    put_table(store, f"{LEGACY}/x/y.parquet", [dict(zip(columns, row, strict=True)) for row in rows], schema)
    with Ledger(store).held(ALL) as held:
        found = {entry.url[-1]: (entry.state, entry.outcome, entry.sha256) for entry in held.each()}
    assert found == {
        "a": ("kept", None, "a" * 64),
        "b": ("refused", "final", None),
        "c": ("refused", "doubtful", None),
        "d": ("refused", "passing", None),
    }
