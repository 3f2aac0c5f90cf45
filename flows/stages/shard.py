"""The stage `shard`: the kept crops packed into tars, which are cut by the images' digests.

A shard is the shortest prefix, in bits, under which at most `images_per_shard` images lie (`storage.cut`): a new image
rewrites the one it falls into. In a tar stands what cannot be corrected later; what a source says of a photograph
stands in the version's table alone. A shard is packed once, under a key made of its images and the code, and named by
its bytes: an unchanged one is found. Beside it lie its index and a table of its images' rows, which the version's table
is made of. Not here: the tar's format (`storage.shards`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.stages.work import Context, Progress, Report, check_code, spread
from preprocessing.photo.encode import SUFFIX
from storage.code import code_digest
from storage.cut import Keys, Leaf, keys_of, leaves
from storage.datasets.parts import column_digest, digest_of
from storage.digest import bytes_digest, canonical_json, file_digest, json_digest
from storage.errors import IntegrityError, NotFoundError
from storage.local import unnamed_file, whole_file, write_whole
from storage.shards import KEY_DIGITS, Index, PackedRecord, Sample, index_json, index_name, write_shard
from storage.store import Store
from storage.tables import BATCH_ROWS, Row, Stored, arrow, column_of, rows_holding, texts, write_table

if (
    TYPE_CHECKING
):  # what they are made by changes no shard of the same rows, so a shard's code must not hold it
    from flows.stages.align import Aligned
    from flows.stages.crawl import Crawled
    from flows.stages.curate import Curated
    from preprocessing.config import BuildConfig
    from storage.gathered import Gathered

logger = logging.getLogger(__name__)

FOLDER = "chunks/shard"
MADE_OF = ["photo_sha256", "face_index", "image_sha256", "photo_num_bytes"]
"""The columns of a job that determine a shard, with its code and with that of its chunks."""
AT_ONCE = 8
"""Shards that a worker is handed: to find one packed takes as long as to hand it out."""
OF_CHUNKS = ["reason", "detail", "offset", "size"]
"""The columns of a chunk that an image's row does not have."""


@dataclass(frozen=True, eq=False)
class Sharded:
    """The tars that hold the dataset's images: of each the manifest's facts, and `object`, the key it lies under.

    `keys` are the images', ascending, and `items` the numbers of their photographs in `Crawled.items`.
    """

    shards: list[Row]
    keys: Keys
    items: NDArray[np.int32]
    reused: int

    @property
    def num_images(self) -> int:
        """How many were packed, or found packed."""
        return len(self.keys)

    def counts(self) -> dict[str, int]:
        """What was packed."""
        size = sum(shard["size"] for shard in self.shards)
        return {"shards": len(self.shards), "images": self.num_images, "bytes": size, "reused": self.reused}

    def images(self, store: Store) -> Iterator[pa.Table]:
        """The rows of each shard's images, in order, without what their source says of them."""
        for shard in self.shards:
            rows = Stored(store.file(table_name(shard["object"])), []).read()
            yield rows.append_column("shard", texts(*[shard["file"]] * rows.num_rows))


@dataclass(frozen=True)
class ShardJob:
    """One shard to pack: its number, what its images begin with, and where their crops lie (blob, offset, size).

    `images` has a row for each: MADE_OF, and `table` and `row`, its place in chunks (`storage.gathered`).
    """

    number: int
    prefix: str
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
    """Pack the kept crops into tars; IntegrityError where one key would name two images."""
    kept = curated.kept
    keys = keys_of(aligned.faces["image_sha256"].take(arrow(kept)))
    if (keys[1:] == keys[:-1]).any():
        raise IntegrityError("two images share the first digits of their sha256, so one key would name both")
    cut = leaves(keys, config.shard.images_per_shard)
    packed: dict[int, Packed] = {}
    report(Progress("shard", 0, len(cut), "shards", {}))
    work = partial(
        pack_shards,
        store=context.store,
        chunks=aligned.chunks,
        suffix=SUFFIX[config.encode.format],
        code=code_digest(__name__),
    )
    jobs = _jobs(cut, crawled, aligned, curated)
    together = (list(islice(jobs, len(numbers))) for numbers in spread(range(len(cut)), context, AT_ONCE))
    for done in context.workers.map(work, together):
        packed |= {shard.number: shard for shard in done}
        report(Progress("shard", len(packed), len(cut), "shards", {}))
    in_order = [packed[number] for number in range(len(cut))]
    items = rows_holding(crawled.items["ref"], crawled.photos["ref"])[curated.photos]
    was_there = sum(done.was_there for done in in_order)
    return Sharded([done.facts for done in in_order], keys, items, was_there)


def _jobs(cut: Sequence[Leaf], crawled: Crawled, aligned: Aligned, curated: Curated) -> Iterator[ShardJob]:
    faces = aligned.faces.select(["table", "row", "face_index", "image_sha256"])
    photos = crawled.photos.select(["sha256", "num_bytes"])
    for number, leaf in enumerate(cut):
        mine = slice(leaf.start, leaf.stop)
        images = faces.take(arrow(curated.kept[mine]))
        images = images.set_column(0, "table", images["table"].cast(pa.string()))
        of = photos.take(arrow(curated.photos[mine]))
        images = images.append_column("photo_sha256", of["sha256"])
        images = images.append_column("photo_num_bytes", of["num_bytes"])
        crops = [(crop.blob, crop.offset, crop.size) for crop in aligned.crops(curated.kept[mine])]
        yield ShardJob(number, leaf.name, images, crops)


