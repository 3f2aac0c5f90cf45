"""The flow `train`: a dataset reference in, a training run out, in a process of its own.

prefect deployment run train/train --param dataset=faces
"""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.operations.training_process import prepare_run, train_run, training_note
from flows.options import TrainOptions
from storage.runs import Run
from training.config import TrainConfig


@flow(name="train", description="Train a style-based GAN on a published dataset.")
def train(
    dataset: str | None = "faces",
    config: TrainConfig = TrainConfig(),
    options: TrainOptions = TrainOptions(),
    resume: str | None = None,
    init_from: str | None = None,
) -> dict[str, Any]:
    """Train on `dataset` (NAME or NAME@VERSION), or go on with the run `resume`, and return its summary.

    `init_from` names a run, a checkpoint or an import whose weights a new run begins with.
    """
    run = prepare_run(dataset if resume is None else None, config, options, resume, init_from)
    return train_task(run, options)


@task(name="train", task_run_name="train", cache_policy=NO_CACHE, persist_result=False)
def train_task(run: Run, options: TrainOptions) -> dict[str, Any]:
    """Follow the training process of a run, and show what it made."""
    bar = artifacts.ProgressArtifact("train-progress", run.id)

    def on_tick(row: dict[str, Any]) -> None:
        bar.update(
            row["kimg"],
            row["total_kimg"],
            f"{row['kimg']:.2f} of {row['total_kimg']:g} kimg  {training_note(row)}",
        )

    result = train_run(run, options, on_tick)
    artifacts.facts("training-run", f"Training run {run.id}", {**result, "folder": run.folder})
    artifacts.link("training-folder", f"Files of {run.id}", run.folder)
    grids = sorted(run.grids_dir.glob("*.png"))
    if grids:
        artifacts.picture("sample-grid", f"Samples of {run.id}", grids[-1])
    return result
