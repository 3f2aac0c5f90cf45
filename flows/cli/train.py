"""The command `likeness train`. Not here: any work."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.cli.output import answer, console, print_resolved, print_value, say, warn
from flows.cli.parameters import FLAT, DryRun, Json
from flows.options import TrainOptions
from storage.errors import ConfigError
from storage.store import Store
from training.config import TrainConfig
from training.labels import labelled


def train(
    dataset: Annotated[str | None, Parameter(help="NAME or NAME@VERSION; not needed with --resume.")] = None,
    *,
    config: Annotated[TrainConfig, FLAT] = TrainConfig(),
    options: Annotated[TrainOptions, FLAT] = TrainOptions(),
    resume: Annotated[str | None, Parameter(help="Go on with this run, by its id or folder.")] = None,
    init_from: Annotated[
        str | None,
        Parameter(
            help="Begin with the weights of a run, of one of its checkpoints' folders or of an import, also of another "
            "resolution; unless --start-resolution is given, at the highest that both have."
        ),
    ] = None,
    prepare: Annotated[
        bool, Parameter(help="Make the run's folder only: torchrun trains it on several machines.")
    ] = False,
    estimate: Annotated[
        Literal["table", "probe"] | None,
        Parameter(
            help="Say what the run would take, and stop: by a table of one H100, or by a probe of this machine, which "
            "takes a minute a resolution after compiling."
        ),
    ] = None,
    price: Annotated[float | None, Parameter(help="With --estimate: the price of a GPU's hour.")] = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Train a style-based GAN on a dataset, in a process of its own."""
    if price is not None and estimate is None:
        raise ConfigError("--price is for --estimate: table or probe")
    from flows.cli.progress import bars
    from flows.operations.training_process import (
        begun_with,
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
        opened = check_training(store, dataset, config, options)
        reference = opened.summary().part
        config, source = begun_with(store, labelled(opened, config), init_from)
        begins = {} if source is None else {"init_from": source.folder}
        return print_resolved(json_, config, options, dataset=reference, **begins)
    if estimate is not None:
        return _say_estimate(dataset, config, options, resume, estimate == "probe", price, json_)
    if prepare and resume is not None:
        raise ConfigError("--prepare makes a new run, and --resume goes on with one: leave one of them out")
    run = prepare_run(dataset, config, options, resume, init_from)
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
            result = train_run(run, options, on_tick, warn)
        except (KeyboardInterrupt, SystemExit):
            warn(f"stopped; likeness train --resume {run.id} goes on")
            raise
    if json_:
        return print_value(result, json_)
    say(f"run {result['run']}{' (stopped early)' if result['stopped'] else ''}")
    say(f"  {result['kimg']:.1f} kimg of {result['dataset']}, {result['seconds_per_kimg']:.1f} s/kimg")
    say(f"  checkpoint {result['checkpoint']}")
    say(f"  sample grids {run.grids_dir}; next: likeness generate {run.id} --out grid.png")


def _say_estimate(
    dataset: str | None,
    config: TrainConfig,
    options: TrainOptions,
    resume: str | None,
    probes: bool,
    price: float | None,
    json_: bool,
) -> None:
    """What training would take: a line a kind of step, and the sum."""
    from flows.operations.training_process import planned_training
    from training.estimate import TABLE_GPU, Kind, Rate, estimate, kinds_of, of_table

    run_config, num_images, images = planned_training(dataset, config, options, resume, probes)
    kinds = kinds_of(run_config, num_images)
    if images is None:
        rates = {kind: of_table(run_config, kind.stage, options.processes) for kind in kinds}
        device = TABLE_GPU
    else:
        from training.engine.probe import device_name, probe

        def told(kind: Kind, rate: Rate, compiling_s: float) -> None:
            warn(
                f"{_kind_name(kind.stage.resolution, kind.stage.lod % 1 > 0)} probed; first step {compiling_s:.0f} s"
            )

        rates = probe(run_config, kinds, images, processes=options.processes, on_kind=told)
        device = device_name(run_config)
    said = estimate(run_config, rates, processes=options.processes, num_images=num_images, price=price)
    by = "probed here" if probes else "by the table, not of this machine"
    lines = [
        f"{_kind_name(level['resolution'], level['fades']):<16}{level['kimg']:>9.1f} kimg"
        f"{level['seconds_per_kimg']:>9.2f} s/kimg{_duration(level['hours']):>10}{_size(level['memory_bytes']):>10}"
        for level in said["levels"]
    ]
    lines.append(
        f"{said['kimg']:.1f} kimg: {_duration(said['hours'])} on {options.processes} x {device} ({by}), "
        "without compiling"
    )
    cost = "" if price is None else f", cost {said['cost']:.2f}"
    lines.append(f"memory of a GPU {_size(said['memory_bytes'])}, disk {_size(said['disk_bytes'])}{cost}")
    answer(json_, {"device": device, "probed": probes, "processes": options.processes, **said}, *lines)


def _kind_name(resolution: int, fades: bool) -> str:
    return f"{resolution} px{' fading in' if fades else ''}"


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "-"
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes < 2**30 else f"{num_bytes / 2**30:.1f} GiB"
