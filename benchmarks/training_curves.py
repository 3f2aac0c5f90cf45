"""Whether fast training trains as plain training does: the curves of both over the same run, on a GPU.

    python benchmarks/training_curves.py --kimg 50

Plain is float32 with TF32 products, uncompiled; fast is compiled, with bfloat16 features. Two fast runs of other seeds
show how far curves differ that should agree. The images are drawn: a face of ellipses each, of random colours,
places and sizes.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from training.config import TrainConfig
from training.engine.state import TERMS, Tally, Training
from training.schedule import stage_at


def faces(num: int, side: int, device: torch.device) -> Tensor:
    """Images (num, 3, side, side), uint8: a background, a face, two eyes and a mouth."""
    rng = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(num, *shape, 1, 1, generator=rng, device=device)

    y, x = torch.meshgrid(*(2 * [torch.linspace(-1, 1, side, device=device)]), indexing="ij")
    image = random(3).expand(num, 3, side, side)
    middle_x, middle_y, size = random(1) * 0.4 - 0.2, random(1) * 0.4 - 0.2, 0.45 + 0.3 * random(1)
    parts = [(0.0, 0.0, 0.8, 1.0), (-0.35, -0.25, 0.16, 0.1), (0.35, -0.25, 0.16, 0.1), (0.0, 0.5, 0.35, 0.1)]
    eyes = random(3)
    for index, (dx, dy, width, height) in enumerate(parts):
        colour = eyes if index in (1, 2) else random(3)
        distance = ((x - middle_x) / size - dx) ** 2 / width**2 + (
            (y - middle_y) / size - dy
        ) ** 2 / height**2
        image = torch.lerp(image, colour, torch.sigmoid((1 - distance) * 8))
    pixels = (image * 255).round().to(torch.uint8)
    return pixels.contiguous(memory_format=torch.channels_last)


def curve(images: Tensor, kimg: float, points: int, *, seed: int, fast: bool) -> Tensor:
    """The mean of each term over each of so many parts of the run."""
    side = images.shape[-1]
    config = TrainConfig.model_validate(
        {"preset": "paper1024", "resolution": side, "start_resolution": side, "batch_size": {side: 32},
         "seed": seed, "precision": "bf16" if fast else "fp32", "compile": fast}
    )  # fmt: skip
    training = Training.begin(config, images.device)
    stage = stage_at(config, 0)
    order = torch.Generator(images.device).manual_seed(seed)
    rows, skipped = [], 0
    begun = time.perf_counter()
    for _ in range(points):
        training.tally = Tally(images.device)
        while training.tally.images < kimg * 1000 / points:
            chosen = torch.randint(len(images), (32,), generator=order, device=images.device)
            training.step(stage, images[chosen])
        training.check_health()
        rows.append(list(training.tally.means().values()))
        skipped += int(training.tally.skipped)
    name = f"{'fast' if fast else 'plain'}, seed {seed}"
    print(
        f"{name}: {time.perf_counter() - begun:.0f} s with compiling, {skipped} steps skipped",
        flush=True,
    )
    return torch.tensor(rows)


def main() -> None:
    """Print the curves beside each other and their mean distances."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kimg", type=float, default=50.0)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--points", type=int, default=10)
    given = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {given.resolution} px, batch 32",
        flush=True,
    )
    images = faces(4000, given.resolution, torch.device("cuda"))
    settings = {"fast": (0, True), "fast, other seed": (1, True), "plain": (0, False)}
    curves = {
        name: curve(images, given.kimg, given.points, seed=seed, fast=fast)
        for name, (seed, fast) in settings.items()
    }
    print(f"each term: {', '.join(settings)}")
    for index in range(given.points):
        cells = [
            f"{term} " + " ".join(f"{curves[name][index, column]:7.3f}" for name in settings)
            for column, term in enumerate(TERMS)
        ]
        print(f"{given.kimg * (index + 1) / given.points:6.1f}  " + "   ".join(cells))
    for name in ("plain", "fast, other seed"):
        distance = (curves["fast"] - curves[name]).abs().mean(dim=0)
        print(
            f"mean distance of fast from {name}: ",
            *(f"{t} {d:.3f}" for t, d in zip(TERMS, distance, strict=True)),
        )


if __name__ == "__main__":
    main()
