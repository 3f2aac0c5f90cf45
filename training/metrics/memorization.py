"""The mathematics of memorization: how near a generated picture is to its nearest training crop, and how near is near.

A distance alone says nothing: faces are alike, and pictures of a small set lie far apart. So the threshold is taken
from photographs that the generator cannot have copied, by asking how near *they* are to the training crops: at the
first percentile, one in a hundred of them would pass for a near-copy. A generator that copies shows a larger share.

Not here: which pictures (`training.metrics.audit`), and the networks that embed them (`training.extractors`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIXEL_SIDE_PX = 32
COARSE_MIN_PX = 16
CHUNK = 1024
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Nearest:
    """Of each query its nearest reference, and whether that is nearest as its mirror image."""

    distance: Floats
    index: Indices
    mirrored: NDArray[np.bool_]


def pixel_vectors(pixels_N3RR: Tensor, side_px: int = PIXEL_SIDE_PX) -> Tensor:
    """Pictures as vectors whose Euclidean distance is the RMS difference of their shrunk pixels, 0 to 1.

    Shrinking by area leaves what a person would call the same picture: pose, light, background and colours.
    """
    shrunk = torch.nn.functional.interpolate(pixels_N3RR.float() / 255, (side_px, side_px), mode="area")
    vectors: Tensor = shrunk.flatten(1) / (3 * side_px**2) ** 0.5
    return vectors


def coarse(pixels_N3RR: Tensor) -> Tensor:
    """Pictures, uint8, shrunk by area to a quarter of their side, 16 px at least: what an embedding is taken of.

    Fine noise and slight blur move the features of a whole picture further than another face does; a copy that a
    generator has softened would go unseen (`benchmarks/memorization.py`).
    """
    side = pixels_N3RR.shape[-1]
    wanted = min(side, max(COARSE_MIN_PX, side // 4))
    shrunk = torch.nn.functional.interpolate(pixels_N3RR.float(), (wanted, wanted), mode="area")
    return shrunk.round().to(torch.uint8)


def unit_vectors(features_ND: Tensor) -> Tensor:
    """Features on the unit sphere, where the Euclidean distance goes by the angle alone, 0 to 2."""
    return torch.nn.functional.normalize(features_ND, dim=1)


def nearest(
    queries_ND: Tensor,
    references_MD: Tensor,
    mirrored_MD: Tensor | None = None,
    own_index_N: Indices | None = None,
) -> Nearest:
    """The nearest reference of each query; `mirrored_MD` are the references' mirror images, in the same order.

    With `own_index_N`, query n is itself reference `own_index_N[n]`, which then does not count, nor does its mirror
    image: the nearest other one.
    """
    parts = []
    for start in range(0, len(queries_ND), CHUNK):
        queries = queries_ND[start : start + CHUNK]
        tables = [_distances(queries, references_MD)]
        if mirrored_MD is not None:
            tables.append(_distances(queries, mirrored_MD))
        if own_index_N is not None:
            own = torch.from_numpy(own_index_N[start : start + CHUNK]).to(queries.device)
            for table in tables:
                table[torch.arange(len(queries), device=queries.device), own] = torch.inf
        found = [table.min(dim=1) for table in tables]
        values = torch.stack([one.values for one in found])
        indices = torch.stack([one.indices for one in found])
        best = values.min(dim=0)
        parts.append(
            (best.values.cpu(), indices.gather(0, best.indices[None])[0].cpu(), best.indices.bool().cpu())
        )
    distance, index, is_mirrored = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return Nearest(distance.astype(np.float64), index, is_mirrored)


def _distances(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """Euclidean distances (N, M), without the shortcut by products that loses the small ones."""
    return torch.cdist(a_ND, b_MD, compute_mode="donot_use_mm_for_euclid_dist")


def calibrated_threshold(held_out: Floats, percentile: float = 1.0) -> float:
    """The distance that so many percent of the held-out photographs are nearer than."""
    return float(np.percentile(held_out, percentile))


def share_nearer(distances: Floats, threshold: float) -> float:
    """The share of pictures that are nearer than the threshold."""
    return float((distances < threshold).mean())


def quantiles(distances: Floats) -> dict[str, float]:
    """Some quantiles, by name: "min", "1%", ... "max"."""
    names = {0.0: "min", 1.0: "max"}
    return {names.get(q, f"{q:.0%}"): float(np.quantile(distances, q)) for q in QUANTILES}


def closest(distances: list[Floats], thresholds: list[float], num: int) -> list[int]:
    """The pictures nearest to a training crop in any of the spaces, each measured against its threshold."""
    ratios = np.min([d / max(t, 1e-12) for d, t in zip(distances, thresholds, strict=True)], axis=0)
    return [int(index) for index in np.argsort(ratios, kind="stable")[:num]]
