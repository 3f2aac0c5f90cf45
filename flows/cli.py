"""The command `likeness`: the configs as options, and the same functions that the flows run.

    likeness build --source folder:photos --name faces --resolution 256
    likeness train faces --preset smoke
    likeness generate RUN --seeds 0-15 --out grid.png

Results go to standard output, progress and errors to standard error. Not here: any work.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from flows.config import BuildOptions, RunOptions, StoreOptions, TrainOptions
from flows.generate import export, figure, generate, project, video
from flows.options import FLAT, DryRun, Json
from flows.output import print_value as _print
from flows.output import say as _say
from preprocessing.config import BuildConfig
from preprocessing.faces import FacesConfig
from storage.errors import ConfigError, EmptyDatasetError, PipelineError
from storage.runs import find_run
from storage.store import Store
from training.config import TrainConfig

if TYPE_CHECKING:  # what starts Dask is imported where it is needed
    from flows.build import Built

app = App(
    name="likeness",
    help="Face photographs into an FFHQ-like dataset and a style-based GAN, with the origin of every pixel on record.",
    version_flags=["--version"],
)


@app.command
def build(
    config: Annotated[BuildConfig, FLAT] = BuildConfig(),
    options: Annotated[BuildOptions, FLAT] = BuildOptions(),
    *,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Build a dataset version from photographs."""
    if dry_run:
        from flows.build import check_build

        check_build(config, Store(options.store))
        return _print({"config": config.resolved(), "options": options.model_dump(mode="json")}, json_)
    from flows.build import build as run_build
    from flows.build import run_with
    from flows.progress import bars, stage_report

    with _progress(json_) as console, bars(console) as progress:
        built = run_build(config, options, run_with(stage_report(progress)))
    if json_:
        return _print(built.summary(), json_)
    _say_built(built)


@app.command
def align(
    photos: Annotated[list[Path], Parameter(help="Photographs, as files.", negative="")],
    *,
    out: Annotated[Path, Parameter(help="Folder for the crops, made where it is not there.")],
    config: Annotated[FacesConfig, FLAT] = FacesConfig(),
    json_: Json = False,
) -> None:
    """Write the aligned faces of photographs as files: no store, no dataset, no curation."""
    from preprocessing.align_files import align_files

    min_quad_px = config.resolved().detect.min_quad_px
    assert min_quad_px is not None
    results = []
    for result in align_files(photos, out, config):
        results.append(result)
        if not json_:
            for line in result.lines(min_quad_px):
                _say(line)
    if json_:
        _print({"photos": [result.as_json() for result in results]}, json_)
    if not any(result.crops for result in results):
        raise EmptyDatasetError(f"no face was aligned: photographs looked at: {len(photos)}")


