"""What several test files share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

import flows  # noqa: F401  before Prefect and MLflow, which it keeps from sending anything

settings.register_profile("likeness", deadline=None)  # no test is timed
settings.load_profile("likeness")

FACES = Path(__file__).resolve().parent.parent.parent / "shared" / "faces"


@pytest.fixture(scope="session")
def faces() -> Path:
    """The folder of real portraits beside the checkout; tests that need it are skipped without it."""
    if not (FACES / "portraits.jsonl").is_file():
        pytest.skip(f"no real photographs at {FACES}")
    return FACES


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tiny_run.py: read from its file, since a package in the environment is called `tests` too."""
    spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("tiny_run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
