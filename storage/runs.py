"""Training runs on disk: one folder a run, its record, its checkpoints and grids, found by id or by path.

Not here: what a checkpoint holds (`training.checkpoint`), or how a run is made to happen.

    run = find_run(store, "20261123-101500-faces-smoke-3f2a")
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from storage.bundled.generator import BUNDLED, check_reserved
from storage.datasets.records import VersionName, VersionSummary
from storage.digest import file_digest, json_digest
from storage.environment import Facts, run_facts
from storage.errors import ConfigError, IntegrityError, NotFoundError, PipelineError
from storage.local import fail, here, listed, rename_folder, write_whole
from storage.promotions import named_champion
from storage.records import FileName, Inside, Part, Sha256, StoredRecord, json_object
from storage.store import Store

logger = logging.getLogger(__name__)

DISK_FULL = os.EX_IOERR
"""The status of a training process that a full disk has ended, whose last words may have found no room either."""
UNREACHED = os.EX_UNAVAILABLE
"""The status of one that a server has ended, as that of its store: it refused, or was silent for too long."""


class RunChange(Part):
    """What a run went on with otherwise than before."""

    changed_at: str
    num_images: int
    """Real images shown by then."""
    config: dict[str, Any] = Field({})
    """The settings that changed, as they are from then on."""
    config_sha256: str
    """Of the whole config from then on."""
    processes: int | None = None
    """How many train together from then on, where that changed."""


class InitFrom(Part):
    """Whose weights a run begins with: those of a checkpoint, or of an import."""

    folder: str
    """Where they lie: below the store if it holds them."""
    sha256: dict[str, str]
    """Of each file of weights, by name."""
    run_id: str | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    dataset_manifest_sha256: str | None = None
    imported: str | None = None
    file_sha256: str | None = None
    license: str | None = None


class RunRecord(StoredRecord):
    """What was asked of a run: dataset, resolved config, facts of the code and the machine; and what changed since."""

    run_id: str
    kind: str = "training"
    created_at: str
    dataset: VersionSummary
    config: dict[str, Any]
    """As the run was begun."""
    config_sha256: str
    processes: int = 1
    """How many were to train together when the run was begun."""
    init_from: InitFrom | None = None
    """Where its first weights come from, unless they are random."""
    flow_run_id: str | None = None
    """The flow run of Prefect that began it, the outermost one, which goes on with it when it is retried."""
    why: str | None = None
    """What it was begun for, where a retraining began it."""
    changes: list[RunChange] = Field([])
    """Oldest first."""
    facts: Facts

    @property
    def config_now(self) -> dict[str, Any]:
        """The config with every change."""
        return reduce(lambda config, change: {**config, **change.config}, self.changes, self.config)

    @property
    def processes_now(self) -> int:
        """How many train together, as far as is on record."""
        return next((c.processes for c in reversed(self.changes) if c.processes is not None), self.processes)

    @model_validator(mode="after")
    def _is_whole(self) -> RunRecord:
        """Refuse a config that is not the one its hash is of, as it was begun or after any change."""
        config, sha256 = self.config, self.config_sha256
        for change in [None, *self.changes]:
            if change is not None:
                config, sha256 = {**config, **change.config}, change.config_sha256
            if json_digest(config) != sha256:
                raise ValueError("its config is not the one that its config_sha256 is of")
        return self


class CheckpointState(StoredRecord):
    """What state.json says to whoever follows a checkpoint; `training.checkpoint.State` is all that it says."""

    num_images: int
    """Real images shown so far."""
    sha256: dict[FileName, Sha256]
    """Of each file beside it, by name."""
    run_id: str | None = None
    dataset: VersionName | None = None


class RunResult(StoredRecord):
    """How far a run came, and what it left."""

    run_id: str | None = None
    stopped: bool = False
    """Whether it was asked to end before its time."""
    num_images: int
    kimg: float
    checkpoint: FileName
    """The newest one's name."""
    grid: Inside | None = None
    seconds: float | None = None
    seconds_per_kimg: float
    device: str | None = None
    num_processes: int = 1


class MetricRecord(StoredRecord):
    """What was measured of a checkpoint under one name: a value, and what it depends on."""

    value: float
    extractor: str | None = None
    weights_sha256: str | None = None
    resize: str | None = None
    seconds: float | None = None
    num_reals: int | None = None
    num_fakes: int | None = None
    checkpoint: str | None = None
    generator_sha256: str | None = None
    dataset_manifest_sha256: str | None = None
    resolution: int | None = None
    lod: float | None = None
    truncation_psi: float | None = None
    mirrors_reals: bool | None = None
    label: str | None = None
    """Of what images, where it is of those of one label."""
    seed: int | None = None
    device: str | None = None
    torch: str | None = None


