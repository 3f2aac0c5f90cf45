"""Facts of a run that do not determine its bytes but explain them: code commit, lock, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from storage.digest import file_digest
from storage.records import Part

PROJECT_ROOT = Path(__file__).resolve().parent.parent
RECORDED = ("likeness", "numpy", "pillow", "dlib-bin", "opencv-python-headless", "torch", "pyarrow",
            "prefect", "dask", "mlflow")  # fmt: skip


class Facts(Part):
    """The code that did something, and the machine."""

    code_commit: str | None = None
    code_dirty: bool | None = None
    lock_sha256: str | None = None
    python: str | None = None
    platform: str | None = None
    host: str | None = None
    packages: dict[str, str | None] = Field({})


@cache
def run_facts() -> Facts:
    """Commit and lock of the code (None where there is no checkout), versions, Python and machine."""
    lock = PROJECT_ROOT / "constraints.txt"
    return Facts(
        code_commit=_git("rev-parse", "HEAD"),
        code_dirty=bool(_git("status", "--porcelain", "--untracked-files=no")),
        lock_sha256=file_digest(lock) if lock.is_file() else None,
        python=platform.python_version(),
        platform=platform.platform(),
        host=platform.node(),
        packages={name: _version(name) for name in RECORDED},
    )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    if not (PROJECT_ROOT / ".git").exists():
        return None
    # without the lock of `git status`, which a full disk would leave behind
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
