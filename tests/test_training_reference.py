"""training.networks and a whole step against a slow, plain, float64 reading of the paper, on the same weights."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plain_networks import (
    SIDE,
    made_random,
    nearest,
    phase_inputs,
    reference_discriminator,
    reference_fakes,
    reference_mapping,
    reference_synthesis,
    row_of_table_1,
    small_networks,
)
from training.augment import augmented, draw_augmentation
from training.config import TrainConfig
from training.engine.state import Training, step_rng
from training.loss import (
    draw_latents,
)
from training.networks import Discriminator, Generator
from training.schedule import stage_at

log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def networks() -> tuple[Generator, Discriminator]:
    """Small networks, all of whose parameters are random."""
    return small_networks()


@pytest.mark.parametrize("lod", [2.0, 1.7, 1.0, 0.4, 0.0])
def test_networks_equal_the_reference(networks: tuple[Generator, Discriminator], lod: float) -> None:
    """At every level of detail, whole or fading, both networks compute what the plain reference computes."""
    generator, discriminator = networks
    generator.lod = discriminator.lod = lod
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(8, 16, generator=rng, dtype=torch.double)
    noise = [layer.double() for layer in generator.draw_noise(8, rng)]
    w = generator.mapping(z)
    torch.testing.assert_close(w, reference_mapping(generator, z), rtol=1e-10, atol=1e-12)
    images = generator.synthesis(generator.broadcast(w), noise, lod)
    expected = reference_synthesis(generator, generator.broadcast(w), noise, lod)
    torch.testing.assert_close(images, expected, rtol=1e-9, atol=1e-11)
    logits = discriminator(images)
    expected = reference_discriminator(discriminator, nearest(images, 2 ** math.floor(lod)), lod)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("row", "abcdef")
def test_table_1_equals_the_reference(row: str) -> None:
    """Both networks of each configuration, whole and fading, are the plain ones that its row tells of."""
    for lod in (2.0, 0.4, 0.0):
        generator, discriminator, filtered = row_of_table_1(row, lod)
        _, inputs = phase_inputs(generator, 0.9 if row == "f" else 0.0)
        z, noise = inputs[2][0], inputs[5:]
        images = generator(z, noise)
        unmixed = (torch.tensor(lod % 1, dtype=z.dtype), inputs[1], z[None], *inputs[3:])
        torch.testing.assert_close(
            images, reference_fakes(row, generator, unmixed), rtol=1e-9, atol=1e-11, check_dtype=True
        )
        expected = reference_discriminator(
            discriminator, nearest(images, 2 ** math.floor(lod)), lod, filtered
        )
        torch.testing.assert_close(discriminator(images), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("lod", "num_layers"), [(0.0, 8), (1.0, 6), (2.5, 4)])
def test_mixing_crosses_over_among_layers_in_use(
    networks: tuple[Generator, Discriminator], lod: float, num_layers: int
) -> None:
    """However far the networks have grown, every image is mixed within the layers that draw it, at any of them."""
    generator, _ = networks
    generator.lod = lod
    crossover = draw_latents(generator, 200, 1.0, torch.Generator().manual_seed(0)).crossover_N
    assert set(crossover.tolist()) == set(range(1, num_layers))


def test_steps_take_the_schedule_s_rate_and_resolutions_begin_with_fresh_moments() -> None:
    """Each step uses its stage's learning rate, and Adam starts anew where a resolution begins, and only there."""
    config = TrainConfig.model_validate(
        {"preset": "smoke", "resolution": 16, "stable_kimg": 0.016, "fade_kimg": 0.016, "total_kimg": 1,
         "batch_size": {"4": 8}, "learning_rate": {"4": 0.001, "16": 0.003}, "max_channels": 8}
    )  # fmt: skip
    training = Training.begin(config, torch.device("cpu"))
    counts, rates = [], []
    for _ in range(8):
        stage = stage_at(config, training.num_images)
        training.enter(stage)
        training.step(stage, torch.zeros(8, 3, stage.resolution, stage.resolution, dtype=torch.uint8))
        optimizer = training.optimizers["generator"]
        state = optimizer.state[training.generator.synthesis.const]
        counts.append((stage.resolution, int(state["step"])))
        rates.append(optimizer.param_groups[0]["lr"])
    assert counts == [(8, 1), (8, 2), (8, 3), (16, 1), (16, 2), (16, 3), (16, 4), (16, 5)]
    assert rates == [0.001] * 3 + [0.003] * 5


