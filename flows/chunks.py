"""What Dask's worker processes do: a chunk of photographs read, a chunk aligned, a shard packed.

Each writes its result once, whole, under a key that its inputs determine. Not here: which chunks there are
(`flows.stages`), or what happens inside a photograph (`preprocessing`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import pyarrow as pa

from preprocessing.faces import FacesConfig, algorithm_digest, faces_in_photo
from preprocessing.records import FACE_FIELDS, Face, Item, Rejection, face_row
from preprocessing.sources import Source
from storage.digest import bytes_digest, canonical_json, file_digest, json_digest
from storage.errors import ConfigError, IntegrityError
from storage.shards import Sample, check_shard, index_json, index_name, read_entry, read_index, write_shard
from storage.store import Store
from storage.tables import Row, put_table

logger = logging.getLogger(__name__)

CRAWL_SCHEMA = pa.schema(
    [
        pa.field("ref", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("num_bytes", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("fetched_at", pa.string()),
    ]
)
ALIGN_SCHEMA = pa.schema(
    [
        *FACE_FIELDS,
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
    ]
)


def crawl_chunk(items: Sequence[Item], source: Source, store: Store, prefix: str) -> list[Row]:
    """Read or fetch these items into the store; a row of CRAWL_SCHEMA for each, kept as a table where worth it."""
    rows: list[Row] = []
    for outcome in source.read(items):
        row: Row = dict.fromkeys(CRAWL_SCHEMA.names)
        if source.cached:
            row["fetched_at"] = datetime.now(UTC).isoformat()
        if isinstance(outcome, Rejection):
            row |= {"ref": outcome.ref, "reason": outcome.reason.value, "detail": outcome.detail}
            row["sha256"] = outcome.photo_sha256
        else:
            item, data = outcome
            row |= {"ref": item.ref, "sha256": store.put_original(data), "num_bytes": len(data)}
        rows.append(row)
    if source.cached:
        put_table(store, f"{prefix}/{json_digest([item.ref for item in items])}.parquet", rows, CRAWL_SCHEMA)
    return rows


def align_chunk(sha256s: Sequence[str], store: Store, prefix: str, config: FacesConfig, code: str) -> str:
    """Align these photographs; the key of the table of ALIGN_SCHEMA, whose crops lie end to end at its `blob_key`."""
    cv2.setNumThreads(1)  # a worker is one core
    if algorithm_digest() != code:
        raise ConfigError(
            "a Dask worker has other code or library versions than this build: make them the same"
        )
    rows: list[Row] = []
    blob = bytearray()
    for sha256 in sha256s:
        for result in faces_in_photo("", sha256, store.original(sha256), config):
            row: Row = dict.fromkeys(ALIGN_SCHEMA.names)
            if isinstance(result, Face):
                row |= face_row(result) | {"offset": len(blob), "size": len(result.image)}
                blob += result.image
            else:
                row |= {"photo_sha256": sha256, "face_index": result.face_index}
                row |= {"reason": result.reason.value, "detail": result.detail}
            rows.append(row)
    key = f"{prefix}/{json_digest(list(sha256s))}.parquet"
    store.put(blob_key(key), bytes(blob))
    put_table(store, key, rows, ALIGN_SCHEMA)  # last: a chunk whose table exists is complete
    return key


def pack_shard(
    job: tuple[int, str, list[Row], list[tuple[str, int, int]]], store: Store, suffix: str
) -> tuple[int, Row, list[tuple[int, int]], bool]:
    """Pack one shard: its number, the manifest's facts of it, offset and size of each image, and whether it was there.

    `job` is its number, its key, the rows of its images, and where their crops lie.
    """
    number, key, rows, crops = job
    index_key = index_name(key)
    packed = _packed(store, key, index_key)
    was_there = packed is not None
    if packed is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shard.tar"
            entries = write_shard(path, _samples(store, rows, crops, suffix))
            sha256 = file_digest(path)
            store.put(key, path)
        store.put(index_key, index_json(sha256, entries))
        packed = _packed(store, key, index_key)
        if packed is None:
            raise IntegrityError(f"{store.path(key)} is not what was just written")
    index = read_index(store.get(index_key))
    images = [(entry.offset, entry.size) for entry in index.entries if not entry.name.endswith(".json")]
    return number, {**packed, "images": len(rows)}, images, was_there


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


def blob_key(table_key: str) -> str:
    """Where the crops of a chunk's table lie."""
    return table_key.removesuffix(".parquet") + ".images"
