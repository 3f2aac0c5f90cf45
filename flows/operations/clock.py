"""What follows where a machine's clock was set back: Prefect's server waits for times that it takes to be past.

    python -m flows.operations.clock        have all that is planned by such times planned anew

Its services plan their own next steps by the clock, so that none of them does anything until the clock is where it was:
no scheduled run is made, and none becomes Late. What they plan is in the server's memory, which its restart empties, or
a team's Redis. Runs that were made meanwhile wait as long. Not here: the processes (`flows.operations.services`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Scheduled

from flows.operations.server import open_server

LEAST_S = 60.0
"""A clock that is set back by less is let catch up."""
DOCKET = "PREFECT_SERVER_DOCKET_URL"
"""Says where Prefect's services keep their plan; without it that is the server's memory."""
PAGE = 200


def _ahead_s() -> float:
    """By how much the clock is ahead of the time since the machine was started, which nobody sets."""
    return time.time() - time.monotonic()


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Clock:
    """The clock of this machine, which is looked at now and again."""

    _was_s: float = field(default_factory=_ahead_s)

    def set_back_s(self) -> float:
        """By how much it was set back since it was last looked at; 0 where that was not, or less than a minute."""
        is_s = _ahead_s()
        if self._was_s - is_s < LEAST_S:
            self._was_s = max(self._was_s, is_s)
            return 0.0
        back_s, self._was_s = self._was_s - is_s, is_s
        return back_s


def plan_at_once(url: str) -> int:
    """Have services that plan in the Redis at a URL take their next steps now; how many there were."""
    import redis

    num = 0
    with redis.Redis.from_url(url) as client:
        queues = client.scan_iter(match="*:queue", _type="zset")  # Docket's: the server's, and its services'
        for queue in queues:
            if later := client.zrangebyscore(queue, time.time(), "+inf"):
                client.zadd(queue, dict.fromkeys(later, time.time()))
                num += len(later)
    return num


def plan_again(client: SyncPrefectClient) -> Iterator[str]:
    """Have runs that were made by a clock that was ahead start now, and schedules make theirs anew; what was done."""
    for run in _runs_ahead(client):
        if run.auto_scheduled:
            client.delete_flow_run(run.id)
        elif run.created is not None and run.created > _now() + timedelta(seconds=LEAST_S):
            client.set_flow_run_state(run.id, Scheduled(message="The clock was set back."), force=True)
            yield f"{run.name} is scheduled for now: the clock was set back since it was made"


def _runs_ahead(client: SyncPrefectClient) -> list[FlowRun]:
    """The runs that are to start at a time to come."""
    kinds = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    after = FlowRunFilterExpectedStartTime(after_=_now() + timedelta(seconds=LEAST_S))
    wanted = FlowRunFilter(state=kinds, expected_start_time=after)
    found: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=len(found)):
        found += page
    return found


if __name__ == "__main__":
    if (docket := os.environ.get(DOCKET, "memory://")) != "memory://":
        plan_at_once(docket)
    with open_server() as server:
        for line in plan_again(server):
            sys.stdout.write(f"{line}\n")
