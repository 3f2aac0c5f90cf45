"""The generator in the box: a file of the package that goes by the run name `bundled`; README.md beside it says more.

It lies in `storage` because pictures are traced to it, without torch. Not here: drawing with it
(`training.drawing.trained.open_bundled`), and what it says of its origin (`storage.lineage.trace.bundled_facts`).
"""

from __future__ import annotations

from pathlib import Path

from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError
from storage.store import Store

BUNDLED = "bundled"
"""Its run name, which no run of a store may have."""
FILE = Path(__file__).with_name("congress128.safetensors")
SHA256 = "c74258c282968adf7fe21264aa2bb5d3ce4469bef2c73d71fcc9be7afe77602d"
"""Of the file that ships."""
BUNDLED_SHA256 = "bundled_sha256"
"""The entry of a picture's origin that says which bundled file drew it."""
PHOTOGRAPHS = {
    "author": "United States Government Publishing Office",
    "license": "PDM-1.0",
    "license_url": "https://creativecommons.org/publicdomain/mark/1.0/",
}
"""What is on record of each photograph that it was trained on."""


def bundled_file() -> Path:
    """Where the file lies; IntegrityError where it is not the one that ships."""
    if not FILE.is_file() or file_digest(FILE) != SHA256:
        raise IntegrityError(f"{FILE} is missing or has changed: install likeness again")
    return FILE


def check_reserved(store: Store) -> None:
    """ConfigError where a run of the store has the generator's name."""
    if store.exists(f"runs/{BUNDLED}/run.json"):
        folder = store.path(f"runs/{BUNDLED}")
        raise ConfigError(
            f"the run name {BUNDLED!r} is reserved for the generator in the box: name the run {folder} by its folder"
        )
