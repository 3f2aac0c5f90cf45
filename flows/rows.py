"""Records as table rows and back: the columns of chunks and of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields

from preprocessing.records import SOURCE_FIELDS, Face, Item, Photo, Rejection, Scores
from storage.datasets.manifest import KEY_DIGITS
from storage.tables import Row

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
