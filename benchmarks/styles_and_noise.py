"""What draws a generator's images, resolution by resolution: how much they vary with its styles, and with its noise.

    python benchmarks/styles_and_noise.py store/runs/RUN

From one image, either the styles or the noise of some layers are exchanged for those of other seeds, all else held. A
figure is the standard deviation over such images, a mean over pixels, of their grey values after each image is brought
to mean 0 and deviation 1, so that light and contrast do not count. Styles that separate have large figures where the
noise of the same layers has small ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from storage.runs import Run
from training.drawing.images import inputs_from_seeds
from training.drawing.trained import load_generator
from training.networks import Generator


def spread(images_N3HW: Tensor) -> float:
    """How much grey, contrast-normalised images differ."""
    grey = images_N3HW.mean(dim=1)
    grey = grey - grey.mean(dim=(1, 2), keepdim=True)
    return float((grey / grey.std(dim=(1, 2), keepdim=True)).std(dim=0).mean())


@torch.no_grad()
def spreads(generator: Generator, num: int, layers: range) -> tuple[float, float]:
    """With the styles of some layers exchanged, and with their noise."""
    latents, noise = inputs_from_seeds(generator, range(num))
    w_NLD = generator.broadcast(generator.mapping(latents))
    first_w, first_noise = w_NLD[:1].expand(num, -1, -1), [x[:1].expand(num, -1, -1, -1) for x in noise]
    styles = first_w.clone()
    styles[:, list(layers)] = w_NLD[:, list(layers)]
    exchanged = [noise[i] if i in layers else first_noise[i] for i in range(len(noise))]
    by_styles = generator.synthesis(styles, first_noise, generator.lod)
    return spread(by_styles), spread(generator.synthesis(first_w, exchanged, generator.lod))


def main() -> None:
    """Print a row for each resolution."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--checkpoint", help="such as 000622976; the newest by default")
    parser.add_argument("--seeds", type=int, default=16, help="images a figure")
    given = parser.parse_args()
    checkpoint = Run(given.run_folder.resolve()).checkpoint(given.checkpoint)
    generator = load_generator(checkpoint, torch.device("cpu"))
    if not isinstance(generator, Generator) or generator.synthesis.input is not None:
        parser.error(
            f"{given.run_folder} trained a generator whose images are not made from w and noise alone"
        )
    num_layers = generator.num_layers_in_use
    print(f"checkpoint {checkpoint.name}, seeds 0 to {given.seeds - 1}\nlayers   styles  noise")
    for name, layers in [("all", range(num_layers))] + [
        (f"{4 << (first // 2)} px", range(first, first + 2)) for first in range(0, num_layers, 2)
    ]:
        styles, noise = spreads(generator, given.seeds, layers)
        print(f"{name:<8} {styles:6.3f} {noise:6.3f}", flush=True)


if __name__ == "__main__":
    main()
