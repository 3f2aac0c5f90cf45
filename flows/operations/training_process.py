"""Training as its own process: start it for a run, follow its statistics, pass on a stop, check its result.

A process of its own keeps a GPU's memory and a crash away from the orchestrator, and starts one for each GPU.
Not here: training (`training.loop`), Prefect (`flows.train`).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.operations.fetched import fetch_version
from flows.operations.gpus import Held, cards
from flows.options import MLFLOW_URL, TrainOptions
from storage.datasets.dataset import Dataset, open_part
from storage.digest import json_digest
from storage.errors import ConfigError, KilledError, ServiceError, TrainingError
from storage.imports import known_import
from storage.local import send
from storage.runs import (
    DISK_FULL,
    UNREACHED,
    InitFrom,
    Run,
    RunResult,
    create_run,
    find_checkpoint,
    find_run,
    list_runs,
)
from storage.store import Store
from training.config import CHANGEABLE, TrainConfig, changed
from training.data import RealImages, check_resolution
from training.labels import labelled

log = logging.getLogger(__name__)

POLL_S = 0.5
STOP_S = 120.0
"""How long a stopped process may take to write its checkpoint before it is killed."""

OnTick = Callable[[dict[str, Any]], None]


def prepare_run(
    dataset: str | None,
    config: TrainConfig,
    options: TrainOptions,
    resume: str | None,
    init_from: str | None = None,
    flow_run_id: str | None = None,
    why: str | None = None,
) -> Run:
    """A new run of `dataset`, or the one that `resume` names; everything checkable is checked here.

    `init_from` names a run, a checkpoint or an import whose weights a new run begins with. A new run remembers the flow
    run that begins it, and `why`.
    """
    store = Store(options.store)
    if resume is not None and init_from is not None:
        raise ConfigError("init_from begins a new run, and --resume goes on with one: leave one of them out")
    if init_from is not None and known_import(store, init_from) is None:
        find_checkpoint(store, init_from)  # a wrong name is told before torch is loaded
    if resume is None:
        if dataset is not None:
            dataset = fetch_version(store, dataset, options.pull_from)
        opened = check_training(store, dataset, config, options)
        config, source = begun_with(store, labelled(opened, config), init_from)
        resolved = config.model_dump(mode="json")
        return create_run(store, opened.summary(), resolved, options.processes, source, flow_run_id, why)
    run, going_on = resumed_run(store, resume, dataset, config)
    given = going_on.model_dump(mode="json", include=config.model_fields_set & CHANGEABLE)
    if run.finished() is not None and going_on.total_kimg <= run.record.config_now["total_kimg"]:
        return run.changed(given, run.record.processes_now)
    check_processes(going_on, options)
    return run.changed(given, options.processes)


def begun_with(
    store: Store, config: TrainConfig, init_from: str | None
) -> tuple[TrainConfig, InitFrom | None]:
    """The config of a run that begins with other networks, and what is on record of them."""
    if init_from is None:
        if config.freeze_d:
            raise ConfigError(f"freeze_d {config.freeze_d} keeps layers as they were: it needs --init-from")
        return config, None
    from training.initial import open_source

    source = open_source(store, init_from)
    return source.fitted(config), source.record


def resumed_run(
    store: Store, resume: str, dataset: str | None, config: TrainConfig
) -> tuple[Run, TrainConfig]:
    """The run that `resume` names and the config that it goes on with: its own, and what was given in `config`.

    ConfigError where it is no run of `dataset`, if that is given, and for what it cannot go on with.
    """
    run = find_run(store, resume)
    trained_on, who = run.record.dataset, f"run {run.id}"
    given = None if dataset is None else open_part(store, dataset)
    if given is not None and (given.version, given.split) != (trained_on.version, trained_on.split):
        raise ConfigError(
            f"{who} is of {trained_on.part}, not of {dataset}: leave the dataset out to go on with it"
        )
    own = TrainConfig.recorded(run.record.config_now, who, exact=True)
    going_on = changed(own, config, who)
    shown_kimg = int(run.checkpoints()[-1].name) / 1000 if run.checkpoints() else 0.0
    if going_on.total_kimg != own.total_kimg and going_on.total_kimg < shown_kimg:
        raise ConfigError(
            f"total_kimg {going_on.total_kimg:g} is less than the {shown_kimg:g} kimg that {who} has been shown"
        )
    return run, going_on


def check_training(store: Store, dataset: str | None, config: TrainConfig, options: TrainOptions) -> Dataset:
    """The dataset to train on, if this config can be trained on it here."""
    if dataset is None:
        raise ConfigError("a dataset is needed: likeness train NAME, or --resume RUN to go on with a run")
    opened = open_part(store, dataset)
    check_resolution(opened.resolution, config.resolution)
    check_processes(config, options)
    return opened


def finished_already(dataset: str | None, config: TrainConfig, options: TrainOptions) -> Run | None:
    """The finished run of this dataset by these settings, if there is one."""
    store = Store(options.store)
    dataset = None if dataset is None else fetch_version(store, dataset, options.pull_from)
    opened = check_training(store, dataset, config, options)
    known = known_run(store, opened, labelled(opened, config))
    return known if known is not None and known.finished() is not None else None


def known_run(store: Store, dataset: Dataset, asked: TrainConfig) -> Run | None:
    """The newest run of a version by the same settings; where it starts is its first weights' doing."""
    wanted = asked.model_dump(mode="json")
    for run in reversed(list_runs(store)):
        record = run.record
        learned = (record.dataset.manifest_sha256, record.dataset.split)
        if learned != (dataset.manifest_sha256, dataset.split):
            continue
        has = record.config_now
        if record.init_from is not None:
            has = {**has, "start_resolution": wanted["start_resolution"]}
        if json_digest(has) == json_digest(wanted):
            return run
    return None


