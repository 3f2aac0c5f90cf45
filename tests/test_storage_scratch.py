"""storage.scratch: a folder for a while goes with its block, after a kill with the next process; nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.scratch import HELD, YOUNG_S, delete_left_over, scratch_folder

USES = """
import sys, time
from pathlib import Path
from storage.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), "copy-") as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_bytes(b"data")
    print(folder, flush=True)
    time.sleep(600)
"""


@contextmanager
def used(beside: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A folder that another process uses, and that process."""
    with subprocess.Popen(
        [sys.executable, "-c", USES, str(beside)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield Path(process.stdout.readline().strip()), process
        finally:
            process.kill()


def test_what_is_used_stays_and_what_was_killed_goes(tmp_path: Path) -> None:
    """While its process lives nobody deletes a folder; after a kill the next one does, and says which it was."""
    with used(tmp_path) as (folder, process):
        assert (folder / "deep" / "file").is_file()
        assert delete_left_over(tmp_path) == []
        assert (folder / "deep" / "file").is_file()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert delete_left_over(tmp_path) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_it_goes_with_its_block(tmp_path: Path) -> None:
    """However the block ends."""

    def use() -> None:
        with scratch_folder(tmp_path, "copy-") as folder:
            (folder / "file").write_bytes(b"data")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        use()
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_is_deleted(tmp_path: Path) -> None:
    """A folder of such a name that is somebody's own stays, as does one that is just being made."""
    (tmp_path / "copy-photos12").mkdir()
    (tmp_path / "copy-photos12" / "anna.jpg").write_bytes(b"mine")
    made = tmp_path / "copy-abcdefgh" / HELD
    made.parent.mkdir()
    made.touch()
    assert delete_left_over(tmp_path) == []
    old = time.time() - 2 * YOUNG_S
    os.utime(made, (old, old))
    assert delete_left_over(tmp_path) == [made.parent]
    assert [path.name for path in tmp_path.rglob("*")] == ["copy-photos12", "anna.jpg"]
