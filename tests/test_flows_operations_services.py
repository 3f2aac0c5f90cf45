"""flows.operations.services: a real server, its deployments, two workers; a build that starts a training by itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TINY = {"preset": "smoke", "resolution": 16, "stable_kimg": 0.016, "fade_kimg": 0.016, "total_kimg": 0.064}
BUILD = {"source": "sample:6", "name": "sample", "resolution": 32}


def free_port() -> int:
    """A port that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, condition: Callable[[], Any], seconds: float, log: Path) -> Any:
    """The condition's first true value; the end of the log where none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(1)
    pytest.fail(f"no {what} in {seconds} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """`likeness services` in a folder of its own: the API's address, the store and the log."""
    folder = tmp_path_factory.mktemp("services")
    project = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for deployment in project["deployments"]:  # the same deployments, on less work
        for parameters in (
            deployment["parameters"],
            *(t["parameters"] for t in deployment.get("triggers", [])),
        ):
            if "build" in parameters:
                parameters |= {"build": BUILD, "training": TINY}
            elif "dataset" in parameters:
                parameters |= {"config": TINY}
            else:
                parameters |= {"config": BUILD}
    (folder / "prefect.yaml").write_text(yaml.safe_dump(project))
    port, log = free_port(), folder / "log.txt"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment["PREFECT_HOME"] = str(folder / "home")
    command = [sys.executable, "-m", "flows.cli", "services", "--store", "store"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--mlflow-port", str(free_port())],
            cwd=folder, env=environment, stdout=file, stderr=file,
        )  # fmt: skip
        try:
            api = f"http://127.0.0.1:{port}/api"
            wait_for("services", lambda: "Ctrl-C stops them" in log.read_text() or process.poll(), 240, log)
            assert process.poll() is None, log.read_text()[-3000:]
            yield api, folder / "store", log
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def runs(api: str, flow: str, state: str) -> list[dict[str, Any]]:
    """The runs of a flow that are in a state."""
    filters = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": [state]}}}}
    found: list[dict[str, Any]] = httpx.post(f"{api}/flow_runs/filter", json=filters).json()
    return found


@pytest.mark.services
def test_a_build_starts_one_training(services: tuple[str, Path, Path]) -> None:
    """`build-dataset` by its short name completes, and one training of that version follows and completes."""
    api, store, log = services
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import build_dataset_main as m; m()", "--watch"],
        env={**os.environ, "PREFECT_API_URL": api}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [training] = wait_for("training", lambda: runs(api, "train", "COMPLETED"), 240, log)
    [version] = [path.parent.name for path in store.glob("datasets/sample/*/manifest.json")]
    assert training["parameters"]["dataset"] == f"sample@{version}"
    assert len(list(store.glob("runs/*/result.json"))) == 1
    failed = [run for state in ("FAILED", "CRASHED") for run in runs(api, "train", state)]
    assert failed == []


@pytest.mark.services
def test_the_weekly_schedule_makes_runs(services: tuple[str, Path, Path]) -> None:
    """After deployment the retraining's next runs stand on the server as SCHEDULED."""
    api, _, log = services
    scheduled = wait_for("scheduled run", lambda: runs(api, "build-and-train", "SCHEDULED"), 90, log)
    assert all(run["auto_scheduled"] for run in scheduled)


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="there is no /proc to read environments from"
)
def test_what_is_started_is_told_to_send_nothing(tmp_path: Path) -> None:
    """The Prefect server that `likeness services` starts is told to send nothing, save what the user says otherwise."""
    (tmp_path / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    told = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment = {name: value for name, value in os.environ.items() if name not in told}
    ports = ["--port", str(free_port()), "--mlflow-port", str(free_port())]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "services", "--store", "store", *ports],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment | {"PREFECT_HOME": str(tmp_path / "home"), "MLFLOW_DISABLE_TELEMETRY": "false"},
    )  # fmt: skip
    try:
        found: dict[str, str] = {}
        deadline = time.monotonic() + 60
        while "PREFECT_API_URL" not in found and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                entries = Path(f"/proc/{child}/environ").read_text().split("\0")
                found = dict(entry.partition("=")[::2] for entry in entries)
    finally:
        process.terminate()
        process.wait(60)
    assert {name: found.get(name) for name in told} == told | {"MLFLOW_DISABLE_TELEMETRY": "false"}