def planned_training(
    dataset: str | None, config: TrainConfig, options: TrainOptions, resume: str | None, reads: bool
) -> tuple[TrainConfig, int, RealImages | None]:
    """The config of a training, how many images it has been shown, and, if it `reads` them, its images."""
    store = Store(options.store)
    num_images = 0
    if resume is not None:
        run, config = resumed_run(store, resume, dataset, config)
        num_images = int(run.checkpoints()[-1].name) if run.checkpoints() else 0
        summary = run.record.dataset
    elif reads or dataset is not None:
        opened = check_training(store, dataset, config, options)
        config, summary = labelled(opened, config), opened.summary()
    if not reads:
        return config, num_images, None
    from training.engine.precompile import keep_compiled_in
    from training.process import images_of_version

    keep_compiled_in(store)
    return config, num_images, images_of_version(store, summary, config, options.workers or 2)


def check_processes(config: TrainConfig, options: TrainOptions) -> None:
    """Raise ConfigError, or DeviceError, unless so many processes can train by `config` on this machine."""
    from training.engine import (
        ranks,
    )  # torch, which takes seconds to import: what is wrong by name is told before

    ranks.check_processes(config, options.processes)


def train_run(
    run: Run, options: TrainOptions, on_tick: OnTick, on_wait: Callable[[str], None] = log.warning
) -> dict[str, Any]:
    """Train a run to its end, from its newest intact checkpoint if it has one, and return what it came to.

    A run with nothing left to do starts no process. Calls `on_tick` with each new line of statistics, and `on_wait`
    where the GPUs of this machine are all in use. TrainingError carries the process's last words, or the signal that
    killed it. Whatever ends this function ends the process too: it is told to stop, and has time to save.
    """
    if (finished := run.finished()) is not None:
        return _summary(run, finished)
    with run.locked():  # asked here too, for an error of its own
        run.put_damaged_aside()
    on_cards = run.record.config_now["device"] in ("auto", "cuda")
    with cards(options.processes, on_wait, names=None if on_cards else ()) as held:
        returncode, log_start = _trained(run, options, on_tick, held)
    if returncode != 0:
        close_tracked(run)
        raise ended(run, returncode, log_start)
    return _summary(run, run.result)


