"""The golden store after a kill between any two writes: every reader accepts what is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from golden_store import ANNA, CPU, FIRST, GOLDEN, publishing
from storage.datasets.dataset import Dataset, dataset_names, open_dataset
from storage.datasets.verify import verify
from storage.lineage.trace import trace
from storage.runs import (
    MetricRecord,
    Run,
    create_run,
    list_runs,
    record_metrics,
    recorded_metrics,
)
from storage.store import Store
from training.config import TrainConfig
from training.drawing.trained import load_generator
from training.engine.state import Training
from training.journal import forget_later_stats, write_result, write_snapshot
from training.metrics.evaluate import best_checkpoint
from training.tracking import Tracker


class Killed(BaseException):
    """No code of ours catches it."""


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> bool:
    """Whether the process that does `work` dies before its file or folder of that number has its name.

    What it had written lies where a kill leaves it.
    """
    written, replace, link = 0, os.replace, os.link

    def counted(source: Path, target: Path) -> None:
        nonlocal written
        written += 1
        if written == number:
            replace(source, Path(source).with_name(".left.partial"))
            raise Killed
        replace(source, target)

    def linked(source: Path, target: Path) -> None:
        nonlocal written
        if Path(target).suffix != ".partial" and Path(target).parent.is_dir():
            written += 1
            if written == number:
                raise Killed
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted)
        patch.setattr(os, "link", linked)
        try:
            work()
        except Killed:
            return True
    return False


def all_is_accepted(store: Store, *, is_run: bool) -> None:
    """Every reader takes everything that the store says it has; networks are loaded where a run was written to."""
    for name in dataset_names(store):
        assert open_dataset(store, name).builds()
    for path in store.path("datasets").glob("*/*/manifest.json"):
        dataset = Dataset(store, path.parents[1].name, path.parent.name)
        assert verify(dataset).problems == []
        trace(store, str(dataset.folder))
    assert trace(store, ANNA).images
    for run in list_runs(store):
        trace(store, run.id)
        best_checkpoint(run, "fd_efficientnet_lite0")
        for checkpoint in run.checkpoints():
            trace(store, str(checkpoint))
            recorded_metrics(run, checkpoint)
            if is_run:
                load_generator(checkpoint, CPU)
        for grid in run.grids_dir.glob("*.png"):
            trace(store, str(grid))
        if run.result_path.exists():
            assert run.result.num_images
        if run.checkpoints() and is_run:
            config = TrainConfig.model_validate(run.record.config)
            Training.begin(config, CPU).load(run.newest_checkpoint())
            forget_later_stats(run.stats_path, 96)


def snapshotting(run: Run) -> None:
    """Write a checkpoint of the run, where only one may stay, and its end."""
    config = TrainConfig.model_validate({**run.record.config, "keep_checkpoints": 1})
    training = Training.begin(config, CPU)
    training.load(run.newest_checkpoint())
    training.num_images += 8
    write_snapshot(run, training, Tracker())
    write_result(run, training, stopped=True)


def measuring(run: Run) -> None:
    """Put a metric of the newest checkpoint on record."""
    record_metrics(run, run.newest_checkpoint(), {"fid": MetricRecord.new(value=1.0)})


WORK: dict[str, tuple[int, Callable[[Store], object]]] = {
    "a new dataset": (14, lambda store: publishing(store, "other")),
    "a dataset again": (14, lambda store: publishing(store, "golden")),
    "a new run": (
        1,
        lambda store: create_run(store, open_dataset(store, FIRST).summary(), {"preset": "smoke"}),
    ),
    "a snapshot": (5, lambda store: snapshotting(list_runs(store)[0])),
    "a resumption": (1, lambda store: forget_later_stats(list_runs(store)[0].stats_path, 64)),
    "metrics": (1, lambda store: measuring(list_runs(store)[0])),
}


@pytest.mark.parametrize("what", WORK)
def test_a_kill_between_two_writes_leaves_what_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whichever of its files a process dies at, all that is in the store then is read, and the work can be done."""
    num_written, work = WORK[what]
    for number in count(1):
        store = Store(shutil.copytree(GOLDEN / "store", tmp_path / str(number)))
        was_killed = killed_at(number, monkeypatch, partial(work, store))
        all_is_accepted(store, is_run="dataset" not in what)
        if not was_killed:
            break
        work(store)
    assert number == num_written + 1
