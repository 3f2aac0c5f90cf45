"""The training crops nearest to a picture, live: the audit's comparison by pixels, with where each crop comes from.

A crop is shown only where lineage says that it may be: under a licence that lets anybody show an adaptation of it, and
with its author beside it. Of all others the page is named, and no pixel shown. Not here: what near means
(`training.metrics.audit`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from storage.bundled.generator import BUNDLED_SHA256
from storage.bundled.photographs import photographs_held
from storage.datasets.dataset import Dataset, open_dataset
from storage.errors import NotFoundError, PipelineError
from storage.store import Store
from storage.tables import Row
from training.data import ImageArray
from training.metrics.crops import RealCrops
from training.metrics.memorization import pixel_vectors

MAX_CROPS = 20_000
"""That are compared with: the first so many of the version."""
NUM_SHOWN = 6
SIDE_PX = 96
BATCH = 64
MAY_BE_SHOWN = re.compile(r"(?:CC0|PDM|CC-BY|CC-BY-SA|US-GOV)(?:-\d[\d.]*)?", re.IGNORECASE)
"""Licences under which anybody may show a crop: neither NC nor ND, since a crop is an adaptation."""


def _learned_from(store: Store, origin: dict[str, Any]) -> tuple[Dataset, frozenset[str] | None]:
    """The version that a generator learned from, and the keys of the crops, where they are not all of it."""
    if "dataset" not in origin:
        raise PipelineError("it is not on record what the generator learned from")
    try:
        dataset = open_dataset(store, origin["dataset"])
    except NotFoundError:
        held = photographs_held(store) if BUNDLED_SHA256 in origin else None
        if held is None:
            raise
        keys = held.dataset.table("images").take(held.rows, ["key"])["key"].to_pylist()
        return held.dataset, frozenset(keys)
    if dataset.manifest_sha256 != origin["dataset_manifest_sha256"]:
        raise PipelineError(f"{dataset.folder} is not the version that the generator learned from")
    return dataset, None


def may_be_shown(row: Row) -> bool:
    """Whether lineage says that a crop of this photograph may be shown."""
    return bool(MAY_BE_SHOWN.fullmatch(str(row.get("license") or "").replace(" ", "-")))


@dataclass(frozen=True)
class TrainingCrops:
    """The crops that a generator learned from, as vectors, small pictures and rows of lineage."""

    vectors_MD: torch.Tensor
    pictures: list[ImageArray]
    rows: list[Row]

    @classmethod
    def reading(cls, store: Store, origin: dict[str, Any], resolution: int) -> Iterator[TrainingCrops | None]:
        """Of the version that an origin names, in the end: None comes a batch, so that it can be gone on with later.

        Of the generator in the box any version of its photographs will do. PipelineError where the store has it not,
        or another.
        """
        dataset, only = _learned_from(store, origin)
        rows = {row["key"]: row for row in dataset.images() if only is None or row["key"] in only}
        crops = RealCrops.of(store, dataset.summary(), resolution)
        if only is not None:
            crops = replace(crops, keys=only)
        vectors, pictures, keys = [], [], []
        for part, images in crops.batches(BATCH, MAX_CROPS):
            pixels = torch.from_numpy(images)
            vectors.append(pixel_vectors(pixels))
            side = min(SIDE_PX, resolution)
            small = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), side).round().to(torch.uint8)
            pictures += list(small.permute(0, 2, 3, 1).numpy())
            keys += part
            yield None
        yield cls(torch.cat(vectors), pictures, [rows[key] for key in keys])

    def nearest_to(self, picture_HWC: ImageArray, num: int = NUM_SHOWN) -> list[dict[str, Any]]:
        """The nearest crops to a picture, nearest first, and what is on record of each."""
        query = pixel_vectors(torch.from_numpy(np.ascontiguousarray(picture_HWC.transpose(2, 0, 1)))[None])
        distances = torch.cdist(query, self.vectors_MD)[0]
        best = distances.topk(min(num, len(distances)), largest=False)
        return [
            {
                "index": index,
                "distance": round(distance, 4),
                "shown": may_be_shown(self.rows[index]),
                **{
                    name: self.rows[index].get(name)
                    for name in ("key", "page", "author", "title", "license", "license_url")
                },
            }
            for index, distance in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def png(self, index: int) -> bytes | None:
        """A small picture of a crop, where it may be shown."""
        if not 0 <= index < len(self.rows) or not may_be_shown(self.rows[index]):
            return None
        file = io.BytesIO()
        Image.fromarray(self.pictures[index]).save(file, "PNG")
        return file.getvalue()
