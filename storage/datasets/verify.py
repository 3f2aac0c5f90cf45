"""Whether a version's bytes are what they were when it was published: every hash on record, checked.

    checked = verify(open_dataset(store, "faces"))

Not here: mending what differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from storage.datasets.dataset import COLUMNS_OF, Dataset, TableName
from storage.datasets.records import ShardFacts
from storage.errors import IntegrityError, NotFoundError
from storage.shards import check_shard
from storage.tables import Row, arrow, rows_by_value
from storage.wording import numbered


@dataclass(frozen=True)
class Checked:
    """What `verify` checked, and every difference it found."""

    shards: int
    images: int
    originals: int
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "intact": not self.problems,
            "shards": self.shards,
            "images": self.images,
            "originals": self.originals,
            "problems": self.problems,
        }

    def summary(self) -> str:
        """For people."""
        counts = {"shard": self.shards, "image": self.images, "original": self.originals}
        return ", ".join(["manifest", "tables", *(numbered(num, noun) for noun, num in counts.items())])


def verify(dataset: Dataset) -> Checked:
    """Check every hash of a version: manifest, tables, shards and indexes, images, and original photographs."""
    problems: list[str] = []
    store = dataset.store
    try:
        dataset.manifest  # noqa: B018
    except IntegrityError as error:
        return Checked(0, 0, 0, [str(error)])  # it names what else to check, and is not to be trusted
    for name in COLUMNS_OF:
        problems += _table_problems(dataset, name)
    images = _columns(dataset, "images", ["key", "shard", "offset", "image_sha256", "photo_sha256"])
    by_shard = rows_by_value(images["shard"])
    for shard in dataset.manifest.shards:
        its = images.take(arrow(by_shard.get(shard.file, np.empty(0, np.int64))))
        problems += _shard_problems(dataset, shard, its.to_pylist())
    refused = _columns(dataset, "rejections", ["reason", "photo_sha256"])
    by_reason = rows_by_value(refused["reason"])
    photos = [images["photo_sha256"]]
    for reason, rows in by_reason.items():
        if reason != "checksum_mismatch":  # whose bytes were never kept
            photos.append(refused["photo_sha256"].take(arrow(rows)))
    found = pa.chunked_array([chunk for column in photos for chunk in column.chunks], pa.string())
    originals = found.unique().drop_null().sort()
    for sha256 in originals:
        try:
            store.original(sha256.as_py())
        except (NotFoundError, IntegrityError) as error:
            problems.append(str(error))
    return Checked(len(dataset.manifest.shards), images.num_rows, len(originals), problems)


def _table_problems(dataset: Dataset, name: TableName) -> Iterator[str]:
    try:
        for _ in dataset.table(name).each_part():
            pass
    except IntegrityError as error:
        yield str(error)


def _columns(dataset: Dataset, name: TableName, columns: Sequence[str]) -> pa.Table:
    """Columns of a table; none of its rows where it cannot be read, which is a problem by itself."""
    try:
        return dataset.table(name).read(columns)
    except IntegrityError:
        return pa.table({column: pa.array([], pa.string()) for column in columns})


def _shard_problems(dataset: Dataset, shard: ShardFacts, rows: list[Row]) -> Iterator[str]:
    path = dataset.folder / shard.file
    try:
        entries = dataset.index(shard).entries
    except (NotFoundError, IntegrityError) as error:
        yield str(error)
        return
    yield from check_shard(path, shard.sha256, entries)
    images = {entry.name.split(".")[0]: entry for entry in entries if not entry.name.endswith(".json")}
    for row in rows:
        entry = images.get(row["key"])
        if entry is None or (entry.sha256, entry.offset) != (row["image_sha256"], row["offset"]):
            yield f"image {row['key']} of {path} is not the one that the manifest records"