@dataclass(frozen=True)
class Run:
    """One training run: `folder` is <store>/runs/<run id>."""

    folder: Path

    @property
    def id(self) -> str:
        """The run's id, which is its folder's name."""
        return self.folder.name

    @property
    def store(self) -> Store:
        """The store that the run lies in."""
        return Store(self.folder.parent.parent)

    @cached_property
    def record(self) -> RunRecord:
        """What was asked for."""
        return RunRecord.read(self.folder / "run.json")

    @property
    def checkpoints_dir(self) -> Path:
        """A folder a checkpoint, named by the images shown so far."""
        return self.folder / "checkpoints"

    @property
    def grids_dir(self) -> Path:
        """Sample grids, named like the checkpoints."""
        return self.folder / "grids"

    @property
    def stats_path(self) -> Path:
        """A JSON line a tick."""
        return self.folder / "stats.jsonl"

    @property
    def result_path(self) -> Path:
        """How the run ended."""
        return self.folder / "result.json"

    @property
    def result(self) -> RunResult:
        """How the run ended; NotFoundError while it has not."""
        return RunResult.read(self.result_path)

    @property
    def log_path(self) -> Path:
        """What the training process printed."""
        return self.folder / "log.txt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the run's only trainer; ConfigError where another process is. The lock ends with its process."""
        with self.store.locked(f"runs/{self.id}/lock", wait=False) as is_mine:
            if not is_mine:
                raise ConfigError(
                    f"run {self.id} is being trained by another process: wait for it or stop it"
                )
            yield

    def finished(self) -> RunResult | None:
        """How a run ended that has shown all its images; None where some are left to show."""
        if not self.result_path.is_file():
            return None
        result = self.result
        is_left = result.stopped or result.kimg < self.record.config_now["total_kimg"]
        return None if is_left else result

    def changed(self, config: Mapping[str, Any], processes: int) -> Run:
        """The run with what is new put on record: settings of its config, and how many processes train it.

        ConfigError where it is being trained.
        """
        with self.locked():
            record = RunRecord.read(self.folder / "run.json")
            now = record.config_now
            new = {name: value for name, value in config.items() if name not in now or now[name] != value}
            if not new and processes == record.processes_now:
                return self
            checkpoints = self.checkpoints()
            change = RunChange(
                changed_at=datetime.now(UTC).isoformat(timespec="seconds"),
                num_images=int(checkpoints[-1].name) if checkpoints else 0,
                config_sha256=json_digest({**now, **new}),
                **({"config": new} if new else {}),
                **({"processes": processes} if processes != record.processes_now else {}),
            )
            written = record.model_copy(update={"changes": [*record.changes, change]})
            write_whole(self.folder / "run.json", written.as_bytes())
        return Run(self.folder)

    def checkpoints(self, refused: Callable[[OSError], None] = fail) -> list[Path]:
        """Complete checkpoints, oldest first; `refused` as of `listed`."""
        return [path.parent for path in listed(self.checkpoints_dir, "[0-9]*/state.json", refused)]

    def put_damaged_aside(self) -> None:
        """Rename newest checkpoints that cannot be gone on with, each with a warning, so that the newest is intact.

        IntegrityError, and nothing is renamed, where none is intact. Not while the run is trained.
        """
        damaged: list[tuple[Path, PipelineError]] = []
        for folder in reversed(listed(self.checkpoints_dir, "[0-9]*")):
            try:
                check_checkpoint(folder)
                break
            except (IntegrityError, NotFoundError) as error:
                damaged.append((folder, error))
        else:
            if damaged:
                raise IntegrityError(
                    f"{damaged[0][1]}, and run {self.id} has no other checkpoint that is intact"
                )
        for folder, problem in damaged:
            aside = rename_folder(folder, f"damaged-{folder.name}-{secrets.token_hex(2)}")
            logger.warning(
                "%s: it is put aside as %s, and the one before it is gone on from", problem, aside.name
            )

    def newest_checkpoint(self) -> Path:
        """The checkpoint to generate from or to resume; NotFoundError where none was written."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            raise NotFoundError(f"run {self.id} has no checkpoint yet")
        return checkpoints[-1]

    def checkpoint(self, name: str | None) -> Path:
        """The checkpoint of a name, or the newest; NotFoundError lists what there is."""
        if name is None:
            return self.newest_checkpoint()
        kept = {path.name: path for path in self.checkpoints()}
        if name not in kept:
            there = ", ".join(kept) or "none"
            raise NotFoundError(f"run {self.id} has no checkpoint {name!r} (kept are {there})")
        return kept[name]


def check_checkpoint(folder: Path) -> None:
    """IntegrityError where a checkpoint's files are not those that were written; NotFoundError for its state.json."""
    for name, sha256 in CheckpointState.read(folder / "state.json").sha256.items():
        path = here(folder / name)
        if not path.is_file() or file_digest(path) != sha256:
            raise IntegrityError(f"{path} is missing or no longer has its recorded sha256")


