"""The rules on a single face's scores: bounds, the reason each stands for, and what it says of a face.

Not here: choosing among several faces (`preprocessing.curation.choose`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from preprocessing.curation.settings import CurateConfig, not_measured
from preprocessing.records import Face
from preprocessing.reject import Reason


@dataclass(frozen=True, slots=True)
class Rule:
    """A face is kept where `low` <= its score <= `high`; None is no bound. `setting` is the field that sets them."""

    reason: Reason
    score: str
    low: float | None
    high: float | None
    setting: str

    @property
    def is_on(self) -> bool:
        """Whether there is a bound."""
        return self.low is not None or self.high is not None

    def value(self, face: Face) -> float | None:
        """The face's score; None where it was not measured."""
        record = face if self.score in ("quad_side_px", "detector_score") else face.scores
        value: float | None = getattr(record, self.score)
        return value


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
            return f"{self.rule.score} {_compared(self.value, '<', self.rule.low)}"
        assert self.rule.high is not None
        return f"{self.rule.score} {_compared(self.value, '>', self.rule.high)}"


def rules(config: CurateConfig) -> list[Rule]:
    """Every rule on a single face's scores, in the order in which they apply, those that are off included."""

    def low(reason: Reason, score: str, field: str) -> Rule:
        return Rule(reason, score, getattr(config, field), None, f"curate.{field}")

    def high(reason: Reason, score: str, field: str) -> Rule:
        return Rule(reason, score, None, getattr(config, field), f"curate.{field}")

    def within(reason: Reason, score: str, field: str) -> Rule:
        bound: float | None = getattr(config, field)
        return Rule(reason, score, None if bound is None else -bound, bound, f"curate.{field}")

    return [
        low(Reason.QUAD_TOO_SMALL, "quad_side_px", "min_quad_px"),
        low(Reason.LOW_DETECTOR_SCORE, "detector_score", "min_detector_score"),
        low(Reason.FEATURES_OUT_OF_FRAME, "feature_margin", "min_feature_margin"),
        high(Reason.PADDING, "padding_fraction", "max_padding_fraction"),
        high(Reason.BAD_LANDMARKS, "landmark_error", "max_landmark_error"),
        within(Reason.POSE, "yaw_deg", "max_abs_yaw_deg"),
        within(Reason.POSE, "pitch_deg", "max_abs_pitch_deg"),
        within(Reason.POSE, "roll_deg", "max_abs_roll_deg"),
        low(Reason.BLURRED, "sharpness", "min_sharpness"),
        low(Reason.EXPOSURE, "brightness", "min_brightness"),
        high(Reason.EXPOSURE, "brightness", "max_brightness"),
        high(Reason.EXPOSURE, "clipped_fraction", "max_clipped_fraction"),
        low(Reason.GREY, "colorfulness", "min_colorfulness"),
        low(Reason.FILTERED, "filter_score", "min_filter_score"),
    ]


def check(face: Face, config: CurateConfig) -> list[Verdict]:
    """What each of `rules(config)` says of one face; ConfigError where one needs a score that was not measured."""
    return [verdict(rule, face) for rule in rules(config)]


def verdict(rule: Rule, face: Face) -> Verdict:
    """What one rule says of one face; ConfigError where it needs a score that was not measured."""
    value = rule.value(face)
    if value is None and rule.is_on:
        raise not_measured(rule.setting, rule.score)
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
