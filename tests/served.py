"""`likeness services` in a folder of its own, with the project's deployments on less work, and what its server says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from flows.operations.training_process import shown_kimg
from storage.runs import Run

ROOT = Path(__file__).resolve().parent.parent
TINY = {"preset": "smoke", "resolution": 16, "stable_kimg": 0.016, "fade_kimg": 0.016, "total_kimg": 0.064}
SMALL = {"metric": "kid_efficientnet_lite0", "num_images": 12, "audit_images": 4, "slices": []}
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


@contextmanager
def served(folder: Path, *flags: str, build: dict[str, Any] = BUILD) -> Iterator[tuple[str, Path, Path]]:
    """`likeness services` there: the API's address, the store and the log."""
    project = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for deployment in project["deployments"]:
        for parameters in (
            deployment["parameters"],
            *(t["parameters"] for t in deployment.get("triggers", [])),
        ):
            if "trainings" in parameters:
                parameters |= {"trainings": {"sample": TINY}, "scorecard": SMALL, "patience_s": 5}
            elif "build" in parameters:
                parameters |= {"build": build, "training": TINY}
            elif "dataset" in parameters:
                parameters |= {"config": TINY}
            else:
                parameters |= {"config": build}
            if parameters["options"] == {}:
                parameters["options"] = {"workers": 1}
    (folder / "prefect.yaml").write_text(yaml.safe_dump(project))
    port, log = free_port(), folder / "log.txt"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(folder / "home"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    command = [sys.executable, "-m", "flows.cli", "services", "--store", "store", *flags]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--mlflow-port", str(free_port()), "--files-port", str(free_port())],
            cwd=folder, env=environment, stdout=file, stderr=file,
        )  # fmt: skip
        try:
            api = f"http://127.0.0.1:{port}/api"
            wait_for("services", lambda: "Ctrl-C stops them" in log.read_text() or process.poll(), 300, log)
            assert process.poll() is None, log.read_text()[-3000:]
            yield api, folder / "store", log
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def called(method: str, url: str, body: Any = None) -> Any:
    """What the API answers; a busy server answers 503, as its clients expect, and is asked again."""
    deadline = time.monotonic() + 120
    while (answer := httpx.request(method, url, json=body, timeout=60)).status_code == 503:
        assert time.monotonic() < deadline, answer.text
        time.sleep(1)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def runs(api: str, flow: str, state: str) -> list[dict[str, Any]]:
    """The runs of a flow that are in a state."""
    filters = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": [state]}}}}
    found: list[dict[str, Any]] = called("POST", f"{api}/flow_runs/filter", filters)
    return found


LONG = {**TINY, "total_kimg": 1000, "snapshot_kimg": 0.064, "tick_kimg": 0.016, "device": "cpu"}


def processes(*words: str) -> list[psutil.Process]:
    """The processes here whose command lines have all the words."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if all(word in line for word in words):
            found.append(process)
    return found


def state(api: str, flow_run: str) -> str:
    """The name of a flow run's state, empty while the server does not answer."""
    try:
        return str(httpx.get(f"{api}/flow_runs/{flow_run}", timeout=30).json()["state_name"])
    except httpx.HTTPError:
        return ""


def kimg(store: Path) -> float:
    """How far the newest training run has come."""
    path = max(store.glob("runs/*"))
    return shown_kimg(Run(path))


def ask(api: str, name: str, parameters: dict[str, Any]) -> str:
    """Have a deployment run, and return the flow run's id."""
    asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    deadline = time.monotonic() + 120
    while True:  # a busy server answers 503, as its clients expect
        deployment = httpx.get(f"{api}/deployments/name/{name}/{name}", timeout=60)
        if deployment.is_success:
            place = f"{api}/deployments/{deployment.json()['id']}/create_flow_run"
            answer = httpx.post(place, json=asked, timeout=60)
            if answer.is_success:
                return str(answer.json()["id"])
        assert time.monotonic() < deadline, deployment.text
        time.sleep(1)


def train_deployment(api: str) -> str:
    """The id of the deployment `train`."""
    return str(called("GET", f"{api}/deployments/name/train/train")["id"])


def run_without_worker(api: str, worker: str | None = None) -> str:
    """The id of a run of `train` that the server holds for Running, by a worker of that name, and nobody works on.

    It is asked for a day that workers do not look at yet, so that none takes it before it is called Running.
    """
    later = {"scheduled_time": "2100-01-01T00:00:00Z"}
    asked = {
        "state": {"type": "SCHEDULED", "state_details": later},
        "labels": {} if worker is None else {"prefect.worker.name": worker},
    }
    run = called("POST", f"{api}/deployments/{train_deployment(api)}/create_flow_run", asked)["id"]
    called("POST", f"{api}/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    return str(run)
