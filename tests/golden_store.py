"""The golden store of `data/golden`, which an earlier version made, and its parts by name."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from flows.stages.work import Progress
from storage.datasets.dataset import COLUMNS_OF, open_dataset
from storage.datasets.manifest import publish, record_build
from storage.digest import file_digest
from storage.runs import Run, list_runs
from storage.store import Store

GOLDEN = Path(__file__).with_name("data") / "golden"
VERSIONS = {
    "first": "71485f1fada17d957079da8a6698555820e25b56b590eff3df86f1f805a9fe42",
    "second": "74bfd02313603afd8ea68b6e553d972fe8e688d96e1da36db27b6fa5de500752",
    "web": "b440bae92356680ef76fd0a682ffb3f3607a83d85bea1661bb76c156439bc090",
}
"""sha256 of the manifests: a folder as first published, the same by other rules, and pictures that were fetched."""
FIRST, SECOND = (f"golden@{VERSIONS[name][:16]}" for name in ("first", "second"))
WEB = f"golden-web@{VERSIONS['web'][:16]}"
ANNA = "850566706e68108318011694a9031afc5fb5ffe40cac018b31713ec9bc3ce293"
CPU = torch.device("cpu")


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of the golden folder, since opening a store may write into it."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


@pytest.fixture
def store(golden: Path) -> Store:
    """The golden store."""
    return Store(golden / "store")


@pytest.fixture
def run(store: Store) -> Run:
    """Its one training run."""
    [run] = list_runs(store)
    return run


def silent(_: Progress) -> None:
    """A report to nobody."""


def publishing(store: Store, name: str) -> None:
    """Publish what the golden store holds under a name, and put the build on record."""
    dataset = open_dataset(store, FIRST)
    images, rejections = (dataset.table(name).read() for name in COLUMNS_OF)
    manifest = dataset.manifest
    shards = []
    for shard in manifest.shards:
        [packed] = [
            path for path in store.path("chunks/shard").glob("*.tar") if file_digest(path) == shard.sha256
        ]
        shards.append({**shard.as_json(), "object": f"chunks/shard/{packed.name}"})
    again = publish(
        store, name,
        settings={"resolution": 32, "source": manifest.source, "config": manifest.config},
        images=[images], image_schema=images.schema, rejections=[rejections], rejection_schema=rejections.schema,
        shards=shards, num_photos=manifest.counts.photos,
    )  # fmt: skip
    assert again.images() == dataset.images()
    record_build(again, {"facts": {}}, datetime.now(UTC))
