"""preprocessing.forgetting: what a request means, in any spelling, and what is only suggested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preprocessing.asked import Asked
from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from preprocessing.crawl.ledger import Ledger
from preprocessing.crawl.rows import PARTITIONS, Entry
from preprocessing.forgetting import find
from storage.datasets.dataset import Dataset
from storage.datasets.manifest import publish
from storage.digest import bytes_digest
from storage.errors import ConfigError, NotFoundError
from storage.store import Store
from storage.tables import Row, table_of


def image(name: str, ref: str, **facts: Any) -> Row:
    """An image's row, of the photograph of that name."""
    sha256 = bytes_digest(f"image {name}".encode())
    row = {**dict.fromkeys(IMAGE_SCHEMA.names), "key": sha256[:16], "image_sha256": sha256, "shard": "x"}
    return {**row, "photo_sha256": bytes_digest(name.encode()), "ref": ref, **facts}


def published(store: Store, rows: list[Row], rejections: list[Row] | None = None, name: str = "a") -> Dataset:
    """A version of records alone."""
    refused = [{**dict.fromkeys(REJECTION_SCHEMA.names), **row} for row in rejections or []]
    rows = sorted(rows, key=lambda row: str(row["key"]))
    return publish(
        store,
        name,
        settings={"resolution": 32},
        images=[table_of(rows, IMAGE_SCHEMA)],
        image_schema=IMAGE_SCHEMA,
        rejections=[table_of(refused, REJECTION_SCHEMA)] if refused else [],
        rejection_schema=REJECTION_SCHEMA,
        shards=[],
        num_photos=len(rows),
    )


def names(store: Store, **asked: Any) -> set[str]:
    """The first digits of what is meant, as names."""
    known = {bytes_digest(name.encode()): name for name in "abcdefgh"}
    return {known[sha256] for sha256 in find(store, Asked(**asked)).photos}


def test_addresses_in_any_spelling(tmp_path: Path) -> None:
    """An address is found however it is written, of a photograph or of its page; a name in a folder as it is."""
    store = Store(tmp_path)
    rows = [
        image("a", "http://Photos.example:80/%7Ex/1.jpg#top", page="https://photos.example/page/1"),
        image("b", "http://photos.example/~x/2.jpg"),
        image("c", "folder/1.jpg"),
    ]
    published(store, rows)
    assert names(store, url=("HTTP://photos.example/~x/1.jpg",)) == {"a"}
    assert names(store, url=("https://PHOTOS.example/page/1",)) == {"a"}
    assert names(store, url=("folder/1.jpg", "http://photos.example/~x/2.jpg")) == {"b", "c"}
    assert names(store, url=("http://photos.example/",)) == set()


def test_the_same_bytes_and_the_same_address_go_together(tmp_path: Path) -> None:
    """Whatever has the bytes of what is named goes, by whatever name; whatever was at its address, in any version."""
    store = Store(tmp_path)
    published(store, [image("a", "http://x.example/1"), image("b", "http://x.example/2")])
    published(
        store, [image("c", "http://x.example/1"), image("a", "copy.jpg"), image("d", "copy.jpg")], name="b"
    )
    with Ledger(store).held(range(PARTITIONS)) as held:
        fetched: dict[str, Any] = {"state": "kept", "asked_at": "2026", "host": "y.example"}
        held.put([Entry("http://y.example/3", sha256=bytes_digest(b"a"), **fetched)])
        held.put([Entry("http://y.example/4", sha256=bytes_digest(b"e"), **fetched)])
    found = find(store, Asked(hash=(bytes_digest(b"a")[:12],)))
    assert {bytes_digest(name) for name in (b"a", b"c")} == set(found.photos), (
        "d is another file of that name"
    )
    assert set(found.addresses) == {"http://x.example/1", "http://y.example/3"}
    assert [held.photographs for held in found.held] == [1, 2]


def test_an_author_is_a_whole_name(tmp_path: Path) -> None:
    """Case, spaces and forms of letters do not matter, and a part of a name is none; rejections are found too."""
    store = Store(tmp_path)
    rows = [
        image("a", "1", author="Zoë  Q."),
        image("b", "2", author="Zoë Q. and A."),
        image("c", "3", author=None),
    ]
    refused = {"reason": "bad_url", "ref": "ftp://x", "author": "ZOE\u0308 Q."}
    published(store, rows, [refused])
    found = find(store, Asked(author=("zoë q.",)))
    assert set(found.photos) == {bytes_digest(b"a")}
    assert (found.nameless, found.authors) == ({"ftp://x"}, {"Zoë  Q.", "ZOE\u0308 Q."})
    [held] = found.held
    assert (held.photographs, len(held.images), held.rejections) == (2, 1, 1)


def test_an_author_who_stays_keeps_the_name(tmp_path: Path) -> None:
    """A name is to vanish only where no other photograph has it."""
    store = Store(tmp_path)
    published(store, [image("a", "1", author="A"), image("b", "2", author="A"), image("c", "3", author="C")])
    assert find(store, Asked(url=("1",))).authors == set()
    assert find(store, Asked(url=("3",))).authors == {"C"}


def test_the_same_person_is_only_suggested(tmp_path: Path) -> None:
    """Images whose embedding is near are told, nearest first, and not meant until a person says so."""
    store = Store(tmp_path)
    rows = [
        image(name, name, embedding=[distance, 0.0])
        for name, distance in (("a", 0.0), ("b", 0.5), ("c", 0.2), ("d", 0.7))
    ]
    published(store, rows)
    found = find(store, Asked(url=("a",)))
    assert [one["ref"] for one in found.suggestions] == ["c", "b"]
    assert set(found.photos) == {bytes_digest(b"a")}
    chosen = find(store, Asked(url=("a",), hash=(found.suggestions[0]["key"],)))
    assert set(chosen.photos) == {bytes_digest(b"a"), bytes_digest(b"c")}


def test_looks_decide_within_a_bound(tmp_path: Path) -> None:
    """A crop that differs in 36 bits is a copy, one of 37 is none, and one that says too little is never one."""
    store = Store(tmp_path)
    looks = {"a": 0, "b": 2**36 - 1, "c": 2**37 - 1, "d": 1}
    rows = [
        image(name, name, pdq=f"{bits:064x}", pdq_quality=10 if name == "d" else 90)
        for name, bits in looks.items()
    ]
    published(store, rows)
    assert names(store, url=("a",)) == {"a", "b"}
    assert names(store, url=("a",), similar=False) == {"a"}
    assert names(store, url=("d",)) == {"d"}


@pytest.mark.parametrize("digits", ["1234567", "g" * 64, "", "0" * 65])
def test_what_is_no_hash_is_refused(tmp_path: Path, digits: str) -> None:
    """Too few digits would mean too much."""
    with pytest.raises(ConfigError, match="no sha256"):
        find(Store(tmp_path), Asked(hash=(digits,)))


def test_nothing_is_found_in_nothing(tmp_path: Path) -> None:
    """An empty store has nothing, and asking writes nothing into it."""
    assert find(Store(tmp_path / "none"), Asked(url=("x",), author=("y",), license=("CC0",))).is_nothing
    assert not (tmp_path / "none").exists()
    with pytest.raises(NotFoundError, match="no recheck"):
        find(Store(tmp_path / "none"), Asked(from_recheck=("x",)))
