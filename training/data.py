"""Real images as one endless, deterministic, resumable stream: shards of a dataset version to uint8 arrays.

The position in the stream is the number of images shown so far and nothing else, so a resumed run sees exactly
the images it would have seen. A shard's index says where each image's bytes lie, so an epoch is a random order of all
images, entered anywhere, and threads read and decode apart from each other. Scaling to [-1, 1] and the fades of
progressive growing happen on the training device, in the loop; batches are cut there too.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.local import here, image_of
from storage.shards import Entry, entry_bytes, index_name, open_index
from storage.wording import numbered

ImageArray = NDArray[np.uint8]

IMAGE_SUFFIXES = (".png", ".webp", ".jpg")
KEPT_BYTES = 4 * 2**30
"""A dataset not above this, decoded, is kept in memory: a process decodes each image once."""
LOOK_AHEAD_PER_THREAD = 8
"""Images decoded before they are asked for, a thread."""
FETCHED_AT_ONCE = 4
"""Shards that are brought from a bucket at a time."""


class Shown(NamedTuple):
    """An image as the stream has it; to mirror it and to put colours first is left to the training device."""

    pixels: ImageArray
    """(R, R, 3)."""
    is_mirrored: bool
    label: int = 0
    """Which of the labels it has, where there are any."""


@dataclass(frozen=True)
class RealImages:
    """The images of one dataset version, as training reads them."""

    shard_paths: Sequence[Path]
    num_images: int
    dataset_resolution: int
    seed: int
    x_flips: bool
    num_threads: int
    index_sha256s: Sequence[str | None] = ()
    """Of each shard's index, as the version's manifest has it; of shards that are in no version, none."""
    labels: Mapping[str, int] | None = None
    """By an image's key, where there are any."""
    is_balanced: bool = False
    """Whether all labels are shown alike often."""
    keys: frozenset[str] | None = None
    """Those of the images that are shown, of which there are `num_images`; None where all of the shards' are."""
    whole_shards: bool = True
    """Of a store in a bucket: whether shards are brought here whole, before they are needed, and kept."""

    def stream(
        self, start_image: int, resolution: int, *, batch_size: int = 1, rows: Sequence[int] = (0,)
    ) -> Iterator[Shown]:
        """Images from number `start_image` on, for ever, their side `resolution`.

        Of each `batch_size` of them, only those at the places `rows`, ascending. Each epoch shows each image once, in
        an order of its own; balanced, each label once in as many images as there are labels, and its images once in an
        epoch of theirs. Raises, at the first image asked for or later, ConfigError for a resolution that the dataset
        does not have, NotFoundError and IntegrityError for files that are gone or damaged.
        """
        self.check(resolution)
        places = image_places(self.shard_paths, self.index_sha256s, self.num_images, self.keys)
        label_of = self._labels(places)
        order = self._order if not self.is_balanced else partial(self._balanced_order, label_of)
        is_small = self.num_images * 3 * resolution**2 <= KEPT_BYTES
        kept: dict[int, ImageArray] = {}
        pending: deque[tuple[int, int, Callable[[], ImageArray]]] = deque()
        pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode")
        ahead = ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch")
        try:
            for path in self._missing(places, order(start_image, batch_size, rows)):
                ahead.submit(here, path)
            for number, index in order(start_image, batch_size, rows):
                asked: Callable[[], ImageArray]
                if index in kept:
                    asked = partial(kept.__getitem__, index)
                else:
                    asked = pool.submit(self._image, *places[index], resolution).result
                pending.append((number, index, asked))
                if len(pending) > self.num_threads * LOOK_AHEAD_PER_THREAD:
                    number, index, asked = pending.popleft()
                    image = asked()
                    if is_small:
                        kept[index] = image
                    is_mirrored = self.x_flips and is_flipped(self.seed, number)
                    yield Shown(image, is_mirrored, int(label_of[index]))
        finally:
            ahead.shutdown(cancel_futures=True)
            pool.shutdown(cancel_futures=True)

    def _missing(
        self, places: Sequence[tuple[Path, Entry]], order: Iterator[tuple[int, int]]
    ) -> Iterator[Path]:
        """The shards that are to be brought here, in the order in which they are needed."""
        left = {
            path for path in self.shard_paths if self.whole_shards and image_of(path) and not path.is_file()
        }
        for _, index in islice(order, self.num_images if left else 0):
            path = places[index][0]
            if path in left:
                left.remove(path)
                yield path

    def check(self, resolution: int) -> None:
        """Raise ConfigError unless the dataset can be area-resampled to `resolution`."""
        check_resolution(self.dataset_resolution, resolution)

    def _order(self, start_image: int, batch_size: int, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The numbers asked for, each with which image of the dataset it is."""
        epoch, order = -1, np.empty(0, np.int64)
        for batch in count():
            for row in rows:
                number = start_image + batch * batch_size + row
                if number // self.num_images != epoch:
                    epoch = number // self.num_images
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
                yield number, int(order[number % self.num_images])

    def _labels(self, places: Sequence[tuple[Path, Entry]]) -> NDArray[np.int64]:
        """Each image's label, as `places` has them; zeros where there are none."""
        if self.labels is None:
            return np.zeros(len(places), np.int64)
        keys = [key_of(entry) for _, entry in places]
        if missing := [key for key in keys if key not in self.labels]:
            raise IntegrityError(f"image {missing[0]} has no label: the dataset's table and shards differ")
        return np.array([self.labels[key] for key in keys])

    def _balanced_order(
        self, label_of: NDArray[np.int64], start_image: int, batch_size: int, rows: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """As `_order`, all labels alike often."""
        members = [np.flatnonzero(label_of == label) for label in np.unique(label_of)]
        block, labels = -1, np.empty(0, np.int64)
        orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        for batch in count():
            for row in rows:
                number = start_image + batch * batch_size + row
                if number // len(members) != block:
                    block = number // len(members)
                    labels = np.random.default_rng((self.seed, 1, block)).permutation(len(members))
                label = int(labels[number % len(members)])
                images = members[label]
                epoch = block // len(images)
                if orders.get(label, (-1,))[0] != epoch:
                    rng = np.random.default_rng((self.seed, 2, label, epoch))
                    orders[label] = epoch, rng.permutation(images)
                yield number, int(orders[label][1][block % len(images)])

    def _image(self, path: Path, entry: Entry, resolution: int) -> ImageArray:
        """One image as (R, R, 3), resampled."""
        where = f"image {entry.name} in {path}"
        try:
            data = entry_bytes(path, entry, whole_shards=self.whole_shards)
        except OSError as error:
            raise IntegrityError(f"{where} cannot be read: {error}") from error
        return area_resampled(decode(data, self.dataset_resolution, where), resolution)


def image_places(
    shard_paths: Sequence[Path],
    index_sha256s: Sequence[str | None],
    num_images: int,
    keys: Collection[str] | None = None,
) -> list[tuple[Path, Entry]]:
    """Where each image's bytes lie, shard after shard; the fields of `RealImages` say what is expected.

    NotFoundError and IntegrityError for files that are gone, or are not what the manifest says.
    """
    places = []
    for path, sha256 in zip_longest(shard_paths, index_sha256s):
        if not path.is_file() and image_of(path) is None:
            raise NotFoundError(f"shard {path} is not there")
        entries = open_index(path.with_name(index_name(path.name)), sha256).entries
        images = [entry for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)]
        places += [(path, entry) for entry in images if keys is None or key_of(entry) in keys]
    if len(places) != num_images:
        raise IntegrityError(
            f"shards beside {shard_paths[0]} hold {numbered(len(places), 'image')}, the manifest says {num_images}"
        )
    return places


def key_of(entry: Entry) -> str:
    """An image's key, by what its bytes are called in a tar."""
    return entry.name.rpartition(".")[0]


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


def decode(data: bytes, side: int, where: str) -> ImageArray:
    """An image file as RGB (side, side, 3); IntegrityError, which says where, if it is none or of another size."""
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
