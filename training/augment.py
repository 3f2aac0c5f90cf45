"""Adaptive discriminator augmentation (Karras et al. 2020, "Training GANs with limited data"), for small datasets.

The discriminator sees every image, real or generated, through random transforms, each taken with probability p; p
rises while the discriminator is too sure of the real images. The pipeline is the paper's "bgc": pixel blitting,
general geometry, colour. What is random is drawn before, by `draw_augmentation`, so that `augmented` is a pure
function of tensors that can be recorded and compiled.

Suffixes: N images, C channels, H height, W width, and matrices in homogeneous coordinates.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_UNIFORM, NUM_NORMAL = 20, 7

# The least asymmetric Daubechies wavelet with six vanishing moments, which the paper resamples with (Appendix B.2):
# up and down again by it changes nothing.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
BEFORE, AFTER = 5, 5
"""Fine samples that the filter back to full size needs on either side of an image."""
OFF_CENTRE = BEFORE + 0.5 - sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6)
"""How far to the right of its index a fine sample lies, in fine pixels: the filter is not quite symmetric."""

_BILINEAR_MIRRORED = 0, 2
"""PyTorch's numbers of how `_Sampled` interpolates and of what is outside."""


def draw_augmentation(num: int, rng: torch.Generator) -> Tensor:
    """The random numbers (num, 27) behind the transforms of `num` images; as many whatever their strength."""
    uniform = torch.rand(num, NUM_UNIFORM, generator=rng, device=rng.device)
    normal = torch.randn(num, NUM_NORMAL, generator=rng, device=rng.device)
    return torch.cat([uniform, normal], dim=1)


def augmented(images_N3HW: Tensor, p: Tensor, drawn_NR: Tensor) -> Tensor:
    """Images with each transform taken with probability `p`; linear in the images but for a shift of their values.

    Values are in about [-1, 1] and are not clamped. An image no geometric transform was drawn for passes that part
    unfiltered. Random numbers without columns stand for no augmentation at all.
    """
    if not drawn_NR.shape[1]:
        return images_N3HW
    geometry_N33, colour_N34, is_moved_N = transforms(p, drawn_NR, images_N3HW.shape[-1])
    moved = warped(images_N3HW, geometry_N33)
    x = torch.where(is_moved_N[:, None, None, None], moved, images_N3HW)
    mixed = torch.einsum("nij,njhw->nihw", colour_N34[:, :, :3].to(x.dtype), x)
    return mixed + colour_N34[:, :, 3, None, None].to(x.dtype)


# --------------------------------------------------------------------------------------------------------------
# Which transforms


