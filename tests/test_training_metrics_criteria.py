"""Criteria of a scorecard: verdicts by intervals and limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.promotions import Criterion
from training.metrics import criteria
from training.metrics.settings import ScorecardConfig

CONFIG = ScorecardConfig()
VALUES = st.lists(st.floats(0.1, 100), min_size=3, max_size=6)


@given(VALUES)
def test_an_equal_generator_passes(values: list[float]) -> None:
    """Who measures as the champion does is not worse, whatever the spread: the same seeds are compared."""
    assert criteria.quality(CONFIG, values, values).verdict == "passes"


@given(VALUES, st.floats(1.5, 10))
def test_a_worse_generator_fails(values: list[float], times: float) -> None:
    """One that is worse by far more than the margin on every set fails, and better is never refused."""
    spread = max(values) - min(values)
    worse = [value + times * (spread + 10 * max(values)) for value in values]
    assert criteria.quality(CONFIG, worse, values).verdict == "fails"
    assert criteria.quality(CONFIG, values, worse).verdict == "passes"


def test_an_interval_on_both_sides_is_open() -> None:
    """Where sets of seeds disagree a person decides."""
    found = criteria.quality(CONFIG, [9.0, 10.0, 13.0], [10.0, 10.0, 10.0])
    assert found.verdict == "open", found.says
    assert found.low is not None
    assert found.high is not None
    assert found.limit is not None
    assert found.low < found.limit < found.high


def test_no_number_is_no_quality() -> None:
    """NaN fails, with a champion and without."""
    for theirs in (None, [1.0, 1.0, 1.0]):
        assert criteria.quality(CONFIG, [1.0, math.nan, 1.0], theirs).verdict == "fails"


def test_more_is_better_of_some_metrics() -> None:
    """Of precision and recall less is worse."""
    config = ScorecardConfig(metric="recall_efficientnet_lite0", quality_limit=0.5)
    high, low = [0.8, 0.81, 0.8], [0.2, 0.21, 0.2]
    assert criteria.quality(config, low, high).verdict == "fails"
    assert criteria.quality(config, high, low).verdict == "passes"
    assert criteria.quality(config, low, None).verdict == "fails"
    assert criteria.quality(config, high, None).verdict == "passes"


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_the_interval_of_a_share_holds_it(share: float, num: int) -> None:
    """Wilson's interval lies within 0 and 1 around the share."""
    low, high = criteria.share_interval(share, num, 0.95)
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1


def test_near_copies() -> None:
    """Few pass, many fail, and a few images leave it open."""
    found = [
        criteria.near_copies(CONFIG, share, num).verdict
        for share, num in ((0.02, 1000), (0.2, 1000), (0.0, 8))
    ]
    assert found == ["passes", "fails", "open"]


def test_slices_are_compared_one_by_one() -> None:
    """A slice that falls behind fails the column, however well the others do; small ones are none."""
    groups = criteria.groups([*range(9), None], 3)
    assert {name: len(places) for name, places in groups.items()} == {"low": 3, "middle": 3, "high": 3}
    assert criteria.groups(["a", "a", "b"], 2) == {"a": [0, 1]}
    assert criteria.groups([[1.0], [2.0]], 1) == {}
    better, worse = [0.9, 0.9, 0.91], [0.2, 0.21, 0.2]
    found = criteria.slices(CONFIG, "license", {"a": [better, worse], "b": [worse, better]})
    assert (found.verdict, found.measured["candidate"]["b"]) == ("fails", worse)
    assert "b +0.7" in found.says
    assert criteria.slices(CONFIG, "license", {}).verdict == "unmeasured"


def test_licences() -> None:
    """Other licences than those allowed fail, and so does one photograph that was withdrawn."""
    names = ["CC0", None, "CC0"]
    assert criteria.licences(CONFIG, names, 0).verdict == "passes"
    assert criteria.licences(CONFIG, names, 1).verdict == "fails"
    strict = ScorecardConfig(licenses=("CC0",))
    assert criteria.licences(strict, names, 0).verdict == "fails"
    assert criteria.licences(strict, ["CC0"], 0).verdict == "passes"


def test_what_figures_cannot_decide_is_left_to_a_person() -> None:
    """Of a champion that must go, or could not be compared with, a failure is open instead, with the reason."""
    fails = criteria.quality(CONFIG, [100.0, 100.0, 101.0], [1.0, 1.0, 1.0])
    alone = criteria.quality(CONFIG, [1.0, 1.0, 1.0], None)
    assert [one.verdict for one in criteria.left_to_a_person([fails], None)] == ["fails"]
    for one in (fails, alone):
        [told] = criteria.left_to_a_person([one], "it was withdrawn")
        assert (told.verdict, told.says.endswith("; it was withdrawn")) == ("open", True)


@pytest.mark.parametrize(
    ("verdicts", "outcome"), [("pp", "promote"), ("po", "wait"), ("fo", "refuse"), ("pu", "promote")]
)
def test_outcomes(verdicts: str, outcome: str) -> None:
    """One that fails refuses, one that is open waits."""
    names = {"p": "passes", "o": "open", "f": "fails", "u": "unmeasured"}
    found = [Criterion.model_validate({"name": "x", "verdict": names[each], "says": ""}) for each in verdicts]
    assert criteria.outcome_of(found) == outcome
