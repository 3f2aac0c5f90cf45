"""Images from a trained generator, each from its seed alone, and grids of them that say where they come from.

generator = load_generator(checkpoint, torch.device("cpu"))
write_grid(images_from_seeds(generator, range(16), 0.7), path, metadata)
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from storage.errors import ConfigError, IntegrityError
from storage.runs import GRID_TEXT
from training.checkpoint import NETWORKS, network_tensors, read_state
from training.config import TrainConfig
from training.data import ImageArray
from training.networks import Generator, TraditionalGenerator, build_generator
from training.ops import upsample
from training.schedule import stage_at

log = logging.getLogger(__name__)

MAX_SEEDS = 10_000
SEED_LIMIT = 2**63


def load_generator(checkpoint: Path, device: torch.device) -> Generator | TraditionalGenerator:
    """The averaged generator of a checkpoint, at the level of detail its training had reached.

    IntegrityError if the file has changed since it was written.
    """
    state = read_state(checkpoint)
    config = TrainConfig.model_validate(state["config"])
    generator = build_generator(config)
    generator.load_state_dict(network_tensors(checkpoint, state, "generator_ema"))
    generator.lod = stage_at(config, state["num_images"]).lod
    return generator.to(device).requires_grad_(False)


@torch.no_grad()
def images_from_seeds(
    generator: Generator | TraditionalGenerator,
    seeds: Sequence[int],
    truncation_psi: float,
    *,
    truncation_cutoff: int = 8,
    batch_size: int = 8,
) -> ImageArray:
    """Images (N, 3, R, R) at the generator's full resolution, one a seed.

    A seed fixes its image's latent and noise, whatever other seeds stand beside it and on whatever device.
    """
    device = next(generator.parameters()).device
    if isinstance(generator, TraditionalGenerator) and truncation_psi != 1:
        log.warning("truncation_psi %g is ignored: the traditional generator has no w", truncation_psi)
    batches = []
    for start in range(0, len(seeds), batch_size):
        latents, noise = _inputs(generator, seeds[start : start + batch_size], device)
        if isinstance(generator, Generator):
            images = generator(latents, noise, psi=truncation_psi, cutoff=truncation_cutoff)
        else:
            images = generator(latents, noise)
        batches.append(_pixels(upsample(images, generator.resolution // images.shape[-1])))
    return np.concatenate(batches)


def _inputs(
    generator: Generator | TraditionalGenerator, seeds: Sequence[int], device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """Latents (N, Z) and noise a layer, each row from its seed; drawn on the CPU, alike everywhere."""
    latents, noises = [], []
    for seed in seeds:
        rng = torch.Generator("cpu").manual_seed(seed)
        latents.append(torch.randn(1, generator.z_dim, generator=rng))
        noises.append(generator.draw_noise(1, rng))
    noise = [torch.cat(layer).to(device) for layer in zip(*noises, strict=True)]
    return torch.cat(latents).to(device), noise


def _pixels(images: Tensor) -> ImageArray:
    """[-1, 1] to uint8, rounded."""
    pixels: ImageArray = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return pixels


def grid_metadata(checkpoint: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Where images of a checkpoint come from: run, checkpoint, weights and dataset version."""
    dataset = state["dataset"]
    return {
        "run_id": state["run_id"],
        "checkpoint": checkpoint.name,
        "networks_sha256": state["sha256"][NETWORKS],
        "dataset": f"{dataset['name']}@{dataset['version']}",
        "dataset_manifest_sha256": dataset["manifest_sha256"],
    }


def generate_grid(
    checkpoint: Path, seeds: Sequence[int], path: Path, truncation_psi: float, device: torch.device
) -> dict[str, Any]:
    """Write a grid of a checkpoint's images of `seeds`, and return the metadata it carries."""
    state = read_state(checkpoint)
    cutoff = TrainConfig.model_validate(state["config"]).truncation_cutoff
    generator = load_generator(checkpoint, device)
    images = images_from_seeds(generator, seeds, truncation_psi, truncation_cutoff=cutoff)
    metadata = {**grid_metadata(checkpoint, state), "seeds": list(seeds), "truncation_psi": truncation_psi}
    write_grid(images, path, metadata)
    return metadata


def write_grid(
    images: ImageArray, path: Path, metadata: Mapping[str, Any], *, columns: int | None = None
) -> None:
    """Tile images (N, 3, R, R) into a PNG that carries `metadata` as JSON in a text chunk."""
    num, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    text = PngInfo()
    text.add_itxt(GRID_TEXT, json.dumps(metadata, sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas).save(path, format="PNG", pnginfo=text)


def read_grid_metadata(path: Path) -> dict[str, Any]:
    """The metadata a grid was written with; IntegrityError where there is none."""
    with Image.open(path) as image:
        text = image.info.get(GRID_TEXT)
    if text is None:
        raise IntegrityError(f"{path} carries no {GRID_TEXT} text: it was not written here, or was re-saved")
    metadata: dict[str, Any] = json.loads(text)
    return metadata


def parse_seeds(text: str) -> list[int]:
    """Seeds from a list of numbers and ranges, such as "0-15,20", both ends included."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise ConfigError(f"seeds {text!r}: {part!r} is neither a number nor a range such as 0-15")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"seeds {text!r}: the range {part.strip()} runs backwards")
        if last >= SEED_LIMIT or len(seeds) + last - first >= MAX_SEEDS:
            raise ConfigError(f"seeds {text!r}: at most {MAX_SEEDS} seeds below 2^63")
        seeds.extend(range(first, last + 1))
    return seeds
