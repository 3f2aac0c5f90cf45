"""The frozen records that every stage passes on, and the columns they have in chunks and in a version's tables.

Stages make these, storage writes them, nothing changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import pyarrow as pa

from preprocessing.reject import Reason
from storage.shards import KEY_DIGITS
from storage.tables import Row


@dataclass(frozen=True, slots=True)
class Item:
    """One photograph as its source lists it, before its bytes are read.

    `ref` is what the source calls it: a URL, or a POSIX path relative to the source's root. It is unique
    within a source. Missing metadata is None, never invented. `expected_sha256` is what the source claims
    of the bytes; a photograph that differs is rejected.
    """

    ref: str
    page: str | None = None
    author: str | None = None
    license: str | None = None
    license_url: str | None = None
    title: str | None = None
    expected_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Photo:
    """An item whose bytes were read: `sha256` and `num_bytes` are of the original file, untouched."""

    item: Item
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Scores:
    """What is measured of one face; what is good enough is curation's to say.

    Measured on the crop unless said otherwise, so that crops of one dataset compare.
    """

    padding_fraction: float
    """Share of the crop's area that lies outside of the photograph, 0 to 1."""
    feature_margin: float
    """Smallest distance of an eye or mouth landmark from the edge of crop and photograph, in crop sides; negative
    outside."""
    sharpness: float
    """1 / sqrt(1 + w^2), where w px of Gaussian blur would make the face's strongest edges of ideal ones: near 0.7
    where edges are as sharp as pixels allow, near 0.25 in a picture enlarged six times. In the crop's own pixels,
    so a threshold means the same at every output size."""
    landmark_error: float
    """How far the landmarks are from those found anew in the crop, root mean square in eye distances, at most 1."""
    yaw_deg: float
    """Positive where the face turns to the picture's right. All angles are of the face in the photograph."""
    pitch_deg: float
    """Positive where it looks up; 0 is the median portrait."""
    roll_deg: float
    """Positive where the head tips to the picture's right, clockwise; the crop undoes it."""
    brightness: float
    """Mean luma of the face, 0 to 1."""
    clipped_fraction: float
    """Share of the face's pixels that are all but black or white, 0 to 1."""
    colorfulness: float
    """Spread of chroma that luma does not explain: 0 for grey, below 0.015 for toned pictures, above it in colour."""
    pdq: str
    """PDQ hash of the crop, 64 hex digits."""
    pdq_quality: int
    """PDQ's own measure of how much there is to hash, 0 to 100."""
    embedding: tuple[float, ...] | None = None
    """128-d identity embedding, where asked for."""
    filter_score: float | None = None
    """What the user's ONNX model says, where there is one."""


@dataclass(frozen=True, slots=True)
class Face:
    """One aligned face of one photograph.

    `face_index` numbers a photograph's faces from 0, largest quad first. `box_px` is the detector's rectangle
    (left, top, right, bottom) and `landmarks_px` the 68 points (x, y), both in pixels of the upright
    photograph; `quad_px` is the crop's four corners (top-left, bottom-left, bottom-right, top-right) there and
    `quad_side_px` its side before resampling. `image` is the encoded crop and `image_sha256` its digest.
    """

    photo_sha256: str
    face_index: int
    photo_width_px: int
    photo_height_px: int
    box_px: tuple[float, float, float, float]
    detector_score: float
    landmarks_px: tuple[tuple[float, float], ...]
    quad_px: tuple[tuple[float, float], ...]
    quad_side_px: float
    scores: Scores
    image_sha256: str
    image: bytes


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one photograph, or one face of it, is not in the dataset.

    `detail` is deterministic (no times, addresses or absolute paths); `duplicate_of` names the sha256 kept in
    its place. `photo_sha256` is None when the bytes never arrived.
    """

    ref: str
    reason: Reason
    photo_sha256: str | None = None
    face_index: int | None = None
    detail: str | None = None
    duplicate_of: str | None = None


_POINTS = pa.list_(pa.list_(pa.float64()))
SOURCE_FIELDS = [
    pa.field("ref", pa.string()),
    pa.field("page", pa.string()),
    pa.field("author", pa.string()),
    pa.field("license", pa.string()),
    pa.field("license_url", pa.string()),
    pa.field("title", pa.string()),
]
SCORE_FIELDS = [
    pa.field("padding_fraction", pa.float64()),
    pa.field("feature_margin", pa.float64()),
    pa.field("sharpness", pa.float64()),
    pa.field("landmark_error", pa.float64()),
    pa.field("yaw_deg", pa.float64()),
    pa.field("pitch_deg", pa.float64()),
    pa.field("roll_deg", pa.float64()),
    pa.field("brightness", pa.float64()),
    pa.field("clipped_fraction", pa.float64()),
    pa.field("colorfulness", pa.float64()),
    pa.field("pdq", pa.string()),
    pa.field("pdq_quality", pa.int32()),
    pa.field("embedding", pa.list_(pa.float64())),
    pa.field("filter_score", pa.float64()),
]
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


_FACE_COLUMNS = [field.name for field in fields(Face) if field.name not in ("image", "scores")]
_SCORE_COLUMNS = [field.name for field in fields(Scores)]


def face_row(face: Face) -> Row:
    """A face without its pixels, its scores as columns of their own."""
    row = asdict(face)
    del row["image"]
    scores = row.pop("scores")
    return {**row, **scores}


def face_of_row(row: Row) -> Face:
    """The face of a row, without its pixels."""
    values = {name: row[name] for name in _FACE_COLUMNS}
    scores = {name: row[name] for name in _SCORE_COLUMNS}
    if scores["embedding"] is not None:
        scores["embedding"] = tuple(scores["embedding"])
    values["box_px"] = tuple(values["box_px"])
    values["landmarks_px"] = tuple(map(tuple, values["landmarks_px"]))
    values["quad_px"] = tuple(map(tuple, values["quad_px"]))
    return Face(**values, scores=Scores(**scores), image=b"")


def image_row(face: Face, photo: Photo) -> Row:
    """The manifest's row of an image, but for its place in a shard."""
    return {
        "key": face.image_sha256[:KEY_DIGITS],
        **face_row(face),
        "photo_num_bytes": photo.num_bytes,
        **source_row(photo.item),
    }


def source_row(item: Item) -> Row:
    """What the source says of a photograph."""
    return {field.name: getattr(item, field.name) for field in SOURCE_FIELDS}


def rejection_row(rejection: Rejection, items: Mapping[str, Item]) -> Row:
    """The manifest's row of a rejection."""
    facts = asdict(rejection)
    return {**facts, "reason": rejection.reason.value, **source_row(items[rejection.ref])}
