"""The training loop on tiny networks: resuming, stopping, and what it leaves on disk."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_run
from storage.errors import ConfigError, IntegrityError, TrainingError
from storage.runs import Run, create_run
from storage.store import Store
from tiny_run import GROWING, PATHS
from training.__main__ import main
from training.checkpoint import network_tensors, read_state
from training.config import TrainConfig
from training.device import resolve_device
from training.drawing.images import images_from_seeds
from training.drawing.pictures import read_grid_metadata
from training.drawing.trained import load_generator
from training.engine.precompile import CORES_A_JOB
from training.engine.state import Training, terms_of
from training.loop import train
from training.process import images_of, train_folder
from training.schedule import stage_at
from training.tracking import Tracker

NUM = 13
SIDE = 16
TIMES = {"seconds", "seconds_per_kimg", "images_per_second"}


NewRun = Callable[..., Run]


@pytest.fixture
def new_run(tmp_path: Path) -> NewRun:
    """Makes a run on a dataset of 13 random images, in a store of its own."""
    store = Store(tmp_path / "store")
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(NUM, SIDE))

    def make(**overrides: Any) -> Run:
        config = TrainConfig.model_validate({**GROWING, **overrides})
        return create_run(store, dataset, config.model_dump(mode="json"))

    return make


def trained(run: Run, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Train a run in this process, without a tracker; returns its result."""
    config = TrainConfig.model_validate(run.record.config)
    return train(run, config, images_of(run, config), torch.device("cpu"), Tracker(), should_stop)


def after(steps: int) -> Callable[[], bool]:
    """A request to stop after so many steps."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) >= steps


def stats(run: Run) -> list[dict[str, Any]]:
    """The lines of stats.jsonl, without times."""
    lines = [json.loads(line) for line in run.stats_path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def state_without_times(run: Run) -> dict[str, Any]:
    """The newest checkpoint's state, hashes of all tensors among it, but for times."""
    state = read_state(run.newest_checkpoint()).as_json()
    state["tally"].pop("seconds_before")
    return {key: value for key, value in state.items() if key not in {"seconds", "run_id"}}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"generator": "traditional"},
        {"augment": "ada", "ada_kimg": 0.1},
        {"loss": "wgan_gp", "r1_gamma": 0},
        {"loss": "r3", "augment": "ada", "ada_kimg": 0.1, "r1_interval": 2},
        PATHS,
    ],
    ids=["style", "traditional", "augmented", "wgan_gp", "r3", "path_lengths"],
)
def test_resumed_run_equals_the_uninterrupted_one(new_run: NewRun, settings: dict[str, Any]) -> None:
    """A run stopped again and again, before and after it grows, ends in the same bytes as one never stopped."""
    whole, broken = (new_run(**settings) for _ in range(2))
    trained(whole)
    sessions = 0
    while trained(broken, after(3))["stopped"]:
        sessions += 1
    assert sessions >= 4
    resolutions = {line["resolution"] for line in stats(whole)}
    assert resolutions == {8, 16}
    assert state_without_times(broken) == state_without_times(whole)
    assert stats(broken) == stats(whole)
    grids = [run.grids_dir / f"{run.newest_checkpoint().name}.png" for run in (whole, broken)]
    one, other = (np.asarray(Image.open(io.BytesIO(grid.read_bytes()))) for grid in grids)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("row", "abcdef")
def test_every_row_of_table_1_trains(new_run: NewRun, row: str) -> None:
    """Each configuration of table 1 trains for two steps at 16 pixels and gives its images back from a checkpoint."""
    start = 4 if row == "a" else 8
    batches = {str(side): 8 for side in (4, 8, 16, 32, 64)}
    run = new_run(
        preset=f"table1_{row}", start_resolution=start, batch_size=batches, total_kimg=0.016, tick_kimg=0.016
    )
    result = trained(run)
    assert result["num_images"] == 16
    (line,) = stats(run)
    assert line["resolution"] == start
    assert ("gradient_penalty" in line) == (row == "a") != ("r1" in line)
    assert line["gradient_penalty" if row == "a" else "r1"] > 0
    generator = load_generator(run.newest_checkpoint(), torch.device("cpu"))
    images = images_from_seeds(generator, [3, 5], 1.0)
    assert images.shape == (2, 3, 16, 16)
    again = images_from_seeds(generator, [5], 1.0)
    assert np.abs(again.astype(int) - images[1:]).max() <= 1  # a batch of another size rounds otherwise


