"""A trained generator opened for drawing, with where its images come from.

    trained = open_trained(run.newest_checkpoint(), torch.device("cpu"))
    trained = open_bundled(torch.device("cpu"))

Not here: what is drawn with it (`training.drawing.images`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from storage.bundled.generator import BUNDLED_SHA256, SHA256, bundled_file
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.imports import IMPORTED, Import
from storage.lineage.origin import GRID_TEXT
from storage.local import here
from storage.records import json_object
from training.checkpoint import State, network_tensors, read_state
from training.config import TrainConfig
from training.drawing.marks import Signer
from training.networks import Generator, TraditionalGenerator, build_generator
from training.schedule import stage_at

NOISE = "noise.safetensors"
"""The fixed noise of an import."""


@dataclass(frozen=True)
class Trained:
    """What a checkpoint draws with: its averaged generator and config, and `origin`, where its images come from."""

    generator: Generator | TraditionalGenerator
    config: TrainConfig
    origin: dict[str, Any]
    signer: Signer | None = field(default=None, repr=False)
    """Who signs what is drawn, if somebody does."""
    noise: tuple[Tensor, ...] = field(default=(), repr=False)
    """The fixed noise a layer that an imported network brought, for export."""

    def of_label(self, label: str | None) -> Trained:
        """The same, drawing images of one label; ConfigError where it has no such label, or needs one."""
        column, values = self.config.label_column, self.config.label_values
        if not values and label is not None:
            raise ConfigError(f"--label {label}: this generator was trained without labels")
        if not values:
            return self
        if label not in values:
            raise ConfigError(
                f"this generator draws images by {column}: choose --label of {', '.join(values)}"
            )
        assert isinstance(self.generator, Generator)
        self.generator.mapping.label = values.index(label)
        return dataclasses.replace(self, origin={**self.origin, "label_column": column, "label": label})

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
    return Trained(
        load_generator(checkpoint, device),
        TrainConfig.recorded(state.config, f"checkpoint {checkpoint}"),
        grid_metadata(checkpoint, state),
    )


def open_bundled(device: torch.device) -> Trained:
    """The generator in the box opened for drawing; its images say which file drew them."""
    path = bundled_file()
    tensors, metadata = read_exported(path)
    names = ("run_id", "checkpoint", "generator_sha256", "dataset", "dataset_manifest_sha256")
    origin = {**{name: metadata[name] for name in names}, BUNDLED_SHA256: SHA256}
    return Trained(*_of_exported(tensors, metadata, path, device), origin)


def open_imported(imported: Import, device: torch.device) -> Trained:
    """An import's averaged generator opened for drawing; IntegrityError if it has changed since it was imported."""
    record = imported.record
    for name in ("generator_ema.safetensors", NOISE):
        imported.check(name)
    config = TrainConfig.recorded(record.config, f"import {record.name}")
    generator = build_generator(config)
    generator.load_state_dict(load_file(here(imported.folder / "generator_ema.safetensors")))
    noise = load_file(here(imported.folder / NOISE))
    origin = {
        IMPORTED: record.name,
        "imported_sha256": record.file_sha256,
        "generator_sha256": record.generator_sha256,
        "license": record.license,
    }
    fixed = tuple(noise[f"noise_{index}"].to(device) for index in range(len(noise)))
    return Trained(generator.to(device).requires_grad_(False), config, origin, noise=fixed)


def load_generator(checkpoint: Path, device: torch.device) -> Generator | TraditionalGenerator:
    """The averaged generator of a checkpoint, at the level of detail its training had reached.

    IntegrityError if the file has changed since it was written.
    """
    state = read_state(checkpoint)
    config = TrainConfig.recorded(state.config, f"checkpoint {checkpoint}")
    generator = build_generator(config)
    generator.load_state_dict(network_tensors(checkpoint, state, "generator_ema"))
    generator.lod = stage_at(config, state.num_images).lod
    return generator.to(device).requires_grad_(False)


def load_exported(path: Path, device: torch.device | None = None) -> Generator | TraditionalGenerator:
    """The generator of a file that `training.drawing.export` wrote, as `load_generator` gave it then.

    Its weights are float32; those of a file of half precision were rounded.
    """
    return _of_exported(*read_exported(path), path, device or torch.device("cpu"))[0]


def _of_exported(
    tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path, device: torch.device
) -> tuple[Generator | TraditionalGenerator, TrainConfig]:
    config = TrainConfig.recorded(metadata["config"], str(path))
    generator = build_generator(config)
    generator.load_state_dict(tensors)
    generator.lod = metadata["lod"]
    if isinstance(generator, Generator) and metadata.get("label") in config.label_values:
        generator.mapping.label = config.label_values.index(metadata["label"])
    return generator.to(device).requires_grad_(False), config


def read_exported(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written here; IntegrityError where it is none that can be read."""
    if path.exists() and not (
        path.is_file() or path.is_dir()
    ):  # safetensors would wait for a pipe, whatever is told
        raise IntegrityError(f"{path} cannot be read as safetensors: it is no file")
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
    return tensors, json_object(text.encode(), f"what {path} says of its origin")


def grid_metadata(checkpoint: Path, state: State) -> dict[str, Any]:
    """Where images of a checkpoint come from: run, checkpoint, weights and dataset version."""
    return {
        "run_id": state.run_id,
        "checkpoint": checkpoint.name,
        "generator_sha256": state.generator_sha256,
        "dataset": state.dataset.reference,
        "dataset_manifest_sha256": state.dataset.manifest_sha256,
    }
