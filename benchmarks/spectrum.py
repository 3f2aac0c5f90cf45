"""Fine structure of generated images against real crops: how much, in which directions, and which noise makes it.

    python benchmarks/spectrum.py bundled --store store --dataset congress
    python benchmarks/spectrum.py store/runs/RUN --store store --dataset faces

Power is of grey values under a Hann window. The finest octave is all above a quarter of the sampling frequency, in
either direction, its figure a ratio of mean powers. Stripes are looked for in the upper corners, a quarter of the side
each, which are background in most portraits: of every frequency from an eighth on, the median power over corners
against that of real ones; the largest ratio is shown, with its frequency in cycles a pixel, down and across. Hatching
is a large ratio; a row for the noise of each resolution taken away says which noise it comes from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.bundled.generator import BUNDLED
from storage.datasets.dataset import open_dataset
from storage.runs import Run
from storage.store import Store
from training.data import ImageArray
from training.drawing.images import inputs_from_seeds, pixels
from training.drawing.trained import open_bundled, open_trained
from training.metrics.crops import RealCrops
from training.networks import Generator

Floats = NDArray[np.float64]
CPU = torch.device("cpu")
BATCH = 8


def power(images_N3HW: ImageArray) -> Floats:
    """(N, H, W): of each frequency."""
    grey = images_N3HW.astype(np.float64).mean(axis=1)
    window = np.hanning(grey.shape[-1])
    grey = (grey - grey.mean(axis=(1, 2), keepdims=True)) * np.outer(window, window)
    return np.abs(np.fft.fft2(grey)) ** 2


def frequencies(side: int) -> Floats:
    """(H, W): the larger of both directions', in cycles a pixel."""
    one = np.abs(np.fft.fftfreq(side))
    return np.maximum(one[:, None], one[None, :])


def corners(images_N3HW: ImageArray) -> ImageArray:
    """The upper left and the upper right of each."""
    side = images_N3HW.shape[-1] // 4
    return np.concatenate([images_N3HW[..., :side, :side], images_N3HW[..., :side, -side:]])


def compared(found_N3HW: ImageArray, real_N3HW: ImageArray) -> str:
    """A row of the table."""
    is_fine = frequencies(real_N3HW.shape[-1]) >= 0.25
    octave = power(found_N3HW).mean(axis=0)[is_fine].sum() / power(real_N3HW).mean(axis=0)[is_fine].sum()
    ratios = np.median(power(corners(found_N3HW)), axis=0) / np.median(power(corners(real_N3HW)), axis=0)
    side = len(ratios)
    down, across = np.unravel_index(np.where(frequencies(side) >= 0.125, ratios, 0).argmax(), ratios.shape)
    place = [abs(np.fft.fftfreq(side)[i]) for i in (down, across)]
    return f"{octave:13.2f}  {ratios[down, across]:16.2f}  at {place[0]:.2f} and {place[1]:.2f}"


@torch.no_grad()
def drawn(generator: Generator, num: int, silent: range) -> ImageArray:
    """Images of seeds from 0 on, untruncated, without the noise of some layers."""
    parts = []
    for start in range(0, num, BATCH):
        latents, noise = inputs_from_seeds(generator, range(start, min(start + BATCH, num)))
        heard: list[Tensor] = [torch.zeros_like(x) if i in silent else x for i, x in enumerate(noise)]
        parts.append(pixels(generator(latents, heard)))
    return np.concatenate(parts)


def main() -> None:
    """Print a row for all noise, and one without that of each resolution."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", help="its folder, or bundled")
    parser.add_argument("--checkpoint", help="such as 000622976; the newest by default")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--dataset", required=True, help="a name, or NAME@VERSION: the real crops")
    parser.add_argument("--images", type=int, default=96, help="generated and real, of each row")
    given = parser.parse_args()
    if given.run == BUNDLED:
        generator = open_bundled(CPU).generator
    else:
        generator = open_trained(Run(Path(given.run).resolve()).checkpoint(given.checkpoint), CPU).generator
    if not isinstance(generator, Generator):
        parser.error(f"{given.run} trained a generator that has no noise")
    store = Store(given.store)
    crops = RealCrops.of(store, open_dataset(store, given.dataset).summary(), generator.resolution)
    real = np.concatenate([images for _, images in crops.batches(BATCH, given.images)])
    print(f"{len(real)} real\nnoise             finest octave  strongest stripes")
    rows = [("all", range(0))]
    for first in range(0, generator.num_layers_in_use, 2):
        rows.append((f"without {4 << first // 2} px", range(first, first + 2)))
    for name, silent in rows:
        print(f"{name:<16}{compared(drawn(generator, given.images, silent), real)}", flush=True)


if __name__ == "__main__":
    main()
