"""storage.datasets.lookup: every row of a version is found by what it holds, whatever became of the lookup's file."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from storage.datasets import lookup
from storage.datasets.dataset import Dataset, TableName
from storage.datasets.lookup import COLUMNS, Kind, find_rows, lookup_key, write_lookup
from storage.datasets.manifest import publish, record_build
from storage.digest import bytes_digest
from storage.errors import IntegrityError
from storage.lineage.trace import trace
from storage.store import Store
from storage.tables import Row, table_of

NUM_IMAGES, NUM_REJECTIONS = 300, 150
TABLES: tuple[TableName, ...] = ("images", "rejections")


def published(store: Store, seed: int, num_images: int = NUM_IMAGES) -> Dataset:
    """A version of records alone: some photographs with several images, some without bytes, some authors unknown."""
    choose = random.Random(seed)
    photos = [bytes_digest(f"{seed} {number}".encode()) for number in range(num_images // 2 + 1)]

    def source(number: int) -> Row:
        ref = f"{seed}/é{number % 200}.jpg"
        return {
            "ref": f"https://photos.example/{ref}?of=a/b.jpg#x/y" if number % 3 else ref,
            "author": choose.choice([None, "A", "B. C"]),
            "title": choose.choice([None, "A", "(A)", "A title"]),
            "page": choose.choice([None, f"https://photos.example/page/{number % 7}"]),
            "license": choose.choice([None, "CC0", "CC BY 4.0", "CC BY"]),
            "license_url": choose.choice([None, "https://licences.example/0"]),
        }

    images = []
    for number in range(num_images):
        sha256 = bytes_digest(f"image {seed} {number}".encode())
        row: Row = dict.fromkeys(IMAGE_SCHEMA.names)
        row |= {
            "key": sha256[:16],
            "image_sha256": sha256,
            "photo_sha256": choose.choice(photos),
            "shard": "x",
        }
        images.append(row | source(number))
    rejections = []
    for number in range(NUM_REJECTIONS):
        row = dict.fromkeys(REJECTION_SCHEMA.names)
        row |= {"reason": "no_face", "photo_sha256": choose.choice([None, *photos[:20]])}
        rejections.append(row | source(number))
    return publish(
        store,
        f"faces{seed}",
        settings={"resolution": 32},
        images=[table_of(sorted(images, key=lambda row: str(row["key"])), IMAGE_SCHEMA)],
        image_schema=IMAGE_SCHEMA,
        rejections=[table_of(rejections, REJECTION_SCHEMA)],
        rejection_schema=REJECTION_SCHEMA,
        shards=[],
        num_photos=0,
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A version whose lookup is not made yet."""
    return published(Store(tmp_path / "store"), 1)


def said(kind: Kind, row: Row) -> Any:
    """What a row says of a kind."""
    value = row.get(COLUMNS[kind])
    return value and value.split("?")[0].split("/")[-1] if kind == "name" else value


def check_all(dataset: Dataset) -> None:
    """What is found by every value that a table holds, and by the beginnings of digests, is what a scan finds."""
    rows = {"images": dataset.images(), "rejections": dataset.rejections()}
    for table in TABLES:
        for kind in COLUMNS:
            held = {said(kind, row) for row in (*rows["images"], *rows["rejections"])} - {None}
            for value in random.Random(0).sample(sorted(held), min(len(held), 12)):
                wanted = [row for row in rows[table] if said(kind, row) == value]
                assert find_rows(dataset, table, {kind: value}) == wanted
                if kind in ("image", "photo"):
                    for digits in (8, 17):
                        assert find_rows(dataset, table, {kind: value[:digits]}) == wanted


@pytest.mark.parametrize("part_rows", [1 << 16, 7])
def test_everything_is_found(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, part_rows: int) -> None:
    """Each value of each row leads to all rows that hold it, however many parts the lookup has."""
    monkeypatch.setattr(lookup, "PART_ROWS", part_rows)
    check_all(dataset)


@pytest.mark.parametrize("kind", COLUMNS)
def test_what_is_not_there_is_not_found(dataset: Dataset, kind: Kind) -> None:
    """A value that no row holds leads nowhere, though it may begin as one that is held."""
    held = dataset.images()[0][COLUMNS[kind]] or "A"
    for value in ("0" * 64, held[:20] + "0" * 44, held + "0"):
        assert [row for table in TABLES for row in find_rows(dataset, table, {kind: value})] == []


