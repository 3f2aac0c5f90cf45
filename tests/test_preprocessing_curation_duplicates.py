"""preprocessing.curation.duplicates: exact, greedy, best first, and the same whatever the block size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocessing.curation import duplicates
from preprocessing.curation.duplicates import Groups, group_embeddings, group_hashes

Distance = Callable[[NDArray[np.generic], NDArray[np.generic]], float]


def bits_apart(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """Hamming distance of two hashes, bit by bit."""
    return float((np.unpackbits(first.astype(np.uint8)) != np.unpackbits(second.astype(np.uint8))).sum())


def apart(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """Euclidean distance."""
    return float(np.linalg.norm(first.astype(float) - second.astype(float)))


def plainly_grouped(rows: NDArray[np.generic], limit: float, distance: Distance) -> list[tuple[int, float]]:
    """Leader and distance of each row, compared with every leader before it, one by one."""
    groups: list[tuple[int, float]] = []
    for number, row in enumerate(rows):
        leaders = [other for other, (leader, _) in enumerate(groups) if leader == other]
        near = [(value, other) for other in leaders if (value := distance(row, rows[other])) <= limit]
        best = min(near, default=None)
        groups.append((number, 0.0) if best is None else (best[1], best[0]))
    return groups


def families(seed: int, count: int) -> NDArray[np.uint8]:
    """Hashes of which many are a few flipped bits away from others."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (count, 256), dtype=np.uint8)
    for row in range(1, count):
        if rng.random() < 0.7:
            bits[row] = bits[rng.integers(row)] ^ (rng.random(256) < rng.choice([0.0, 0.02, 0.06, 0.1]))
    return np.packbits(bits, axis=1)


def as_pairs(groups: Groups) -> list[tuple[int, float]]:
    """Leader and distance of each row."""
    return list(zip(groups.leader.tolist(), groups.distance.tolist(), strict=True))


@pytest.mark.parametrize("block_rows", [1, 7, 1024])
@given(st.integers(0, 10_000), st.integers(0, 80), st.integers(0, 60))
@settings(max_examples=40)
def test_hashes_are_grouped_as_by_hand(block_rows: int, seed: int, count: int, limit: int) -> None:
    """The index gives what comparing every pair gives, the bound included, for any block size."""
    hashes = families(seed, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK_ROWS", block_rows)
        assert as_pairs(group_hashes(hashes, limit)) == plainly_grouped(hashes, limit, bits_apart)


@given(st.integers(0, 10_000), st.integers(1, 60))
@settings(max_examples=30)
def test_embeddings_are_grouped_as_by_hand(seed: int, count: int) -> None:
    """As for hashes, by Euclidean distance."""
    rng = np.random.default_rng(seed)
    people = rng.normal(0, 0.1, (8, 128))
    rows = (people[rng.integers(8, size=count)] + rng.normal(0, 0.03, (count, 128))).astype(np.float32)
    found, expected = group_embeddings(rows, 0.5), plainly_grouped(rows, 0.5, apart)
    assert found.leader.tolist() == [leader for leader, _ in expected]
    assert found.distance == pytest.approx([value for _, value in expected])


def test_small_steps_do_not_chain_strangers() -> None:
    """Of three hashes 20 bits apart each from the next, the third is 40 from the first and leads its own group."""
    bits = np.zeros((3, 256), dtype=np.uint8)
    bits[1, :20] = 1
    bits[2, :40] = 1
    groups = group_hashes(np.packbits(bits, axis=1), 20)
    assert groups.leader.tolist() == [0, 0, 2]
    assert groups.distance.tolist() == [0, 20, 0]


def test_a_huge_family_costs_no_more_than_strangers() -> None:
    """Twenty thousand copies of one hash are one group, without a table of all their pairs."""
    hashes = np.tile(families(0, 1), (20_000, 1))
    assert not group_hashes(hashes, 31).leader.any()
