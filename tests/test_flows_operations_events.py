"""What events lead to on a real server: removals, publications in a row, and a server that was silent for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from served import BUILD, LONG, ROOT, TINY, ask, called, kimg, processes, runs, served, state, wait_for
from storage.datasets.dataset import open_dataset
from storage.promotions import last_decision
from storage.runs import list_runs
from storage.store import Store

PATIENCE_S = 400.0
pytestmark = [pytest.mark.services, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """`likeness services` in a folder of its own: the API's address, the store and the log."""
    with served(tmp_path_factory.mktemp("events")) as running:
        yield running


def ended(api: str, flow: str) -> list[dict[str, Any]]:
    """The runs of a flow that have ended, the first to begin first."""
    kinds = ("COMPLETED", "FAILED", "CRASHED")
    return sorted((run for kind in kinds for run in runs(api, flow, kind)), key=lambda run: run["start_time"])


def test_publications_while_a_training_runs_are_trained_on_in_turn(services: tuple[str, Path, Path]) -> None:
    """Two versions that are published while one is trained on are trained on too, one after the other.

    With `only_latest` a run of the first would do nothing, and say which version is newer.
    """
    api, store, log = services
    for photos in (4, 5, 6):  # the second and third while the first is trained on, or waits to be
        build = ask(api, "build-dataset", {"config": {**BUILD, "source": f"sample:{photos}"}})
        wait_for("build", lambda: state(api, build) == "Completed", PATIENCE_S, log)  # noqa: B023
    wait_for("three trainings", lambda: len(ended(api, "train")) == 3, PATIENCE_S, log)
    trainings = ended(api, "train")
    assert [run["state_name"] for run in trainings] == ["Completed"] * 3
    versions = [run["parameters"]["dataset"] for run in trainings]
    assert len(set(versions)) == 3
    assert versions[-1] == open_dataset(Store(store), "sample").reference
    for earlier, later in pairwise(trainings):
        assert earlier["end_time"] <= later["start_time"]
    before = len(list_runs(Store(store)))
    skipped = ask(api, "train", {"dataset": versions[0], "config": TINY, "only_latest": True})
    wait_for("answer", lambda: state(api, skipped) == "Skipped", PATIENCE_S, log)
    message = called("GET", f"{api}/flow_runs/{skipped}")["state"]["message"]
    assert message == f"{versions[0]} is not trained on: {versions[-1]} is newer."
    assert len(list_runs(Store(store))) == before


def test_a_build_of_nothing_new_leads_to_no_training(services: tuple[str, Path, Path]) -> None:
    """A version that a finished run has learned from by these settings is not trained on again; that run is named."""
    api, store, log = services
    [*_, done] = list_runs(Store(store))
    assert done.record.dataset.version == open_dataset(Store(store), "sample").version
    num_trainings = len(ended(api, "train"))
    build = ask(api, "build-dataset", {"config": {**BUILD, "source": "sample:6"}})
    wait_for("build", lambda: state(api, build) == "Completed", PATIENCE_S, log)
    wait_for("answer", lambda: len(ended(api, "train")) == num_trainings + 1, PATIENCE_S, log)
    skipped = ended(api, "train")[-1]
    assert skipped["state_name"] == "Skipped"
    message = called("GET", f"{api}/flow_runs/{skipped['id']}")["state"]["message"]
    assert message == f"{done.record.dataset.reference} is trained on already: run {done.id}."
    assert list_runs(Store(store))[-1].id == done.id


def test_forgetting_a_photograph_leads_to_a_decision(services: tuple[str, Path, Path]) -> None:
    """`likeness forget` withdraws the latest version; what is left is trained on and judged, which says why."""
    api, store, log = services
    withdrawn = open_dataset(Store(store), "sample")
    sha256 = withdrawn.images()[0]["photo_sha256"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "forget", "--hash", sha256, "--no-similar", "--yes", "--store", str(store)],
        env={**os.environ, "PREFECT_API_URL": api}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for("retraining", lambda: ended(api, "retrain"), 2 * PATIENCE_S, log)
    [retraining] = ended(api, "retrain")
    assert retraining["state_name"] == "Completed", log.read_text()[-3000:]
    [run] = [run for run in list_runs(Store(store)) if "photographs were forgotten" in str(run.record.why)]
    left = open_dataset(Store(store), "sample")
    assert run.record.dataset.version == left.version != withdrawn.version
    assert "photographs were forgotten, certificate " in str(run.record.why)
    decision = last_decision(Store(store), "sample", run.id)
    assert decision is not None
    outcome = {"promote": "champion", "wait": "waits for a person", "refuse": "refused"}[decision.outcome]
    assert retraining["state"]["message"] == f"{outcome}: {run.record.why}"


def test_a_training_minds_no_server_that_is_silent_for_long(services: tuple[str, Path, Path]) -> None:
    """A server is silent for longer than a run may be: it shows it as Crashed, until it hears that it works.

    Both are a tenth of what `prefect.yaml` and an outage of ten minutes would be.
    """
    api, store, log = services
    [automation] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["automations"]
    automation |= {"name": "soon", "trigger": {**automation["trigger"], "within": 45}}
    made = called("POST", f"{api}/automations/", automation)
    training = ask(api, "train", {"dataset": "sample", "config": LONG})
    wait_for("training", lambda: kimg(store) > 0.1, PATIENCE_S, log)
    trained = max(store.glob("runs/*"))
    time.sleep(35)  # a heartbeat, which comes every 30 s
    [server] = processes("prefect", "server start", api.split(":")[-1].removesuffix("/api"))
    server.send_signal(signal.SIGSTOP)
    try:
        time.sleep(60)
        reached = kimg(store)
    finally:
        server.send_signal(signal.SIGCONT)
    wait_for("progress", lambda: kimg(store) > reached, PATIENCE_S, log)
    wait_for("server", lambda: state(api, training), PATIENCE_S, log)
    called("DELETE", f"{api}/automations/{made['id']}")
    wait_for("running", lambda: state(api, training) == "Running", PATIENCE_S, log)
    assert max(store.glob("runs/*")) == trained
    called("POST", f"{api}/flow_runs/{training}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for("cancelling", lambda: state(api, training) == "Cancelled", PATIENCE_S, log)