def pack_shards(
    jobs: Sequence[ShardJob], store: Store, chunks: Gathered, suffix: str, code: str
) -> list[Packed]:
    """As `pack_shard`, of some shards one after the other."""
    return [pack_shard(job, store, chunks, suffix, code) for job in jobs]


def pack_shard(job: ShardJob, store: Store, chunks: Gathered, suffix: str, code: str) -> Packed:
    """Pack one shard, or find it packed."""
    check_code(__name__, code)
    made_of = [column_digest(job.images[name]) for name in MADE_OF]
    record_key = f"{FOLDER}/{json_digest([code, suffix, chunks.prefix, made_of])}.json"
    packed = _packed(store, record_key)
    was_there = packed is not None
    if packed is None:
        packed = _pack(job, store, chunks, suffix)
        store.put(record_key, packed.as_bytes())
    facts = {
        "object": f"{FOLDER}/{packed.sha256}.tar",
        "file": f"shards/{job.prefix}-{packed.sha256[:16]}.tar",
        "sha256": packed.sha256,
        "size": packed.size,
        "images": packed.images,
        "index_sha256": packed.index_sha256,
    }
    return Packed(job.number, facts, was_there)


def _pack(job: ShardJob, store: Store, chunks: Gathered, suffix: str) -> PackedRecord:
    """Write a tar, its index and its table, and say what they are."""
    images = _image_rows(job, chunks)
    folder = store.spot(FOLDER)
    with unnamed_file(folder) as file:
        index = write_shard(file.partial, _samples(store, _each(images), job.crops, suffix))
        file.name = f"{index.sha256}.tar"
        size = file.partial.stat().st_size
    data = index_json(index)
    path = folder / file.name
    write_whole(path.with_name(index_name(path.name)), data)
    table = path.with_name(table_name(path.name))
    with whole_file(table) as partial:
        write_table(partial, _placed(images, index))
    return PackedRecord.new(
        sha256=index.sha256,
        size=size,
        images=images.num_rows,
        index_sha256=bytes_digest(data),
        rows_sha256=digest_of(Stored(table, [])),
    )


def _placed(images: pa.Table, index: Index) -> pa.Table:
    """Rows of images with their places in a tar."""
    entries = index.entries[::2]
    for name in ("offset", "size"):
        numbers = column_of([getattr(entry, name) for entry in entries], pa.int64())
        images = images.append_column(name, numbers)
    return images


def table_name(shard: str) -> str:
    """The table that stands beside a packed tar: the rows of its images, but for what says where they came from."""
    return shard.removesuffix(".tar") + ".parquet"


def _image_rows(job: ShardJob, chunks: Gathered) -> pa.Table:
    """The rows of a job's images, as they stand in a tar."""
    whole = chunks.at(job.images).drop_columns(OF_CHUNKS)
    whole = whole.append_column("key", pc.utf8_slice_codeunits(whole["image_sha256"], 0, KEY_DIGITS))
    return whole.append_column("photo_num_bytes", job.images["photo_num_bytes"])


def _each(table: pa.Table) -> Iterator[Row]:
    for batch in table.to_batches(BATCH_ROWS):
        yield from batch.to_pylist()


def _packed(store: Store, record_key: str) -> PackedRecord | None:
    """What was packed under a key before, or None where nothing was, or its bytes have changed."""
    try:
        record = PackedRecord.read(store.file(record_key))
    except NotFoundError:
        return None
    except IntegrityError as error:
        logger.warning("%s: packing that shard again", error)
        return None
    path = store.file(f"{FOLDER}/{record.sha256}.tar")
    index = store.file(f"{FOLDER}/{index_name(path.name)}")
    table = store.file(f"{FOLDER}/{table_name(path.name)}")
    try:
        is_same = (
            file_digest(path) == record.sha256
            and file_digest(index) == record.index_sha256
            and digest_of(Stored(table, [])) == record.rows_sha256
        )
    except (IntegrityError, OSError) as error:
        logger.warning("%s: packing %s again", error, path)
        return None
    if not is_same:
        logger.warning("%s, or what lies beside it, has changed: packing it again", path)
    return record if is_same else None


def _samples(
    store: Store, rows: Iterable[Row], crops: Sequence[tuple[str, int, int]], suffix: str
) -> Iterator[Sample]:
    for row, (blob, offset, size) in zip(rows, crops, strict=True):
        with store.file(blob).open("rb") as file:
            file.seek(offset)
            image = file.read(size)
        if bytes_digest(image) != row["image_sha256"]:
            raise IntegrityError(
                f"{store.path(blob)} no longer holds image {row['image_sha256']}: "
                f"delete that file and the .parquet beside it, and build again"
            )
        yield Sample(row["key"], suffix, image, canonical_json(row), row["image_sha256"])
