"""flows.operations.doctor: what is wrong is found and said, without a server too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from raw_web import Request, reply, serving

import flows.operations.doctor
from commands import bounded
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
    return {one.of: (one.state, one.says) for one in findings(store.root)}


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
    left = store.path("chunks/align/.0123.partial")
    left.write_bytes(b"")
    assert found(store)["litter"] == ("ok", "none"), "a build may be writing it"
    os.utime(left, (0, 0))
    assert found(store)["litter"] == ("warning", "1 file of processes that were killed")
    monkeypatch.setattr(flows.operations.doctor, "NO_BYTES", 1 << 60)
    assert found(store)["room"][0] == "problem"


def test_folders_that_may_not_be_listed_or_written_to_are_told(tmp_path: Path) -> None:
    """What cannot be seen is named and is a problem; what is beside it is looked at all the same."""
    store = Store(tmp_path / "store")
    for key in ("chunks/align/a.parquet", "runs/one/run.json", "cache/exports/a.json", "originals/00/0"):
        store.put(key, b"")
    litter = store.path("chunks/.0123.partial")
    litter.write_bytes(b"")
    os.utime(litter, (0, 0))
    hidden = [store.path(folder) for folder in ("chunks/align", "runs", "cache/exports")]
    store.path("originals").chmod(0o500)
    for folder in hidden:
        folder.chmod(0)
    command = [sys.executable, "-m", "flows.cli", "doctor", "--store", str(store.root), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=bounded)
    assert done.returncode == 1, done.stderr
    said = [(one["of"], one["state"], one["says"]) for one in json.loads(done.stdout)]
    paths = ", ".join(sorted(map(str, hidden)))
    assert ("folders", "problem", f"{paths} cannot be listed: what is in there is not known") in said
    assert ("folders", "warning", f"{store.path('originals')} cannot be written to") in said
    assert ("runs", "problem", f"{store.path('runs')} cannot be read: Permission denied") in said
    assert ("exports", "problem", f"{hidden[2]} cannot be read: Permission denied") in said
    assert ("litter", "warning", "1 file of processes that were killed") in said
    store.root.chmod(0)
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=bounded)
    store.root.chmod(0o700)
    assert done.returncode == 1, done.stderr
    states = {one["of"]: one["state"] for one in json.loads(done.stdout)}
    assert states["store"] == "problem"
    assert states["server"] == "warning"


def test_a_store_that_cannot_be_opened_is_a_problem_among_others(tmp_path: Path) -> None:
    """A file in its place, or a bucket that nobody keeps, is named, and all else is looked at too."""
    (tmp_path / "file").write_bytes(b"")
    said = {one.of: one for one in findings(tmp_path / "file")}
    assert said["store"].state == "problem"
    assert said["store"].says == f"store {tmp_path / 'file'} is a file, and a store is a folder or a bucket"
    assert said["store"].todo
    assert said["server"].says == "none is configured"


def test_a_full_disk_is_no_question_of_rights(tmp_path: Path) -> None:
    """Where there is no room it is said to be made, and the probe is not taken for litter."""
    mounted = 'mount -t tmpfs -o size=4k none "$0" && head -c 4096 /dev/zero > "$0/all"; exec "$@"'
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    inside = ["unshare", *root, "--mount", "sh", "-c", mounted, str(tmp_path)]
    if subprocess.run([*inside, "test", "-e", tmp_path / "all"], check=False, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    command = [sys.executable, "-m", "flows.cli", "doctor", "--store", str(tmp_path), "--json"]
    done = subprocess.run([*inside, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    said = {one["of"]: one for one in json.loads(done.stdout)}
    assert said["store"]["says"] == f"{tmp_path} cannot be written to: No space left on device"
    assert said["store"]["todo"] == "make room, as below"
    assert said["room"]["state"] == "problem"
    assert said["litter"]["says"] == "none"


def test_a_driver_that_lists_no_gpu_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nvidia-smi is there and fails, its own words are said; where it is not, there is simply none."""
    monkeypatch.delenv("LIKENESS_GPUS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found(Store(tmp_path / "store"))["GPUs"] == ("ok", "none: training is on the CPU")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Driver/library version mismatch'\nexit 18\n")
    program.chmod(0o755)
    state, says = found(Store(tmp_path / "store"))["GPUs"]
    assert (state, says) == ("problem", "nvidia-smi lists none: Driver/library version mismatch")


