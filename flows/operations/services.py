"""All servers of one machine under one command: Prefect, its deployments, a worker for each pool, MLflow.

For one person's machine. A team runs them apart, Prefect on PostgreSQL: see docs/operations.md.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flows.operations.deploy import PREFECT, deploy, deployment_names
from flows.operations.init import check_folder
from flows.operations.training_process import stop_process
from storage.errors import ServiceError
from storage.store import Store

START_S = 180.0
STOP_S = 10.0
HOST = "127.0.0.1"


def planned_services(port: int, mlflow_port: int, store: Store) -> dict[str, Any]:
    """What `run_services` would start, by its command lines, after the same checks."""
    check_services(port, mlflow_port)
    commands = service_commands(port, mlflow_port, store)
    return {
        "prefect": f"http://{HOST}:{port}",
        "mlflow": f"http://{HOST}:{mlflow_port}",
        "store": str(store.root),
        "commands": {name: shlex.join(command) for name, command in commands.items()},
        "deployments": deployment_names(),
    }


def check_services(port: int, mlflow_port: int) -> None:
    """ServiceError names a port that is taken, and ConfigError a folder without deployments."""
    check_port(port, "--port")
    check_port(mlflow_port, "--mlflow-port")
    check_folder(Path.cwd())


def service_commands(port: int, mlflow_port: int, store: Store) -> dict[str, list[str]]:
    """The command of each process, in the order they start."""
    return {
        "Prefect server": [*PREFECT, "server", "start", "--host", HOST, "--port", str(port)],
        "dataset worker": [*PREFECT, "worker", "start", "--pool", "dataset", "--type", "process"],
        "gpu worker": [*PREFECT, "worker", "start", "--pool", "gpu", "--type", "process", "--limit", "1"],
        "MLflow": [
            *(sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(mlflow_port)),
            *("--backend-store-uri", f"sqlite:///{store.root}/mlflow.db"),
        ],
    }


def run_services(port: int, mlflow_port: int, store: Store, say: Callable[[str], None]) -> None:
    """Start everything and wait until Ctrl-C or until one process ends.

    The errors of `check_services` come before anything is started.
    """
    check_services(port, mlflow_port)
    environment = {
        **os.environ,
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    store.root.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what was started is stopped
    with ExitStack() as stack:
        running = {}
        for name, command in service_commands(port, mlflow_port, store).items():
            process = subprocess.Popen(command, env=environment)
            stack.callback(stop_process, process, STOP_S)  # workers may ignore the first SIGTERM
            running[name] = process
            if name == "Prefect server":
                _wait_until_healthy(f"http://{HOST}:{port}/api/health", process)
                deploy(environment)
        say(f"Prefect http://{HOST}:{port}   MLflow http://{HOST}:{mlflow_port}   Ctrl-C stops them")
        while True:
            for name, process in running.items():
                if process.poll() is not None:
                    raise ServiceError(f"{name} ended with status {process.returncode}")
            time.sleep(1)


def check_port(port: int, option: str) -> None:
    """ServiceError where `port` of this machine is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceError(f"port {port} is taken: choose another with {option}") from error


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ServiceError(f"the Prefect server did not answer at {url} within {START_S:.0f} s")
