"""The command `likeness train`. Not here: any work."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from flows.cli.output import console, print_resolved, print_value, say, warn
from flows.cli.parameters import FLAT, DryRun, Json
from flows.options import TrainOptions
from storage.errors import ConfigError
from storage.store import Store
from training.config import TrainConfig


def train(
    dataset: Annotated[str | None, Parameter(help="NAME or NAME@VERSION; not needed with --resume.")] = None,
    *,
    config: Annotated[TrainConfig, FLAT] = TrainConfig(),
    options: Annotated[TrainOptions, FLAT] = TrainOptions(),
    resume: Annotated[str | None, Parameter(help="Go on with this run, by its id or folder.")] = None,
    prepare: Annotated[
        bool, Parameter(help="Make the run's folder only: torchrun trains it on several machines.")
    ] = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Train a style-based GAN on a dataset, in a process of its own."""
    from flows.cli.progress import bars
    from flows.operations.training_process import (
        check_training,
        prepare_run,
        resumed_run,
        train_run,
        training_note,
    )

    store = Store(options.store)
    if dry_run and resume is not None:
        found, going_on = resumed_run(store, resume, dataset, config)
        about = found.record.model_dump(include={"run_id", "dataset"})
        return print_value({**about, "config": going_on.model_dump(mode="json")}, json_)
    if dry_run:
        reference = check_training(store, dataset, config, options).reference
        return print_resolved(json_, config, options, dataset=reference)
    if prepare and resume is not None:
        raise ConfigError("--prepare makes a new run, and --resume goes on with one: leave one of them out")
    run = prepare_run(dataset, config, options, resume)
    if prepare and json_:
        return print_value({"run": run.id, "folder": str(run.folder)}, json_)
    if prepare:
        say(f"run {run.id}")
        return say(f"  next: torchrun --nproc-per-node GPUS -m training {run.folder}")
    if run.finished() is not None and not json_:
        total_kimg = run.record.config_now["total_kimg"]
        return say(f"run {run.id}: nothing left to do of its {total_kimg:g} kimg; --total-kimg extends it")
    with bars(console(json_)) as progress:
        bar = progress.add_task(
            "train", total=run.record.config_now["total_kimg"], unit="kimg", note="starting"
        )

        def on_tick(row: dict[str, Any]) -> None:
            progress.update(bar, completed=round(row["kimg"], 2), note=training_note(row))

        try:
            result = train_run(run, options, on_tick)
        except (KeyboardInterrupt, SystemExit):
            warn(f"stopped; likeness train --resume {run.id} goes on")
            raise
    if json_:
        return print_value(result, json_)
    say(f"run {result['run']}{' (stopped early)' if result['stopped'] else ''}")
    say(f"  {result['kimg']:.1f} kimg of {result['dataset']}, {result['seconds_per_kimg']:.1f} s/kimg")
    say(f"  checkpoint {result['checkpoint']}")
    say(f"  sample grids {run.grids_dir}; next: likeness generate {run.id} --out grid.png")
