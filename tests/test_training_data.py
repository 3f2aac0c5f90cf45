"""The stream of real images: complete, deterministic, resumable."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Generator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.shards import Sample, index_json, write_shard
from training import data
from training.data import ImageArray, RealImages, area_resampled, is_flipped
from training.loop import next_batch
from training.metrics.crops import RealCrops

SIDE = 8
NUM = 23


def encoded(pixels: ImageArray, suffix: str) -> bytes:
    """An image file's bytes, without loss but for JPEG."""
    file = io.BytesIO()
    formats: dict[str, tuple[str, dict[str, Any]]] = {
        "png": ("PNG", {}),
        "webp": ("WEBP", {"lossless": True}),
        "jpg": ("JPEG", {"quality": 95}),
    }
    name, options = formats[suffix]
    Image.fromarray(pixels).save(file, name, **options)
    return file.getvalue()


def write_indexed(path: Path, samples: list[tuple[str, str, bytes]]) -> None:
    """A shard with its index: for each key its JSON and its image."""
    index = write_shard(path, [Sample(key, suffix, data, b"{}") for key, suffix, data in samples])
    path.with_suffix(".index.json").write_bytes(index_json(index))


def numbered(index: int) -> ImageArray:
    """An image whose pixels tell its number, asymmetric so that a mirrored one is told too."""
    pixels = np.full((SIDE, SIDE, 3), index * 10, np.uint8)
    pixels[:, : SIDE // 2, 2] = 255
    return pixels


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """23 numbered images in three shards, as PNG and WebP, in a folder with an awkward name."""
    folder = tmp_path / "a #1 {b}"
    folder.mkdir()
    paths = []
    for shard, members in enumerate(np.array_split(np.arange(NUM), 3)):
        suffixes = ["png", "webp"]
        samples = [(f"{i:04d}", suffixes[i % 2], encoded(numbered(i), suffixes[i % 2])) for i in members]
        paths.append(folder / f"{shard:05d}.tar")
        write_indexed(paths[-1], samples)
    return paths


def real_images(
    paths: list[Path],
    *,
    seed: int = 0,
    x_flips: bool = True,
    num_threads: int = 2,
    num_images: int = NUM,
    side: int = SIDE,
) -> RealImages:
    """The stream's source."""
    return RealImages(paths, num_images, side, seed, x_flips, num_threads)


def taken(images: RealImages, start: int, num: int, resolution: int = SIDE) -> ImageArray:
    """`num` images from `start` on as training gets them, as one array."""
    return next_batch(images.stream(start, resolution), num, torch.device("cpu"))[0].numpy()


def identities(images: ImageArray) -> list[int]:
    """The numbers the images carry."""
    return (images[:, 0, 0, 0] // 10).tolist()


def test_each_epoch_shows_each_image_once(shards: list[Path]) -> None:
    """Every epoch is a permutation of the dataset, and no two epochs the same one."""
    shown = identities(taken(real_images(shards), 0, 3 * NUM))
    epochs = [shown[i : i + NUM] for i in range(0, 3 * NUM, NUM)]
    assert all(sorted(epoch) == list(range(NUM)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(NUM))


@pytest.mark.parametrize("start", [1, 7, NUM - 1, NUM, NUM + 5, 2 * NUM + 1])
def test_resumed_stream_is_the_tail(shards: list[Path], start: int) -> None:
    """A stream begun at any image is the tail of the one begun at the first, mirrored alike."""
    images = real_images(shards)
    whole = taken(images, 0, 3 * NUM)
    assert np.array_equal(taken(images, start, 3 * NUM - start), whole[start:])


def test_threads_do_not_change_the_stream(shards: list[Path]) -> None:
    """One thread and five give the same images in the same order."""
    one, five = (taken(real_images(shards, num_threads=n), 0, 50) for n in (1, 5))
    assert np.array_equal(one, five)


def test_seed_changes_order_and_flips(shards: list[Path]) -> None:
    """Another seed gives another order, and mirrors others."""
    one, other = (identities(taken(real_images(shards, seed=s), 0, NUM)) for s in (0, 1))
    assert one != other
    assert [is_flipped(0, i) for i in range(64)] != [is_flipped(1, i) for i in range(64)]


def test_flips_mirror_about_half(shards: list[Path]) -> None:
    """With flips each image comes as it is or mirrored, by its place in the stream; without, never mirrored."""
    plain = taken(real_images(shards, x_flips=False), 0, 2 * NUM)
    flipped = taken(real_images(shards), 0, 2 * NUM)
    for number, (image, original) in enumerate(zip(flipped, plain, strict=True)):
        expected = original[..., ::-1] if is_flipped(0, number) else original
        assert np.array_equal(image, expected)
    share = np.mean([is_flipped(0, number) for number in range(4000)])
    assert share == pytest.approx(0.5, abs=0.03)


def test_area_resampling_is_the_block_mean() -> None:
    """Shrinking by k gives the rounded mean of each k x k block."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    for resolution in (12, 6, 4, 2):
        k = 12 // resolution
        small = area_resampled(pixels, resolution)
        for row in range(resolution):
            for column in range(resolution):
                block = pixels[row * k : (row + 1) * k, column * k : (column + 1) * k].astype(np.float64)
                assert np.abs(small[row, column] - block.mean(axis=(0, 1))).max() <= 0.5 + 1e-5


def test_stream_resamples(shards: list[Path]) -> None:
    """A stream at a lower resolution holds the same images, area-resampled."""
    images = real_images(shards)
    full, low = taken(images, 3, 10), taken(images, 3, 10, resolution=2)
    for large, small in zip(full, low, strict=True):
        assert np.array_equal(area_resampled(large.transpose(1, 2, 0), 2), small.transpose(1, 2, 0))


def test_jpeg_samples_are_read(tmp_path: Path) -> None:
    """A shard of JPEG images reads like the others."""
    path = tmp_path / "0.tar"
    write_indexed(path, [("a", "jpg", encoded(numbered(7), "jpg"))])
    (image,) = taken(real_images([path], num_images=1, x_flips=False), 0, 1)
    assert np.abs(image[0].astype(int) - 70).max() < 20


def test_higher_resolution_is_refused(shards: list[Path]) -> None:
    """A resolution above the dataset's is an error that names both."""
    with pytest.raises(ConfigError, match="resolution 16 is above the dataset's 8"):
        taken(real_images(shards), 0, 1, resolution=16)


@pytest.mark.parametrize("name", ["00001.tar", "00001.index.json"])
def test_missing_file_is_named(shards: list[Path], name: str) -> None:
    """A shard, or its index, that is gone is an error that names it."""
    (shards[1].parent / name).unlink()
    with pytest.raises(NotFoundError, match=rf"{name} is not there"):
        taken(real_images(shards), 0, NUM)


def test_rows_are_those_of_the_whole_stream(shards: list[Path]) -> None:
    """A rank's rows of each batch are those places of the stream, across epochs too."""
    images = real_images(shards)
    whole = taken(images, 5, 12 * 6).reshape(-1, 12, 3, SIDE, SIDE)
    for rows in ([0, 1, 6, 7], [2, 5, 11], range(12)):
        own, _ = next_batch(
            images.stream(5, SIDE, batch_size=12, rows=rows), 6 * len(rows), torch.device("cpu")
        )
        assert np.array_equal(own.numpy().reshape(6, len(rows), 3, SIDE, SIDE), whole[:, list(rows)])


@pytest.mark.parametrize(
    ("kept_bytes", "fewest", "most"), [(0, 3 * NUM, 99), (data.KEPT_BYTES, NUM, 2 * NUM)]
)
def test_keeping_images_changes_nothing_but_the_work(
    shards: list[Path], kept_bytes: int, fewest: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept, an image is decoded once, but for those asked for again before that was done; the stream is the same."""
    expected = taken(real_images(shards), 0, 3 * NUM)
    decoded, decode = [], data.decode
    monkeypatch.setattr(data, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(data, "decode", lambda *given: decoded.append(given) or decode(*given))
    assert np.array_equal(taken(real_images(shards), 0, 3 * NUM), expected)
    assert fewest <= len(decoded) < most


def test_a_closed_stream_leaves_no_threads(shards: list[Path]) -> None:
    """Whoever closes a stream waits for its threads."""
    stream = real_images(shards).stream(0, SIDE)
    next(stream)
    assert decoding()
    assert isinstance(stream, Generator)
    stream.close()
    assert not decoding()


def decoding() -> list[str]:
    """The threads that decode images now."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_damaged_index_and_lost_shard_are_named(shards: list[Path]) -> None:
    """An index that is none, and a shard that goes while it is read, are errors that name the file."""
    images = real_images(shards)
    stream = images.stream(0, SIDE)
    next(stream)
    for path in shards:
        path.unlink()
    with pytest.raises(IntegrityError, match=r"\.(png|webp) in .*\.tar cannot be read"):
        list(islice(stream, 2 * NUM))
    for path in shards:
        path.write_bytes(b"")
    shards[0].with_suffix(".index.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"00000\.index\.json: a shard's index is damaged"):
        next(images.stream(0, SIDE))


def test_wrong_count_is_an_error(shards: list[Path]) -> None:
    """Shards that hold another number of images than the manifest says are an error, not a shifted stream."""
    with pytest.raises(IntegrityError, match=f"hold {NUM} images"):
        taken(real_images(shards, num_images=NUM + 1), 0, 3 * NUM)


def test_broken_image_and_shard_are_named(tmp_path: Path) -> None:
    """Bytes that are no image, an image of another size, and those of a tar cut short each name their file."""
    path = tmp_path / "00000.tar"
    write_indexed(path, [("k1", "png", b"not an image")])
    with pytest.raises(IntegrityError, match=r"image k1\.png in .*00000\.tar cannot be decoded"):
        taken(real_images([path], num_images=1), 0, 1)
    write_indexed(path, [("k2", "png", encoded(numbered(1), "png"))])
    with pytest.raises(IntegrityError, match=r"image k2\.png in .* is 8x8, the dataset's resolution is 32"):
        taken(real_images([path], num_images=1, side=32), 0, 1)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    write_indexed(path, [("k3", "png", encoded(noise, "png"))])
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(
        IntegrityError, match=r"k3\.png in .*00000\.tar no longer has the sha256 of its index"
    ):
        taken(real_images([path], num_images=1, side=64), 0, 1)


def test_shards_of_another_version_are_refused(shards: list[Path]) -> None:
    """An index that is not the manifest's is named before any image of it is shown, to training and to metrics."""
    indices = [path.with_suffix(".index.json") for path in shards]
    sha256s = tuple(file_digest(path) for path in indices)
    images = replace(real_images(shards), index_sha256s=sha256s)
    crops = RealCrops(tuple(shards), sha256s, NUM, SIDE, SIDE)
    assert len(taken(images, 0, NUM)) == len(next(crops.batches(NUM))[1]) == NUM
    shutil.copyfile(shards[0], shards[1])
    shutil.copyfile(indices[0], indices[1])
    for read in (lambda: taken(images, 0, 1), lambda: next(crops.batches(1)), lambda: crops.chosen({"0000"})):
        with pytest.raises(
            IntegrityError, match=r"00001\.index\.json no longer has the sha256 of its version's"
        ):
            read()


def test_crops_that_are_others_are_named(shards: list[Path]) -> None:
    """A crop whose bytes are not the index's is not measured."""
    with shards[0].open("r+b") as file:
        file.seek(520)
        file.write(b"!")
    crops = RealCrops(tuple(shards), (), NUM, SIDE, SIDE)
    with pytest.raises(
        IntegrityError, match=r"0000\.png in .*00000\.tar no longer has the sha256 of its index"
    ):
        next(crops.batches(1))


def test_a_crop_goes_by_its_name_but_for_the_suffix(tmp_path: Path) -> None:
    """A key may have dots."""
    path = tmp_path / "00000.tar"
    write_indexed(path, [("a.b", "png", encoded(numbered(1), "png"))])
    [(keys, _)] = RealCrops((path,), (None,), 1, SIDE, SIDE).batches(1)
    assert keys == ["a.b"]
