"""Whether a version's bytes are what they were when it was published: every hash on record, checked.

    checked = verify(open_dataset(store, "faces"))

Not here: mending what differs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from storage.datasets.dataset import Dataset
from storage.digest import file_digest, rows_digest
from storage.errors import IntegrityError, NotFoundError
from storage.shards import check_shard, index_name
from storage.tables import Row


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
        return f"manifest, tables, {self.shards} shards, {self.images} images, {self.originals} originals"


def verify(dataset: Dataset) -> Checked:
    """Check every hash of a version: manifest, tables, shards and indexes, images, and original photographs."""
    problems: list[str] = []
    store, folder = dataset.store, dataset.folder
    try:
        dataset.manifest  # noqa: B018
    except IntegrityError as error:
        return Checked(0, 0, 0, [str(error)])  # it names what else to check, and is not to be trusted
    tables: dict[str, list[Row]] = {"images": [], "rejections": []}
    for name, read in (("images", dataset.images), ("rejections", dataset.rejections)):
        file = folder / dataset.manifest[name]["file"]
        try:
            tables[name] = read()
        except IntegrityError as error:
            problems.append(str(error))
            continue
        if rows_digest(tables[name]) != dataset.manifest[name]["sha256"]:
            problems.append(f"{file} no longer holds its recorded rows")
    rows = tables["images"]
    by_shard: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_shard[row["shard"]].append(row)
    for shard in dataset.manifest["shards"]:
        problems += _shard_problems(dataset, shard, by_shard[shard["file"]])
    # the bytes of a photograph that is not the promised one were never kept
    refused = (row for row in tables["rejections"] if row["reason"] != "checksum_mismatch")
    originals = sorted({row["photo_sha256"] for row in (*rows, *refused)} - {None})
    for sha256 in originals:
        try:
            store.original(sha256)
        except (NotFoundError, IntegrityError) as error:
            problems.append(str(error))
    return Checked(len(dataset.manifest["shards"]), len(rows), len(originals), problems)


def _shard_problems(dataset: Dataset, shard: dict[str, Any], rows: list[Row]) -> Iterator[str]:
    path = dataset.folder / shard["file"]
    index_path = dataset.folder / index_name(shard["file"])
    if not index_path.is_file() or file_digest(index_path) != shard["index_sha256"]:
        yield f"{index_path} is missing or no longer has its recorded sha256"
        return
    entries = dataset.index(shard["file"]).entries
    yield from check_shard(path, shard["sha256"], entries)
    images = {entry.name.split(".")[0]: entry for entry in entries if not entry.name.endswith(".json")}
    for row in rows:
        entry = images.get(row["key"])
        if entry is None or (entry.sha256, entry.offset) != (row["image_sha256"], row["offset"]):
            yield f"image {row['key']} of {path} is not the one that the manifest records"
