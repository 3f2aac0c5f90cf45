"""The training loop: the one function that puts schedule, images, losses, checkpoints and records together.

It does no mathematics of its own and starts no process; `python -m training` calls it. Everything is counted in
real images shown, and everything random is drawn from (seed, images shown), so that a run that was stopped and
resumed is, on a CPU, bit for bit the run that was not. Not here: what a step is (`training.engine.state`), what is
written down (`training.journal`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.errors import IntegrityError, NotFoundError, TrainingError
from storage.local import delete
from storage.runs import Run
from training.checkpoint import checkpoint_name
from training.config import TrainConfig
from training.data import RealImages, Shown
from training.engine.ranks import GROUP, Ranks
from training.engine.state import ALONE, Training, colours_first
from training.initial import take_first_weights
from training.journal import forget_later_stats, write_result, write_snapshot, write_tick
from training.metrics.snapshots import SnapshotMetrics
from training.schedule import Stage, stage_at
from training.tracking import Tracker

log = logging.getLogger(__name__)


def train(
    run: Run,
    config: TrainConfig,
    images: RealImages,
    device: torch.device,
    tracker: Tracker,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train `run` to its end, from its newest checkpoint if it has one, and return what result.json says.

    When `should_stop` says so, a checkpoint is written after the step in hand, and the result is marked stopped. An
    image that cannot be read (IntegrityError, NotFoundError) ends training likewise, and then with its error. Of
    several ranks, each calls this; the first one writes.
    """
    images.check(config.resolution)
    ranks.check(config)
    measure = SnapshotMetrics(run, config, device)
    training = Training.begin(config, device, ranks)
    if checkpoints := run.checkpoints():
        training.load(checkpoints[-1])
        log.info("going on from %s", checkpoints[-1])
    else:
        take_first_weights(training, run)
    if ranks.is_first:
        delete(run.result_path)
        forget_later_stats(run.stats_path, training.num_images)

    reals: Iterator[Shown] | None = None
    unreadable: IntegrityError | NotFoundError | None = None
    stopped = has_stepped = False
    while training.num_images < config.total_kimg * 1000:
        begun = time.perf_counter()
        before = training.num_images
        stage = stage_at(config, before)
        if stage.resolution != training.resolution or reals is None:
            own = ranks.rows(stage.batch_size)
            reals = images.stream(before, stage.resolution, batch_size=stage.batch_size, rows=own)
        try:
            batch = next_batch(reals, stage.batch_size // ranks.world, device)
        except (IntegrityError, NotFoundError) as error:
            unreadable = error
        if ranks.any(unreadable is not None or (has_stepped and should_stop())):
            stopped = True
            break

        training.enter(stage)
        with memory_told(training, stage):
            training.step(stage, *batch)
        has_stepped = True
        finished = training.num_images >= config.total_kimg * 1000
        tick = finished or _crosses(before, training.num_images, config.tick_kimg)
        measured = bool(config.metrics) and (
            finished or _crosses(before, training.num_images, config.metrics_kimg)
        )
        snapshot = finished or measured or _crosses(before, training.num_images, config.snapshot_kimg)
        if tick or snapshot:
            training.check_health()  # a GPU is waited for here, and so its time is in the seconds of the step
        training.seconds += time.perf_counter() - begun

        if tick and (tally := training.end_tally()) and ranks.is_first:
            write_tick(run, training, tally, stage, tracker)
        if snapshot and ranks.is_first:
            write_snapshot(run, training, tracker)
        if measured and ranks.is_first:
            measure(run.newest_checkpoint(), training.num_images, tracker)
        if measured:
            ranks.any(False)  # others wait here, where waiting has no end, and not for a GPU
    if stopped:
        begun = time.perf_counter()
        training.check_health()
        training.seconds += time.perf_counter() - begun
        is_kept = checkpoint_name(training.num_images) in {path.name for path in run.checkpoints()}
        if ranks.is_first and has_stepped and not is_kept:
            write_snapshot(run, training, tracker)
    ranks.any(False)  # until the first has written
    if unreadable is not None:
        raise unreadable
    return write_result(run, training, stopped)


def next_batch(reals: Iterator[Shown], num: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The next `num` real images (N, 3, R, R), uint8, mirrored as the stream says, and their labels (N,)."""
    shown = list(islice(reals, num))
    batch = torch.from_numpy(np.stack([image.pixels for image in shown]))
    is_mirrored = torch.tensor([image.is_mirrored for image in shown])
    label_N = torch.tensor([image.label for image in shown])
    if device.type == "cuda":
        batch, is_mirrored, label_N = (x.pin_memory() for x in (batch, is_mirrored, label_N))
    batch, is_mirrored, label_N = (x.to(device, non_blocking=True) for x in (batch, is_mirrored, label_N))
    return colours_first(torch.where(is_mirrored[:, None, None, None], batch.flip(2), batch)), label_N


@contextmanager
def memory_told(training: Training, stage: Stage) -> Iterator[None]:
    """Turn what a GPU without room says into one line that says what to set."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        now = training.images_at_once(stage)
        less = max(GROUP, now // 2 // GROUP * GROUP)
        say = f"--images-per-pass.{stage.resolution} {less} takes less and trains the same"
        if now <= GROUP:
            say = "fewer are not possible: choose a lower resolution or channel_base"
        raise TrainingError(
            f"{now} images of {stage.resolution} px at once need more memory than {training.device} has free: {say}"
        ) from error


def _crosses(before: int, after: int, interval_kimg: float) -> bool:
    """Whether a multiple of the interval lies in (before, after]."""
    return after // (interval_kimg * 1000) > before // (interval_kimg * 1000)
