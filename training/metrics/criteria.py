"""The criteria of a scorecard: from measurements to verdicts, by intervals and limits. Arithmetic alone.

A criterion passes where all of its interval lies within its limit, fails where none of it does, and is open between
them. Not here: measuring (`training.metrics.scorecard`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.special import stdtrit

from storage.promotions import Criterion, Outcome, Verdict
from storage.wording import numbered
from training.metric_names import MEASURES
from training.metrics.settings import ScorecardConfig

THIRDS = ("low", "middle", "high")
UNSAID = "not said"
Recalls = Mapping[str, Sequence[list[float] | None]]
"""By the value of a column, the candidate's recall of each set of seeds, and the champion's if there is one."""


def outcome_of(found: Iterable[Criterion]) -> Outcome:
    """Refused for one that fails, left to a person for one that is open, else promoted."""
    verdicts = {one.verdict for one in found}
    if "fails" in verdicts:
        return "refuse"
    return "wait" if "open" in verdicts else "promote"


def left_to_a_person(found: Iterable[Criterion], why: str | None) -> Iterator[Criterion]:
    """Criteria by comparison; where there is a reason `why` figures cannot decide, those that fail are open instead.

    A first criterion that compares nothing is open then too.
    """
    for number, one in enumerate(found):
        is_moot = one.verdict == "fails" or (number == 0 and "champion" not in one.measured)
        if why is None or not is_moot:
            yield one
        else:
            yield one.model_copy(update={"verdict": "open", "says": f"{one.says}; {why}"})


def interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """The mean of a few values, and the interval of it by Student's t."""
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * spread
    return mean, mean - half, mean + half


def share_interval(share: float, num: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share of `num`."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, middle - half), min(1.0, middle + half)


def verdict(low: float, high: float, limit: float) -> Verdict:
    """Of an interval of what is to stay at or below a limit; what is no number is open."""
    if high <= limit:
        return "passes"
    return "fails" if low > limit else "open"


def quality(config: ScorecardConfig, ours: Sequence[float], theirs: Sequence[float] | None) -> Criterion:
    """By how much the candidate's metric is worse than the champion's, set by set."""
    mean, low, high = interval(ours, config.confidence)
    says = f"{config.metric} {mean:.6g} ({low:.6g} to {high:.6g}, {numbered(len(ours), 'set')} of seeds)"
    sign = -1.0 if MEASURES[config.metric].best_is_highest else 1.0
    measured: dict[str, Any] = {"metric": config.metric, "candidate": list(ours)}
    found: list[Verdict] = []
    figures: dict[str, float] = {"value": mean, "low": low, "high": high}
    if config.quality_limit is not None:
        least, most = sorted((sign * low, sign * high))
        found.append(verdict(least, most, sign * config.quality_limit))
        says += f", at {'least' if sign < 0 else 'most'} {config.quality_limit:g}"
        figures["limit"] = config.quality_limit
    if theirs is None:
        found.append("passes" if all(map(math.isfinite, ours)) else "fails")
    else:
        worse = [sign * (our - their) for our, their in zip(ours, theirs, strict=True)]
        champion = float(np.mean(theirs))
        limit = config.quality_margin * abs(champion)
        mean, low, high = interval(worse, config.confidence)
        found.append("fails" if not all(map(math.isfinite, ours)) else verdict(low, high, limit))
        figures = {"value": mean, "low": low, "high": high, "limit": limit}
        measured["champion"] = list(theirs)
        says += f", {mean:+.4g} worse than the champion's {champion:.6g}"
        says += f" ({low:+.4g} to {high:+.4g}, at most {limit:.4g})"
    return Criterion(name="quality", verdict=_worst(found), says=says, measured=measured, **figures)


def groups(values: Sequence[Any], least: int) -> dict[str, list[int]]:
    """The places of a column's values: texts by value, numbers by thirds; those that are `least` or more."""
    said = [value for value in values if value is not None]
    if not said:
        return {}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in said):
        cuts = np.quantile(np.array(said, float), [1 / 3, 2 / 3])
        names = [
            UNSAID if value is None else THIRDS[int(np.searchsorted(cuts, value, side="right"))]
            for value in values
        ]
    elif all(isinstance(value, str | bool) for value in said):
        names = [UNSAID if value is None else str(value) for value in values]
    else:
        return {}
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return {name: places for name, places in sorted(found.items()) if len(places) >= least}


