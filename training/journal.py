"""What a training run leaves in its folder: a line a tick, checkpoints with their sample grids, and how it ended.

Read by people, by the flow that watches the run and by `likeness trace`. Not here: when it is written
(`training.loop`), a checkpoint's files (`training.checkpoint`), metrics (`training.metrics.evaluate`).
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch

from storage.datasets.records import VersionName
from storage.local import send, write_whole
from storage.promotions import kept_checkpoints
from storage.runs import Run, RunResult
from training.checkpoint import checkpoint_name, prune_checkpoints, save_checkpoint
from training.drawing.images import images_from_seeds
from training.drawing.pictures import write_grid
from training.drawing.trained import grid_metadata
from training.engine.state import Tally, Training
from training.metrics.evaluate import best_checkpoint
from training.networks import Generator
from training.schedule import Stage
from training.tracking import Tracker

log = logging.getLogger(__name__)


def write_tick(run: Run, training: Training, tally: Tally, stage: Stage, tracker: Tracker) -> None:
    """Add a line to stats.jsonl, of a tally that has ended."""
    seconds = training.seconds - tally.seconds_before
    line: dict[str, Any] = {
        "num_images": training.num_images,
        "kimg": training.num_images / 1000,
        "total_kimg": training.config.total_kimg,
        "resolution": stage.resolution,
        "lod": stage.lod,
        "batch_size": stage.batch_size,
        **tally.means(),
        "augment_p": float(training.augmentation.p),
        "skipped_steps": int(tally.skipped),
        "seconds_per_kimg": seconds / tally.images * 1000,
        "images_per_second": tally.images / seconds,
        "seconds": training.seconds,
    }
    with run.stats_path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    send(run.stats_path)
    penalty = line.get("gradient_penalty" if training.config.loss == "wgan_gp" else "r1")
    log.info(
        "%.2f of %g kimg  %dpx  G %.3f  D %.3f  penalty %s  %.1f s/kimg",
        line["kimg"], line["total_kimg"], stage.resolution, line["loss_g"], line["loss_d"],
        "-" if penalty is None else f"{penalty:.4f}",  # a lazy one may have had no step of these
        line["seconds_per_kimg"],
    )  # fmt: skip
    tracker.log_tick(line)


def forget_later_stats(path: Path, num_images: int) -> None:
    """Drop the lines a killed session wrote after the checkpoint it is resumed from."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    write_whole(path, b"".join(line for line in lines if _num_images(line) <= num_images))


def _num_images(line: bytes) -> float:
    """Where a line of statistics stands; beyond all images for one that was cut short by a kill."""
    try:
        return float(json.loads(line)["num_images"]) if line.endswith(b"\n") else math.inf
    except ValueError:
        return math.inf


def write_snapshot(run: Run, training: Training, tracker: Tracker) -> None:
    """Write a checkpoint and its sample grid."""
    name = checkpoint_name(training.num_images)
    folder = run.checkpoints_dir / name
    lineage = {
        "run_id": run.id,
        "dataset": run.record.dataset.model_dump(include=set(VersionName.model_fields)),
    }
    state = save_checkpoint(folder, training.networks, training.optimizers, {**lineage, **training.state()})
    best = best_checkpoint(run, training.config.keep_best) if training.config.keep_best else None
    promoted = [run.checkpoints_dir / kept for kept in kept_checkpoints(run.store, run.id)]
    kept = [*promoted, *([best] if best else [])]
    prune_checkpoints(run.checkpoints(), training.config.keep_checkpoints, kept)
    grid = run.grids_dir / f"{name}.png"
    _write_grid(grid, training, grid_metadata(folder, state))
    tracker.log_snapshot(folder, grid, training.num_images)


def _write_grid(path: Path, training: Training, metadata: dict[str, Any]) -> None:
    """Draw the averaged generator's images of fixed seeds."""
    training.show_present_lod()
    config = training.config
    has_w = isinstance(training.generator_ema, Generator)
    psi = config.truncation_psi if has_w else 1.0
    columns = 8 if config.resolution <= 256 else 4
    seeds = range(columns * columns // 2)
    num_labels = len(config.label_values)
    labels = [seed * num_labels // len(seeds) for seed in seeds] if num_labels else None
    images = images_from_seeds(
        training.generator_ema, seeds, psi, truncation_cutoff=config.truncation_cutoff, labels=labels
    )
    shown = {**metadata, "seeds": list(seeds), "truncation_psi": psi}
    if labels:
        shown["labels"] = [config.label_values[label] for label in labels]
    write_grid(images, path, shown, columns=columns)


def write_result(run: Run, training: Training, stopped: bool) -> dict[str, Any]:
    """How far the run came and what it left; the first rank writes it as result.json."""
    kimg = training.num_images / 1000
    newest = run.newest_checkpoint().name
    gpu = torch.cuda.get_device_name(training.device) if training.device.type == "cuda" else None
    result = RunResult.new(
        run_id=run.id,
        stopped=stopped,
        num_images=training.num_images,
        kimg=kimg,
        checkpoint=newest,
        grid=f"{run.grids_dir.name}/{newest}.png",
        seconds=training.seconds,
        seconds_per_kimg=training.seconds / kimg,
        device=gpu or training.device.type,
        num_processes=training.ranks.world,
    )
    if training.ranks.is_first:
        write_whole(run.result_path, result.as_bytes())
    return result.as_json()
