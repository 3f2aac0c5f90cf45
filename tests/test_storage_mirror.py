"""storage.mirror and storage.leases: a store in a bucket, seen from several machines, with little room, ill served."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import storage.bucket
import storage.leases
import storage.store
from s3_server import FAULTS, faulty
from storage.bucket import Bucket
from storage.digest import bytes_digest
from storage.errors import ConfigError, IntegrityError, ServiceError
from storage.layout import misplaced
from storage.leases import leased
from storage.local import delete, here, rename_folder, whole_folder, write_whole
from storage.mirror import is_here_alone
from storage.store import Store
from storage.verify import verify

pytestmark = pytest.mark.s3
Machine = Callable[[], Store]


@pytest.fixture
def machine(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Gives the store in the bucket as a machine sees it that has never seen it before."""

    def new() -> Store:
        monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / f"machine{len(list(tmp_path.iterdir()))}"))
        return Store(bucket)

    return new


def test_others_see_what_was_written(machine: Machine) -> None:
    """Records of another machine are there after a refresh, changed or deleted as they are there; data at once."""
    one, other = machine(), machine()
    one.put("datasets/a/latest.json", b"1")
    one.put("chunks/a", b"data")
    assert other.get("chunks/a") == b"data"
    assert not other.exists("datasets/a/latest.json")
    other.refresh()
    assert other.get("datasets/a/latest.json") == b"1"
    one.put("datasets/a/latest.json", b"2")
    other.refresh("datasets/a")
    assert other.get("datasets/a/latest.json") == b"2"
    os.utime(other.path("datasets/a/latest.json"), (0, 0))
    delete(one.path("datasets/a"))
    other.refresh()
    assert not other.exists("datasets/a/latest.json")


def test_records_are_fetched_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh fetches what is new to this machine, and nothing of what it has or wrote itself."""
    store = machine()
    store.put("runs/a/run.json", b"1")
    fetched: list[str] = []
    fetch = Bucket.fetch

    def noted(self: Bucket, key: str, path: Path, limit: int, size: int | None = None) -> str:
        fetched.append(key)
        return fetch(self, key, path, limit, size)

    monkeypatch.setattr(Bucket, "fetch", noted)
    for _ in range(2):
        store.refresh()
    assert fetched == []
    other = machine()
    other.refresh()
    assert fetched == ["runs/a/run.json"]


def test_some_files_stay_here(machine: Machine) -> None:
    """What is of this machine alone never reaches the bucket, and a refresh leaves it."""
    store = machine()
    mine = ("mlflow.db", "cache/x", "ledger/working/00.sqlite", "runs/r/lock", ".lock", "runs/r/mlflow.json")
    for key in mine:
        assert is_here_alone(key)
        write_whole(store.path(key), b"1")
        os.utime(store.path(key), (0, 0))
    store.refresh()
    assert all(store.path(key).is_file() for key in mine)
    assert list(Bucket(str(store)).entries("")) == []


def test_folders_arrive_whole(machine: Machine) -> None:
    """A folder that is written whole is in the bucket, may get another name there, and large files come when asked."""
    one, other = machine(), machine()
    with whole_folder(one.path("runs/r/checkpoints/1")) as folder:
        (folder / "state.json").write_bytes(b"{}")
        (folder / "weights").write_bytes(bytes(5 << 20))
    other.refresh()
    folder = other.path("runs/r/checkpoints/1")
    assert sorted(path.name for path in folder.iterdir()) == ["state.json"]
    assert here(folder / "weights").stat().st_size == 5 << 20
    rename_folder(folder, "damaged")
    assert list(one.mirror.bucket.entries("runs/r/checkpoints/1")) == []
    assert here(one.path("runs/r/checkpoints/damaged/weights")).stat().st_size == 5 << 20


def test_data_has_little_room(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that was not asked for the longest goes when there is no room, and comes again when it is asked for."""
    monkeypatch.setenv("LIKENESS_CACHE_BYTES", "10000")
    store = machine()
    keys = [f"chunks/{number}" for number in range(10)]
    for age, key in enumerate(keys):
        store.put(key, bytes(2000))
        os.utime(store.path(key), (time.time() - 10_000 + age,) * 2)
    store.file(keys[0])  # asked for
    assert store.mirror is not None
    store.mirror.make_room()
    here_now = [key for key in keys if store.path(key).is_file()]
    assert sum(store.path(key).stat().st_size for key in here_now) <= 10_000
    assert keys[0] in here_now
    assert all(store.get(key) == bytes(2000) for key in keys)


