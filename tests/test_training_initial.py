"""A run that begins with other networks' weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_run
from commands import likeness
from storage.datasets.records import VersionSummary
from storage.errors import ConfigError, IntegrityError
from storage.runs import Run, create_run, find_run
from storage.store import Store
from training.checkpoint import network_tensors, read_state
from training.config import TrainConfig
from training.engine.state import Training
from training.initial import open_source, take_first_weights
from training.loop import train
from training.process import images_of
from training.tracking import Tracker

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, VersionSummary]:
    """A run of 16 px trained to its end, and its dataset of 32 px."""
    store = Store(tmp_path_factory.mktemp("store"))
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(8, 32))
    return tiny_run.trained(store, dataset, total_kimg=0.064), dataset


def begun(source: tuple[Run, VersionSummary], **given: Any) -> Run:
    """A run that is to begin with the source's weights."""
    run, dataset = source
    opened = open_source(run.store, run.id)
    config = opened.fitted(TrainConfig.model_validate({**tiny_run.TINY, **given}))
    return create_run(run.store, dataset, config.model_dump(mode="json"), init_from=opened.record)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_common_levels_are_the_sources(source: tuple[Run, VersionSummary], side: int) -> None:
    """What both networks have is the source's to the bit, what only the new one has is random; Adam begins afresh."""
    run = begun(source, resolution=side, start_resolution=8)
    config = TrainConfig.model_validate(run.record.config)
    training, plain = (Training.begin(config, CPU) for _ in range(2))
    take_first_weights(training, run)
    checkpoint = source[0].newest_checkpoint()
    new = 0
    for name, network in training.networks.items():
        theirs = network_tensors(checkpoint, read_state(checkpoint), name)
        for key, tensor in network.state_dict().items():
            expected = theirs.get(key, plain.networks[name].state_dict()[key])
            assert torch.equal(tensor, expected), f"{name}.{key}"
            new += key not in theirs
    assert (new > 0) == (side == 32)
    assert all(not optimizer.state for optimizer in training.optimizers.values())
    assert training.num_images == 0


def test_a_run_begins_where_both_have_been(source: tuple[Run, VersionSummary]) -> None:
    """At the highest common resolution that the source was trained at, unless another start is asked for."""
    opened = open_source(source[0].store, source[0].id)
    free = {key: value for key, value in tiny_run.TINY.items() if key != "start_resolution"}
    for side, start in ((8, 8), (16, 16), (32, 16)):
        config = opened.fitted(TrainConfig.model_validate({**free, "resolution": side}))
        assert (config.resolution, config.start_resolution) == (side, start)
    assert opened.fitted(TrainConfig.model_validate({**tiny_run.TINY})).start_resolution == 8
    early = open_source(source[0].store, str(source[0].checkpoints()[0]))
    assert early.resolution <= 16


def test_other_networks_are_refused_by_the_setting(source: tuple[Run, VersionSummary]) -> None:
    """Where the networks are unlike, the setting is named with the value that fits."""
    opened = open_source(source[0].store, source[0].id)
    for given, said in (
        ({"w_dim": 16}, "has w_dim 8 and the run 16: --w-dim 8 takes its weights"),
        ({"channel_base": 128}, "has channel_base 64 and the run 128"),
        ({"generator": "traditional"}, "has generator style and the run traditional"),
    ):
        with pytest.raises(ConfigError, match=said):
            opened.fitted(TrainConfig.model_validate({**tiny_run.TINY, **given}))


def test_frozen_levels_stay_and_others_learn(source: tuple[Run, VersionSummary]) -> None:
    """Of the discriminator the highest resolutions keep the source's bytes; the rest, and the generator, move."""
    run = begun(source, freeze_d=1, start_resolution=16, total_kimg=0.024)
    config = TrainConfig.model_validate(run.record.config)
    train(run, config, images_of(run, config), CPU, Tracker())
    before, after = (
        network_tensors(folder, read_state(folder), "discriminator")
        for folder in (source[0].newest_checkpoint(), run.newest_checkpoint())
    )
    frozen = {name for name in after if name.startswith(("from_rgb.2.", "blocks.1."))}
    assert frozen
    used = {name for name in after if not name.startswith("from_rgb.")} - frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not any(torch.equal(before[name], after[name]) for name in used if name.endswith("weight"))


