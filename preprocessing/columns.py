"""The columns that records have in chunks and in a version's tables.

Not here: rows of records and records of rows (`preprocessing.records`), and tables (`storage.tables`).
"""

from __future__ import annotations

import pyarrow as pa

from preprocessing.records import SOURCE_COLUMNS
from preprocessing.scores.catalogue import MEASURED

_TYPES = {
    "float": pa.float64(),
    "int": pa.int32(),
    "text": pa.string(),
    "vector": pa.list_(pa.float64()),
}
_POINTS = pa.list_(pa.list_(pa.float64()))
SOURCE_FIELDS = [pa.field(name, pa.string()) for name in SOURCE_COLUMNS]
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
REJECTION_SCHEMA = pa.schema(
    [
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("duplicate_of", pa.string()),
        pa.field("photo_sha256", pa.string()),
        pa.field("face_index", pa.int32()),
        *SOURCE_FIELDS,
    ]
)