def slices(config: ScorecardConfig, column: str, recalls: Recalls) -> Criterion:
    """By how much recall falls below the champion's, in that slice of a column where it does most."""
    name = f"recall by {column}"
    if not recalls:
        says = f"no value of the column has {config.min_slice} images"
        return Criterion(name=name, verdict="unmeasured", says=says)
    shown = {value: float(np.mean(ours)) for value, (ours, _) in recalls.items() if ours is not None}
    says = ", ".join(f"{value} {recall:.3f}" for value, recall in shown.items())
    measured: dict[str, Any] = {"candidate": {value: ours for value, (ours, _) in recalls.items()}}
    fallen = {
        value: interval([their - our for our, their in zip(ours, theirs, strict=True)], config.confidence)
        for value, (ours, theirs) in recalls.items()
        if ours is not None and theirs is not None
    }
    if not fallen:
        return Criterion(name=name, verdict="passes", says=says, measured=measured)
    measured["champion"] = {value: theirs for value, (_, theirs) in recalls.items()}
    worst = max(fallen, key=lambda value: fallen[value][1:])
    mean, low, high = fallen[worst]
    says += (
        f"; {worst} {mean:+.3f} below the champion's ({low:+.3f} to {high:+.3f}, "
        f"at most {config.slice_margin:g})"
    )
    verdicts = [verdict(low, high, config.slice_margin) for _, low, high in fallen.values()]
    figures = {"value": mean, "low": low, "high": high, "limit": config.slice_margin}
    return Criterion(name=name, verdict=_worst(verdicts), says=says, measured=measured, **figures)


def speed(config: ScorecardConfig, seconds: Sequence[Sequence[float]]) -> Criterion:
    """How many times as long an image takes as the champion's; `seconds` of each generator, taken in turn."""
    ours = min(seconds[0])
    says = f"{1000 * ours:.3g} ms an image"
    measured = {"candidate_s": list(seconds[0])}
    if len(seconds) == 1:
        return Criterion(name="speed", verdict="passes", says=says, value=ours, measured=measured)
    ratios = [our / their for our, their in zip(*seconds, strict=True)]
    value, low, high = ours / min(seconds[1]), min(ratios), max(ratios)
    says += f", {value:.2f} times the champion's (at most {config.slowdown_limit:g})"
    return Criterion(
        name="speed",
        verdict=verdict(min(low, value), value, config.slowdown_limit),
        says=says,
        value=value,
        low=low,
        high=high,
        limit=config.slowdown_limit,
        measured={**measured, "champion_s": list(seconds[1])},
    )


def near_copies(config: ScorecardConfig, share: float, num: int) -> Criterion:
    """The share of an audit's images that are near-copies of training crops, by either distance."""
    low, high = share_interval(share, num, config.confidence)
    limit = config.near_copies_limit
    says = f"{share:.2%} of {numbered(num, 'image')} ({low:.2%} to {high:.2%}, at most {limit:.2%})"
    return Criterion(
        name="near-copies",
        verdict="passes" if limit == 1 else verdict(low, high, limit),
        says=says,
        value=share,
        low=low,
        high=high,
        limit=limit,
    )


def licences(config: ScorecardConfig, licenses: Sequence[str | None], withdrawn: int) -> Criterion:
    """What the images may be used under: no other licences than those allowed, and nothing that was withdrawn."""
    counts = Counter(name or UNSAID for name in licenses)
    says = ", ".join(f"{num} {name}" for name, num in counts.most_common(5))
    others = sum(num for name, num in counts.items() if config.licenses and name not in config.licenses)
    if others:
        says += f"; {numbered(others, 'image')} under others than {', '.join(config.licenses)}"
    if withdrawn:
        says += f"; {numbered(withdrawn, 'photograph')} must not be used any more: likeness forget --from-recheck NAME"
    return Criterion(
        name="licences",
        verdict="fails" if others or withdrawn else "passes",
        says=says,
        value=float(others + withdrawn),
        limit=0.0,
        measured={"images": dict(counts.most_common()), "withdrawn": withdrawn},
    )


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    order: tuple[Verdict, ...] = ("fails", "open", "passes", "unmeasured")
    return min(verdicts, key=order.index)
