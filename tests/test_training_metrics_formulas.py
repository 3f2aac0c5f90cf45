"""The metrics' formulas against closed forms, other implementations, and what must hold of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training.metric_names import MEASURES
from training.metrics.formulas import (
    box_downsampled,
    conditional_entropy,
    face_crop,
    frechet_distance,
    kernel_distance,
    lerp,
    path_fractions,
    path_lengths,
    precision_recall,
    separability,
    slerp,
    trimmed_mean,
)


def gaussian(num: int, dims: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Samples of a normal distribution."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(num, dims, generator=rng) * scale + shift


@pytest.mark.parametrize("num", [40, 500])
def test_frechet_of_a_set_with_itself_is_zero(num: int) -> None:
    """The distance of features from themselves is 0 to rounding, with fewer samples than dimensions too."""
    x = gaussian(num, 64, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_of_a_shift_is_its_square() -> None:
    """A shift by a constant leaves the covariance: the distance is the shift's squared length."""
    x = gaussian(200, 16, 0)
    assert frechet_distance(x, x + 0.5) == pytest.approx(16 * 0.25, rel=1e-5)


def test_frechet_of_a_scaling_is_the_closed_form() -> None:
    """For covariances A and s^2 A the distance is (s - 1)^2 tr A, and the mean's part."""
    x = gaussian(300, 8, 1)
    x = x - x.mean(0)
    assert frechet_distance(x, 3 * x) == pytest.approx(4 * float(x.var(0).sum()), rel=1e-5)


@pytest.mark.parametrize(("num_a", "num_b", "dims"), [(300, 200, 32), (50, 300, 64), (40, 30, 96)])
def test_frechet_equals_torch_fidelitys(num_a: int, num_b: int, dims: int) -> None:
    """Ours is torch-fidelity's number, also where covariances are singular."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    mix = gaussian(dims, dims, 7) / math.sqrt(dims)
    a, b = gaussian(num_a, dims, 0) @ mix, gaussian(num_b, dims, 1, 1.3, 0.2) @ mix.T
    statistics = [fid_features_to_statistics(x.double()) for x in (a, b)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-5)


def test_kernel_distance_equals_torch_fidelitys_on_whole_sets() -> None:
    """Ours is torch-fidelity's number where the subsets are the sets."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    a, b = gaussian(60, 24, 0).double(), gaussian(60, 24, 1, 1.2).double()
    theirs = kid_features_to_metric(a, b, kid_subset_size=60, kid_subsets=2, verbose=False)
    ours = kernel_distance(a, b, num_subsets=2, subset_size=60)
    assert ours == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    """Its mean over pairs of small samples of one distribution is 0 within its own error, of either sign."""
    pairs = [(gaussian(30, 8, 2 * i), gaussian(30, 8, 2 * i + 1)) for i in range(200)]
    values = [kernel_distance(a, b, num_subsets=1) for a, b in pairs]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error, (np.mean(values), error)
    assert min(values) < 0 < max(values)
    assert kernel_distance(gaussian(300, 8, 0), gaussian(300, 8, 1, 1.0, 1.0), num_subsets=2) > 1


def test_kernel_distance_draws_from_the_whole_of_both() -> None:
    """Sets in order of their norms have about the value of the same sets in any order."""
    a, b = gaussian(200, 8, 0), gaussian(200, 8, 1, 1.3)
    whole = kernel_distance(a, b, num_subsets=1)
    for x, y in ((a[a.norm(dim=1).argsort()], b), (a, b[b.norm(dim=1).argsort()])):
        assert kernel_distance(x, y, num_subsets=100, subset_size=40) == pytest.approx(whole, rel=0.2)


def test_precision_and_recall_at_their_extremes() -> None:
    """One set twice has both 1, sets far apart both 0; a narrow part of the reals is precise and recalls little."""
    reals = gaussian(300, 4, 0)
    assert precision_recall(reals, reals) == (1.0, 1.0)
    assert precision_recall(reals, reals + 100) == (0.0, 0.0)
    precision, recall = precision_recall(reals, gaussian(300, 4, 1, 0.1))
    assert precision > 0.9
    assert recall < 0.2