def steps_of_adam(config: TrainConfig, num: int) -> list[tuple[int, float, int]]:
    """Resolution, level of detail and Adam's step count after each of some steps."""
    training = Training.begin(config, torch.device("cpu"))
    counts = []
    for _ in range(num):
        stage = stage_at(config, training.num_images)
        training.enter(stage)
        training.step(stage, torch.zeros(8, 3, stage.resolution, stage.resolution, dtype=torch.uint8))
        state = training.optimizers["discriminator"].state[training.discriminator.out.weight]
        counts.append((stage.resolution, stage.lod, int(state["step"])))
    return counts


def test_moments_begin_afresh_where_a_fade_ends_if_asked() -> None:
    """As in the official code Adam starts anew where a fade begins and where it ends, and nowhere else."""
    given = {"preset": "smoke", "resolution": 16, "stable_kimg": 0.016, "fade_kimg": 0.016, "total_kimg": 1,
             "batch_size": {"4": 8}, "max_channels": 8}  # fmt: skip
    counts = steps_of_adam(TrainConfig.model_validate({**given, "adam_restarts_after_fade": True}), 7)
    assert counts == [(8, 1, 1), (8, 1, 2), (8, 1, 3), (16, 0.5, 1), (16, 0, 1), (16, 0, 2), (16, 0, 3)]
    assert [count for *_, count in steps_of_adam(TrainConfig.model_validate(given), 7)] == [
        1,
        2,
        3,
        1,
        2,
        3,
        4,
    ]


def test_the_mean_w_moves_in_both_phases_if_asked() -> None:
    """It moves towards the mean w of the discriminator's fakes and then towards that of the generator's."""
    config = TrainConfig.model_validate(
        {"preset": "smoke", "batch_size": {"4": 8}, "w_avg_updates": "both", "w_avg_beta": 0.9}
    )
    training = Training.begin(config, torch.device("cpu"))
    generator = training.generator
    assert isinstance(generator, Generator)
    rng = step_rng(config.seed, 0, torch.device("cpu"))
    stage = stage_at(config, 0)
    training._set_lod(stage.lod)
    expected = torch.zeros_like(generator.w_avg)
    for _ in range(2):
        z_NZ = draw_latents(generator, 8, config.mixing_probability, rng).z_KNZ[0]
        expected = expected + 0.1 * (generator.mapping(z_NZ).detach().mean(0) - expected)
    training.enter(stage)
    training.step(stage, torch.zeros(8, 3, stage.resolution, stage.resolution, dtype=torch.uint8))
    torch.testing.assert_close(generator.w_avg, expected)


