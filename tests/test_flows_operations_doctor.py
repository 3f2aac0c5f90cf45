"""flows.operations.doctor: what is wrong is found and said, without a server too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import flows.operations.doctor
from flows.operations.doctor import findings
from storage.datasets.records import VersionSummary
from storage.runs import create_run
from storage.store import Store

DATASET = VersionSummary(
    name="faces", version="ab" * 8, manifest_sha256="ab" * 32, directory="datasets/faces/abababababababab",
    resolution=64, num_images=5, shards=[],
)  # fmt: skip


def found(store: Store) -> dict[str, tuple[str, str]]:
    """What is said of each thing: its state and the sentence."""
    return {one.of: (one.state, one.says) for one in findings(store)}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder where no server is configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_a_store_that_is_not_there_is_no_problem(tmp_path: Path) -> None:
    """Before the first build nothing is wrong, and nothing is made."""
    assert found(Store(tmp_path / "store"))["store"][0] == "ok"
    assert not (tmp_path / "store").exists()


def test_litter_and_little_room_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill left is counted, and a disk that is nearly full is a problem."""
    store = Store(tmp_path / "store")
    store.put("chunks/align/a.parquet", b"")
    store.path("chunks/align/.0123.partial").write_bytes(b"")
    assert found(store)["litter"] == ("warning", "1 file of processes that were killed")
    monkeypatch.setattr(flows.operations.doctor, "NO_BYTES", 1 << 60)
    assert found(store)["room"][0] == "problem"


def test_locks_of_runs_and_open_trackings_are_told(tmp_path: Path) -> None:
    """A run that is trained is named; one that MLflow shows as running, and nobody trains, is a warning."""
    store = Store(tmp_path / "store")
    run = create_run(store, DATASET, {"preset": "smoke", "total_kimg": 1})
    store.path("mlflow.db").write_bytes(b"")
    (run.folder / "mlflow.json").write_text(json.dumps({"ended": False, "run_id": "a", "tracking_uri": "b"}))
    with run.locked():
        assert found(store)["runs"] == ("ok", f"in training: {run.id}")
    assert found(store)["runs"] == ("ok", "in training: none")
    store.path("mlflow.db").unlink()
    import sqlite3

    with sqlite3.connect(store.path("mlflow.db")) as database:
        database.execute("create table experiments (artifact_location text)")
        database.execute("insert into experiments values ('file:///elsewhere/mlartifacts')")
    said = [one for one in findings(store) if one.of == "MLflow"]
    assert [one.state for one in said] == ["warning", "warning"]
    assert "file:///elsewhere/mlartifacts, which is not in this store" in said[0].says
    assert run.id in said[1].says


def test_a_server_that_does_not_answer_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with its address, from prefect.toml here too, and the command ends with 1 after all else was said."""
    assert found(Store(tmp_path / "store"))["server"] == ("warning", "none is configured")
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://127.0.0.1:9/api"\n')
    command = [sys.executable, "-m", "flows.cli", "doctor", "--store", str(tmp_path / "store"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    [server] = [one for one in json.loads(done.stdout) if one["of"] == "server"]
    assert server["says"].startswith("no Prefect server answers at http://127.0.0.1:9/api")
    assert server["todo"]


def test_what_is_not_as_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of another version than the lock's is a warning that names both."""
    (tmp_path / "constraints.txt").write_text("prefect==0.0.1 \\\n    --hash=sha256:ab\nnobody==1\n")
    monkeypatch.setattr(flows.operations.doctor, "PROJECT_ROOT", tmp_path)
    state, says = found(Store(tmp_path / "store"))["versions"]
    assert state == "warning"
    assert "prefect 3" in says
    assert "(0.0.1)" in says


def test_a_doctor_starts_fast() -> None:
    """It imports neither Prefect nor torch nor MLflow."""
    code = "import sys, flows.operations.doctor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"prefect", "torch", "mlflow", "distributed", "cv2"}.isdisjoint(done.stdout.split())