def create_run(
    store: Store,
    dataset: VersionSummary,
    config: Mapping[str, Any],
    processes: int = 1,
    init_from: InitFrom | None = None,
    flow_run_id: str | None = None,
    why: str | None = None,
) -> Run:
    """Make a run's folder and write its record; nothing is trained yet."""
    created = datetime.now(UTC)
    stamp = created.strftime("%Y%m%d-%H%M%S")
    run_id = f"{stamp}-{dataset.name}-{config['preset']}-{secrets.token_hex(2)}"
    record = RunRecord.new(
        run_id=run_id,
        kind="training",
        created_at=created.isoformat(timespec="seconds"),
        dataset=dataset,
        config=dict(config),
        config_sha256=json_digest(config),
        processes=processes,
        **({"init_from": init_from} if init_from else {}),
        **({"flow_run_id": flow_run_id} if flow_run_id else {}),
        **({"why": why} if why else {}),
        facts=run_facts(),
    )
    with store.in_use():
        store.put(f"runs/{run_id}/run.json", record.as_bytes())
    return Run(store.path(f"runs/{run_id}"))


def list_runs(store: Store, refused: Callable[[OSError], None] = fail) -> list[Run]:
    """Every run of the store, oldest first; `refused` as of `listed`."""
    return [Run(path.parent) for path in listed(store.path("runs"), "*/run.json", refused)]


def run_of_flow(store: Store, flow_run_id: str) -> Run | None:
    """The run that a flow run of Prefect began, if it came so far."""
    runs = reversed(list_runs(store))
    return next((run for run in runs if run.record.flow_run_id == flow_run_id), None)


def stored_run(store: Store, run_id: str) -> Run:
    """The run of the store that has this id; NotFoundError where there is none."""
    if not store.exists(f"runs/{run_id}/run.json"):
        raise NotFoundError(f"no training run {run_id!r} in {store}")
    return Run(store.file(f"runs/{run_id}"))


def find_run(store: Store, reference: str) -> Run:
    """The run that an id or a path of its folder names, or NAME:champion; NotFoundError lists the newest ids."""
    if reference == BUNDLED:
        check_reserved(store)
        raise ConfigError(
            f"{BUNDLED!r} is the generator in the box: it draws, and has no run here to measure or to go on with"
        )
    folder = Path(reference)
    if (folder / "run.json").is_file():
        return Run(folder.resolve())
    if (champion := named_champion(store, reference)) is not None:
        return stored_run(store, champion.run_id)
    if re.fullmatch(r"[\w.-]+", reference) and store.exists(f"runs/{reference}/run.json"):
        return Run(store.path(f"runs/{reference}"))
    known = [run.id for run in list_runs(store)][-5:]
    there = f"the newest runs there are {', '.join(known)}" if known else "it holds no run yet"
    raise NotFoundError(f"no training run {reference!r} in {store}: {there}")


def find_checkpoint(store: Store, reference: str, name: str | None = None) -> Path:
    """The checkpoint that a run and perhaps a name mean, or that `reference` is itself, wherever its folder lies."""
    folder = Path(reference)
    if name is None and (champion := named_champion(store, reference)) is not None:
        name = champion.checkpoint
    if reference == BUNDLED or not (folder / "state.json").is_file():
        return find_run(store, reference).checkpoint(name)
    if name is not None:
        raise ConfigError(f"{reference} is a checkpoint itself: name its run, or not {name!r} beside it")
    return folder


def metrics_path(run: Run, checkpoint: Path) -> Path:
    """Where a checkpoint's metrics are on record."""
    return run.folder / "metrics" / f"{checkpoint.name}.json"


def recorded_metrics(run: Run, checkpoint: Path) -> dict[str, MetricRecord]:
    """What was measured of a checkpoint so far, by the metric's name."""
    path = metrics_path(run, checkpoint)
    if not path.is_file():
        return {}
    records = {}
    for name, value in json_object(path.read_bytes(), path).items():
        if not isinstance(value, dict):
            raise IntegrityError(f"{path} is damaged: {name} is no record")
        records[name] = MetricRecord.of_value(value, f"{name} in {path}")
    return records


def record_metrics(run: Run, checkpoint: Path, records: Mapping[str, MetricRecord]) -> None:
    """Add to what was measured of a checkpoint."""
    path = metrics_path(run, checkpoint)
    merged = {**recorded_metrics(run, checkpoint), **records}
    values = {name: record.as_json() for name, record in sorted(merged.items())}
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())
