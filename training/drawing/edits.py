"""Pictures of seeds and of projected photographs, moved along a direction or from one to another.

    sources = sources_of(trained, EditConfig(seeds=(0, 1), direction="sefa.coarse.0"))
    images_RS3HW = edited(generator, sources, config)

Not here: how directions are found (`training.drawing.directions`), and how photographs are projected
(`training.drawing.projection`).

Suffixes: R rows, S columns, L layers, D entries of w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError
from training.data import ImageArray
from training.drawing.directions import direction_of, moved
from training.drawing.figures import fixed_noise
from training.drawing.images import images_from_w, w_from_seeds
from training.drawing.settings import EditConfig
from training.drawing.trained import Trained, read_exported
from training.networks import Generator


@dataclass(frozen=True)
class Drawn:
    """What is edited: styles a layer, the noise that they are drawn with, and what is on record of a projection."""

    w_LD: Tensor
    noise: list[Tensor]
    record: dict[str, Any] | None = None


def sources_of(trained: Trained, config: EditConfig) -> list[Drawn]:
    """The pictures that a config names; IntegrityError where a projection is of another generator."""
    generator = trained.style_generator("an edit")
    if config.direction is not None:
        direction_of(generator, config.direction)
    if config.layers is not None and max(config.layers) >= generator.num_layers_in_use:
        raise ConfigError(f"layers: this generator has {generator.num_layers_in_use}, numbered from 0")
    if config.projected:
        found = [read_projection(trained, path) for path in config.projected]
    else:
        seeds = config.seeds or ()
        rows = w_from_seeds(generator, seeds, config.psi, trained.cutoff)
        found = [Drawn(w, fixed_noise(generator, seed)) for w, seed in zip(rows, seeds, strict=True)]
    if config.noise_seed is not None:
        noise = fixed_noise(generator, config.noise_seed)
        found = [Drawn(one.w_LD, noise, one.record) for one in found]
    return found


def read_projection(trained: Trained, path: Path) -> Drawn:
    """What a file of `likeness project` holds: its w and its noise; IntegrityError where it is of other weights."""
    generator = trained.style_generator("an edit")
    tensors, metadata = read_exported(path)
    if "w" not in tensors:
        raise IntegrityError(f"{path} holds no projection: `likeness project` writes one")
    if metadata.get("generator_sha256") != trained.origin["generator_sha256"]:
        raise IntegrityError(
            f"{path} was projected on other weights, of run {metadata.get('run_id')}: project the photograph again"
        )
    device, fresh = generator.w_avg.device, fixed_noise(generator, 0)
    noise = [tensors[name].to(device) for name in noise_names(generator) if name in tensors]
    if not noise and isinstance(seed := metadata.get("seed"), int):
        noise = fixed_noise(generator, seed)
    is_of_shape = tensors["w"].shape == (generator.synthesis.num_layers, len(generator.w_avg))
    if not is_of_shape or [one.shape for one in noise] != [one.shape for one in fresh]:
        raise IntegrityError(f"{path} is damaged: its w or its noise is not of this generator's shape")
    names = ("photo", "photo_sha256", "space")
    record = {name: metadata[name] for name in names if name in metadata} | {"sha256": file_digest(path)}
    return Drawn(tensors["w"].to(device), noise, record)


def noise_names(generator: Generator) -> list[str]:
    """The names of noise, a layer each, in a file of a projection."""
    return [f"noise_{index}" for index in range(generator.num_layers_in_use if generator.has_noise else 0)]


def edited(generator: Generator, sources: Sequence[Drawn], config: EditConfig) -> ImageArray:
    """Images (R, S, 3, H, W): a row a source and a column a strength, or one row from a source to another."""
    if config.between is not None:
        first, second = sources
        return np.concatenate(
            [
                _between(generator, first, second, step / (config.between - 1))
                for step in range(config.between)
            ]
        )[None]
    assert config.direction is not None
    direction = direction_of(generator, config.direction)
    layers = config.layers if config.layers is not None else direction.layers
    return np.stack(
        [
            images_from_w(generator, moved(one.w_LD, direction, config.strengths, layers), one.noise)
            for one in sources
        ]
    )


def _between(generator: Generator, first: Drawn, second: Drawn, done: float) -> ImageArray:
    """The picture (1, 3, H, W) when `done` of the way is gone: styles on a line, and noise on an arc."""
    w_LD = torch.lerp(first.w_LD, second.w_LD, done)
    angle = done * torch.pi / 2
    a, b = np.cos(angle), np.sin(angle)
    noise = [
        x if torch.equal(x, y) else a * x + b * y for x, y in zip(first.noise, second.noise, strict=True)
    ]
    return images_from_w(generator, w_LD[None], noise)
