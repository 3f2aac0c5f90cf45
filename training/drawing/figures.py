"""The paper's figures of what styles and noise do, drawn with a trained generator: arrays in, arrays out.

A figure is images; `tiled` lays them out. Styles are those of `training.drawing.images.w_from_seeds`; noise is held
fixed where it is not the subject, so that only styles differ. Not here: files, and their metadata (`flows.cli.draw`).

    sources_a, sources_b, mixed = mixing_figure(generator, [0, 1], [2, 3], ["coarse", "fine"])

Suffixes: N images, L layers, D entries of w, H height, W width, C colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from storage.errors import ConfigError
from training.data import ImageArray
from training.drawing.images import images_from_w, inputs_from_seeds, synthesized, w_from_seeds
from training.networks import Generator

LAYERS = {"coarse": (4, 8), "middle": (16, 32), "fine": (64, 1024)}
"""Resolutions, in pixels, of the first and the last layers that section 3.1 calls by these names."""

NOISE_CASES = ("all", "none", "fine", "coarse")
"""Which layers get noise in figure 5: all, none, those of 64 px and above, those below."""


def layer_range(name: str, num_layers: int) -> range:
    """The layers called `name` of a generator that has `num_layers`, two a resolution; empty where it has none."""
    first_px, last_px = LAYERS[name]
    return range(
        min(2 * (first_px // 4).bit_length() - 2, num_layers),
        min(2 * (last_px // 4).bit_length(), num_layers),
    )


def fixed_noise(generator: Generator, seed: int) -> list[Tensor]:
    """One image's noise a layer, (1, 1, H, W): that of the image that `seed` gives."""
    return inputs_from_seeds(generator, [seed])[1]


# --------------------------------------------------------------------------------------------------------------
# Styles


def truncation_figure(
    generator: Generator,
    seeds: Sequence[int],
    psis: Sequence[float],
    *,
    cutoff: int | None = None,
    noise_seed: int | None = None,
) -> ImageArray:
    """Figure 8: images (seeds, psis, 3, R, R), the style scaled from its mean by each psi.

    On the first `cutoff` layers, or on all. Each image keeps its seed's noise, or all have that of `noise_seed`.
    """
    layers = generator.synthesis.num_layers if cutoff is None else cutoff
    noise = (
        inputs_from_seeds(generator, seeds)[1] if noise_seed is None else fixed_noise(generator, noise_seed)
    )
    columns = [images_from_w(generator, w_from_seeds(generator, seeds, psi, layers), noise) for psi in psis]
    return np.stack(columns, axis=1)


def mixing_figure(
    generator: Generator,
    rows: Sequence[int],
    columns: Sequence[int],
    layers: Sequence[str | range],
    *,
    psi: float = 1.0,
    cutoff: int = 8,
    noise_seed: int = 0,
) -> tuple[ImageArray, ImageArray, ImageArray]:
    """Figure 3: sources A (rows, 3, R, R), sources B (columns, 3, R, R) and mixed (layers, rows, columns, 3, R, R).

    A mixed image takes the styles of `layers` from its column's source B and all others from its row's source A.
    """
    noise = fixed_noise(generator, noise_seed)
    a_NLD = w_from_seeds(generator, rows, psi, cutoff)
    b_NLD = w_from_seeds(generator, columns, psi, cutoff)
    num_layers = generator.synthesis.num_layers
    blocks = []
    for chosen in layers:
        copied = layer_range(chosen, num_layers) if isinstance(chosen, str) else chosen
        mixed = a_NLD[:, None].repeat(1, len(columns), 1, 1)
        mixed[:, :, list(copied)] = b_NLD[None, :, list(copied)]
        images = images_from_w(generator, mixed.flatten(0, 1), noise)
        blocks.append(images.reshape(len(rows), len(columns), *images.shape[1:]))
    return images_from_w(generator, a_NLD, noise), images_from_w(generator, b_NLD, noise), np.stack(blocks)