def _trained(run: Run, options: TrainOptions, on_tick: OnTick, held: Held) -> tuple[int, int]:
    """Start the process of a run and follow it; its status, and where in the run's log its own words begin."""
    command = [sys.executable, "-m", "training", str(run.folder), "--stop-with-parent"]
    if options.processes > 1:
        command += ["--processes", str(options.processes)]
    if options.workers is not None:
        command += ["--workers", str(options.workers)]
    if options.tracking_uri is not None:
        command += ["--tracking-uri", options.tracking_uri]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **held.environment}
    with run.log_path.open("ab") as words:
        log_start = words.tell()
        process = subprocess.Popen(
            command, stdout=words, stderr=words, env=environment, pass_fds=held.descriptors
        )
        try:
            for row in _follow(run, process):
                on_tick(row)
        finally:
            stop_process(process, STOP_S)
            try:
                send(run.log_path)
            except ServiceError as error:  # it is here; what is told is why the process ended
                log.warning("the log is not in the store: %s", error)
    return process.returncode, log_start


def ended(run: Run, returncode: int, log_start: int) -> TrainingError:
    """Why a training process ended without a result, how far it was, and how to go on."""
    who = f"training of {run.id}"
    if returncode == DISK_FULL:
        return TrainingError(
            f"{who} ended: there is no room left to write in {run.folder}, {how_far(run)}; once there is, "
            f"{resume_command(run)} goes on"
        )
    if returncode == UNREACHED:
        return TrainingError(
            f"{who} ended, {how_far(run)}: {_last_words(run.log_path, log_start)}; {resume_command(run)} goes on"
        )
    if returncode > 0:
        return TrainingError(f"{who} failed: {_last_words(run.log_path, log_start)}")
    name = signal.Signals(-returncode).name
    why = f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return KilledError(f"{who} was killed by {why}, {how_far(run)}; {resume_command(run)} goes on")


def how_far(run: Run) -> str:
    """How far a run has come by its statistics, and where it goes on."""
    saved = int(run.checkpoints()[-1].name) / 1000 if run.checkpoints() else 0.0
    return f"at {shown_kimg(run):g} of {run.record.config_now['total_kimg']:g} kimg, {saved:g} of them saved"


def shown_kimg(run: Run) -> float:
    """The thousands of images that a run has been shown, by its last whole line of statistics."""
    if not run.stats_path.exists():
        return 0.0
    data = run.stats_path.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return float(json.loads(lines[-1])["kimg"]) if lines else 0.0


def resume_command(run: Run) -> str:
    """What goes on with a run, typed wherever its store is not the usual one."""
    store = run.store
    place = "" if store.root == Path("store").resolve() else f" --store {store}"
    return f"likeness train --resume {run.id}{place}"


def close_tracked(run: Run) -> None:
    """Have a tracker know that a run's process has ended, where it could not say so itself."""
    from training.tracking import close_ended

    close_ended(run)


def tracker_page(run: Run) -> str | None:
    """Where a browser finds a run at its tracker, if it is tracked and a server shows it."""
    from training.tracking import page_of

    return page_of(run, os.environ.get(MLFLOW_URL))


def _summary(run: Run, result: RunResult) -> dict[str, Any]:
    """What a run came to, for who asked for the training."""
    return {
        "run": run.id,
        "dataset": run.record.dataset.part,
        "kimg": result.kimg,
        "checkpoint": str(run.checkpoints_dir / result.checkpoint),
        "seconds_per_kimg": result.seconds_per_kimg,
        "stopped": result.stopped,
    }


def _follow(run: Run, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """The new lines of statistics, until the process ends.

    Lines are told apart by their image count: a resumed run first drops those after its checkpoint.
    """
    seen = int(run.checkpoints()[-1].name) if run.checkpoints() else 0
    size = -1
    ended = False
    while not ended:
        ended = process.poll() is not None  # asked before reading, so that the last lines are read too
        if run.stats_path.exists() and run.stats_path.stat().st_size != size:
            data = run.stats_path.read_bytes()
            size = len(data)
            for line in data[: data.rfind(b"\n") + 1].splitlines():
                row = json.loads(line)
                if row["num_images"] > seen:
                    seen = row["num_images"]
                    yield row
        if not ended:
            time.sleep(POLL_S)


def stop_process(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Ask a process to end, insist after `patience_s`, and return when it has ended."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it printed nothing'} (all of it in {log})"


def training_note(row: dict[str, Any]) -> str:
    """A training tick in a few words."""
    return (
        f"{row['resolution']}px  G {row['loss_g']:.2f}  D {row['loss_d']:.2f}  "
        f"{row['seconds_per_kimg']:.1f} s/kimg"
    )
