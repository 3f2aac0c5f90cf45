"""What a run learned from: its version, and those of the runs whose weights it began with, as far as is on record.

Not here: how that is shown (`storage.lineage.trace`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from storage.errors import NotFoundError
from storage.runs import Run, list_runs, stored_run
from storage.store import Store
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


@dataclass(frozen=True)
class Learner:
    """A run that learned from a version, by the sha256 of its manifest."""

    run: Run
    manifest_sha256: str
    through: str | None
    """The run that was trained on it, where this one began with weights of that run, or with what came of them."""


def learned_from(store: Store, manifests: Collection[str]) -> list[Learner]:
    """The runs that learned from any of some versions, oldest first; each once, by the nearest to it."""
    found = []
    for run in list_runs(store):
        for behind in _learned(run):
            if behind.manifest_sha256 in manifests:
                found.append(behind)
                break
    return found


def _learned(run: Run) -> Iterator[Learner]:
    for behind in runs_behind(run):
        record = behind.record
        yield Learner(run, record.dataset.manifest_sha256, None if behind.id == run.id else behind.id)
        source = record.init_from  # it says so too where that run is gone
        if source is not None and source.dataset_manifest_sha256 is not None:
            yield Learner(run, source.dataset_manifest_sha256, source.run_id)


def withdrawn_behind(run: Run) -> list[Withdrawal]:
    """The withdrawn versions that a run learned from, itself or through the weights that it began with."""
    return [
        withdrawal
        for one in runs_behind(run)
        for withdrawal in withdrawals(run.store, one.record.dataset.name, one.record.dataset.version)
    ]
