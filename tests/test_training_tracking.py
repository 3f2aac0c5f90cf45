"""What MLflow is told of a training run, on a real SQLite store and by real servers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.operations.doctor import findings
from served import free_port
from storage.datasets.records import VersionSummary
from storage.errors import FormatError, IntegrityError, ServiceError
from storage.runs import Run, RunResult, create_run
from storage.store import Store
from training.config import TrainConfig
from training.tracking import (
    EXPERIMENT,
    PAUSE,
    MlflowTracker,
    Tracker,
    close_ended,
    constants,
    default_uri,
    experiment_id,
    flattened,
    name_champion,
    open_tracker,
    page_of,
)

SHA = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """MLflow's own deprecations and unclosed connections are not ours to fail on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a checkpoint and a grid, as training leaves them."""
    dataset = VersionSummary(
        name="faces", version="ab" * 8, manifest_sha256=SHA, directory="datasets/faces/abababababababab",
        resolution=64, num_images=5, shards=[],
    )  # fmt: skip
    run = create_run(Store(tmp_path / "store"), dataset, TrainConfig(seed=4).model_dump(mode="json"))
    checkpoint = run.checkpoints_dir / "000000100"
    checkpoint.mkdir(parents=True)
    for name in ("generator_ema.safetensors", "optimizers.safetensors", "state.json"):
        (checkpoint / name).write_text("{}")
    run.grids_dir.mkdir()
    (run.grids_dir / "000000100.png").write_bytes(b"png")
    return run


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow makes it, migration by migration."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def with_database(run: Run, empty_database: Path) -> None:
    """The store of the run has a database already, which saves a second."""
    shutil.copy(empty_database, run.store.root / "mlflow.db")


def write_result(run: Run, stopped: bool) -> None:
    """The file by which training says how it ended."""
    result = RunResult.new(
        stopped=stopped, num_images=100, kimg=0.1, checkpoint="000000100", seconds_per_kimg=1
    )
    run.result_path.write_bytes(result.as_bytes())


def artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    """Paths of a run's artifacts, folders opened."""
    found: list[str] = []
    for entry in client.list_artifacts(run_id, folder):
        found += artifacts(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def test_a_run_in_mlflow(run: Run) -> None:
    """MLflow holds the config, metrics by image, grids, checkpoint files, and the dataset version as input;
    a resumed run goes on in the same MLflow run, though a version that knew no formats began it."""
    checkpoint, grid = run.checkpoints()[0], run.grids_dir / "000000100.png"
    with open_tracker(run, None) as tracker:
        tracker.log_tick({"num_images": 60, "loss_g": 0.5})
        write_result(run, stopped=True)
    record = json.loads((run.folder / "mlflow.json").read_bytes())
    assert record.pop("format") == 1
    (run.folder / "mlflow.json").write_text(json.dumps(record))
    with open_tracker(run, None) as tracker:
        tracker.log_tick({"num_images": 100, "loss_g": 0.25})
        tracker.log_snapshot(checkpoint, grid, 100)
        write_result(run, stopped=False)
        tracker.log_result({"kimg": 0.1}, checkpoint)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(run))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment.artifact_location == (run.store.root / "mlartifacts").as_uri()
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == run.id
    assert found.info.status == "FINISHED"
    assert found.data.params["seed"] == "4"
    assert found.data.params["batch_size.4"] == str(run.record.config["batch_size"]["4"])
    history = client.get_metric_history(found.info.run_id, "loss_g")
    assert [(metric.step, metric.value) for metric in history] == [(60, 0.5), (100, 0.25)]
    assert artifacts(client, found.info.run_id) == [
        "checkpoints/000000100/generator_ema.safetensors",
        "checkpoints/000000100/optimizers.safetensors",
        "checkpoints/000000100/state.json",
        "config.json",
        "grids/000000100.png",
        "result.json",
    ]
    (entry,) = found.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("faces", SHA[:36])
    tags = {tag.key: tag.value for tag in entry.tags}
    assert (tags["manifest_sha256"], tags["version"]) == (SHA, "ab" * 8)


def test_no_tracking(run: Run) -> None:
    """With tracking "none" nothing is written anywhere."""
    before = sorted(run.store.root.rglob("*"))
    with open_tracker(run, "none") as tracker:
        assert type(tracker) is Tracker
        tracker.log_tick({"num_images": 1})
        tracker.log_snapshot(run.folder, run.folder, 1)
        tracker.log_result({}, run.folder)
    assert sorted(run.store.root.rglob("*")) == before


