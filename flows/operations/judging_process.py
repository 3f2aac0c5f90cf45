"""A scorecard taken by a process of its own, which has a GPU to itself while it lasts, as a training has.

Not here: what is measured (`training.metrics.scorecard`), and what follows from it (`flows.promote`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from flows.operations.gpus import cards
from flows.operations.training_process import STOP_S, stop_process
from storage.errors import TrainingError
from storage.promotions import Decision
from storage.runs import Run
from training.metrics.settings import ScorecardConfig


def take_scorecard(
    run: Run,
    checkpoint: str,
    config: ScorecardConfig,
    device: str,
    withdrawn: int,
    on_wait: Callable[[str], None],
) -> Decision:
    """Judge a checkpoint of a run, and return the decision, which is on record; TrainingError has the last words."""
    command = [
        sys.executable, "-m", "training.metrics.scorecard", str(run.folder), checkpoint, "--device", device,
        "--config", config.model_dump_json(), "--withdrawn", str(withdrawn),
    ]  # fmt: skip
    with cards(1, on_wait, names=None if device in ("auto", "cuda") else ()) as held:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **held.environment},
            pass_fds=held.descriptors,
        )
        try:
            said, words = process.communicate()
        finally:
            stop_process(process, STOP_S)
    if process.returncode != 0:
        last = words.decode(errors="replace").strip().rpartition("\n")[2]
        last = last or f"it ended with status {process.returncode}"
        raise TrainingError(f"no scorecard of {run.id}: {last}")
    name, decision = run.record.dataset.name, said.decode().split()[-1]
    return Decision.read(run.store.file(f"promotions/{name}/decisions/{decision}.json"))
