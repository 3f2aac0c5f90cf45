"""All servers of one machine under one command: Prefect, its deployments, a worker for each pool, MLflow, the files.

For one person Prefect and MLflow keep what they know in SQLite. A team's stand on PostgreSQL, Redis and an S3 store
(`flows.operations.team`). What ends by itself is started again, the Prefect server too, which a flow run survives.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from flows.operations import team as stack
from flows.operations.clock import Clock
from flows.operations.deploy import PREFECT, deployment_names
from flows.operations.init import check_folder
from flows.operations.supervised import Service, Supervised, answers
from flows.operations.team import DATABASE, EVENTS, OBJECTS, Team
from flows.options import MLFLOW_URL, STORE, STORE_URL, TRACKING_URI
from storage.errors import ServiceError
from storage.store import Store

TEND_S = 1.0
WORKER_STOP_S = 150.0
"""How long a worker may take to end: a training of its saves first."""
HOST = "127.0.0.1"
SERVER, SERVICES, MLFLOW = "Prefect server", "Prefect services", "MLflow"
POOLS = ("dataset", "gpu")
LIKENESS = [sys.executable, "-m", "flows.cli"]


@dataclass(frozen=True)
class Ports:
    """Where the servers listen."""

    prefect: int = 4200
    mlflow: int = 5000
    files: int = 4300

    def check(self) -> None:
        """ServiceError names a port that is taken."""
        check_port(self.prefect, "--port")
        check_port(self.mlflow, "--mlflow-port")
        check_port(self.files, "--files-port")

    def addresses(self) -> dict[str, str]:
        """What a browser opens."""
        return {name: f"http://{HOST}:{port}" for name, port in vars(self).items()}


def planned_services(ports: Ports, store: Store, team: Team | None) -> dict[str, Any]:
    """What `run_services` would start, by its command lines, after the same checks."""
    check(ports, team)
    services = services_of(ports, store, team)
    return {
        **ports.addresses(),
        "store": str(store.root),
        "commands": {name: shlex.join(service.command) for name, service in services.items()},
        "deployments": deployment_names(),
    }


def check(ports: Ports, team: Team | None) -> None:
    """Raise an error that says what is in the way, before anything is started."""
    ports.check()
    check_folder(Path.cwd())
    if team is not None:
        for number in range(stack.S3_PORTS):
            check_port(team.s3_port + number, "--s3-port")
        team.check()


def services_of(ports: Ports, store: Store, team: Team | None) -> dict[str, Service]:
    """Each process, in the order in which they start."""
    python, where = [sys.executable, "-m"], ports.addresses()
    place = ["--host", HOST, "--port"]
    below = {} if team is None else stack.team_services(team)
    told = {} if team is None else stack.server_environment(team)
    apart = [] if team is None else ["--no-services"]
    server = Service(
        [*PREFECT, "server", "start", *place, str(ports.prefect), *apart],
        needs=tuple(name for name in (DATABASE, EVENTS) if name in below),
        is_ready=lambda: answers(f"{where['prefect']}/api/health"),
        environment=told,
    )
    services = Service(
        [*PREFECT, "server", "services", "start"], needs=(*server.needs, SERVER), environment=told
    )
    return {
        **below,
        SERVER: server,
        **({} if team is None else {SERVICES: services}),
        MLFLOW: _mlflow(ports, store, team),
        **{_worker(pool): _pool(pool, ports, store, team) for pool in POOLS},
        "files": Service(
            [*python, "http.server", "--bind", HOST, "--directory", str(store.root), str(ports.files)]
        ),
    }


def _pool(pool: str, ports: Ports, store: Store, team: Team | None) -> Service:
    """The worker of a pool; a team's trainings are sent to MLflow's server, where their files outlive a machine."""
    told = {} if team is None else {TRACKING_URI: ports.addresses()["mlflow"]}
    return Service(
        [*LIKENESS, "worker", pool, "--store", str(store.root)],
        needs=(SERVER, *([] if team is None else [MLFLOW])),
        environment=told,
    )


def _mlflow(ports: Ports, store: Store, team: Team | None) -> Service:
    """MLflow's page of the store's database; a team's is a server that runs are sent to, and keeps their files."""
    place = ["--host", HOST, "--port", str(ports.mlflow), "--workers", "1"]
    url = f"{ports.addresses()['mlflow']}/health"
    what = ["ui", "--backend-store-uri", f"sqlite:///{store.root}/mlflow.db"]
    return Service(
        [
            sys.executable,
            "-m",
            "mlflow",
            *(what if team is None else ["server", "--serve-artifacts"]),
            *place,
        ],
        needs=() if team is None else (DATABASE, OBJECTS),
        is_ready=lambda: answers(url),
        environment={} if team is None else stack.mlflow_environment(team),
        takes_children=True,
    )


