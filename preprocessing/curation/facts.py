"""Whose facts a photograph has, where several references have its bytes.

The facts of one reference are taken whole, never the author of one with the licence of another. Not here: what a
licence is, and which are allowed (`preprocessing.sources.licenses`).
"""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing.columns import PHOTO_SCHEMA
from preprocessing.sources.licenses import LicensesConfig, license_of
from storage.tables import arrow, column_of, filled, fitted, groups, leaders, numbers, rows_holding, where

logger = logging.getLogger(__name__)

FACTS = ("license", "license_url", "author", "title", "page")
"""What a source says of a photograph, the most important first."""
MAX_NAMED = 3


def with_standing(photos: pa.Table, items: pa.Table, config: LicensesConfig) -> pa.Table:
    """Photographs with the columns of PHOTO_SCHEMA: whether their licence is allowed, and their rank among all.

    Of several with the same bytes the one of the least rank stands for all: one whose licence is allowed comes first,
    then the one of which most is said, then the smaller ref. Where the others say something else, a warning names both.
    """
    said = items.take(arrow(rows_holding(items["ref"], photos["ref"])))
    is_licensed = _allowed(said, config)
    num_facts = np.zeros(photos.num_rows, np.int64)
    for name in FACTS:
        num_facts += numbers(said[name].is_valid().cast(pa.int8()))
    order = np.lexsort((_places(photos["ref"]), -num_facts, ~is_licensed))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    photos = photos.select(["ref", "sha256", "num_bytes"])
    photos = photos.append_column("is_licensed", column_of(is_licensed.tolist(), pa.bool_()))
    photos = photos.append_column("rank", arrow(rank))
    _warn_of_conflicts(photos, said)
    return fitted(photos, PHOTO_SCHEMA)


def _allowed(said: pa.Table, config: LicensesConfig) -> NDArray[np.bool_]:
    """Which rows have a licence that is allowed; each licence is read once."""
    said = said.select(["license", "license_url"])
    first, group = groups(said)
    pairs = said.take(arrow(first)).to_pylist()
    found = [license_of(row["license"], row["license_url"]) for row in pairs]
    is_allowed = np.array([one is not None and one.family in config.families for one in found], bool)
    return is_allowed[group]


def _places(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """The place of each row in the column's order."""
    order = numbers(pc.sort_indices(column)).astype(np.int64)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def _warn_of_conflicts(photos: pa.Table, said: pa.Table) -> None:
    leader = leaders(photos["sha256"], photos["rank"])
    again = np.flatnonzero(leader != np.arange(len(leader)))
    conflicts = []
    for name in FACTS[:3]:
        own, kept = said[name].take(arrow(again)), said[name].take(arrow(leader[again]))
        differs = filled(pc.not_equal(own, kept), False)
        conflicts += [(again[row], name, own[row], kept[row]) for row in where(differs)]
    for row, name, own, kept in conflicts[:MAX_NAMED]:
        logger.warning(
            "%s and %s have the same bytes and say different things (%s: %s, and %s): what the second says is taken",
            photos["ref"][int(row)],
            photos["ref"][int(leader[row])],
            name,
            own,
            kept,
        )
    if len(conflicts) > MAX_NAMED:
        logger.warning("%d more facts of files with the same bytes differ", len(conflicts) - MAX_NAMED)