def test_unreachable_server_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracking server that does not answer at the start is one clear error with its address."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("training.tracking.WAITS_S", (0.0,))
    with (
        pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be used"),
        open_tracker(run, "http://127.0.0.1:9"),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", IntegrityError, "is damaged: it cannot be read as JSON"),
        ('{"run_id": "a"}', IntegrityError, "is damaged: it lacks tracking_uri"),
        ('{"format": 2}', FormatError, "has format 2"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(
    run: Run, text: str, error: type[Exception], message: str
) -> None:
    """What says which MLflow run to go on with is named where it is damaged or newer, before MLflow is asked."""
    path = run.folder / "mlflow.json"
    path.write_text(text)
    with pytest.raises(error, match=f"{path} {message}"), open_tracker(run, None):
        pass


def test_flattened_settings() -> None:
    """Nested settings become dotted names with text values."""
    assert flattened({"a": 1, "b": {"4": 2, "c": {"d": None}}}) == {"a": "1", "b.4": "2", "b.c.d": "None"}


@pytest.mark.usefixtures("with_database")
def test_whoever_finds_a_run_dead_closes_it(run: Run) -> None:
    """A run whose process was killed is FAILED once somebody says so, and one that has ended stays as it ended."""
    write_result(run, stopped=True)
    with open_tracker(run, None):
        tracked = json.loads((run.folder / "mlflow.json").read_text())
    client = MlflowClient(tracking_uri=default_uri(run))
    client.update_run(tracked["run_id"], status="RUNNING")  # as a kill leaves it
    (run.folder / "mlflow.json").write_text(json.dumps(tracked))
    close_ended(run)
    assert client.get_run(tracked["run_id"]).info.status == "FAILED"
    write_result(run, stopped=False)
    with open_tracker(run, None):
        assert client.get_run(tracked["run_id"]).info.status == "RUNNING"
    close_ended(run)
    assert client.get_run(tracked["run_id"]).info.status == "FINISHED"


@pytest.mark.usefixtures("with_database")
def test_a_finished_run_is_a_version_of_its_dataset_s_model(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset's model has a version with its checkpoint, dataset and flow run; a run that was stopped has none."""
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    record = run.record.model_copy(update={"flow_run_id": "ab-cd"})
    (run.folder / "run.json").write_bytes(record.as_bytes())
    run = Run(run.folder)
    for stopped, num in (
        (True, 0),
        (False, 1),
        (False, 1),
    ):  # gone on with, and once more with nothing left to do
        write_result(run, stopped)
        with open_tracker(run, None) as tracker:
            tracker.log_result({"stopped": stopped}, run.newest_checkpoint())
        client = MlflowClient(tracking_uri=default_uri(run))
        versions = client.search_model_versions("name = 'faces'")
        assert len(versions) == num
    assert versions[0].source.endswith("/checkpoints/000000100")
    assert versions[0].tags["dataset"] == run.record.dataset.reference
    assert versions[0].tags["prefect_flow_run_url"] == "http://prefect.example/runs/flow-run/ab-cd"


@pytest.mark.usefixtures("with_database")
def test_a_tracked_run_has_a_page_where_a_server_shows_it(run: Run) -> None:
    """A browser finds it at the server it was sent to, or at the one that shows the store's database."""
    assert page_of(run, "http://here") is None
    write_result(run, stopped=False)
    with open_tracker(run, None):
        known = json.loads((run.folder / "mlflow.json").read_text())
    assert page_of(run, None) is None
    page = f"/#/experiments/{known['experiment_id']}/runs/{known['run_id']}"
    assert page_of(run, "http://here/") == f"http://here{page}"
    (run.folder / "mlflow.json").write_text(json.dumps({**known, "tracking_uri": "https://team"}))
    assert page_of(run, "http://here") == f"https://team{page}"


@pytest.mark.usefixtures("with_database")
def test_what_never_changes_is_no_curve(run: Run) -> None:
    """A number that the config fixes is a parameter alone; one that may change is a metric."""
    config = TrainConfig().model_dump(mode="json")
    assert constants(config) == {"total_kimg", "batch_size", "augment_p"}
    assert constants(config | {"augment": "ada", "start_resolution": config["resolution"]}) == {
        "total_kimg", "batch_size", "resolution", "lod",
    }  # fmt: skip
    with open_tracker(run, None) as tracker:
        write_result(run, stopped=False)
        tracker.log_tick({"num_images": 100, "total_kimg": 10.0, "loss_g": 1.0})
    client = MlflowClient(tracking_uri=default_uri(run))
    [shown] = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert "loss_g" in shown.data.metrics
    assert "total_kimg" not in shown.data.metrics
    assert shown.data.params["total_kimg"] == "10.0"


@pytest.mark.usefixtures("with_database")
def test_artifacts_are_not_written_to_a_folder_of_another_machine(run: Run) -> None:
    """An experiment made over SQLite keeps artifacts in a folder: over http that is refused, and the folder named."""
    write_result(run, stopped=False)
    with open_tracker(run, None):
        pass
    client = MlflowClient(tracking_uri=default_uri(run))
    experiment_id(client, run, default_uri(run))
    with pytest.raises(
        ServiceError, match=r"MLflow at http://there keeps artifacts .* in the folder file://.*"
    ):
        experiment_id(client, run, "http://there")


@contextmanager
def mlflow_server(folder: Path, *flags: str) -> Iterator[str]:
    """The address of a server that is just being started, on a database in the folder."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *flags]
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--backend-store-uri", f"sqlite:///{folder}/served.db"], stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def said_of_mlflow(run: Run) -> tuple[str, str]:
    """What `likeness doctor` says of MLflow."""
    [finding] = [one for one in findings(run.store.root) if one.of == "MLflow"]
    return finding.state, finding.says


@pytest.mark.services
def test_a_run_is_sent_to_a_server(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is still starting is waited for; curves, files, model and champion's decision come over HTTP."""
    monkeypatch.setattr("training.tracking.WAITS_S", (1.0,) * 240)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write_result(run, stopped=False)
    checkpoint = run.newest_checkpoint()
    kept = tmp_path / "kept"
    with mlflow_server(tmp_path, "--serve-artifacts", "--artifacts-destination", kept.as_uri()) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with open_tracker(run, None) as tracker:
            tracker.log_tick({"num_images": 100, "loss_g": 0.5})
            tracker.log_snapshot(checkpoint, run.grids_dir / "000000100.png", 100)
            tracker.log_result({"stopped": False}, checkpoint)
        name_champion(run, checkpoint.name, "20261126-a")
        client = MlflowClient(tracking_uri=url)
        version = client.get_model_version_by_alias("faces", "champion")
        assert version.source.startswith("mlflow-artifacts:/")
        assert version.tags["decision"] == "20261126-a"
        assert client.get_run(version.run_id).data.metrics["loss_g"] == 0.5
        place = version.source.removeprefix("mlflow-artifacts:/")
        path = f"{url}/api/2.0/mlflow-artifacts/artifacts/{place}/generator_ema.safetensors"
        with urllib.request.urlopen(path, timeout=60) as answer:
            assert answer.read() == (checkpoint / "generator_ema.safetensors").read_bytes()
        assert said_of_mlflow(run) == ("ok", f"{url} serves artifacts")
    assert said_of_mlflow(run)[0] == "problem", "it is gone"
    assert list(kept.rglob("generator_ema.safetensors"))
    assert not (run.store.root / "mlflow.db").exists()


@pytest.mark.services
def test_a_server_whose_artifacts_go_to_a_folder_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server that has each machine write artifacts to a folder of its own is refused, and nothing is written."""
    monkeypatch.setattr("training.tracking.WAITS_S", (1.0,) * 240)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    kept = tmp_path / "kept"
    flags = ["--no-serve-artifacts", "--default-artifact-root", kept.as_uri()]
    with mlflow_server(tmp_path, *flags) as url:
        refused = pytest.raises(ServiceError, match=r"keeps artifacts of 'likeness' in the folder file://")
        with refused, open_tracker(run, url):
            pass
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert said_of_mlflow(run) == (
            "problem",
            f"{url} has each machine write artifacts to {kept.as_uri()}/1",
        )
    assert not kept.exists()


@pytest.mark.usefixtures("with_database")
def test_the_registered_model_has_a_champion(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The alias leads to a promoted run's version, which names the decision; a tracker that is gone is a warning."""
    name_champion(run, "000000100", None)
    assert not (run.folder / "mlflow.json").exists(), "who is not tracked has no model"
    write_result(run, stopped=False)
    with open_tracker(run, None) as tracker:
        tracker.log_result({"stopped": False}, run.newest_checkpoint())
    name_champion(run, "000000100", "20261126-a")
    client = MlflowClient(tracking_uri=default_uri(run))
    version = client.get_model_version_by_alias("faces", "champion")
    assert version.source.endswith("/checkpoints/000000100")
    assert version.tags["decision"] == "20261126-a"
    assert "champion" not in caplog.text
    name_champion(run, "000000050", None)
    assert "has no model of" in caplog.text


def test_a_tracker_that_hangs_holds_training_up_little(
    run: Run, with_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a call that took long and failed none is made for twenty times as long; then all metrics are sent."""
    write_result(run, stopped=True)
    with open_tracker(run, None) as tracker:
        assert isinstance(tracker, MlflowTracker)
        client = tracker._client
        calls: list[None] = []
        with monkeypatch.context() as hanging:

            def hang(*_: object, **__: object) -> None:
                calls.append(None)
                time.sleep(0.1)
                raise TimeoutError

            hanging.setattr(client, "log_batch", hang)
            for step in range(10):
                tracker.log_tick({"num_images": step, "loss_g": step / 2})
        assert len(calls) == 1
        time.sleep(0.1 * PAUSE + 0.5)
        tracker.log_tick({"num_images": 10, "loss_g": 5.0})
        sent = client.get_metric_history(tracker._run_id, "loss_g")
    assert sorted((one.step, one.value) for one in sent) == [(step, step / 2) for step in range(11)]
