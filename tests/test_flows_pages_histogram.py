"""flows.pages.histogram: every value counted once, and thresholds where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.pages.histogram import END, NEAR, PLAIN, Histogram, Limits, Values, evenly, histogram, samples

values = st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=60).map(np.array)
cuts = st.one_of(st.none(), st.floats(-1e4, 1e4))


def limits_of(low: float | None, high: float | None) -> Limits:
    """Limits from what may be missing."""
    return Limits(-np.inf if low is None else low, np.inf if high is None else high)


def drawn(found: Values, limits: Limits) -> Histogram:
    """A histogram in which every other face is kept."""
    return histogram(found, np.arange(len(found)) % 2 == 0, limits)


@given(values, cuts, cuts)
def test_bars_hold_every_value_once(found: Values, low: float | None, high: float | None) -> None:
    """Kept and rejected counts sum to the faces, every bar lies inside the drawing and the tallest fills it."""
    made = drawn(found, limits_of(low, high))
    assert sum(bar.num_kept for bar in made.bars) == (len(found) + 1) // 2
    assert sum(bar.num_kept + bar.num_rejected for bar in made.bars) == len(found)
    assert all(bar.x >= 0 and bar.x + bar.width <= 100.1 for bar in made.bars), made.bars
    assert max(bar.kept_height + bar.rejected_height for bar in made.bars) == pytest.approx(100, abs=0.01)
    assert all(0 <= place <= 100.001 for place, _ in [*made.ticks, *made.cuts]), made


@given(values, st.floats(-1e4, 1e4))
def test_the_threshold_divides_the_bars_as_it_does_the_faces(found: Values, low: float) -> None:
    """The bars left of the line hold exactly the faces below the threshold."""
    made = drawn(found, Limits(low=low))
    [(place, _)] = made.cuts
    left = sum(bar.num_kept + bar.num_rejected for bar in made.bars if bar.x + bar.width / 2 < place)
    assert left == int((found < low).sum())


@given(values, cuts, cuts)
def test_samples_run_along_the_score(found: Values, low: float | None, high: float | None) -> None:
    """Groups come lowest first, show no face twice, and are named by which side of the thresholds they lie on."""
    limits = limits_of(low, high)
    groups = samples(found, limits)
    shown = [number for group in groups for number in group.numbers]
    assert len(set(shown)) == len(shown)
    assert sorted(found[shown].tolist()) == found[shown].tolist()
    for group in groups:
        assert set(limits.outside(found[group.numbers]).tolist()) == {not group.passes}, group


def test_samples_show_the_nearest_to_the_threshold() -> None:
    """On each side of the threshold its nearest faces, and the ends."""
    groups = {group.title: group.numbers for group in samples(np.arange(100.0), Limits(low=50))}
    assert groups["just too low"] == list(range(50 - NEAR, 50))
    assert groups["just high enough"] == list(range(50, 50 + NEAR))
    assert groups["lowest"] == list(range(END))
    assert groups["highest"] == list(range(100 - END, 100))


def test_samples_beside_a_threshold_are_of_different_pictures() -> None:
    """Of a crowd of copies next to the threshold one is shown, and then the nearest others."""
    groups = samples(np.arange(100.0), Limits(low=50), lambda one, other: one // 10 == other // 10)
    [low] = [group.numbers for group in groups if group.title == "just too low"]
    [high] = [group.numbers for group in groups if group.title == "just high enough"]
    assert low == [19, 29, 39, 49][-NEAR:]
    assert high == [50, 60, 70, 80][:NEAR]


def test_a_score_without_threshold_is_sampled_evenly() -> None:
    """From the lowest to the highest, passing over what has no value."""
    [group] = samples(np.array([*range(100), np.nan]), Limits())
    assert len(group.numbers) == PLAIN
    assert (group.numbers[0], group.numbers[-1]) == (0, 99)


@given(st.lists(st.integers()), st.integers(2, 20))
def test_evenly_takes_no_more_than_asked(elements: list[int], limit: int) -> None:
    """As many as there are up to the limit, both ends among them, in their order."""
    chosen = evenly(range(len(elements)), limit)
    assert len(chosen) == min(limit, len(elements))
    assert chosen == sorted(set(chosen))
    if elements:
        assert (chosen[0], chosen[-1]) == (0, len(elements) - 1)
