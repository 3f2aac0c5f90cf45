"""The losses, one module a phase: discriminator (with its gradient penalty), generator, and path lengths.

The non-saturating logistic loss of Goodfellow et al. (2014) with R1 regularization (Mescheder et al. 2018), as the
paper trains FFHQ (section 2 and Appendix C); WGAN-GP (Gulrajani et al. 2017) as Progressive GAN has it, for config A
of table 1 and CelebA-HQ; or the relativistic pairing loss with R1 and R2 (Huang et al. 2024). Path length
regularization is StyleGAN2's. A phase is a pure function of tensors, so that it can be run as it stands or compiled:
what is random about it is drawn before, by `draw_latents` and its like. It steps no optimizer and reads no file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.augment import augmented, draw_augmentation
from training.networks import Discriminator, Generator, TraditionalGenerator, blend
from training.ops import downsample, input_gradients_only, upsample


def generator_loss(fake_logits: Tensor) -> Tensor:
    """-log D(G(z)), the non-saturating form: the mean of softplus(-logit)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), averaged over the images."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def pairing_loss(logits: Tensor, opposite_logits: Tensor) -> Tensor:
    """-log sigmoid(D(x) - D(G(z))), averaged over pairs: a network's own logits against those they should exceed.

    The relativistic pairing loss (Jolicoeur-Martineau 2019; Huang et al. 2024, eq. 2). For the discriminator the real
    images' logits come first, for the generator the fakes'.
    """
    return F.softplus(opposite_logits - logits).mean()


def r1_penalty(real_logits: Tensor, reals: Tensor, gamma: float, lod: float = 0.0) -> Tensor:
    """gamma / 2 * E |grad_x D(x)|^2 on real images (Mescheder et al., eq. 9).

    `reals` must require gradients and have led to `real_logits`; the result can itself be differentiated. x is the
    image enlarged to full resolution, as Progressive GAN feeds its discriminator at every `lod`: of the images
    trained on, each pixel of which is 4^floor(lod) pixels of x, that is the square of their gradient over as many.
    """
    with input_gradients_only():
        (gradient,) = torch.autograd.grad(real_logits.sum(), reals, create_graph=True)
    return gamma / 2 * gradient.square().sum(dim=(1, 2, 3)).mean() / 4.0 ** math.floor(lod)


GP_WEIGHT = 10.0
"""lambda of Gulrajani et al., eq. 3."""
DRIFT = 0.001
"""epsilon of Progressive GAN's Appendix A.1: keeps the critic's logits from drifting away from zero."""


def wasserstein_generator_loss(fake_logits: Tensor) -> Tensor:
    """-E D(G(z))."""
    return -fake_logits.mean()


def critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E D(G(z)) - E D(x) + epsilon E D(x)^2 (Gulrajani et al., eq. 3 without its penalty; Progressive GAN)."""
    return fake_logits.mean() - real_logits.mean() + DRIFT * real_logits.square().mean()


def gradient_penalty(logits: Tensor, images: Tensor, lod: float = 0.0) -> Tensor:
    """lambda * E (|grad_x D(x)| - 1)^2 on images between real and fake ones (Gulrajani et al., eq. 3).

    `images` must require gradients and have led to `logits`; the result can itself be differentiated. x is the image
    enlarged to full resolution, as in `r1_penalty`.
    """
    with input_gradients_only():
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    norm_N = gradient.square().sum(dim=(1, 2, 3)).sqrt() / 2.0 ** math.floor(lod)
    return GP_WEIGHT * (norm_N - 1).square().mean()


def path_lengths(images_N3HW: Tensor, w_NLD: Tensor, direction_N3HW: Tensor) -> Tensor:
    """|J_w^T y| of each image (StyleGAN2, eq. 4), as the root mean square over the layers' parts.

    `images` must come from `w_NLD`; the result can itself be differentiated. `direction_N3HW` is y over the root of
    the number of pixels, so that lengths are alike at all resolutions.
    """
    with input_gradients_only():
        (slope_NLD,) = torch.autograd.grad((images_N3HW * direction_N3HW).sum(), w_NLD, create_graph=True)
    return slope_NLD.square().sum(dim=2).mean(dim=1).sqrt()


class Latents(NamedTuple):
    """What a batch of fakes is drawn from."""

    z_KNZ: Tensor
    """One latent code an image, or two where styles are mixed."""
    crossover_N: Tensor
    """The layer from which on an image takes the styles of its second code."""
    augmentation_NR: Tensor
    """Random numbers of the images' augmentation; no columns where there is none."""
    noise: tuple[Tensor, ...]
    """(N, 1, H, W) a layer."""

    def of(self, share: Callable[[Tensor, int], Tensor]) -> Latents:
        """Those of some images, as `share` takes them from a tensor in whose given dimension the images lie."""
        return Latents(
            share(self.z_KNZ, 1),
            share(self.crossover_N, 0),
            share(self.augmentation_NR, 0),
            tuple(share(layer, 0) for layer in self.noise),
        )


