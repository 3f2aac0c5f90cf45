"""What several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

FACES = Path(__file__).resolve().parent.parent.parent / "shared" / "faces"


@pytest.fixture(scope="session")
def faces() -> Path:
    """The folder of real portraits beside the checkout; tests that need it are skipped without it."""
    if not (FACES / "portraits.jsonl").is_file():
        pytest.skip(f"no real photographs at {FACES}")
    return FACES
