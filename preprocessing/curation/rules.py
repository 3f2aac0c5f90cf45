"""The rules on a single face's scores: bounds, the reason each stands for, and what it says of a face.

Not here: choosing among several faces (`preprocessing.curation.choose`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    def passes(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which scores pass; one that is not a number passes no bound."""
        passing = np.ones(len(values), bool)
        if self.low is not None:
            passing &= values >= self.low
        if self.high is not None:
            passing &= values <= self.high
        return passing

    def failure(self, value: float) -> str:
        """What a score that does not pass is rejected with, as in `Rejection.detail`: "sharpness 0.12 < 0.2"."""
        if self.low is not None and not value >= self.low:
            return f"{self.score.name} {_compared(value, '<', self.low)}"
        if self.high is None:
            raise ValueError("a score that passed has no failure")
        return f"{self.score.name} {_compared(value, '>', self.high)}"


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
        return self.rule.failure(self.value)


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
    return [_verdict(rule, face) for rule in rules(config)]


def _verdict(rule: Rule, face: Face) -> Verdict:
    value = rule.value(face)
    if value is None and rule.is_on:
        raise not_measured(rule.setting, rule.score.name)
    return Verdict(rule, value, value is None or bool(rule.passes(np.array([value]))[0]))


def _compared(value: float, sign: str, bound: float) -> str:
    """`value` and `bound` in as few digits as tell them apart."""
    for digits in range(4, 18):
        first, second = f"{value:.{digits}g}", f"{bound:.{digits}g}"
        if first != second:
            break
    return f"{first} {sign} {second}"
