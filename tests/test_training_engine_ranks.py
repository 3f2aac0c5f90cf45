"""One run on several processes: the images are shared out, and the training is that of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny_run
from flows.operations.training_process import train_run
from flows.options import TrainOptions
from storage.errors import ConfigError
from storage.runs import Run
from storage.shards import read_index
from storage.store import Store
from training.checkpoint import weights_file
from training.config import TrainConfig
from training.engine import ranks
from training.engine.ranks import Ranks
from training.engine.state import TERMS, terms_of
from training.ops import append_batch_deviation
from training.process import images_of


class Share(Ranks):
    """A rank that is asked for its rows alone, and so joins no others."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(run: Run, launcher: tuple[str, ...], *arguments: str) -> subprocess.Popen[bytes]:
    """A launcher's process for `training` on a run, which writes to the run's log.txt."""
    command = [
        *launcher,
        "-m",
        "training",
        str(run.folder),
        "--tracking-uri",
        "none",
        "--workers",
        "1",
        *arguments,
    ]
    with (run.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def start_two(run: Run) -> subprocess.Popen[bytes]:
    """Two processes that train a run."""
    return start(run, (sys.executable,), "--processes", "2")


def wait_for_lines(run: Run, process: subprocess.Popen[bytes], num: int) -> None:
    """Return once so many lines of statistics are there."""
    while process.poll() is None:
        if run.stats_path.exists() and len(run.stats_path.read_text().splitlines()) >= num:
            return
        time.sleep(0.02)
    raise AssertionError(said(run))


def said(run: Run) -> str:
    """What its processes have written."""
    return (run.folder / "log.txt").read_text()


def weights(run: Run) -> dict[str, torch.Tensor]:
    """The weights in its newest checkpoint, by network and name."""
    folder = run.newest_checkpoint()
    return {
        f"{network}.{name}": tensor
        for network in ("generator", "discriminator", "generator_ema")
        for name, tensor in load_file(folder / weights_file(network)).items()
    }


def test_rows_are_shared_out_in_whole_groups() -> None:
    """Every image of a batch is one rank's, and each rank's groups are groups of the whole batch."""
    for num, world in ((8, 2), (16, 2), (24, 3), (64, 4)):
        shares = [Share(rank, world).rows(num) for rank in range(world)]
        assert sorted(row for share in shares for row in share) == list(range(num))
        images = torch.randn(num, 2, 4, 4, dtype=torch.float64)
        whole = append_batch_deviation(images)[:, -1]
        for share in shares:
            assert share == sorted(share)
            torch.testing.assert_close(append_batch_deviation(images[share])[:, -1], whole[share])
        for rank, share in enumerate(shares):
            first, second = Share(rank, world).own(images), Share(rank, world).own(images[None], 1)
            assert torch.equal(first, images[share])
            assert torch.equal(second, images[None, share])
            assert first.is_contiguous()
            assert second.is_contiguous()


def test_batches_that_cannot_be_shared_are_refused() -> None:
    """A batch that is no multiple of 4 a process is an error that says what would do."""
    config = TrainConfig(batch_size={"4": 16, "16": 12})
    with pytest.raises(ConfigError, match="batch_size at 16 is 12: on 2 GPUs it must be a multiple of 8"):
        Share(0, 2).check(config)


def node(index: int, port: int) -> tuple[str, ...]:
    """torchrun's launcher of one of two nodes, a process each, which meet at a port of this host."""
    torchrun = (sys.executable, "-m", "torch.distributed.run")
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test")
    return (*torchrun, "--nnodes", "2", "--node-rank", str(index), "--nproc-per-node", "1", *meeting)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
    return port


@pytest.mark.parametrize("num_nodes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_train_as_one(tmp_path: Path, num_nodes: int) -> None:
    """The same batches on two processes, of a node or two, give one set of files, and as one process but for rounding.

    The bias of the constant is left out: instance norm takes it away again while the noise has no strength, so Adam
    follows the rounding of a gradient that is zero. From there rounding grows, hence two steps of weights.
    """
    store = Store(tmp_path)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(13))
    settings: dict[str, Any] = {
        "augment": "ada",
        "ada_kimg": 0.1,
        "total_kimg": 0.016,
        "tick_kimg": 0.008,
        "snapshot_kimg": 0.008,
    }
    alone = tiny_run.trained(store, dataset, **settings)
    shared = tiny_run.untrained(store, dataset, **settings)
    port = free_port()
    launchers = [TORCHRUN] if num_nodes == 1 else [node(index, port) for index in range(2)]
    processes = [start(shared, launcher) for launcher in launchers]
    assert [process.wait(240) for process in processes] == [0] * num_nodes, said(shared)
    assert json.loads(shared.result_path.read_bytes())["num_processes"] == 2
    assert [folder.name for folder in shared.checkpoints()] == [folder.name for folder in alone.checkpoints()]
    found, expected = weights(shared), weights(alone)
    for name in expected.keys() - {f"{g}.synthesis.layers.0.bias" for g in ("generator", "generator_ema")}:
        difference = (found[name] - expected[name]).abs().max().item()
        assert difference < 2e-4, f"{name}: {difference:.2g}"
    one, two = (map(json.loads, run.stats_path.read_text().splitlines()) for run in (alone, shared))
    for line, other in zip(one, two, strict=True):
        for name in TERMS:
            assert other[name] == pytest.approx(line[name], rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_two_processes_share_path_lengths(tmp_path: Path) -> None:
    """Path lengths of half a batch on two processes are those on one, and the running mean moves alike.

    Both are started as `likeness train` does it. The first then measures, and the other waits for it.
    """
    store = Store(tmp_path)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(13))
    settings: dict[str, Any] = {
        "path_length_weight": 2.0,
        "path_length_interval": 1,
        "total_kimg": 0.008,
        "tick_kimg": 0.008,
    }
    alone = tiny_run.trained(store, dataset, **settings)
    measured = {"metrics": ("fd_efficientnet_lite0",), "metrics_kimg": 0.008, "metrics_images": 4}
    shared = tiny_run.untrained(store, dataset, **settings, **measured)
    rows: list[dict[str, float]] = []
    train_run(shared, TrainOptions(processes=2, workers=1, tracking_uri="none"), rows.append)
    assert (shared.folder / "metrics" / f"{shared.newest_checkpoint().name}.json").is_file()
    one, two = json.loads(alone.stats_path.read_text()), rows[-1]
    assert one["path_length"] > 0
    for name in terms_of(TrainConfig.model_validate(alone.record.config)):
        rel = 0.01 if name == "path_penalty" else 1e-4
        assert two[name] == pytest.approx(one[name], rel=rel, abs=1e-5), name


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(tmp_path: Path) -> None:
    """SIGTERM saves one checkpoint and ends both in peace, with status 0; the same command then ends the run."""
    run = long_run(tmp_path)
    process = start_two(run)
    wait_for_lines(run, process, 2)
    process.terminate()
    assert process.wait(240) == 0, said(run)
    stopped_at = int(run.newest_checkpoint().name)
    assert 0 < stopped_at < 1000, said(run)
    assert json.loads(run.result_path.read_bytes())["stopped"] is True
    assert "stopped at" in said(run)
    assert "Traceback" not in said(run)
    assert start_two(run).wait(240) == 0, said(run)
    assert int(run.newest_checkpoint().name) == 1000
    numbers = [line.split(",")[0] for line in run.stats_path.read_text().splitlines()]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.slow
def test_two_processes_save_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    """Neither lives on beside a later run of the same folder, and no image shown is lost."""
    run = long_run(tmp_path)
    process = start_two(run)
    wait_for_lines(run, process, 2)
    process.kill()
    process.wait()
    begun = time.monotonic()
    while is_trained(run) and time.monotonic() - begun < 240:
        time.sleep(0.1)
    assert not is_trained(run), said(run)
    assert json.loads(run.result_path.read_bytes())["stopped"] is True
    assert 0 < int(run.newest_checkpoint().name) < 1000


@pytest.mark.slow
def test_what_one_process_fails_with_ends_both(tmp_path: Path) -> None:
    """The other waits for statistics to be written, which cannot be; the last words say why."""
    run = long_run(tmp_path)
    run.stats_path.mkdir()
    assert start_two(run).wait(240) == 1
    assert "IsADirectoryError" in said(run).splitlines()[-1]


@pytest.mark.slow
def test_an_image_that_one_process_cannot_read_ends_both_with_a_checkpoint(tmp_path: Path) -> None:
    """The first process writes what was trained by then, and the last words name the image and its shard."""
    store = Store(tmp_path)
    run = tiny_run.untrained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(13)), total_kimg=1.0)
    shard = store.root / run.record.dataset.directory / run.record.dataset.shards[0]
    entries = read_index(shard.with_suffix(".index.json").read_bytes()).entries
    images = [entry for entry in entries if entry.name.endswith(".png")]
    order = np.random.default_rng((0, 0)).permutation(13)
    data = bytearray(shard.read_bytes())
    data[images[order[11]].offset + 100] ^= 1  # shown in the second step of 8
    shard.write_bytes(data)
    assert start_two(run).wait(240) == 1
    assert int(run.newest_checkpoint().name) == 8, said(run)
    last = said(run).splitlines()[-1]
    assert images[order[11]].name in last
    assert str(shard) in last


