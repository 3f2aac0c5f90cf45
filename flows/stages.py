"""The five stages of a build as plain functions: crawl, align, curate, shard, publish.

Each maps chunks over Dask where there is work to map, and reports as chunks finish. A finished chunk is written
once, under a key made of its inputs' hashes, the stage's config and the code that made it: a build that was
killed finds it, one with other settings or other code does not. Not here: Prefect (`flows.build_dataset`), the
order of stages (`flows.build`), or what a worker does with a chunk (`flows.chunks`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from distributed import Client

from flows.chunks import ALIGN_SCHEMA, CRAWL_SCHEMA, align_chunk, blob_key, crawl_chunk, pack_shard
from flows.cluster import map_chunks
from preprocessing.config import BuildConfig
from preprocessing.curation.choose import curate as curate_faces
from preprocessing.faces import algorithm_digest
from preprocessing.photo.encode import SUFFIX
from preprocessing.records import (
    IMAGE_SCHEMA,
    REJECTION_SCHEMA,
    Face,
    Item,
    Photo,
    Rejection,
    face_of_row,
    image_row,
    rejection_row,
)
from preprocessing.reject import TRANSIENT, Reason
from preprocessing.sources import open_source
from storage.datasets import manifest
from storage.datasets.dataset import Dataset
from storage.digest import canonical_json, code_digest, json_digest
from storage.errors import IntegrityError, SourceError
from storage.store import Store, original_key
from storage.tables import Row, get_table

logger = logging.getLogger(__name__)

CRAWL_VERSION = 1
"""Raised only when fetched bytes must not be reused: hosts are not asked again for a change of our code."""

CHUNKS_PER_WORKER = 4

Element = TypeVar("Element")


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` units, and what became of them so far."""

    stage: str
    done: int
    total: int
    unit: str
    counts: Mapping[str, int]


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Context:
    """Where a build works."""

    store: Store
    client: Client
    chunk_size: int
    refetch: bool


@dataclass(frozen=True)
class Crawled:
    """Every item of the source, as a photograph whose bytes are in the store or as a rejection."""

    source: dict[str, Any]
    items: dict[str, Item]
    photos: list[Photo]
    rejections: list[Rejection]
    reused: int

    def counts(self) -> dict[str, int]:
        """What became of the items."""
        return {"photos": len(self.photos), "reused": self.reused, **_reasons(self.rejections)}


@dataclass(frozen=True)
class Crop:
    """One aligned face, without its bytes, and where those lie: `size` bytes at `offset` of the object `blob`."""

    face: Face
    blob: str
    offset: int
    size: int


@dataclass(frozen=True)
class Aligned:
    """Every photograph's faces, or why it has none."""

    crops: list[Crop]
    rejections: list[Rejection]
    reused: int

    def counts(self) -> dict[str, int]:
        """What became of the photographs; `reused` photographs were aligned by an earlier build."""
        return {"faces": len(self.crops), "reused": self.reused, **_reasons(self.rejections)}


@dataclass(frozen=True)
class Curated:
    """The crops that the dataset will hold, ordered by image digest, each with the photograph it came from."""

    kept: list[tuple[Crop, Photo]]
    rejections: list[Rejection]

    def counts(self) -> dict[str, int]:
        """What became of the faces."""
        return {"kept": len(self.kept), **_reasons(self.rejections)}


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