def test_killed_run_goes_on_from_its_last_checkpoint(new_run: NewRun) -> None:
    """Lines written after the last checkpoint, even one cut short, are forgotten and written again."""
    whole, killed = new_run(), new_run()
    trained(whole)
    trained(killed, after(7))
    lines = killed.stats_path.read_text()
    later = json.dumps({"num_images": 10**6, "loss_g": 0})
    killed.stats_path.write_text(f'{lines}{later}\n{{"num_im')
    trained(killed)
    assert stats(killed) == stats(whole)
    assert state_without_times(killed) == state_without_times(whole)


def test_seed_decides_the_run(new_run: NewRun) -> None:
    """The same seed gives the same checkpoint, another seed another one."""
    runs = [new_run(seed=seed, total_kimg=0.01) for seed in (1, 1, 2)]
    hashes = []
    for run in runs:
        trained(run)
        hashes.append(read_state(run.newest_checkpoint()).sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_run_folder_holds_what_it_should(new_run: NewRun) -> None:
    """A finished run has a line a tick, checkpoints, grids and a result, all plain files and no pickle."""
    run = new_run()
    result = trained(run)
    assert json.loads(run.result_path.read_bytes()) == result
    assert (result["num_images"], result["kimg"], result["stopped"]) == (100, 0.1, False)
    assert (result["checkpoint"], result["device"]) == ("000000100", "cpu")
    assert [path.name for path in run.checkpoints()] == ["000000040", "000000080", "000000100"]
    assert sorted(path.stem for path in run.grids_dir.iterdir()) == ["000000040", "000000080", "000000100"]
    lines = [json.loads(line) for line in run.stats_path.read_text().splitlines()]
    assert [line["num_images"] for line in lines] == [24, 40, 60, 80, 100]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert {
        "kimg",
        "total_kimg",
        "lod",
        "batch_size",
        "loss_g",
        "loss_d",
        "r1",
        "real_logit",
        "fake_logit",
    } < set(lines[0])
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".jsonl", ".png", ".safetensors"}
    assert not [
        path for path in files if path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")
    ]


def test_grid_names_its_origin(new_run: NewRun) -> None:
    """A training grid carries its run, checkpoint, weights' hash and dataset version."""
    run = new_run(total_kimg=0.01)
    result = trained(run)
    metadata = read_grid_metadata(run.folder / result["grid"])
    state = read_state(run.newest_checkpoint())
    assert metadata["run_id"] == run.id
    assert metadata["checkpoint"] == result["checkpoint"]
    assert metadata["generator_sha256"] == state.generator_sha256
    assert metadata["dataset"] == run.record.dataset.reference
    assert metadata["seeds"] == list(range(32))


def test_training_changes_the_networks_and_averages_them(new_run: NewRun) -> None:
    """Training moves both networks in use, and the averaged generator lies apart from the last one."""
    run = new_run()
    trained(run)
    last = {}
    for network in ("generator", "discriminator", "generator_ema"):
        checkpoints = run.checkpoints()
        before = network_tensors(checkpoints[0], read_state(checkpoints[0]), network)
        last[network] = network_tensors(checkpoints[-1], read_state(checkpoints[-1]), network)
        assert any(not torch.equal(tensor, last[network][name]) for name, tensor in before.items()), network
    name = "synthesis.layers.1.conv.weight"
    assert not torch.equal(last["generator"][name], last["generator_ema"][name])
    assert torch.equal(last["generator"]["w_avg"], last["generator_ema"]["w_avg"])
    assert last["generator"]["w_avg"].abs().sum() > 0


