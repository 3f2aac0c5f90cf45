"""Does the memorization audit see copies that are not exact? Portraits copied with noise or blur, by each space.

python benchmarks/memorization.py FOLDER_OF_PORTRAITS

120 portraits stand for the training set, 80 others calibrate the threshold, 80 others are strangers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from training.extractors.efficientnet import EfficientNetLite0
from training.metrics.memorization import (
    calibrated_threshold,
    coarse,
    nearest,
    pixel_vectors,
    share_nearer,
    unit_vectors,
)

SIDE_PX = 64


def main(folder: Path) -> None:
    """Print the shares flagged, a line a space."""
    rng = np.random.default_rng(0)
    paths = sorted(folder.glob("*/*.jpg"))[:300]
    pictures = [square(paths[index]) for index in rng.permutation(len(paths))]
    train, held_out, strangers = pictures[:120], pictures[120:200], pictures[200:280]
    noisy = [Image.fromarray(np.clip(np.asarray(p) + rng.normal(0, 6, (SIDE_PX, SIDE_PX, 3)), 0, 255).astype(np.uint8)) for p in train]  # fmt: skip # noqa: E501
    blurred = [picture.filter(ImageFilter.GaussianBlur(1)) for picture in train]
    sets = [pixels(part) for part in (train, held_out, strangers, noisy, blurred)]
    network = EfficientNetLite0(torch.device("cpu"))

    def embedded(x: Tensor) -> Tensor:
        return unit_vectors(torch.cat([network.features(part) for part in torch.split(x, 32)]))

    views = {
        "embedding": embedded,
        "embedding, shrunk": lambda x: embedded(coarse(x)),
        "pixels": pixel_vectors,
    }
    for name, view in views.items():
        references, *queries = [view(part) for part in sets]
        distances = [nearest(part, references).distance for part in queries]
        threshold = calibrated_threshold(distances[0])
        shares = [share_nearer(part, threshold) for part in distances[1:]]
        print(f"{name:<20}" + "  ".join(f"{label} {share:.3f}" for label, share in zip(("strangers", "noisy copies", "blurred copies"), shares, strict=True)))  # fmt: skip # noqa: E501


def square(path: Path) -> Image.Image:
    """A portrait cut square and shrunk."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    edge = min(rgb.size)
    left, top = (rgb.width - edge) // 2, (rgb.height - edge) // 4
    return rgb.crop((left, top, left + edge, top + edge)).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def pixels(pictures: list[Image.Image]) -> Tensor:
    """Pictures as a uint8 tensor (N, 3, R, R)."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
