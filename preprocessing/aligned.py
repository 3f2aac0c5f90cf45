"""A photograph that is an aligned face already: kept as it is, without a look for faces, and without scores.

Its file is stored where its format is the one that is asked for, and else its pixels are, without loss. What an export
says of landmarks and scores is taken back as it is: nothing is measured here. Not here:
photographs in which faces are to be found (`preprocessing.faces`).
"""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from preprocessing.faces import FacesConfig
from preprocessing.photo.encode import encoded
from preprocessing.records import Face, Rejection, Scores
from preprocessing.reject import Reason, Rejected
from storage.digest import bytes_digest
from storage.exports.archive import LANDMARKS, are_landmarks, is_finite
from storage.tables import Row

FORMATS = ("PNG", "WEBP", "JPEG")
GEOMETRY = (
    "photo_sha256", "face_index", "photo_width_px", "photo_height_px", "box_px", "landmarks_px", "quad_px",
    "quad_side_px", "image_sha256", "offset", "size", "reason", "detail",
)  # fmt: skip
"""Columns of a chunk that are of this image, or of its place, whatever is said of the one it was made of."""
PLAIN = ("RGB", "L", "P", "1")
"""Modes whose pixels RGB holds; others have more bits, or a transparency."""


def aligned_face(ref: str, sha256: str, data: bytes, config: FacesConfig) -> list[Face | Rejection]:
    """The whole photograph as its one face, or why it is none: another side than `config.align.output_px`, or no image.

    Points are in pixels of it; there are no landmarks, since nobody looked for them.
    """
    try:
        image = _kept(data, config)
    except Rejected as rejected:
        return [Rejection(ref, rejected.reason, photo_sha256=sha256, detail=rejected.detail)]
    side = config.align.output_px
    low, high = -0.5, side - 0.5
    return [
        Face(
            photo_sha256=sha256,
            face_index=0,
            photo_width_px=side,
            photo_height_px=side,
            box_px=(0.0, 0.0, float(side), float(side)),
            detector_score=None,
            landmarks_px=(),
            quad_px=((low, low), (low, high), (high, high), (high, low)),
            quad_side_px=float(side),
            scores=Scores(),
            image_sha256=bytes_digest(image),
            image=image,
        )
    ]


def taken_back(said: str | None, schema: pa.Schema, side_px: int) -> Row:
    """What is said of a face's landmarks and scores, by columns of `schema`, where it is of their kind.

    Landmarks are said as shares of the image's side, and are in pixels of it here.
    """
    found = json.loads(said) if said else {}
    row: Row = {}
    for field in schema:
        value = found.get(field.name)
        if field.name not in GEOMETRY and _is_of(value, field.type):
            row[field.name] = value
    if are_landmarks(points := found.get(LANDMARKS)):
        row["landmarks_px"] = [[part * side_px - 0.5 for part in point] for point in points]
    return row


def _is_of(value: object, kind: pa.DataType) -> bool:
    if isinstance(value, bool):
        return False
    if pa.types.is_integer(kind):
        return isinstance(value, int) and abs(value) < 1 << 31
    if pa.types.is_floating(kind):
        return is_finite(value)
    return isinstance(value, str) and pa.types.is_string(kind)


def _kept(data: bytes, config: FacesConfig) -> bytes:
    """The bytes to store."""
    side = config.align.output_px
    if not data:
        raise Rejected(Reason.EMPTY_FILE)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.size != (side, side):  # before a pixel of it is decoded
                raise Rejected(
                    Reason.UNSUPPORTED_IMAGE, f"{image.width}x{image.height}, and not {side}x{side}"
                )
            if getattr(image, "n_frames", 1) > 1:
                raise Rejected(Reason.UNSUPPORTED_IMAGE, "it has several pictures")
            image.load()
            if image.mode not in PLAIN and not _is_opaque(image):
                raise Rejected(Reason.UNSUPPORTED_IMAGE, f"its mode {image.mode} is more than RGB")
            same = image.format == config.encode.format.upper() and image.mode == "RGB"
            if not same and config.encode.format == "jpeg":
                raise Rejected(Reason.UNSUPPORTED_IMAGE, "as encode.format=jpeg its pixels would change")
            return data if same else encoded(np.asarray(image.convert("RGB")), config.encode)
    except UnidentifiedImageError:
        raise Rejected(Reason.NOT_AN_IMAGE) from None
    except Image.DecompressionBombError as error:
        raise Rejected(Reason.TOO_MANY_PIXELS) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Rejected(Reason.BROKEN_IMAGE, type(error).__name__) from error


def _is_opaque(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255)