def test_names_that_lead_out_are_refused(machine: Machine, tmp_path: Path) -> None:
    """A record under a hostile name is fetched nowhere, and the error names it."""
    store = machine()
    Bucket(str(store)).put("datasets/a", b"1")
    Bucket(str(store)).put("datasets/a/b", b"1")
    with pytest.raises(IntegrityError, match="is a file there, and a folder too"):
        store.refresh()
    with pytest.raises(IntegrityError, match="leads out of the store"):
        store.file("datasets/../../x")


def test_what_needs_a_folder_says_so(machine: Machine, tmp_path: Path) -> None:
    """A bucket is refused by name where only a folder will do, and a folder is not."""
    Store(tmp_path / "folder").check_is_folder("likeness demo", "it shows files")
    store = machine()
    with pytest.raises(
        ConfigError, match=f"likeness demo works on a store in a folder, and {store} is a bucket: it"
    ):
        store.check_is_folder("likeness demo", "it shows files")


def test_damage_in_the_bucket_is_named(machine: Machine) -> None:
    """An object that has not the sha256 of its name is refused as it arrives, and nothing of it stays."""
    store = machine()
    sha256 = bytes_digest(b"photo")
    key = f"originals/{sha256[:2]}/{sha256}"
    Bucket(str(store)).put(key, b"other")
    with pytest.raises(IntegrityError, match=f"{sha256} no longer has the sha256 of its name"):
        store.original(sha256)
    assert not store.path(key).exists()


def test_what_is_forgotten_goes_from_every_machine(machine: Machine) -> None:
    """Once something was forgotten, other machines keep no data that they had before."""
    one, other = machine(), machine()
    sha256 = one.put_original(b"photo")
    assert other.original(sha256) == b"photo"
    one.put("forgets/1/certificate.json", b"{}")
    other.refresh()
    assert not other.path(f"originals/{sha256[:2]}/{sha256}").exists()


def test_locks_hold_across_machines(machine: Machine) -> None:
    """A lock that one machine has another one does not get, and one of a process that is gone counts for nothing."""
    one, other = machine(), machine()
    with one.in_use(), other.in_use(), other.locked(".lock", wait=False) as is_mine:
        assert not is_mine
    with one.locked(".lock", wait=False) as is_mine, other.locked(".lock", wait=False) as too:
        assert (is_mine, too) == (True, False)
    Bucket(str(one)).put("leases/.lock/exclusive-dead", b"")
    with other.locked(".lock", wait=False) as is_mine:
        assert not is_mine


