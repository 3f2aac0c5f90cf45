"""flows.operations.abandoned: runs of dead workers are found and closed, and those of living ones left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Completed, Pending, Running

from flows.operations.abandoned import close_abandoned, find_abandoned
from flows.operations.processes import ENGINE, FLOW_RUN, worker_name
from flows.operations.worker import close_left
from storage.errors import ServiceError
from storage.store import Store

pytestmark = pytest.mark.usefixtures("prefect_server")
POOL = "abandoned"


@flow
def nothing() -> None:
    """A flow to have runs of."""


@pytest.fixture(scope="module")
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    """A client of a server with a pool."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        yield client


def taken(client: SyncPrefectClient, state: Any, worker: str | None) -> FlowRun:
    """A run of the pool in a state, signed by a worker."""
    run = client.create_flow_run(nothing, work_pool_name=POOL)
    if worker is not None:
        client.request(
            "PATCH",
            "/flow_runs/{id}/labels",
            path_params={"id": run.id},
            json={"prefect.worker.name": worker},
        )
    client.set_flow_run_state(run.id, state, force=True)
    return client.read_flow_run(run.id)


def test_runs_of_dead_workers_are_closed(client: SyncPrefectClient) -> None:
    """Of this machine's dead worker what ran is Crashed, what was cancelled Cancelled, what had not begun goes on."""
    ours = worker_name(POOL)
    running = taken(client, Running(), ours)
    cancelled = taken(client, Cancelling(), ours)
    pending = taken(client, Pending(), None)
    submitted = taken(client, Pending(name="Submitting"), ours)
    others = taken(client, Running(), f"{POOL}@elsewhere")
    done = taken(client, Completed(), ours)
    said = close_abandoned(client, find_abandoned(client, [POOL]))
    states = {
        name: client.read_flow_run(run.id).state_name
        for name, run in {
            "running": running, "cancelled": cancelled, "pending": pending, "submitted": submitted,
            "others": others, "done": done,
        }.items()
    }  # fmt: skip
    assert states == {
        "running": "Crashed", "cancelled": "Cancelled", "pending": "Scheduled", "submitted": "Scheduled",
        "others": "Running", "done": "Completed",
    }  # fmt: skip
    assert len(said) == 4
    assert f"{running.name} is Crashed: its process is gone, and Retry goes on" in said


def test_a_run_whose_process_lives_is_left(client: SyncPrefectClient) -> None:
    """A flow run goes on without its worker as long as a process here works on it."""
    run = taken(client, Running(), worker_name(POOL))
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                               env={**os.environ, FLOW_RUN: str(run.id)})  # fmt: skip
    try:
        assert find_abandoned(client, [POOL]) == []
    finally:
        process.kill()
        process.communicate()
    assert [one.run.id for one in find_abandoned(client, [POOL])] == [run.id]
    close_abandoned(client, find_abandoned(client, [POOL]))


def test_a_run_that_another_user_may_work_on_is_left(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody else has a process of a flow run, which may not be looked into, nothing is called abandoned."""
    run = taken(client, Running(), worker_name(POOL))
    process = subprocess.Popen([sys.executable, "-c", "input()", ENGINE], stdin=subprocess.PIPE)
    real = psutil.Process.environ

    def environ(self: psutil.Process) -> dict[str, str]:
        if self.pid == process.pid:
            raise psutil.AccessDenied(self.pid)
        return real(self)

    monkeypatch.setattr(psutil.Process, "environ", environ)
    try:
        assert find_abandoned(client, [POOL]) == []
    finally:
        process.kill()
        process.communicate()
    assert [one.run.id for one in find_abandoned(client, [POOL])] == [run.id]
    close_abandoned(client, find_abandoned(client, [POOL]))


def test_what_workers_of_others_may_be_starting_is_left_a_minute(client: SyncPrefectClient) -> None:
    """A run that no worker has signed yet is not taken from a living worker of another machine."""
    client.send_worker_heartbeat(POOL, f"{POOL}@elsewhere", 30.0)
    taken(client, Pending(), None)
    assert find_abandoned(client, [POOL]) == []


def test_a_pool_that_is_not_there_is_named(client: SyncPrefectClient, tmp_path: Any) -> None:
    """A worker of no pool is told what makes one."""
    with pytest.raises(ServiceError, match="there is no work pool 'nobody': likeness deploy makes"):
        close_left("nobody", Store(tmp_path))