def draw_latents(
    generator: Generator | TraditionalGenerator,
    num: int,
    mixing_probability: float,
    rng: torch.Generator,
    *,
    augments: bool = False,
) -> Latents:
    """Latents for `num` fakes at the generator's level of detail, with mixing regularization (section 3.1).

    A share of the images takes a second w from a random layer on, among those in use, so that mixing acts at every
    stage of growth.
    """
    device = rng.device
    noise = tuple(generator.draw_noise(num, rng))
    num_layers = generator.num_layers_in_use if isinstance(generator, Generator) else 0
    num_codes = 2 if mixing_probability > 0 and isinstance(generator, Generator) else 1
    z_KNZ = torch.randn(num_codes, num, generator.z_dim, generator=rng, device=device)
    crossover_N = torch.full((num,), num_layers, device=device)
    if num_codes == 2:
        drawn_N = torch.randint(1, num_layers, (num,), generator=rng, device=device)
        is_mixed_N = torch.rand(num, generator=rng, device=device) < mixing_probability
        crossover_N = torch.where(is_mixed_N, drawn_N, crossover_N)
    augmentation_NR = draw_augmentation(num, rng) if augments else torch.empty(num, 0, device=device)
    return Latents(z_KNZ, crossover_N, augmentation_NR, noise)


def draw_shares(num: int, rng: torch.Generator) -> Tensor:
    """How much of each of the critic's interpolated images is real (N,)."""
    return torch.rand(num, generator=rng, device=rng.device)


def draw_directions(num: int, resolution: int, rng: torch.Generator) -> Tensor:
    """Random images (N, 3, R, R) to measure path lengths along, over R."""
    return torch.randn(num, 3, resolution, resolution, generator=rng, device=rng.device) / resolution


