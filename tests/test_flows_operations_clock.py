"""flows.operations.clock: a clock that is set back is noticed, and what waits for it to catch up is planned again."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Scheduled

from flows.operations import clock
from flows.operations.clock import Clock, plan_again, plan_at_once
from flows.operations.team import redis_command
from storage.errors import ServiceError

DAY_S = 86_400.0


def test_a_clock_that_is_set_back_is_noticed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day forwards is nothing, the same day backwards is told once, and so is what came in small steps."""
    real, ahead_s = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
    looked = Clock()
    ahead_s = DAY_S
    assert looked.set_back_s() == 0
    ahead_s = 0
    assert looked.set_back_s() == pytest.approx(DAY_S, abs=5)
    assert looked.set_back_s() == 0
    ahead_s = -40
    assert looked.set_back_s() == 0
    ahead_s = -75
    assert looked.set_back_s() == pytest.approx(75, abs=5)


@flow
def nothing() -> None:
    """A flow to have runs of."""


@pytest.mark.usefixtures("prefect_server")
def test_runs_of_a_clock_that_was_ahead_start_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made by it is scheduled for now, schedules are free to make their runs anew, and what somebody had
    planned before for a time to come waits for that."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with get_client(sync_client=True) as client:
        planned = client.create_flow_run(nothing, state=Scheduled(scheduled_time=tomorrow))
        hourly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 * * * *"), active=True)
        flow_id = client.create_flow(nothing)
        deployment = client.create_deployment(flow_id, "hourly", schedules=[hourly])
        client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json={})
        made = [run for run in client.read_flow_runs() if run.deployment_id == deployment]
        assert made
        assert list(plan_again(client)) == []
        left = {run.id: run for run in client.read_flow_runs()}
        assert planned.id in left
        assert left.keys().isdisjoint(run.id for run in made)
        with monkeypatch.context() as patched:  # the clock was a day ahead, by which that run was made
            patched.setattr(clock, "_now", lambda: datetime.now(UTC) - timedelta(days=1))
            assert list(plan_again(client)) == [
                f"{planned.name} is scheduled for now: the clock was set back since it was made"
            ]
        state = client.read_flow_run(planned.id).state
    assert state is not None
    assert state.state_details.scheduled_time is not None
    assert state.state_details.scheduled_time < tomorrow - timedelta(hours=23)


def test_what_is_planned_in_redis_is_due_at_once(tmp_path: Path) -> None:
    """Tasks that a Docket has for tomorrow, as Prefect's services have, are due; those of the past stay as they are."""
    try:
        program = redis_command()
    except ServiceError as missing:
        pytest.skip(str(missing))
    redis = pytest.importorskip("redis")
    socket = tmp_path / "socket"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path), "--save", ""]
    url = f"unix://{socket}?db=0"
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(unix_socket_path=str(socket)) as client:
            deadline = time.monotonic() + 120
            while not socket.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert plan_at_once(url) == 0
            now = time.time()
            client.zadd("prefect:queue", {"scheduler": now + DAY_S, "late": now + DAY_S, "due": now - 1})
            client.zadd("prefect-server:queue", {"one": now + DAY_S})
            assert plan_at_once(url) == 3
            assert client.zcount("prefect:queue", "-inf", time.time()) == 3
            assert client.zscore("prefect:queue", "due") == pytest.approx(now - 1)
    finally:
        server.kill()
        server.wait()
