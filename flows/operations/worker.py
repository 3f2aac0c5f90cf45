"""A worker of one pool on this machine: what the one before it left is closed, and then Prefect's worker runs.

    likeness worker gpu

One a machine and pool, so that it can know whose runs are whose. It takes as many runs at a time as the machine has
GPUs, or one: no limit is kept on the server, where a dead run would hold a place.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from flows.operations.abandoned import (
    close_abandoned,
    close_trackings,
    find_abandoned,
)
from flows.operations.gpus import visible_cards
from flows.operations.processes import PROCESS, worker_name
from flows.operations.server import open_server
from flows.operations.steps import FOLDER
from flows.options import STORE
from storage.errors import ServiceError
from storage.store import Store

HEARTBEAT_S = 30
"""How often a flow run says that it lives; `prefect.yaml` says what becomes of one that does not."""

RETRIES = 8
"""How often a flow run asks a server again that does not answer: for eight minutes, twice as long each time."""


def worker_command(pool: str, limit: int) -> list[str]:
    """Prefect's worker of a pool, named after this machine."""
    return [
        *(sys.executable, "-m", "flows.operations.prefect_worker"),
        *("worker", "start", "--pool", pool, "--type", PROCESS),
        *("--name", worker_name(pool), "--limit", str(limit)),
    ]


def worker_environment(environment: Mapping[str, str], store: Store) -> dict[str, str]:
    """What a worker's processes are told: where they work, and to say that they live."""
    return {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_CLIENT_MAX_RETRIES": str(RETRIES),
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what a server answers whose database is gone
        **environment,
        STORE: str(store),
        FOLDER: str(Path.cwd()),
    }


def usual_limit(pool: str) -> int:
    """How many runs of a pool this machine does at a time."""
    return max(1, len(visible_cards())) if pool == "gpu" else 1


def run_worker(pool: str, store: Store, limit: int | None, say: Callable[[str], None]) -> None:
    """Close what the worker before left, and become Prefect's worker; ServiceError where one of the pool runs here."""
    _be_the_only_one(pool)
    for line in close_left(pool, store):
        say(line)
    command = worker_command(pool, usual_limit(pool) if limit is None else limit)
    os.execve(sys.executable, command, worker_environment(os.environ, store))


def close_pools(pools: Sequence[str], store: Store, say: Callable[[str], None]) -> None:
    """Close the runs that dead workers of pools left here; ServiceError where a worker of one runs."""
    for pool in pools:
        _be_the_only_one(pool)
        for line in close_left(pool, store):
            say(line)


def close_left(pool: str, store: Store) -> list[str]:
    """Close the runs that a dead worker of a pool left here; ServiceError where the server does not answer."""
    close_trackings(store)
    with open_server() as client:
        try:
            kind = client.read_work_pool(pool).type
        except ObjectNotFound:
            raise ServiceError(
                f"there is no work pool {pool!r}: likeness deploy makes those of prefect.yaml"
            ) from None
        if kind != PROCESS:
            raise ServiceError(
                f"work pool {pool!r} is of type {kind}: prefect worker start --pool {pool} --type {kind} serves it"
            )
        return close_abandoned(client, find_abandoned(client, [pool]))


def _be_the_only_one(pool: str) -> None:
    """Hold the lock of this machine's worker for as long as this process lives, whatever it becomes."""
    folder = Path(get_current_settings().home)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{worker_name(pool)}.lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ServiceError(f"a worker of pool {pool} runs here already: process {path.read_text()}") from None
    os.truncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    os.set_inheritable(file, True)
