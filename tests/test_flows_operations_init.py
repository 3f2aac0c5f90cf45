"""flows.operations.init: a folder to deploy from, and what refuses to run outside of one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flows.operations.deploy import deploy
from flows.operations.init import FILES, init_folder
from flows.operations.services import Ports, run_services
from storage.errors import ConfigError
from storage.store import Store

ROOT = Path(__file__).resolve().parent.parent


def test_a_folder_gets_the_projects_own_files(tmp_path: Path) -> None:
    """The files are those of this project's root; a second time there is nothing left to write."""
    folder = tmp_path / "new" / "project"
    assert sorted(init_folder(folder)) == [folder / name for name in FILES]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: (ROOT / name).read_bytes() for name in FILES
    }
    assert init_folder(folder) == []


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_written_over(tmp_path: Path, name: str) -> None:
    """Where one file says something else, it is named, it stays, and the other one is not written either."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"{name} is there and says something else"):
        init_folder(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """A file in the folder's place is named in one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file cannot be used"):
        init_folder(tmp_path / "file")


def test_without_deployments_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deploying and services point to `likeness init` in a folder without prefect.yaml, and leave nothing there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"no prefect.yaml in {tmp_path}: likeness init writes one"):
        deploy(print)
    with pytest.raises(ConfigError, match=f"no prefect.yaml in {tmp_path}: likeness init writes one"):
        run_services(Ports(free_port(), free_port(), free_port()), Store(tmp_path / "store"), print)
    assert list(tmp_path.iterdir()) == []


def free_port() -> int:
    """A port that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
