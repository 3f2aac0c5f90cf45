"""The losses, one method a phase: generator, discriminator, R1.

The non-saturating logistic loss of Goodfellow et al. (2014) with R1 regularization (Mescheder et al. 2018), as
the paper trains FFHQ (section 2 and Appendix C). It steps no optimizer and reads no file; latents, noise and
style mixing are drawn here, from a random generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.networks import Discriminator, Generator, TraditionalGenerator


def generator_loss(fake_logits: Tensor) -> Tensor:
    """-log D(G(z)), the non-saturating form: the mean of softplus(-logit)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), averaged over the images."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, reals: Tensor, gamma: float) -> Tensor:
    """gamma / 2 * E |grad_x D(x)|^2 on real images (Mescheder et al., eq. 9).

    `reals` must require gradients and have led to `real_logits`; the result can itself be differentiated. The gradient
    is taken of images at the resolution trained on. A discriminator fed with images enlarged to full resolution, as
    the original is said to be, has a penalty 4^floor(lod) times smaller at the same gamma.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), reals, create_graph=True)
    return gamma / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()


@dataclass(frozen=True)
class GeneratorPhase:
    """What the generator's phase gives."""

    loss: Tensor
    w: Tensor | None
    """The batch's w (N, D), for its running mean; None from a generator without a mapping network."""


@dataclass(frozen=True)
class DiscriminatorPhase:
    """What the discriminator's phase gives; `reals` requires gradients, for the R1 phase."""

    loss: Tensor
    reals: Tensor
    real_logits: Tensor
    fake_logits: Tensor


@dataclass(frozen=True)
class Losses:
    """The phases, over one pair of networks."""

    generator: Generator | TraditionalGenerator
    discriminator: Discriminator
    mixing_probability: float
    r1_gamma: float

    def generator_phase(self, num: int, rng: torch.Generator) -> GeneratorPhase:
        """The generator's loss on `num` fresh fakes."""
        fakes, w = self._fakes(num, rng)
        return GeneratorPhase(generator_loss(self.discriminator(fakes)), w)

    def discriminator_phase(self, reals: Tensor, rng: torch.Generator) -> DiscriminatorPhase:
        """The discriminator's loss on `reals` (N, 3, R, R) in [-1, 1] and as many fresh fakes."""
        with torch.no_grad():
            fakes, _ = self._fakes(len(reals), rng)
        reals = reals.detach().requires_grad_(self.r1_gamma > 0)
        real_logits, fake_logits = self.discriminator(reals), self.discriminator(fakes)
        return DiscriminatorPhase(
            discriminator_loss(real_logits, fake_logits), reals, real_logits, fake_logits
        )

    def r1_phase(self, phase: DiscriminatorPhase) -> Tensor:
        """The R1 penalty, on the forward pass the discriminator's phase has already made."""
        if self.r1_gamma == 0:
            return torch.zeros_like(phase.loss)
        return r1_penalty(phase.real_logits, phase.reals, self.r1_gamma)

    def _fakes(self, num: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Fresh fakes and, from a style-based generator, their first w."""
        generator = self.generator
        z_NZ = torch.randn(num, generator.z_dim, generator=rng, device=rng.device)
        noise = generator.draw_noise(num, rng)
        if isinstance(generator, TraditionalGenerator):
            return generator(z_NZ, noise), None
        w_ND = generator.mapping(z_NZ)
        w_NLD = generator.broadcast(w_ND)
        if self.mixing_probability > 0:
            w_NLD = self._mixed(generator, w_NLD, num_layers=len(noise), rng=rng)
        return generator.synthesis(w_NLD, noise, generator.lod), w_ND

    def _mixed(self, generator: Generator, w_NLD: Tensor, num_layers: int, rng: torch.Generator) -> Tensor:
        """Mixing regularization (section 3.1): a share of the images takes a second w from a random layer on.

        The crossover falls among the `num_layers` layers in use, so that it acts at every stage of growth.
        """
        num = len(w_NLD)
        z_NZ = torch.randn(num, generator.z_dim, generator=rng, device=rng.device)
        crossover_N = torch.randint(1, num_layers, (num,), generator=rng, device=rng.device)
        chosen_N = torch.rand(num, generator=rng, device=rng.device) < self.mixing_probability
        crossover_N = torch.where(chosen_N, crossover_N, num_layers)
        return generator.mix(w_NLD, generator.broadcast(generator.mapping(z_NZ)), crossover_N)
