"""The mathematics of the metrics: numbers from features, latents and callables.

No image is read and no network loaded here: features come from `training.extractors`, images from a callable.

    frechet_distance(features(reals), features(fakes))

Suffixes: N, M samples, D entries of a feature or latent, A attributes, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.metric_names import Sampling, Space

CHUNK = 4096
"""Rows of a matrix of distances that are held at once."""
MAX_PATH_PX = 256
"""The largest side that perceptual distances are taken at."""

# --------------------------------------------------------------------------------------------------------------
# Distances between sets of features


def frechet_distance(a_ND: Tensor, b_MD: Tensor) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (AB)^(1/2)), A and B the covariances of two sets of features.

    tr (AB)^(1/2) is taken as the sum of the singular values of R^T S, where A = R R^T and B = S S^T: no square root
    of a matrix that is not symmetric, no complex number, and no digit lost by squaring.
    """
    a, b = a_ND.double(), b_MD.double()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = torch.linalg.svdvals(root_a.T @ root_b).sum()
    return max(0.0, float(shift + root_a.square().sum() + root_b.square().sum() - 2 * cross))


def _covariance_root(x_ND: Tensor) -> Tensor:
    """R with R R^T the covariance of the rows, D by the smaller of N and D."""
    centred = (x_ND - x_ND.mean(0)) / math.sqrt(max(1, len(x_ND) - 1))
    if len(centred) <= centred.shape[1]:
        return centred.T
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root


