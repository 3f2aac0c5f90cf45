"""Whether a version's bytes are what they were when it was published: every hash on record, checked.

    checked = verify(open_dataset(store, "faces"))

Not here: mending what differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from storage.checks import Check, Checked, Digests, run_checks, sentence, sound
from storage.datasets.dataset import COLUMNS_OF, SHARDS_LIST, Dataset, TableName, shards_list
from storage.datasets.lookup import lookup_problems
from storage.datasets.records import ShardFacts
from storage.datasets.splits import COLUMNS, Kinship, crossings
from storage.errors import FormatError, IntegrityError, PipelineError
from storage.shards import check_shard
from storage.store import original_key
from storage.tables import arrow, rows_by_value


def verify(dataset: Dataset, *, fast: bool = False) -> Checked:
    """Check every hash of a version: manifest, tables, shards and indexes, images, and original photographs.

    A `fast` check does not hash files again that have the size and the time that they had when they were hashed last.
    """
    with Digests(dataset.store, fast=fast) as digests:
        return run_checks(checks_of_version(dataset, digests))


def checks_of_version(dataset: Dataset, digests: Digests) -> Iterator[Check]:
    """All of a version; of one whose manifest does not hold nothing else, since it says what else there is."""
    try:
        shards = dataset.manifest.shards
    except (PipelineError, OSError) as error:
        yield Check("manifest", partial(_said, sentence(error)))
        return
    yield Check("manifest", partial(_list_problems, dataset))
    images = _columns(dataset, "images", ["key", "shard", "offset", "image_sha256", "photo_sha256"])
    refused = _columns(dataset, "rejections", ["reason", "photo_sha256"])
    for name in COLUMNS_OF:
        yield sound("table", partial(_each_part, dataset, name))
    yield Check("lookup", partial(lookup_problems, dataset))
    if "splits" in dataset.manifest.config:
        yield Check("set of splits", partial(_split_problems, dataset))
    by_shard = rows_by_value(images["shard"])
    for shard in shards:
        its = images.take(arrow(by_shard.get(shard.file, np.empty(0, np.int64))))
        yield Check("shard", partial(_shard_problems, dataset, shard, its, digests))
    left = was_left(dataset)
    for sha256 in photographs(images, refused).to_pylist():
        if left and not dataset.store.exists(original_key(sha256)):
            yield Check("absent original", list, sha256)
        else:
            yield original_check(dataset, sha256, digests)


def photographs(images: pa.Table, refused: pa.Table) -> pa.Array:
    """The sha256 of each photograph whose bytes were kept, sorted, by the tables of a version."""
    photos = [images["photo_sha256"]]
    for reason, rows in rows_by_value(refused["reason"]).items():
        if reason != "checksum_mismatch":  # whose bytes were never kept
            photos.append(refused["photo_sha256"].take(arrow(rows)))
    found = pa.chunked_array([chunk for column in photos for chunk in column.chunks], pa.string())
    return found.unique().drop_null().sort()


def was_left(dataset: Dataset) -> bool:
    """Whether a version was pulled without the photographs that it was made of."""
    try:
        builds = dataset.builds()
    except (IntegrityError, FormatError):  # none can be read, which was warned of
        return False
    newest = max(builds, key=lambda build: (build.started_at, build.build_id), default=None)
    return newest is not None and newest.kind == "pull" and not newest.options.get("originals", True)


def original_check(dataset: Dataset, sha256: str, digests: Digests) -> Check:
    """Of a photograph that a version was made of."""

    def problems() -> Iterator[str]:
        path = dataset.store.file(original_key(sha256))
        yield from digests.problems(path, sha256, "the sha256 of its name")

    return Check("original", problems, sha256)


def _list_problems(dataset: Dataset) -> Iterator[str]:
    path = dataset.folder / SHARDS_LIST
    if dataset.manifest.format < 3:
        return
    if not path.is_file() or path.read_bytes() != shards_list(dataset.manifest):
        yield f"{path} does not list the shards of its version: build again, and it is written anew"


def _split_problems(dataset: Dataset) -> Iterator[str]:
    kinship = Kinship.recorded(dataset.manifest.config, dataset.folder / "manifest.json")
    if kinship is None:
        return
    columns = [name for name in COLUMNS if name != "embedding" or kinship.identity_max_distance is not None]
    yield from crossings(dataset.table("images").read(columns), kinship)


def _said(problem: str) -> list[str]:
    return [problem]


def _each_part(dataset: Dataset, name: TableName) -> None:
    for _ in dataset.table(name).each_part():
        pass


def _columns(dataset: Dataset, name: TableName, columns: list[str]) -> pa.Table:
    """Columns of a table; none of its rows where it cannot be read, which is a problem by itself."""
    try:
        return dataset.table(name).read(columns)
    except (PipelineError, OSError):
        return pa.table({column: pa.chunked_array([], pa.string()) for column in columns})


def _shard_problems(dataset: Dataset, shard: ShardFacts, rows: pa.Table, digests: Digests) -> Iterator[str]:
    path = dataset.shard_path(shard)
    entries = dataset.index(shard).entries
    if not path.is_file() or digests.of(path) != shard.sha256:
        yield from check_shard(path, shard.sha256, entries)
    images = {entry.name.split(".")[0]: entry for entry in entries if not entry.name.endswith(".json")}
    for row in rows.to_pylist():
        entry = images.get(row["key"])
        if entry is None or (entry.sha256, entry.offset) != (row["image_sha256"], row["offset"]):
            yield f"image {row['key']} of {path} is not the one that the manifest records"
