"""Images as arrays, from seeds or from w: the same seed gives the same image, whatever stands beside it.

Not here: files of them (`training.drawing.pictures`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.data import ImageArray
from training.drawing.trained import Trained
from training.networks import Generator, TraditionalGenerator
from training.ops import upsample

log = logging.getLogger(__name__)


@torch.no_grad()
def images_from_seeds(
    generator: Generator | TraditionalGenerator,
    seeds: Sequence[int],
    truncation_psi: float,
    *,
    truncation_cutoff: int = 8,
    batch_size: int = 8,
    labels: Sequence[int] | None = None,
) -> ImageArray:
    """Images (N, 3, R, R) at the generator's full resolution, one a seed, each of its label if there are any.

    A seed fixes its image's latent and noise, whatever other seeds stand beside it and on whatever device.
    """
    truncation_psi = possible_psi(generator, truncation_psi)
    batches = []
    for start in range(0, len(seeds), batch_size):
        latents, noise = inputs_from_seeds(generator, seeds[start : start + batch_size])
        if isinstance(generator, Generator):
            part = None
            if labels is not None:
                part = torch.tensor(list(labels[start : start + batch_size]), device=latents.device)
            images = generator(latents, noise, psi=truncation_psi, cutoff=truncation_cutoff, label_N=part)
        else:
            images = generator(latents, noise)
        batches.append(pixels(upsample(images, generator.resolution // images.shape[-1])))
    return np.concatenate(batches)


def inputs_from_seeds(
    generator: Generator | TraditionalGenerator, seeds: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Latents (N, Z) and noise a layer, each row from its seed; drawn on the CPU, alike everywhere."""
    device = next(generator.parameters()).device
    latents, noises = [], []
    for seed in seeds:
        rng = torch.Generator("cpu").manual_seed(seed)
        latents.append(torch.randn(1, generator.z_dim, generator=rng))
        noises.append(generator.draw_noise(1, rng))
    noise = [torch.cat(layer).to(device) for layer in zip(*noises, strict=True)]
    return torch.cat(latents).to(device), noise


@torch.no_grad()
def possible_psi(generator: Generator | TraditionalGenerator, psi: float) -> float:
    """`psi`; or 1, which is no truncation, and a warning where the generator has no w to truncate."""
    if psi == 1 or isinstance(generator, Generator):
        return psi
    log.warning("truncation_psi %g is ignored: the traditional generator has no w", psi)
    return 1.0


def possible_psis(trained: Trained, psis: Sequence[float]) -> list[float]:
    """What `possible_psi` makes of them, each once."""
    return list(dict.fromkeys(possible_psi(trained.generator, psi) for psi in psis))


def w_from_seeds(generator: Generator, seeds: Sequence[int], psi: float = 1.0, cutoff: int = 8) -> Tensor:
    """Intermediate latents (N, L, D) of seeds, truncated at `psi`."""
    latents, _ = inputs_from_seeds(generator, seeds)
    return generator.truncate(generator.broadcast(generator.mapping(latents)), psi, cutoff)


def synthesized(
    generator: Generator, w_NLD: Tensor, noise: Sequence[Tensor], z_NZ: Tensor | None = None
) -> Tensor:
    """Images (N, 3, R, R) in about [-1, 1] at the full resolution, of w a layer and noise of one row or of N.

    A synthesis that begins with z (config C) needs it too.
    """
    rows = [layer.expand(len(w_NLD), -1, -1, -1) for layer in noise]
    images = generator.synthesis(w_NLD, rows, generator.lod, z_NZ=z_NZ)
    return upsample(images, generator.resolution // images.shape[-1])


@torch.no_grad()
def images_from_w(
    generator: Generator, w_NLD: Tensor, noise: Sequence[Tensor], *, batch_size: int = 8
) -> ImageArray:
    """As `synthesized`, in batches and as pixels."""
    batches = []
    for start in range(0, len(w_NLD), batch_size):
        part = slice(start, start + batch_size)
        rows = [layer[part] if len(layer) > 1 else layer for layer in noise]
        batches.append(pixels(synthesized(generator, w_NLD[part], rows)))
    return np.concatenate(batches)


def pixels(images: Tensor) -> ImageArray:
    """[-1, 1] to uint8, rounded."""
    rounded: ImageArray = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return rounded
