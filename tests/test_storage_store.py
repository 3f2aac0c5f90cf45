"""storage.store: objects are written whole, found again, and checked."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.digest import bytes_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.local import delete, delete_files, whole_folder, write_whole
from storage.store import Store, original_key


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store: a folder, or a bucket."""
    return Store(tmp_path / "store" if request.param == "folder" else str(request.getfixturevalue("bucket")))


def test_round_trip(store: Store, tmp_path: Path) -> None:
    """What was put is got, from bytes and from a file, also by a store that travelled to another process."""
    store.put("a/b", b"one")
    (tmp_path / "file").write_bytes(b"two")
    store.put("a/c", tmp_path / "file")
    travelled = pickle.loads(pickle.dumps(store))
    assert (travelled.get("a/b"), travelled.get("a/c")) == (b"one", b"two")
    assert list(travelled.keys("a")) == ["a/b", "a/c"]
    assert list(travelled.keys("nothing")) == []


@pytest.mark.parametrize("key", ["a/b", "chunks/a/b"])
def test_missing_object_is_named(store: Store, key: str) -> None:
    """Getting what is not there names the key."""
    with pytest.raises(NotFoundError, match=f"holds no {key}"):
        store.get(key)


def test_what_is_shared_is_read_under_either_name(store: Store) -> None:
    """An object that is the same as another is read where either is asked for."""
    store.put("chunks/a.tar", b"data")
    for _ in range(2):
        store.share({"datasets/deep/b.tar": "chunks/a.tar"})
    assert store.shared("datasets/deep/b.tar", "chunks/a.tar").read_bytes() == b"data"
    store.put("datasets/deep/c.tar", b"own")
    assert store.shared("datasets/deep/c.tar", "chunks/gone.tar").read_bytes() == b"own"


def test_a_record_is_made_once(store: Store) -> None:
    """Of two who make an object under one key, the second is told that it is there, and the first one's stays."""
    assert [store.create("names/a", data) for data in (b"one", b"two")] == [True, False]
    assert store.get("names/a") == b"one"


def test_changes_see_each_other(store: Store) -> None:
    """Of several who change one record at once, each sees what the others made of it."""

    def add() -> None:
        def longer() -> bytes:
            return (store.get("names/a") if store.exists("names/a") else b"") + b"+"

        store.change("names/a", longer)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(add) for _ in range(8)]:
            done.result()
    assert store.get("names/a") == b"+" * 8
    store.change("names/a", lambda: None)
    assert store.get("names/a") == b"+" * 8


def test_locks(store: Store) -> None:
    """A shared lock lets others in and an exclusive one nobody, until its block ends, however it ends."""
    with store.in_use(), store.in_use(), store.locked(".lock", wait=False) as is_mine:
        assert not is_mine
    with pytest.raises(ConfigError), store.locked(".lock", wait=False):
        raise ConfigError("of what is done meanwhile")
    with store.locked(".lock", wait=False) as is_mine:
        assert is_mine
        with store.locked(".lock", shared=True, wait=False) as too:
            assert not too


def test_what_is_deleted_is_gone(store: Store) -> None:
    """A file and a folder that are deleted are in no list, and can be deleted again."""
    for key in ("chunks/a/b", "runs/r/run.json", "runs/r/deep/c"):
        store.put(key, b"1")
    for _ in range(2):
        delete(store.path("runs/r"))
        delete_files([store.path("chunks/a/b")])
    assert [*store.keys("chunks"), *store.keys("runs")] == []


def test_link_has_the_same_bytes(tmp_path: Path) -> None:
    """A linked object reads like its source, and linking twice changes nothing."""
    store = Store(tmp_path)
    store.put("a", b"data")
    for _ in range(2):
        store.link("a", "deep/b")
    assert store.get("deep/b") == b"data"


def test_originals_are_found_by_their_sha256(store: Store, tmp_path: Path) -> None:
    """An original is found by its sha256, from bytes and from a file that is moved, and is there once."""
    sha256s = [store.put_original(b"photo") for _ in range(2)]
    (tmp_path / "other").write_bytes(b"other")
    store.adopt_original(tmp_path / "other", sha256 := bytes_digest(b"other"))
    assert not (tmp_path / "other").exists()
    assert [store.original(one) for one in (*sha256s, sha256)] == [b"photo", b"photo", b"other"]
    assert list(store.keys("originals")) == sorted({original_key(sha256), *map(original_key, sha256s)})


