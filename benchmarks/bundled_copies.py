"""Does the generator in the box copy? Its pictures between the portraits it learned from and those that were held out.

python benchmarks/bundled_copies.py STORE CONGRESS CONGRESS_HELD_OUT

The two are datasets of the store, built as storage/bundled/README.md says. It prints what `likeness audit` does of a
run, untruncated and at psi 0.7.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from storage.datasets.dataset import open_part
from storage.store import Store
from training.drawing.images import images_from_seeds
from training.drawing.trained import Trained, open_bundled
from training.extractors import open_extractor
from training.extractors.weights import WeightsPlace
from training.metrics.audit import SPACES, crop_vectors, vectors
from training.metrics.crops import RealCrops
from training.metrics.memorization import calibrated_threshold, copying, nearest, share_nearer

CPU = torch.device("cpu")
BATCH = 32
NUM = {1.0: 1000, 0.7: 500}


def main(store: Store, *references: str) -> None:
    """Print a line a truncation and space."""
    trained = open_bundled(CPU)
    extractor = open_extractor("efficientnet_lite0", WeightsPlace(), CPU)
    crops = [
        RealCrops.of(store, open_part(store, reference).summary(), trained.generator.resolution)
        for reference in references
    ]
    train, held_out = (crop_vectors(one, extractor, BATCH, with_mirrored=True) for one in crops)
    for psi, num in NUM.items():
        fakes = vectors(drawn(trained, psi, num), extractor)
        is_near = []
        for space in SPACES:
            training, others = train.references(space, CPU), held_out.references(space, CPU)
            calibration = nearest(others.vectors_MD, training.vectors_MD, training.mirrored_MD).distance
            threshold = calibrated_threshold(calibration)
            distances = nearest(fakes[space], training.vectors_MD, training.mirrored_MD).distance
            is_near.append(distances < threshold)
            facts = {
                "near_copies": share_nearer(distances, threshold),
                "held_out_near_copies": share_nearer(calibration, threshold),
                **asdict(copying(fakes[space], training, others, threshold)),
            }
            print(psi, num, space, json.dumps(facts))
        print(psi, num, "either", np.any(is_near, axis=0).mean(), "both", np.all(is_near, axis=0).mean())


def drawn(trained: Trained, psi: float, num: int) -> Iterator[tuple[list[str], Tensor]]:
    """The first pictures, a batch at a time."""
    for start in range(0, num, BATCH):
        seeds = range(start, min(num, start + BATCH))
        images = images_from_seeds(trained.generator, seeds, psi, truncation_cutoff=trained.cutoff)
        yield [""] * len(seeds), torch.from_numpy(images)


if __name__ == "__main__":
    main(Store(Path(sys.argv[1])), *sys.argv[2:])
