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
from torch import Tensor

import tiny_run
from storage.errors import ConfigError, DeviceError, IntegrityError, TrainingError
from storage.runs import Run, create_run
from storage.store import Store
from training.checkpoint import network_tensors, read_state
from training.config import TrainConfig
from training.device import is_nvidia, resolve_device
from training.drawing.images import images_from_seeds
from training.drawing.pictures import read_grid_metadata
from training.drawing.trained import load_generator
from training.engine.precompile import CORES_A_JOB
from training.engine.state import TERMS, Training, average_into, step_rng, terms_of
from training.loop import train
from training.process import images_of, train_folder
from training.schedule import stage_at
from training.tracking import Tracker

NUM = 13
SIDE = 16
TIMES = {"seconds", "seconds_per_kimg", "images_per_second"}
TINY: dict[str, Any] = {
    "resolution": 16, "start_resolution": 8, "channel_base": 64, "max_channels": 8, "z_dim": 8, "w_dim": 8,
    "mapping_layers": 2, "stable_kimg": 0.03, "fade_kimg": 0.02, "total_kimg": 0.1,
    "batch_size": {"4": 8, "16": 4}, "snapshot_kimg": 0.04, "tick_kimg": 0.02, "keep_checkpoints": 10,
    "device": "cpu", "x_flips": True,
}  # fmt: skip


NewRun = Callable[..., Run]


@pytest.fixture
def new_run(tmp_path: Path) -> NewRun:
    """Makes a run on a dataset of 13 random images, in a store of its own."""
    store = Store(tmp_path / "store")
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(NUM, SIDE))

    def make(**overrides: Any) -> Run:
        config = TrainConfig.model_validate({**TINY, **overrides})
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


PATHS = {"path_length_weight": 2, "path_length_interval": 2}


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


