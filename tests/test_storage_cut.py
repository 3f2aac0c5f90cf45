"""storage.cut: where a set is cut follows from the set alone, and one key more or less changes one part."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.cut import BITS, Keys, keys_of, leaves

sets = st.sets(
    st.integers(0, 2**BITS - 1) | st.integers(0, 40) | st.integers(2**63 - 20, 2**63 + 20), max_size=60
)


def drawn(num: int, seed: int = 0) -> Keys:
    """Keys of as many digests, ascending."""
    return np.sort(
        keys_of(pa.array([hashlib.sha256(f"{seed} {n}".encode()).hexdigest() for n in range(num)]))
    )


def parts(keys: Keys, most: int) -> dict[str, tuple[int, ...]]:
    """The keys of each part, by its prefix."""
    return {leaf.prefix: tuple(keys[leaf.start : leaf.stop].tolist()) for leaf in leaves(keys, most)}


def by_definition(keys: list[int], most: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """The shortest prefixes under which at most `most` keys lie, one bit at a time."""
    mine = tuple(key for key in keys if f"{key:064b}".startswith(prefix))
    if len(mine) <= most or len(prefix) == BITS:
        return {prefix: mine} if mine else {}
    return by_definition(keys, most, prefix + "0") | by_definition(keys, most, prefix + "1")


@given(sets, st.integers(1, 9))
def test_parts_are_the_shortest_prefixes(keys: set[int], most: int) -> None:
    """Each key is in one part, in order, and no shorter prefix would do."""
    ordered = sorted(keys)
    found = parts(np.array(ordered, np.uint64), most)
    assert found == by_definition(ordered, most)
    assert [key for part in found.values() for key in part] == ordered
    assert list(found) == sorted(found)


@given(sets, sets, st.integers(1, 9))
def test_a_cut_forgets_how_its_set_came_about(before: set[int], after: set[int], most: int) -> None:
    """A part that neither gains nor loses a key stays what it was: its prefix is cut as before."""
    old = parts(np.array(sorted(before), np.uint64), most)
    new = parts(np.array(sorted(after), np.uint64), most)
    if before == after:
        assert old == new
    changed = before ^ after
    for prefix, keys in old.items():
        touched = any(f"{key:064b}".startswith(prefix) for key in changed)
        shrunk = any(prefix.startswith(other) for other in new)
        assert touched or shrunk or new[prefix] == keys


@pytest.mark.parametrize("num", [129, 200, 255, 500, 3000, 20_000, 20_480])
def test_no_part_is_far_under_size(num: int) -> None:
    """Of digests a part holds half of what it may, or more, but for what chance takes away."""
    sizes = np.array([leaf.stop - leaf.start for leaf in leaves(drawn(num), 128)])
    assert sizes.max() <= 128
    assert sizes.min() > 64 - 4 * np.sqrt(32), sizes.min()
    assert sizes.mean() >= 64


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1500, 9000, 20_000]), st.sampled_from([1, 5, 20, 100, 400]), st.integers(0, 99))
def test_newcomers_change_the_parts_that_they_fall_into(num: int, more: int, seed: int) -> None:
    """Newcomers change the parts that they fall into and no other, and when they leave again all is as it was."""
    old, newcomers = drawn(num), drawn(more, seed + 1)
    new = np.sort(np.concatenate([old, newcomers]))
    before, after = parts(old, 128), parts(new, 128)
    gone = [prefix for prefix, keys in before.items() if after.get(prefix) != keys]
    touched = {
        prefix
        for prefix, keys in before.items()
        for key in newcomers.tolist()
        if f"{key:064b}".startswith(prefix)
    }
    assert set(gone) == touched
    assert parts(np.setdiff1d(new, newcomers), 128) == before


def test_newcomers_change_as_many_parts_as_expected() -> None:
    """Over many draws, of S parts S(1-(1-1/S)^n), within a tenth."""
    for num, more in ((1500, 20), (20_000, 20), (20_000, 300)):
        cut = leaves(drawn(num), 128)
        limits = np.array([leaf.start for leaf in cut])
        keys = drawn(num)
        touched = [
            len(np.unique(limits.searchsorted(keys.searchsorted(drawn(more, seed)), side="right")))
            for seed in range(1, 60)
        ]
        expected = len(cut) * (1 - (1 - 1 / len(cut)) ** more)
        assert np.mean(touched) == pytest.approx(expected, rel=0.1), (num, more, len(cut))


def test_equal_keys_stay_together() -> None:
    """More of them than may be in a part are one; of no keys there is no part; a small set is one part called all."""
    keys = np.array([5] * 7 + [2**63], np.uint64)
    assert [(leaf.prefix, leaf.stop - leaf.start) for leaf in leaves(keys, 3)] == [(f"{5:064b}", 7), ("1", 1)]
    assert leaves(keys[:0], 3) == []
    assert [leaf.name for leaf in leaves(keys, 8)] == ["all"]
    assert keys_of(pa.array(["00000000000000ff" + "0" * 48, "f" * 64])).tolist() == [255, 2**64 - 1]
    with pytest.raises(ValueError, match="hexadecimal"):
        keys_of(pa.array(["x" * 64]))
