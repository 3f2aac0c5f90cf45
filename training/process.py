"""What a process that trains a run does: it takes device, images and tracker from the run's folder, and minds a stop.

Not here: the loop (`training.loop`), arguments (`training.__main__`), how several such processes are started
(`training.engine.ranks`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from storage.datasets.dataset import open_recorded
from storage.datasets.records import VersionSummary
from storage.errors import NotFoundError
from storage.lineage.openlineage import checkpoint_dataset, reported, training_job
from storage.runs import Run
from storage.store import Store
from training.config import TrainConfig
from training.data import RealImages
from training.engine.precompile import compiling_ahead, keep_compiled_in
from training.engine.ranks import joined
from training.labels import labels_of
from training.loop import train
from training.tracking import Tracker, open_tracker

log = logging.getLogger("training")


def train_aloud(*settings: Any) -> None:
    """Train a folder, and say on standard error how that goes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    train_folder(*settings)


def train_folder(
    folder: Path, tracking_uri: str | None, num_threads: int = 2, stop_with_parent: bool = False
) -> dict[str, Any]:
    """Train the run in `folder`, from its newest checkpoint if it has one; returns its result.

    ConfigError where another process is training it.
    """
    if not (folder / "run.json").is_file():
        raise NotFoundError(f"{folder} is no training run: it has no run.json")
    should_stop = StopRequest(stop_with_parent)
    run = Run(folder.resolve())
    config = TrainConfig.recorded(run.record.config_now, f"run {run.id}", exact=True)
    torch.set_num_threads(config.num_cpu_threads)
    keep_compiled_in(run.store)
    images = images_of(run, config, num_threads)
    images.check(config.resolution)
    with joined(config.device) as (ranks, device), compiling_ahead(run, config, ranks, device):
        if not ranks.is_first:
            ranks.any(False)  # until the first has looked at the checkpoints
            return train(run, config, images, device, Tracker(), should_stop, ranks)
        dataset = open_recorded(run.store, run.record.dataset, f"run {run.id}")
        with (
            run.locked(),
            open_tracker(run, tracking_uri) as tracker,
            reported(run.store, training_job(run, dataset)) as outcome,
        ):
            run.put_damaged_aside()
            ranks.any(False)
            result = train(run, config, images, device, tracker, should_stop, ranks)
            tracker.log_result(result, run.newest_checkpoint())
            outcome.outputs.append(checkpoint_dataset(run))
            outcome.facts |= {"numImages": result["num_images"], "stopped": result["stopped"]}
            outcome.stopped = result["stopped"]
    log.info("stopped at %.2f kimg" if result["stopped"] else "finished at %.2f kimg", result["kimg"])
    return result


def images_of(run: Run, config: TrainConfig, num_threads: int = 2) -> RealImages:
    """The dataset version a run names, in the store the run lies in."""
    return images_of_version(run.store, run.record.dataset, config, num_threads, f"run {run.id}")


def images_of_version(
    store: Store,
    version: VersionSummary,
    config: TrainConfig,
    num_threads: int = 2,
    who: str = "the training",
) -> RealImages:
    """A dataset version, as training by `config` reads it; IntegrityError where the one of `store` is another."""
    dataset = open_recorded(store, version, who)
    return RealImages(
        shard_paths=dataset.shard_paths,
        index_sha256s=[shard.index_sha256 for shard in dataset.manifest.shards],
        num_images=dataset.num_images,
        dataset_resolution=dataset.resolution,
        seed=config.seed,
        x_flips=config.x_flips,
        num_threads=num_threads,
        labels=labels_of(dataset, config),
        is_balanced=config.label_sampling == "balanced",
        keys=dataset.keys,
        whole_shards=store.mirror is None or dataset.num_bytes < store.mirror.room,
    )


class StopRequest:
    """Whether SIGTERM or Ctrl-C has come, or the process that started this one is gone."""

    def __init__(self, stop_with_parent: bool) -> None:
        self._came = False
        self._parent = os.getppid() if stop_with_parent else None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        """Asked after every step."""
        return self._came or (self._parent is not None and os.getppid() != self._parent)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True
