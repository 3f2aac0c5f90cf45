"""Features of the real crops of a dataset version, kept in the store's cache under all that they depend on.

Not here: networks (`training.extractors`), what features are compared with (`training.metrics.measure`).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from storage.code import code_digest
from storage.digest import json_digest
from storage.store import Store
from training.extractors import Extractor
from training.metrics.crops import RealCrops

if TYPE_CHECKING:
    from storage.datasets.records import VersionSummary


def real_features(
    store: Store,
    dataset: VersionSummary,
    reals: RealCrops,
    extractor: Extractor,
    num: int | None,
    batch_size: int,
) -> Tensor:
    """Features (N, D) of the first `num` crops of a run's dataset, or of all, from the store's cache or into it."""
    identity = {
        "dataset": dataset.manifest_sha256,
        "resolution": reals.resolution,
        "num_reals": min(num or reals.num_images, reals.num_images),
        "is_mirrored": reals.is_mirrored,
        "keys": None if reals.keys is None else json_digest(sorted(reals.keys)),
        "extractor": [extractor.name, extractor.weights_sha256, extractor.resize],
        "code": code_digest(__name__),
    }
    key = f"cache/features/{json_digest(identity)}.npy"
    if store.exists(key):
        return torch.from_numpy(np.load(store.path(key)))
    batches = reals.batches(batch_size, num)
    features = torch.cat([extractor.features(torch.from_numpy(images)) for _, images in batches])
    file = io.BytesIO()
    np.save(file, features.numpy())
    store.put(key, file.getvalue())
    return features