def test_it_goes_on_as_if_it_was_never_stopped(source: tuple[Run, VersionSummary]) -> None:
    """Stopped and resumed, such a run ends in the bytes of one that was not: the source is asked for once."""
    whole, broken = (begun(source, freeze_d=1, total_kimg=0.064) for _ in range(2))
    config = TrainConfig.model_validate(whole.record.config)
    train(whole, config, images_of(whole, config), CPU, Tracker())
    steps = iter(range(1, 100))
    train(broken, config, images_of(broken, config), CPU, Tracker(), lambda: next(steps) >= 3)
    train(broken, config, images_of(broken, config), CPU, Tracker())
    ends = [read_state(run.newest_checkpoint()).sha256 for run in (whole, broken)]
    assert ends[0] == ends[1]


def test_a_source_that_changed_is_refused(source: tuple[Run, VersionSummary], tmp_path: Path) -> None:
    """What lies at the source's place must be what the record says."""
    store = Store(tmp_path)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(8, 16))
    first = tiny_run.trained(store, dataset)
    opened = open_source(store, first.id)
    run = create_run(store, dataset, opened.config.model_dump(mode="json"), init_from=opened.record)
    path = first.newest_checkpoint() / "discriminator.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    training = Training.begin(opened.config, CPU)
    with pytest.raises(IntegrityError, match=r"discriminator\.safetensors is missing or is not what run"):
        take_first_weights(training, run)


@pytest.mark.usefixtures("trained_here")
def test_the_command_begins_with_a_run(
    source: tuple[Run, VersionSummary], capsys: pytest.CaptureFixture[str]
) -> None:
    """The record names checkpoint, dataset and hashes, and `likeness trace` shows them; misuse is one sentence."""
    run = source[0]
    sizes = []
    for name in ("z_dim", "w_dim", "mapping_layers", "channel_base", "max_channels"):
        sizes += [f"--{name.replace('_', '-')}", str(tiny_run.TINY[name])]
    words = ["train", "faces", "--resolution", "16", *sizes, "--device", "cpu", "--total-kimg", "0.016"]
    where = ["--store", str(run.store.root), "--tracking-uri", "none"]
    status, out, err = likeness(capsys, *words, "--init-from", run.id, *where, "--json")
    assert status == 0, err
    made = find_run(run.store, json.loads(out)["run"])
    record = made.record.init_from
    assert record is not None
    assert (record.run_id, record.checkpoint) == (run.id, run.newest_checkpoint().name)
    assert (record.dataset, record.dataset_manifest_sha256) == (
        run.record.dataset.reference,
        run.record.dataset.manifest_sha256,
    )
    assert made.record.config["start_resolution"] == 16
    status, out, _ = likeness(capsys, "trace", made.id, *where[:2])
    assert (status, run.id in out) == (0, True)
    status, out, _ = likeness(capsys, *words, "--init-from", run.id, *where, "--dry-run")
    assert (status, json.loads(out)["config"]["start_resolution"]) == (0, 16)
    for more, said in (
        (["--init-from", "nobody"], "no training run 'nobody'"),
        (["--freeze-d", "1"], "freeze_d 1 keeps layers as they were: it needs --init-from"),
        (["--init-from", run.id, "--resume", run.id], "leave one of them out"),
        (["--freeze-d", "3"], "freeze_d 3 is all of a discriminator of 16 px, or more"),
        (["--init-from", run.id, "--resampling", "nearest"], "--resampling bilinear takes its weights"),
    ):
        status, out, err = likeness(capsys, *words, *more, *where)
        assert (status, out) == (1, "")
        assert said in err
