"""The flow `retrain` on a real Prefect server: a person is asked, or nobody answers, and the reason is on the run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State

import tiny_run
from flows.options import BuildAndTrainOptions
from flows.retrain import retrain
from flows.retraining import RetrainConfig
from storage.errors import NotFoundError
from storage.promotions import champion_of, last_decision
from storage.runs import Run, list_runs
from storage.store import Store
from training.config import TrainConfig
from training.metrics.settings import ScorecardConfig

OPEN = ScorecardConfig.model_validate(
    {
        "metric": "kid_efficientnet_lite0",
        "num_images": 12,
        "audit_images": 4,
        "near_copies_limit": 0.2,
        "slices": (),
    }
)
"""Four images leave open whether a fifth of them are near-copies."""
pytestmark = [pytest.mark.services, pytest.mark.usefixtures("prefect_server")]


def retrained(store: Store, patience_s: int) -> tuple[State[Any], FlowRun]:
    """The end of a flow run of `retrain`, and what the server knows of it."""
    state = retrain(
        "faces",
        {"faces": TrainConfig.model_validate(tiny_run.TINY)},
        RetrainConfig(recheck=False, build=False),
        None,
        OPEN,
        BuildAndTrainOptions(store=store.root, workers=1, tracking_uri="none"),
        "photographs were forgotten",
        patience_s,
        return_state=True,
    )
    assert state.is_completed(), state.message
    with get_client(sync_client=True) as client:
        run_id = state.state_details.flow_run_id
        assert run_id is not None
        return state, client.read_flow_run(run_id)


@pytest.fixture(scope="module")
def unanswered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, State[Any]]:
    """A retraining whose scorecard leaves it open, and whom nobody answers for some seconds."""
    store = Store(tmp_path_factory.mktemp("unanswered"))
    tiny_run.tiny_dataset(store, tiny_run.noise_images(13))
    return store, retrained(store, 2)[0]


def promoted(store: Store, run: Run) -> None:
    """`likeness promote RUN --approve`."""
    command = [sys.executable, "-m", "flows.cli", "promote", run.id, "--approve", "--store", str(store.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_retraining_that_nobody_answers_is_completed(unanswered: tuple[Store, State[Any]]) -> None:
    """After its patience the flow run is Completed and says who waits; the command line answers it afterwards."""
    store, state = unanswered
    assert state.message == "waits for a person: the first training; photographs were forgotten"
    [run] = list_runs(store)
    assert run.record.why == "the first training; photographs were forgotten"
    decision = last_decision(store, "faces", run.id)
    assert decision is not None
    assert decision.waits
    with pytest.raises(NotFoundError):
        champion_of(store, "faces")
    promoted(store, run)
    assert champion_of(store, "faces").run_id == run.id


@contextmanager
def once_paused(act: Callable[[SyncPrefectClient, FlowRun], object]) -> Iterator[None]:
    """Have somebody act on the first flow run that is paused."""
    is_over = threading.Event()

    def wait() -> None:
        with get_client(sync_client=True) as client:
            while not is_over.wait(0.5):
                for run in client.read_flow_runs():
                    if run.state is not None and run.state.is_paused():
                        act(client, run)
                        return

    person = threading.Thread(target=wait)
    person.start()
    try:
        yield
    finally:
        is_over.set()
        person.join()


@pytest.mark.parametrize("place", ["form", "command line"])
def test_a_person_is_asked(unanswered: tuple[Store, State[Any]], tmp_path: Path, place: str) -> None:
    """A scorecard that leaves it open pauses the flow run, which goes on by an answer in its form, or elsewhere."""
    store = Store(tmp_path / "store")
    shutil.copytree(unanswered[0].root, store.root)
    shutil.rmtree(store.root / "promotions")
    [run] = list_runs(store)

    def approve(client: SyncPrefectClient, paused: FlowRun) -> None:
        if place == "form":
            client.resume_flow_run(paused.id, run_input={"approve": True})
        else:
            promoted(store, run)

    began = time.monotonic()
    with once_paused(approve):
        state, found = retrained(store, 3600)
    assert time.monotonic() - began < 600
    assert state.message == "champion, by a person: unchanged; photographs were forgotten"
    assert champion_of(store, "faces").run_id == run.id
    assert found.name == "faces retraining"
    assert {"dataset:faces", f"run:{run.id}", "outcome:champion"} <= set(found.tags)