def mixing_layers(generator: Generator, choice: str) -> list[str]:
    """The names of layers that `choice` means: one of `LAYERS`, or all that this generator has.

    ConfigError for one that it has none of.
    """
    present = [name for name in LAYERS if layer_range(name, generator.synthesis.num_layers)]
    if choice == "all":
        return present
    if choice not in present:
        raise ConfigError(
            f"{choice} layers are those of {LAYERS[choice][0]} px and above, and this generator ends at "
            f"{generator.resolution} px: choose {', '.join(present)} or all"
        )
    return [choice]


# --------------------------------------------------------------------------------------------------------------
# Noise


@dataclass(frozen=True)
class NoiseFigure:
    """Figures 4 and 5 of one latent; `crops` and `case_crops` show the square `zoom` of theirs."""

    image: ImageArray
    """(3, R, R)."""
    crops: ImageArray
    """(realisations, 3, R, R): the same place under different noise, enlarged."""
    deviation_HW: NDArray[np.float32]
    """Standard deviation over realisations, in levels of 255."""
    cases: ImageArray
    """(4, 3, R, R), as `NOISE_CASES`."""
    case_crops: ImageArray
    """(4, 3, R, R), enlarged."""
    zoom: tuple[int, int, int]
    """Top, left and side of the enlarged square, px: a quarter of the image, where noise does most."""

    @property
    def map(self) -> ImageArray:
        """The deviation as a picture (3, R, R): black is none, white the largest."""
        scaled = self.deviation_HW * (255 / max(float(self.deviation_HW.max()), 1e-6))
        grey = np.rint(np.minimum(scaled, 255)).astype(np.uint8)
        return np.broadcast_to(grey, (3, *grey.shape))

    def rows(self) -> list[list[ImageArray]]:
        """For `tiled`: image, crops and map; the four cases; their crops."""
        return [[self.image, *self.crops, self.map], list(self.cases), list(self.case_crops)]


def check_noise(generator: Generator) -> None:
    """ConfigError where the generator takes no noise."""
    if not generator.has_noise:
        raise ConfigError("this generator was trained without noise: there is none to show")


