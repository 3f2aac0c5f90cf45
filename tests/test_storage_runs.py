"""storage.runs: runs and checkpoints are found by id, name or path; what is not there is told with what is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.datasets.records import VersionSummary
from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.runs import CheckpointState, Run, create_run, find_checkpoint
from storage.store import Store

DATASET = VersionSummary(
    name="faces", version="ab" * 8, manifest_sha256="ab" * 32, directory="datasets/faces/abababababababab",
    resolution=16, num_images=1, shards=[],
)  # fmt: skip
NAMES = ["000000016", "000000032"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with two checkpoints, and a third that was not written whole."""
    run = create_run(Store(tmp_path), DATASET, {"preset": "smoke"})
    for name in (*NAMES, "000000048"):
        (run.checkpoints_dir / name).mkdir(parents=True)
    for name in NAMES:
        (run.checkpoints_dir / name / "state.json").write_text("{}")
    return run


def test_checkpoints_are_found(run: Run, tmp_path: Path) -> None:
    """By run and name, by run alone the newest, or by their own folder."""
    first, newest = (run.checkpoints_dir / name for name in NAMES)
    for reference in (run.id, str(run.folder)):
        assert find_checkpoint(run.store, reference) == newest
        assert find_checkpoint(run.store, reference, NAMES[0]) == first
    assert find_checkpoint(run.store, str(first)) == first
    assert find_checkpoint(Store(tmp_path / "elsewhere"), str(first)) == first


def test_what_is_not_there_is_told(run: Run) -> None:
    """A name that no checkpoint has is answered with those there are, and a run that is none with the runs."""
    with pytest.raises(NotFoundError, match=r"has no checkpoint '7' \(kept are 000000016, 000000032\)"):
        find_checkpoint(run.store, run.id, "7")
    with pytest.raises(NotFoundError, match=f"no training run 'nobody' .*{run.id}"):
        find_checkpoint(run.store, "nobody")
    with pytest.raises(ConfigError, match="is a checkpoint itself"):
        find_checkpoint(run.store, str(run.newest_checkpoint()), NAMES[0])
    empty = create_run(run.store, DATASET, {"preset": "face128"})
    with pytest.raises(NotFoundError, match="has no checkpoint yet"):
        find_checkpoint(run.store, empty.id)


def written(run: Run, name: str) -> Path:
    """A checkpoint of one file."""
    folder = run.checkpoints_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_bytes(name.encode())
    state = CheckpointState.new(num_images=int(name), sha256={"weights": file_digest(folder / "weights")})
    (folder / "state.json").write_bytes(state.as_bytes())
    return folder


@pytest.mark.parametrize("victim", ["weights", "state.json"])
@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["deleted", "emptied"]
)
def test_damaged_newest_checkpoints_are_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, victim: str, harm: Callable[[Path], object]
) -> None:
    """Those newer than the newest intact one are named and kept under another name; older ones are not looked at."""
    run = create_run(Store(tmp_path), DATASET, {"preset": "smoke"})
    run.put_damaged_aside()
    old, intact, damaged = (written(run, f"{number:09d}") for number in (16, 32, 48))
    for folder in (old, damaged):
        harm(folder / victim)
    run.put_damaged_aside()
    assert run.newest_checkpoint() == intact
    assert (str(damaged / victim) in caplog.text, str(old) in caplog.text) == (True, False)
    [aside] = run.checkpoints_dir.glob("damaged-000000048-*")
    assert aside.is_dir()
    harm(intact / victim)
    with pytest.raises(IntegrityError, match=rf"{intact / victim}.* has no other checkpoint that is intact"):
        run.put_damaged_aside()
    assert intact.is_dir()
