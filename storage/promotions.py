"""Which run's generator a dataset's name stands for, its champion; what it was before; and why each was taken or not.

    promotions/NAME/champion.json          every move of the alias, oldest first: the last champion is the one
    promotions/NAME/decisions/ID.json      a scorecard's decision on a candidate, and a person's answer, if it waited

Both are written whole, so that a reader finds the old champion or the new one. A move is made only where the champion
is the one that the candidate was compared with. Not here: what a scorecard measures (`training.metrics.scorecard`).

    champion = champion_of(store, "faces")
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from storage.datasets.records import VersionSummary
from storage.environment import Facts
from storage.errors import ConfigError, NotFoundError
from storage.local import listed
from storage.records import FileName, Part, Sha256, StoredRecord
from storage.store import Store

CHAMPION = "champion"
Outcome = Literal["promote", "wait", "refuse"]
"""What a scorecard decides: the candidate takes the alias, a person is asked, or the champion stays."""
Verdict = Literal["passes", "open", "fails", "unmeasured"]
"""What a criterion says; `open` where its interval lies on both sides of its limit."""
Person = Literal["approved", "refused"]


class Candidate(Part):
    """A generator: the run, the checkpoint and the weights."""

    run_id: FileName
    checkpoint: FileName
    generator_sha256: Sha256
    dataset: str
    """What it was trained on: NAME@VERSION, or NAME@VERSION:SPLIT."""


class Criterion(Part):
    """One line of a scorecard."""

    name: str
    verdict: Verdict
    says: str
    """The measurement and its limit, in a sentence."""
    value: float | None = None
    low: float | None = None
    """The interval's lower end."""
    high: float | None = None
    limit: float | None = None
    measured: dict[str, Any] = Field({})
    """All that the value was made of."""


class Answer(Part):
    """What a person said of a candidate that waited."""

    answer: Person
    answered_at: str


class Decision(StoredRecord):
    """What a scorecard made of a candidate, and why."""

    decision: FileName
    name: str
    """The dataset's, whose champion it is about."""
    candidate: Candidate
    champion: Candidate | None = None
    """With whom it was compared; none before the first promotion."""
    outcome: Outcome
    criteria: list[Criterion]
    why: str | None = None
    """Why the candidate was trained."""
    config: dict[str, Any]
    """The scorecard's limits."""
    config_sha256: Sha256
    decided_at: str
    seconds: float
    facts: Facts
    answer: Answer | None = None

    @property
    def reasons(self) -> list[str]:
        """What each criterion says, those that stand in the way first."""
        order = ("fails", "open", "passes", "unmeasured")
        ranked = sorted(self.criteria, key=lambda one: order.index(one.verdict))
        return [f"{one.name} {one.verdict}: {one.says}" for one in ranked]

    @property
    def waits(self) -> bool:
        """Whether a person is still to say."""
        return self.outcome == "wait" and self.answer is None

    @property
    def is_positive(self) -> bool:
        """Whether the candidate is to be the champion."""
        return self.outcome == "promote" or (self.answer is not None and self.answer.answer == "approved")


class Move(Part):
    """A change of the alias: to whom, when, by what."""

    move: Literal["promote", "rollback"]
    to: Candidate
    moved_at: str
    decision: str | None = None
    """The one that it follows; none of a rollback."""


class Alias(StoredRecord):
    """The alias of a dataset's name with all its history."""

    name: str
    alias: str = CHAMPION
    moves: list[Move] = Field([])
    """Oldest first."""

    @model_validator(mode="after")
    def _goes_back_to_somebody(self) -> Self:
        length = 0
        for move in self.moves:
            length += 1 if move.move == "promote" else -1
            if length < 1:
                raise ValueError("a rollback goes back to nobody")
        return self

    @property
    def line(self) -> list[Candidate]:
        """Those whom a rollback can come back to, the champion last."""
        found: list[Candidate] = []
        for move in self.moves:
            if move.move == "promote":
                found.append(move.to)
            else:
                found.pop()
        return found

    @property
    def champion(self) -> Candidate | None:
        """Whom the alias leads to."""
        return self.line[-1] if self.line else None

    @property
    def former(self) -> Candidate | None:
        """Whom a rollback makes the champion."""
        return self.line[-2] if len(self.line) > 1 else None


def alias_of(store: Store, name: str) -> Alias:
    """The alias of a name; without a move where nothing was promoted yet."""
    key = _alias_key(name)
    return Alias.read(store.file(key)) if store.exists(key) else Alias.new(name=name)


def champion_of(store: Store, name: str) -> Candidate:
    """The champion of a name; NotFoundError where it has none."""
    champion = alias_of(store, name).champion
    if champion is None:
        raise NotFoundError(f"{name!r} has no champion in {store} yet: likeness promote RUN makes a run it")
    return champion


