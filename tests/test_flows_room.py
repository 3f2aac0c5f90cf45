"""flows.room: what a build takes is estimated before, and a full disk is one sentence."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import flows.room
from commands import full_disk, likeness
from flows.room import check_room, estimated_bytes
from preprocessing.config import BuildConfig
from preprocessing.sources import open_source
from storage.errors import RoomError
from storage.store import Store


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    """A build of three files of 1,000 bytes each."""
    (tmp_path / "photos").mkdir()
    for name in "abc":
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(bytes(1000))
    return BuildConfig(source=f"folder:{tmp_path / 'photos'}", resolution=256)


def estimated(config: BuildConfig) -> int | None:
    """The estimate for a config's own source."""
    return estimated_bytes(config, open_source(config.source, config.fetch, config.sources))


def test_an_estimate_is_of_photographs_and_crops(config: BuildConfig) -> None:
    """It grows with the number of photographs, their sizes and the resolution; without a number there is none."""
    crops = 3 * round(256**2 * 1.5 * 2 * 1.2)
    assert estimated(config) == pytest.approx(3000 + crops, abs=3)
    assert estimated(config.model_copy(update={"limit": 1})) == pytest.approx(1000 + crops / 3, abs=3)
    assert (estimated(config.model_copy(update={"resolution": 512})) or 0) > 3 * crops
    assert estimated(BuildConfig(source="commons:Category:Portraits")) is None


def test_a_build_that_clearly_has_no_room_is_not_begun(
    config: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of the estimate is too little for a new store; where it holds some, or there is more, it is warned."""
    store = Store(tmp_path / "store")
    source = open_source(config.source, config.fetch, config.sources)
    needed = estimated(config) or 0
    monkeypatch.setattr(flows.room, "free_bytes", lambda folder: needed // 3)
    with pytest.raises(
        RoomError, match=r"a build of folder:.* takes some 0\.\d MiB, and 0\.\d MiB are free in"
    ):
        check_room(config, store, source)
    with caplog.at_level(logging.WARNING):
        store.put_original(b"photograph")
        check_room(config, store, source)
        monkeypatch.setattr(flows.room, "free_bytes", lambda folder: needed - 1)
        check_room(config, Store(tmp_path / "new"), source)
        assert len(caplog.records) == 2
        monkeypatch.setattr(flows.room, "free_bytes", lambda folder: needed + 1)
        check_room(config, Store(tmp_path / "new"), source)
    assert len(caplog.records) == 2


def test_a_full_disk_in_a_build_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cluster: str
) -> None:
    """What a worker cannot write ends the build with the file's name and what to do; with room again it goes on."""
    command = ["build", "--source", "sample:3", "--name", "s", "--resolution", "128"]
    command += ["--store", str(tmp_path / "store"), "--json"]
    with full_disk(40 * 1024):
        status, _, err = likeness(capsys, *command, "--workers", "1")
    assert status == 1
    assert "Traceback" not in err
    [sentence] = [line for line in err.splitlines() if line.startswith("likeness: ")]
    assert str(tmp_path / "store") in sentence
    assert "cannot be written: File too large" in sentence
    assert "the same build then goes on" in sentence
    assert likeness(capsys, *command, "--scheduler", cluster)[0] == 0
