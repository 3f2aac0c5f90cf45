"""Promotion: a run is judged by a scorecard, the alias `champion` of its dataset's name moves or stays, and comes back.

    decision = judged(store, run, ScorecardConfig())
    settle(store, decision)
    roll_back(store, "faces")

The alias is the store's (`storage.promotions`); MLflow's is set after it, and mirrors it. Nothing here imports torch: a
scorecard is taken by a process of its own. Not here: Prefect (`flows.retrain`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flows.operations.judging_process import take_scorecard
from storage import promotions
from storage.datasets.dataset import Dataset, open_recorded
from storage.errors import ConfigError, NotFoundError
from storage.lineage.ancestry import withdrawn_behind
from storage.promotions import Alias, Candidate, Decision, alias_of, last_decision
from storage.runs import Run, check_checkpoint, stored_run
from storage.store import Store
from training.metrics.settings import ScorecardConfig


@dataclass(frozen=True)
class RolledBack:
    """Who was the champion, who is it again, and of which withdrawn versions that one learned."""

    left: Candidate
    champion: Candidate
    withdrawn: list[str]


def judged(
    run: Run,
    checkpoint: str | None,
    config: ScorecardConfig,
    device: str = "auto",
    on_wait: Callable[[str], None] = lambda _: None,
) -> Decision:
    """The decision on a run's checkpoint, or on its newest, put on record; nothing is promoted yet."""
    folder = run.checkpoint(checkpoint)
    dataset = open_recorded(run.store, run.record.dataset, f"run {run.id}")
    return take_scorecard(run, folder.name, config, device, num_withdrawn(dataset), on_wait)


def num_withdrawn(dataset: Dataset) -> int:
    """How many photographs of a version the newest recheck of its name found withdrawn."""
    from preprocessing.recheck import last_recheck  # and with it a crawler

    record = last_recheck(dataset.store, dataset.name)
    if record is None or not record.withdrawn:
        return 0
    held = set(dataset.table("images").read(["photo_sha256"])["photo_sha256"].to_pylist())
    return len(held & {one.photo_sha256 for one in record.withdrawn})


def settle(store: Store, decision: Decision) -> bool:
    """Do as a decision says, by a scorecard or a person; whether its candidate is the champion now."""
    if not decision.is_positive:
        return False
    alias = promotions.promote(store, decision)
    _mirror(store, alias)
    return True


def answer(store: Store, run: Run, checkpoint: str | None, approved: bool) -> Decision:
    """Put a person's answer on record and do as it says; ConfigError where no decision on the run waits for one."""
    decision = last_decision(store, run.record.dataset.name, run.id, checkpoint)
    if decision is None:
        raise ConfigError(
            f"run {run.id} has not been judged: likeness promote {run.id} without an answer does it"
        )
    said: promotions.Person = "approved" if approved else "refused"
    is_said = (
        decision.answer is not None and decision.answer.answer == said
    )  # and a kill came before it was done
    given = decision if is_said else promotions.answered(store, decision, said)
    settle(store, given)
    return given


def former_of(store: Store, name: str) -> tuple[Candidate, Candidate]:
    """The champion of a name and the one before it, whose checkpoint is whole; NotFoundError where there is none."""
    champion, former = promotions.champion_of(store, name), alias_of(store, name).former
    if former is None:
        raise NotFoundError(f"{name!r} has no former champion to go back to: {champion.run_id} is its first")
    check_checkpoint(stored_run(store, former.run_id).checkpoint(former.checkpoint))
    return champion, former


def roll_back(store: Store, name: str) -> RolledBack:
    """Make the former champion of a name the champion again, once its files are found to be what they were."""
    left, former = former_of(store, name)
    _mirror(store, promotions.roll_back(store, name, former))
    behind = withdrawn_behind(stored_run(store, former.run_id))
    return RolledBack(left, former, [withdrawal.reference for withdrawal in behind])


def _mirror(store: Store, alias: Alias) -> None:
    """Tell MLflow who the champion is."""
    from training.tracking import name_champion

    move = alias.moves[-1]
    name_champion(stored_run(store, move.to.run_id), move.to.checkpoint, move.decision)
