"""The stage `shard`: the kept crops packed into tars, in the order of their digests.

A shard is packed once, under a key made of its rows and the code: an unchanged one is found. Beside it lie its index
and a table of its images' rows, which the version's table is made of. Not here: the tar's format (`storage.shards`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from flows.stages.work import Context, Progress, Report, check_code
from preprocessing.photo.encode import SUFFIX
from storage.code import code_digest
from storage.digest import bytes_digest, canonical_json, file_digest, json_digest, rows_digest
from storage.errors import IntegrityError
from storage.shards import (
    KEY_DIGITS,
    Sample,
    check_shard,
    index_json,
    index_name,
    read_entry,
    read_index,
    write_shard,
)
from storage.store import Store
from storage.tables import BATCH_ROWS, Row, Stored, arrow, rows_holding, write_parts

if (
    TYPE_CHECKING
):  # what they are made by changes no shard of the same rows, so a shard's code must not hold it
    from flows.stages.align import Aligned
    from flows.stages.crawl import Crawled
    from flows.stages.curate import Curated
    from preprocessing.config import BuildConfig
    from storage.gathered import Gathered

logger = logging.getLogger(__name__)

PLACE = ["table", "row", "photo_sha256", "image_sha256"]
"""The columns by which a whole row is found in chunks."""
OF_CHUNKS = ["reason", "detail", "offset", "size"]
"""The columns of a chunk that an image's row does not have."""


@dataclass(frozen=True)
class Sharded:
    """The tars that hold the dataset's images: of each the manifest's facts, and `object`, the key it lies under."""

    shards: list[Row]
    num_images: int
    reused: int

    def counts(self) -> dict[str, int]:
        """What was packed."""
        size = sum(shard["size"] for shard in self.shards)
        return {"shards": len(self.shards), "images": self.num_images, "bytes": size, "reused": self.reused}

    def images(self, store: Store) -> Iterator[pa.Table]:
        """The rows of the images, in order, few at a time."""
        for shard in self.shards:
            stored = Stored(store.path(table_name(shard["object"])), [])
            for number in range(len(stored.starts())):
                rows = stored.part(number)
                yield rows.append_column("shard", pa.array([shard["file"]] * rows.num_rows, pa.string()))


@dataclass(frozen=True)
class ShardJob:
    """One shard to pack: its number, its images, and where their crops lie (blob, offset, size).

    `images` has a row for each: its place in chunks, as `storage.gathered` has it, and the columns `photo_num_bytes`
    and of the photograph's source.
    """

    number: int
    images: pa.Table
    crops: list[tuple[str, int, int]]


@dataclass(frozen=True)
class Packed:
    """A packed shard: its number, and the manifest's facts of it."""

    number: int
    facts: Row
    was_there: bool


