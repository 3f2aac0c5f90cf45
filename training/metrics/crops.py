"""The real crops of a run's dataset version, each once, in the order of the shards, with their keys.

Training reads the same shards as an endless shuffled stream, mirrored half the time (`training.data`); what is
measured against the dataset reads them so, through webdataset.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander

from storage.errors import IntegrityError, NotFoundError
from storage.store import Store
from training.data import IMAGE_SUFFIXES, ImageArray, area_resampled, check_resolution, decode, is_flipped

if TYPE_CHECKING:
    from storage.datasets.records import VersionSummary


@dataclass(frozen=True)
class RealCrops:
    """The crops of one dataset version, area-resampled to `resolution`, in `batches` mirrored at random if so said."""

    shard_paths: tuple[Path, ...]
    num_images: int
    dataset_resolution: int
    resolution: int
    is_mirrored: bool = False
    num_threads: int = 2

    @classmethod
    def of(
        cls, store: Store, dataset: VersionSummary, resolution: int, *, is_mirrored: bool = False
    ) -> RealCrops:
        """The crops of a version as a run's record describes it (`Dataset.summary`), in its store."""
        check_resolution(dataset.resolution, resolution)
        folder = store.root / dataset.directory
        paths = tuple(folder / shard for shard in dataset.shards)
        return cls(paths, dataset.num_images, dataset.resolution, resolution, is_mirrored)

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[list[str], ImageArray]]:
        """Keys and images (N, 3, R, R), at most `size` at a time, of the first `limit` crops."""
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode") as pool:
            samples = islice(self._samples(), limit)
            numbers = count()
            while part := list(islice(samples, size)):
                images = [
                    image[..., ::-1] if self.is_mirrored and is_flipped(0, number) else image
                    for image, number in zip(pool.map(self._decoded, part), numbers, strict=False)
                ]
                yield [sample["__key__"] for sample in part], np.stack(images)

    def chosen(self, keys: set[str]) -> dict[str, ImageArray]:
        """The images (3, R, R) of some keys, the others undecoded."""
        found = (sample for sample in self._samples() if sample["__key__"] in keys)
        return {sample["__key__"]: self._decoded(sample) for sample in found}

    def _samples(self) -> Iterator[dict[str, Any]]:
        expand = partial(tar_file_expander, select_files=lambda name: name.lower().endswith(IMAGE_SUFFIXES))
        try:
            yield from group_by_keys(expand(self._opened_shards()))
        except tarfile.TarError as error:
            raise IntegrityError(f"shard {error.args[-1]} cannot be read: {error.args[0]}") from error

    def _opened_shards(self) -> Iterator[dict[str, Any]]:
        """Shards as the sources webdataset expands, each closed when the next is asked for.

        webdataset's own opener leaves files open and cuts a path at "#" or "?".
        """
        for path in self.shard_paths:
            if not path.is_file():
                raise NotFoundError(f"shard {path} is not there")
            with path.open("rb") as stream:
                yield {"url": str(path), "stream": stream}

    def _decoded(self, sample: dict[str, Any]) -> ImageArray:
        where = f"image {sample['__key__']} in {sample['__url__']}"
        data = next((sample[suffix[1:]] for suffix in IMAGE_SUFFIXES if suffix[1:] in sample), None)
        if data is None:
            raise IntegrityError(f"{where} has no entry of type {', '.join(IMAGE_SUFFIXES)}")
        pixels_HWC = area_resampled(decode(data, self.dataset_resolution, where), self.resolution)
        return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))
