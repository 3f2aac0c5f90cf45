"""A picture seen small without being drawn whole: what its upper layers would make of it, at a lower level's side.

    preview = Preview.of(generator, level=3)
    images_N3HW = preview.images(w_NLD, noise)          # 32 px

The layers above that level act at its side too, on features taken to be as smooth as they are there: upscaling by f, a
convolution and the mean of f x f pixels are together one convolution of the small features, of another kernel, which is
exact. Statistics and noise are of small features, which is not. So nothing is fitted, and the highest toRGB is used:
the lower ones are stale, since growth leaves them behind. A page without a server, whose preview must not carry the
upper layers, has a toRGB that is fitted to such pictures (`fit_colours`). Not here: which level is quick enough
(`training.drawing.views`).

Suffixes: N images, L layers, D entries of w, C channels, O and I a kernel's, H height, W width, P pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from training.drawing.figures import fixed_noise
from training.drawing.images import w_from_seeds
from training.networks import Generator, StyledLayer, blend, level_and_fade
from training.ops import styled

BLUR = (0.25, 0.5, 0.25)
"""The filter of upscaled features, a row and a column."""
NUM_FITTED = 32
RIDGE = 1e-2
"""Of the mean square of a feature: of fits to 1 to 16 pictures none was better at less."""


@dataclass(frozen=True)
class Preview:
    """Draws small pictures of a generator."""

    generator: Generator
    level: int
    """Whose side they have."""
    kernels: tuple[Tensor, ...]
    """Of the layers above it, at its side."""

    @classmethod
    def of(cls, generator: Generator, level: int) -> Preview:
        """Kernels made ready."""
        layers = list(generator.synthesis.layers)[2 * level + 2 : generator.num_layers_in_use]
        with torch.no_grad():
            return cls(
                generator,
                level,
                tuple(_kernel(number, layer) for number, layer in enumerate(layers, start=2)),
            )

    @property
    def side_px(self) -> int:
        """Of a picture."""
        return 4 << self.level

    @torch.no_grad()
    def images(self, w_NLD: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Small images (N, 3, H, W) in about [-1, 1]."""
        synthesis = self.generator.synthesis
        top, fade = level_and_fade(self.generator.resolution, self.generator.lod)
        x = previous = features(self.generator, w_NLD, noise, self.level)
        for index, kernel in enumerate(self.kernels, start=2 * self.level + 2):
            if index % 2 == 0:
                previous = x
            layer = synthesis.layers[index]
            assert isinstance(layer, StyledLayer)
            small = F.adaptive_avg_pool2d(noise[index], self.side_px) if noise else None
            scale, shift = layer.style(w_NLD[:, index]).chunk(2, dim=1)
            y = F.conv2d(x, kernel, padding=1)
            x = styled(y, small, layer.noise_strength, layer.bias, scale + 1, shift, filters=False)
        image: Tensor = synthesis.to_rgb[top](x)
        return blend(image, synthesis.to_rgb[top - 1](previous), fade) if fade and self.kernels else image


@dataclass(frozen=True)
class Colours:
    """A toRGB that was fitted for a preview: the level it reads, and how features become colours there."""

    level: int
    weight_C3: Tensor
    bias_3: Tensor

    @property
    def side_px(self) -> int:
        """Of a preview."""
        return 4 << self.level


@torch.no_grad()
def fit_colours(generator: Generator, level: int, cutoff: int, num: int = NUM_FITTED) -> Colours:
    """Weights by which features at a level come nearest, by least squares, to the small pictures of `num` seeds.

    Half of the seeds are truncated at 0.7, and half are not.
    """
    preview = Preview.of(generator, level)
    w_NLD = torch.cat(
        [w_from_seeds(generator, range(start, num, 2), psi, cutoff) for start, psi in ((0, 0.7), (1, 1.0))]
    )
    products, targets = torch.zeros((), dtype=torch.double), torch.zeros((), dtype=torch.double)
    for index, w_LD in enumerate(w_NLD):
        noise = fixed_noise(generator, index)
        x_CP = features(generator, w_LD[None], noise, level)[0].flatten(1).double()
        x_CP = torch.cat([x_CP, x_CP.new_ones(1, x_CP.shape[1])])
        image = preview.images(w_LD[None], noise)
        products = products + (x_CP @ x_CP.T).cpu()
        targets = targets + (x_CP @ image[0].flatten(1).double().T).cpu()
    ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=torch.double)
    solved = torch.linalg.solve(products + ridge, targets).float().to(w_NLD.device)
    return Colours(level, solved[:-1], solved[-1])


@torch.no_grad()
def features(generator: Generator, w_NLD: Tensor, noise: Sequence[Tensor], level: int) -> Tensor:
    """Features (N, C, H, W) at a level, of a generator that draws from w."""
    synthesis = generator.synthesis
    if synthesis.const is not None:
        x = synthesis.const.expand(len(w_NLD), -1, -1, -1)
    else:
        assert synthesis.input is not None
        x = synthesis.input(w_NLD[:, 0]).unflatten(1, (-1, 4, 4))
    for index, layer in enumerate(synthesis.layers[: 2 * level + 2]):
        x = layer(x, w_NLD[:, index], noise[index] if noise else None, w_NLD.dtype)
    return x


def _kernel(number: int, layer: Module) -> Tensor:
    """Of a layer's convolution and filter together, at a side 2^(number // 2) times smaller; 2 is the first above."""
    assert isinstance(layer, StyledLayer)
    conv = layer.conv
    assert conv is not None
    kernel_OIHW = conv.weight * conv.weight_scale
    if layer.filters:
        filter_W = kernel_OIHW.new_tensor(BLUR)
        filter_11HW = (filter_W[:, None] * filter_W)[None, None]
        wider = F.conv2d(kernel_OIHW.flatten(0, 1)[:, None], filter_11HW, padding=2)
        kernel_OIHW = wider.reshape(*kernel_OIHW.shape[:2], *wider.shape[2:])
    return shrunk(kernel_OIHW, 2 ** (number // 2))


def shrunk(kernel_OIHW: Tensor, factor: int) -> Tensor:
    """The kernel (O, I, 3, 3) between means of `factor` x `factor` equal pixels, of one no wider than 2 factor + 1.

    Of so many pixels in a row a tap `d` pixels away reads d in the next mean.
    """
    offset = torch.arange(kernel_OIHW.shape[-1], device=kernel_OIHW.device) - kernel_OIHW.shape[-1] // 2
    outside = offset.abs().to(kernel_OIHW) / factor
    share_3W = torch.stack([outside * (offset < 0), 1 - outside, outside * (offset > 0)])
    return torch.einsum("ah,oihw,bw->oiab", share_3W, kernel_OIHW, share_3W)
