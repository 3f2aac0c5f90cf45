"""The alias `champion`: moved by decisions, back by a rollback, whole at any moment, with its history."""

from __future__ import annotations

import json

import pytest

from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.promotions import (
    Candidate,
    Decision,
    Outcome,
    alias_of,
    answered,
    champion_of,
    decisions,
    kept_checkpoints,
    last_decision,
    named_champion,
    new_decision,
    promote,
    put_decision,
    roll_back,
)
from storage.store import Store


def candidate(run: str, checkpoint: str = "000000032") -> Candidate:
    """A generator of that run."""
    return Candidate(
        run_id=run, checkpoint=checkpoint, generator_sha256="0" * 64, dataset="faces@0123456789abcdef"
    )


def decided(store: Store, run: str, champion: Candidate | None, outcome: Outcome = "promote") -> Decision:
    """A decision on record."""
    found = new_decision(
        "faces",
        candidate=candidate(run),
        **({"champion": champion} if champion else {}),
        outcome=outcome,
        criteria=[{"name": "quality", "verdict": "passes", "says": "fine"}],
        config={},
        config_sha256="0" * 64,
        seconds=1.0,
        facts={},
    )
    put_decision(store, found)
    return found


def test_the_champion_is_the_last_promoted(store: Store) -> None:
    """Promotions follow each other, a rollback goes back one, and another one goes back further."""
    first = promote(store, decided(store, "a", None)).champion
    second = promote(store, decided(store, "b", first)).champion
    third = promote(store, decided(store, "c", second)).champion
    assert third == candidate("c")
    assert roll_back(store, "faces", candidate("b")).champion == candidate("b")
    assert roll_back(store, "faces", candidate("a")).champion == candidate("a")
    with pytest.raises(ConfigError, match="no former champion"):
        roll_back(store, "faces", candidate("b"))
    moves = [(move.move, move.to.run_id) for move in alias_of(store, "faces").moves]
    assert moves == [
        ("promote", "a"),
        ("promote", "b"),
        ("promote", "c"),
        ("rollback", "b"),
        ("rollback", "a"),
    ]


def test_a_rollback_is_of_whom_was_looked_at(store: Store) -> None:
    """Who is to be the champion again is said, so that two rollbacks at once go back once."""
    first = promote(store, decided(store, "a", None)).champion
    promote(store, decided(store, "b", first))
    with pytest.raises(ConfigError):
        roll_back(store, "faces", candidate("c"))
    assert champion_of(store, "faces") == candidate("b")


def test_a_stale_decision_moves_nothing(store: Store) -> None:
    """A candidate that was compared with another champion than there is now is compared again."""
    early, late = decided(store, "a", None), decided(store, "b", None)
    promote(store, early)
    with pytest.raises(ConfigError, match="the champion of faces is a/000000032 now"):
        promote(store, late)
    assert champion_of(store, "faces") == candidate("a")
    assert promote(store, early).moves == alias_of(store, "faces").moves, "done twice is done once"


@pytest.mark.parametrize("outcome", ["wait", "refuse"])
def test_what_was_not_found_good_is_not_promoted(store: Store, outcome: Outcome) -> None:
    """A refused candidate stays out; one that waits comes in by a person's answer, which is given once."""
    found = decided(store, "a", None, outcome)
    with pytest.raises(ConfigError, match="no promotion"):
        promote(store, found)
    if outcome == "refuse":
        with pytest.raises(ConfigError, match="waits for nobody"):
            answered(store, found, "approved")
        return
    given = answered(store, found, "approved")
    assert promote(store, given).champion == candidate("a")
    with pytest.raises(ConfigError, match="approved"):
        answered(store, given, "refused")
    assert last_decision(store, "faces", "a") == given


def test_references_and_checkpoints(store: Store) -> None:
    """NAME:champion is the champion, other references are not its business, and nothing prunes who may come back."""
    with pytest.raises(NotFoundError, match="no champion"):
        named_champion(store, "faces:champion")
    first = promote(store, decided(store, "a", None)).champion
    promote(store, decided(store, "b", first))
    assert named_champion(store, "faces:champion") == candidate("b")
    assert named_champion(store, "faces") is named_champion(store, "a/b:champion") is None
    assert kept_checkpoints(store, "a") == kept_checkpoints(store, "b") == {"000000032"}
    assert kept_checkpoints(store, "c") == set()


def test_records_keep_what_they_do_not_know(store: Store) -> None:
    """A field of a newer version stays in the alias when it moves, and decisions are read in their order."""
    first = promote(store, decided(store, "a", None)).champion
    path = store.path("promotions/faces/champion.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": "kept"}))
    promote(store, decided(store, "b", first))
    assert json.loads(path.read_text())["note"] == "kept"
    assert [one.candidate.run_id for one in decisions(store)] == ["a", "b"]


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of its own."""
    return Store(tmp_path_factory.mktemp("store"))


def test_a_history_that_goes_back_to_nobody_is_damaged(store: Store) -> None:
    """An alias whose rollbacks are more than its promotions can be is one sentence, not a crash of whoever reads it."""
    promote(store, decided(store, "a", None))
    path = store.path("promotions/faces/champion.json")
    value = json.loads(path.read_bytes())
    path.write_text(
        json.dumps({**value, "moves": [*value["moves"], {**value["moves"][0], "move": "rollback"}]})
    )
    with pytest.raises(IntegrityError, match=f"{path} is damaged: a rollback goes back to nobody"):
        alias_of(store, "faces")
