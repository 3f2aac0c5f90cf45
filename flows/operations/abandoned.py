"""Flow runs whose worker died: Prefect shows them as Running, or Pending, for ever, until somebody closes them.

A run that had begun becomes Crashed, with what to do in its message; one that had not begun is scheduled again, since
nothing of it is lost. Trainings that nobody trains are closed at the tracker too. Not here: which runs a server should
be told of by missing heartbeats (`prefect.yaml`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.states import Cancelled, Crashed, Scheduled

from flows.operations.processes import living_flow_runs, worker_name
from storage.local import passed_over
from storage.runs import list_runs
from storage.store import Store

BEGUN = {StateType.RUNNING, StateType.CANCELLING}
WAITING_S = 60.0
"""How long a run may be Pending, while workers of other machines could be about to start it."""
PAGE = 200


@dataclass(frozen=True)
class Abandoned:
    """A flow run that nobody works on."""

    run: FlowRun
    pool: str

    @property
    def was_begun(self) -> bool:
        """Whether its process had begun to work."""
        return self.run.state_type in BEGUN

    def __str__(self) -> str:
        return f"{self.run.name} ({self.run.state_name} in pool {self.pool})"


def find_abandoned(client: SyncPrefectClient, pools: Sequence[str]) -> list[Abandoned]:
    """The runs of pools that a worker of this machine took, and that have no process here any more.

    To be asked where no worker of those pools runs here. Of runs that no worker has signed, those are meant that no
    worker of another machine can be about to start.
    """
    living = living_flow_runs()
    found = []
    for pool in pools:
        others = {
            worker.name
            for worker in client.read_workers_for_work_pool(pool)
            if worker.status == WorkerStatus.ONLINE and worker.name != worker_name(pool)
        }
        for run in _open_runs(client, pool):
            signed_by = run.labels.get("prefect.worker.name")
            is_ours = signed_by == worker_name(pool) or (
                signed_by is None and run.state_type == StateType.PENDING and _is_nobodys(run, bool(others))
            )
            if is_ours and not living.may_have(str(run.id)):
                found.append(Abandoned(run, pool))
    return found


def close_abandoned(client: SyncPrefectClient, abandoned: Iterable[Abandoned]) -> list[str]:
    """Close runs, and those below them, and say what became of each."""
    said = []
    for one in abandoned:
        run = one.run
        if run.state_type == StateType.CANCELLING:
            client.set_flow_run_state(run.id, Cancelled(message="Its worker had died."), force=True)
            said.append(f"{run.name} is Cancelled: its worker had died")
        elif one.was_begun:
            trained = next((tag.removeprefix("run:") for tag in run.tags if tag.startswith("run:")), None)
            command = "" if trained is None else f", as does likeness train --resume {trained}"
            why = f"Its process is gone, as after a kill or a restart of the machine. Retry goes on{command}."
            _crash(client, run, why)
            said.append(f"{run.name} is Crashed: its process is gone, and Retry goes on")
        else:
            again = "Its worker died before it began."
            client.set_flow_run_state(run.id, Scheduled(message=again), force=True)
            said.append(f"{run.name} is scheduled again: its worker died before it began")
    return said


def close_trackings(store: Store) -> None:
    """Have trackers know of trainings that nobody trains any more and that were killed before they could say so."""
    for run in list_runs(store, passed_over):
        if not (run.folder / "mlflow.json").exists():
            continue
        with store.locked(f"runs/{run.id}/lock", wait=False) as is_nobodys:
            if is_nobodys:
                from training.tracking import close_ended

                close_ended(run)


def _open_runs(client: SyncPrefectClient, pool: str) -> list[FlowRun]:
    """The runs of a pool that are neither waiting nor at their end."""
    kinds = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    of_state = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds)))
    in_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    return client.read_flow_runs(flow_run_filter=of_state, work_pool_filter=in_pool, limit=PAGE)


def _is_nobodys(run: FlowRun, has_others: bool) -> bool:
    if not has_others:
        return True
    since = run.state.timestamp if run.state is not None else None
    return since is not None and (datetime.now(UTC) - since).total_seconds() > WAITING_S


def _crash(client: SyncPrefectClient, run: FlowRun, why: str) -> None:
    client.set_flow_run_state(run.id, Crashed(message=why), force=True)
    below = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(BEGUN | {StateType.PENDING}))),
    )
    for child in client.read_flow_runs(flow_run_filter=below, limit=PAGE):
        _crash(client, child, why)
