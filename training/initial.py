"""A run that begins with other networks' weights: a checkpoint's or an import's, from the levels that both have.

Everything else is a new run's: Adam, the images shown, the schedule. Networks of another resolution have their lower
levels in common, since levels count from 4 px up; levels that only the new run has begin at random.

    source = open_source(store, "ffhq")
    config = source.fitted(config)
    run = create_run(store, dataset, config.model_dump(mode="json"), init_from=source.record)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError
from storage.imports import known_import
from storage.local import here
from storage.runs import InitFrom, Run, find_checkpoint
from storage.store import Store
from training.checkpoint import read_state, weights_file
from training.config import TrainConfig
from training.engine.state import Training

NETWORKS = ("generator", "generator_ema", "discriminator")
ALIKE = (
    "generator", "resampling", "synthesis_input", "noise", "z_dim", "w_dim", "mapping_layers", "channel_base",
    "max_channels", "label_values",
)  # fmt: skip
"""Settings in which networks must be alike to share weights."""


@dataclass(frozen=True)
class Source:
    """Networks that a run can begin with."""

    name: str
    """What they are called in errors."""
    record: InitFrom
    config: TrainConfig
    resolution: int
    """Up to which they have been trained, px."""

    def fitted(self, config: TrainConfig) -> TrainConfig:
        """The config of a run that begins with them; ConfigError where its networks are others.

        Unless the start is given it begins at the highest resolution that both have.
        """
        for name in ALIKE:
            theirs, ours = getattr(self.config, name), getattr(config, name)
            if theirs != ours:
                raise ConfigError(
                    f"{self.name} has {name} {theirs} and the run {ours}: --{name.replace('_', '-')} {theirs} takes "
                    "its weights"
                )
        if "start_resolution" in config.model_fields_set:
            return config
        start = min(self.resolution, config.resolution)
        return TrainConfig.model_validate({**config.model_dump(mode="json"), "start_resolution": start})


def open_source(store: Store, reference: str) -> Source:
    """The networks of a run's newest checkpoint, of a checkpoint by its folder, or of an import."""
    if imported := known_import(store, reference):
        imported.check()
        record = imported.record
        config = TrainConfig.recorded(record.config, f"import {record.name}")
        said = InitFrom(
            folder=_place(store, imported.folder),
            sha256={name: record.sha256[name] for name in map(weights_file, NETWORKS)},
            imported=record.name,
            file_sha256=record.file_sha256,
            license=record.license,
        )
        return Source(f"import {record.name}", said, config, config.resolution)
    checkpoint = find_checkpoint(store, reference)
    state = read_state(checkpoint)
    said = InitFrom(
        folder=_place(store, checkpoint),
        sha256={name: state.sha256[name] for name in map(weights_file, NETWORKS)},
        run_id=state.run_id,
        checkpoint=checkpoint.name,
        dataset=state.dataset.reference,
        dataset_manifest_sha256=state.dataset.manifest_sha256,
    )
    config = TrainConfig.recorded(state.config, f"checkpoint {checkpoint}")
    return Source(f"checkpoint {checkpoint.name} of {state.run_id}", said, config, state.resolution)


def _place(store: Store, folder: Path) -> str:
    """Below the store's root if it lies there."""
    root, lies = store.root.resolve(), folder.resolve()
    return str(lies.relative_to(root) if lies.is_relative_to(root) else lies)


def take_first_weights(training: Training, run: Run) -> None:
    """Begin with the weights that the run's record names, if it names any; IntegrityError where they are others now."""
    source = run.record.init_from
    if source is None:
        return
    folder = run.store.root / source.folder  # which is the other, if that is absolute
    for name, network in training.networks.items():
        path = folder / weights_file(name)
        if not here(path).is_file() or file_digest(path) != source.sha256[path.name]:
            raise IntegrityError(f"{path} is missing or is not what run {run.id} is to begin with")
        _copy_common(load_file(path), network)


@torch.no_grad()
def _copy_common(tensors: dict[str, Tensor], network: torch.nn.Module) -> None:
    """What both have, by name."""
    for name, tensor in network.state_dict().items():
        if name in tensors:
            tensor.copy_(tensors[name])