def test_precision_and_recall_equal_torch_fidelitys() -> None:
    """Ours are torch-fidelity's numbers."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    reals, fakes = gaussian(200, 6, 0), gaussian(150, 6, 1, 0.8)
    theirs = prc_features_to_metric(fakes, reals, verbose=False)
    precision, recall = precision_recall(reals, fakes)
    assert (precision, recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_slerp_stays_on_the_sphere_and_turns_evenly() -> None:
    """slerp begins at a, ends at b, keeps length 1, and covers the same angle in the same share of t."""
    a, b = gaussian(5, 16, 0).double(), gaussian(5, 16, 1).double()
    at = [slerp(a, b, torch.full((5,), t, dtype=torch.float64)) for t in (0.0, 0.25, 0.5, 1.0)]
    unit_a, unit_b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    torch.testing.assert_close(at[0], unit_a)
    torch.testing.assert_close(at[3], unit_b)
    for point in at:
        torch.testing.assert_close(point.norm(dim=1), torch.ones(5, dtype=torch.float64))
    first, second = (torch.acos((x * y).sum(1)) for x, y in ((at[0], at[1]), (at[1], at[2])))
    torch.testing.assert_close(first, second)


def test_path_length_of_a_linear_generator_is_its_closed_form() -> None:
    """With g(w) = Gw and the squared L2 distance, each path in W has length |G (w2 - w1)|^2, wherever it is taken."""
    matrix, mapping = gaussian(12, 6, 3).double(), gaussian(6, 6, 4).double()
    z1, z2 = gaussian(40, 6, 0).double(), gaussian(40, 6, 1).double()
    expected = ((z2 - z1) @ mapping.T @ matrix.T).square().sum(1)
    for sampling in ("full", "end"):
        t = path_fractions(40, sampling, torch.Generator().manual_seed(0)).double()
        lengths = path_lengths(
            z1, z2, t, space="w",
            mapping=lambda z: z @ mapping.T,
            synthesis=lambda w: w @ matrix.T,
            distance=lambda x, y: (x - y).square().sum(1),
        )  # fmt: skip
        torch.testing.assert_close(lengths, expected, rtol=1e-6, atol=0)


def test_path_length_in_z_is_the_angle() -> None:
    """With the identity as generator, a path in Z has the squared angle between its ends as its length."""
    z1, z2 = gaussian(20, 8, 0).double(), gaussian(20, 8, 1).double()
    cosine = (z1 * z2).sum(1) / z1.norm(dim=1) / z2.norm(dim=1)
    lengths = path_lengths(
        z1, z2, torch.full((20,), 0.3, dtype=torch.float64), space="z",
        mapping=lambda z: z, synthesis=lambda w: w, distance=lambda x, y: (x - y).square().sum(1),
    )  # fmt: skip
    torch.testing.assert_close(lengths, torch.acos(cosine).square(), rtol=1e-6, atol=0)


def test_where_paths_are_taken() -> None:
    """Full paths anywhere in [0, 1), ends at 0; lerp goes straight."""
    rng = torch.Generator().manual_seed(0)
    t = path_fractions(1000, "full", rng)
    assert 0 <= t.min() < 0.05 < 0.95 < t.max() < 1
    assert not path_fractions(10, "end", rng).any()
    quarter = lerp(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([0.25]))
    torch.testing.assert_close(quarter, torch.full((1, 2), 0.25))


def test_trimmed_mean_leaves_out_the_outer_percents() -> None:
    """Of 0 to 999 and two outliers, the outer percents go; the percentile itself stays."""
    values = np.array([*range(1, 1000), 1e9], float)
    assert trimmed_mean(values) < 510
    assert trimmed_mean(np.arange(101.0)) == 50
    assert trimmed_mean(np.array([3.0])) == 3


def test_face_crop_and_box() -> None:
    """The crop is rows 3/8 to 7/8 and columns 2/8 to 6/8; the box takes means of whole blocks to 256 at most."""
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert face_crop(x)[0, 0, :, 0].tolist() == [26, 34, 42, 50]
    assert face_crop(x)[0, 0, 0].tolist() == [26, 27, 28, 29]
    assert box_downsampled(torch.zeros(1, 3, 512, 512)).shape[-1] == 256
    assert box_downsampled(torch.zeros(1, 3, 1024, 1024)).shape[-1] == 256
    assert box_downsampled(torch.zeros(1, 3, 128, 128)).shape[-1] == 128
    assert box_downsampled(x, 4)[0, 0, 0, 0] == (0 + 1 + 8 + 9) / 4


def test_separability_of_what_a_plane_separates_is_one() -> None:
    """Attributes that are sides of planes in the latents score about 1; attributes that are noise, exp of ln 2 each."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((4000, 8), dtype=np.float32)
    planes = latents @ rng.standard_normal((8, 3), dtype=np.float32)
    separable = 1 / (1 + np.exp(-4 * planes))
    assert separability(latents, separable) == pytest.approx(1, abs=0.02)
    noise = rng.random((4000, 3), dtype=np.float32)
    assert separability(latents, noise) == pytest.approx(8, rel=0.05)


def test_separability_keeps_the_surest_half() -> None:
    """Samples that the classifier is unsure of do not count, however badly they are separated."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2000, 4), dtype=np.float32)
    sure = np.where(latents[:, 0] > 0, 0.95, 0.05)
    unsure = 0.5 + 0.01 * rng.standard_normal(2000)
    mixed = np.where(np.arange(2000) < 1000, sure, unsure).astype(np.float32)
    assert separability(latents, mixed[:, None]) == pytest.approx(1, abs=0.05)


def test_conditional_entropy() -> None:
    """0 where x says y, ln 2 where it says nothing, 0 for one class alone."""
    y = np.array([True, False] * 50)
    assert conditional_entropy(y, y) == 0
    assert conditional_entropy(y, ~y) == 0
    assert conditional_entropy(y, np.arange(100) < 50) == pytest.approx(math.log(2))
    assert separability(np.zeros((10, 2), np.float32), np.full((10, 1), 0.9, np.float32)) == 1


def test_names_are_frozen() -> None:
    """The names of the metrics, and that a stand-in never goes by a published one."""
    published = {
        "fid", "kid", "precision", "recall", "ppl_z_full", "ppl_z_end", "ppl_w_full", "ppl_w_end",
        "separability_z", "separability_w",
    }  # fmt: skip
    stand_ins = {
        "fd_efficientnet_lite0", "kid_efficientnet_lite0", "precision_efficientnet_lite0",
        "recall_efficientnet_lite0", "ppl_efficientnet_lite0_z_full", "ppl_efficientnet_lite0_z_end",
        "ppl_efficientnet_lite0_w_full", "ppl_efficientnet_lite0_w_end",
    }  # fmt: skip
    assert set(MEASURES) == published | stand_ins
    assert {
        name for name, measure in MEASURES.items() if measure.extractor == "efficientnet_lite0"
    } == stand_ins