def noise_figure(
    generator: Generator,
    seed: int,
    *,
    psi: float = 1.0,
    cutoff: int = 8,
    num_crops: int = 2,
    num_realisations: int = 100,
) -> NoiseFigure:
    """Figures 4 and 5 of the image that `seed` gives; its realisations of noise follow from `seed` too.

    ConfigError where the generator takes none.
    """
    check_noise(generator)
    w_1LD = w_from_seeds(generator, [seed], psi, cutoff)
    own = fixed_noise(generator, seed)
    image = images_from_w(generator, w_1LD, own)
    deviation = noise_deviation(generator, w_1LD, num_realisations, seed)
    zoom = busiest_square(deviation, max(4, generator.resolution // 4))
    crops = [
        images_from_w(generator, w_1LD.expand(len(noise[0]), -1, -1), noise)
        for noise in _realisations(generator, num_crops, seed)
    ]
    cases = np.concatenate([images_from_w(generator, w_1LD, case) for case in noise_cases(own)])
    return NoiseFigure(
        image[0], enlarged(np.concatenate(crops), zoom), deviation, cases, enlarged(cases, zoom), zoom
    )


def noise_cases(noise: Sequence[Tensor]) -> list[list[Tensor]]:
    """Figure 5's four cases of one image's noise, in the order of `NOISE_CASES`; zeros where there is none."""
    fine = layer_range("fine", len(noise))
    wanted = {
        "all": range(len(noise)),
        "none": range(0),
        "fine": fine,
        "coarse": range(len(noise) - len(fine)),
    }
    return [
        [layer if index in wanted[case] else torch.zeros_like(layer) for index, layer in enumerate(noise)]
        for case in NOISE_CASES
    ]


@torch.no_grad()
def noise_deviation(generator: Generator, w_1LD: Tensor, num: int, seed: int) -> NDArray[np.float32]:
    """Figure 4c: each pixel's standard deviation over `num` realisations, root mean square of its colours.

    (R, R), in levels of 255. Sums are of differences from the first realisation: what is equal gives 0.
    """
    first: Tensor | None = None
    total = squares = torch.zeros(())
    for noise in _realisations(generator, num, seed):
        images = synthesized(generator, w_1LD.expand(len(noise[0]), -1, -1), noise).double()
        first = images[:1] if first is None else first
        total = total + (images - first).sum(dim=0).cpu()
        squares = squares + (images - first).square().sum(dim=0).cpu()
    variance = (squares / num - (total / num).square()).clamp(min=0).mean(dim=0)
    deviation: NDArray[np.float32] = (variance.sqrt() * 127.5).float().numpy()
    return deviation


def busiest_square(values_HW: NDArray[np.float32], side: int) -> tuple[int, int, int]:
    """Top, left and side of the square whose values sum to the most; the first of equals."""
    sums = np.pad(values_HW.astype(np.float64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    squares = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(squares.argmax(), squares.shape)
    return int(top), int(left), side


def enlarged(images: ImageArray, zoom: tuple[int, int, int]) -> ImageArray:
    """The square `zoom` of images (N, 3, R, R), each pixel repeated until it is R again."""
    top, left, side = zoom
    factor = images.shape[-1] // side
    cropped = images[..., top : top + side, left : left + side]
    return cropped.repeat(factor, axis=-2).repeat(factor, axis=-1)


def _realisations(generator: Generator, num: int, seed: int, batch_size: int = 8) -> Iterator[list[Tensor]]:
    """`num` rows of noise in batches, always the same for a seed."""
    device = next(generator.parameters()).device
    rng = torch.Generator("cpu").manual_seed(seed)
    for start in range(0, num, batch_size):
        rows = [generator.draw_noise(1, rng) for _ in range(min(batch_size, num - start))]
        yield [torch.cat(layer).to(device) for layer in zip(*rows, strict=True)]


# --------------------------------------------------------------------------------------------------------------
# Layout


def tiled(rows: Sequence[Sequence[ImageArray | None]], gap_px: int = 2) -> ImageArray:
    """Rows of images (3, R, R) as one picture (H, W, 3), on white, with gaps; None leaves a place empty."""
    side = next(image.shape[-1] for row in rows for image in row if image is not None)
    step = side + gap_px
    height, width = len(rows) * step - gap_px, max(map(len, rows)) * step - gap_px
    canvas = np.full((height, width, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            if image is not None:
                top, left = y * step, x * step
                canvas[top : top + side, left : left + side] = image.transpose(1, 2, 0)
    return canvas


def labelled(picture_HWC: ImageArray, labels: Sequence[str], gap_px: int = 2) -> ImageArray:
    """A picture of `tiled` rows with a name at the left of each, as large as the picture asks for."""
    step = (len(picture_HWC) + gap_px) // len(labels)
    font = ImageFont.load_default(max(10.0, step / 8))
    width = math.ceil(max(font.getlength(label) for label in labels) + step / 6)
    canvas = Image.new("RGB", (width + picture_HWC.shape[1], len(picture_HWC)), "white")
    canvas.paste(Image.fromarray(picture_HWC), (width, 0))
    draw = ImageDraw.Draw(canvas)
    for row, label in enumerate(labels):
        middle = (width - step / 12, row * step + (step - gap_px) / 2)
        draw.text(middle, label, fill="black", font=font, anchor="rm")
    return np.asarray(canvas)


def mixing_rows(
    sources_a: ImageArray, sources_b: ImageArray, mixed: ImageArray
) -> list[list[ImageArray | None]]:
    """`mixing_figure`'s images for `tiled`: sources B along the top, then a row a block and source A, A first."""
    rows: list[list[ImageArray | None]] = [[None, *sources_b]]
    for block in mixed:
        rows += [[source, *row] for source, row in zip(sources_a, block, strict=True)]
    return rows
