"""flows.operations.services: a real server, its deployments, two workers; a build that starts a training by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import yaml

from flows.operations.processes import worker_name
from flows.operations.training_process import shown_kimg
from served import (
    LONG,
    ROOT,
    TINY,
    ask,
    called,
    free_port,
    kimg,
    processes,
    run_without_worker,
    runs,
    served,
    state,
    train_deployment,
    wait_for,
)
from storage.runs import Run

PATIENCE_S = 400.0
"""How long what a busy machine may delay is waited for."""
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """`likeness services` in a folder of its own: the API's address, the store and the log."""
    with served(tmp_path_factory.mktemp("services")) as running:
        yield running


@pytest.mark.services
def test_a_build_starts_one_training(services: tuple[str, Path, Path]) -> None:
    """`build-dataset` by its short name completes, and one training of that version follows and completes."""
    api, store, log = services
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import build_dataset_main as m; m()", "--watch"],
        env={**os.environ, "PREFECT_API_URL": api}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [training] = wait_for("training", lambda: runs(api, "train", "COMPLETED"), PATIENCE_S, log)
    [version] = [path.parent.name for path in store.glob("datasets/sample/*/manifest.json")]
    assert training["parameters"]["dataset"] == f"sample@{version}"
    assert len(list(store.glob("runs/*/result.json"))) == 1
    failed = [run for state in ("FAILED", "CRASHED") for run in runs(api, "train", state)]
    assert failed == []


@pytest.mark.services
def test_the_weekly_schedule_makes_runs(services: tuple[str, Path, Path]) -> None:
    """After deployment the weekly build's next runs stand on the server as SCHEDULED."""
    api, _, log = services
    scheduled = wait_for("scheduled run", lambda: runs(api, "build-dataset", "SCHEDULED"), PATIENCE_S, log)
    assert all(run["auto_scheduled"] for run in scheduled)


