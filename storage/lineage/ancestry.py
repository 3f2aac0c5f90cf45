"""What a run learned from: its version, and those of the runs whose weights it began with, as far as is on record.

Not here: how that is shown (`storage.lineage.trace`).
"""

from __future__ import annotations

from collections.abc import Iterator

from storage.errors import NotFoundError
from storage.runs import Run, stored_run
from storage.withdrawals import Withdrawal, withdrawals


def runs_behind(run: Run) -> Iterator[Run]:
    """The run, and those of the store whose weights it began with, newest first."""
    seen: set[str] = set()
    while run.id not in seen:  # records may go round
        seen.add(run.id)
        yield run
        source = run.record.init_from
        if source is None or source.run_id is None:
            return
        try:
            run = stored_run(run.store, source.run_id)
        except NotFoundError:
            return


def withdrawn_behind(run: Run) -> list[Withdrawal]:
    """The withdrawn versions that a run learned from, itself or through the weights that it began with."""
    return [
        withdrawal
        for one in runs_behind(run)
        for withdrawal in withdrawals(run.store, one.record.dataset.name, one.record.dataset.version)
    ]
