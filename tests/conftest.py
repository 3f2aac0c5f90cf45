"""What several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are quickest on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
