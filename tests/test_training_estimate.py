"""What a run would take: the kinds of step to come, and what they add up to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny_run
from commands import likeness
from storage.store import Store
from training.config import TrainConfig
from training.engine.probe import probe
from training.engine.state import Training
from training.estimate import Rate, disk_bytes, estimate, kinds_of, num_parameters, of_table
from training.process import images_of_version
from training.schedule import stage_at


@pytest.mark.parametrize("preset", ["smoke", "face128", "paper1024", "table1_a"])
def test_kinds_hold_every_image(preset: str) -> None:
    """Each image falls into the kind of the stage that it is shown in, from any image on."""
    config = TrainConfig.model_validate({"preset": preset})
    total = int(config.total_kimg * 1000)
    for start in (0, total // 7, total // 2):
        kinds = kinds_of(config, start)
        assert sum(kind.kimg for kind in kinds) == pytest.approx(config.total_kimg - start / 1000)
        counted: dict[tuple[int, bool], int] = {}
        step = max(1, total // 5000)
        for num in range(start, total, step):
            stage = stage_at(config, num + 1)  # at a border itself, nothing fades yet
            key = stage.resolution, stage.lod % 1 > 0
            counted[key] = counted.get(key, 0) + step
        found = {(kind.stage.resolution, kind.stage.lod % 1 > 0): kind.kimg for kind in kinds}
        assert found.keys() == counted.keys()
        for key, kimg in found.items():
            assert kimg == pytest.approx(counted[key] / 1000, abs=3 * step / 1000), key


def test_an_estimate_is_the_sum_of_its_kinds() -> None:
    """Hours are images times seconds, memory is the most of any kind, cost is of all GPUs."""
    config = TrainConfig.model_validate({"preset": "smoke"})
    kinds = kinds_of(config)
    rates = {kind: Rate(float(index + 1), index * 2**30) for index, kind in enumerate(kinds)}
    said = estimate(config, rates, processes=2, price=3.0)
    seconds = sum(kind.kimg * rate.seconds_per_kimg for kind, rate in rates.items())
    assert said["hours"] == pytest.approx(seconds / 3600)
    assert said["cost"] == pytest.approx(2 * 3 * seconds / 3600)
    assert said["memory_bytes"] == (len(kinds) - 1) * 2**30
    assert said["kimg"] == pytest.approx(10)


def test_the_table_knows_the_measured_rows() -> None:
    """At the paper's widths the table gives what docs/results.md says of one H100, and narrower networks take less."""
    for side, measured_s, measured_gb in ((256, 1.444, 3.2), (512, 2.375, 6.0), (1024, 4.055, 12.0)):
        config = TrainConfig.model_validate({"preset": "paper1024", "resolution": side})
        stage = kinds_of(config)[-1].stage
        assert (stage.resolution, stage.batch_size) == (side, 32)
        rate = of_table(config, stage)
        assert rate.seconds_per_kimg == pytest.approx(measured_s, rel=0.05)
        assert rate.memory_bytes is not None
        assert rate.memory_bytes / 1e9 == pytest.approx(measured_gb, rel=0.15)
        narrow = TrainConfig.model_validate({"preset": "paper1024", "resolution": side, "channel_base": 2048})
        assert of_table(narrow, stage).seconds_per_kimg < rate.seconds_per_kimg
        four = of_table(config, stage, 4)
        assert rate.seconds_per_kimg / 4 < four.seconds_per_kimg < rate.seconds_per_kimg / 2
        passes = TrainConfig.model_validate({"preset": "paper1024", "resolution": side, "images_per_pass": 8})
        few = of_table(passes, stage)
        assert few.seconds_per_kimg > rate.seconds_per_kimg
        assert few.memory_bytes is not None
        assert few.memory_bytes < rate.memory_bytes


def test_disk_is_what_a_run_leaves(tmp_path: Path) -> None:
    """The checkpoints of a run take what was foreseen, to the metadata in them."""
    store = Store(tmp_path)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(8))
    run = tiny_run.trained(store, dataset, channel_base=512, max_channels=64, keep_checkpoints=1)
    config = TrainConfig.model_validate(run.record.config)
    written = sum(p.stat().st_size for p in run.newest_checkpoint().glob("*.safetensors"))
    foreseen = disk_bytes(config) - disk_bytes(config.model_copy(update={"keep_checkpoints": 0}))
    assert written == pytest.approx(foreseen, rel=0.1)
    training = Training.begin(config, torch.device("cpu"))
    networks = training.generator, training.discriminator
    assert num_parameters(config) == sum(p.numel() for network in networks for p in network.parameters())


def test_a_probe_measures_each_kind_of_step(tmp_path: Path) -> None:
    """Each kind is trained on the dataset's images for a while, on this machine, and told as it is done."""
    store = Store(tmp_path)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(8))
    config = TrainConfig.model_validate(tiny_run.TINY)
    kinds = kinds_of(config)
    told = []
    rates = probe(
        config,
        kinds,
        images_of_version(store, dataset, config),
        seconds=0.5,
        on_kind=lambda kind, rate, compiling_s: told.append((kind, rate)),
    )
    assert list(rates.items()) == told
    assert list(rates) == kinds
    assert all(rate.seconds_per_kimg > 0 and rate.memory_bytes is None for rate in rates.values())


def test_the_command_says_what_a_run_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the table without a dataset, by a probe with one, of a run from where it stands; nothing is trained."""
    status, out, err = likeness(
        capsys, "train", "--preset", "paper1024", "--estimate", "table", "--price", "2.5"
    )
    assert (status, err) == (0, "")
    assert "1024 px fading in" in out
    assert "25000.0 kimg" in out
    assert "by the table, not of this machine" in out
    assert ", cost " in out
    store = Store(tmp_path)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(8))
    where = ("--store", str(tmp_path), "--json")
    status, out, _ = likeness(
        capsys, "train", "faces", "--resolution", "8", "--device", "cpu", "--estimate", "probe", *where
    )
    said = json.loads(out)
    assert (status, said["probed"], said["cost"]) == (0, True, None)
    assert [level["resolution"] for level in said["levels"]] == [8]
    assert not list((tmp_path / "runs").glob("*"))
    run = tiny_run.trained(store, dataset)
    words = ("train", "--resume", run.id, "--total-kimg", "0.064", "--estimate", "table")
    status, out, _ = likeness(capsys, *words, *where)
    assert (status, json.loads(out)["kimg"]) == (0, pytest.approx(0.032))
    assert run.record.changes == []
    status, _, err = likeness(capsys, "train", "faces", "--price", "2", *where[:2])
    assert (status, "--price is for --estimate" in err) == (1, True)
