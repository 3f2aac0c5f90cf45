"""The columns that records have, in chunks, in a version's tables, and in the process that drives a build.

That process holds many faces, as tables of a few hundred bytes a row; a record is made of a row where one is needed.
Not here: rows of records and records of rows (`preprocessing.records`), and tables (`storage.tables`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from preprocessing.records import SOURCE_COLUMNS, Face, Item, Photo, Rejection, face_row
from preprocessing.reject import Reason
from preprocessing.scores.catalogue import MEASURED, Score
from storage.tables import arrow, filled, numbers, rows_holding, table_of

_TYPES = {
    "float": pa.float64(),
    "int": pa.int32(),
    "text": pa.string(),
    "vector": pa.list_(pa.float64()),
}
_POINTS = pa.list_(pa.list_(pa.float64()))
SOURCE_FIELDS = [pa.field(name, pa.string()) for name in SOURCE_COLUMNS]
ITEM_SCHEMA = pa.schema(SOURCE_FIELDS)
READ_SCHEMA = pa.schema(
    [pa.field("ref", pa.string()), pa.field("sha256", pa.string()), pa.field("num_bytes", pa.int64())]
)
"""The columns of photographs, as they are read."""
PHOTO_SCHEMA = pa.schema([*READ_SCHEMA, pa.field("is_licensed", pa.bool_()), pa.field("rank", pa.int64())])
"""The columns of photographs, as stages hand them on (`preprocessing.curation.facts`)."""
SCORE_FIELDS = [pa.field(score.name, _TYPES[score.kind]) for score in MEASURED]
"""The columns of a face that are its scores: what curation judges by."""
FACE_FIELDS = [
    pa.field("photo_sha256", pa.string()),
    pa.field("face_index", pa.int32()),
    pa.field("photo_width_px", pa.int32()),
    pa.field("photo_height_px", pa.int32()),
    pa.field("box_px", pa.list_(pa.float64())),
    pa.field("detector_score", pa.float64()),
    pa.field("landmarks_px", _POINTS),
    pa.field("quad_px", _POINTS),
    pa.field("quad_side_px", pa.float64()),
    *SCORE_FIELDS,
    pa.field("image_sha256", pa.string()),
]
"""The columns of a face, its scores among them."""
IMAGE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        *FACE_FIELDS,
        pa.field("photo_num_bytes", pa.int64()),
        *SOURCE_FIELDS,
    ]
)
REJECTED_FIELDS = [
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
    pa.field("duplicate_of", pa.string()),
    pa.field("photo_sha256", pa.string()),
    pa.field("face_index", pa.int32()),
]
REJECTED_SCHEMA = pa.schema([pa.field("ref", pa.string()), *REJECTED_FIELDS])
"""The columns of rejections, as stages hand them on."""
REJECTION_SCHEMA = pa.schema([*REJECTED_FIELDS, *SOURCE_FIELDS])
"""The columns of rejections, as a version's table holds them."""


def columns_of(faces: Sequence[Face], photos: pa.Table) -> pa.Table:
    """Faces as columns, and as `photo` the number of each one's photograph among `photos`; what was not measured is
    missing.
    """
    table = table_of(map(face_row, faces), pa.schema(FACE_FIELDS))
    photo = rows_holding(photos["sha256"], table["photo_sha256"])
    return table.append_column("photo", arrow(photo))


def photo_columns(photos: Iterable[Photo]) -> pa.Table:
    """Photographs as columns, without what their source says of them."""
    rows = ({"ref": photo.item.ref, "sha256": photo.sha256, "num_bytes": photo.num_bytes} for photo in photos)
    return table_of(rows, READ_SCHEMA)


def item_columns(items: Iterable[Item]) -> pa.Table:
    """What a source says of its photographs, as columns."""
    return table_of((asdict(item) for item in items), ITEM_SCHEMA)


def rejection_columns(rejections: Iterable[Rejection]) -> pa.Table:
    """Rejections as columns."""
    rows = ({**asdict(rejection), "reason": rejection.reason.value} for rejection in rejections)
    return table_of(rows, REJECTED_SCHEMA)


def rejections_of(columns: pa.Table) -> list[Rejection]:
    """The inverse of `rejection_columns`."""
    return [Rejection(**{**row, "reason": Reason(row["reason"])}) for row in columns.to_pylist()]


def values_of(score: Score, faces: pa.Table) -> NDArray[np.float64]:
    """A score, a number, of every face; NaN where it was not measured."""
    return numbers(filled(faces[score.name].cast(pa.float64()), np.nan))