def test_a_step_without_finite_gradients_is_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a step of a network leaves its weights, moments and counts alone, is counted, and training goes on."""
    training = Training.begin(TrainConfig.model_validate(TINY), torch.device("cpu"))
    stage = stage_at(training.config, 0)
    pixels = torch.randint(256, (stage.batch_size, 3, 8, 8), dtype=torch.uint8)
    training.step(stage, pixels)
    whole = training.gradients["discriminator"]

    def broken(*inputs: Tensor) -> Any:
        gradients, others = whole(*inputs)
        next(iter(gradients.values())).view(-1)[0] = float("nan")
        return gradients, others

    parameters = list(training.discriminator.parameters())
    state = training.optimizers["discriminator"].state
    for is_broken in (True, True, False):
        monkeypatch.setitem(training.gradients, "discriminator", broken if is_broken else whole)
        before = [p.clone() for p in parameters]
        steps = {int(s["step"]) for s in state.values()}
        constant: Any = training.generator.synthesis.const
        generator = constant.clone()
        training.step(stage, pixels)
        unchanged = all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
        assert unchanged == is_broken
        assert {int(s["step"]) for s in state.values()} == ({n + (not is_broken) for n in steps})
        assert not torch.equal(constant, generator)
    tally = training.tally
    counts = int(tally.steps), int(tally.skipped), int(tally.most_in_a_row), int(tally.skipped_in_a_row)
    assert counts == (2, 2, 2, 0)
    assert all(math.isfinite(mean) for mean in tally.means().values())


def test_lazy_r1_comes_every_so_many_steps() -> None:
    """With interval 4, every fourth step has the penalty, whatever the batch, counted from images shown."""
    training = Training.begin(TrainConfig.model_validate({**TINY, "r1_interval": 4}), torch.device("cpu"))
    stage = stage_at(training.config, 0)
    pixels = torch.randint(256, (stage.batch_size, 3, 8, 8), dtype=torch.uint8)
    with_r1 = []
    for _ in range(9):
        before = training.tally.sums[TERMS.index("r1")].item()
        training.step(stage, pixels)
        with_r1.append(training.tally.sums[TERMS.index("r1")].item() > before)
    assert with_r1 == [True, False, False, False, True, False, False, False, True]


def test_lazy_penalties_of_the_pairing_loss() -> None:
    """R1 and R2 come together, every third step, and are counted at those alone."""
    config = TrainConfig.model_validate({**TINY, "loss": "r3", "r1_interval": 3})
    training = Training.begin(config, torch.device("cpu"))
    stage = stage_at(config, 0)
    pixels = torch.randint(256, (stage.batch_size, 3, 8, 8), dtype=torch.uint8)
    for _ in range(7):
        training.step(stage, pixels)
    counts = dict(zip(terms_of(config), training.tally.counts.tolist(), strict=True))
    assert (counts["r1"], counts["r2"], counts["loss_d"], counts["loss_g"]) == (3, 3, 7, 7)
    assert min(training.tally.means()[name] for name in ("r1", "r2")) > 0


def test_lazy_path_lengths() -> None:
    """With interval 3 the penalty comes every third step, and the mean moves then alone, and not in skipped steps."""
    config = TrainConfig.model_validate({**TINY, **PATHS, "path_length_interval": 3})
    training = Training.begin(config, torch.device("cpu"))
    stage = stage_at(training.config, 0)
    pixels = torch.randint(256, (stage.batch_size, 3, 8, 8), dtype=torch.uint8)
    penalties, means = [0.0], [0.0]
    for _ in range(7):
        training.step(stage, pixels)
        penalties.append(training.tally.sums[terms_of(config).index("path_penalty")].item())
        means.append(training.path_length_mean.item())
    assert [b > a for a, b in pairwise(penalties)] == [True, False, False, True, False, False, True]
    assert [b > a for a, b in pairwise(means)] == [True, False, False, True, False, False, True]
    training.generator.synthesis.const.data.fill_(float("nan"))
    for _ in range(3):
        training.step(stage, pixels)
    assert training.path_length_mean.item() == means[-1] > 0


def test_path_lengths_leave_the_rest_of_the_randomness_alone() -> None:
    """A first step with path lengths of weight next to nothing is the step without them."""
    weights = []
    for fields in ({}, {"path_length_weight": 1e-30}):
        training = Training.begin(TrainConfig.model_validate({**TINY, **fields}), torch.device("cpu"))
        training.step(stage_at(training.config, 0), torch.zeros(8, 3, 8, 8, dtype=torch.uint8))
        weights.append(training.generator.synthesis.layers[1].conv.weight.detach())
    assert torch.equal(*weights)


def test_wgan_gp_has_no_r1(caplog: pytest.LogCaptureFixture) -> None:
    """With WGAN-GP, R1's weight is ignored aloud, and the penalty comes at every step whatever R1's interval."""
    config = TrainConfig.model_validate({**TINY, "loss": "wgan_gp", "r1_interval": 3})
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
    training = Training.begin(TrainConfig.model_validate({**TINY, "precision": "bf16"}), torch.device("cpu"))
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


def test_resolution_above_the_dataset_is_refused(new_run: NewRun) -> None:
    """Training above the dataset's resolution is an error before anything is trained."""
    run = new_run(resolution=32)
    with pytest.raises(ConfigError, match="resolution 32 is above the dataset's 16"):
        train_folder(run.folder, "none")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_absent_gpu_is_an_error() -> None:
    """Asking for a GPU where there is none is an error; auto takes the CPU."""
    with pytest.raises(DeviceError, match="no GPU is usable here"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="an Apple GPU is here")
def test_an_absent_apple_gpu_is_an_error() -> None:
    """Asking for one where there is none is an error with what may be chosen."""
    with pytest.raises(DeviceError, match="no Apple GPU is usable here: choose cpu or auto"):
        resolve_device("mps")


