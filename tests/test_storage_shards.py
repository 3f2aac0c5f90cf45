"""storage.shards: the same samples are the same bytes, and every webdataset reader reads them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.digest import bytes_digest, file_digest
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
    samples = [Sample(f"{i:03}", "png", data, b"{}") for i, data in enumerate(images)]
    index = write_shard(path, samples)
    entries = index.entries
    with tarfile.open(path) as tar:
        found = [(member.name, member.offset_data, member.size) for member in tar]
    assert [(entry.name, entry.offset, entry.size) for entry in entries] == found
    assert [read_entry(path, entry) for entry in entries[::2]] == images
    assert read_index(index_json(index)) == index
    assert index.sha256 == file_digest(path)
    hashed = [replace(sample, image_sha256=bytes_digest(sample.image)) for sample in samples]
    assert write_shard(path, hashed) == index


names = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), min_size=1, max_size=90
)


@settings(max_examples=50)
@given(st.lists(st.tuples(names, st.binary(max_size=1500), st.binary(max_size=700)), max_size=12))
def test_the_bytes_are_those_of_tarfile(
    tmp_path_factory: pytest.TempPathFactory, samples: list[tuple[str, bytes, bytes]]
) -> None:
    """Whatever names and sizes, as the standard library writes USTAR."""
    folder = tmp_path_factory.mktemp("shard")
    write_shard(folder / "ours.tar", [Sample(key, "webp", image, facts) for key, image, facts in samples])
    with tarfile.open(folder / "theirs.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, image, facts in samples:
            for suffix, data in (("webp", image), ("json", facts)):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    assert (folder / "ours.tar").read_bytes() == (folder / "theirs.tar").read_bytes()


@pytest.mark.parametrize("key", ["k" * 97, "é"])
def test_what_does_not_fit_is_refused(tmp_path: Path, key: str) -> None:
    """A name that a header cannot hold is an error, and no other name is written."""
    with pytest.raises(ValueError, match=r"does not fit into a tar|ascii"):
        write_shard(tmp_path / "a.tar", [Sample(key, "png", b"", b"")])


def test_a_changed_byte_is_found_and_named(tmp_path: Path) -> None:
    """Flipping one byte of one image names the tar and that image, and no other."""
    path = tmp_path / "a.tar"
    entries = write_shard(path, SAMPLES).entries
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
