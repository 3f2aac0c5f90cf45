"""storage.gathered: rows of many tables are found as a scan finds them, whatever was gathered, damaged or deleted."""

from __future__ import annotations

import logging
import os
import pickle
import random
import resource
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import pyarrow as pa
import pytest

from storage import gathered as module
from storage.digest import bytes_digest
from storage.errors import IntegrityError
from storage.gathered import ROW, TABLE, Gathered
from storage.store import Store
from storage.tables import Row, get_table, put_table

PREFIX = "chunks/some"
SCHEMA = pa.schema(
    [
        pa.field("photo", pa.string()),
        pa.field("image", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("points", pa.list_(pa.float64())),
    ]
)


def opened(store: Store) -> Gathered:
    """The rows as they are now."""
    return Gathered(store, PREFIX, SCHEMA, "photo", "image")


def write(store: Store, name: str, photos: range, size: int = 0) -> None:
    """A table of two rows a photograph, or of one without an image for every fifth."""
    rows: list[Row] = []
    for photo in photos:
        for face in range(1 if photo % 5 == 0 else 2):
            image = None if photo % 5 == 0 else bytes_digest(f"{photo} {face}".encode())
            rows.append(
                {"photo": f"p{photo}", "image": image, "size": size + face, "points": [photo / 7, face]}
            )
    put_table(store, f"{PREFIX}/{name}.parquet", rows, SCHEMA)


def scanned(store: Store) -> dict[str, list[Row]]:
    """The rows of every photograph by reading every table: those of the first table by name, with their places."""
    found: dict[str, list[Row]] = {}
    for path in sorted(store.path(PREFIX).glob("*.parquet")):
        mine: dict[str, list[Row]] = defaultdict(list)
        for number, row in enumerate(get_table(store, f"{PREFIX}/{path.name}", SCHEMA.names)):
            mine[row["photo"]].append({**row, TABLE: path.name, ROW: number})
        found = {**mine, **found}
    return found


def check(store: Store) -> None:
    """All photographs, some, and none are found as by a scan, and their whole rows by their places."""
    wanted = scanned(store)
    some = random.Random(0).sample(sorted(wanted), len(wanted) // 3)
    for photos in (list(wanted), some, [], ["nobody"], [*some, "nobody"]):
        found = opened(store).rows(pa.array(photos, pa.string()), SCHEMA.names)
        assert [photos[number] for number in found["number"].to_pylist()] == found["photo"].to_pylist()
        found = found.drop_columns(["number"])
        rows = [row for photo in photos for row in wanted.get(photo, [])]
        assert sorted(found.to_pylist(), key=repr) == sorted(rows, key=repr)
        places = found.select([TABLE, ROW, "photo", "image"]).filter(found["image"].is_valid())
        whole = [{name: row[name] for name in SCHEMA.names} for row in found.to_pylist() if row["image"]]
        assert opened(store).at(places).to_pylist() == whole


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Tables of several sizes, two of which hold some photographs both, in gathered ones of few rows."""
    monkeypatch.setattr(module, "MOST_ROWS", 40)
    monkeypatch.setattr(module, "PART_ROWS", 8)
    made = Store(tmp_path / "store")
    for number, name in enumerate("dacbfe"):
        write(made, name, range(number * 11, number * 11 + 11 + number))
    write(made, "a0", range(20, 30), size=100)
    return made


def segments(store: Store) -> list[Path]:
    """The gathered tables."""
    return sorted(store.path(f"{PREFIX}/gathered").glob("*.parquet"))


def test_rows_are_found_before_and_after_they_are_gathered(store: Store) -> None:
    """What is found is the same without a gathered table, with some, and with all."""
    check(store)
    opened(store).gather()
    check(store)
    write(store, "g", range(100, 103))
    check(store)
    opened(store).gather()
    check(store)


def test_what_is_gathered_is_not_read_again(store: Store) -> None:
    """Once gathered, rows are found though their tables hold something else under the same size and time."""
    before = opened(store).rows(pa.array(["p3"]), SCHEMA.names).sort_by("size")
    opened(store).gather()
    for path in store.path(PREFIX).glob("*.parquet"):
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert opened(store).rows(pa.array(["p3"]), SCHEMA.names).sort_by("size").equals(before)
    assert before.num_rows == 2


def test_small_ones_merge(store: Store) -> None:
    """A hundred gatherings of one table each leave few gathered tables, whose rows are each there once."""
    for number in range(100):
        write(store, f"z{number}", range(1000 + number, 1001 + number))
        opened(store).gather()
    check(store)
    tables = [get_table(store, f"{PREFIX}/gathered/{path.name}", SCHEMA.names) for path in segments(store)]
    written = store.path(PREFIX).glob("*.parquet")
    assert sum(map(len, tables)) == sum(
        len(get_table(store, f"{PREFIX}/{path.name}", [])) for path in written
    )
    assert len(tables) < 20
    assert all(len(rows) <= 2 * module.MOST_ROWS for rows in tables)
    again = segments(store)
    opened(store).gather()
    assert segments(store) == again


def deleted(path: Path) -> None:
    """Gone."""
    path.unlink()


def truncated(path: Path) -> None:
    """Cut short."""
    path.write_bytes(path.read_bytes()[:-30])


def flipped(path: Path) -> None:
    """With other bytes in its pages."""
    data = bytearray(path.read_bytes())
    for position in range(8, len(data) // 2, 7):
        data[position] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [deleted, truncated, flipped])
def test_a_damaged_gathered_table_costs_nothing_but_time(store: Store, harm: Callable[[Path], None]) -> None:
    """Deleted, cut short or altered: the tables are read themselves, and gathered anew."""
    opened(store).gather()
    for path in segments(store)[::2]:
        harm(path)
    check(store)
    opened(store).gather()
    check(store)


def test_a_table_that_changed_is_read_itself(store: Store) -> None:
    """A table that is written again is read again; one that is gone holds nothing, and the next one counts."""
    opened(store).gather()
    write(store, "b", range(200, 220))
    store.path(f"{PREFIX}/a0.parquet").unlink()
    check(store)
    opened(store).gather()
    check(store)


def test_a_damaged_table_counts_as_absent(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A table that cannot be read is named in a warning, gathered before or not, and the others are read."""
    for _ in range(2):
        path = store.path(f"{PREFIX}/c.parquet")
        whole = path.read_bytes()
        path.write_bytes(whole[:50])
        with caplog.at_level(logging.WARNING):
            found = opened(store).rows(pa.array(list(map("p{}".format, range(80)))), SCHEMA.names)
        assert "c.parquet" in caplog.text
        assert "c.parquet" not in found[TABLE].to_pylist()
        assert set(found[TABLE].to_pylist()) == {
            f"{name}.parquet" for name in ("a", "a0", "b", "d", "e", "f")
        }
        path.write_bytes(whole)
        opened(store).gather()


@pytest.mark.parametrize("is_gathered", [False, True])
def test_what_was_written_since_is_found_alone(store: Store, is_gathered: bool) -> None:
    """Rows of tables that are new, or were written again, gathered or not, and of no other; each is read once."""
    opened(store).gather()
    before = opened(store)
    wanted = pa.array([f"p{photo}" for photo in range(60)])
    assert before.rows(wanted, ["photo"]).num_rows
    assert opened(store).rows(wanted, ["photo"], since=before).num_rows == 0
    write(store, "z", range(30, 34))
    write(store, "a", range(11, 13), size=7)
    if is_gathered:
        opened(store).gather()
    else:
        for path in segments(store):
            path.write_bytes(b"not to be read")
    found = opened(store).rows(wanted, ["photo", "size"], since=before)
    assert {row["photo"]: row[TABLE] for row in found.to_pylist()} == {
        **dict.fromkeys(["p11", "p12"], "a.parquet"),
        **dict.fromkeys(["p30", "p31", "p32", "p33"], "z.parquet"),
    }


def test_a_place_that_holds_something_else_is_an_error(store: Store) -> None:
    """Rows are asked for by place and by what they are: another row there, or none, is an error, not an answer."""
    found = opened(store).rows(pa.array(["p1", "p2"]), ["photo", "image"])
    assert opened(store).at(found).num_rows == 4
    for name, value in (("photo", "p9"), ("image", "0" * 64)):
        column = found.schema.get_field_index(name)
        other = found.set_column(column, name, pa.array([value] * 4))
        for _ in range(2):
            with pytest.raises(IntegrityError, match="some"):
                opened(store).at(other)
            opened(store).gather()
    for path in (*segments(store), *store.path(PREFIX).glob("d.parquet")):
        path.unlink()
    with pytest.raises(IntegrityError, match=r"d\.parquet"):
        opened(store).at(found)


def test_it_travels_to_workers(store: Store) -> None:
    """Opened and used, it can be pickled, and finds the same elsewhere."""
    opened(store).gather()
    here = opened(store)
    found = here.rows(pa.array(["p1", "p12"]), ["photo", "image"])
    there = pickle.loads(pickle.dumps(here))
    assert there.at(found).equals(here.at(found))


def test_a_store_that_cannot_be_written_to_is_read(store: Store) -> None:
    """Where gathered tables cannot be kept, there are none."""
    store.path(f"{PREFIX}/gathered").write_text("in the way")
    opened(store).gather()
    check(store)


@contextmanager
def few_files(num: int) -> Iterator[None]:
    """This process may open so many files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/proc/self/fd")))
    free = (number for number in count() if number not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, num, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_tables_than_files_may_be_open_are_gathered(tmp_path: Path) -> None:
    """A killed build leaves any number of tables: what reads them gathers them first, with few open at once."""
    store = Store(tmp_path)
    for number in range(80):
        write(store, f"t{number:02d}", range(3 * number, 3 * number + 3))
    wanted = pa.array([f"p{photo}" for photo in range(240)])
    with few_files(40):
        found = opened(store)
        assert not found.is_gathered
        with pytest.raises(OSError, match="Too many open files"):
            found.rows(wanted, ["photo"])
        opened(store).gather()
        found = opened(store)
        assert found.is_gathered
        assert set(found.rows(wanted, ["photo"])["photo"].to_pylist()) == set(wanted.to_pylist())