def test_a_step_is_the_reference_s() -> None:
    """Four steps, mixed and augmented, are those of plain float64 networks, losses, Adam, averages and strength.

    Weights are compared after the first step, but for a few: Adam moves a weight by the whole rate, whichever way the
    rounding of a gradient that is nearly zero points.
    """
    config = TrainConfig.model_validate(
        {"resolution": SIDE, "start_resolution": SIDE, "z_dim": 16, "w_dim": 16, "mapping_layers": 8,
         "channel_base": 128, "max_channels": 16, "batch_size": {4: 8}, "learning_rate": {4: 0.01},
         "mixing_probability": 0.9, "augment": "ada", "augment_p": 0.5, "ada_target": 0.6, "ada_kimg": 0.4,
         "r1_gamma": 100.0, "ema_half_life_kimg": 0.02, "w_avg_beta": 0.9, "adam_beta2": 0.9}
    )  # fmt: skip
    training = Training.begin(config, torch.device("cpu"))
    torch.manual_seed(0)
    made_random(training.generator), made_random(training.discriminator)
    stage, pixels = stage_at(config, 0), torch.randint(256, (8, 3, SIDE, SIDE), dtype=torch.uint8)
    generator, averaged, discriminator = (
        copy.deepcopy(network).double()
        for network in (training.generator, training.generator_ema, training.discriminator)
    )
    assert isinstance(generator, Generator)
    training.enter(stage)
    p = torch.tensor(0.5).double()

    def drawn_fakes(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        latents = draw_latents(generator, 8, 0.9, rng, augments=True)
        first, second = (generator.broadcast(reference_mapping(generator, z.double())) for z in latents.z_KNZ)
        is_first = torch.arange(first.shape[1])[None, :, None] < latents.crossover_N[:, None, None]
        noise = [layer.double() for layer in latents.noise]
        fakes = reference_synthesis(generator, torch.where(is_first, first, second), noise, 0.0)
        return fakes, latents.augmentation_NR.double(), first[:, 0]

    def descend(network: torch.nn.Module, loss: Tensor) -> None:
        parameters = list(network.parameters())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            if gradient is not None:  # at the first step the second moment, its bias mended, is the square
                parameter.data -= 0.01 * gradient / (gradient.abs() + 1e-8)

    rng = step_rng(config.seed, 0, torch.device("cpu"))
    fakes, drawn, _ = drawn_fakes(rng)
    reals = augmented(pixels.double() / 127.5 - 1, p, draw_augmentation(8, rng).double())
    shown = reals.requires_grad_()
    real = reference_discriminator(discriminator, shown, 0.0)
    fake = reference_discriminator(discriminator, augmented(fakes.detach(), p, drawn), 0.0)
    (slope,) = torch.autograd.grad(real.sum(), shown, create_graph=True)
    penalty = 50 * slope.square().sum((1, 2, 3)).mean()
    loss_d = F.softplus(-real).mean() + F.softplus(fake).mean()
    descend(discriminator, loss_d + penalty)
    fakes, drawn, w_ND = drawn_fakes(rng)
    loss_g = F.softplus(-reference_discriminator(discriminator, augmented(fakes, p, drawn), 0.0)).mean()
    w_avg = generator.w_avg + 0.1 * (w_ND.detach().mean(0) - generator.w_avg)
    descend(generator, loss_g)

    training.step(stage, pixels)
    terms = training.tally.means()
    signs, fake_sign = real.sign().mean(), fake.sign().mean()
    assert signs != fake_sign
    named = {"loss_g": loss_g, "loss_d": loss_d, "r1": penalty, "real_sign": signs, "fake_logit": fake.mean()}
    for name, expected in named.items():
        assert terms[name] == pytest.approx(expected.item(), rel=1e-4), name
    torch.testing.assert_close(training.generator.w_avg.double(), w_avg, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(training.generator_ema.w_avg, training.generator.w_avg)
    for kept, new in zip(averaged.parameters(), generator.parameters(), strict=True):
        kept.data.lerp_(new.data, 1 - 0.5 ** (8 / 20))
    for name, network in zip(training.networks, (generator, discriminator, averaged), strict=True):
        found, expected = (
            torch.cat([x.detach().double().flatten() for x in now.parameters()])
            for now in (training.networks[name], network)
        )
        share = ((found - expected).abs() > 0.001).double().mean()  # a tenth of the rate
        assert share < 0.01, f"{name}: {share:.2%} of the weights moved otherwise"

    for _ in range(3):
        training.step(stage, pixels)
    for optimizer in training.optimizers.values():  # which the first step does not show
        assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.0, 0.9), 1e-8)
    change = math.copysign(4 * 8 / 400, training.tally.means()["real_sign"] - 0.6)
    assert training.augmentation.p.item() == pytest.approx(0.5 + change)
