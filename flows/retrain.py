"""The flow `retrain`: consent, crawl, build, training where there is reason to, scorecard, and the alias `champion`.

    prefect deployment run retrain/retrain --param name=faces

A schedule starts it, or the event `dataset.withdrawn`, whose reason its run and its training have. A decision that
figures leave open pauses the flow run for a person's answer; whoever does not answer in time does so by `likeness
promote RUN --approve`. Not here: the steps (`flows.retraining`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from flows import artifacts
from flows.build import Result, Run
from flows.build_dataset import run_as_tasks
from flows.operations.fetched import on_this_machine
from flows.operations.secrets import secret
from flows.options import BuildAndTrainOptions
from flows.promote import answer
from flows.retraining import DatasetName, RetrainConfig
from flows.retraining import retrain as retrain_plainly
from flows.train import train_task
from preprocessing.config import BuildConfig
from storage import runs
from storage.promotions import Decision, last_decision
from storage.store import Store
from training.config import TrainConfig
from training.metrics.settings import ScorecardConfig

POLL_S = 5
"""How often a paused flow run looks whether it may go on."""
SPARE_S = 600
"""How much later than its own patience the server calls a paused flow run Failed."""


class Approval(RunInput):
    """What a person says of a candidate."""

    approve: bool = Field(False, description="Make it the champion.")


class _Tasks:
    """Each step a task."""

    def __init__(self, options: BuildAndTrainOptions) -> None:
        self._options = options

    @property
    def stage(self) -> Run:
        """Tasks of a build."""
        return run_as_tasks()

    def step(self, name: str, work: Callable[[], Result]) -> Result:
        """One task."""

        @task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
        def run_step() -> Result:
            return work()

        return run_step()

    def train(self, run: runs.Run) -> None:
        """As the flow `train` does."""
        artifacts.describe(None, version=run.record.dataset.version, run=run.id)
        train_task(run, self._options)

    def say(self, line: str) -> None:
        """A line of the run's log."""
        get_run_logger().info("%s", line)


@flow(name="retrain", description="Recheck, refresh, build, train where there is reason to, judge, promote.")
def retrain(
    name: DatasetName = "faces",
    trainings: dict[str, TrainConfig] = {},  # noqa: B006  Prefect copies it
    config: RetrainConfig = RetrainConfig(),
    build: BuildConfig | None = None,
    scorecard: ScorecardConfig = ScorecardConfig(),
    options: BuildAndTrainOptions = BuildAndTrainOptions(),
    reason: str | None = None,
    patience_s: int = 3600,
) -> State[Any]:
    """Retrain a dataset's generator, and let it take the champion's place if a scorecard, or a person, says so.

    Args:
        name: The dataset's name.
        trainings: How to train, by the dataset's name; one that is not there trains as its champion did.
        config: Which steps are done.
        build: What the dataset is made of, and how; unset: as the last build of the name.
        scorecard: What a candidate is judged by.
        options: Where it runs.
        reason: What started it, for the record.
        patience_s: How long a flow run waits for a person's answer, seconds.
    """
    artifacts.describe(f"{name} retraining", dataset=name)
    options = on_this_machine(options)
    done = retrain_plainly(
        name,
        config,
        trainings.get(name),
        scorecard,
        options,
        _Tasks(options),
        source=build,
        secret=secret,
        reason=reason,
        flow_run_id=str(runtime.flow_run.root_flow_run_id),
    )
    state = done.state
    if done.decision is not None and done.run is not None:
        artifacts.describe(None, version=done.run.record.dataset.version, run=done.run.id)
        _show(done.decision)
        if done.decision.waits:
            state = _asked(Store(options.store), done.run, done.decision, patience_s) or state
    artifacts.describe(None, outcome=state.partition(",")[0].replace(" ", "-"))
    artifacts.facts("retraining", f"Retraining of {name}", {**done.summary(), "state": state})
    return Completed(message=f"{state}: {done.plan.why}", data={**done.summary(), "state": state})


def _asked(store: Store, run: runs.Run, decision: Decision, patience_s: int) -> str | None:
    """Wait for a person, here or at the command line; what came of it, None where nobody answered."""
    said = f"{run.id} waits for you. `approve` makes it the champion.\n\n" + _listed(decision)
    form = Approval.with_initial_data(description=said, approve=False)

    def found() -> Decision | None:
        return last_decision(store, decision.name, run.id)

    def is_answered() -> bool:
        return (now := found()) is None or not now.waits

    with _resumed_after(patience_s, is_answered) as patience_is_over:
        given = pause_flow_run(wait_for_input=form, timeout=patience_s + SPARE_S, poll_interval=POLL_S)
    now = found()
    if now is not None and now.waits:
        if patience_is_over.is_set() and not given.approve:
            get_run_logger().warning("nobody answered: likeness promote %s --approve, or --refuse", run.id)
            return None
        now = answer(store, run, None, given.approve)
    if now is None or now.answer is None:
        return None
    return "champion, by a person" if now.is_positive else "refused, by a person"


@contextmanager
def _resumed_after(patience_s: int, is_answered: Callable[[], bool]) -> Iterator[threading.Event]:
    """An end to a pause of this flow run, once it was answered elsewhere or the patience is over, which is told.

    The server's own end to a pause is Failed.
    """
    flow_run_id = UUID(str(runtime.flow_run.id))
    patience_is_over, goes_on = threading.Event(), threading.Event()
    deadline = time.monotonic() + patience_s

    def resume() -> None:
        while not goes_on.wait(min(POLL_S, max(0.1, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                patience_is_over.set()
            elif not is_answered():
                continue
            try:
                resume_flow_run(flow_run_id, run_input={"approve": False})
            except (PrefectException, RuntimeError, httpx.HTTPError) as error:
                # not paused yet, or not any more, or a server that is gone for a while: asked again
                get_run_logger().debug("not resumed: %s", error)
                goes_on.wait(POLL_S)

    threading.Thread(target=copy_context().run, args=(resume,), daemon=True).start()
    try:
        yield patience_is_over
    finally:
        goes_on.set()


def _show(decision: Decision) -> None:
    """The scorecard."""
    for reason in decision.reasons:
        get_run_logger().info("%s", reason)
    title = f"Scorecard of {decision.candidate.run_id}: {decision.outcome}"
    artifacts.page("scorecard", title, _listed(decision))


def _listed(decision: Decision) -> str:
    rows = [f"| {one.name} | {one.verdict} | {one.says} |" for one in decision.criteria]
    return "\n".join(["| criterion | verdict | measured |", "|---|---|---|", *rows])
