"""The photographs that the generator in the box was trained on, and where a store has them.

    held = photographs_held(store)

A photograph is its bytes: whoever built a version of the same files with later code has the same photographs, though
other pixels of crops. Not here: the generator's file (`storage.bundled.generator`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.datasets.dataset import Dataset, dataset_names, latest_version
from storage.errors import PipelineError
from storage.store import Store
from storage.tables import texts, where

logger = logging.getLogger(__name__)

FILE = Path(__file__).with_name("portraits.jsonl")
FOLDER = "congress/"
"""Of the file's photographs those that were trained on; the others were held out."""


@dataclass(frozen=True)
class Held:
    """The rows of a version's images that are of these photographs, and of how many of them."""

    dataset: Dataset
    rows: NDArray[np.int64]
    num_photographs: int


@cache
def photographs() -> frozenset[str]:
    """The sha256 of each."""
    rows = map(json.loads, FILE.read_text(encoding="utf-8").splitlines())
    return frozenset(row["sha256"] for row in rows if row["file"].startswith(FOLDER))


def photographs_held(store: Store) -> Held | None:
    """Where most of them are, among what the names of a store mean; None where there is none of them.

    A version that cannot be read is told in a warning.
    """
    best = None
    for name in dataset_names(store):
        try:
            version = latest_version(store, name)
            held = None if version is None else held_in(Dataset(store, name, version))
        except (PipelineError, OSError) as error:
            logger.warning("%s: it is left out", error)
            continue
        if held and (best is None or held.num_photographs > best.num_photographs):
            best = held
    return best


def held_in(dataset: Dataset) -> Held | None:
    """Which images of a version are of these photographs; None where none is."""
    photos = dataset.table("images").read(["photo_sha256"])["photo_sha256"]
    rows = where(_are_these(photos))
    return Held(dataset, rows, num_of_these(photos)) if len(rows) else None


def num_of_these(photos: pa.ChunkedArray) -> int:
    """How many of them a column of sha256s has, each counted once."""
    return int(pc.count_distinct(photos.filter(_are_these(photos))).as_py())


def num_learned(digests: Iterable[str]) -> int:
    """How many of them some sha256s name, each by all of its digits or by its first ones."""
    beginnings = tuple(digests)
    return sum(sha256.startswith(beginnings) for sha256 in photographs())


def _are_these(photos: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(photos, texts(*sorted(photographs())))
