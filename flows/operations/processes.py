"""Processes of this machine that work on flow runs, found without Prefect, which takes seconds to import."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import psutil

PROCESS = "process"
"""The type of pools that are made here; one of another type is an operator's, with its template."""
ENGINE = "prefect.engine"
"""The module that a flow run's process runs."""
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""What Prefect tells a flow run's process in its environment."""


def worker_name(pool: str) -> str:
    """What the worker of this machine in a pool is called, so that the next one knows whose runs those are."""
    return f"{pool}@{platform.node()}"


@dataclass(frozen=True)
class Living:
    """The flow runs that processes of this machine work on, as far as this user may see."""

    ids: frozenset[str]
    has_hidden: bool = False
    """Whether another user has such a process, whose run this one may not know."""

    def may_have(self, flow_run: str) -> bool:
        """Whether a process here works on a flow run, or may."""
        return self.has_hidden or flow_run in self.ids


def living_flow_runs() -> Living:
    """Those of now."""
    found, has_hidden = set(), False
    for process in psutil.process_iter():
        try:
            flow_run = process.environ().get(FLOW_RUN)
        except psutil.AccessDenied:
            has_hidden = has_hidden or _is_flow_run(process)
            continue
        except (psutil.Error, OSError):
            continue
        if flow_run is not None and process.pid != os.getpid():
            found.add(flow_run)
    return Living(frozenset(found), has_hidden)


def _is_flow_run(process: psutil.Process) -> bool:
    """Whether a process is that of a flow run, by its command, which everybody may see."""
    try:
        return ENGINE in process.cmdline()
    except (psutil.Error, OSError):
        return False
