"""A training's steps: what is skipped, what comes lazily, what is averaged and drawn at random."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_run import GROWING, PATHS
from training.config import TrainConfig
from training.engine.state import TERMS, Training, average_into, step_rng, terms_of
from training.schedule import stage_at


def test_a_step_without_finite_gradients_is_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a step of a network leaves its weights, moments and counts alone, is counted, and training goes on."""
    training = Training.begin(TrainConfig.model_validate(GROWING), torch.device("cpu"))
    stage = stage_at(training.config, 0)
    pixels = torch.randint(256, (stage.batch_size, 3, 8, 8), dtype=torch.uint8)
    training.step(stage, pixels)
    whole = training.gradients["discriminator"]

    def broken(*inputs: Tensor) -> Any:
        gradients, others = whole(*inputs)
        next(iter(gradients.values())).view(-1)[0] = float("nan")
        return gradients, others

    parameters = list(training.discriminator.parameters())
    state = training.optimizers["discriminator"].state
    for is_broken in (True, True, False):
        monkeypatch.setitem(training.gradients, "discriminator", broken if is_broken else whole)
        before = [p.clone() for p in parameters]
        steps = {int(s["step"]) for s in state.values()}
        constant: Any = training.generator.synthesis.const
        generator = constant.clone()
        training.step(stage, pixels)
        unchanged = all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
        assert unchanged == is_broken
        assert {int(s["step"]) for s in state.values()} == ({n + (not is_broken) for n in steps})
        assert not torch.equal(constant, generator)
    tally = training.tally
    counts = int(tally.steps), int(tally.skipped), int(tally.most_in_a_row), int(tally.skipped_in_a_row)
    assert counts == (2, 2, 2, 0)
    assert all(math.isfinite(mean) for mean in tally.means().values())


def test_lazy_r1_comes_every_so_many_steps() -> None:
    """With interval 4, every fourth step has the penalty, whatever the batch, counted from images shown."""
    training = Training.begin(TrainConfig.model_validate({**GROWING, "r1_interval": 4}), torch.device("cpu"))
    stage = stage_at(training.config, 0)
    pixels = torch.randint(256, (stage.batch_size, 3, 8, 8), dtype=torch.uint8)
    with_r1 = []
    for _ in range(9):
        before = training.tally.sums[TERMS.index("r1")].item()
        training.step(stage, pixels)
        with_r1.append(training.tally.sums[TERMS.index("r1")].item() > before)
    assert with_r1 == [True, False, False, False, True, False, False, False, True]


def test_lazy_penalties_of_the_pairing_loss() -> None:
    """R1 and R2 come together, every third step, and are counted at those alone."""
    config = TrainConfig.model_validate({**GROWING, "loss": "r3", "r1_interval": 3})
    training = Training.begin(config, torch.device("cpu"))
    stage = stage_at(config, 0)
    pixels = torch.randint(256, (stage.batch_size, 3, 8, 8), dtype=torch.uint8)
    for _ in range(7):
        training.step(stage, pixels)
    counts = dict(zip(terms_of(config), training.tally.counts.tolist(), strict=True))
    assert (counts["r1"], counts["r2"], counts["loss_d"], counts["loss_g"]) == (3, 3, 7, 7)
    assert min(training.tally.means()[name] for name in ("r1", "r2")) > 0


def test_lazy_path_lengths() -> None:
    """With interval 3 the penalty comes every third step, and the mean moves then alone, and not in skipped steps."""
    config = TrainConfig.model_validate({**GROWING, **PATHS, "path_length_interval": 3})
    training = Training.begin(config, torch.device("cpu"))
    stage = stage_at(training.config, 0)
    pixels = torch.randint(256, (stage.batch_size, 3, 8, 8), dtype=torch.uint8)
    penalties, means = [0.0], [0.0]
    for _ in range(7):
        training.step(stage, pixels)
        penalties.append(training.tally.sums[terms_of(config).index("path_penalty")].item())
        means.append(training.path_length_mean.item())
    assert [b > a for a, b in pairwise(penalties)] == [True, False, False, True, False, False, True]
    assert [b > a for a, b in pairwise(means)] == [True, False, False, True, False, False, True]
    training.generator.synthesis.const.data.fill_(float("nan"))
    for _ in range(3):
        training.step(stage, pixels)
    assert training.path_length_mean.item() == means[-1] > 0


def test_path_lengths_leave_the_rest_of_the_randomness_alone() -> None:
    """A first step with path lengths of weight next to nothing is the step without them."""
    weights = []
    for fields in ({}, {"path_length_weight": 1e-30}):
        training = Training.begin(TrainConfig.model_validate({**GROWING, **fields}), torch.device("cpu"))
        training.step(stage_at(training.config, 0), torch.zeros(8, 3, 8, 8, dtype=torch.uint8))
        weights.append(training.generator.synthesis.layers[1].conv.weight.detach())
    assert torch.equal(*weights)


def test_random_numbers_depend_on_seed_and_images() -> None:
    """Each step's random numbers are fixed by the seed and the images shown, and differ from step to step."""
    cpu = torch.device("cpu")
    draws = {
        (seed, num): torch.rand(1, generator=step_rng(seed, num, cpu)).item()
        for seed in (0, 1)
        for num in (0, 8)
    }
    assert len(set(draws.values())) == 4
    assert torch.rand(1, generator=step_rng(0, 8, cpu)).item() == draws[0, 8]


def test_average_has_its_half_life() -> None:
    """After a half-life of steps the average is half the old weights and half the new."""
    average, network = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    old = average.weight.detach().clone()
    for _ in range(10):
        average_into(average, network, 0.5 ** (1 / 10))
    torch.testing.assert_close(average.weight, (old + network.weight) / 2)


def test_penalties_are_means_over_the_steps_that_had_them() -> None:
    """Of a lazy penalty the statistics have what it came to, not a share of it; where no step had it, nothing."""
    penalties = []
    for interval in (1, 4):
        config = TrainConfig.model_validate(
            {**GROWING, **PATHS, "r1_interval": interval, "path_length_interval": interval}
        )
        training = Training.begin(config, torch.device("cpu"))
        stage = stage_at(config, 0)
        pixels = torch.randint(
            256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        for number in range(2):
            training.step(stage, pixels)
            if number == 0:
                penalties.append(training.tally.means()["r1"])
        means = training.end_tally().means()
        if interval == 4:
            assert means["r1"] == penalties[-1]
            training.step(stage, pixels)
            means = training.end_tally().means()
            assert "r1" not in means
            assert "path_penalty" not in means
            assert means["loss_d"] > 0
    assert penalties[1] == pytest.approx(penalties[0])


def test_every_network_is_shown_at_the_present_level() -> None:
    """Pictures amid growth are of the layers that are trained by now, the averaged generator's too."""
    training = Training.begin(TrainConfig.model_validate(GROWING), torch.device("cpu"))
    training.num_images = 40
    training.show_present_lod()
    assert 0 < stage_at(training.config, 40).lod < 1
    assert {network.lod for network in training.networks.values()} == {stage_at(training.config, 40).lod}


def test_path_lengths_are_of_half_a_batch() -> None:
    """As StyleGAN2 takes them; of a batch of one, of one."""
    training = Training.begin(TrainConfig.model_validate({**GROWING, **PATHS}), torch.device("cpu"))
    for num, half in ((16, 8), (1, 1)):
        rng = step_rng(0, 0, torch.device("cpu"))
        assert len(training._path_inputs(stage_at(training.config, 0), num, None, rng)[0][1]) == half
