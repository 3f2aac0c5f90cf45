"""benchmarks/records.py: what its parts measure is what is meant."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import storage.datasets.manifest
from storage.datasets.dataset import all_versions
from storage.store import Store


def test_publishing_is_measured_of_a_whole_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is a version with all images and rejections, whose tables hold; threads change nothing of it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    records = importlib.import_module("records")
    versions = set()
    for number, writers in enumerate((1, 3)):
        monkeypatch.setattr(storage.datasets.manifest, "WRITERS", writers)
        store = Store(tmp_path / str(number))
        records.packed(store, 1500)
        measured = records.publishing(store.root, 1500)
        assert measured.keys() == {"wall", "seconds", "kb", "peak_kb"}
        [dataset] = all_versions(store)
        versions.add(dataset.version)
        assert len(dataset.table_parts("images")) > 1
        images = dataset.table("images").read()
        assert images.num_rows == dataset.num_images == 1500
        assert images["key"].to_pylist() == sorted(images["key"].to_pylist())
        assert dataset.table("rejections").read().num_rows == 375
    assert len(versions) == 1
