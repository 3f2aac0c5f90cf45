"""The flow `train`: a dataset reference in, a training run out, in a process of its own.

    prefect deployment run train/train --param dataset=faces

A flow run remembers the training run that it began: when it is retried, by Prefect or by a person, it goes on with that
one from its newest intact checkpoint.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from prefect.tasks import Task

from flows import artifacts
from flows.given import given_in_form
from flows.operations.fetched import newer_version, on_this_machine
from flows.operations.training_process import (
    finished_already,
    how_far,
    prepare_run,
    resume_command,
    tracker_page,
    train_run,
    training_note,
)
from flows.options import TrainOptions
from storage.errors import KilledError, TrainingError
from storage.runs import Run, run_of_flow
from storage.store import Store
from training.config import TrainConfig

RETRIES = 2
"""How often a training that a signal killed goes on by itself."""
RETRY_DELAY_S = 10.0


@flow(name="train", description="Train a style-based GAN on a published dataset.")
def train(
    dataset: str | None = "faces",
    config: TrainConfig = TrainConfig(),
    options: TrainOptions = TrainOptions(),
    resume: str | None = None,
    init_from: str | None = None,
    only_latest: bool = False,
    unless_trained: bool = False,
) -> dict[str, Any] | State[Any]:
    """Train on a dataset, or go on with a run, and return its summary.

    Args:
        dataset: NAME or NAME@VERSION of what to train on.
        config: How to train: a preset, and what is to be otherwise. With resume, what is given is applied or refused.
        options: Where it runs.
        resume: A run to go on with, by its id or folder. Retry of a flow run needs none: it goes on by itself.
        init_from: A run, a checkpoint's folder or an import whose weights a new run begins with.
        only_latest: Train nothing where a newer version of the name was published before this run could begin.
        unless_trained: Train nothing where a finished run has learned from this version by these settings.
    """
    began, options = str(runtime.flow_run.root_flow_run_id), on_this_machine(options)
    run = run_of_flow(Store(options.store), began)
    if run is not None:
        get_run_logger().info("going on with %s, which this flow run began, %s", run.id, how_far(run))
    else:
        if only_latest and dataset is not None and (newer := newer_version(Store(options.store), dataset)):
            return Completed(name="Skipped", message=f"{dataset} is not trained on: {newer} is newer.")
        is_plain = dataset is not None and resume is None and init_from is None
        if unless_trained and is_plain and (done := finished_already(dataset, config, options)) is not None:
            return Completed(name="Skipped", message=f"{dataset} is trained on already: run {done.id}.")
        if resume is not None:
            dataset, config = given_in_form(dataset, config)
        run = prepare_run(dataset, config, options, resume, init_from, began)
    of, preset = run.record.dataset, run.record.config["preset"]
    artifacts.describe(
        f"{of.name}@{of.version[:4]} {preset}", dataset=of.name, version=of.version, preset=preset, run=run.id
    )
    return train_task(run, options)


def was_killed(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a training ended in a way that is worth another attempt."""
    return isinstance(state.result(raise_on_failure=False), KilledError)


@task(
    name="train",
    task_run_name="train",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_S,
    retry_condition_fn=was_killed,
)
def train_task(run: Run, options: TrainOptions) -> dict[str, Any]:
    """Follow the training process of a run, and show what it made, whether it ends well or not."""
    bar = artifacts.ProgressArtifact("train-progress", run.id)

    def on_tick(row: dict[str, Any]) -> None:
        bar.update(
            row["kimg"],
            row["total_kimg"],
            f"{row['kimg']:.2f} of {row['total_kimg']:g} kimg  {training_note(row)}",
        )

    try:
        result = train_run(run, options, on_tick, get_run_logger().warning)
    except TrainingError as error:
        ended = {"why": error, "how far": how_far(run), "folder": run.folder, "goes on": resume_command(run)}
        artifacts.facts("training-ended", f"Training run {run.id} ended", ended)
        raise
    else:
        artifacts.facts("training-run", f"Training run {run.id}", {**result, "folder": run.folder})
        return result
    finally:
        _show(run)


def _show(run: Run) -> None:
    """Where a run's files and curves are, and its newest samples."""
    artifacts.link("training-folder", f"Files of {run.id}", run.folder, run.store)
    if (page := tracker_page(run)) is not None:
        artifacts.page_link("mlflow-run", f"{run.id} in MLflow", page)
    grids = sorted(run.grids_dir.glob("*.png"))
    if grids:
        artifacts.picture("sample-grid", f"Samples of {run.id}", grids[-1])
