"""The losses against finite differences and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from training.loss import (
    CriticPhase,
    DiscriminatorPhase,
    GeneratorPhase,
    PathLengthPhase,
    critic_loss,
    discriminator_loss,
    draw_directions,
    draw_latents,
    faded_reals,
    generator_loss,
    gradient_penalty,
    pairing_loss,
    r1_penalty,
    wasserstein_generator_loss,
)
from training.networks import Discriminator, Generator

SMALL: dict[str, Any] = {"channel_base": 64, "max_channels": 6}


def double_discriminator() -> Discriminator:
    """A narrow discriminator in float64, in the middle of a fade."""
    torch.manual_seed(0)
    discriminator = Discriminator(16, **SMALL).double()
    discriminator.lod = 0.3
    return discriminator


def test_logistic_losses() -> None:
    """The losses are -log sigmoid of the logits' right side, and log 2 each at indifference."""
    zero = torch.zeros(4)
    assert generator_loss(zero).item() == pytest.approx(math.log(2))
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    real, fake = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    expected = -torch.log(torch.sigmoid(real)).mean() - torch.log(1 - torch.sigmoid(fake)).mean()
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), -torch.log(torch.sigmoid(fake)).mean())


def test_wasserstein_losses() -> None:
    """The losses are the logits' means, with the drift of the real ones (Progressive GAN, Appendix A.1)."""
    real, fake = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    assert wasserstein_generator_loss(fake).item() == -1.75
    assert critic_loss(real, fake).item() == pytest.approx(1.75 + 0.5 + 0.001 * 2.5)


def test_the_pairing_loss_compares_pairs() -> None:
    """It is -log sigmoid of the differences in a pair, log 2 at indifference, and blind to what both logits share."""
    real, fake = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    expected = -torch.log(torch.sigmoid(real - fake)).mean()
    torch.testing.assert_close(pairing_loss(real, fake), expected)
    torch.testing.assert_close(pairing_loss(real + 7, fake + 7), expected)
    assert pairing_loss(real, real).item() == pytest.approx(math.log(2))


def test_penalties_are_of_the_gradient_by_finite_differences() -> None:
    """R1 is gamma / 2 times the mean squared gradient that finite differences give, WGAN-GP's 10 times the mean
    squared distance of its norm from 1 (float64).
    """
    discriminator = double_discriminator()
    reals = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    gamma, step = 10.0, 1e-6
    watched = reals.clone().requires_grad_()
    r1 = r1_penalty(discriminator(watched), watched, gamma).item()
    toward_one = gradient_penalty(discriminator(watched), watched).item()
    squares = [0.0, 0.0]
    with torch.no_grad():
        for index in range(reals.numel()):
            ends = []
            for sign in (1, -1):
                moved = reals.clone()
                moved.view(-1)[index] += sign * step
                ends.append(discriminator(moved).sum().item())
            squares[index // reals[0].numel()] += ((ends[0] - ends[1]) / (2 * step)) ** 2
    assert r1 == pytest.approx(gamma / 2 * sum(squares) / len(reals), rel=1e-5)
    distances = [(math.sqrt(square) - 1) ** 2 for square in squares]
    assert toward_one == pytest.approx(10 * sum(distances) / len(reals), rel=1e-5)


@pytest.mark.parametrize("kind", ["r1", "wgan_gp"])
def test_penalty_gradients_match_finite_differences(kind: str) -> None:
    """Each penalty's gradient in each of the discriminator's tensors is that of finite differences (float64)."""
    discriminator = double_discriminator()
    reals = torch.randn(4, 3, 16, 16, dtype=torch.float64).requires_grad_()

    def penalty() -> Tensor:
        logits = discriminator(reals)
        return r1_penalty(logits, reals, 10.0) if kind == "r1" else gradient_penalty(logits, reals)

    names, parameters = zip(*discriminator.named_parameters(), strict=True)
    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    checked = 0
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        if gradient is None:
            continue
        direction, step = torch.randn_like(parameter), 1e-6
        slope = (gradient * direction).sum().item()
        with torch.no_grad():
            parameter += step * direction
            above = penalty_value(penalty)
            parameter -= 2 * step * direction
            below = penalty_value(penalty)
            parameter += step * direction
        assert slope == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-6), name
        checked += 1
    assert checked > 10


def penalty_value(penalty: Callable[[], Tensor]) -> float:
    """The penalty as a number, its inner gradient switched on."""
    with torch.enable_grad():
        return penalty().item()


def pair() -> tuple[Generator, Discriminator]:
    """Narrow networks."""
    torch.manual_seed(0)
    return Generator(16, z_dim=8, w_dim=8, mapping_layers=2, **SMALL), Discriminator(16, **SMALL)


def latents(
    generator: Generator, num: int = 4, seed: int = 5, mixing_probability: float = 0.9
) -> tuple[Tensor, ...]:
    """Inputs of a phase that draws fakes."""
    drawn = draw_latents(generator, num, mixing_probability, torch.Generator().manual_seed(seed))
    return torch.zeros(()), torch.zeros(()), *drawn[:3], *drawn.noise


def reals(num: int = 4) -> tuple[Tensor, Tensor]:
    """Random real images, and no random numbers to augment them."""
    rng = torch.Generator().manual_seed(3)
    return torch.randint(256, (num, 3, 16, 16), dtype=torch.uint8, generator=rng), torch.empty(num, 0)


def test_phases_are_functions_of_their_latents() -> None:
    """The same random numbers give the same losses, others give others."""
    generator, discriminator = pair()
    phase = GeneratorPhase(generator, discriminator)
    one, same = (phase(*latents(generator))[0] for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, phase(*latents(generator, seed=6))[0])


