"""The stage `align`: the faces of every distinct photograph, found, cropped and encoded, or why it has none.

A chunk is a table of faces and rejections beside one object in which its crops lie end to end. It is written once,
under a key made of its photographs, the config, the columns and the code: a build that was killed finds its finished
chunks, and a build with other settings or other code meets none of them. Reuse is by photograph, whatever the chunks
were then. Not here: what happens inside a photograph (`preprocessing.faces`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from flows.stages.work import Context, Progress, Report, check_code, reasons, spread
from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.records import Face, Photo, Rejection, face_of_row, face_row
from preprocessing.reject import Reason
from storage.code import code_digest
from storage.digest import json_digest
from storage.store import Store
from storage.tables import BATCH_ROWS, Row, get_table, put_table

if TYPE_CHECKING:  # what a build's config is of otherwise changes no face, so a chunk's code must not hold it
    from preprocessing.config import BuildConfig

ALIGN_FIELDS = [
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("size", pa.int64()),
]
"""The columns of a chunk beside those of a face."""


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
        return {"faces": len(self.crops), "reused": self.reused, **reasons(self.rejections)}


def align(
    context: Context,
    report: Report,
    config: BuildConfig,
    photos: Sequence[Photo],
    face_fields: Sequence[pa.Field],
) -> Aligned:
    """Find, crop and encode the faces of every distinct photograph that no earlier build has aligned.

    `face_fields` are a face's columns. They are handed in, so that a chunk depends on them and not on what else the
    scores' catalogue says, such as presets and titles.
    """
    schema = pa.schema([*face_fields, *ALIGN_FIELDS])
    code = code_digest(__name__)
    identity = {"config": config.faces.identity(), "code": code, "columns": sorted(schema.names)}
    prefix = f"chunks/align/{json_digest(identity)}"
    wanted = {
        photo.sha256: photo.item.ref
        for photo in sorted(photos, key=lambda photo: photo.item.ref, reverse=True)
    }
    crops: list[Crop] = []
    rejections: list[Rejection] = []
    done: set[str] = set()
    counts: Counter[str] = Counter()
    columns = [field.name for field in face_fields]

    def take(rows: Iterable[Row]) -> None:
        for row in rows:
            sha256 = row["photo_sha256"]
            done.add(sha256)
            if row["reason"] is None:
                blob = blob_key(f"{prefix}/{row['table']}")
                crops.append(Crop(face_of_row(row, columns), blob, row["offset"], row["size"]))
                counts["faces"] += 1
            else:
                reason = Reason(row["reason"])
                rejections.append(Rejection(wanted[sha256], reason, sha256, row["face_index"], row["detail"]))
                counts[reason] += 1
        report(Progress("align", len(done), len(wanted), "photos", counts))

    known = context.gathered(context.store, prefix, schema, "photo_sha256", "image_sha256")
    for batch in known.rows(pa.array(wanted, pa.string()), schema.names).to_batches(BATCH_ROWS):
        take(batch.to_pylist())
    reused = len(done)
    work = partial(
        align_chunk, store=context.store, prefix=prefix, config=config.faces, code=code, schema=schema
    )
    for key in context.workers.map(work, spread(sorted(wanted.keys() - done), context)):
        name = key.removeprefix(f"{prefix}/")
        take({**row, "table": name} for row in get_table(context.store, key, schema.names))
    context.gathered(context.store, prefix, schema, "photo_sha256", "image_sha256").gather()
    return Aligned(crops, rejections, reused)


def align_chunk(
    sha256s: Sequence[str], store: Store, prefix: str, config: FacesConfig, code: str, schema: pa.Schema
) -> str:
    """Align these photographs; the key of the table of `schema`, whose crops lie end to end at its `blob_key`."""
    import cv2

    cv2.setNumThreads(1)  # a worker is one core
    check_code(__name__, code)
    rows: list[Row] = []
    blob = bytearray()
    for sha256 in sha256s:
        for result in faces_in_photo("", sha256, store.original(sha256), config):
            row: Row = dict.fromkeys(schema.names)
            if isinstance(result, Face):
                row |= face_row(result) | {"offset": len(blob), "size": len(result.image)}
                blob += result.image
            else:
                row |= {"photo_sha256": sha256, "face_index": result.face_index}
                row |= {"reason": result.reason.value, "detail": result.detail}
            rows.append(row)
    key = f"{prefix}/{json_digest(list(sha256s))}.parquet"
    store.put(blob_key(key), bytes(blob))
    put_table(store, key, rows, schema)  # last: a chunk whose table exists is complete
    return key


def blob_key(table_key: str) -> str:
    """Where the crops of a chunk's table lie."""
    return table_key.removesuffix(".parquet") + ".images"