@pytest.mark.services
def test_training_survives_its_surroundings(services: tuple[str, Path, Path]) -> None:
    """A training goes on when the server is killed, and when it is itself; with its worker killed Retry goes on.

    All of it is one training run, and a new training starts within two minutes of the worker's end.
    """
    api, store, log = services
    before = len(list(store.glob("runs/*")))
    first = ask(api, "train", {"dataset": "sample", "config": LONG})
    wait_for(
        "training", lambda: len(list(store.glob("runs/*"))) > before and kimg(store) > 0.1, PATIENCE_S, log
    )
    folder = max(store.glob("runs/*"))

    port = api.split(":")[-1].removesuffix("/api")
    [server] = processes("prefect", "server start", port)
    server.kill()
    wait_for("server", lambda: state(api, first), PATIENCE_S, log)
    reached = kimg(store)
    wait_for("progress", lambda: kimg(store) > reached + 0.1, PATIENCE_S, log)
    assert state(api, first) == "Running"

    [training] = processes("-m training", folder.name)
    training.kill()
    wait_for("retry", lambda: processes("-m training", folder.name), PATIENCE_S, log)
    reached = kimg(store)
    wait_for("progress", lambda: kimg(store) > reached + 0.1, PATIENCE_S, log)
    assert state(api, first) == "Running"
    assert "was killed by SIGKILL, perhaps out of memory" in log.read_text()

    for worker in processes("worker start", "--pool gpu"):
        if worker.environ().get("PREFECT_API_URL") == api:
            worker.kill()
    second = ask(api, "train", {"dataset": "sample", "config": TINY})
    wait_for("end of the first", lambda: state(api, first) == "Crashed", 60, log)
    wait_for("next training", lambda: state(api, second) == "Completed", 120, log)

    saved = int(Run(folder).newest_checkpoint().name)
    retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    called("POST", f"{api}/flow_runs/{first}/set_state", retry)
    wait_for("retry", lambda: shown_kimg(Run(folder)) > saved / 1000 + 0.03, PATIENCE_S, log)
    assert len(list(store.glob("runs/*"))) == before + 2
    called("POST", f"{api}/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for("cancelling", lambda: state(api, first) == "Cancelled", PATIENCE_S, log)
    assert processes("-m training", folder.name) == []


@pytest.mark.services
def test_a_run_is_not_lost_with_a_worker_that_was_about_to_start_it(services: tuple[str, Path, Path]) -> None:
    """A worker that is killed while it submits a run leaves it to the next one, which does it."""
    api, _, log = services
    run = ask(api, "train", {"dataset": "sample", "config": TINY})
    deadline = time.monotonic() + 60
    while state(api, run) not in ("Pending", "Submitting"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for worker in processes("worker start", "--pool gpu"):
        if worker.environ().get("PREFECT_API_URL") == api:
            worker.kill()
    wait_for("training", lambda: state(api, run) == "Completed", PATIENCE_S, log)


@pytest.mark.services
def test_deploying_again_leaves_an_operators_settings(services: tuple[str, Path, Path]) -> None:
    """A pool's limit, a paused schedule and a disabled automation stay, and are told; --reset undoes them."""
    api, store, _ = services

    def deploy(*flags: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "deploy", *flags], cwd=store.parent, check=True,
            env={**os.environ, "PREFECT_API_URL": api, "PREFECT_HOME": str(store.parent / "home")},
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    build = called("GET", f"{api}/deployments/name/build-dataset/build-dataset")
    [schedule] = build["schedules"]
    called("PATCH", f"{api}/work_pools/gpu", {"concurrency_limit": 3})
    paused = {"active": False, "schedule": schedule["schedule"]}
    called("PATCH", f"{api}/deployments/{build['id']}/schedules/{schedule['id']}", paused)
    [trigger] = called("GET", f"{api}/automations/related-to/prefect.deployment.{train_deployment(api)}")
    called("PATCH", f"{api}/automations/{trigger['id']}", {"enabled": False})
    said = deploy()
    changed = [
        "pool gpu: concurrency_limit is 3 on the server, and None in the file",
        "deployment build-dataset: schedules.weekly.active is False on the server, and True in the file",
        "automation train__automation_1: enabled is False on the server, and True in the file",
    ]
    assert [line for line in changed if line in said] == changed, said
    assert len(json.loads(deploy("--diff", "--json"))) == 3
    deploy("--reset")
    assert deploy("--diff") == "no difference\n"


@pytest.mark.services
def test_a_pool_that_was_deleted_is_named_and_made_again(services: tuple[str, Path, Path]) -> None:
    """Its deployments have none then, a doctor says; after `likeness deploy` they have it again, and its worker."""
    api, store, log = services
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_HOME": str(store.parent / "home")}

    def command(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *words], cwd=store.parent, check=False, env=environment,
            capture_output=True, text=True,
        ).stdout  # fmt: skip

    called("DELETE", f"{api}/work_pools/gpu")
    found = json.loads(command("doctor", "--store", str(store), "--json"))
    assert {"deployments"} <= {one["of"] for one in found if one["state"] == "problem"}, found
    assert "train has no pool" in str(found)
    command("deploy")  # the pool may be there again by then, made by its worker
    assert command("deploy", "--diff") == "no difference\n"

    def is_served() -> bool:
        return "gpu@" in str([one for one in json.loads(command("doctor", "--store", str(store), "--json"))
                              if one["of"] == "pool gpu"])  # fmt: skip

    wait_for("worker of the pool", is_served, PATIENCE_S, log)


@pytest.mark.services
def test_a_pool_of_containers_is_served_by_prefect_s_own_worker(services: tuple[str, Path, Path]) -> None:
    """`likeness worker` refuses a pool of Docker's type in one sentence, which names what serves it."""
    api, store, _ = services
    called("POST", f"{api}/work_pools/", {"name": "boxes", "type": "docker"})
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "worker", "boxes", "--store", str(store)],
        env={**os.environ, "PREFECT_API_URL": api, "PREFECT_HOME": str(store.parent / "home")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert (
        "'boxes' is of type docker: prefect worker start --pool boxes --type docker serves it" in done.stderr
    )
    called("DELETE", f"{api}/work_pools/boxes")


@pytest.mark.services
def test_a_doctor_finds_all_well_and_then_what_is_wrong(services: tuple[str, Path, Path]) -> None:
    """With all servers up nothing is a problem; a run that nobody works on is one, and ends the command with 1."""
    api, store, _ = services

    def doctor() -> tuple[int, dict[str, str]]:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "doctor", "--store", str(store), "--json"],
            env={**os.environ, "PREFECT_API_URL": api}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, {one["of"]: one["state"] for one in json.loads(done.stdout)}

    status, found = doctor()
    assert (status, {of for of, state in found.items() if state == "problem"}) == (0, set())
    assert {"server", "leases", "pool dataset", "pool gpu", "flow runs", "MLflow", "versions"} <= set(found)
    run = run_without_worker(api, worker_name("gpu"))
    status, found = doctor()
    assert (status, found["flow runs"]) == (1, "problem")
    called("DELETE", f"{api}/flow_runs/{run}")


@pytest.mark.services
def test_a_run_that_falls_silent_is_crashed(services: tuple[str, Path, Path]) -> None:
    """The automation of prefect.yaml, made to wait seconds and no minutes, crashes a run without a second heartbeat."""
    api, _, log = services
    [automation] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["automations"]
    automation |= {"name": "soon", "trigger": {**automation["trigger"], "within": 10}}
    made = called("POST", f"{api}/automations/", automation)
    run = run_without_worker(api)
    heartbeat = {
        "event": "prefect.flow-run.heartbeat",
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "id": str(uuid4()),
    }
    time.sleep(5)  # until the server has heard of the automation
    called("POST", f"{api}/events", [heartbeat])
    wait_for("crash", lambda: state(api, run) == "Crashed", PATIENCE_S, log)
    called("DELETE", f"{api}/automations/{made['id']}")


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
    ports = [part for name in ("", "mlflow-", "files-") for part in (f"--{name}port", str(free_port()))]
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