def test_discriminator_phase_leaves_the_generator_alone() -> None:
    """The discriminator's loss has no path to the generator's parameters."""
    generator, discriminator = pair()
    loss, *_ = DiscriminatorPhase(generator, discriminator, 10.0)(*reals(), *latents(generator))
    loss.backward()
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert discriminator.out.weight.grad is not None


def test_critic_phase_leaves_the_generator_alone() -> None:
    """The critic's loss has no path to the generator's parameters."""
    generator, discriminator = pair()
    loss, *_ = CriticPhase(generator, discriminator)(*reals(), *latents(generator), torch.rand(4))
    loss.backward()
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert discriminator.out.weight.grad is not None


class LinearGenerator(torch.nn.Module):
    """Images that are linear in each layer's w: image = sum over layers of A_l w_l."""

    num_layers_in_use, lod, num_labels = 3, 0.0, 0

    def __init__(self) -> None:
        super().__init__()
        self.mapping = torch.nn.Linear(5, 5, bias=False, dtype=torch.float64)
        self.a_LPD = torch.nn.Parameter(torch.randn(3, 3 * 8 * 8, 5, dtype=torch.float64))

    def broadcast(self, w_ND: Tensor) -> Tensor:
        """The same w for every layer."""
        return w_ND[:, None].expand(-1, 3, -1)

    def synthesis(
        self, w_NLD: Tensor, noise: Sequence[Tensor], lod: float, fade: Tensor, z_NZ: Tensor
    ) -> Tensor:
        """(N, L, D) to (N, 3, 8, 8)."""
        return torch.einsum("lpd,nld->np", self.a_LPD, w_NLD).unflatten(1, (3, 8, 8))


def test_path_lengths_of_a_linear_generator() -> None:
    """Where images are A w, J^T y is A^T y: length, moved mean, penalty and its gradient have closed forms."""
    torch.manual_seed(0)
    generator = LinearGenerator()
    y_NP = torch.randn(4, 3 * 8 * 8, dtype=torch.float64) / 8
    z_KNZ, mean = torch.randn(1, 4, 5, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    phase = PathLengthPhase(cast(Generator, generator), weight=2.0, interval=4)
    loss, terms = phase(mean, y_NP.unflatten(1, (3, 8, 8)), torch.zeros(()), z_KNZ, torch.full((4,), 3))
    with torch.no_grad():
        back_NLD = torch.einsum("lpd,np->nld", generator.a_LPD, y_NP)
        lengths_N = (back_NLD.square().sum(dim=(1, 2)) / 3).sqrt()
        moved = 0.99 * mean + 0.01 * lengths_N.mean()
        penalty = 2 * (lengths_N - moved).square().mean()
        slope_N = 2 * 4 * 2 * (lengths_N - moved) / 4 / (3 * lengths_N)
        expected = torch.einsum("n,nld,np->lpd", slope_N, back_NLD, y_NP)
    torch.testing.assert_close(terms, torch.stack([penalty, moved]))
    torch.testing.assert_close(loss, 4 * penalty)
    torch.testing.assert_close(torch.autograd.grad(loss, generator.a_LPD)[0], expected)


def test_directions_have_unit_length_at_any_resolution() -> None:
    """What path lengths are measured along has 3 as its mean squared length, whatever the number of pixels."""
    for resolution in (8, 64):
        y = draw_directions(400, resolution, torch.Generator().manual_seed(0))
        assert y.square().sum(dim=(1, 2, 3)).mean().item() == pytest.approx(3, rel=0.03)


def test_mixing_probability_is_a_share_of_images() -> None:
    """At probability 0 no image is mixed, at 1 every one is, in between a share; layer 0 never."""
    generator, _ = pair()
    for probability, low, high in ((0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)):
        drawn = draw_latents(generator, 1000, probability, torch.Generator().manual_seed(5))
        assert len(drawn.z_KNZ) == (2 if probability else 1)
        share = (drawn.crossover_N < generator.num_layers_in_use).float().mean().item()
        assert low <= share <= high, share
        assert drawn.crossover_N.min() >= 1


def test_no_r1_at_gamma_zero() -> None:
    """At gamma 0 the penalty is zero and the loss is the logistic one alone."""
    generator, discriminator = pair()
    loss, terms, _ = DiscriminatorPhase(generator, discriminator, 0.0)(*reals(), *latents(generator))
    assert terms[1] == 0
    assert loss == terms[0]


def test_lazy_r1_weighs_as_many_times_as_much() -> None:
    """With R1 every k steps, the steps that have it add k times the penalty."""
    generator, discriminator = pair()
    for interval in (1, 16):
        phase = DiscriminatorPhase(generator, discriminator, 10.0, interval)
        loss, terms, _ = phase(*reals(), *latents(generator))
        torch.testing.assert_close(loss, terms[0] + interval * terms[1])


def test_reals_fade_with_the_networks() -> None:
    """Real images span [-1, 1] and blend with their halved form by the fraction of the level of detail."""
    small = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4) * 5
    full = faded_reals(small, 2.0)
    assert (faded_reals(torch.tensor([[[[0, 255]]]]), 0.0) == torch.tensor([-1.0, 1.0])).all()
    halved = torch.nn.functional.avg_pool2d(full, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(faded_reals(small, 2.25), 0.75 * full + 0.25 * halved)
    torch.testing.assert_close(faded_reals(small, 2.9, torch.tensor(0.25)), 0.75 * full + 0.25 * halved)
