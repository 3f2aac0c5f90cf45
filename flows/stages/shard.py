"""The stage `shard`: the kept crops packed into tars, in the order of their digests.

A shard is packed once, under a key made of its rows and the code: an unchanged one is found. Not here: the tar's
format (`storage.shards`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows.stages.work import Context, Progress, Report, check_code
from preprocessing.photo.encode import SUFFIX
from preprocessing.records import image_row
from storage.code import code_digest
from storage.digest import bytes_digest, canonical_json, file_digest, json_digest
from storage.errors import IntegrityError
from storage.shards import Sample, check_shard, index_json, index_name, read_entry, read_index, write_shard
from storage.store import Store
from storage.tables import Row

if (
    TYPE_CHECKING
):  # what they are made by changes no shard of the same rows, so a shard's code must not hold it
    from flows.stages.curate import Curated
    from preprocessing.config import BuildConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sharded:
    """The dataset's image rows and the tars that hold them."""

    images: list[Row]
    shards: list[Row]
    reused: int

    def counts(self) -> dict[str, int]:
        """What was packed."""
        size = sum(shard["size"] for shard in self.shards)
        return {"shards": len(self.shards), "images": len(self.images), "bytes": size, "reused": self.reused}


@dataclass(frozen=True)
class ShardJob:
    """One shard to pack: its number, the rows of its images, and where their crops lie (blob, offset, size)."""

    number: int
    rows: list[Row]
    crops: list[tuple[str, int, int]]


@dataclass(frozen=True)
class Packed:
    """A packed shard: the manifest's facts of it, and the rows of its images with their place in it."""

    number: int
    facts: Row
    rows: list[Row]
    was_there: bool


def shard(context: Context, report: Report, config: BuildConfig, curated: Curated) -> Sharded:
    """Pack the kept crops into tars of `images_per_shard`; IntegrityError where one key would name two images."""
    kept, size = curated.kept, config.shard.images_per_shard
    num_shards = -(-len(kept) // size)

    def jobs() -> Iterator[ShardJob]:
        for number in range(num_shards):
            part = kept[number * size : (number + 1) * size]
            crops = [(crop.blob, crop.offset, crop.size) for crop, _ in part]
            yield ShardJob(number, [image_row(crop.face, photo) for crop, photo in part], crops)

    packed: dict[int, Packed] = {}
    report(Progress("shard", 0, num_shards, "shards", {}))
    work = partial(
        pack_shard,
        store=context.store,
        suffix=SUFFIX[config.encode.format],
        code=code_digest(__name__),
    )
    for done in context.workers.map(work, jobs()):
        packed[done.number] = done
        report(Progress("shard", len(packed), num_shards, "shards", {}))
    in_order = [packed[number] for number in range(num_shards)]
    images = [row for done in in_order for row in done.rows]
    if len({row["key"] for row in images}) != len(images):
        raise IntegrityError("two images share the first digits of their sha256, so one key would name both")
    return Sharded(images, [done.facts for done in in_order], sum(done.was_there for done in in_order))


def pack_shard(job: ShardJob, store: Store, suffix: str, code: str) -> Packed:
    """Pack one shard, or find it packed."""
    check_code(__name__, code)
    key = f"chunks/shard/{json_digest([code, suffix, job.rows])}.tar"
    index_key = index_name(key)
    packed = _packed(store, key, index_key)
    was_there = packed is not None
    if packed is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shard.tar"
            entries = write_shard(path, _samples(store, job.rows, job.crops, suffix))
            sha256 = file_digest(path)
            store.put(key, path)
        store.put(index_key, index_json(sha256, entries))
        packed = _packed(store, key, index_key)
        if packed is None:
            raise IntegrityError(f"{store.path(key)} is not what was just written")
    file = f"shards/{job.number:05d}.tar"
    index = read_index(store.get(index_key))
    images = [entry for entry in index.entries if not entry.name.endswith(".json")]
    rows = [
        {**row, "shard": file, "offset": entry.offset, "size": entry.size}
        for row, entry in zip(job.rows, images, strict=True)
    ]
    return Packed(job.number, {"file": file, **packed, "images": len(rows)}, rows, was_there)


def _packed(store: Store, key: str, index_key: str) -> Row | None:
    """The manifest's facts of a shard packed before, or None where there is none or its bytes have changed."""
    if not (store.exists(index_key) and store.exists(key)):
        return None
    data = store.get(index_key)
    try:
        index = read_index(data)
        if problems := list(check_shard(store.path(key), index.sha256, index.entries)):
            raise IntegrityError(problems[0])
        for entry in index.entries:
            read_entry(store.path(key), entry)
    except IntegrityError as error:
        logger.warning("%s: packing %s again", error, store.path(key))
        return None
    size = store.path(key).stat().st_size
    return {"object": key, "sha256": index.sha256, "size": size, "index_sha256": bytes_digest(data)}


def _samples(
    store: Store, rows: Sequence[Row], crops: Sequence[tuple[str, int, int]], suffix: str
) -> Iterator[Sample]:
    for row, (blob, offset, size) in zip(rows, crops, strict=True):
        with store.path(blob).open("rb") as file:
            file.seek(offset)
            image = file.read(size)
        if bytes_digest(image) != row["image_sha256"]:
            raise IntegrityError(
                f"{store.path(blob)} no longer holds image {row['image_sha256']}: "
                f"delete that file and the .parquet beside it, and build again"
            )
        yield Sample(row["key"], suffix, image, canonical_json(row))
