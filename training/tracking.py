"""What a training run tells an experiment tracker: MLflow, or nothing.

The tracker is a mirror for people to look at. The run folder is the record: all that is sent from here is in its
files too, so a tracker that fails after its start is reported and training goes on.
"""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from storage.config import tracking_address
from storage.errors import ServiceError
from storage.local import write_whole
from storage.promotions import CHAMPION
from storage.records import StoredRecord
from storage.runs import Run

log = logging.getLogger(__name__)

EXPERIMENT = "likeness"
TRACKED = "mlflow.json"
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


WAITS_S = (5.0, 10.0, 20.0)
"""How long a server that does not answer at a run's start is waited for, again and again."""


PAUSE = 20.0
"""How many times as long as a failed call took none is made: a server that hangs costs a twentieth of the time."""
MOST_PENDING, MOST_AT_ONCE = 50_000, 1_000
"""Metrics that are kept for a server that does not answer, and that MLflow takes in one call."""


class _SilentError(ServiceError):
    """A tracker does not answer, or refuses."""


class TrackedRun(StoredRecord):
    """Which run of a tracker mirrors a run, for whoever goes on with it: mlflow.json says."""

    tracking_uri: str
    experiment_id: str | None = None
    run_id: str
    ended: bool = False
    """Whether the tracker was told that the run's process has ended."""


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

    def __init__(self, client: Any, run_id: str, run: Run) -> None:
        self._client = client
        self._run_id = run_id
        self._run = run
        self._constant = constants(run.record.config_now)
        self._pending: list[Any] = []
        self._asked_again_at = 0.0

    def log_tick(self, line: Mapping[str, Any]) -> None:
        """Each number of the line that may change as a metric; the step is the number of images."""
        from mlflow.entities import Metric

        now_ms, step = _now_ms(), int(line["num_images"])
        changing = {name: value for name, value in line.items() if name not in self._constant}
        self._pending += [Metric(name, float(value), now_ms, step) for name, value in changing.items()]
        del self._pending[:-MOST_PENDING]
        self._send_metrics()

    def _send_metrics(self) -> None:
        """Send what is pending; it stays so where the server does not take it."""
        while self._pending and self._try(
            "metrics",
            lambda: self._client.log_batch(self._run_id, metrics=self._pending[:MOST_AT_ONCE]),
            is_kept=True,
        ):
            del self._pending[:MOST_AT_ONCE]

    def log_snapshot(self, checkpoint: Path, grid: Path, num_images: int) -> None:
        """The grid, and state.json under the checkpoint's name."""
        self._artifact(grid, "grids")
        self._artifact(checkpoint / "state.json", f"checkpoints/{checkpoint.name}")

    def log_result(self, result: Mapping[str, Any], checkpoint: Path) -> None:
        """What is pending, result.json's content, and every file of the last checkpoint."""
        self._asked_again_at = 0.0
        self._send_metrics()
        self._try("result", lambda: self._client.log_dict(self._run_id, dict(result), "result.json"))
        for path in sorted(checkpoint.iterdir()):
            self._artifact(path, f"checkpoints/{checkpoint.name}")
        if not result.get("stopped"):
            self._try("registered model", lambda: self._register(checkpoint.name))

    def _register(self, checkpoint: str) -> None:
        """Make a finished run's last checkpoint a version of the model that is called as its dataset."""
        from mlflow.exceptions import MlflowException

        record = self._run.record
        try:
            self._client.create_registered_model(record.dataset.name)
        except MlflowException:
            self._client.get_registered_model(
                record.dataset.name
            )  # raises what was wrong, unless it is there already
        source = f"{self._client.get_run(self._run_id).info.artifact_uri}/checkpoints/{checkpoint}"
        known = self._client.search_model_versions(f"run_id = '{self._run_id}'")
        if source not in {version.source for version in known}:
            tags = {
                "dataset": record.dataset.reference,
                "manifest_sha256": record.dataset.manifest_sha256,
                "run": self._run.id,
                "checkpoint": checkpoint,
                **flow_run_tags(record.flow_run_id),
            }
            self._client.create_model_version(record.dataset.name, source, run_id=self._run_id, tags=tags)

    def close(self, status: str) -> bool:
        """End the MLflow run as FINISHED, KILLED or FAILED; whether MLflow took it."""
        self._asked_again_at = 0.0
        return self._try("status", lambda: self._client.set_terminated(self._run_id, status))

    def _artifact(self, path: Path, folder: str) -> None:
        self._try(path.name, lambda: self._client.log_artifact(self._run_id, str(path), folder))

    def _try(self, what: str, send: Callable[[], None], *, is_kept: bool = False) -> bool:
        """Send, or warn that it was not taken: a mirror must neither end days of training nor hold them up.

        For a while after a failure nothing is sent, which is told of what is not kept until later.
        """
        began = time.monotonic()
        if began < self._asked_again_at:
            if not is_kept:
                log.warning("MLflow, which did not answer, was not sent %s; the run folder has it", what)
            return False
        try:
            send()
        except Exception:
            now = time.monotonic()
            self._asked_again_at = now + PAUSE * (now - began)
            log.warning("MLflow did not take %s; the run folder has it", what, exc_info=True)
            return False
        return True


