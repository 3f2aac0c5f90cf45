"""Checkpoints: a folder of safetensors files and a JSON, written whole or not at all; never a pickle.

    generator.safetensors, discriminator.safetensors, generator_ema.safetensors
    optimizers.safetensors   Adam's moments and step counts, by network and parameter name
    state.json               where training stood, its config, and the sha256 of each file

To draw, generator_ema.safetensors and state.json are enough. What training puts in is in `training.engine.state`; how
a generator alone is read is in `training.drawing.pictures`.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from storage.datasets.records import VersionName
from storage.digest import file_digest
from storage.errors import IntegrityError, NotFoundError
from storage.local import PARTIAL, delete, here, whole_folder
from storage.runs import CheckpointState

OPTIMIZERS = "optimizers.safetensors"
STATE = "state.json"


class State(CheckpointState):
    """Where training stood, and what it is of: all that state.json says."""

    run_id: str
    dataset: VersionName
    resolution: int
    """That of the stage in which it stood, px."""
    lod: float | None = None
    """The level of detail of the last step."""
    seconds: float
    """Trained so far."""
    augmentation: dict[str, Any]
    tally: dict[str, Any]
    """Of the tick that had begun."""
    path_length_mean: float = 0.0
    config: dict[str, Any]
    config_sha256: str

    @property
    def generator_sha256(self) -> str:
        """The hash of the weights that images are drawn with, the averaged generator's."""
        return self.sha256[weights_file("generator_ema")]


def weights_file(network: str) -> str:
    """The file that holds a network's weights, in a checkpoint's folder."""
    return f"{network}.safetensors"


def checkpoint_name(num_images: int) -> str:
    """The folder name of the checkpoint after `num_images` real images; names sort by age."""
    return f"{num_images:09d}"


def save_checkpoint(
    folder: Path,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Adam],
    state: Mapping[str, Any],
) -> State:
    """Write a checkpoint at `folder` and return its state, which is `state` and the hashes of the files.

    It appears under its name only once complete. An optimizer's name is that of the network it trains.
    """
    for stale in folder.parent.glob(f".*{PARTIAL}"):  # of a process that was killed
        shutil.rmtree(stale)
    with whole_folder(folder) as partial:
        for name, network in networks.items():
            (partial / weights_file(name)).write_bytes(save(_network_tensors(network)))
        (partial / OPTIMIZERS).write_bytes(save(_optimizer_tensors(networks, optimizers)))
        files = sorted(path.name for path in partial.iterdir())
        record = State.new(**state, sha256={name: file_digest(partial / name) for name in files})
        (partial / STATE).write_bytes(record.as_bytes())
    return record


def load_checkpoint(
    folder: Path, networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Adam]
) -> State:
    """Load networks and optimizers in place, and return the state; IntegrityError if a byte has changed."""
    state = read_state(folder)
    for name, network in networks.items():
        network.load_state_dict(network_tensors(folder, state, name))
    tensors = _verified(folder, state, OPTIMIZERS)
    for name, optimizer in optimizers.items():
        _fill_optimizer(optimizer, networks[name], _under(tensors, name))
    return state


def read_state(folder: Path) -> State:
    """A checkpoint's state.json."""
    try:
        return State.read(folder / STATE)
    except NotFoundError:
        raise NotFoundError(f"{folder} is no checkpoint: it has no {STATE}") from None


def network_tensors(folder: Path, state: CheckpointState, name: str) -> dict[str, Tensor]:
    """The tensors of one network, their file verified against `state`."""
    return _verified(folder, state, weights_file(name))


def prune_checkpoints(checkpoints: list[Path], keep: int, best: Collection[Path] = ()) -> None:
    """Delete all but the last `keep` of `checkpoints` (oldest first), and the best."""
    for folder in checkpoints[:-keep]:
        if folder in best:
            continue
        delete(folder)


def _verified(folder: Path, state: CheckpointState, name: str) -> dict[str, Tensor]:
    """All tensors of a file whose sha256 is the recorded one."""
    if name not in state.sha256:
        raise IntegrityError(f"{folder} records no {name}: it has {', '.join(state.sha256)}")
    path = here(folder / name)
    if not path.is_file():
        raise IntegrityError(f"{path} is missing from its checkpoint")
    if file_digest(path) != state.sha256[name]:
        raise IntegrityError(f"{path} has changed since it was written: its sha256 is not the recorded one")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"{path} cannot be read: {error}") from error


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `name.`, without it."""
    return {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}


def _network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, laid out plainly."""
    return {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}


def _optimizer_tensors(
    networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Adam]
) -> dict[str, Tensor]:
    """Adam's state by network, parameter and entry; layers not trained yet have none."""
    return {
        f"{name}.{parameter_name}.{entry}": tensor.detach().cpu().contiguous()
        for name, optimizer in optimizers.items()
        for parameter_name, parameter in networks[name].named_parameters()
        for entry, tensor in optimizer.state.get(parameter, {}).items()
    }


def _fill_optimizer(optimizer: torch.optim.Adam, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put Adam's moments where each parameter is, in its layout, and its step counts where Adam has them."""
    parameters = dict(network.named_parameters())
    optimizer.state.clear()
    for key, tensor in tensors.items():
        parameter_name, entry = key.rsplit(".", 1)
        parameter = parameters[parameter_name]
        if entry == "step":
            placed = tensor.to(parameter.device) if optimizer.defaults["fused"] else tensor
        else:
            placed = torch.empty_like(parameter).copy_(tensor).detach()
        optimizer.state[parameter][entry] = placed