def crawl(context: Context, report: Report, config: BuildConfig) -> Crawled:
    """Read or fetch every photograph of the source into the store, under its sha256.

    Local photographs are read and hashed anew by every build. Fetched ones are kept, and asked for again only
    where the last attempt failed for a passing reason, or on `refetch`.
    """
    source = open_source(config.source, config.fetch)
    listed = source.items()[: config.limit]
    items = {item.ref: item for item in listed}
    if not items:
        raise SourceError(f"source {config.source} lists no photograph")
    if len(items) != len(listed):
        [(ref, _)] = Counter(item.ref for item in listed).most_common(1)
        raise SourceError(f"source {config.source} has two photographs that both read as {ref!r}: rename one")
    prefix = f"chunks/crawl/{json_digest([CRAWL_VERSION, source.description()])}"
    outcomes: dict[str, Row] = {}
    if source.cached and not context.refetch:
        outcomes = _known_outcomes(context.store, prefix, items)
    reused = len(outcomes)
    todo = [item for ref, item in items.items() if ref not in outcomes]
    counts = Counter(_outcome_name(row) for row in outcomes.values())
    report(Progress("crawl", reused, len(items), "photos", counts))
    chunks = _chunks(todo, context, spread=source.parallel)
    if source.parallel:
        results = map_chunks(context.client, crawl_chunk, chunks, source, context.store, prefix)
    else:  # here, in the one process of which a host's limits hold
        results = (crawl_chunk(chunk, source, context.store, prefix) for chunk in chunks)
    for rows in results:
        outcomes.update((row["ref"], row) for row in rows)
        counts.update(_outcome_name(row) for row in rows)
        report(Progress("crawl", len(outcomes), len(items), "photos", counts))
    photos, rejections = [], []
    for ref, item in items.items():
        row = outcomes[ref]
        if row["reason"] is None:
            photos.append(Photo(item, row["sha256"], row["num_bytes"]))
        else:
            rejections.append(Rejection(ref, Reason(row["reason"]), row["sha256"], detail=row["detail"]))
    return Crawled(source.description(), items, photos, rejections, reused)


def align(context: Context, report: Report, config: BuildConfig, photos: Sequence[Photo]) -> Aligned:
    """Find, crop and encode the faces of every distinct photograph that no earlier build has aligned."""
    code = algorithm_digest()
    prefix = f"chunks/align/{json_digest({'config': config.faces.identity(), 'code': code})}"
    wanted = {
        photo.sha256: photo.item.ref
        for photo in sorted(photos, key=lambda photo: photo.item.ref, reverse=True)
    }
    crops: list[Crop] = []
    rejections: list[Rejection] = []
    done: set[str] = set()
    counts: Counter[str] = Counter()

    def take(blob: str, rows: list[Row]) -> None:
        for row in rows:
            sha256 = row["photo_sha256"]
            if row["reason"] is None:
                crops.append(Crop(face_of_row(row), blob, row["offset"], row["size"]))
                counts["faces"] += 1
            else:
                reason = Reason(row["reason"])
                rejections.append(Rejection(wanted[sha256], reason, sha256, row["face_index"], row["detail"]))
                counts[reason] += 1
        done.update(row["photo_sha256"] for row in rows)
        report(Progress("align", len(done), len(wanted), "photos", counts))

    for key in context.store.keys(prefix):
        if key.endswith(".parquet"):
            try:
                rows = get_table(context.store, key, ALIGN_SCHEMA.names)
            except IntegrityError as error:
                logger.warning("%s: its photographs are aligned again", error)
                continue
            missing = wanted.keys() - done
            take(blob_key(key), [row for row in rows if row["photo_sha256"] in missing])
    reused = len(done)
    chunks = _chunks(sorted(wanted.keys() - done), context)
    for key in map_chunks(context.client, align_chunk, chunks, context.store, prefix, config.faces, code):
        take(blob_key(key), get_table(context.store, key, ALIGN_SCHEMA.names))
    return Aligned(crops, rejections, reused)


def curate(
    context: Context, report: Report, config: BuildConfig, photos: Sequence[Photo], aligned: Aligned
) -> Curated:
    """Choose the faces that make the dataset; EmptyDatasetError where none passes."""
    where = {(crop.face.photo_sha256, crop.face.face_index): crop for crop in aligned.crops}
    curated = curate_faces(photos, [crop.face for crop in aligned.crops], config.curation)
    kept = [(where[face.photo_sha256, face.face_index], photo) for photo, face in curated.kept]
    kept.sort(key=lambda pair: pair[0].face.image_sha256)
    report(
        Progress(
            "curate", len(where), len(where), "faces", {"kept": len(kept), **_reasons(curated.rejections)}
        )
    )
    return Curated(kept, curated.rejections)