def test_old_checkpoints_are_pruned(new_run: NewRun) -> None:
    """Only as many newest checkpoints stay as the config keeps."""
    run = new_run(keep_checkpoints=2)
    trained(run)
    assert [path.name for path in run.checkpoints()] == ["000000080", "000000100"]


def test_a_finished_run_stays_finished(new_run: NewRun) -> None:
    """The same command on a finished run changes no checkpoint and tells the same result."""
    run = new_run(total_kimg=0.01)
    result = trained(run)
    assert trained(run) == result


def test_divergence_ends_the_run(new_run: NewRun) -> None:
    """Steps without finite gradients change nothing; too many in a row are an error, and nothing of them is written."""
    run = new_run(r1_gamma=1e308, max_skipped_steps=3, tick_kimg=0.05)
    with pytest.raises(TrainingError, match=r"before image 40: 6 steps in a row .* \(max_skipped_steps 3\)"):
        trained(run)
    assert not run.checkpoints()
    assert not run.result_path.exists()


def test_wgan_gp_has_no_r1(caplog: pytest.LogCaptureFixture) -> None:
    """With WGAN-GP, R1's weight is ignored aloud, and the penalty comes at every step whatever R1's interval."""
    config = TrainConfig.model_validate({**GROWING, "loss": "wgan_gp", "r1_interval": 3})
    training = Training.begin(config, torch.device("cpu"))
    assert "r1_gamma 10 is ignored" in caplog.text
    stage = stage_at(training.config, 0)
    pixels = torch.randint(256, (stage.batch_size, 3, 8, 8), dtype=torch.uint8)
    sums = [0.0]
    for _ in range(3):
        training.step(stage, pixels)
        sums.append(training.tally.sums[terms_of(config).index("gradient_penalty")].item())
    assert all(b > a for a, b in pairwise(sums))


def test_bf16_on_a_cpu_is_ignored_aloud(caplog: pytest.LogCaptureFixture) -> None:
    """bf16 features asked for on a CPU are float32, and a warning says so."""
    training = Training.begin(
        TrainConfig.model_validate({**GROWING, "precision": "bf16"}), torch.device("cpu")
    )
    assert training.discriminator.dtype is None
    assert "precision bf16 is ignored on a cpu" in caplog.text


@pytest.mark.parametrize("damage", ["bytes", "shard"])
def test_an_unreadable_image_ends_the_run_with_a_checkpoint(new_run: NewRun, damage: str) -> None:
    """What was trained is kept, the error names image and shard, and a mended run goes on as if it was never hurt."""
    run, whole = new_run(), new_run()
    shard = run.store.root / run.record.dataset.directory / "shards" / "00000.tar"
    data = shard.read_bytes()
    steps = iter(range(100))

    def hurt_later() -> bool:
        if next(steps) == 4:
            shard.write_bytes(b"\0" * len(data)) if damage == "bytes" else shard.unlink()
        return False

    trained(whole)
    with pytest.raises(IntegrityError, match=r"[0-9a-f]{16}\.png in .*00000\.tar"):
        trained(run, hurt_later)
    newest = read_state(run.newest_checkpoint()).num_images
    assert 40 <= newest < 100
    assert not list(run.folder.rglob(".*.partial"))
    shard.write_bytes(data)
    trained(run)
    assert state_without_times(run) == state_without_times(whole)


def test_a_changed_checkpoint_is_not_resumed(new_run: NewRun) -> None:
    """Going on from a checkpoint whose bytes have changed is an IntegrityError."""
    run = new_run()
    trained(run, after(3))
    path = run.newest_checkpoint() / "discriminator.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"discriminator\.safetensors has changed"):
        trained(run)


