"""storage.shards: the same samples are the same bytes, and every webdataset reader reads them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.digest import file_digest
from storage.errors import IntegrityError
from storage.shards import Sample, check_shard, index_json, read_entry, read_index, write_shard

SAMPLES = [Sample(f"{i:016x}", "png", bytes([i]) * (500 * i + 1), b'{"i":%d}' % i) for i in range(5)]


def test_known_digest(tmp_path: Path) -> None:
    """A shard's bytes are fixed: this literal must never change for these samples."""
    write_shard(tmp_path / "a.tar", SAMPLES)
    assert (
        file_digest(tmp_path / "a.tar") == "dc3a28d18f0d5793744e8f029ee40e19df2c6fd8b9bfa3887c29ae4d42bb7366"
    )


def test_stock_reader_lists_every_sample(tmp_path: Path) -> None:
    """The webdataset package reads back every key, image and JSON, in order."""
    write_shard(tmp_path / "a.tar", SAMPLES)
    read = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [(s["__key__"], s["png"], s["json"]) for s in read] == [
        (s.key, s.image, s.metadata) for s in SAMPLES
    ]


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_index_points_at_the_bytes(tmp_path_factory: pytest.TempPathFactory, images: list[bytes]) -> None:
    """Every entry's offset and size are those that tarfile finds, and the index survives its JSON."""
    path = tmp_path_factory.mktemp("shard") / "a.tar"
    entries = write_shard(path, [Sample(f"{i:03}", "png", data, b"{}") for i, data in enumerate(images)])
    with tarfile.open(path) as tar:
        found = [(member.name, member.offset_data, member.size) for member in tar]
    assert [(entry.name, entry.offset, entry.size) for entry in entries] == found
    assert [read_entry(path, entry) for entry in entries[::2]] == images
    assert read_index(index_json("0" * 64, entries)).entries == entries


def test_a_changed_byte_is_found_and_named(tmp_path: Path) -> None:
    """Flipping one byte of one image names the tar and that image, and no other."""
    path = tmp_path / "a.tar"
    entries = write_shard(path, SAMPLES)
    sha256 = file_digest(path)
    assert list(check_shard(path, sha256, entries)) == []
    data = bytearray(path.read_bytes())
    data[entries[4].offset] ^= 1
    path.write_bytes(data)
    problems = list(check_shard(path, sha256, entries))
    assert len(problems) == 2, problems
    assert "a.tar" in problems[0]
    assert entries[4].name in problems[1]
    with pytest.raises(IntegrityError, match=entries[4].name):
        read_entry(path, entries[4])


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """A tar that is gone is one problem."""
    assert list(check_shard(tmp_path / "gone.tar", "0" * 64, [])) == [f"{tmp_path / 'gone.tar'} is missing"]
