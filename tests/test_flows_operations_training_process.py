"""flows.operations.training_process: training is followed, stopped and gone on with, and never left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

import tiny_run
import training.__main__
from flows.operations import training_process
from flows.operations.gpus import cards
from flows.operations.training_process import prepare_run, train_run
from flows.options import TrainOptions
from storage.errors import ConfigError, KilledError, ServiceError, TrainingError
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
    while not run.stats_path.exists() and process.poll() is None:
        time.sleep(0.05)
    return run, process


def ended(run: Run) -> dict[str, object]:
    """The result that the training process writes as it ends."""
    deadline = time.monotonic() + 120
    while not run.result_path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    result: dict[str, object] = json.loads(run.result_path.read_bytes())
    return result


@pytest.mark.parametrize(("number", "processes"), [
    (signal.SIGTERM, 1), (signal.SIGKILL, 1), pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
])  # fmt: skip
def test_training_ends_with_the_command(store: Path, number: signal.Signals, processes: int) -> None:
    """Whatever ends `likeness train`, even SIGKILL, training saves a checkpoint and ends too; until then it is alone.

    A run that is being trained is not trained twice: the second says so and touches nothing.
    """
    run, process = started(store, processes)
    with pytest.raises(ConfigError, match="being trained by another process"):
        train_run(run, TrainOptions(store=store, tracking_uri="none"), lambda _: None)
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    assert ended(run)["stopped"] is True
    assert run.newest_checkpoint().is_dir()
    lines = [json.loads(line)["num_images"] for line in run.stats_path.read_text().splitlines()]
    assert lines == sorted(set(lines))
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


def test_a_failed_training_is_an_error_with_its_last_words(store: Path) -> None:
    """A run whose dataset has lost its shard fails with the sentence that the training process printed."""
    run = prepare_run("sample", LONG, TrainOptions(store=store), None)
    [shard] = Store(store).path(run.record.dataset.directory).glob("shards/*.tar")
    hidden = shard.rename(shard.with_suffix(".hidden"))
    try:
        with pytest.raises(TrainingError, match=shard.name):
            train_run(run, TrainOptions(store=store, tracking_uri="none"), lambda _: None)
    finally:
        hidden.rename(shard)


def test_a_killed_training_says_by_what_and_how_to_go_on(store: Path) -> None:
    """A training process that the system kills is told by its signal, how far it was, and what goes on with it."""
    run = prepare_run("sample", LONG, TrainOptions(store=store), None)

    def kill(row: dict[str, object]) -> None:
        for child in psutil.Process().children():  # others may be those of earlier tests
            with suppress(psutil.NoSuchProcess):  # it may have ended by now, and this be told once more
                if run.folder.as_posix() in child.cmdline():
                    child.kill()

    with pytest.raises(KilledError) as raised:
        train_run(run, TrainOptions(store=store, tracking_uri="none"), kill)
    assert "was killed by SIGKILL, perhaps out of memory, at 0." in str(raised.value)
    assert f"likeness train --resume {run.id} --store {store} goes on" in str(raised.value)


def test_a_training_that_lost_its_store_says_how_to_go_on(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that refuses or is silent ends a process with a status of its own, which leads to what goes on."""
    run = prepare_run("sample", LONG, TrainOptions(store=store), None)

    def silent(*_: object) -> None:
        raise ServiceError("s3://bucket/store/runs/a cannot be had: it answers 503 Service Unavailable")

    monkeypatch.setattr(training.__main__, "train_aloud", silent)
    status = training.__main__.main([str(run.folder)])
    run.log_path.write_text(capsys.readouterr().err)
    said = str(training_process.ended(run, status, 0))
    assert said.startswith(
        f"training of {run.id} ended, at 0 of 1000 kimg, 0 of them saved: s3://bucket/store/runs/a"
    )
    assert said.endswith(f"; likeness train --resume {run.id} --store {store} goes on")


def test_trainings_wait_for_a_card(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all cards are lent a training waits, and says so once, and then trains."""
    monkeypatch.setenv("LIKENESS_GPUS", "card-0")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = LONG.model_copy(update={"device": "auto", "total_kimg": 0.032})
    run = prepare_run("sample", config, TrainOptions(store=store), None)
    said: list[str] = []

    def follow() -> None:
        train_run(run, TrainOptions(store=store, tracking_uri="none"), lambda _: None, said.append)

    training = threading.Thread(target=follow)
    with cards(1) as held:
        assert held.names == ("card-0",)
        training.start()
        deadline = time.monotonic() + 120
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not run.log_path.exists()
    training.join(240)
    assert said == ["waiting for 1 of 1 GPU, which other trainings hold"]
    assert run.result.kimg == 0.032
