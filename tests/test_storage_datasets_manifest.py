"""storage.datasets.manifest: a version is the hash of its content, whoever built it and when."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.manifest import publish, record_build
from storage.datasets.verify import verify
from storage.digest import bytes_digest, file_digest
from storage.errors import ConfigError, FormatError, IntegrityError, NotFoundError
from storage.shards import Sample, index_json, index_name, write_shard
from storage.store import Store
from storage.tables import table_of


def published(store: Store, name: str = "faces", image: bytes = b"crop", reason: str = "no_face") -> Dataset:
    """A version of one image, as a build would publish it."""
    photo = store.put_original(b"photo of " + image)
    sha256 = bytes_digest(image)
    row: dict[str, Any] = dict.fromkeys(IMAGE_SCHEMA.names)
    row |= {
        "key": sha256[:16],
        "image_sha256": sha256,
        "photo_sha256": photo,
        "face_index": 0,
        "ref": "a.jpg",
    }
    row |= {"box_px": [1.0, 2.0, 3.0, 4.0], "quad_side_px": 12.5, "shard": "shards/00000.tar"}
    path = store.root / "packed.tar"
    written = write_shard(path, [Sample(row["key"], "png", image, b"{}")])
    entries, index = written.entries, index_json(written)
    store.put("chunks/shard/x.tar", path)
    store.put(index_name("chunks/shard/x.tar"), index)
    row |= {"offset": entries[0].offset, "size": entries[0].size}
    rejection: dict[str, Any] = dict.fromkeys(REJECTION_SCHEMA.names)
    rejection |= {"ref": "b.jpg", "reason": reason}
    shard = {"file": row["shard"], "object": "chunks/shard/x.tar", "sha256": file_digest(path), "images": 1,
             "size": path.stat().st_size, "index_sha256": bytes_digest(index)}  # fmt: skip
    dataset = publish(
        store,
        name,
        settings={"resolution": 64},
        images=[table_of([row], IMAGE_SCHEMA)],
        image_schema=IMAGE_SCHEMA,
        rejections=[table_of([rejection], REJECTION_SCHEMA)],
        rejection_schema=REJECTION_SCHEMA,
        shards=[shard],
        num_photos=2,
    )
    record_build(dataset, {"config_sha256": "0", "facts": {"code_commit": None}}, datetime.now(UTC))
    return dataset


def test_the_same_content_is_the_same_version(tmp_path: Path) -> None:
    """Two stores and two names give one version; other bytes give another."""
    first = published(Store(tmp_path / "a"))
    second = published(Store(tmp_path / "b"), name="others")
    third = published(Store(tmp_path / "a"), image=b"another crop")
    assert first.version == second.version != third.version
    assert first.manifest.counts.as_json() == {
        "photos": 2, "images": 1, "rejected": {"no_face": 1}, "images_missing": {"license": 1, "author": 1, "page": 1},
    }  # fmt: skip


def test_tables_round_trip(tmp_path: Path) -> None:
    """What was published is read back, and every hash holds."""
    dataset = published(Store(tmp_path))
    assert dataset.images()[0]["box_px"] == [1.0, 2.0, 3.0, 4.0]
    assert dataset.rejections()[0]["reason"] == "no_face"
    assert verify(dataset).problems == []


@pytest.mark.parametrize("num_parts", [1, 3])
def test_any_reader_of_parquet_finds_the_tables(tmp_path: Path, num_parts: int) -> None:
    """A table is the file `images.parquet`, or a folder of that name that pyarrow and pandas take as one table."""
    [row] = published(Store(tmp_path)).images()
    rows = [{**row, "key": f"{number:x}".ljust(16, "0")} for number in range(num_parts)]
    dataset = publish(
        Store(tmp_path),
        "more",
        settings={"resolution": 64},
        images=[table_of([row], IMAGE_SCHEMA) for row in rows],
        image_schema=IMAGE_SCHEMA,
        rejections=[],
        rejection_schema=REJECTION_SCHEMA,
        shards=[],
        num_photos=1,
    )
    path = dataset.folder / "images.parquet"
    assert path.is_file() == (num_parts == 1)
    assert pq.read_table(path)["key"].to_pylist() == [row["key"] for row in rows]
    assert pd.read_parquet(path)["key"].to_list() == [row["key"] for row in rows]
    assert pq.read_table(dataset.folder / "rejections.parquet").num_rows == 0


def test_a_name_means_its_newest_build(tmp_path: Path) -> None:
    """NAME is the latest version, NAME@PREFIX an older one; a rebuild of the old one makes it the latest again."""
    store = Store(tmp_path)
    old = published(store)
    new = published(store, image=b"another crop")
    assert open_dataset(store, "faces").version == new.version
    assert open_dataset(store, f"faces@{old.version[:6]}").version == old.version
    published(store)
    assert open_dataset(store, "faces").version == old.version
    assert [build.unchanged for build in open_dataset(store, "faces").builds()] == [False, False]


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("nobody", NotFoundError, "it holds faces"),
        ("faces@0000", NotFoundError, "its versions are"),
        ("../faces", ConfigError, "neither NAME nor NAME@VERSION"),
    ],
)
def test_wrong_references_say_what_there_is(
    tmp_path: Path, reference: str, error: type[Exception], message: str
) -> None:
    """A reference that names nothing lists what could be named."""
    store = Store(tmp_path)
    published(store)
    with pytest.raises(error, match=message):
        open_dataset(store, reference)


@pytest.mark.parametrize("victim", ["manifest.json", "images.parts.json", "images.parquet", "rejections.parquet",
                                    "shards/00000.tar", "shards/00000.index.json", "shards.txt"])  # fmt: skip
def test_verify_names_whatever_changed(tmp_path: Path, victim: str) -> None:
    """A changed file of a version, whichever it is, is named by its path."""
    store = Store(tmp_path)
    dataset = published(store)
    other = published(Store(tmp_path / "other"), image=b"another crop", reason="too_small")
    [path], [another] = dataset.folder.glob(victim), other.folder.glob(victim)
    data = another.read_bytes()
    path.unlink()  # a hard link: the packed chunk must keep its bytes
    path.write_bytes(data if data != b"shards/00000.tar\n" else b"shards/00001.tar\n")
    problems = verify(open_dataset(store, "faces")).problems
    assert any(str(path) in problem for problem in problems), problems


def test_verify_names_a_lost_original(tmp_path: Path) -> None:
    """An original photograph that is gone is named by its sha256."""
    store = Store(tmp_path)
    dataset = published(store)
    sha256 = dataset.images()[0]["photo_sha256"]
    store.path(f"originals/{sha256[:2]}/{sha256}").unlink()
    assert any(sha256 in problem for problem in verify(dataset).problems)


@pytest.mark.parametrize(
    "victim",
    ["manifest.json", "../latest.json", "images.parquet", "images.parts.json", "shards/00000.index.json"],
)
def test_damage_is_an_error_of_one_sentence(tmp_path: Path, victim: str) -> None:
    """Whatever byte of a file is flipped, reading raises nothing but the error for it, or what was read still holds."""
    store = Store(tmp_path)
    dataset = published(store)
    [path] = dataset.folder.glob(victim)
    intact = path.read_bytes()
    for position in range(0, len(intact), max(len(intact) // 60, 1)):
        damaged = bytearray(intact)
        damaged[position] ^= 0x15
        path.unlink()
        path.write_bytes(damaged)
        try:
            opened = open_dataset(store, "faces")
            checked = verify(opened)
        except (FormatError, IntegrityError, NotFoundError):
            continue
        still_holds = path.suffix == ".parquet" or (path.name == "latest.json" and opened == dataset)
        assert checked.problems or still_holds, f"byte {position} of {victim} was not noticed"
