"""The w that draws a picture: gradient descent on the styles of a trained generator.

The search starts at the mean w and goes on by Adam, its rate rising at the start and falling at the end, while noise
added to w, which dies away before the end, keeps it out of narrow valleys. w is measured in its own standard
deviations, so that settings mean the same for every generator. Noise is held fixed, or searched for too, under a
penalty on what is no noise (Karras et al. 2020, Appendix D). Not here: finding and aligning a face (`flows`), and
the networks that compare pictures (`training.extractors`).

    result = project(generator, target_HWC, ProjectConfig(space="w+"))

Suffixes: N images, L layers, D entries of w, H height, W width, C colours.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from storage.errors import ConfigError
from storage.lineage.origin import GRID_TEXT
from storage.local import whole_file
from training.data import ImageArray
from training.drawing.figures import fixed_noise, tiled
from training.drawing.images import images_from_w, synthesized
from training.drawing.marks import Signer
from training.drawing.pictures import write_png
from training.drawing.settings import ProjectConfig
from training.extractors import missing_for
from training.extractors.efficientnet import EfficientNetLite0, distance_of_layers
from training.extractors.published import Vgg16Lpips
from training.extractors.weights import WeightsPlace
from training.networks import Generator

Distance = Callable[[Tensor], Tensor]
"""Of images (1, 3, R, R) in [-1, 1] from the target: a number that can be differentiated."""

RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""Shares of the steps over which the rate rises from 0 and falls to it."""
EXPLORED = 0.75
"""Share of the steps after which no noise is added to w."""
NUM_W_SAMPLES = 10_000
NOISE_WEIGHT = 1e5
"""Of the penalty on noise that is none, beside the distance."""
WEIGHTS = WeightsPlace()
"""Those of LPIPS: in torch hub's cache."""


@dataclass(frozen=True)
class Projection:
    """What a search found."""

    w_LD: Tensor
    """Styles a layer, all alike in space w."""
    image: ImageArray
    """(3, R, R): what they draw."""
    target: ImageArray
    """(3, R, R): what was looked for."""
    distances: list[float]
    """Before each step; of w with the noise of that step."""
    distance: str
    """The distance's name, as `ProjectConfig.distance`, "auto" resolved."""
    final_distance: float
    """Of the image, without the noise of the search."""
    noise: list[Tensor]
    """A layer each, (1, 1, H, W): those that the image is drawn with."""
    seconds: float

    @property
    def psnr_db(self) -> float:
        """Of the image, against the target."""
        error = np.square(self.image.astype(np.float64) - self.target).mean()
        return math.inf if error == 0 else float(10 * np.log10(255**2 / error))

    def curve(self, num: int) -> list[float]:
        """At most `num` of the distances, evenly spread, first and last among them."""
        last = len(self.distances) - 1
        return [self.distances[i] for i in sorted({round(k * last / (num - 1)) for k in range(num)})]

    def summary(self) -> dict[str, Any]:
        """For the record."""
        psnr_db = round(self.psnr_db, 3) if math.isfinite(self.psnr_db) else None
        curve = [float(f"{value:.6g}") for value in self.curve(21)]
        return {
            "distance": self.distance,
            "psnr_db": psnr_db,
            "final_distance": float(f"{self.final_distance:.6g}"),
            "distance_curve": curve,
            "seconds": round(self.seconds, 1),
        }


def project(
    generator: Generator,
    target_HWC: ImageArray,
    config: ProjectConfig,
    on_step: Callable[[], None] = lambda: None,
) -> Projection:
    """Search for styles that draw the square picture `target_HWC`, area-resampled to the generator's resolution.

    The same seed on the same machine gives the same result. `on_step` is called after each step.
    """
    begun = time.perf_counter()
    device = generator.w_avg.device
    target = resampled(target_HWC, generator.resolution).transpose(2, 0, 1)
    target_13HW = torch.from_numpy(np.ascontiguousarray(target))[None].to(device) / 127.5 - 1
    name = resolve_distance(config.distance)
    distance = _DISTANCES[name](target_13HW)
    rng = torch.Generator("cpu").manual_seed(config.seed)
    noise = fixed_noise(generator, config.seed)
    sigma = w_deviation(generator, rng)
    num_rows = generator.synthesis.num_layers if config.space == "w+" else 1
    x_RD = torch.zeros(num_rows, len(generator.w_avg), device=device, requires_grad=True)

    def styles(x: Tensor) -> Tensor:
        return (generator.w_avg + sigma * x).expand(generator.synthesis.num_layers, -1)

    searched = noise if config.noise == "optimised" else []
    for layer in searched:
        layer.requires_grad_(True)
    optimizer = torch.optim.Adam([x_RD, *searched], lr=config.learning_rate)
    distances = []
    for step in range(config.steps):
        done = step / config.steps
        optimizer.param_groups[0]["lr"] = config.learning_rate * ramp(done)
        strength = config.exploration * max(0.0, 1 - done / EXPLORED) ** 2
        jitter = torch.randn(x_RD.shape, generator=rng).to(device) * strength
        loss = distance(synthesized(generator, styles(x_RD + jitter)[None], noise))
        total = loss + sum(NOISE_WEIGHT * not_noise(layer) for layer in searched)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        normalize(searched)
        distances.append(loss.item())
        on_step()
    w_LD = styles(x_RD.detach()).contiguous()
    noise = [layer.detach() for layer in noise]
    image = images_from_w(generator, w_LD[None], noise)[0]
    with torch.no_grad():
        final = distance(torch.from_numpy(image)[None].to(device) / 127.5 - 1).item()
    return Projection(w_LD, image, target, distances, name, final, noise, time.perf_counter() - begun)