def test_gpus_that_are_not_nvidias_compute_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of our own and compiled steps are for NVIDIA's alone; a torch for ROCm calls AMD's "cuda" too."""
    assert is_nvidia(torch.device("cuda"))
    assert not is_nvidia(torch.device("mps"))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not is_nvidia(torch.device("cuda"))


def test_random_numbers_depend_on_seed_and_images() -> None:
    """Each step's random numbers are fixed by the seed and the images shown, and differ from step to step."""
    cpu = torch.device("cpu")
    draws = {
        (seed, num): torch.rand(1, generator=step_rng(seed, num, cpu)).item()
        for seed in (0, 1)
        for num in (0, 8)
    }
    assert len(set(draws.values())) == 4
    assert torch.rand(1, generator=step_rng(0, 8, cpu)).item() == draws[0, 8]


def test_average_has_its_half_life() -> None:
    """After a half-life of steps the average is half the old weights and half the new."""
    average, network = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    old = average.weight.detach().clone()
    for _ in range(10):
        average_into(average, network, 0.5 ** (1 / 10))
    torch.testing.assert_close(average.weight, (old + network.weight) / 2)


def command(run: Run, *arguments: str) -> list[str]:
    """The command that trains a run in its own process."""
    return [sys.executable, "-m", "training", str(run.folder), "--tracking-uri", "none", *arguments]


def test_sigterm_saves_and_ends_well(new_run: NewRun) -> None:
    """SIGTERM to the training process leaves a checkpoint and a result marked stopped, with status 0."""
    run = new_run(total_kimg=1000, tick_kimg=0.01)
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(command(run), cwd=root, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not run.stats_path.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    result = json.loads(run.result_path.read_bytes())
    assert result["stopped"] is True
    assert read_state(run.newest_checkpoint()).num_images == result["num_images"]


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    """The command on a folder that is no run ends with status 1 and one line that names it."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "training", str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path} is no training run: it has no run.json\n"


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


def test_penalties_are_means_over_the_steps_that_had_them() -> None:
    """Of a lazy penalty the statistics have what it came to, not a share of it; where no step had it, nothing."""
    penalties = []
    for interval in (1, 4):
        config = TrainConfig.model_validate(
            {**TINY, **PATHS, "r1_interval": interval, "path_length_interval": interval}
        )
        training = Training.begin(config, torch.device("cpu"))
        stage = stage_at(config, 0)
        pixels = torch.randint(
            256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        for number in range(2):
            training.step(stage, pixels)
            if number == 0:
                penalties.append(training.tally.means()["r1"])
        means = training.end_tally().means()
        if interval == 4:
            assert means["r1"] == penalties[-1]
            training.step(stage, pixels)
            means = training.end_tally().means()
            assert "r1" not in means
            assert "path_penalty" not in means
            assert means["loss_d"] > 0
    assert penalties[1] == pytest.approx(penalties[0])


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
        Training.begin(TrainConfig.model_validate({**TINY, "seed": seed}), torch.device("cpu"))
        for seed in (0, 1)
    )
    for name in ("generator", "discriminator"):
        one, other = (next(p for p in t.networks[name].parameters() if p.dim() > 1) for t in (first, second))
        assert not torch.equal(one, other), name


def test_every_network_is_shown_at_the_present_level() -> None:
    """Pictures amid growth are of the layers that are trained by now, the averaged generator's too."""
    training = Training.begin(TrainConfig.model_validate(TINY), torch.device("cpu"))
    training.num_images = 40
    training.show_present_lod()
    assert 0 < stage_at(training.config, 40).lod < 1
    assert {network.lod for network in training.networks.values()} == {stage_at(training.config, 40).lod}


def test_path_lengths_are_of_half_a_batch() -> None:
    """As StyleGAN2 takes them; of a batch of one, of one."""
    training = Training.begin(TrainConfig.model_validate({**TINY, **PATHS}), torch.device("cpu"))
    for num, half in ((16, 8), (1, 1)):
        rng = step_rng(0, 0, torch.device("cpu"))
        assert len(training._path_inputs(stage_at(training.config, 0), num, None, rng)[0][1]) == half
