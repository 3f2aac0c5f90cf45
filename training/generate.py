"""Images from a trained generator, each from its seed alone, and grids of them that say where they come from.

Not here: figures (`training.figures`), videos (`training.video`), projection and export.

    trained = open_trained(checkpoint, torch.device("cpu"))
    generate_grid(trained, range(16), Path("grid.png"), [0.7])
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import SafetensorError, safe_open
from torch import Tensor

from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.lineage.origin import GRID_TEXT
from training.checkpoint import generator_sha256, network_tensors, read_state
from training.config import TrainConfig
from training.data import ImageArray
from training.networks import Generator, TraditionalGenerator, build_generator
from training.ops import upsample
from training.schedule import stage_at

log = logging.getLogger(__name__)

MAX_SEEDS = 10_000
MAX_PSI = 2.0
SEED_LIMIT = 2**63


@dataclass(frozen=True)
class Trained:
    """What a checkpoint draws with: its averaged generator and config, and `origin`, where its images come from."""

    generator: Generator | TraditionalGenerator
    config: TrainConfig
    origin: dict[str, Any]

    @property
    def cutoff(self) -> int:
        """How many first layers truncation acts on."""
        return self.config.truncation_cutoff

    def style_generator(self, purpose: str) -> Generator:
        """The generator, where w and noise alone make images; otherwise a ConfigError with what needs that."""
        if not isinstance(self.generator, Generator):
            raise ConfigError(
                f"{purpose} needs a style-based generator: run {self.origin['run_id']} trained the traditional one, "
                "which has neither w nor noise"
            )
        if not self.config.draws_from_w:
            raise ConfigError(
                f"{purpose} needs images made from w alone: run {self.origin['run_id']} trained a generator that z "
                "enters too (synthesis_input latent)"
            )
        return self.generator


def open_trained(checkpoint: Path, device: torch.device) -> Trained:
    """A checkpoint opened for drawing; IntegrityError if its networks have changed since they were written."""
    state = read_state(checkpoint)
    generator = load_generator(checkpoint, device)
    return Trained(generator, TrainConfig.model_validate(state["config"]), grid_metadata(checkpoint, state))


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


def load_exported(path: Path, device: torch.device | None = None) -> Generator | TraditionalGenerator:
    """The generator of a file that `training.export` wrote, as `load_generator` gave it then; see `read_exported`."""
    tensors, metadata = read_exported(path)
    generator = build_generator(TrainConfig.model_validate(metadata["config"]))
    generator.load_state_dict(tensors)
    generator.lod = metadata["lod"]
    return generator.to(device or torch.device("cpu")).requires_grad_(False)


def read_exported(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written here; IntegrityError where it is none that can be read."""
    try:
        with safe_open(path, framework="pt") as opened:
            text = (opened.metadata() or {}).get(GRID_TEXT)
            tensors = {key: opened.get_tensor(key) for key in sorted(opened.keys())}
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there") from error
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path} cannot be read as safetensors: {error}") from error
    if text is None:
        raise IntegrityError(f"{path} carries no {GRID_TEXT} metadata: it was not exported here")
    metadata: dict[str, Any] = json.loads(text)
    return tensors, metadata


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
    truncation_psi = possible_psi(generator, truncation_psi)
    batches = []
    for start in range(0, len(seeds), batch_size):
        latents, noise = inputs_from_seeds(generator, seeds[start : start + batch_size])
        if isinstance(generator, Generator):
            images = generator(latents, noise, psi=truncation_psi, cutoff=truncation_cutoff)
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


def grid_metadata(checkpoint: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Where images of a checkpoint come from: run, checkpoint, weights and dataset version."""
    dataset = state["dataset"]
    return {
        "run_id": state["run_id"],
        "checkpoint": checkpoint.name,
        "generator_sha256": generator_sha256(state),
        "dataset": f"{dataset['name']}@{dataset['version']}",
        "dataset_manifest_sha256": dataset["manifest_sha256"],
    }


def generate_grid(
    trained: Trained, seeds: Sequence[int], path: Path, psis: Sequence[float]
) -> dict[str, Any]:
    """Write a grid of images of `seeds`, and return the metadata it carries.

    With several psis, a row a seed and a column a psi; those that can be (`possible_psi`), each once.
    """
    psis = possible_psis(trained, psis)
    images = np.stack(
        [images_from_seeds(trained.generator, seeds, psi, truncation_cutoff=trained.cutoff) for psi in psis],
        axis=1,
    )
    shown = psis[0] if len(psis) == 1 else list(psis)
    metadata = {**trained.origin, "seeds": list(seeds), "truncation_psi": shown}
    columns = len(psis) if len(psis) > 1 else None
    write_grid(images.reshape(-1, *images.shape[2:]), path, metadata, columns=columns)
    return metadata


def generate_files(
    trained: Trained, seeds: Sequence[int], folder: Path, psis: Sequence[float], *, batch_size: int = 8
) -> list[Path]:
    """Write one PNG a seed and psi into `folder`, each with the metadata of a grid, and return their paths."""
    paths = []
    psis = possible_psis(trained, psis)
    for psi in psis:
        suffix = f"-psi{psi:g}" if len(psis) > 1 else ""
        for start in range(0, len(seeds), batch_size):
            batch = seeds[start : start + batch_size]
            images = images_from_seeds(trained.generator, batch, psi, truncation_cutoff=trained.cutoff)
            for seed, image in zip(batch, images, strict=True):
                paths.append(folder / f"seed{seed:05d}{suffix}.png")
                metadata = {**trained.origin, "kind": "image", "seeds": [seed], "truncation_psi": psi}
                write_png(image.transpose(1, 2, 0), paths[-1], metadata)
    return paths


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
    write_png(canvas, path, metadata)


def write_png(pixels_HWC: ImageArray, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a picture (H, W, 3) that carries `metadata` as JSON in a text chunk."""
    text = PngInfo()
    text.add_itxt(GRID_TEXT, json.dumps(metadata, sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HWC).save(path, format="PNG", pnginfo=text)


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


def parse_psis(text: str) -> list[float]:
    """Truncations from a list of numbers, such as "1,0.7,0,-0.5"."""
    try:
        psis = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"psi {text!r} is not a list of numbers such as 1,0.7,0,-0.5") from None
    if not all(abs(psi) <= MAX_PSI for psi in psis):  # false for nan too
        raise ConfigError(f"psi {text!r}: each must be from {-MAX_PSI:g} to {MAX_PSI:g}")
    return psis