def test_originals_are_content_addressed_and_checked(tmp_path: Path) -> None:
    """An original is found by its sha256, a changed one is refused by name, and the next put mends it."""
    store = Store(tmp_path)
    sha256 = store.put_original(b"photo")
    assert store.original(sha256) == b"photo"
    store.path(original_key(sha256)).write_bytes(b"other")
    with pytest.raises(IntegrityError, match=sha256):
        store.original(sha256)
    assert store.put_original(b"photo") == sha256
    assert store.original(sha256) == b"photo"


def test_a_file_becomes_an_original(tmp_path: Path) -> None:
    """A photograph in a file is moved under its sha256, in place of damaged bytes, and once only."""
    store = Store(tmp_path / "store")
    sha256 = bytes_digest(b"photo")
    for damage in (None, b"other", b"photo"):
        if damage is not None:
            store.path(original_key(sha256)).write_bytes(damage)
        arrived = tmp_path / "arrived"
        arrived.write_bytes(b"photo")
        store.adopt_original(arrived, sha256)
        assert store.original(sha256) == b"photo"
        assert not arrived.exists()


@pytest.mark.parametrize(
    ("root", "says"),
    [
        ("ftp://host/store", "neither a folder nor one of"),
        ("https://host/store", "a web server"),
        ("s3://user:secret@bucket/store", "credentials are taken from the environment"),
        ("FILE", "a store is a folder or a bucket"),
    ],
)
def test_what_is_no_store(tmp_path: Path, root: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be no store is refused in one sentence that names it, and no secret."""
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / "cache"))
    if root == "FILE":
        (tmp_path / "file").touch()
        root = str(tmp_path / "file")
    with pytest.raises(ConfigError, match=says) as raised:
        Store(root)
    assert "secret" not in str(raised.value)


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    """A URL of a file, as text or as a path that has folded its slashes, is the folder that it leads to."""
    url = (tmp_path / "a store").as_uri()
    assert Store(url).root == Store(Path(url)).root == tmp_path / "a store"


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    """What one user of a group writes, the others may write too, where the umask says so."""
    before = os.umask(0o007)
    try:
        store = Store(tmp_path / "store")
        store.put("a/bytes", b"1")
        (tmp_path / "file").write_bytes(b"2")
        store.put("a/file", tmp_path / "file")
        store.link("a/file", "b/link")
        original = original_key(store.put_original(b"3"))
        with store.locked("a/.lock"):
            pass
    finally:
        os.umask(before)
    for key in ("a/bytes", "a/file", "b/link", original, "a/.lock"):
        assert store.path(key).stat().st_mode & 0o777 == 0o660, key
    assert store.path("a").stat().st_mode & 0o777 == 0o770


def test_a_full_disk_names_what_was_being_written(tmp_path: Path) -> None:
    """An object that finds no room, given as bytes or as a file, is named itself, and not what it was copied from."""
    code = (
        "import resource, sys; from pathlib import Path; from storage.store import Store\n"
        "store = Store(sys.argv[1]); given = Path(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "for data in (given, given.read_bytes()):\n"
        "    try: store.put('a/b', data)\n"
        "    except OSError as error: print(error.filename, error.strerror)\n"
    )
    given = tmp_path / "given"
    given.write_bytes(bytes(5000))
    command = [sys.executable, "-c", code, str(tmp_path / "store"), str(given)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"{tmp_path / 'store' / 'a' / 'b'} File too large\n" * 2
    assert list((tmp_path / "store" / "a").iterdir()) == []


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    """A link in a store, to a file or a folder elsewhere, is refused by name; what it leads to stays as it was."""
    store, outside = Store(tmp_path / "store"), tmp_path / "outside"
    store.put("runs/a/run.json", b"{}")
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    (store.path("runs/a") / "metrics.json").symlink_to(outside / "mine")
    store.path("runs/b").symlink_to(outside)
    for path in ("runs/a/metrics.json", "runs/b/mine", "runs/b/new"):
        with pytest.raises(IntegrityError, match=f"{path} leads out of the store"):
            write_whole(store.path(path), b"theirs")
    with (
        pytest.raises(IntegrityError, match="leads out of the store"),
        whole_folder(store.path("runs/b/folder")),
    ):
        pass
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("mine", b"mine")]


def test_a_link_within_a_store_is_followed(tmp_path: Path) -> None:
    """A link that stays in the store, and one of a store's own folder, lead to what is written."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "store")
    store.put("a", b"old")
    store.path("b").symlink_to(store.path("a"))
    write_whole(store.path("b"), b"new")
    assert store.get("a") == b"new"