def draw_fakes(
    generator: Generator | TraditionalGenerator,
    latents: Latents,
    fade: Tensor,
    label_N: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Fakes and, from a style-based generator, their first w (N, D)."""
    if isinstance(generator, TraditionalGenerator):
        return generator(latents.z_KNZ[0], latents.noise, fade), None
    w_NLD, w_ND = styles(generator, latents.z_KNZ, latents.crossover_N, label_N)
    return generator.synthesis(w_NLD, latents.noise, generator.lod, fade, latents.z_KNZ[0]), w_ND


def mean_w(fakes: Tensor, w_ND: Tensor | None) -> Tensor:
    """A batch's mean w (D,), empty from a generator without a mapping network."""
    return fakes.new_empty(0) if w_ND is None else w_ND.mean(dim=0)


def styles(
    generator: Generator, z_KNZ: Tensor, crossover_N: Tensor, label_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Each layer's w (N, L, D), mixed, and the first w (N, D); both codes of an image have its label."""
    z_MZ = z_KNZ.flatten(0, 1)
    w_MD = generator.mapping(z_MZ) if label_N is None else generator.mapping(z_MZ, label_N.repeat(len(z_KNZ)))
    w_KND = w_MD.unflatten(0, z_KNZ.shape[:2])
    w_NLD = generator.broadcast(w_KND[0])
    if len(w_KND) == 2:
        w_NLD = generator.mix(w_NLD, generator.broadcast(w_KND[1]), crossover_N)
    return w_NLD, w_KND[0]


def faded_reals(pixels_N3RR: Tensor, lod: float, fade: Tensor | None = None) -> Tensor:
    """uint8 pixels in [-1, 1], blended with their half-resolution form by the fraction of `lod`, or `fade` for it."""
    x = pixels_N3RR.float() / 127.5 - 1
    fraction = lod - math.floor(lod)
    return blend(x, upsample(downsample(x)), fraction if fade is None else fade) if fraction > 0 else x


class Phase(nn.Module, ABC):
    """What a step differentiates: one network's loss, as a pure function of tensors.

    `forward` gives the loss first and its `terms` second, as one tensor.
    """

    terms: ClassVar[tuple[str, ...]]
    generator: Generator | TraditionalGenerator

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network it trains."""

    @property
    def form(self) -> bool:
        """What the operations depend on beside the inputs' shapes: whether a level fades in."""
        return self.generator.lod % 1 > 0

    def _labelled(self, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The noise of the layers, and the images' labels where the networks take them, which come after it."""
        return (inputs[:-1], inputs[-1]) if self.generator.num_labels else (inputs, None)


class GeneratorPhase(Phase):
    """The generator's loss on fresh fakes."""

    terms = ("loss_g",)

    def __init__(
        self,
        generator: Generator | TraditionalGenerator,
        discriminator: Discriminator,
        loss_of: Callable[[Tensor], Tensor] = generator_loss,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.loss_of = loss_of

    @property
    def network(self) -> nn.Module:
        """The network it trains."""
        return self.generator

    def forward(
        self, fade: Tensor, p: Tensor, z_KNZ: Tensor, crossover_N: Tensor, drawn_NR: Tensor, *noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its `terms`, and the batch's mean w (empty from a generator without a mapping network).

        `p` is the strength of augmentation.
        """
        noise, label_N = self._labelled(noise)
        latents = Latents(z_KNZ, crossover_N, drawn_NR, noise)
        fakes, w_ND = draw_fakes(self.generator, latents, fade, label_N)
        loss = self.loss_of(self.discriminator(augmented(fakes, p, drawn_NR), fade, label_N))
        return loss, loss[None], mean_w(fakes, w_ND)


class DiscriminatorPhase(Phase):
    """The discriminator's loss on real images and as many fresh fakes, and R1 on the real ones.

    `r1_gamma` 0 leaves R1 out. R1 is taken by the images that the discriminator sees, or `through_augmentation` by
    what they were augmented from.
    """

    terms: ClassVar[tuple[str, ...]] = ("loss_d", "r1", "real_logit", "fake_logit", "real_sign")

    def __init__(
        self,
        generator: Generator | TraditionalGenerator,
        discriminator: Discriminator,
        r1_gamma: float,
        r1_interval: int = 1,
        *,
        through_augmentation: bool = False,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.r1_gamma, self.r1_interval = r1_gamma, r1_interval
        self.through_augmentation = through_augmentation

    @property
    def network(self) -> nn.Module:
        """The network it trains."""
        return self.discriminator

    def forward(
        self,
        pixels_N3RR: Tensor,
        drawn_reals_NR: Tensor,
        fade: Tensor,
        p: Tensor,
        z_KNZ: Tensor,
        crossover_N: Tensor,
        drawn_NR: Tensor,
        *noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its `terms` and the batch's mean w; pixels are uint8, `p` is the strength of augmentation.

        Where R1 comes every so many steps alone, it weighs as many times as much (lazy regularization of StyleGAN2).
        """
        noise, label_N = self._labelled(noise)
        latents = Latents(z_KNZ, crossover_N, drawn_NR, noise)
        reals, fakes, w_D = self._drawn(pixels_N3RR, fade, latents, label_N)
        reals, shown = self._watched(reals, p, drawn_reals_NR)
        real_logits = self.discriminator(shown, fade, label_N)
        fake_logits = self.discriminator(augmented(fakes, p, drawn_NR), fade, label_N)
        loss = discriminator_loss(real_logits, fake_logits)
        r1 = torch.zeros_like(loss)
        if self.r1_gamma > 0:
            r1 = r1_penalty(real_logits, reals, self.r1_gamma, self.discriminator.lod)
        terms = torch.stack([loss, r1, real_logits.mean(), fake_logits.mean(), real_logits.sign().mean()])
        return loss + self.r1_interval * r1, terms, w_D

    @torch.no_grad()
    def _drawn(
        self, pixels_N3RR: Tensor, fade: Tensor, latents: Latents, label_N: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Real images and as many fakes of the same labels, not augmented yet, and the batch's mean w."""
        fakes, w_ND = draw_fakes(self.generator, latents, fade, label_N)
        reals = faded_reals(pixels_N3RR, self.discriminator.lod, fade).to(fakes.dtype)
        return reals, fakes, mean_w(fakes, w_ND)

    def _watched(self, images_N3RR: Tensor, p: Tensor, drawn_NR: Tensor) -> tuple[Tensor, Tensor]:
        """What a penalty is taken by, and what the discriminator sees of it."""
        if self.through_augmentation:
            images = images_N3RR.requires_grad_(self.r1_gamma > 0)
            return images, augmented(images, p, drawn_NR)
        shown = augmented(images_N3RR, p, drawn_NR).requires_grad_(self.r1_gamma > 0)
        return shown, shown


class PairingGeneratorPhase(Phase):
    """The generator's relativistic pairing loss: each fresh fake against a real image of the batch."""

    terms = GeneratorPhase.terms

    def __init__(self, generator: Generator | TraditionalGenerator, discriminator: Discriminator) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    @property
    def network(self) -> nn.Module:
        """The network it trains."""
        return self.generator

    def forward(
        self,
        pixels_N3RR: Tensor,
        drawn_reals_NR: Tensor,
        fade: Tensor,
        p: Tensor,
        z_KNZ: Tensor,
        crossover_N: Tensor,
        drawn_NR: Tensor,
        *noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its `terms` and the batch's mean w, as of `GeneratorPhase`; inputs as of `DiscriminatorPhase`."""
        noise, label_N = self._labelled(noise)
        latents = Latents(z_KNZ, crossover_N, drawn_NR, noise)
        fakes, w_ND = draw_fakes(self.generator, latents, fade, label_N)
        with torch.no_grad():
            reals = faded_reals(pixels_N3RR, self.discriminator.lod, fade).to(fakes.dtype)
            real_logits = self.discriminator(augmented(reals, p, drawn_reals_NR), fade, label_N)
        loss = pairing_loss(self.discriminator(augmented(fakes, p, drawn_NR), fade, label_N), real_logits)
        return loss, loss[None], mean_w(fakes, w_ND)


class PairingDiscriminatorPhase(DiscriminatorPhase):
    """The discriminator's relativistic pairing loss, R1 on the real images and R2, which is R1 on the fakes.

    Logits mean nothing by themselves here: `real_sign` is the mean sign of a real image's against its fake's.
    """

    terms = ("loss_d", "r1", "r2", "real_logit", "fake_logit", "real_sign")

    def forward(
        self,
        pixels_N3RR: Tensor,
        drawn_reals_NR: Tensor,
        fade: Tensor,
        p: Tensor,
        z_KNZ: Tensor,
        crossover_N: Tensor,
        drawn_NR: Tensor,
        *noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its `terms` and the batch's mean w; inputs are those of `DiscriminatorPhase`."""
        noise, label_N = self._labelled(noise)
        latents = Latents(z_KNZ, crossover_N, drawn_NR, noise)
        reals, fakes, w_D = self._drawn(pixels_N3RR, fade, latents, label_N)
        reals, shown_reals = self._watched(reals, p, drawn_reals_NR)
        fakes, shown_fakes = self._watched(fakes, p, drawn_NR)
        real_logits, fake_logits = (
            self.discriminator(shown_reals, fade, label_N),
            self.discriminator(shown_fakes, fade, label_N),
        )
        loss = pairing_loss(real_logits, fake_logits)
        r1 = r2 = torch.zeros_like(loss)
        if self.r1_gamma > 0:
            r1 = r1_penalty(real_logits, reals, self.r1_gamma, self.discriminator.lod)
            r2 = r1_penalty(fake_logits, fakes, self.r1_gamma, self.discriminator.lod)
        sign = (real_logits - fake_logits).sign().mean()
        terms = torch.stack([loss, r1, r2, real_logits.mean(), fake_logits.mean(), sign])
        return loss + self.r1_interval * (r1 + r2), terms, w_D


class CriticPhase(DiscriminatorPhase):
    """WGAN-GP's loss on real images and as many fresh fakes, and its penalty between them."""

    terms = ("loss_d", "gradient_penalty", "real_logit", "fake_logit", "real_sign")

    def __init__(self, generator: Generator | TraditionalGenerator, discriminator: Discriminator) -> None:
        super().__init__(generator, discriminator, r1_gamma=0.0)

    def forward(
        self,
        pixels_N3RR: Tensor,
        drawn_reals_NR: Tensor,
        fade: Tensor,
        p: Tensor,
        z_KNZ: Tensor,
        crossover_N: Tensor,
        drawn_NR: Tensor,
        *noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As of `DiscriminatorPhase`; after the noise come the shares (N,) of real images in the interpolated ones.

        Those lie between the images that the discriminator sees, augmented ones where there is augmentation.
        """
        of_layers, label_N = self._labelled(noise[:-1])
        share_N = noise[-1]
        latents = Latents(z_KNZ, crossover_N, drawn_NR, of_layers)
        reals, fakes, w_D = self._drawn(pixels_N3RR, fade, latents, label_N)
        reals, fakes = augmented(reals, p, drawn_reals_NR), augmented(fakes, p, drawn_NR)
        between = torch.lerp(fakes, reals, share_N[:, None, None, None]).requires_grad_()
        real_logits = self.discriminator(reals, fade, label_N)
        fake_logits = self.discriminator(fakes, fade, label_N)
        loss = critic_loss(real_logits, fake_logits)
        between_logits = self.discriminator(between, fade, label_N)
        penalty = gradient_penalty(between_logits, between, self.discriminator.lod)
        sign = real_logits.sign().mean()
        terms = torch.stack([loss, penalty, real_logits.mean(), fake_logits.mean(), sign])
        return loss + penalty, terms, w_D


class PathLengthPhase(Phase):
    """Path length regularization of the style-based generator (StyleGAN2, eq. 4).

    The mean length `a` is a running one: it comes in as an input, and goes out moved towards this batch's.
    """

    terms = ("path_penalty", "path_length")
    generator: Generator
    decay = 0.01

    def __init__(self, generator: Generator, weight: float, interval: int = 1) -> None:
        super().__init__()
        self.generator = generator
        self.weight, self.interval = weight, interval

    @property
    def network(self) -> nn.Module:
        """The network it trains."""
        return self.generator

    def forward(
        self,
        mean: Tensor,
        direction_N3RR: Tensor,
        fade: Tensor,
        z_KNZ: Tensor,
        crossover_N: Tensor,
        *noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The loss, which weighs `interval` times the penalty, and its `terms`: the penalty and the new mean."""
        noise, label_N = self._labelled(noise)
        w_NLD, _ = styles(self.generator, z_KNZ, crossover_N, label_N)
        w_NLD = w_NLD[:, : self.generator.num_layers_in_use]
        fakes = self.generator.synthesis(w_NLD, noise, self.generator.lod, fade, z_KNZ[0])
        lengths_N = path_lengths(fakes, w_NLD, direction_N3RR)
        moved = torch.lerp(mean, lengths_N.detach().mean(), self.decay)
        penalty = self.weight * (lengths_N - moved).square().mean()
        return self.interval * penalty, torch.stack([penalty, moved])