def test_a_password_is_told_to_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks for PREFECT_API_AUTH_STRING is told it; without it that is what is to be done."""

    def answer(request: Request) -> bytes:
        if request.headers.get("authorization") != "Basic YWRtaW46c2VjcmV0":
            return reply(b"", 401)
        return reply(b'"3"' if request.target.endswith("version") else b"[]")

    with serving(answer) as web:
        monkeypatch.setenv("PREFECT_API_URL", web.url("/api"))
        server = next(one for one in findings(tmp_path) if one.of == "server")
        assert "refuses: HTTP Error 401" in server.says
        assert server.todo == "set PREFECT_API_AUTH_STRING"
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")
        server = next(one for one in findings(tmp_path) if one.of == "server")
        assert server.says.startswith("Prefect 3 answers")


def test_where_a_tracking_server_keeps_artifacts_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the experiment of trainings, or before the first of them by that which every MLflow has."""
    roots: dict[str, str] = {}

    def answer(request: Request) -> bytes:
        root = roots.get(request.target.rpartition("=")[2])
        if root is None:
            return reply(b"{}", 404)
        return reply(json.dumps({"experiment": {"artifact_location": root}}).encode())

    with serving(answer) as web:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", web.url(""))
        for experiment, root, state, says in (
            (None, "", "ok", "answers: the first training makes its experiment"),
            (
                "Default",
                "/srv/artifacts/0",
                "problem",
                "has each machine write artifacts to /srv/artifacts/0",
            ),
            ("likeness", "mlflow-artifacts:/1", "ok", "serves artifacts"),
            (
                "likeness",
                "file:///srv/artifacts/1",
                "problem",
                "machine write artifacts to file:///srv/artifacts/1",
            ),
        ):
            if experiment is not None:
                roots[experiment] = root
            told = found(Store(tmp_path / "store"))["MLflow"]
            assert told[0] == state
            assert told[1].endswith(says)


def test_what_waits_for_a_time_that_was_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that were made at a time to come tell of a clock that was set back; a schedule without runs is told too."""
    now = datetime.now(UTC)
    run: dict[str, object] = {
        "id": "1", "name": "owl", "created": (now + timedelta(days=1)).isoformat(), "state_type": "PENDING",
        "state": {"timestamp": now.isoformat()}, "work_pool_name": None, "labels": {}, "tags": [],
    }  # fmt: skip
    runs: list[object] = [run]
    deployment: dict[str, object] = {
        "id": "2", "name": "weekly", "paused": False, "work_pool_name": "dataset", "schedules": [{"active": True}],
    }  # fmt: skip
    answers: dict[str, object] = {
        "/admin/version": "3", "/admin/settings": {}, "/v2/concurrency_limits/filter": [], "/work_pools/filter": [],
        "/deployments/filter": [deployment], "/flow_runs/filter": runs,
    }  # fmt: skip

    with serving(lambda request: reply(json.dumps(answers[request.target]).encode())) as web:
        monkeypatch.setenv("PREFECT_API_URL", web.url(""))
        state, says = found(Store(tmp_path / "store"))["schedules"]
        assert (state, says.startswith("the clock was set back")) == ("problem", True)
        assert says.endswith("owl")
        run["created"] = now.isoformat()
        assert found(Store(tmp_path / "store"))["schedules"] == ("ok", "runs of 1 deployment are planned")
        runs.clear()
        assert found(Store(tmp_path / "store"))["schedules"] == ("warning", "no run is planned of weekly")
        deployment["work_pool_name"] = None
        assert (
            found(Store(tmp_path / "store"))["deployments"][1]
            == "weekly has no pool, as where it was deleted"
        )


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
    said = [one for one in findings(store.root) if one.of == "MLflow"]
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
