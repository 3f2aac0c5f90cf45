"""Train a run in a process of its own: start it, or go on from its newest checkpoint.

    python -m training store/runs/20261123-101500-faces-smoke-3f2a
    torchrun --nproc-per-node 2 -m training store/runs/20261123-101500-faces-smoke-3f2a

The folder's run.json says what to train on and how. SIGTERM and Ctrl-C write a checkpoint and end with status 0;
the same command then goes on. What this process does is followed through the files it writes.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from storage.errors import NotFoundError, PipelineError
from storage.runs import Run
from training.config import TrainConfig
from training.data import RealImages
from training.loop import train
from training.precompile import compiling_ahead, keep_compiled
from training.ranks import joined
from training.tracking import Tracker, open_tracker

log = logging.getLogger("training")


def main(arguments: list[str] | None = None) -> int:
    """Train and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a run, or go on with it.")
    parser.add_argument("run_folder", type=Path, help="folder that holds run.json")
    parser.add_argument("--tracking-uri", help='MLflow address, or "none" (default: the store\'s mlflow.db)')
    parser.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 4), help="threads that decode images"
    )
    parser.add_argument(
        "--stop-with-parent",
        action="store_true",
        help="write a checkpoint and end when the starting process is gone",
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        train_folder(given.run_folder, given.tracking_uri, given.workers, given.stop_with_parent)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def train_folder(
    folder: Path, tracking_uri: str | None, num_threads: int = 2, stop_with_parent: bool = False
) -> dict[str, Any]:
    """Train the run in `folder`, from its newest checkpoint if it has one; returns its result.

    ConfigError where another process is training it.
    """
    if not (folder / "run.json").is_file():
        raise NotFoundError(f"{folder} is no training run: it has no run.json")
    should_stop = _StopRequest(stop_with_parent)
    run = Run(folder.resolve())
    config = TrainConfig.model_validate(run.record["config"])
    torch.set_num_threads(config.num_cpu_threads)
    keep_compiled(run)
    images = images_of(run, config, num_threads)
    images.check(config.resolution)
    with joined(config.device) as (ranks, device), compiling_ahead(run, config, ranks, device):
        if not ranks.is_first:
            return train(run, config, images, device, Tracker(), should_stop, ranks)
        with run.locked(), open_tracker(run, tracking_uri) as tracker:
            result = train(run, config, images, device, tracker, should_stop, ranks)
            tracker.log_result(result, run.newest_checkpoint())
    log.info("stopped at %.2f kimg" if result["stopped"] else "finished at %.2f kimg", result["kimg"])
    return result


def images_of(run: Run, config: TrainConfig, num_threads: int = 2) -> RealImages:
    """The dataset version a run names, in the store the run lies in."""
    dataset = run.record["dataset"]
    folder = run.store.root / dataset["directory"]
    return RealImages(
        shard_paths=[folder / shard for shard in dataset["shards"]],
        num_images=dataset["num_images"],
        dataset_resolution=dataset["resolution"],
        seed=config.seed,
        x_flips=config.x_flips,
        num_threads=num_threads,
    )


class _StopRequest:
    """Whether SIGTERM or Ctrl-C has come, or the process that started this one is gone."""

    def __init__(self, stop_with_parent: bool) -> None:
        self._came = False
        self._parent = os.getppid() if stop_with_parent else None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        return self._came or (self._parent is not None and os.getppid() != self._parent)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True


if __name__ == "__main__":
    sys.exit(main())