def not_noise(noise_11HW: Tensor) -> Tensor:
    """How far a map is from noise: the squared mean products of neighbours, at each scale down to 8 px, summed."""
    total = noise_11HW.new_zeros(())
    x = noise_11HW
    while True:
        for dimension in (2, 3):
            total = total + (x * x.roll(1, dimension)).mean().square()
        if x.shape[-1] <= 8:
            return total
        x = F.avg_pool2d(x, 2) * 2  # of noise, the deviation stays 1


@torch.no_grad()
def normalize(noise: Sequence[Tensor]) -> None:
    """Give each map a mean of 0 and a deviation of 1, as noise has."""
    for layer in noise:
        layer.sub_(layer.mean()).div_(layer.std())


def save_projection(
    result: Projection, path: Path, metadata: Mapping[str, Any], signer: Signer | None = None
) -> Path:
    """Write target and projection side by side to `path`, and beside it a safetensors file, whose path is returned.

    That holds `w` (L, D), `distances` (steps,), and noise that was searched for. Both files carry `metadata`.
    """
    write_png(tiled([[result.target, result.image]]), path, metadata, signer)
    tensors = path.with_suffix(".safetensors")
    text = json.dumps(dict(metadata), sort_keys=True)
    found = {"w": result.w_LD.cpu(), "distances": torch.tensor(result.distances)}
    if metadata.get("noise") == "optimised":
        found |= {f"noise_{index}": layer.cpu() for index, layer in enumerate(result.noise)}
    with whole_file(tensors) as partial:
        partial.write_bytes(save(found, {GRID_TEXT: text}))
    return tensors


@torch.no_grad()
def w_deviation(generator: Generator, rng: torch.Generator) -> float:
    """The standard deviation of w's entries about the mean w, root mean square over many z."""
    z_NZ = torch.randn(NUM_W_SAMPLES, generator.z_dim, generator=rng).to(generator.w_avg.device)
    return float((generator.mapping(z_NZ) - generator.w_avg).square().mean().sqrt())


def ramp(done: float) -> float:
    """The share of the learning rate when `done` of all steps are: linear up, then a cosine down."""
    up = min(1.0, done / RAMP_UP)
    down = min(1.0, (1 - done) / RAMP_DOWN)
    return up * (0.5 - 0.5 * math.cos(math.pi * down))


def resampled(picture_HWC: ImageArray, resolution: int) -> ImageArray:
    """A square picture at another resolution: means of blocks where it shrinks, bicubic where it grows."""
    if len(picture_HWC) == resolution:
        return picture_HWC
    filter_ = Image.Resampling.BOX if len(picture_HWC) > resolution else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture_HWC).resize((resolution, resolution), filter_))


# --------------------------------------------------------------------------------------------------------------
# Distances


def resolve_distance(wanted: str) -> str:
    """The distance that `wanted` means here; ConfigError where what it needs is not here."""
    missing = {
        "lpips": missing_for("vgg16_lpips", WEIGHTS),
        "features": missing_for("efficientnet_lite0", WEIGHTS),
        "pixels": None,
    }
    if wanted == "auto":
        return next(name for name, lack in missing.items() if lack is None)
    if lack := missing[wanted]:
        raise ConfigError(f"distance {wanted} needs {lack}: choose auto or pixels")
    return wanted


def pixel_distance(target_13HW: Tensor) -> Distance:
    """Mean squared difference at the full resolution and at each half of it down to 8 px, summed."""

    def distance(image: Tensor) -> Tensor:
        difference = image - target_13HW
        total = difference.square().mean()
        while difference.shape[-1] > 8:
            difference = F.avg_pool2d(difference, 2)
            total = total + difference.square().mean()
        return total

    return distance


def feature_distance(target_13HW: Tensor) -> Distance:
    """The distance of EfficientNet-Lite0's layers, at 128 to 224 px, plus that of pixels."""
    network = EfficientNetLite0(target_13HW.device)
    of_pixels = pixel_distance(target_13HW)
    with torch.no_grad():
        wanted = network.layers_of(_at_side(target_13HW, 128, network.side_px))

    def distance(image: Tensor) -> Tensor:
        found = network.layers_of(_at_side(image, 128, network.side_px))
        return distance_of_layers(found, wanted).sum() + of_pixels(image)

    return distance


def lpips_distance(target_13HW: Tensor) -> Distance:
    """LPIPS of VGG16, at 64 to 256 px; IntegrityError where its weights are not the published ones."""
    lpips = Vgg16Lpips(WEIGHTS, target_13HW.device)
    wanted = (_at_side(target_13HW, 64, 256) + 1) * 127.5

    def distance(image: Tensor) -> Tensor:
        return lpips((_at_side(image, 64, 256) + 1) * 127.5, wanted).sum()

    return distance


_DISTANCES = {"lpips": lpips_distance, "features": feature_distance, "pixels": pixel_distance}


def _at_side(images: Tensor, smallest: int, largest: int) -> Tensor:
    """Images enlarged or reduced, where they must, to sides within the limits."""
    side = images.shape[-1]
    if side > largest:
        return F.interpolate(images, (largest, largest), mode="area")
    if side < smallest:
        return F.interpolate(images, (smallest, smallest), mode="bilinear", align_corners=False)
    return images
