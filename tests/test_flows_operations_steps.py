"""flows.operations.steps: a run begins in the folder of its worker, whoever deployed it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from prefect.deployments.steps.core import run_steps

from flows.operations.worker import worker_environment
from storage.store import Store

ROOT = Path(__file__).resolve().parent.parent


def test_a_run_begins_in_its_worker_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of prefect.yaml, run by Prefect, enter the folder that the worker was started in, and no other."""
    steps = yaml.safe_load((ROOT / "prefect.yaml").read_text())["pull"]
    elsewhere, own = tmp_path / "elsewhere", tmp_path / "own"
    for folder in (elsewhere, own):
        folder.mkdir()
    monkeypatch.chdir(own)
    told = worker_environment({}, Store(tmp_path / "store"))
    monkeypatch.chdir(elsewhere)
    asyncio.run(run_steps(steps))
    assert Path.cwd() == elsewhere, "a container has no worker's folder, and stays in its image's"
    monkeypatch.setenv("LIKENESS_FOLDER", told["LIKENESS_FOLDER"])
    assert asyncio.run(run_steps(steps))["directory"] == str(own)
    assert Path.cwd() == own
