"""A score of many faces as bars, and which faces to look at along it; numbers only.

    bars = histogram(values, kept, Limits(low=128))
    for group in samples(values, Limits(low=128)): ...

Not here: drawing, and what the scores are (`flows.pages.report`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BINS, TICKS = 48, 5
TAIL = 0.005
"""Share of values at either end that is piled onto the outermost bars, so that one outlier does not hide the rest."""
NEAR, END, PLAIN = 4, 2, 12
"""Faces shown on each side of a threshold, at each end, and along a score that has no threshold."""
LOOKED_AT = 200
"""Faces beside a threshold among which different ones are looked for."""

Element = TypeVar("Element")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What passes: `low <= value <= high`."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def cuts(self) -> list[float]:
        """The limits there are."""
        return [cut for cut in (self.low, self.high) if math.isfinite(cut)]

    def outside(self, values: Values) -> NDArray[np.bool_]:
        """Which values do not pass; NaN, which is no value, does."""
        return (values < self.low) | (values > self.high)


@dataclass(frozen=True)
class Bar:
    """One bar: where it stands and how high, in percent of the drawing, and its range and counts.

    Heights grow with the square root of the count: thresholds are set in the tails, where faces are few. A bar is
    divided in proportion to its kept and rejected faces.
    """

    x: float
    width: float
    kept_height: float
    rejected_height: float
    span: str
    num_kept: int
    num_rejected: int


@dataclass(frozen=True)
class Histogram:
    """Bars of equal width; `ticks` and `cuts` are values with their place in percent of the width."""

    bars: list[Bar]
    tallest: int
    ticks: list[tuple[float, str]]
    cuts: list[tuple[float, float]]


def histogram(values: Values, kept: NDArray[np.bool_], limits: Limits) -> Histogram:
    """The bars of finite `values`, those of kept faces apart; a threshold falls between two bars, never inside one."""
    edges = _edges(values, limits)
    num_bars = len(edges) - 1
    where = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, num_bars - 1)
    counts = np.array([np.bincount(where[mask], minlength=num_bars) for mask in (kept, ~kept)])
    tallest = int(counts.sum(axis=0).max())
    names = [_tidy(edge) for edge in edges]
    spans = [f"{left} to {right}" for left, right in pairwise(names)]
    if values.min() < edges[0]:
        spans[0] = f"below {names[1]}"
    if values.max() > edges[-1]:
        spans[-1] = f"{names[-2]} and above"
    width = 100 / num_bars

    def height(count: int, total: int) -> float:
        return round(100 * math.sqrt(total / tallest) * count / total, 3)

    bars = [
        Bar(
            x=round(number * width, 3),
            width=round(width, 3),
            kept_height=height(num_kept, num_kept + num_rejected),
            rejected_height=height(num_rejected, num_kept + num_rejected),
            span=span,
            num_kept=num_kept,
            num_rejected=num_rejected,
        )
        for number, (span, (num_kept, num_rejected)) in enumerate(zip(spans, counts.T.tolist(), strict=True))
        if num_kept or num_rejected
    ]
    start, length = float(edges[0]), float(edges[-1] - edges[0])
    tick = _round_step(length / TICKS)
    marks = [tick * n for n in range(math.ceil(start / tick), math.floor((start + length) / tick + 1e-9) + 1)]
    return Histogram(
        bars,
        tallest,
        [(round(100 * (mark - start) / length, 3), _tidy(mark)) for mark in marks],
        [(round(100 * (cut - start) / length, 3), cut) for cut in limits.cuts],
    )


@dataclass(frozen=True)
class Group:
    """Faces from one place along a score, by their number in `values`, lowest first."""

    title: str
    passes: bool
    numbers: list[int]


def samples(
    values: Values, limits: Limits, is_alike: Callable[[int, int], bool] = lambda one, other: False
) -> list[Group]:
    """Groups of faces along a score, lowest first: nearest to each threshold on both its sides, the ends, the median.

    Without a threshold one group at even steps from the lowest to the highest. NaN is passed over. Beside a threshold,
    of faces that are alike only the nearest is shown.
    """
    order = np.argsort(values, kind="stable")[: int(np.isfinite(values).sum())]
    if not limits.cuts:
        return [Group("lowest to highest", True, order[evenly(range(len(order)), PLAIN)].tolist())]
    ordered = values[order]
    start = int(np.searchsorted(ordered, limits.low, side="left"))
    stop = int(np.searchsorted(ordered, limits.high, side="right"))
    below, within, above = range(start), range(start, stop), range(max(start, stop), len(order))
    middle = len(within) // 2

    def different(places: Sequence[int]) -> list[int]:
        chosen: list[int] = []
        for place in places[:LOOKED_AT]:
            if not any(is_alike(int(order[place]), int(order[other])) for other in chosen):
                chosen.append(place)
            if len(chosen) == NEAR:
                break
        return chosen

    # The most telling first: each face is shown once, in the first group that claims it.
    claims = [
        ("just too low", False, different(below[::-1])[::-1]),
        ("just too high", False, different(above)),
        (
            "just high enough" if below else "lowest",
            True,
            different(within) if math.isfinite(limits.low) else [],
        ),
        (
            "just low enough" if above else "highest",
            True,
            different(within[::-1])[::-1] if math.isfinite(limits.high) else [],
        ),
        ("lowest", not below, (below or within)[:END]),
        ("highest", not above, (above or within)[-END:]),
        ("median of what passes", True, within[max(middle - 1, 0) : middle + 1]),
    ]
    taken: set[int] = set()
    groups = []
    for title, passes, claimed in claims:
        if free := [place for place in claimed if place not in taken]:
            taken.update(free)
            groups.append((free[0], Group(title, passes, order[free].tolist())))
    return [group for _, group in sorted(groups, key=lambda found: found[0])]


def evenly(elements: Sequence[Element], limit: int) -> list[Element]:
    """At most `limit` elements at even steps, the first and the last among them; the same ones every time."""
    if len(elements) <= limit:
        return list(elements)
    return [elements[round(n * (len(elements) - 1) / (limit - 1))] for n in range(limit)]


def _edges(values: Values, limits: Limits) -> Values:
    low, high = (float(edge) for edge in np.quantile(values, [TAIL, 1 - TAIL]))
    cuts = limits.cuts
    low, high = min([low, *cuts]), max([high, *cuts])
    step = _round_step((high - low) / BINS or abs(low) / BINS or 1.0)
    if len(cuts) == 2 and cuts[1] - cuts[0] > step / 8:  # a whole number of bars between them
        step = (cuts[1] - cuts[0]) / math.ceil((cuts[1] - cuts[0]) / step - 1e-9)
    anchor = cuts[0] if cuts else 0.0
    # a bar beyond each threshold, for what lies there
    low, high = min([low, *(cut - step for cut in cuts)]), max([high, *(cut + step for cut in cuts)])
    first = math.floor((low - anchor) / step + 1e-9)
    last = max(math.ceil((high - anchor) / step - 1e-9), first + 1)
    return np.array([anchor + step * number for number in range(first, last + 1)])


def _round_step(least: float) -> float:
    """The least of 1, 2 or 5 times a power of ten that is not below `least`, itself above 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((power * n for n in (1, 2, 5) if power * n >= least * (1 - 1e-9)), power * 10)


def _tidy(value: float) -> str:
    """A number without the dust of binary fractions."""
    return f"{round(value, 6) + 0.0:,.7g}"
