"""storage.store: objects are written whole, found again, and checked."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from storage.digest import bytes_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.store import Store, original_key


def test_round_trip(tmp_path: Path) -> None:
    """What was put is got, from bytes and from a file, also by a store that travelled to another process."""
    store = Store(tmp_path / "store")
    store.put("a/b", b"one")
    (tmp_path / "file").write_bytes(b"two")
    store.put("a/c", tmp_path / "file")
    travelled = pickle.loads(pickle.dumps(store))
    assert (travelled.get("a/b"), travelled.get("a/c")) == (b"one", b"two")
    assert list(travelled.keys("a")) == ["a/b", "a/c"]
    assert list(travelled.keys("nothing")) == []


def test_missing_object_is_named(tmp_path: Path) -> None:
    """Getting what is not there names the key."""
    with pytest.raises(NotFoundError, match="holds no a/b"):
        Store(tmp_path).get("a/b")


def test_link_has_the_same_bytes(tmp_path: Path) -> None:
    """A linked object reads like its source, and linking twice changes nothing."""
    store = Store(tmp_path)
    store.put("a", b"data")
    for _ in range(2):
        store.link("a", "deep/b")
    assert store.get("deep/b") == b"data"


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


@pytest.mark.parametrize("root", ["s3://bucket/store", "FILE"])
def test_a_store_is_a_folder(tmp_path: Path, root: str) -> None:
    """A URL or a file as the store is refused in one sentence that names it."""
    if root == "FILE":
        (tmp_path / "file").touch()
        root = str(tmp_path / "file")
    with pytest.raises(ConfigError, match="a store is a"):
        Store(root)


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