def test_several_questions_give_each_row_once(dataset: Dataset) -> None:
    """A row that answers two questions is one row, and rows stand in the table's order."""
    rows = dataset.images()
    first, last = rows[3], rows[-5]
    found = find_rows(
        dataset,
        "images",
        {"image": last["image_sha256"], "ref": first["ref"], "photo": first["photo_sha256"]},
    )
    wanted = [
        row for row in rows
        if row is last or row["ref"] == first["ref"] or row["photo_sha256"] == first["photo_sha256"]
    ]  # fmt: skip
    assert found == wanted
    assert len(found) > 1


def test_texts_that_share_their_bits_are_told_apart(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every ref has the same bits, a ref still leads to its own rows alone."""
    monkeypatch.setattr(lookup, "_bits", lambda text: 7)
    check_all(dataset)


def deleted(path: Path) -> None:
    """As by a person who needs the space."""
    path.unlink()


def truncated(path: Path) -> None:
    """As by a full disk."""
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    """As by a power cut."""
    path.write_bytes(b"")


def of_another_version(path: Path) -> None:
    """As by a restored backup."""
    other = published(Store(path.parents[4] / "other"), 2)
    write_lookup(other)
    path.write_bytes(other.store.get(lookup_key(other)))


@pytest.mark.parametrize("harm", [deleted, truncated, emptied, of_another_version])
def test_a_lookup_that_does_not_hold_is_made_again(dataset: Dataset, harm: Callable[[Path], None]) -> None:
    """Deleted, cut short or another version's: answers stay right, and the file is whole again afterwards."""
    write_lookup(dataset)
    path = dataset.store.path(lookup_key(dataset))
    whole = path.read_bytes()
    harm(path)
    check_all(dataset)
    assert path.read_bytes() == whole


def test_no_flipped_byte_hides_a_row(dataset: Dataset) -> None:
    """Whatever byte of the lookup is another, the row is found."""
    write_lookup(dataset)
    path = dataset.store.path(lookup_key(dataset))
    whole = path.read_bytes()
    row = dataset.images()[150]
    asked: dict[Kind, str] = {"image": row["image_sha256"]}
    for position in range(0, len(whole), max(len(whole) // 150, 1)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x15
        path.write_bytes(damaged)
        assert find_rows(dataset, "images", asked) == [row], position


def test_a_store_that_cannot_be_written_to_answers_too(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the lookup cannot be kept, it is made for the question."""
    key = lookup_key(dataset)
    dataset.store.path(f"{key}/in-the-way").mkdir(parents=True)  # no file can be put in a folder's place
    row = dataset.images()[0]
    assert find_rows(dataset, "images", {"image": row["image_sha256"]}) == [row]
    assert not dataset.store.exists(key)


def test_a_damaged_table_is_named(dataset: Dataset) -> None:
    """A table that cannot be read is an error that names its file, lookup or not."""
    row = dataset.images()[0]
    write_lookup(dataset)
    path = dataset.folder / "images.parquet"
    os.truncate(path, 50)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=str(path)):
            find_rows(dataset, "images", {"image": row["image_sha256"]})
        dataset.store.path(lookup_key(dataset)).unlink(missing_ok=True)


def test_tracing_asks_the_lookup_of_every_version(tmp_path: Path) -> None:
    """An image, a photograph and a ref are traced in the version that holds them, whichever of several it is."""
    store = Store(tmp_path)
    versions = [published(store, seed, 60) for seed in (1, 2, 3)]
    for dataset in versions:
        record_build(dataset, {"config_sha256": "0", "facts": {}}, datetime.now(UTC))
    for dataset in versions:
        row = dataset.images()[5]
        for reference, column in (
            (row["key"], "key"),
            (row["photo_sha256"], "photo_sha256"),
            (row["ref"], "ref"),
        ):
            chain = trace(store, reference)
            wanted = [image["key"] for image in dataset.images() if image[column] == row[column]]
            found = [image["key"] for image in chain.images]
            assert found == wanted or (column == "ref" and set(found) > set(wanted))
            assert {step.facts["reference"] for step in chain.steps} == {dataset.reference}
