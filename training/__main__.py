"""Train a run in a process of its own: start it, or go on from its newest checkpoint.

    python -m training store/runs/20261123-101500-faces-smoke-3f2a
    python -m training store/runs/20261123-101500-faces-smoke-3f2a --processes 2

The folder's run.json says what to train on and how; of several processes each has a GPU of its own. SIGTERM and
Ctrl-C write a checkpoint and end with status 0; the same command then goes on. What this process does is followed
through the files it writes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from storage.config import tracking_address
from storage.errors import PipelineError, ServiceError
from storage.local import FULL, REFUSED
from storage.runs import DISK_FULL, UNREACHED
from training.engine.ranks import run_ranks
from training.process import StopRequest, train_aloud


def main(arguments: list[str] | None = None) -> int:
    """Train and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a run, or go on with it.")
    parser.add_argument("run_folder", type=Path, help="folder that holds run.json")
    parser.add_argument("--tracking-uri", help='MLflow address, or "none" (default: the store\'s mlflow.db)')
    parser.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 4), help="threads that decode images"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="how many of this machine train together, a GPU each"
    )
    parser.add_argument(
        "--stop-with-parent",
        action="store_true",
        help="write a checkpoint and end when the starting process is gone",
    )
    given = parser.parse_args(arguments)
    if given.processes < 1:
        parser.error(f"--processes is {given.processes}: at least 1")
    try:
        tracking_address(given.tracking_uri)
    except ValueError as error:
        parser.error(f"--tracking-uri: {error}")
    settings = (given.run_folder, given.tracking_uri, given.workers, given.stop_with_parent)
    try:
        if given.processes > 1:
            run_ranks(given.processes, train_aloud, settings, StopRequest(given.stop_with_parent))
        else:
            train_aloud(*settings)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return UNREACHED if isinstance(error, ServiceError) else 1
    except OSError as error:
        if error.errno not in (*FULL, *REFUSED):
            raise
        print(f"{error.filename or given.run_folder} cannot be written: {error.strerror}", file=sys.stderr)
        return DISK_FULL if error.errno in FULL else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
