"""Groups and pairs of near-identical faces, by PDQ hash, and of one person's faces, by embedding.

Greedy, best first: each row in turn joins the nearest leader before it that lies within the distance, or else leads
a group of its own. So all of a group are within the distance of its leader, and no chain of small steps joins
strangers, as it would in connected components; and no two leaders are within the distance of each other.

The search is exact: every row is compared with every leader before it. For 100,000 hashes of which none match that
takes 6 s of one core, and time grows with the square (`benchmarks/near_duplicates.py`); memory beyond the rows is that
of one block's matches. A flat index, since faiss's multi-index hashes are no faster at such distances. Not here: what
is best, and what becomes of a group's other members (`curate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 1024
"""Rows that are searched for at once; changes no result."""

HASH_BITS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """For each row the row that leads its group, itself for a leader, int64 (n,); and the distance between the two,
    float64 (n,).
    """

    leader: NDArray[np.int64]
    distance: NDArray[np.float64]


def group_hashes(hashes: NDArray[np.uint8], max_bits: int) -> Groups:
    """Groups of PDQ hashes, uint8 (n, 32), best first, within a Hamming distance of at most `max_bits`."""
    import faiss  # slow to import, and most commands never search

    def bits_apart(row: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.asarray(np.bitwise_count(row ^ others).sum(axis=1), dtype=np.float64)

    # faiss keeps what lies below the radius, so one more bit includes the bound
    return _grouped(hashes, lambda: faiss.IndexBinaryFlat(HASH_BITS), max_bits + 1, bits_apart, max_bits)


def group_embeddings(embeddings: NDArray[np.float32], max_distance: float) -> Groups:
    """Groups of embeddings, float32 (n, d), best first, within a Euclidean distance of at most `max_distance`."""
    import faiss

    def apart(row: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
        squares = (row.astype(np.float64) - others.astype(np.float64)) ** 2
        return np.asarray(np.sqrt(squares.sum(axis=1)))

    new_index = partial(faiss.IndexFlatL2, embeddings.shape[1])
    return _grouped(embeddings, new_index, _radius(max_distance), apart, max_distance)


def _radius(max_distance: float) -> float:
    """faiss works in float32, on squares: it proposes with a margin, and exact distances decide."""
    return float((max_distance * 1.01 + 1e-3) ** 2)


Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows, and for each another one that is near it."""


def pairs_of_hashes(hashes: NDArray[np.uint8], max_bits: int) -> Iterator[Pairs]:
    """All pairs of PDQ hashes, uint8 (n, 32), within a Hamming distance of at most `max_bits`, some at a time."""
    import faiss

    index = faiss.IndexBinaryFlat(HASH_BITS)
    index.add(np.ascontiguousarray(hashes))
    yield from _pairs(index, hashes, max_bits + 1)


def pairs_of_embeddings(embeddings: NDArray[np.float64], max_distance: float) -> Iterator[Pairs]:
    """All pairs of embeddings, float64 (n, d), within a Euclidean distance of at most `max_distance`, likewise."""
    import faiss

    near = embeddings.astype(np.float32)
    index = faiss.IndexFlatL2(embeddings.shape[1])
    index.add(near)
    for one, other in _pairs(index, near, _radius(max_distance)):
        squares = ((embeddings[one] - embeddings[other]) ** 2).sum(axis=1)
        is_near = np.sqrt(squares) <= max_distance
        yield one[is_near], other[is_near]


def _pairs(index: Any, rows: NDArray[Any], radius: float) -> Iterator[Pairs]:
    """Each row with all within the radius that come after it."""
    for start in range(0, len(rows), BLOCK_ROWS):
        block = np.ascontiguousarray(rows[start : start + BLOCK_ROWS])
        limits, _, found = index.range_search(block, radius)
        one = np.repeat(np.arange(start, start + len(block)), np.diff(limits.astype(np.int64)))
        other = found.astype(np.int64)
        yield one[other > one], other[other > one]


def _grouped(
    rows: NDArray[Any],
    new_index: Callable[[], Any],
    radius: float,
    distance: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]],
    max_distance: float,
) -> Groups:
    """Only leaders enter the index: since they lie apart, a row matches few, however large the groups are."""
    leader = np.arange(len(rows))
    distances = np.zeros(len(rows))
    index, indexed = new_index(), np.empty(0, dtype=np.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = np.ascontiguousarray(rows[start : start + BLOCK_ROWS])
        within = new_index()
        within.add(block)
        among_leaders, among_block = _matches(index, block, radius), _matches(within, block, radius)
        for row, (old, new) in enumerate(zip(among_leaders, among_block, strict=True), start):
            new = np.sort(new) + start
            new = new[new < row]
            near = np.concatenate([np.sort(indexed[old]), new[leader[new] == new]])
            apart = distance(rows[row], rows[near])
            near, apart = near[apart <= max_distance], apart[apart <= max_distance]
            if len(near):
                nearest = int(np.argmin(apart))  # of equally near ones the first, which is the best
                leader[row], distances[row] = near[nearest], apart[nearest]
        leaders = np.arange(start, start + len(block))
        leaders = leaders[leader[leaders] == leaders]
        index.add(np.ascontiguousarray(rows[leaders]))
        indexed = np.concatenate([indexed, leaders])
    return Groups(leader, distances)


def _matches(index: Any, block: NDArray[Any], radius: float) -> list[NDArray[np.int64]]:
    """For each row of `block`, the numbers of the index's rows within the radius, in no order."""
    limits, _, found = index.range_search(block, radius)
    return np.split(found.astype(np.int64), limits[1:-1].astype(np.int64))
