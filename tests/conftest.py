"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

import flows  # noqa: F401  before Prefect and MLflow, which it keeps from sending anything

settings.register_profile("likeness", deadline=None)  # no test is timed
settings.load_profile("likeness")

# Of torch, here and in all that tests start: small networks are quickest on one thread, and on a busy machine several
# threads wait for each other, which took ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if not Path("/dev/nvidiactl").exists():  # Triton must know before it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

FACES = Path(__file__).resolve().parent.parent.parent / "shared" / "faces"


@pytest.fixture(scope="session")
def faces() -> Path:
    """The folder of real portraits beside the checkout; tests that need it are skipped without it."""
    if not (FACES / "portraits.jsonl").is_file():
        pytest.skip(f"no real photographs at {FACES}")
    return FACES