def kernel_distance(
    a_ND: Tensor, b_MD: Tensor, *, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """The unbiased estimate of the squared MMD under the kernel (x.y / D + 1)^3, the mean over drawn subsets.

    Its expectation is 0 for two samples of one distribution, so that a value slightly below 0 is nothing wrong.
    """
    size = min(subset_size, len(a_ND), len(b_MD))
    rng = np.random.default_rng(seed)
    a, b = a_ND.double(), b_MD.double()
    values = []
    for _ in range(num_subsets):
        x = a[torch.from_numpy(rng.choice(len(a), size, replace=False))]
        y = b[torch.from_numpy(rng.choice(len(b), size, replace=False))]
        xx, yy, xy = _cubic(x, x), _cubic(y, y), _cubic(x, y)
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        values.append(float(within - 2 * xy.mean()))
    return float(np.mean(values))


def _cubic(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    return (x_ND @ y_MD.T / x_ND.shape[1] + 1) ** 3


def precision_recall(reals_ND: Tensor, fakes_MD: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Shares of the fakes within the reals' neighbourhoods, and of the reals within the fakes'.

    A neighbourhood is a ball around a sample that reaches to its k-th nearest of its own set, itself not counted.
    """
    return (
        _share_within(fakes_MD, reals_ND, neighbours),
        _share_within(reals_ND, fakes_MD, neighbours),
    )


def _share_within(queries: Tensor, samples: Tensor, neighbours: int) -> float:
    return float(lies_within(queries, samples, neighbours).double().mean())


def lies_within(queries: Tensor, samples: Tensor, neighbours: int = 3) -> Tensor:
    """Whether each of `queries` lies in a ball of `samples`, as of `precision_recall`: the share of reals is recall."""
    k = min(neighbours + 1, len(samples))
    radii = torch.cat([torch.cdist(part, samples).kthvalue(k).values for part in torch.split(samples, CHUNK)])
    within = [(torch.cdist(part, samples) <= radii).any(1) for part in torch.split(queries, CHUNK)]
    return torch.cat(within)


# --------------------------------------------------------------------------------------------------------------
# Perceptual path length (section 4.1)


def slerp(a_ND: Tensor, b_ND: Tensor, t_N: Tensor) -> Tensor:
    """Points at fractions t of the great circles from a to b, on the unit sphere."""
    a, b = a_ND / a_ND.norm(dim=1, keepdim=True), b_ND / b_ND.norm(dim=1, keepdim=True)
    angle = torch.acos((a * b).sum(1, keepdim=True).clamp(-1, 1)) * t_N[:, None]
    direction = b - (a * b).sum(1, keepdim=True) * a
    direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-12)
    point: Tensor = a * angle.cos() + direction * angle.sin()
    return point


def lerp(a_ND: Tensor, b_ND: Tensor, t_N: Tensor) -> Tensor:
    """Points at fractions t of the straight lines from a to b."""
    return a_ND + (b_ND - a_ND) * t_N[:, None]


def path_fractions(num: int, sampling: Sampling, rng: torch.Generator) -> Tensor:
    """Where on its path each sample is taken: anywhere for "full", at its beginning for "end"."""
    t_N = torch.rand(num, generator=rng, device=rng.device)
    return t_N if sampling == "full" else torch.zeros_like(t_N)


def path_lengths(
    z1_ND: Tensor,
    z2_ND: Tensor,
    t_N: Tensor,
    *,
    space: Space,
    mapping: Callable[[Tensor], Tensor],
    synthesis: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    epsilon: float = 1e-4,
) -> Tensor:
    """d(g(t), g(t + eps)) / eps^2 of each pair: eq. 2, interpolated in Z, or eq. 3, in W.

    `synthesis` must use the same noise at both calls, or the noise would be measured.
    """
    if space == "z":
        ends = [mapping(slerp(z1_ND, z2_ND, t)) for t in (t_N, t_N + epsilon)]
    else:
        w1, w2 = mapping(z1_ND), mapping(z2_ND)
        ends = [lerp(w1, w2, t) for t in (t_N, t_N + epsilon)]
    return distance(synthesis(ends[0]), synthesis(ends[1])) / epsilon**2


def trimmed_mean(values: NDArray[np.float64], low: float = 1.0, high: float = 99.0) -> float:
    """The mean of the values from the one percentile to the other, both included."""
    least = np.percentile(values, low, method="lower")
    most = np.percentile(values, high, method="higher")
    return float(values[(values >= least) & (values <= most)].mean())


def face_crop(x_NCHW: Tensor) -> Tensor:
    """The part of an FFHQ-aligned picture that shows the face: rows 3/8 to 7/8, columns 2/8 to 6/8."""
    eighth = x_NCHW.shape[-1] // 8
    return x_NCHW[..., 3 * eighth : 7 * eighth, 2 * eighth : 6 * eighth] if eighth else x_NCHW


def box_downsampled(x_NCHW: Tensor, max_px: int = MAX_PATH_PX) -> Tensor:
    """Shrunk by the mean of whole blocks until the side is at most `max_px`."""
    factor = -(-x_NCHW.shape[-1] // max_px)
    return torch.nn.functional.avg_pool2d(x_NCHW, factor) if factor > 1 else x_NCHW


# --------------------------------------------------------------------------------------------------------------
# Linear separability (section 4.2)


def separability(latents_ND: NDArray[np.float32], probabilities_NA: NDArray[np.float32]) -> float:
    """exp of the summed conditional entropies H(Y|X), in nats, over the attributes: 1 is perfectly separable.

    Y is the class that an attribute's classifier gives the images, whose probabilities come in; X is the side of the
    plane that a linear SVM puts their latents on. Only the half of the samples that the classifier is surest of
    counts, each attribute its own half.
    """
    entropies = [attribute_entropy(latents_ND, column) for column in probabilities_NA.T]
    return math.exp(sum(entropies))


def attribute_entropy(latents_ND: NDArray[np.float32], probability_N: NDArray[np.float32]) -> float:
    """H(Y|X) of one attribute, in nats; 0 where all the images kept are of one class."""
    surest = np.argsort(-np.abs(probability_N - 0.5), kind="stable")[: max(1, len(probability_N) // 2)]
    latents, classes = latents_ND[surest], probability_N[surest] > 0.5
    if classes.all() or not classes.any():
        return 0.0
    return conditional_entropy(classes, _linear_svm_sides(latents, classes))


def conditional_entropy(y_N: NDArray[np.bool_], x_N: NDArray[np.bool_]) -> float:
    """H(Y|X) of two binary variables seen together, in nats."""
    total = 0.0
    for side in (False, True):
        given = y_N[x_N == side]
        for kind in (False, True):
            count = int((given == kind).sum())
            if count:
                total -= count / len(y_N) * math.log(count / len(given))
    return total


def _linear_svm_sides(latents_ND: NDArray[np.float32], classes_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The side of the best separating plane that each latent lies on."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of 1000 rounds; the plane is good by then
        machine = LinearSVC(dual="auto", random_state=0).fit(latents_ND, classes_N)
    sides: NDArray[np.bool_] = machine.predict(latents_ND)
    return sides