@pytest.mark.slow
def test_processes_are_not_started_by_one_of_torchruns(tmp_path: Path) -> None:
    """Two ways at once are refused in a sentence."""
    run = long_run(tmp_path)
    assert start(run, TORCHRUN, "--processes", "2").wait(240) == 1
    assert "torchrun starts the processes itself: leave --processes out" in said(run)


def is_trained(run: Run) -> bool:
    """Whether a process trains it now: that one keeps its lock to the end."""
    try:
        with run.locked():
            return False
    except ConfigError:
        return True


def long_run(folder: Path) -> Run:
    """A run that takes a while."""
    store = Store(folder)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(13))
    return tiny_run.untrained(store, dataset, total_kimg=1.0, tick_kimg=0.05, snapshot_kimg=50.0)


def test_ranks_read_each_image_once_an_epoch(tmp_path: Path) -> None:
    """Together the ranks' streams are the stream of one process, image by image."""
    store = Store(tmp_path)
    run = tiny_run.untrained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(13)))
    images = images_of(run, TrainConfig.model_validate(run.record.config))
    whole = images.stream(5, 16)
    batches = [[next(whole) for _ in range(8)] for _ in range(6)]
    for rank in range(2):
        own = Share(rank, 2).rows(8)
        stream = images.stream(5, 16, batch_size=8, rows=own)
        for batch in batches:
            for row in own:
                own_image = next(stream)
                assert np.array_equal(own_image.pixels, batch[row].pixels)
                assert own_image.is_mirrored == batch[row].is_mirrored


@pytest.mark.parametrize(("shown", "expected"), [
    (None, "2,0,1,3"), ("4,5,6,7", "6,4,5,7"), ("a,b,c", "c,a,b"), ("", ""), ("0,1", "0,1"),
])  # fmt: skip
def test_each_rank_counts_its_own_gpu_first(
    shown: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the GPUs a process may see it sees all, its own first; where it has none, nothing is changed."""
    if shown is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    ranks._see_first(2, 4)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


@pytest.mark.parametrize(("rank", "shown"), [(0, None), (1, None), (1, "0"), (1, "0,1")])
def test_fewer_gpus_than_processes_are_refused(
    rank: int, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that would share a GPU end with a sentence that says how many there are, before any is joined."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # so that what is set below is undone
    if shown is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with (
        pytest.raises(ConfigError, match="2 processes were started here, and this machine has 1 GPU"),
        ranks.joined("auto"),
    ):
        pass