@contextmanager
def open_tracker(run: Run, uri: str | None) -> Iterator[Tracker]:
    """The tracker of a run: MLflow at `uri`, by default at $MLFLOW_TRACKING_URI or the store's own SQLite file.

    Nothing for "none".

    A resumed run goes on with its MLflow run, whose id is kept in the run folder. ServiceError where MLflow
    cannot be reached at the start.
    """
    if uri is None and (told := os.environ.get("MLFLOW_TRACKING_URI")):
        try:
            uri = tracking_address(told)
        except ValueError as error:
            raise ServiceError(f"$MLFLOW_TRACKING_URI: {error}") from None
    uri = uri or default_uri(run)
    if uri == "none":
        yield Tracker()
        return
    tracker = _begun(run, uri)
    status = "FAILED"
    try:
        yield tracker
        status = "KILLED" if run.result.stopped else "FINISHED"
    finally:
        if tracker.close(status):
            _note_end(run)


def close_ended(run: Run) -> None:
    """Have MLflow show a run as FAILED whose process was killed before it could say how it ended.

    For whoever finds that nobody trains it any more. A tracker that cannot be reached is reported, and asked next time.
    """
    path = run.folder / TRACKED
    if not path.exists() or (known := TrackedRun.read(path)).ended:
        return
    _make_quiet()
    try:
        client = _client(known.tracking_uri)
        if client.get_run(known.run_id).info.status == "RUNNING":
            client.set_terminated(known.run_id, "FAILED")
    except Exception as error:
        log.warning(
            "MLflow at %s is not told that %s ended: %s", known.tracking_uri, run.id, _first_line(error)
        )
        return
    _note_end(run)


def name_champion(run: Run, checkpoint: str, decision: str | None) -> None:
    """Have the registered model of a run's dataset call this checkpoint its champion, if the run is tracked.

    A tracker that cannot be reached is reported: the store says who the champion is.
    """
    path = run.folder / TRACKED
    if not path.exists():
        return
    known, name = TrackedRun.read(path), run.record.dataset.name
    _make_quiet()
    try:
        client = _client(known.tracking_uri)
        versions = client.search_model_versions(f"run_id = '{known.run_id}'")
        number = next(v.version for v in versions if v.source.rpartition("/")[2] == checkpoint)
        client.set_registered_model_alias(name, CHAMPION, number)
        if decision is not None:
            client.set_model_version_tag(name, number, "decision", decision)
    except StopIteration:
        log.warning(
            "MLflow at %s has no model of %s/%s to call champion", known.tracking_uri, run.id, checkpoint
        )
    except Exception as error:
        told = (known.tracking_uri, run.id, _first_line(error))
        log.warning("MLflow at %s is not told that %s is the champion: %s", *told)


def _note_end(run: Run) -> None:
    path = run.folder / TRACKED
    write_whole(path, TrackedRun.read(path).model_copy(update={"ended": True}).as_bytes())


def page_of(run: Run, served_at: str | None) -> str | None:
    """The page of a run in MLflow: of the server it is sent to, or of one at `served_at` that shows its database."""
    path = run.folder / TRACKED
    if not path.exists():
        return None
    known = TrackedRun.read(path)
    server = known.tracking_uri if _is_served(known.tracking_uri) else served_at
    if server is None or known.experiment_id is None:
        return None
    return f"{server.rstrip('/')}/#/experiments/{known.experiment_id}/runs/{known.run_id}"


