"""Whether a version holds what was removed from a store for good, so that it does not come back with it."""

from __future__ import annotations

from functools import partial

import pyarrow.compute as pc

from preprocessing.crawl.urls import web_address
from preprocessing.reject import Rejected
from storage.datasets.dataset import COLUMNS_OF, Dataset
from storage.errors import ConfigError
from storage.tombstones import Tombstones
from storage.wording import numbered


def check_not_buried(dataset: Dataset) -> None:
    """ConfigError for a version whose tables name a photograph, author or place that has a tombstone in its store."""
    tombstones = Tombstones(dataset.store)
    if not any(tombstones.digests.values()):
        return
    buried = partial(_is_buried, tombstones)
    for name in COLUMNS_OF:
        rows = dataset.table(name).read(["photo_sha256", "author", "ref"])
        for column in rows.column_names:
            values = pc.unique(rows[column]).drop_null().to_pylist()
            if found := sum(buried(column, value) for value in values):
                what = {"photo_sha256": "photograph", "author": "author", "ref": "reference"}[column]
                raise ConfigError(
                    f"{dataset.reference} holds what was removed from {dataset.store} for good, "
                    f"{numbered(found, what)}: pull a version that was made without them"
                )


def _is_buried(tombstones: Tombstones, column: str, value: str) -> bool:
    if column == "photo_sha256":
        return tombstones.has("sha256", value)
    if column == "author":
        return tombstones.has("author", value)
    try:
        address = web_address(value)
    except Rejected:
        return False  # a path in a folder
    return tombstones.has("url", address.buried_as) or tombstones.has("host", address.host)