@app.command
def curate(
    dataset: Annotated[
        str | None,
        Parameter(help="NAME or NAME@VERSION; with --explain, the dataset whose records are told too."),
    ] = None,
    *,
    explain: Annotated[
        str | None,
        Parameter(
            help="Build nothing, but say why this photograph passes or not: a file, or an image's key, a ref or a "
            "sha256 in the store."
        ),
    ] = None,
    config: Annotated[BuildConfig, FLAT] = BuildConfig(),
    options: Annotated[BuildOptions, FLAT] = BuildOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Publish a dataset again by other --curate rules, decoding nothing; or explain one photograph's verdict.

    The rules are the ones given here, not those of the build with some replaced.
    """
    store = Store(options.store)
    if explain is not None:
        from preprocessing.explain import explain as explain_photo

        explanation = explain_photo(store, explain, config, dataset)
        if json_:
            return _print(explanation.as_json(), json_)
        for line in explanation.lines():
            _say(line)
        return None
    if dataset is None:
        raise ConfigError("a dataset is needed: likeness curate NAME, or likeness curate --explain PHOTO")
    from flows.curate import recurate, recuration

    version, config = recuration(store, dataset, config)
    if dry_run:
        resolved = {"dataset": version.reference, "config": config.resolved()}
        return _print({**resolved, "options": options.model_dump(mode="json")}, json_)
    from flows.build import run_with
    from flows.progress import bars, stage_report

    with _progress(json_) as console, bars(console) as progress:
        built = recurate(version, config, options, run_with(stage_report(progress)))
    decoded = built.record["timings"]["align"]["done"]
    if json_:
        return _print({**built.summary(), "of": version.reference, "decoded": decoded}, json_)
    _say_built(built)
    _say(
        f"  {decoded} photographs decoded again, since code, libraries or models have changed"
        if decoded
        else "  no photograph was decoded"
    )


@app.command
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
    from flows.progress import bars, training_note
    from flows.training_process import check_training, prepare_run, train_run

    if dry_run and resume is not None:
        record = find_run(Store(options.store), resume).record
        return _print({key: record[key] for key in ("run_id", "dataset", "config")}, json_)
    if dry_run:
        reference = check_training(Store(options.store), dataset, config, options).reference
        resolved = {"dataset": reference, "config": config.model_dump(mode="json")}
        return _print({**resolved, "options": options.model_dump(mode="json")}, json_)
    if prepare and resume is not None:
        raise ConfigError("--prepare makes a new run, and --resume goes on with one: leave one of them out")
    run = prepare_run(dataset, config, options, resume)
    if prepare and json_:
        return _print({"run": run.id, "folder": str(run.folder)}, json_)
    if prepare:
        _say(f"run {run.id}")
        return _say(f"  next: torchrun --nproc-per-node GPUS -m training {run.folder}")
    with _progress(json_) as console, bars(console) as progress:
        bar = progress.add_task(
            "train", total=run.record["config"]["total_kimg"], unit="kimg", note="starting"
        )

        def on_tick(row: dict[str, Any]) -> None:
            progress.update(bar, completed=round(row["kimg"], 2), note=training_note(row))

        try:
            result = train_run(run, options, on_tick)
        except (KeyboardInterrupt, SystemExit):
            print(f"likeness: stopped; likeness train --resume {run.id} goes on", file=sys.stderr)
            raise
    if json_:
        return _print(result, json_)
    _say(f"run {result['run']}{' (stopped early)' if result['stopped'] else ''}")
    _say(f"  {result['kimg']:.1f} kimg of {result['dataset']}, {result['seconds_per_kimg']:.1f} s/kimg")
    _say(f"  checkpoint {result['checkpoint']}")
    _say(f"  sample grids {run.grids_dir}; next: likeness generate {run.id} --out grid.png")


for command in (generate, figure, video, project, export):
    app.command(command)


@app.command
def trace(
    reference: Annotated[
        str,
        Parameter(
            help="A drawn or exported file, a checkpoint or run, a dataset (NAME or NAME@VERSION), an image's key, "
            "a photograph's file, URL or sha256."
        ),
    ],
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    limit: Annotated[int, Parameter(help="How many images of a dataset to print.")] = 5,
    json_: Json = False,
) -> None:
    """Say what something was made of, down to original photographs, by files alone."""
    from storage.lineage.trace import trace as trace_reference

    chain = trace_reference(Store(options.store), reference)
    if json_:
        return _print(chain.as_json(), json_)
    for line in chain.lines(limit):
        _say(line)


@app.command
def verify(
    dataset: Annotated[str, Parameter(help="NAME or NAME@VERSION.")],
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Check every hash of a dataset version: manifest, tables, shards, images, original photographs."""
    from storage.datasets.dataset import open_dataset
    from storage.datasets.verify import verify as verify_dataset
    from storage.errors import IntegrityError

    opened = open_dataset(Store(options.store), dataset)
    checked = verify_dataset(opened)
    if json_:
        _print({"dataset": opened.reference, **checked.as_json()}, json_)
    if checked.problems:
        raise IntegrityError("; ".join(checked.problems))
    if not json_:
        _say(f"{opened.reference} is intact: {checked.summary()}")


@app.command
def demo(
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
) -> None:
    """Run the whole pipeline once as Prefect flows, on the offline sample, and say where things are."""
    from flows.demo import run_demo

    for line in run_demo(RunOptions(store=options.store)):
        _say(line)


@app.command
def services(
    *,
    port: Annotated[int, Parameter(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, Parameter(help="Port of the MLflow page.")] = 5000,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
) -> None:
    """Start the Prefect server, the deployments, a worker for each pool, and MLflow, until Ctrl-C."""
    from flows.services import run_services

    run_services(port, mlflow_port, Store(options.store), _say)


@app.command
def deploy() -> None:
    """Make the work pools and the deployments of prefect.yaml, on the server that Prefect is configured for."""
    from flows.services import deploy as run_deploy

    run_deploy(dict(os.environ))


# Imported when asked for: they load torch.
app.command(
    "flows.evaluate:evaluate", name="evaluate", help="Measure a checkpoint: FID, path lengths and others."
)
app.command("flows.evaluate:audit", name="audit", help="Look for near-copies of training crops among fakes.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a PipelineError or a wrong option prints one sentence and exits 1."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except (PipelineError, CycloptsError, pydantic.ValidationError) as error:
        if debug:
            traceback.print_exc()
        print(f"likeness: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:  # as of `likeness trace faces | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def _terminate(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM as on Ctrl-C, so that what was started is stopped too."""
    raise SystemExit(128 + number)


def build_dataset_main() -> None:
    """`build-dataset ...`: run the deployment of that name, with every flag passed on to Prefect."""
    os.execv(
        sys.executable,
        [sys.executable, "-m", "prefect", "deployment", "run", "build-dataset/build-dataset", *sys.argv[1:]],
    )


@contextmanager
def _progress(quiet: bool) -> Iterator[Console]:
    yield Console(stderr=True, quiet=quiet)


def _sentence(error: Exception) -> str:
    """An error in one line: for a wrong setting its field and what is valid."""
    cause = error if isinstance(error, pydantic.ValidationError) else error.__cause__
    if isinstance(cause, pydantic.ValidationError):
        problems = []
        for problem in cause.errors(include_url=False):
            field = ".".join(str(part).replace("_", "-") for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            given = "" if isinstance(problem["input"], dict) else f" (given {problem['input']!r})"
            problems.append(f"--{field}: {message}{given}" if field else message)
        return "; ".join(problems)
    return " ".join(str(error).split())


def _say_built(built: Built) -> None:
    """A finished build in a few lines."""
    summary = built.summary()
    state = "unchanged, as the build before it" if summary["unchanged"] else "new"
    _say(f"dataset {built.dataset.reference} ({state})")
    _say(f"  {summary['images']} images of {summary['photos']} photographs in {summary['shards']} shards")
    for reason, count in summary["rejected"].items():
        _say(f"  {count} rejected: {reason}")
    _say(f"  contact sheet {built.contact_sheet}")
    _say(f"  report {built.report}")
    _say(f"  took {summary['seconds']:.1f} s; next: likeness train {built.dataset.name} --preset smoke")


if __name__ == "__main__":
    main()