def _is_served(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def default_uri(run: Run) -> str:
    """The SQLite database of the run's store."""
    return f"sqlite:///{run.store.root / 'mlflow.db'}"


def _begun(run: Run, uri: str) -> MlflowTracker:
    """The tracker at `uri`, where a server is waited for that does not answer, as while it is started again."""
    for wait_s in WAITS_S if _is_served(uri) else ():
        try:
            return _begin(run, uri)
        except _SilentError as error:
            log.warning("%s; it is asked again in %g s", error, wait_s)
            time.sleep(wait_s)
    return _begin(run, uri)


def _begin(run: Run, uri: str) -> MlflowTracker:
    """Open the run's MLflow run, or go on with it."""
    _make_quiet()
    path = run.folder / TRACKED
    known = TrackedRun.read(path) if path.exists() else None
    begun = None
    try:
        client = _client(uri)
        experiment = experiment_id(client, run, uri)
        if known is not None and known.tracking_uri == uri:
            client.update_run(known.run_id, status="RUNNING")
            for name, value in _changes(run).items():
                client.set_tag(known.run_id, name, value)
            write_whole(path, known.model_copy(update={"ended": False}).as_bytes())
            return MlflowTracker(client, known.run_id, run)
        begun = client.create_run(experiment, run_name=run.id).info.run_id
        _describe(client, begun, run)
    except ServiceError:
        raise
    except Exception as error:
        if begun is not None:
            with suppress(Exception):  # half a run is none
                client.delete_run(begun)
        raise _SilentError(f"MLflow at {uri} cannot be used: {_first_line(error)}") from error
    tracked = TrackedRun.new(tracking_uri=uri, experiment_id=experiment, run_id=begun)
    write_whole(path, tracked.as_bytes())
    return MlflowTracker(client, begun, run)


def _client(uri: str) -> Any:
    """A client of its own, which leaves MLflow's global tracking address alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside MLflow's own imports
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


def experiment_id(client: Any, run: Run, uri: str) -> str:
    """The experiment's id; its artifacts lie in the store, unless a server keeps them.

    ServiceError where a server would have this process write them to a folder, which is another one on each machine.
    """
    is_served = _is_served(uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        root = None if is_served else (run.store.root / "mlartifacts").as_uri()
        from mlflow.exceptions import MlflowException

        try:
            client.create_experiment(EXPERIMENT, artifact_location=root)
        except MlflowException:
            if client.get_experiment_by_name(EXPERIMENT) is None:  # or another run has just created it
                raise
        found = client.get_experiment_by_name(EXPERIMENT)
    root = str(found.artifact_location)
    if is_served and root.startswith(("file:", "/", ".")):
        raise ServiceError(
            f"MLflow at {uri} keeps artifacts of {EXPERIMENT!r} in the folder {root}, where they would be lost on "
            f"another machine: serve a database whose experiment was made over http, or use its file"
        )
    return str(found.experiment_id)


def _describe(client: Any, mlflow_run_id: str, run: Run) -> None:
    """Log what determines the run: its config, its code, and its dataset version as an input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    config, dataset = run.record.config, run.record.dataset
    params = [Param(name, value) for name, value in flattened(config).items()]
    facts = {
        "config_sha256": run.record.config_sha256,
        **run.record.facts.model_dump(),
        **_changes(run),
        **flow_run_tags(run.record.flow_run_id),
    }
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


def constants(config: Mapping[str, Any]) -> frozenset[str]:
    """What a line of statistics repeats that never changes by a run's config: its parameters say it."""
    names = {"total_kimg"}
    if config.get("start_resolution") == config.get("resolution"):
        names |= {"resolution", "lod"}
    if len(config.get("batch_size", ())) == 1:
        names.add("batch_size")
    if config.get("augment") != "ada":
        names.add("augment_p")
    return frozenset(names)


def flow_run_tags(flow_run_id: str | None) -> dict[str, str]:
    """The flow run of Prefect that a run belongs to, and where a browser finds it, if that is known."""
    if flow_run_id is None:
        return {}
    api = os.environ.get("PREFECT_API_URL", "")
    page = os.environ.get("PREFECT_UI_URL") or (api.removesuffix("/api") if api.endswith("/api") else "")
    link = {"prefect_flow_run_url": f"{page.rstrip('/')}/runs/flow-run/{flow_run_id}"} if page else {}
    return {"prefect_flow_run": flow_run_id, **link}


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
