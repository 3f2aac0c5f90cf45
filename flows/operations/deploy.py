"""Work pools and deployments, made on the server that Prefect is configured for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from storage.errors import ServiceError

PREFECT = [sys.executable, "-m", "prefect"]


def deploy(environment: Mapping[str, str]) -> None:
    """Make the work pools and every deployment of prefect.yaml; ServiceError where Prefect refuses."""
    if not Path("prefect.yaml").is_file():
        raise ServiceError(f"there is no prefect.yaml in {Path.cwd()}: run this in the project's folder")
    for arguments in (
        ["work-pool", "create", "dataset", "--type", "process", "--overwrite"],
        ["work-pool", "create", "gpu", "--type", "process", "--overwrite"],
        ["work-pool", "set-concurrency-limit", "gpu", "1"],
        ["--no-prompt", "deploy", "--all"],
    ):
        done = subprocess.run([*PREFECT, *arguments], env=environment, check=False)
        if done.returncode != 0:
            raise ServiceError(f"prefect {' '.join(arguments)} failed: is `prefect server start` running?")
