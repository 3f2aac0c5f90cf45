"""flows.operations.training_process: training is followed, stopped and gone on with, and never left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import tiny_run
from flows.operations.training_process import prepare_run, train_run
from flows.options import TrainOptions
from storage.errors import ConfigError, TrainingError
from storage.runs import Run
from storage.store import Store
from training.config import TrainConfig

LONG = TrainConfig.model_validate(
    {"preset": "smoke", "resolution": 8, "total_kimg": 1000, "tick_kimg": 0.016, "device": "cpu"}
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a small dataset."""
    folder = tmp_path_factory.mktemp("store")
    tiny_run.tiny_dataset(Store(folder), tiny_run.noise_images(4, 32), "sample")
    return folder


def started(store: Path, processes: int = 1) -> tuple[Run, subprocess.Popen[str]]:
    """A long training under way, and the command that follows it."""
    run = prepare_run("sample", LONG, TrainOptions(store=store), None)
    arguments = ["train", "--resume", run.id, "--store", str(store), "--tracking-uri", "none", "--json"]
    arguments += ["--processes", str(processes)]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # What a shell starts in its background, this test for one, ignores Ctrl-C, and so do its children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not run.stats_path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return run, process


def ended(run: Run) -> dict[str, object]:
    """The result that the training process writes as it ends."""
    deadline = time.monotonic() + 30
    while not run.result_path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    result: dict[str, object] = json.loads(run.result_path.read_bytes())
    return result


@pytest.mark.parametrize(("number", "processes"), [
    (signal.SIGTERM, 1), (signal.SIGKILL, 1), (signal.SIGINT, 2),
])  # fmt: skip
def test_training_ends_with_the_command(store: Path, number: signal.Signals, processes: int) -> None:
    """Whatever ends `likeness train`, even SIGKILL, training saves a checkpoint and ends too."""
    run, process = started(store, processes)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert ended(run)["stopped"] is True
    assert run.newest_checkpoint().is_dir()
    assert out == ""
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert f"--resume {run.id}" in err
        assert "Traceback" not in err


def test_processes_that_cannot_share_are_refused_before_there_is_a_run(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that does not divide, of a new run or one to go on with, and fewer GPUs than processes."""
    run = prepare_run("sample", LONG, TrainOptions(store=store), None)
    before = sorted((store / "runs").iterdir())
    three = TrainOptions(store=store, processes=3)
    message = "batch_size at 4 is 16: on 3 GPUs it must be a multiple of 12"
    with pytest.raises(ConfigError, match=message):
        prepare_run("sample", LONG, three, None)
    with pytest.raises(ConfigError, match=message):
        prepare_run(None, TrainConfig(), three, run.id)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="processes is 2, and there are 1 GPUs here"):
        prepare_run("sample", TrainConfig(device="cuda"), TrainOptions(store=store, processes=2), None)
    assert sorted((store / "runs").iterdir()) == before


def test_a_run_has_one_trainer(store: Path) -> None:
    """A run that is being trained is not trained twice: the second says so and touches nothing."""
    run, process = started(store)
    try:
        with pytest.raises(ConfigError, match="being trained by another process"):
            train_run(run, TrainOptions(store=store, tracking_uri="none"), lambda _: None)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    lines = [json.loads(line)["num_images"] for line in run.stats_path.read_text().splitlines()]
    assert lines == sorted(set(lines))


def test_a_failed_training_is_an_error_with_its_last_words(store: Path) -> None:
    """A run whose dataset has lost its shard fails with the sentence that the training process printed."""
    run = prepare_run("sample", LONG, TrainOptions(store=store), None)
    [shard] = Store(store).path(run.record.dataset.directory).glob("shards/*.tar")
    hidden = shard.rename(shard.with_suffix(".hidden"))
    try:
        with pytest.raises(TrainingError, match=r"00000\.tar"):
            train_run(run, TrainOptions(store=store, tracking_uri="none"), lambda _: None)
    finally:
        hidden.rename(shard)