def transforms(p: Tensor, drawn_NR: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Geometry as (N, 3, 3) from output to input coordinates, colour as (N, 3, 4), and whether geometry acts (N,).

    Coordinates run from -1 to 1 over an image of `side` pixels. Distributions are those of the paper's
    Appendix B.1.
    """
    uniform = iter(drawn_NR[:, :NUM_UNIFORM].unbind(1))
    normal = iter(drawn_NR[:, NUM_UNIFORM:].unbind(1))
    moved: list[Tensor] = []

    def taken(value: Tensor, neutral: float, probability: Tensor, *, geometric: bool = True) -> Tensor:
        is_taken = next(uniform) < probability
        if geometric:
            moved.append(is_taken)
        return torch.where(is_taken, value, neutral)

    # Rotation before and after the anisotropic scaling: one of the two with probability p.
    p_rotation = 1 - (1 - p).clamp(min=0).sqrt()

    # Pixel blitting: mirror images, quarter turns, whole pixels.
    mirrored = taken(1 - 2 * (next(uniform) * 2).floor(), 1.0, p)
    turns = taken((next(uniform) * 4).floor(), 0.0, p)
    pixel = 2 / side
    shift_x = (next(uniform) * 2 - 1) * 0.125 * side
    shift_y = (next(uniform) * 2 - 1) * 0.125 * side
    is_shifted = next(uniform) < p
    moved.append(is_shifted)
    whole_x, whole_y = (torch.where(is_shifted, s.round() * pixel, 0.0) for s in (shift_x, shift_y))

    # General geometry.
    scale = taken(torch.exp2(next(normal) * 0.2), 1.0, p)
    first_angle = taken((next(uniform) * 2 - 1) * math.pi, 0.0, p_rotation)
    stretch = taken(torch.exp2(next(normal) * 0.2), 1.0, p)
    last_angle = taken((next(uniform) * 2 - 1) * math.pi, 0.0, p_rotation)
    is_moved = next(uniform) < p
    moved.append(is_moved)
    # A length of 1 in these coordinates is half an image.
    free_x, free_y = (torch.where(is_moved, next(normal) * 0.25, 0.0) for _ in range(2))

    # Each is the inverse of what it does to an image: the last applied comes first.
    geometry = _scaling(mirrored, torch.ones_like(mirrored))
    geometry = geometry @ _rotation(turns * (math.pi / 2))
    geometry = geometry @ _translation(whole_x, whole_y)
    geometry = geometry @ _scaling(1 / scale, 1 / scale)
    geometry = geometry @ _rotation(first_angle)
    geometry = geometry @ _scaling(1 / stretch, stretch)
    geometry = geometry @ _rotation(last_angle)
    geometry = geometry @ _translation(free_x, free_y)

    # Colour.
    brightness = taken(next(normal) * 0.2, 0.0, p, geometric=False)
    contrast = taken(torch.exp2(next(normal) * 0.5), 1.0, p, geometric=False)
    is_inverted = next(uniform) < p / 2
    hue = taken((next(uniform) * 2 - 1) * math.pi, 0.0, p, geometric=False)
    saturation = taken(torch.exp2(next(normal)), 1.0, p, geometric=False)
    colour = _colour(brightness, contrast, is_inverted, hue, saturation)
    return geometry, colour, torch.stack(moved).any(dim=0)


def _rows(*rows: tuple[Tensor | float, ...]) -> Tensor:
    """(N, rows, columns) from entries that are (N,) or constants."""
    like = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    filled = [
        [entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for entry in row]
        for row in rows
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in filled], dim=-2)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _rows((x, 0.0, 0.0), (0.0, y, 0.0), (0.0, 0.0, 1.0))


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return _rows((cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0))


def _translation(x: Tensor, y: Tensor) -> Tensor:
    return _rows((1.0, 0.0, x), (0.0, 1.0, y), (0.0, 0.0, 1.0))


def _colour(
    brightness: Tensor, contrast: Tensor, is_inverted: Tensor, hue: Tensor, saturation: Tensor
) -> Tensor:
    """(N, 3, 4): brightness, contrast, inversion of luma, then hue and saturation about the grey axis."""
    one, third, k = torch.ones_like(hue), torch.full_like(hue, 1 / 3), torch.full_like(hue, 3**-0.5)
    identity = _rows((one, 0.0, 0.0), (0.0, one, 0.0), (0.0, 0.0, one))
    grey = _rows(*3 * [3 * (third,)])  # the projection onto the grey axis
    turn = _rows((0.0, -k, k), (k, 0.0, -k), (-k, k, 0.0))  # the cross product with it
    cos, sin, factor, colourful = (x[:, None, None] for x in (hue.cos(), hue.sin(), contrast, saturation))
    rotation = cos * identity + sin * turn + (1 - cos) * grey  # Rodrigues
    inversion = identity - 2 * grey * is_inverted.to(hue.dtype)[:, None, None]
    linear = (grey + colourful * (identity - grey)) @ rotation @ inversion * factor
    return torch.cat([linear, linear.sum(dim=2, keepdim=True) * brightness[:, None, None]], dim=2)


# --------------------------------------------------------------------------------------------------------------
# Geometry


def warped(images_N3HW: Tensor, geometry_N33: Tensor) -> Tensor:
    """Images resampled by matrices from output to input coordinates; outside is the mirror image.

    Interpolated at twice the resolution between the wavelet's low-pass filters, so that little is aliased. The filters
    are products with matrices: up to some 512 px faster than convolutions of one channel and their derivatives.
    """
    side = images_N3HW.shape[-1]
    up_ij = _refining(side, images_N3HW)
    fine = up_ij @ (images_N3HW @ up_ij.T)
    index = torch.arange(-BEFORE, 2 * side + AFTER, dtype=fine.dtype, device=fine.device)
    line = (index + OFF_CENTRE + 0.5) / side - 1
    points_HW3 = torch.stack(
        [
            line.expand(len(line), -1),
            line[:, None].expand(-1, len(line)),
            torch.ones_like(line).expand(len(line), -1),
        ],
        dim=2,
    )
    grid = torch.einsum("hwj,nij->nhwi", points_HW3, geometry_N33[:, :2].to(fine.dtype)) - OFF_CENTRE / side
    moved: Tensor = _Sampled.apply(fine, grid)
    down_ij = _coarsening(side, images_N3HW)
    return down_ij @ (moved @ down_ij.T)


class _Sampled(torch.autograd.Function):
    """Bilinear samples of images at the points of a grid, mirrored outside; differentiable any number of times in the
    images, as R1 before the augmentation needs, which PyTorch's own is not.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.side = images.shape[-1]
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Spread.apply(gradient, grid, ctx.side), None


class _Spread(torch.autograd.Function):
    """The adjoint of `_Sampled`: each sample spread over the pixels that it was taken of."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, grid: Tensor, side: int) -> Tensor:
        ctx.save_for_backward(grid)
        like = samples.new_empty(*samples.shape[:2], side, side)
        spread: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            samples.contiguous(), like, grid, *_BILINEAR_MIRRORED, False, [True, False]
        )[0]
        return spread

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sampled.apply(gradient, grid), None, None


def _refining(side: int, like: Tensor) -> Tensor:
    """The matrix (2 side, side) to twice the resolution by the filter; beyond the borders is the mirror image."""
    to = torch.arange(2 * side, device=like.device)[:, None]
    of = torch.arange(-3, side + 3, device=like.device)
    matrix = _tap(to - 2 * of + BEFORE, math.sqrt(2), like)
    mirrored = matrix[:, :3].flip(1), matrix[:, -3:].flip(1)
    return matrix[:, 3:-3] + F.pad(mirrored[0], (0, side - 3)) + F.pad(mirrored[1], (side - 3, 0))


def _coarsening(side: int, like: Tensor) -> Tensor:
    """The matrix (side, BEFORE + 2 side + AFTER) to half the resolution, of samples from before to after the image."""
    to = torch.arange(side, device=like.device)[:, None]
    of = torch.arange(2 * side + BEFORE + AFTER, device=like.device)
    return _tap(of - 2 * to, 1 / math.sqrt(2), like)


def _tap(index: Tensor, scale: float, like: Tensor) -> Tensor:
    """The filter at integers, 0 beyond its ends.

    Filled in, not copied from the host, so that it can be in a CUDA graph.
    """
    taps = torch.stack([like.new_full((), tap * scale) for tap in (*SYM6, 0.0)])
    return taps[torch.where((index >= 0) & (index < len(SYM6)), index, len(SYM6))]


# --------------------------------------------------------------------------------------------------------------
# How strong


class AdaptiveStrength:
    """p, moved every few steps towards a sureness of the discriminator (section 3.1 of the ADA paper).

    The measure is r_t = E[sign D(real)]: at 1 every real image is told from generated ones. Nothing waits for a GPU.
    """

    def __init__(
        self, p: float, target: float, kimg: float, device: torch.device, *, interval: int = 4
    ) -> None:
        self.p = torch.full((), p, device=device)
        self._signs = torch.zeros((), device=device)
        self._steps = 0
        self._target, self._images, self._interval = target, kimg * 1000, interval

    def update(self, real_sign: Tensor, num_images: int) -> None:
        """Count a step's mean sign of the logits of `num_images` real images; after enough of them move p."""
        self._signs += torch.nan_to_num(real_sign)
        self._steps += 1
        if self._steps == self._interval:
            direction = torch.sign(self._signs / self._steps - self._target)
            self.p.add_(direction * (num_images * self._steps / self._images)).clamp_(0, 1)
            self._signs.zero_()
            self._steps = 0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"p": float(self.p), "signs": float(self._signs), "steps": self._steps}

    def load(self, state: dict[str, float]) -> None:
        """Take up what `state` gave."""
        self.p.fill_(state["p"])
        self._signs.fill_(state["signs"])
        self._steps = int(state["steps"])
