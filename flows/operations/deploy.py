"""Work pools and deployments, made on the server that Prefect is configured for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.operations.init import check_folder
from storage.errors import ServiceError

PREFECT = [sys.executable, "-m", "prefect"]


COMMANDS = (
    ("work-pool", "create", "dataset", "--type", "process", "--overwrite"),
    ("work-pool", "create", "gpu", "--type", "process", "--overwrite"),
    ("work-pool", "set-concurrency-limit", "gpu", "1"),
    ("--no-prompt", "deploy", "--all"),
)
"""What Prefect is asked, in order."""


def planned_deployments() -> dict[str, Any]:
    """What `deploy` would ask of Prefect; ConfigError where no deployments are here."""
    check_folder(Path.cwd())
    return {
        "commands": [f"prefect {' '.join(arguments)}" for arguments in COMMANDS],
        "deployments": deployment_names(),
    }


def deployment_names() -> list[str]:
    """Of the prefect.yaml here."""
    import yaml

    deployments = yaml.safe_load(Path("prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    return [deployment["name"] for deployment in deployments]


def deploy(environment: Mapping[str, str]) -> None:
    """Make the work pools and every deployment of the prefect.yaml here; ServiceError where Prefect refuses."""
    check_folder(Path.cwd())
    for arguments in COMMANDS:
        done = subprocess.run([*PREFECT, *arguments], env=environment, check=False)
        if done.returncode != 0:
            raise ServiceError(f"prefect {' '.join(arguments)} failed: is `prefect server start` running?")
