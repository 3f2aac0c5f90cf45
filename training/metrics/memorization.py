"""The mathematics of memorization: how near a generated picture is to its nearest training crop, and how near is near.

A distance alone says nothing: faces are alike, and pictures of a small set lie far apart. So the threshold is taken
from photographs that the generator cannot have copied, by asking how near *they* are to the training crops: at the
first percentile, one in a hundred of them would pass for a near-copy. A generator that copies shows a larger share.

A picture near the mean face is near to every photograph, copied or not. So each is also asked whether it is nearer to
training crops than to photographs that were held out: three samples, as in Meehan, Chaudhuri and Dasgupta (*A
Non-Parametric Test to Detect Data-Copying in Generative Models*, 2020), here compared from the generated picture's
side. To a generator that does not copy, both are photographs of one distribution, and what is expected is exact.

Not here: which pictures (`training.metrics.audit`), and the networks that embed them (`training.extractors`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln, stdtrit
from torch import Tensor

PIXEL_SIDE_PX = 32
COARSE_MIN_PX = 16
CHUNK = 1024
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0)
GROUPS = 20
"""That an interval is taken over: each is left out once."""
CONFIDENCE = 0.95

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Nearest:
    """Of each query its nearest reference, and whether that is nearest as its mirror image."""

    distance: Floats
    index: Indices
    mirrored: NDArray[np.bool_]


@dataclass(frozen=True)
class References:
    """Photographs that pictures are compared with, and their mirror images in the same order, if those count."""

    vectors_MD: Tensor
    mirrored_MD: Tensor | None = None

    def __len__(self) -> int:
        return len(self.vectors_MD)

    def distances(self, queries_ND: Tensor) -> Tensor:
        """Of each query to each photograph (N, M), or to its mirror image where that is nearer."""
        found = _distances(queries_ND, self.vectors_MD)
        if self.mirrored_MD is not None:
            found = torch.minimum(found, _distances(queries_ND, self.mirrored_MD))
        return found

    def rows(self, chosen: Indices) -> References:
        """Some of them."""
        mirrored = self.mirrored_MD
        return References(self.vectors_MD[chosen], mirrored[chosen] if mirrored is not None else None)


@dataclass(frozen=True)
class Share:
    """A share of pictures, and the interval that it lies in at `CONFIDENCE`."""

    value: float
    low: float
    high: float
    expected: float
    """Of a generator that does not copy."""


@dataclass(frozen=True)
class Copying:
    """Generated pictures between training crops and held-out photographs."""

    nearer_to_training: Share
    """Those nearer to one of as many training crops, taken at random, than to all held-out photographs."""
    nearest_is_training: Share
    """Those whose nearest of all training crops and held-out photographs is a training crop."""
    near_training: float
    """Those nearer than the threshold to one of as many training crops."""
    near_held_out: float
    """Those nearer than the threshold to a held-out photograph."""


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


# --------------------------------------------------------------------------------------------------------------
# Three samples


def copying(
    queries_ND: Tensor, training: References, held_out: References, threshold: float, seed: int = 0
) -> Copying:
    """Whether queries are nearer to training crops than to as many photographs that were held out; two of each at
    least.

    The mean over all choices of as many training crops is exact, so none is drawn. The intervals are by the jackknife:
    queries, training crops and held-out photographs are dealt into `GROUPS` groups by the seed, and each group is left
    out once. So they are wide where few photographs were held out. A bootstrap would not do: it takes a photograph
    twice, which moves no nearest neighbour.
    """
    rng = np.random.default_rng(seed)
    held_out = held_out.rows(rng.permutation(len(held_out))[: len(training)])
    sizes = (len(queries_ND), len(training), len(held_out))
    num_groups = min(GROUPS, *sizes)
    group, of_training, of_held_out = (rng.permutation(np.arange(size) % num_groups) for size in sizes)
    nearer = np.empty((num_groups + 1, 2, len(group)))
    near = np.empty((2, len(group)))
    for start in range(0, len(group), CHUNK):
        part = slice(start, start + CHUNK)
        to_training, to_held_out = (
            references.distances(queries_ND[part]).cpu().numpy() for references in (training, held_out)
        )
        near[:, part] = [
            _met((table < threshold).sum(1), table.shape[1], len(held_out))
            for table in (to_training, to_held_out)
        ]
        for out in range(num_groups + 1):  # at last none is left out
            nearer[out, :, part] = _nearer(
                to_training[:, of_training != out], to_held_out[:, of_held_out != out]
            )
    without = [nearer[out][:, group != out].mean(axis=1) for out in range(num_groups)]
    spread = np.std(without, axis=0) * (num_groups - 1) ** 0.5
    half = float(stdtrit(num_groups - 1, (1 + CONFIDENCE) / 2)) * spread
    expected = (0.5, sizes[1] / (sizes[1] + sizes[2]))
    nearer_to_training, nearest_is_training = (
        Share(value, max(0.0, value - side), min(1.0, value + side), wanted)
        for value, side, wanted in zip(nearer[-1].mean(axis=1).tolist(), half.tolist(), expected, strict=True)
    )
    near_training, near_held_out = near.mean(axis=1).tolist()
    return Copying(nearer_to_training, nearest_is_training, near_training, near_held_out)


def _nearer(to_training_NM: Floats, to_held_out_NH: Floats) -> tuple[Floats, Floats]:
    """Of each query, the chance that one of as many training crops is nearer than all held-out photographs, and
    whether one of all is.
    """
    num, size = to_training_NM.shape[1], to_held_out_NH.shape[1]
    num_nearer = (to_training_NM < to_held_out_NH.min(axis=1, keepdims=True)).sum(axis=1)
    return _met(num_nearer, num, min(size, num)), (num_nearer > 0).astype(float)


def _met(num_N: Indices, of: int, size: int) -> Floats:
    """The chance that `size` things taken at random of so many are not all others than `num_N` of them."""
    missed = np.where(
        num_N > of - size,
        -np.inf,
        gammaln(of - num_N + 1) - gammaln(np.maximum(of - num_N - size, 0) + 1),
    )
    chance: Floats = 1 - np.exp(missed - gammaln(of + 1) + gammaln(of - size + 1))
    return chance
