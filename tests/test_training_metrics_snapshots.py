"""Metrics during training: measured at snapshots, the best kept, and the run left as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_run
from storage.errors import ConfigError
from storage.runs import MetricRecord, Run, record_metrics, recorded_metrics
from storage.store import Store
from training.checkpoint import read_state
from training.config import TrainConfig
from training.metrics import snapshots
from training.metrics.settings import EvaluateConfig
from training.tracking import Tracker

MEASURED: dict[str, Any] = {
    "metrics": ["fd_efficientnet_lite0"], "metrics_kimg": 0.008, "metrics_images": 3, "snapshot_kimg": 0.016,
    "keep_checkpoints": 1, "total_kimg": 0.032,
}  # fmt: skip


class Noted(Tracker):
    """Keeps what a tracker is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def log_tick(self, line: Mapping[str, float]) -> None:
        """Keep a line."""
        self.lines.append(dict(line))


def test_training_measures_itself_and_is_the_same_run(tmp_path: Path) -> None:
    """A run that is measured ends in the tensors of the run that is not, and the tracker has the values."""
    runs: list[tuple[Run, Noted]] = []
    for overrides in (MEASURED, {**MEASURED, "metrics": []}):
        store = Store(tmp_path / str(len(runs)))
        dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(13))
        tracker = Noted()
        runs.append((tiny_run.trained(store, dataset, tracker=tracker, **overrides), tracker))
    (measured, tracker), (plain, _) = runs
    states = [read_state(run.newest_checkpoint()) for run in (measured, plain)]
    assert states[0].sha256 == states[1].sha256
    values = [line for line in tracker.lines if "fd_efficientnet_lite0" in line]
    assert [line["num_images"] for line in values] == [8, 16, 24, 32]
    last = recorded_metrics(measured, measured.newest_checkpoint())["fd_efficientnet_lite0"]
    assert last.value == values[-1]["fd_efficientnet_lite0"]
    assert last.num_fakes == 3
    assert not (plain.folder / "metrics").exists()


def test_the_best_checkpoint_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keep_best, pruning spares the checkpoint with the best value, and the newest."""
    store = Store(tmp_path)
    values = iter([3.0, 1.0, 2.0, 4.0])

    def measured(
        run: Run, checkpoint: Path, config: EvaluateConfig, device: torch.device
    ) -> dict[str, MetricRecord]:
        records = {"fd_efficientnet_lite0": MetricRecord.new(value=next(values))}
        record_metrics(run, checkpoint, records)
        return records

    monkeypatch.setattr(snapshots, "evaluate", measured)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(13))
    run = tiny_run.trained(store, dataset, keep_best="fd_efficientnet_lite0", **MEASURED)
    assert [folder.name for folder in run.checkpoints()] == ["000000016", "000000032"]


def test_a_measurement_that_fails_does_not_end_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where values cannot be written, that is told of each checkpoint, and training goes on."""
    store = Store(tmp_path)
    run = tiny_run.untrained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(13)), **MEASURED)
    (run.folder / "metrics").write_text("no folder")
    tiny_run.finish(run)
    assert run.newest_checkpoint().name == "000000032"
    assert [message for message in caplog.messages if "measured" in message] == [
        f"checkpoint {num:09d} was not measured" for num in (8, 16, 24, 32)
    ]


def test_metrics_that_cannot_be_had_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that asks for absent weights, or keeps the best by what it does not measure, does not begin."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match="inception needs"):
        tiny_run.trained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(5)), metrics=["fid"])
    with pytest.raises(ValueError, match="keep_best fid is not among"):
        TrainConfig(keep_best="fid")
    with pytest.raises(ValueError, match="not made from w alone"):
        TrainConfig(generator="traditional", metrics=("ppl_w_full",))
