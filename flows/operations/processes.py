"""Processes of this machine that work on flow runs, found without Prefect, which takes seconds to import."""

from __future__ import annotations

import os
import platform

import psutil

PROCESS = "process"
"""The type of pools that are made here; one of another type is an operator's, with its template."""
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""What Prefect tells a flow run's process in its environment."""


def worker_name(pool: str) -> str:
    """What the worker of this machine in a pool is called, so that the next one knows whose runs those are."""
    return f"{pool}@{platform.node()}"


def living_flow_runs() -> set[str]:
    """The ids of flow runs that processes of this machine work on, as far as this user may see."""
    found = set()
    for process in psutil.process_iter():
        try:
            flow_run = process.environ().get(FLOW_RUN)
        except (psutil.Error, OSError):
            continue
        if flow_run is not None and process.pid != os.getpid():
            found.add(flow_run)
    return found
