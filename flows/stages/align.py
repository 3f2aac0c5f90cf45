"""The stage `align`: the faces of every distinct photograph, found, cropped and encoded, or why it has none.

A chunk is a table of faces and rejections beside one object in which its crops lie end to end. It is written once,
under a key made of its photographs, the config, the columns and the code: a build that was killed finds its finished
chunks, and a build with other settings or other code meets none of them. Reuse is by photograph, whatever the chunks
were then. Not here: what happens inside a photograph (`preprocessing.faces`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.stages.work import Context, Progress, Report, check_code, reasons, spread
from preprocessing.aligned import aligned_face, taken_back
from preprocessing.faces import faces_in_photo
from preprocessing.records import Face, Rejection, face_row
from storage.code import code_digest
from storage.digest import json_digest
from storage.errors import IntegrityError
from storage.store import Store
from storage.tables import Row, arrow, counted, distinct_rows, leaders, numbers, put_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    # what these are of otherwise changes no face, so a chunk's code must not hold them
    from preprocessing.config import BuildConfig
    from storage.gathered import Gathered

Faces = Callable[[str, str, bytes], list[Face | Rejection]]
"""Gives the faces of a photograph, by its reference, sha256 and bytes."""
ALIGN_FIELDS = [
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("size", pa.int64()),
]
"""The columns of a chunk beside those of a face."""


@dataclass(frozen=True)
class Crop:
    """Where an encoded crop lies: `size` bytes at `offset` of the object `blob`. Their sha256 is on record."""

    blob: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, eq=False)
class Aligned:
    """Every photograph's faces, or why it has none.

    `faces` has the columns that were asked for; `photo`, the number of its photograph; and for each face its place:
    `offset` and `size` in its chunk's crops, `table` and `row` of `chunks`, which holds all of it. `rejections` has the
    fields of a Rejection for its columns.
    """

    chunks: Gathered
    faces: pa.Table
    rejections: pa.Table
    reused: int

    def counts(self) -> dict[str, int]:
        """What became of the photographs; `reused` photographs were aligned by an earlier build."""
        return {"faces": self.faces.num_rows, "reused": self.reused, **reasons(self.rejections)}

    def crops(self, faces: NDArray[np.int64]) -> list[Crop]:
        """Where the crops of some faces lie."""
        found = self.faces.select(["table", "offset", "size", "image_sha256"]).take(arrow(faces))
        return [
            Crop(blob_key(f"{self.chunks.prefix}/{table}"), offset, size, sha256)
            for table, offset, size, sha256 in zip(*(column.to_pylist() for column in found), strict=True)
        ]


def align(
    context: Context,
    report: Report,
    config: BuildConfig,
    photos: pa.Table,
    face_fields: Sequence[pa.Field],
    columns: Sequence[str],
) -> Aligned:
    """Find, crop and encode the faces of every distinct photograph that no earlier build has aligned.

    `photos` has the columns `ref`, `sha256` and `rank`, and where they are aligned faces `said`; of those with the same
    bytes the one of the least rank stands for all. `face_fields` are a face's columns, and `columns` those of them that
    are wanted here. Both are handed in, so that a chunk depends on them and not on what else the scores' catalogue
    says, such as presets and titles.
    """
    schema = pa.schema([*face_fields, *ALIGN_FIELDS])
    code = code_digest(__name__)
    identity = {"config": config.faces_identity(), "code": code, "columns": sorted(schema.names)}
    distinct = distinct_rows(leaders(photos["sha256"], photos["rank"]))
    sha256s = photos["sha256"].take(arrow(distinct)).combine_chunks()
    said = photos["said"].take(arrow(distinct)).combine_chunks() if config.aligned else None
    if said is not None:  # of which a chunk holds a part
        identity["said"] = digest_of_said(sha256s, said)
    prefix = f"chunks/align/{json_digest(identity)}"
    names = list(
        dict.fromkeys([*columns, "face_index", "image_sha256", *(field.name for field in ALIGN_FIELDS)])
    )
    counts: Counter[str] = Counter()
    done = 0

    def note(num_photos: int, outcomes: Mapping[str, int]) -> None:
        nonlocal done
        done += num_photos
        counts.update(outcomes)
        report(Progress("align", done, len(distinct), "photos", counts))

    def opened() -> Gathered:
        found = context.gathered(context.store, prefix, schema, "photo_sha256", "image_sha256")
        if found.is_gathered:
            return found
        found.gather()  # first: there may be more chunks than a process may have files open
        return context.gathered(context.store, prefix, schema, "photo_sha256", "image_sha256")

    def jobs() -> Iterator[list[tuple[str, str | None]]]:
        for chunk in spread(range(len(left)), context):
            mine = missing.slice(chunk[0], len(chunk)).to_pylist()
            theirs = (
                said.take(arrow(left[chunk[0] : chunk[-1] + 1])).to_pylist()
                if said is not None
                else [None] * len(mine)
            )
            yield list(zip(mine, theirs, strict=True))

    before = opened()
    found = [before.rows(sha256s, names)]
    number = numbers(found[0]["number"])
    is_left = np.ones(len(distinct), bool)
    is_left[number] = False
    left = np.flatnonzero(is_left)
    left = left[numbers(pc.sort_indices(sha256s.take(arrow(left))))]
    missing = sha256s.take(arrow(left))
    del sha256s  # a digest of each photograph is held in `photos`
    reused = len(distinct) - len(left)
    note(reused, _outcomes(found[0]["reason"]))
    faces = partial(aligned_face if config.aligned else faces_in_photo, config=config.faces)
    side_px = config.faces.align.output_px
    work = partial(
        align_chunk,
        store=context.store,
        prefix=prefix,
        faces=faces,
        code=code,
        schema=schema,
        side_px=side_px,
    )
    for num_photos, outcomes in context.workers.map(work, jobs()):
        note(num_photos, outcomes)
    now = opened() if len(left) else before
    if len(left):
        found.append(now.rows(missing, names, since=before))
        number = np.concatenate([number, left[numbers(found[1]["number"])]])
    if len(distinct_rows(number)) < len(distinct):
        raise IntegrityError(f"{context.store.path(prefix)} lacks chunks that were just written: build again")
    return Aligned(now, *_apart(found, distinct[number], photos), reused)


def digest_of_said(sha256s: pa.Array, said: pa.Array) -> str:
    """The sha256 of what is said of each photograph."""
    digest = hashlib.sha256()
    for sha256, text in sorted(zip(sha256s.to_pylist(), said.to_pylist(), strict=True)):
        digest.update(json.dumps([sha256, text]).encode())
    return digest.hexdigest()


def _apart(
    found: list[pa.Table], numbers_of_photos: NDArray[np.int64], photos: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """Rows of chunks as faces and as rejections; `found` is emptied, so that few columns are held twice."""
    rows = pa.concat_tables(found).append_column("photo", arrow(numbers_of_photos)).unify_dictionaries()
    found.clear()
    is_face = rows["reason"].is_null()
    refused = rows.select(["photo", "face_index", "reason", "detail"]).filter(pc.invert(is_face))
    photos = photos.take(refused["photo"])
    refused = refused.drop_columns(["photo"]).append_column("ref", photos["ref"])
    refused = refused.append_column("photo_sha256", photos["sha256"])
    refused = refused.append_column("duplicate_of", pa.nulls(refused.num_rows, pa.string()))
    faces = {}
    for name in rows.column_names:
        if name not in ("number", "reason", "detail"):
            faces[name] = rows[name].filter(is_face).combine_chunks()
        rows = rows.drop_columns([name])
    return pa.table(faces), refused


def _outcomes(reasons: pa.ChunkedArray) -> dict[str, int]:
    """How many rows are faces, and how many have each reason."""
    return {name or "faces": count for name, count in counted(reasons).items()}


def align_chunk(
    photos: Sequence[tuple[str, str | None]],
    store: Store,
    prefix: str,
    faces: Faces,
    code: str,
    schema: pa.Schema,
    side_px: int,
) -> tuple[int, dict[str, int]]:
    """Align these photographs, each with what is said of it as an aligned face, and say what became of them.

    A table of `schema` holds it, and their crops lie end to end at its `blob_key`.
    """
    import cv2

    cv2.setNumThreads(1)  # a worker is one core
    check_code(__name__, code)
    rows: list[Row] = []
    blob = bytearray()
    for sha256, said in photos:
        for result in faces("", sha256, store.original(sha256)):
            row: Row = dict.fromkeys(schema.names)
            if isinstance(result, Face):
                row |= face_row(result) | taken_back(said, schema, side_px)
                row |= {"offset": len(blob), "size": len(result.image)}
                blob += result.image
            else:
                row |= {"photo_sha256": sha256, "face_index": result.face_index}
                row |= {"reason": result.reason.value, "detail": result.detail}
            rows.append(row)
    key = f"{prefix}/{json_digest([sha256 for sha256, _ in photos])}.parquet"
    store.put(blob_key(key), bytes(blob))
    put_table(store, key, rows, schema)  # last: a chunk whose table exists is complete
    return len(photos), Counter(row["reason"] or "faces" for row in rows)


def blob_key(table_key: str) -> str:
    """Where the crops of a chunk's table lie."""
    return table_key.removesuffix(".parquet") + ".images"
