"""The rules on a single face's scores: bounds, the reason each stands for, and what it says of a face.

Not here: choosing among several faces (`preprocessing.curation.choose`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from preprocessing.curation.settings import CurateConfig, not_measured
from preprocessing.records import Face
from preprocessing.reject import Reason
from preprocessing.scores.catalogue import BOUNDS, Bound, Score


@dataclass(frozen=True, slots=True)
class Rule:
    """A face is kept where `low` <= its score <= `high`; None is no bound. `setting` is the field that sets them."""

    reason: Reason
    score: Score
    low: float | None
    high: float | None
    setting: str

    @property
    def is_on(self) -> bool:
        """Whether there is a bound."""
        return self.low is not None or self.high is not None

    def value(self, face: Face) -> float | None:
        """The face's score; None where it was not measured."""
        return self.score.of(face)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of a face; `value` is None only where a rule that is off has nothing measured."""

    rule: Rule
    value: float | None
    passed: bool

    @property
    def detail(self) -> str:
        """The failure as in `Rejection.detail`: "sharpness 0.12 < 0.2"."""
        if self.passed or self.value is None:
            raise ValueError("a rule that passed has no failure")
        if self.rule.low is not None and not self.value >= self.rule.low:
            return f"{self.rule.score.name} {_compared(self.value, '<', self.rule.low)}"
        assert self.rule.high is not None
        return f"{self.rule.score.name} {_compared(self.value, '>', self.rule.high)}"


def rules(config: CurateConfig) -> list[Rule]:
    """Every rule on a single face's scores, in the order in which they apply, those that are off included."""

    def rule(score: Score, bound: Bound) -> Rule:
        value: float | None = getattr(config, bound.setting)
        opposite = None if value is None else -value
        low, high = {"low": (value, None), "high": (None, value), "within": (opposite, value)}[bound.side]
        return Rule(bound.reason, score, low, high, f"curate.{bound.setting}")

    return [rule(score, bound) for score, bound in BOUNDS]


def check(face: Face, config: CurateConfig) -> list[Verdict]:
    """What each of `rules(config)` says of one face; ConfigError where one needs a score that was not measured."""
    return [verdict(rule, face) for rule in rules(config)]


def verdict(rule: Rule, face: Face) -> Verdict:
    """What one rule says of one face; ConfigError where it needs a score that was not measured."""
    value = rule.value(face)
    if value is None and rule.is_on:
        raise not_measured(rule.setting, rule.score.name)
    # so that a score which is not a number passes no bound
    passed = (rule.low is None or value is None or value >= rule.low) and (
        rule.high is None or value is None or value <= rule.high
    )
    return Verdict(rule, value, passed)


def first_failure(face: Face, table: Iterable[Rule]) -> Verdict | None:
    """The verdict of the first rule that a face fails, or None."""
    return next((found for rule in table if not (found := verdict(rule, face)).passed), None)


def _compared(value: float, sign: str, bound: float) -> str:
    """`value` and `bound` in as few digits as tell them apart."""
    for digits in range(4, 18):
        first, second = f"{value:.{digits}g}", f"{bound:.{digits}g}"
        if first != second:
            break
    return f"{first} {sign} {second}"