def test_a_run_goes_on_from_its_newest_intact_checkpoint(
    new_run: NewRun, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the newest checkpoint is damaged, the process that trains names it and ends as if it had never been."""
    whole, run = new_run(), new_run()
    trained(whole)
    trained(run, after(9))
    assert len(run.checkpoints()) > 1
    path = run.newest_checkpoint() / "optimizers.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    train_folder(run.folder, "none")
    assert f"{path} is missing or no longer has its recorded sha256: it is put aside" in caplog.text
    assert state_without_times(run) == state_without_times(whole)
    assert [folder.name for folder in run.checkpoints()] == [folder.name for folder in whole.checkpoints()]


def test_resolution_above_the_dataset_is_refused(new_run: NewRun) -> None:
    """Training above the dataset's resolution is an error before anything is trained."""
    run = new_run(resolution=32)
    with pytest.raises(ConfigError, match="resolution 32 is above the dataset's 16"):
        train_folder(run.folder, "none")


def command(run: Run, *arguments: str) -> list[str]:
    """The command that trains a run in its own process."""
    return [sys.executable, "-m", "training", str(run.folder), "--tracking-uri", "none", *arguments]


def test_sigterm_saves_and_ends_well(new_run: NewRun) -> None:
    """SIGTERM to the training process leaves a checkpoint and a result marked stopped, with status 0."""
    run = new_run(total_kimg=1000, tick_kimg=0.01)
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(command(run), cwd=root, stderr=subprocess.PIPE, text=True) as process:
        while not run.stats_path.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    result = json.loads(run.result_path.read_bytes())
    assert result["stopped"] is True
    assert read_state(run.newest_checkpoint()).num_images == result["num_images"]


def test_errors_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command on a folder that is no run ends with status 1 and one line that names it."""
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path} is no training run: it has no run.json\n"


def test_threads_are_the_configs(new_run: NewRun) -> None:
    """The training process computes on as many threads as the config says, not as the machine has."""
    for num in (2, 1):
        train_folder(new_run(total_kimg=0.01, num_cpu_threads=num).folder, "none")
        assert torch.get_num_threads() == num


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_a_gpu_trains_and_goes_on(new_run: NewRun) -> None:
    """The same run, stopped and resumed, trains to its end on a GPU, with finite losses."""
    run = new_run(device="cuda")
    config = TrainConfig.model_validate(run.record.config)
    device = resolve_device(config.device)
    assert train(run, config, images_of(run, config), device, Tracker(), after(5))["stopped"]
    assert not train(run, config, images_of(run, config), device, Tracker())["stopped"]
    assert all(math.isfinite(value) for line in stats(run) for value in line.values())


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < CORES_A_JOB, reason="too few cores to compile ahead")
def test_a_gpu_is_compiled_for_ahead_of_training(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a GPU a process beside training compiles what comes next, and training takes it from the cache."""
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    run = new_run(device="cuda")
    counters.clear()
    assert not train_folder(run.folder, "none")["stopped"]
    said = (run.folder / "precompile.log").read_text()
    assert counters["inductor"]["fxgraph_cache_hit"] > 0, f"{dict(counters['inductor'])}\n{said}"
    assert "Traceback" not in said, said


def test_a_tick_without_a_penalty_is_written(new_run: NewRun) -> None:
    """A line of statistics whose steps had no lazy penalty is whole but for that."""
    run = new_run(r1_interval=1000, tick_kimg=0.008)
    trained(run)
    first, *others = stats(run)
    assert first["r1"] > 0
    assert others
    assert not any("r1" in line for line in others)
    assert all(line.keys() == first.keys() - {"r1"} for line in others)


def test_the_configs_seed_and_flips_reach_the_images_and_the_weights(new_run: NewRun) -> None:
    """What is read is ordered and mirrored as the config says, and networks begin by its seed."""
    run = new_run(x_flips=False, seed=7)
    images = images_of(run, TrainConfig.model_validate(run.record.config))
    assert (images.x_flips, images.seed) == (False, 7)
    first, second = (
        Training.begin(TrainConfig.model_validate({**GROWING, "seed": seed}), torch.device("cpu"))
        for seed in (0, 1)
    )
    for name in ("generator", "discriminator"):
        one, other = (next(p for p in t.networks[name].parameters() if p.dim() > 1) for t in (first, second))
        assert not torch.equal(one, other), name
