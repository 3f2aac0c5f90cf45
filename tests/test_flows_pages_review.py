"""The page of `likeness review`: every face with what its verdict needs, in one file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from flows.cli.main import main
from storage.datasets.dataset import open_dataset
from storage.store import Store
from tiny_run import tiny_dataset


def test_the_page_holds_every_face(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With image, photograph and index of each, its picture in the page, and nothing loaded from elsewhere."""
    rng = np.random.default_rng(0)
    store = Store(tmp_path / "store")
    tiny_dataset(store, [rng.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(5)])
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as info:
        main(["review", "faces", "--store", str(store.root), "--out", str(page), "--json"])
    assert not info.value.code
    assert json.loads(capsys.readouterr().out)["images"] == 5
    text = page.read_text()
    dataset = open_dataset(store, "faces")
    shown = re.findall(r'data-image="(\w+)" data-photo="(\w+)" data-face="(\d+)"', text)
    assert sorted(shown) == sorted(
        (row["image_sha256"], row["photo_sha256"], str(row["face_index"])) for row in dataset.images()
    )
    assert text.count("data:image/jpeg;base64,") == 5
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_a_long_page_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--limit` takes so many evenly, and the page lies in the version's folder unless it is asked for elsewhere."""
    store = Store(tmp_path / "store")
    tiny_dataset(store, [np.full((16, 16, 3), number * 20, np.uint8) for number in range(10)])
    with pytest.raises(SystemExit):
        main(["review", "faces", "--store", str(store.root), "--limit", "3"])
    page = open_dataset(store, "faces").folder / "review.html"
    assert page.read_text().count("<figure") == 3
    assert str(page) in capsys.readouterr().out
