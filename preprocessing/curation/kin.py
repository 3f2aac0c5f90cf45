"""Which images belong together: of one photograph, of one picture, or of one person, so that no split parts them.

    groups = kin(faces, photos, kinship)

Groups are connected components: whoever is near one of a group is of the group. For pictures that is as curation has
it, but without an order. For people a chain of small steps can join strangers, the likelier the more faces there are:
a group that holds much of the set is told, with the setting that makes it smaller. Not here: which split a group has
(`storage.datasets.splits`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing.curation.duplicates import Pairs, pairs_of_embeddings, pairs_of_hashes
from preprocessing.curation.settings import not_measured
from storage.datasets.splits import Kinship
from storage.tables import arrow, numbers, where

logger = logging.getLogger(__name__)

MUCH = 0.2
"""Of a set, that a group of people can hardly be."""
FEW = 50
"""Images of which any share may be of one person."""


def kin(faces: pa.Table, photos: NDArray[np.int64], kinship: Kinship) -> NDArray[np.int64]:
    """The number of each face's group, from 0 on; `photos` are the numbers of their photographs.

    `faces` has the columns `pdq` and `pdq_quality`, and `embedding` where people count; ConfigError where one was not
    measured.
    """
    _, groups = np.unique(photos, return_inverse=True)
    hashed = where(pc.greater_equal(faces["pdq_quality"], kinship.min_pdq_quality))
    if len(hashed):
        digits = "".join(faces["pdq"].take(arrow(hashed)).to_pylist())
        hashes = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(len(hashed), -1)
        groups = _joined(groups, _at(pairs_of_hashes(hashes, kinship.pdq_max_distance), hashed))
    if kinship.identity_max_distance is None or not len(groups):
        return groups
    vectors = faces["embedding"].combine_chunks()
    if vectors.null_count:
        raise not_measured("splits", "embedding")
    embeddings = numbers(vectors.flatten()).reshape(len(groups), -1)
    groups = _joined(groups, pairs_of_embeddings(embeddings, kinship.identity_max_distance))
    largest = int(np.bincount(groups).max())
    if largest > max(MUCH * len(groups), FEW):
        logger.warning(
            "%d of %d images are one person's by chains of near faces, and so in one split: "
            "set --split-identity-distance lower than %g",
            largest,
            len(groups),
            kinship.identity_max_distance,
        )
    return groups


def _at(pairs: Iterator[Pairs], rows: NDArray[np.int64]) -> Iterator[Pairs]:
    """The same pairs, by other numbers of their rows."""
    for one, other in pairs:
        yield rows[one], rows[other]


def _joined(groups: NDArray[np.int64], pairs: Iterator[Pairs]) -> NDArray[np.int64]:
    """Groups of which those are one that a pair joins."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num = int(groups.max(initial=-1)) + 1
    for one, other in pairs:
        ends = np.unique(np.stack([groups[one], groups[other]]), axis=1)
        graph = coo_array((np.ones(ends.shape[1], bool), (ends[0], ends[1])), shape=(num, num))
        num, component = connected_components(graph, directed=False)
        groups = component[groups].astype(np.int64)
    return groups
