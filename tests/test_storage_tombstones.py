"""Tombstones: what is buried is found again in any spelling, by whoever has the store's key, and names nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import bytes_digest
from storage.errors import FormatError, IntegrityError
from storage.store import Store
from storage.tombstones import KEY, Tombstones, plain_name


def test_what_is_buried_is_found(tmp_path: Path) -> None:
    """Each kind is found again, by another reader too, and nothing that was not buried is."""
    store = Store(tmp_path)
    assert not Tombstones(store).has("url", "http://a.example/1")
    assert not (tmp_path / "tombstones").exists(), "asking writes nothing"
    buried = Tombstones(store)
    buried.bury([("url", "http://a.example/1"), ("host", "b.example"), ("author", "Zoë  Q.")], "asked")
    buried.bury([("sha256", "A" * 64), ("md5", "b" * 32)])
    again = Tombstones(store)
    for found in (buried, again):
        assert found.has("url", "http://a.example/1")
        assert found.has("host", "B.Example")
        assert found.has("author", "zoe\u0308 q.")
        assert found.has("sha256", "a" * 64)
        assert not found.has("url", "http://a.example/2")
        assert not found.has("author", "b.example")
        assert not found.has("pdq", "a" * 64)


def test_tombstones_name_nobody(tmp_path: Path) -> None:
    """No file holds an address or a name, two stores keep them differently, and the key is its owner's alone."""
    stores = [Store(tmp_path / name) for name in ("a", "b")]
    for store in stores:
        Tombstones(store).bury([("author", "A. Author"), ("url", "http://a.example/1"), ("sha256", "a" * 64)])
    texts = [path.read_text() for store in stores for path in store.path("tombstones").iterdir()]
    assert not any("Author" in text or "example" in text or "a" * 64 in text for text in texts)
    one, other = (Tombstones(store).digests["author"] for store in stores)
    assert one != other
    assert stores[0].path(KEY).stat().st_mode & 0o077 == 0


def test_damage_is_named(tmp_path: Path) -> None:
    """A changed file, a missing key and a newer format are told, and never read as if nothing were buried."""
    store = Store(tmp_path)
    Tombstones(store).bury([("host", "a.example")])
    [name] = [name for name in store.keys("tombstones") if name.endswith(".jsonl")]
    data, key = store.get(name), store.get(KEY)
    store.path(KEY).unlink()
    with pytest.raises(IntegrityError, match="key is gone"):
        Tombstones(store).has("host", "a.example")
    for damage, said in (
        (b"", "damaged"), (key[:32], "damaged"), (b"\xff" * 64, "damaged"), (b"ab" * 32, "is not the key"),
    ):  # fmt: skip
        store.put(KEY, damage)
        with pytest.raises(IntegrityError, match=said):
            Tombstones(store).has("host", "a.example")
        with pytest.raises(IntegrityError, match=said):
            Tombstones(store).check()
    store.put(KEY, key)
    Tombstones(store).check()
    store.put(name, data + b"{}\n")
    with pytest.raises(IntegrityError, match="sha256"):
        Tombstones(store).has("host", "a.example")
    store.path(name).unlink()
    newer = data.replace(b'"format": 2', b'"format": 9')
    store.put(f"tombstones/{bytes_digest(newer)}.jsonl", newer)
    with pytest.raises(FormatError):
        Tombstones(store).has("host", "a.example")
    for lines in (
        b"",
        b"\xff",
        b"[]",
        b'{"format": 2}\n{"kind": "host"}',
        b'{"format": 2}\n{"kind": [], "digest": 1}',
    ):
        for path in store.path("tombstones").glob("*.jsonl"):
            path.unlink()
        store.put(f"tombstones/{bytes_digest(lines)}.jsonl", lines)
        with pytest.raises(IntegrityError, match="damaged"):
            Tombstones(store).has("host", "a.example")


def test_hashes_of_format_1_are_honoured(tmp_path: Path) -> None:
    """A file of format 1, which held sha256 as they are, refuses what it named, without a key and with one."""
    store = Store(tmp_path)
    line = {"kind": "sha256", "digest": "a" * 64, "at": "2026-01-01T00:00:00+00:00", "why": None}
    data = f"{json.dumps({'format': 1})}\n{json.dumps(line)}\n".encode()
    store.put(f"tombstones/{bytes_digest(data)}.jsonl", data)
    assert Tombstones(store).among("sha256", ["a" * 64, "b" * 64]) == ["a" * 64]
    Tombstones(store).bury([("sha256", "c" * 64)])
    assert Tombstones(store).among("sha256", ["a" * 64, "b" * 64, "c" * 64]) == ["a" * 64, "c" * 64]


def test_the_same_tombstones_are_one_file(tmp_path: Path) -> None:
    """Buried again at the same time, as by a process that goes on after another was killed, they are there once."""
    store = Store(tmp_path)
    names = {
        Tombstones(store).bury([("author", "A")], "asked", "2026-01-01T00:00:00+00:00") for _ in range(2)
    }
    assert len(names) == 1
    assert Tombstones(store).bury([]) is None
    assert len([key for key in store.keys("tombstones") if key.endswith(".jsonl")]) == 1


@given(st.text())
def test_a_plain_name_is_plain(text: str) -> None:
    """One form is the form of itself."""
    assert plain_name(plain_name(text)) == plain_name(text)