def shard(context: Context, report: Report, config: BuildConfig, curated: Curated) -> Sharded:
    """Pack the kept crops into tars of `images_per_shard`, in the order of their digests."""
    suffix = SUFFIX[config.encode.format]
    rows = [image_row(crop.face, photo) for crop, photo in curated.kept]
    if len({row["key"] for row in rows}) != len(rows):
        raise IntegrityError("two images share the first digits of their sha256, so one key would name both")
    code = code_digest(("storage.shards",), ())
    jobs = []
    size = config.shard.images_per_shard
    for start in range(0, len(rows), size):
        crops = [(crop.blob, crop.offset, crop.size) for crop, _ in curated.kept[start : start + size]]
        key = f"chunks/shard/{json_digest([code, suffix, rows[start : start + size]])}.tar"
        jobs.append((start // size, key, rows[start : start + size], crops))
    shards: dict[int, Row] = {}
    reused = 0
    images: dict[int, list[Row]] = {}
    report(Progress("shard", 0, len(jobs), "shards", {}))
    for number, packed, entries, was_there in map_chunks(
        context.client, pack_shard, jobs, context.store, suffix
    ):
        file = f"shards/{number:05d}.tar"
        shards[number] = {"file": file, **packed}
        images[number] = [
            {**row, "shard": file, "offset": offset, "size": length}
            for row, (offset, length) in zip(jobs[number][2], entries, strict=True)
        ]
        reused += was_there
        report(Progress("shard", len(shards), len(jobs), "shards", {}))
    order = range(len(jobs))
    return Sharded([row for i in order for row in images[i]], [shards[i] for i in order], reused)


def publish(
    context: Context,
    report: Report,
    config: BuildConfig,
    crawled: Crawled,
    rejections: Sequence[Rejection],
    sharded: Sharded,
) -> Dataset:
    """Write the manifest, whose hash is the version, and everything that it names."""
    rows = sorted((rejection_row(rejection, crawled.items) for rejection in rejections), key=canonical_json)
    dataset = manifest.publish(
        context.store,
        config.name,
        settings={
            "resolution": config.resolution,
            "source": crawled.source,
            "config": {
                "faces": config.faces.identity(),
                "curate": config.curation.model_dump(mode="json"),
                "shard": config.shard.model_dump(mode="json"),
            },
        },
        images=sharded.images,
        image_schema=IMAGE_SCHEMA,
        rejections=rows,
        rejection_schema=REJECTION_SCHEMA,
        shards=sharded.shards,
        num_photos=len(crawled.items),
    )
    report(Progress("publish", 1, 1, "version", {}))
    return dataset


def _known_outcomes(store: Store, prefix: str, items: Mapping[str, Item]) -> dict[str, Row]:
    newest: dict[str, Row] = {}
    for key in store.keys(prefix):
        for row in get_table(store, key, CRAWL_SCHEMA.names):
            if (
                row["ref"] in items
                and row["fetched_at"] >= newest.get(row["ref"], {"fetched_at": ""})["fetched_at"]
            ):
                newest[row["ref"]] = row
    return {ref: row for ref, row in newest.items() if _still_holds(store, row, items[ref])}


def _still_holds(store: Store, row: Row, item: Item) -> bool:
    if row["reason"] is not None:
        return Reason(row["reason"]) not in TRANSIENT | {Reason.CHECKSUM_MISMATCH}
    # a list may since claim another hash, and a photograph may have been removed from the store
    return item.expected_sha256 in (None, row["sha256"]) and store.exists(original_key(row["sha256"]))


def _outcome_name(row: Row) -> str:
    return "photos" if row["reason"] is None else str(row["reason"])


def _reasons(rejections: Sequence[Rejection]) -> dict[str, int]:
    return dict(sorted(Counter(rejection.reason.value for rejection in rejections).items()))


def _chunks(elements: Sequence[Element], context: Context, spread: bool = True) -> list[Sequence[Element]]:
    """Chunks of the configured size; with `spread`, smaller where they would be too few to keep all workers busy."""
    size = context.chunk_size
    if spread:
        num_workers = max(len(context.client.scheduler_info()["workers"]), 1)
        size = max(1, min(size, -(-len(elements) // (CHUNKS_PER_WORKER * num_workers))))
    return [elements[start : start + size] for start in range(0, len(elements), size)]
