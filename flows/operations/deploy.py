"""Work pools and deployments, made on the server that Prefect is configured for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from flows.operations.init import check_folder
from storage.errors import ServiceError

PREFECT = [sys.executable, "-m", "prefect"]


def deploy(environment: Mapping[str, str]) -> None:
    """Make the work pools and every deployment of the prefect.yaml here; ServiceError where Prefect refuses."""
    check_folder(Path.cwd())
    for arguments in (
        ["work-pool", "create", "dataset", "--type", "process", "--overwrite"],
        ["work-pool", "create", "gpu", "--type", "process", "--overwrite"],
        ["work-pool", "set-concurrency-limit", "gpu", "1"],
        ["--no-prompt", "deploy", "--all"],
    ):
        done = subprocess.run([*PREFECT, *arguments], env=environment, check=False)
        if done.returncode != 0:
            raise ServiceError(f"prefect {' '.join(arguments)} failed: is `prefect server start` running?")