def shard(
    context: Context,
    report: Report,
    config: BuildConfig,
    crawled: Crawled,
    aligned: Aligned,
    curated: Curated,
) -> Sharded:
    """Pack the kept crops into tars of `images_per_shard`; IntegrityError where one key would name two images."""
    kept, size = curated.kept, config.shard.images_per_shard
    num_shards = -(-len(kept) // size)
    keys = pc.utf8_slice_codeunits(aligned.faces["image_sha256"].take(arrow(kept)), 0, KEY_DIGITS)
    if pc.count_distinct(keys).as_py() != len(kept):
        raise IntegrityError("two images share the first digits of their sha256, so one key would name both")
    items = rows_holding(crawled.items["ref"], crawled.photos["ref"])

    def jobs() -> Iterator[ShardJob]:
        for number in range(num_shards):
            part = slice(number * size, (number + 1) * size)
            images = aligned.faces.select(["table", "row", "image_sha256"]).take(arrow(kept[part]))
            images = images.set_column(0, "table", images["table"].cast(pa.string()))
            photos = crawled.photos.take(arrow(curated.photos[part]))
            images = images.append_column("photo_sha256", photos["sha256"])
            images = images.append_column("photo_num_bytes", photos["num_bytes"])
            source = crawled.items.take(arrow(items[curated.photos[part]]))
            for name in source.column_names:
                images = images.append_column(name, source[name])
            crops = [(crop.blob, crop.offset, crop.size) for crop in aligned.crops(kept[part])]
            yield ShardJob(number, images, crops)

    packed: dict[int, Packed] = {}
    report(Progress("shard", 0, num_shards, "shards", {}))
    work = partial(
        pack_shard,
        store=context.store,
        chunks=aligned.chunks,
        suffix=SUFFIX[config.encode.format],
        code=code_digest(__name__),
    )
    for done in context.workers.map(work, jobs()):
        packed[done.number] = done
        report(Progress("shard", len(packed), num_shards, "shards", {}))
    in_order = [packed[number] for number in range(num_shards)]
    return Sharded([done.facts for done in in_order], len(kept), sum(done.was_there for done in in_order))


def pack_shard(job: ShardJob, store: Store, chunks: Gathered, suffix: str, code: str) -> Packed:
    """Pack one shard, or find it packed."""
    check_code(__name__, code)
    images = _image_rows(job, chunks)
    key = f"chunks/shard/{json_digest([code, suffix, rows_digest(_each(images))])}.tar"
    packed = _packed(store, key)
    was_there = packed is not None
    if packed is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shard.tar"
            entries = write_shard(path, _samples(store, _each(images), job.crops, suffix))
            sha256 = file_digest(path)
            store.put(key, path)
            places = [entry for entry in entries if not entry.name.endswith(".json")]
            for name in ("offset", "size"):
                numbers = pa.array([getattr(entry, name) for entry in places], pa.int64())
                images = images.append_column(name, numbers)
            path = Path(folder) / "images.parquet"
            write_parts(path, [images], images.schema)
            store.put(table_name(key), path)
        store.put(index_name(key), index_json(sha256, entries))
        packed = _packed(store, key)
        if packed is None:
            raise IntegrityError(f"{store.path(key)} is not what was just written")
    facts = {"file": f"shards/{job.number:05d}.tar", **packed, "images": images.num_rows}
    return Packed(job.number, facts, was_there)


def table_name(shard: str) -> str:
    """The table that stands beside a packed tar: the rows of its images, but for the column `shard`."""
    return shard.removesuffix(".tar") + ".parquet"


def _image_rows(job: ShardJob, chunks: Gathered) -> pa.Table:
    """The rows of a job's images, but for their places in a shard."""
    whole = chunks.at(job.images).drop_columns(OF_CHUNKS)
    whole = whole.append_column("key", pc.utf8_slice_codeunits(whole["image_sha256"], 0, KEY_DIGITS))
    for name in job.images.column_names:
        if name not in PLACE:
            whole = whole.append_column(name, job.images[name])
    return whole


def _each(table: pa.Table) -> Iterator[Row]:
    for batch in table.to_batches(BATCH_ROWS):
        yield from batch.to_pylist()


def _packed(store: Store, key: str) -> Row | None:
    """The manifest's facts of a shard packed before, or None where there is none or its bytes have changed."""
    index_key = index_name(key)
    if not (store.exists(index_key) and store.exists(key)):
        return None
    data = store.get(index_key)
    try:
        index = read_index(data)
        if problems := list(check_shard(store.path(key), index.sha256, index.entries)):
            raise IntegrityError(problems[0])
        for entry in index.entries:
            read_entry(store.path(key), entry)
        if 2 * Stored(store.path(table_name(key)), []).read().num_rows != len(index.entries):
            raise IntegrityError(f"{store.path(table_name(key))} does not hold the rows of its images")
    except IntegrityError as error:
        logger.warning("%s: packing %s again", error, store.path(key))
        return None
    size = store.path(key).stat().st_size
    return {"object": key, "sha256": index.sha256, "size": size, "index_sha256": bytes_digest(data)}


def _samples(
    store: Store, rows: Iterable[Row], crops: Sequence[tuple[str, int, int]], suffix: str
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
