"""What MLflow is told of a training run, on a real SQLite store."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from storage.datasets.records import VersionSummary
from storage.errors import FormatError, IntegrityError, ServiceError
from storage.runs import Run, RunResult, create_run
from storage.store import Store
from training.config import TrainConfig
from training.tracking import EXPERIMENT, Tracker, default_uri, flattened, open_tracker

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