def test_a_lease_is_renewed_or_dead(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is renewed stays, and one that is not is taken away when its time is over."""
    monkeypatch.setattr(storage.leases, "ALIVE_S", 2.0)
    monkeypatch.setattr(storage.leases, "RENEW_S", 0.1)
    objects = Bucket(bucket)
    objects.put("leases/a/exclusive-dead", b"")
    with leased(objects, "a", shared=False, wait=True) as is_mine:  # when the other is dead
        assert is_mine
        began = [entry.modified_us for entry in objects.entries("leases/a")]
        while [entry.modified_us for entry in objects.entries("leases/a")] == began:
            time.sleep(0.1)
    assert list(objects.entries("leases/a")) == []


@pytest.mark.parametrize("wrong", FAULTS)
def test_faults_are_tried_again(s3: str, bucket: str, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Every third request goes wrong, and what is written and read is all the same whole and right."""
    monkeypatch.setitem(storage.bucket.RETRY, "max_retries", 6)
    monkeypatch.setattr(storage.bucket, "PAUSE_S", 0.01)
    with faulty(s3, lambda number, method, path: wrong if number % 3 == 1 else None) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = Store(bucket)
        for number in range(3):
            store.put(f"chunks/{number}", bytes([number]) * 3000)
            store.change("names/a", partial(str.encode, str(number)))
        delete(store.path("chunks/0"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    objects = Bucket(bucket)
    assert sorted(entry.key for entry in objects.entries("chunks")) == ["chunks/1", "chunks/2"]
    assert objects.read("chunks/2", 3000) == bytes([2]) * 3000
    assert objects.read("names/a", 10) == b"2"
    assert list(objects.entries("leases")) == []


def test_a_server_that_ignores_conditions_is_told_of(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a bucket that overwrites what is to be new a warning says so, once; of others none."""
    store = machine()
    store.change("names/a", lambda: b"1")
    assert caplog.text == ""
    store = machine()
    monkeypatch.setattr(Bucket, "replace", lambda self, key, data, tag: self.put(key, data) is not None)
    for _ in range(2):
        store.change("names/a", lambda: b"2")
    assert caplog.text.count("ignores If-None-Match") == 1


def test_a_server_that_is_gone_is_one_sentence(s3: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is answered any more the sentence names the object, and no credentials."""
    monkeypatch.setitem(storage.bucket.RETRY, "max_retries", 1)
    with faulty(s3, lambda *_: "drop") as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(ServiceError, match="cannot be had") as raised:
            Store(bucket)
    assert "somebody" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_killed_upload_leaves_nothing(bucket: str) -> None:
    """A process that is killed while it puts a large file leaves no object that anybody sees."""
    code = (
        "import sys, threading, os, time; from pathlib import Path; from storage.store import Store\n"
        "store = Store(sys.argv[1]); big = Path(sys.argv[2]); big.write_bytes(os.urandom(64 << 20))\n"
        "print('begun', flush=True)\n"
        "store.put('chunks/big', big)\n"
    )
    big = Path(os.environ["LIKENESS_CACHE"]).parent / "big"
    process = subprocess.Popen(
        [sys.executable, "-c", code, bucket, str(big)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.kill()
    process.communicate()
    store = Store(bucket)
    assert list(store.keys("chunks")) == []
    store.put("chunks/big", big)
    assert store.get("chunks/big") == big.read_bytes()


@pytest.mark.parametrize("use", ["working_copy(store)", "store.unseen()"])
def test_what_a_killed_command_copied_goes_with_the_next(
    machine: Machine, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """The folder in which a killed process mended or verified a bucket is deleted by the next command."""
    machine().put("datasets/a/latest.json", b"1")
    program = f"""
import time
from storage.store import Store
from storage.working_copy import working_copy
store = Store({bucket!r})
with {use} as copy:
    print(copy.root, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        monkeypatch.setattr(storage.store, "_seen", set())
        image = Store(bucket).root
        assert (folder / "datasets/a/latest.json").is_file()
        process.kill()
        process.wait()
        monkeypatch.setattr(storage.store, "_seen", set())
        Store(bucket)
    assert list(folder.parent.iterdir()) == [image]


def test_what_does_not_belong_in_a_bucket_is_named(machine: Machine, bucket: str) -> None:
    """Objects where none are, those called like a folder of the store's, and those below what is a file's name."""
    there = Bucket(bucket)
    belongs = (
        "originals/00/" + "0" * 64,
        "runs/r/notes.txt",
        "runs/r/run.json",
        "notes.txt",
        "cache/x",
        "leases/x",
    )
    strays = ("tombstones/mine.txt", "chunks", "withdrawn.json", "datasets/a/withdrawn.json", "originals/mine",
              "datasets/a/builds/x.json/deep", "runs/s/stats.jsonl")  # fmt: skip
    for key in (*belongs, *strays):
        there.put(key, b"1")
    store = machine()
    named = {f"{store.path(key)}" for key in strays[:-2]}
    named |= {f"{store.path('datasets/a/builds/x.json')}", f"{store.path('runs/s/run.json')}"}
    found = list(misplaced(store))
    assert {problem.split(" ")[0] for problem in found} >= named
    assert not [problem for problem in found for key in belongs if problem.startswith(f"{store.path(key)} ")]
    told = verify(store, None)[1].problems
    assert [problem for problem in told if problem.startswith(f"{bucket}/tombstones/mine.txt ")], told


def test_a_server_that_fails_for_a_while_is_waited_for(s3: str, bucket: str) -> None:
    """What a process is about to write is written after ten seconds of 503; before its first answer it waits less."""
    began: list[float] = []

    def fault(number: int, method: str, path: str) -> str | None:
        if method == "PUT" and not began:
            began.append(time.monotonic())
        return "503" if began and time.monotonic() < began[0] + 10 else None

    code = "import sys; from storage.store import Store; Store(sys.argv[1]).put('chunks/a', b'1')"
    with faulty(s3, fault) as address:
        told = {**os.environ, "AWS_ENDPOINT_URL": address}
        done = subprocess.run([sys.executable, "-c", code, bucket], env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began[0] >= 10
    with faulty(s3, lambda *_: "503") as address:
        told = {**os.environ, "AWS_ENDPOINT_URL": address}
        asked = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code, bucket], env=told, capture_output=True, text=True)
    assert "cannot be had: it answers 503" in done.stderr
    assert time.monotonic() - asked < 90, "as long as a store that has answered is waited for"
