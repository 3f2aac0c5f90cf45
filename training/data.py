"""Real images as one endless, deterministic, resumable stream: webdataset shards to uint8 arrays.

The position in the stream is the number of images shown so far and nothing else, so a resumed run sees exactly
the images it would have seen. Scaling to [-1, 1] and the fades of progressive growing happen on the training
device, in the loop; batches are cut there too.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from webdataset.tariterators import group_by_keys, tar_file_expander

from storage.errors import ConfigError, IntegrityError, NotFoundError

ImageArray = NDArray[np.uint8]

IMAGE_SUFFIXES = ("png", "webp", "jpg")
SHUFFLE_SAMPLES = 500
"""Undecoded samples held while shuffling. Part of the order of the stream: changing it changes every run."""
KEPT_BYTES = 4 * 2**30
"""A dataset not above this, decoded, is kept in memory: from the second epoch on nothing is decoded."""
LOOK_AHEAD_PER_THREAD = 8
"""Images decoded before they are asked for, a thread."""


class Shown(NamedTuple):
    """An image as the stream has it; to mirror it and to put colours first is left to the training device."""

    pixels: ImageArray
    """(R, R, 3)."""
    is_mirrored: bool


@dataclass(frozen=True)
class RealImages:
    """The images of one dataset version, as training reads them."""

    shard_paths: Sequence[Path]
    num_images: int
    dataset_resolution: int
    seed: int
    x_flips: bool
    num_threads: int

    def stream(
        self, start_image: int, resolution: int, *, batch_size: int = 1, rows: Sequence[int] = (0,)
    ) -> Iterator[Shown]:
        """Images from number `start_image` on, for ever, their side `resolution`.

        Of each `batch_size` of them, only those at the places `rows`; the others stay undecoded.

        Each epoch shows each image once, in an order of its own. An epoch is entered by skipping its first
        samples undecoded.
        """
        self.check(resolution)
        wanted = set(rows)
        is_small = self.num_images * 3 * resolution**2 <= KEPT_BYTES
        kept: dict[tuple[str, str], ImageArray] | None = {} if is_small else None
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode") as pool:
            pending: deque[Future[Shown]] = deque()
            try:
                for number, sample in self._samples(start_image):
                    if (number - start_image) % batch_size not in wanted:
                        continue
                    pending.append(pool.submit(self._shown, number, sample, resolution, kept))
                    if len(pending) > self.num_threads * LOOK_AHEAD_PER_THREAD:
                        yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def check(self, resolution: int) -> None:
        """Raise ConfigError unless the dataset can be area-resampled to `resolution`."""
        check_resolution(self.dataset_resolution, resolution)

    def _samples(self, start_image: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Undecoded samples with their number in the stream, from `start_image` on."""
        first_epoch, offset = divmod(start_image, self.num_images)
        number = start_image
        for epoch in count(first_epoch):
            for sample in islice(self._epoch(epoch), offset, None):
                yield number, sample
                number += 1
            if number != (epoch + 1) * self.num_images:
                raise IntegrityError(
                    f"shards beside {self.shard_paths[0]} hold {number - epoch * self.num_images} images, "
                    f"the manifest says {self.num_images}"
                )
            offset = 0

    def _epoch(self, epoch: int) -> Iterator[dict[str, Any]]:
        """The samples of one epoch: shards in a drawn order, then mixed through a buffer."""
        rng = random.Random(f"{self.seed}:{epoch}")
        paths = list(self.shard_paths)
        rng.shuffle(paths)
        pipeline = wds.DataPipeline(
            lambda: opened_shards(paths),
            partial(tar_file_expander, select_files=lambda name: name.lower().endswith(IMAGE_SUFFIXES)),
            group_by_keys,
            wds.shuffle(SHUFFLE_SAMPLES, initial=SHUFFLE_SAMPLES, rng=rng),
        )
        try:
            yield from pipeline
        except tarfile.TarError as error:
            raise IntegrityError(f"shard {error.args[-1]} cannot be read: {error.args[0]}") from error

    def _shown(
        self,
        number: int,
        sample: dict[str, Any],
        resolution: int,
        kept: dict[tuple[str, str], ImageArray] | None,
    ) -> Shown:
        """Image `number` of the stream; decoded once where images are kept."""
        key = sample["__url__"], sample["__key__"]
        image = kept.get(key) if kept is not None else None
        if image is None:
            image = self._decoded(sample, resolution)
            if kept is not None:
                kept[key] = image
        return Shown(image, self.x_flips and is_flipped(self.seed, number))

    def _decoded(self, sample: dict[str, Any], resolution: int) -> ImageArray:
        """One sample as (R, R, 3), resampled."""
        return area_resampled(decode(sample, self.dataset_resolution), resolution)


def check_resolution(dataset_resolution: int, resolution: int) -> None:
    """Raise ConfigError unless images of one side, in pixels, can be area-resampled to the other."""
    if resolution > dataset_resolution:
        raise ConfigError(
            f"resolution {resolution} is above the dataset's {dataset_resolution}: "
            f"train at {dataset_resolution} or below, or build the dataset larger"
        )
    if dataset_resolution % resolution:
        raise ConfigError(
            f"resolution {resolution} does not divide the dataset's {dataset_resolution} into whole blocks"
        )


def opened_shards(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Shards as the sources webdataset expands, each closed when the next is asked for.

    webdataset's own opener leaves files open and cuts a path at "#" or "?".
    """
    for path in paths:
        if not path.is_file():
            raise NotFoundError(f"shard {path} is not there")
        with path.open("rb") as stream:
            yield {"url": str(path), "stream": stream}


def decode(sample: dict[str, Any], side: int) -> ImageArray:
    """The image of a webdataset sample as RGB (side, side, 3); IntegrityError where it is of another size."""
    where = f"image {sample['__key__']} in {sample['__url__']}"
    data = next((sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample), None)
    if data is None:
        raise IntegrityError(f"{where} has no entry of type {', '.join(IMAGE_SUFFIXES)}")
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise IntegrityError(f"{where} cannot be decoded: {error}") from error
    if pixels.shape != (side, side, 3):
        height, width, _ = pixels.shape
        raise IntegrityError(f"{where} is {width}x{height}, the dataset's resolution is {side}")
    return pixels


def area_resampled(pixels_HWC: ImageArray, resolution: int) -> ImageArray:
    """Shrink a square image to `resolution` by the mean of each k x k block, rounded."""
    factor = len(pixels_HWC) // resolution
    if factor == 1:
        return pixels_HWC
    blocks = pixels_HWC.reshape(resolution, factor, resolution, factor, 3)
    rounded: ImageArray = np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
    return rounded


def is_flipped(seed: int, number: int) -> bool:
    """Whether image `number` of the stream is mirrored: a fair coin that is always tossed alike."""
    return bool(hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=1).digest()[0] & 1)
