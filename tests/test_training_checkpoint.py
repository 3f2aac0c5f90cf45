"""Checkpoints: read back as written, verified, atomic, without pickles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from storage.errors import IntegrityError, NotFoundError
from training.checkpoint import (
    OPTIMIZERS,
    STATE,
    checkpoint_name,
    load_checkpoint,
    prune_checkpoints,
    read_state,
    save_checkpoint,
    weights_file,
)

FACTS = {
    "num_images": 1, "run_id": "run", "dataset": {"name": "faces", "version": "ab" * 8, "manifest_sha256": "ab" * 32},
    "resolution": 8, "seconds": 0.0, "augmentation": {}, "tally": {}, "config": {}, "config_sha256": "cd" * 32,
}  # fmt: skip
"""What a checkpoint says beside its files' hashes."""

Pair = tuple[dict[str, nn.Module], dict[str, torch.optim.Adam]]


def pair(seed: int = 0, steps: int = 3) -> Pair:
    """Two networks with a buffer, trained a little, and their optimizers."""
    torch.manual_seed(seed)
    networks: dict[str, nn.Module] = {
        "a": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
        "b": nn.Linear(2, 2),
    }
    optimizers = {"a": torch.optim.Adam(networks["a"].parameters(), betas=(0.0, 0.99))}
    for _ in range(steps):
        optimizers["a"].zero_grad()
        networks["a"](torch.randn(5, 3)).square().sum().backward()
        optimizers["a"].step()
    return networks, optimizers


def tensors(networks: dict[str, nn.Module], optimizers: dict[str, torch.optim.Adam]) -> dict[str, Tensor]:
    """Every number of networks and optimizers, by name."""
    found = {f"{n}.{k}": v for n, network in networks.items() for k, v in network.state_dict().items()}
    for index, parameter in enumerate(networks["a"].parameters()):
        for key, value in optimizers["a"].state.get(parameter, {}).items():
            found[f"adam.{index}.{key}"] = value
    return found


def test_round_trip(tmp_path: Path) -> None:
    """What is loaded equals what was saved, to the last bit, Adam's moments and steps among it."""
    saved = pair()
    folder = tmp_path / checkpoint_name(4000)
    save_checkpoint(folder, *saved, {**FACTS, "num_images": 4000})
    loaded = pair(seed=1, steps=1)
    state = load_checkpoint(folder, *loaded)
    assert state.num_images == 4000
    expected, got = tensors(*saved), tensors(*loaded)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert "adam.0.exp_avg_sq" in got


def test_loaded_optimizer_steps_alike(tmp_path: Path) -> None:
    """One more step after loading gives the same weights as one more step without."""
    saved, loaded = pair(), pair(seed=1)
    save_checkpoint(tmp_path / "1", *saved, FACTS)
    load_checkpoint(tmp_path / "1", *loaded)
    x = torch.randn(5, 3)
    for networks, optimizers in (saved, loaded):
        optimizers["a"].zero_grad()
        networks["a"](x).square().sum().backward()
        optimizers["a"].step()
    assert all(
        torch.equal(p, q)
        for p, q in zip(saved[0]["a"].parameters(), loaded[0]["a"].parameters(), strict=True)
    )


@pytest.mark.parametrize("name", [weights_file("a"), weights_file("b"), OPTIMIZERS])
def test_a_changed_byte_is_detected(tmp_path: Path, name: str) -> None:
    """A single changed byte in any tensor file is an IntegrityError that names the file."""
    networks, optimizers = pair()
    folder = tmp_path / "1"
    save_checkpoint(folder, networks, optimizers, FACTS)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=name):
        load_checkpoint(folder, networks, optimizers)


def test_broken_folders_are_named(tmp_path: Path) -> None:
    """A folder without state.json, with a broken one, or without its tensors each say so."""
    networks, optimizers = pair()
    with pytest.raises(NotFoundError, match="is no checkpoint"):
        read_state(tmp_path)
    save_checkpoint(tmp_path / "1", networks, optimizers, FACTS)
    (tmp_path / "1" / weights_file("a")).unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        load_checkpoint(tmp_path / "1", networks, optimizers)
    (tmp_path / "1" / STATE).write_text("{")
    with pytest.raises(IntegrityError, match="cannot be read as JSON"):
        read_state(tmp_path / "1")


def test_same_state_same_bytes(tmp_path: Path) -> None:
    """The same state saved twice is the same bytes, so that checkpoints can be compared by hash."""
    networks, optimizers = pair()
    one, two = (save_checkpoint(tmp_path / name, networks, optimizers, FACTS) for name in ("1", "2"))
    assert one.sha256 == two.sha256


def test_no_half_checkpoint(tmp_path: Path) -> None:
    """A save that fails leaves nothing under the checkpoint's name, and the next save clears what it left."""
    networks, optimizers = pair()
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "000000001", networks, optimizers, {**FACTS, "no JSON": object()})
    assert not list(tmp_path.glob("[0-9]*"))
    save_checkpoint(tmp_path / "000000002", networks, optimizers, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["000000002"]
    assert json.loads((tmp_path / "000000002" / STATE).read_bytes())["sha256"]


def test_pruning_keeps_the_last(tmp_path: Path) -> None:
    """Only the newest checkpoints stay."""
    networks, optimizers = pair(steps=0)
    folders = [tmp_path / checkpoint_name(n) for n in (1, 20, 300)]
    for folder in folders:
        save_checkpoint(folder, networks, optimizers, FACTS)
    prune_checkpoints(folders, keep=5)
    assert all(folder.exists() for folder in folders)
    prune_checkpoints(folders, keep=2)
    assert [folder.exists() for folder in folders] == [False, True, True]
