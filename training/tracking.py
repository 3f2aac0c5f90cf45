"""What a training run tells an experiment tracker: MLflow, or nothing.

The tracker is a mirror for people to look at. The run folder is the record: all that is sent from here is in its
files too, so a tracker that fails after its start is reported and training goes on.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.errors import ServiceError
from storage.local import write_whole
from storage.records import StoredRecord
from storage.runs import Run
from training.checkpoint import STATE

log = logging.getLogger(__name__)

EXPERIMENT = "likeness"
DIGEST_CHARACTERS = 36
"""MLflow keeps no more of a dataset's digest; the whole sha256 is a tag beside it."""

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class TrackedRun(StoredRecord):
    """Which run of a tracker mirrors a run, for whoever goes on with it: mlflow.json says."""

    tracking_uri: str
    experiment_id: str | None = None
    run_id: str


class Tracker:
    """A tracker that keeps nothing; the base of the one that does."""

    def log_tick(self, line: Mapping[str, Any]) -> None:
        """Take a line of stats.jsonl."""

    def log_snapshot(self, checkpoint: Path, grid: Path, num_images: int) -> None:
        """Take a new checkpoint's state and its sample grid."""

    def log_result(self, result: Mapping[str, Any], checkpoint: Path) -> None:
        """Take the end of the run and its last checkpoint's files."""


class MlflowTracker(Tracker):
    """Sends a run to MLflow; use `open_tracker`."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def log_tick(self, line: Mapping[str, Any]) -> None:
        """Each number of the line as a metric; the step is the number of images."""
        from mlflow.entities import Metric

        now_ms, step = _now_ms(), int(line["num_images"])
        metrics = [Metric(name, float(value), now_ms, step) for name, value in line.items()]
        self._try("metrics", lambda: self._client.log_batch(self._run_id, metrics=metrics))

    def log_snapshot(self, checkpoint: Path, grid: Path, num_images: int) -> None:
        """The grid, and state.json under the checkpoint's name."""
        self._artifact(grid, "grids")
        self._artifact(checkpoint / STATE, f"checkpoints/{checkpoint.name}")

    def log_result(self, result: Mapping[str, Any], checkpoint: Path) -> None:
        """result.json's content and every file of the last checkpoint."""
        self._try("result", lambda: self._client.log_dict(self._run_id, dict(result), "result.json"))
        for path in sorted(checkpoint.iterdir()):
            self._artifact(path, f"checkpoints/{checkpoint.name}")

    def close(self, status: str) -> None:
        """End the MLflow run as FINISHED, KILLED or FAILED."""
        self._try("status", lambda: self._client.set_terminated(self._run_id, status))

    def _artifact(self, path: Path, folder: str) -> None:
        self._try(path.name, lambda: self._client.log_artifact(self._run_id, str(path), folder))

    def _try(self, what: str, send: Callable[[], None]) -> None:
        """Send, or warn that the tracker did not take it: a mirror must not end days of training."""
        try:
            send()
        except Exception:
            log.warning("MLflow did not take %s; the run folder has it", what, exc_info=True)


@contextmanager
def open_tracker(run: Run, uri: str | None) -> Iterator[Tracker]:
    """The tracker of a run: MLflow at `uri`, at the store's own SQLite file for None, nothing for "none".

    A resumed run goes on with its MLflow run, whose id is kept in the run folder. ServiceError where MLflow
    cannot be reached at the start.
    """
    if uri == "none":
        yield Tracker()
        return
    tracker = _begin(run, uri or default_uri(run))
    status = "FAILED"
    try:
        yield tracker
        status = "KILLED" if run.result.stopped else "FINISHED"
    finally:
        tracker.close(status)


def default_uri(run: Run) -> str:
    """The SQLite database of the run's store."""
    return f"sqlite:///{run.store.root / 'mlflow.db'}"


def _begin(run: Run, uri: str) -> MlflowTracker:
    """Open the run's MLflow run, or go on with it."""
    _make_quiet()
    path = run.folder / "mlflow.json"
    known = TrackedRun.read(path) if path.exists() else None
    try:
        client = _client(uri)
        experiment_id = _experiment_id(client, run, uri)
        if known is not None and known.tracking_uri == uri:
            client.update_run(known.run_id, status="RUNNING")
            for name, value in _changes(run).items():
                client.set_tag(known.run_id, name, value)
            return MlflowTracker(client, known.run_id)
        mlflow_run_id = client.create_run(experiment_id, run_name=run.id).info.run_id
        _describe(client, mlflow_run_id, run)
    except Exception as error:
        raise ServiceError(f"MLflow at {uri} cannot be used: {_first_line(error)}") from error
    tracked = TrackedRun.new(tracking_uri=uri, experiment_id=experiment_id, run_id=mlflow_run_id)
    write_whole(path, tracked.as_bytes())
    return MlflowTracker(client, mlflow_run_id)


def _client(uri: str) -> Any:
    """A client of its own, which leaves MLflow's global tracking address alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside MLflow's own imports
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


def _experiment_id(client: Any, run: Run, uri: str) -> str:
    """The experiment's id; its artifacts lie in the store, unless a server keeps them."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    root = None if uri.startswith(("http://", "https://")) else (run.store.root / "mlartifacts").as_uri()
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=root))
    except MlflowException:
        found = client.get_experiment_by_name(EXPERIMENT)  # another run has just created it
        if found is None:
            raise
        return str(found.experiment_id)


def _describe(client: Any, mlflow_run_id: str, run: Run) -> None:
    """Log what determines the run: its config, its code, and its dataset version as an input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    config, dataset = run.record.config, run.record.dataset
    params = [Param(name, value) for name, value in flattened(config).items()]
    facts = {"config_sha256": run.record.config_sha256, **run.record.facts.model_dump(), **_changes(run)}
    tags = [RunTag(name, value) for name, value in flattened(facts).items()]
    client.log_batch(mlflow_run_id, params=params, tags=tags)
    client.log_dict(mlflow_run_id, config, "config.json")
    version = Dataset(
        name=dataset.name,
        digest=dataset.manifest_sha256[:DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": dataset.directory}),
        profile=json.dumps({"num_images": dataset.num_images, "resolution": dataset.resolution}),
    )
    about = {
        "version": dataset.version,
        "manifest_sha256": dataset.manifest_sha256,
        "mlflow.data.context": "training",
    }
    client.log_inputs(mlflow_run_id, [DatasetInput(version, [InputTag(k, v) for k, v in about.items()])])


def _changes(run: Run) -> dict[str, str]:
    """What a run went on with otherwise than it was begun, as tags: MLflow never changes a parameter."""
    record = run.record
    if not record.changes:
        return {}
    changes = [change.as_json() for change in record.changes]
    return {"changes": json.dumps(changes), "config_sha256": record.changes[-1].config_sha256}


def flattened(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as text under dotted names."""
    flat: dict[str, str] = {}
    for key, entry in value.items():
        name = f"{prefix}{key}"
        flat |= flattened(entry, f"{name}.") if isinstance(entry, Mapping) else {name: str(entry)}
    return flat


def _make_quiet() -> None:
    """Keep MLflow off the network and its migrations out of the log; what the user has set stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _now_ms() -> int:
    from mlflow.utils.time import get_current_time_millis

    return int(get_current_time_millis())


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