def named_champion(store: Store, reference: str) -> Candidate | None:
    """The champion that a reference such as `faces:champion` means; None for any other reference."""
    name, colon, alias = reference.rpartition(":")
    return champion_of(store, name) if colon and alias == CHAMPION and "/" not in name else None


def kept_checkpoints(store: Store, run_id: str) -> set[str]:
    """The checkpoints of a run that are a champion or may be again, which nothing prunes."""
    store.refresh("promotions")
    paths = listed(store.path("promotions"), "*/champion.json")
    line = (one for path in paths for one in Alias.read(path).line)
    return {one.checkpoint for one in line if one.run_id == run_id}


def new_decision(name: str, **fields: Any) -> Decision:
    """A decision of now, under an id of its own."""
    at = datetime.now(UTC)
    decision = f"{at:%Y%m%d-%H%M%S}-{name}-{secrets.token_hex(2)}"
    return Decision.new(decision=decision, name=name, decided_at=_text(at), **fields)


def put_decision(store: Store, decision: Decision) -> None:
    """Put a decision on record."""
    store.put(_decision_key(decision.name, decision.decision), decision.as_bytes())


def decisions(store: Store, name: str = "*") -> list[Decision]:
    """The decisions on candidates of a name, or of all names, oldest first."""
    paths = listed(store.path("promotions"), f"{name}/decisions/*.json")
    return sorted(map(Decision.read, paths), key=lambda one: one.decided_at)


def last_decision(store: Store, name: str, run_id: str, checkpoint: str | None = None) -> Decision | None:
    """The newest decision on a run, or on one of its checkpoints."""
    found = [
        one
        for one in decisions(store, name)
        if one.candidate.run_id == run_id and checkpoint in (None, one.candidate.checkpoint)
    ]
    return found[-1] if found else None


def answered(store: Store, decision: Decision, answer: Person) -> Decision:
    """A decision that waited, with a person's answer on record; ConfigError where it does not wait."""
    key = _decision_key(decision.name, decision.decision)
    answered_at = _text(datetime.now(UTC))

    def given() -> bytes:
        now = Decision.read(store.file(key))
        if not now.waits:
            said = now.answer.answer if now.answer else f"decided: {now.outcome}"
            raise ConfigError(f"decision {now.decision} waits for nobody, it was {said}")
        return now.model_copy(update={"answer": Answer(answer=answer, answered_at=answered_at)}).as_bytes()

    store.change(key, given)
    return Decision.read(store.file(key))


def promote(store: Store, decision: Decision) -> Alias:
    """Make the candidate of a decision the champion.

    ConfigError where the decision says otherwise, or the champion is not the one that it was compared with any more.
    """
    if not decision.is_positive:
        raise ConfigError(f"decision {decision.decision} is no promotion: {'; '.join(decision.reasons)}")

    def promoted() -> bytes | None:
        alias = alias_of(store, decision.name)
        if alias.champion == decision.candidate:
            return None
        if alias.champion != decision.champion:
            raise ConfigError(
                f"decision {decision.decision} compared with {_said(decision.champion)}, and the champion of "
                f"{decision.name} is {_said(alias.champion)} now: likeness promote {decision.candidate.run_id} "
                "compares again"
            )
        return _moved(alias, "promote", decision.candidate, decision.decision)

    store.change(_alias_key(decision.name), promoted)
    return alias_of(store, decision.name)


def roll_back(store: Store, name: str, expected: Candidate) -> Alias:
    """Make the former champion of a name, which `expected` is, the champion again; ConfigError where there is none."""

    def rolled_back() -> bytes:
        alias = alias_of(store, name)
        if alias.former is None or alias.former != expected:
            raise ConfigError(f"{name!r} has no former champion {expected.run_id} to go back to")
        return _moved(alias, "rollback", expected, None)

    store.change(_alias_key(name), rolled_back)
    return alias_of(store, name)


def _moved(alias: Alias, move: Literal["promote", "rollback"], to: Candidate, decision: str | None) -> bytes:
    made = Move(
        move=move, to=to, moved_at=_text(datetime.now(UTC)), **({"decision": decision} if decision else {})
    )
    moved = alias.model_copy(update={"moves": [*alias.moves, made]})
    return Alias.new(**moved.model_dump(exclude={"format"}, exclude_unset=True)).as_bytes()


def _said(candidate: Candidate | None) -> str:
    return f"{candidate.run_id}/{candidate.checkpoint}" if candidate else "none"


def _alias_key(name: str) -> str:
    return f"promotions/{name}/champion.json"


def _decision_key(name: str, decision: str) -> str:
    return f"promotions/{name}/decisions/{decision}.json"


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")


def candidate_of(run_id: str, checkpoint: str, generator_sha256: str, dataset: VersionSummary) -> Candidate:
    """A checkpoint of a run as a candidate."""
    return Candidate(
        run_id=run_id, checkpoint=checkpoint, generator_sha256=generator_sha256, dataset=dataset.part
    )
