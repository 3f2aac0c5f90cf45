"""The real crops of a run's dataset version, each once, in the order of the shards, with their keys.

Training reads the same shards as an endless shuffled stream, mirrored half the time (`training.data`).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from storage.datasets.dataset import open_recorded
from storage.shards import Entry, entry_bytes
from storage.store import Store
from training.data import (
    ImageArray,
    area_resampled,
    check_resolution,
    decode,
    image_places,
    is_flipped,
    key_of,
)

if TYPE_CHECKING:
    from storage.datasets.records import VersionSummary


@dataclass(frozen=True)
class RealCrops:
    """The crops of one dataset version, area-resampled to `resolution`, in `batches` mirrored at random if so said."""

    shard_paths: tuple[Path, ...]
    index_sha256s: tuple[str | None, ...]
    """Of each shard's index, as the version's manifest has it."""
    num_images: int
    """Of all crops in the shards, whichever count."""
    dataset_resolution: int
    resolution: int
    is_mirrored: bool = False
    keys: frozenset[str] | None = None
    """Those of the crops that count; None where all do."""
    num_threads: int = 2

    @classmethod
    def of(
        cls, store: Store, dataset: VersionSummary, resolution: int, *, is_mirrored: bool = False
    ) -> RealCrops:
        """The crops of a version as a run's record describes it (`Dataset.summary`), in its store.

        IntegrityError where the version there is another.
        """
        check_resolution(dataset.resolution, resolution)
        opened = open_recorded(store, dataset, "the run")
        shas = tuple(shard.index_sha256 for shard in opened.manifest.shards)
        paths = tuple(opened.shard_paths)
        total = opened.manifest.images.rows
        return cls(paths, shas, total, opened.resolution, resolution, is_mirrored, opened.keys)

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[list[str], ImageArray]]:
        """Keys and images (N, 3, R, R), at most `size` at a time, of the first `limit` crops."""
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode") as pool:
            places = islice(self._places(), limit)
            numbers = count()
            while part := list(islice(places, size)):
                images = [
                    image[..., ::-1] if self.is_mirrored and is_flipped(0, number) else image
                    for image, number in zip(pool.map(self._decoded, part), numbers, strict=False)
                ]
                yield [key_of(entry) for _, entry in part], np.stack(images)

    def order(self) -> list[str]:
        """The keys of all crops, in the order of `batches`; none is read."""
        return [key_of(entry) for _, entry in self._places()]

    def chosen(self, keys: set[str]) -> dict[str, ImageArray]:
        """The images (3, R, R) of some keys, the others unread."""
        return {
            key_of(place[1]): self._decoded(place) for place in self._places() if key_of(place[1]) in keys
        }

    def _places(self) -> Iterator[tuple[Path, Entry]]:
        places = iter(image_places(self.shard_paths, self.index_sha256s, self.num_images))
        return places if self.keys is None else (place for place in places if key_of(place[1]) in self.keys)

    def _decoded(self, place: tuple[Path, Entry]) -> ImageArray:
        path, entry = place
        pixels_HWC = decode(
            entry_bytes(path, entry), self.dataset_resolution, f"image {entry.name} in {path}"
        )
        return np.ascontiguousarray(area_resampled(pixels_HWC, self.resolution).transpose(2, 0, 1))