def service_environment(ports: Ports, store: Store, team: Team | None) -> dict[str, str]:
    """What all processes are told: which server, which store, and where a browser finds both."""
    addresses = ports.addresses()
    return {
        # Leases that the server keeps in its memory are gone when it is started again, and a run with them.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_CLI_PROMPT": "false",  # in a terminal its server would ask for a profile, and wait for ever
        **os.environ,
        "PREFECT_API_URL": f"{addresses['prefect']}/api",
        "PREFECT_UI_URL": addresses["prefect"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        STORE: str(store.root),
        STORE_URL: addresses["files"],
        MLFLOW_URL: addresses["mlflow"],
    }


def run_services(ports: Ports, store: Store, say: Callable[[str], None], team: Team | None = None) -> None:
    """Start everything and wait until Ctrl-C, or until one process ends again and again.

    The errors of `planned_services` come before anything is started.
    """
    check(ports, team)
    store.root.mkdir(parents=True, exist_ok=True)
    _mind_signals(_end)
    if team is not None:
        stack.prepare(team)
    kept = Supervised(services_of(ports, store, team), service_environment(ports, store, team), say)
    names = list(kept.services)
    try:
        kept.bring_up(names[: names.index(SERVER) + 1])
        subprocess.run([*LIKENESS, "deploy"], env=kept.environment, check=True)
        kept.bring_up(names)
        where = ports.addresses()
        say(
            f"Prefect {where['prefect']}   MLflow {where['mlflow']}   files {where['files']}   Ctrl-C stops them"
        )
        clock = Clock()
        while True:
            time.sleep(TEND_S)
            kept.tend(names)
            if back_s := clock.set_back_s():
                say(f"the clock was set back by {back_s:.0f} s: what Prefect plans is planned again")
                _plan_again(kept, team)
    except subprocess.CalledProcessError:
        raise ServiceError("nothing could be deployed, as said above") from None
    finally:
        _mind_signals(lambda *_: None)  # a second Ctrl-C would leave behind what the first is stopping
        with suppress(OSError):  # the terminal may be gone
            say("stopping; a training saves first, for two minutes at most")
        stop(kept)


def _plan_again(kept: Supervised, team: Team | None) -> None:
    """Have Prefect's services not wait until the clock is where it was."""
    if team is None:
        kept.restart(SERVER)  # what they plan is in its memory
    kept.bring_up([SERVER])
    told = {} if team is None else stack.server_environment(team)
    command = [sys.executable, "-m", "flows.operations.clock"]
    subprocess.run(command, env={**kept.environment, **told}, check=False, start_new_session=True)


def _mind_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Have a handler take what ends this command: Ctrl-C, SIGTERM, and a terminal that is closed, save under nohup."""
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


def _end(number: int, frame: FrameType | None) -> None:
    """End what runs now, so that what was started is stopped."""
    _mind_signals(lambda *_: None)
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(0)


def stop(kept: Supervised) -> None:
    """Stop the workers, and what they worked on; have the server know; then stop the rest, the first last."""
    workers = [kept.running[name] for pool in POOLS if (name := _worker(pool)) in kept.running]
    flow_runs = [child for worker in workers for child in _flow_runs_of(worker)]
    # A worker takes no more runs then, and waits for those that it has.
    for process in [*workers, *flow_runs]:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + WORKER_STOP_S
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    if workers and kept.is_ready(SERVER):
        close = [*LIKENESS, "worker", *POOLS, "--close"]
        subprocess.run(close, env=kept.environment, check=False, start_new_session=True)
    kept.stop()


def _flow_runs_of(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of the flow runs that a worker has."""
    try:
        children = psutil.Process(worker.pid).children(recursive=True)
        return [child for child in children if "prefect.engine" in child.cmdline()]
    except psutil.Error:  # it has just ended, or one of them
        return []


def _worker(pool: str) -> str:
    return f"{pool} worker"


def check_port(port: int, option: str) -> None:
    """ServiceError where `port` of this machine is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceError(f"port {port} is taken: choose another with {option}") from error