@pytest.mark.services
def test_what_a_terminal_ends_is_saved_and_closed(tmp_path: Path) -> None:
    """In a terminal nothing is asked; Ctrl-C, twice, and its closing leave no process, and Retry goes on."""
    build = [*COMMAND, "build", "--source=sample:6", "--name=sample", "--resolution=32"]
    subprocess.run([*build, "--curate.pdq-max-distance=none"], cwd=tmp_path, check=True)
    (tmp_path / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    ports = [free_port() for _ in range(3)]
    api, store = f"http://127.0.0.1:{ports[0]}/api", tmp_path / "store"
    flags = [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]

    services, terminal, log = in_terminal([*COMMAND, "services", *flags], tmp_path)
    training = ask_when_up(api, log, {"dataset": "sample", "config": LONG, "options": {"workers": 1}})
    wait_for("training", lambda: list(store.glob("runs/*")) and kimg(store) > 0.05, PATIENCE_S, log)
    [folder] = store.glob("runs/*")
    for _ in range(2):
        os.write(terminal, b"\x03")
        time.sleep(0.3)
    assert services.wait(200) == 130, log.read_text()[-3000:]
    os.close(terminal)
    assert still_running(api) == []
    saved = Run(folder).result
    assert saved.stopped

    services, terminal, log = in_terminal([*COMMAND, "services", *flags], tmp_path)
    wait_for("end of the run", lambda: state(api, training) == "Crashed", PATIENCE_S, log)
    retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    called("POST", f"{api}/flow_runs/{training}/set_state", retry)
    wait_for("retry", lambda: kimg(store) > saved.kimg + 0.03, PATIENCE_S, log)
    os.close(terminal)
    services.wait(200)
    assert still_running(api) == []
    assert Run(folder).result.num_images > saved.num_images
    assert list(store.glob("runs/*")) == [folder]


COMMAND = [sys.executable, "-m", "flows.cli"]
PORTS = ("port", "mlflow-port", "files-port")


def in_terminal(command: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], int, Path]:
    """A command as a person starts it: its process, its terminal, which a Ctrl-C may be typed into, and the log."""
    terminal, inside = os.openpty()
    name = os.ttyname(inside)
    log = folder / f"log-{name.rpartition('/')[2]}.txt"
    log.touch()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(folder / "home"), "PREFECT_WORKER_QUERY_SECONDS": "1"}

    def take_terminal() -> None:
        os.close(os.open(name, os.O_RDWR))  # the first that the leader of a session opens is its own
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=inside, stdout=inside, stderr=inside,
        start_new_session=True, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(inside)
    threading.Thread(target=written_down, args=(terminal, log), daemon=True).start()
    return process, terminal, log


def written_down(terminal: int, log: Path) -> None:
    """Read what a terminal shows into a file, for as long as there is one."""
    with log.open("ab", buffering=0) as file, suppress(OSError):
        while said := os.read(terminal, 2**16):
            file.write(said)


def ask_when_up(api: str, log: Path, parameters: dict[str, object]) -> str:
    """Have `train` run once all is up."""
    wait_for("services", lambda: "Ctrl-C stops them" in log.read_text(errors="replace"), PATIENCE_S, log)
    return ask(api, "train", parameters)


def still_running(api: str) -> list[str]:
    """The processes that were told of a server, and are still there."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("PREFECT_API_URL") == api:
                found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.services
def test_a_run_that_is_retried_while_it_works_ends_no_worker(services: tuple[str, Path, Path]) -> None:
    """A run that is scheduled again before its process has ended is left until then; the worker and the run go on."""
    api, store, log = services
    run = ask(api, "train", {"dataset": "sample", "config": LONG})
    known = set(store.glob("runs/*"))
    wait_for("training", lambda: set(store.glob("runs/*")) > known and kimg(store) > 0.03, PATIENCE_S, log)
    [worker] = [one for one in processes("worker start", "--pool gpu") if f"{api}" in str(one.environ())]
    retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    called("POST", f"{api}/flow_runs/{run}/set_state", retry)
    reached = kimg(store)
    wait_for("progress", lambda: kimg(store) > reached + 0.2, PATIENCE_S, log)
    assert worker.is_running()
    [training] = processes("-m training", max(store.glob("runs/*")).name)
    training.terminate()
    assert "already holding one of this CapacityLimiter" not in log.read_text()
    after = ask(api, "train", {"dataset": "sample", "config": {**TINY, "seed": 7}})
    wait_for("next training", lambda: state(api, after) == "Completed", PATIENCE_S, log)
