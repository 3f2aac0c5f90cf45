"""One photograph's face as the square picture that a generator could have drawn.

Not here: alignment itself (`preprocessing.faces`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.photo.align import AlignConfig
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces
from preprocessing.photo.encode import EncodeConfig
from preprocessing.records import Rejection
from preprocessing.reject import Rejected
from preprocessing.scores.models import embedding_of
from storage.digest import bytes_digest
from storage.errors import ConfigError, SourceError
from storage.local import file_bytes

EMBEDDED_PX = 256
"""The least side of a crop that a face is embedded in."""
Align = Literal["auto", "always", "never"]


def portrait(photo: Path, output_px: int, align: Align = "auto") -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Pixels (S, S, 3) of the largest face of `photo`, and what is on record of it.

    A square picture is taken as a crop already, at its own size, unless `align` is always; never refuses any other.
    Of such a picture `shows_face` says whether a face was found in it.
    """
    try:
        data = file_bytes(photo)
    except OSError as error:
        raise SourceError(f"{photo} cannot be read: {error.strerror}") from error
    facts: dict[str, Any] = {"photo": photo.name, "photo_sha256": bytes_digest(data)}
    if align != "always":
        try:
            pixels = decode(data, DecodeConfig())
        except Rejected as rejected:
            raise SourceError(f"{photo} cannot be used: {rejected}") from rejected
        height_px, width_px = pixels.shape[:2]
        if height_px == width_px:
            return pixels, {**facts, "aligned": False, "shows_face": _shows_face(pixels)}
        if align == "never":
            raise ConfigError(
                f"{photo} is {width_px}x{height_px}, not square: leave --align to auto or always"
            )
    config = FacesConfig(align=AlignConfig(output_px=output_px), encode=EncodeConfig(format="png"))
    face = faces_in_photo(str(photo), facts["photo_sha256"], data, config)[0]
    if isinstance(face, Rejection):
        detail = f": {face.detail}" if face.detail else ""
        raise SourceError(f"{photo} shows no face that can be aligned ({face.reason.value}{detail})")
    facts |= {"aligned": True, "quad_px": face.quad_px, "image_sha256": face.image_sha256}
    with Image.open(io.BytesIO(face.image)) as image:
        return np.asarray(image.convert("RGB")), facts


def identity_distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float | None:
    """How far apart dlib's embedding finds the faces of two crops (S, S, 3), or None where one shows none to it.

    The same person's faces lie within about 0.6.
    """
    vectors = [_embedding(crop) for crop in (a, b)]
    if vectors[0] is None or vectors[1] is None:
        return None
    return float(np.linalg.norm(np.subtract(vectors[0], vectors[1])))


def _embedding(crop: NDArray[np.uint8]) -> Sequence[float] | None:
    """Of the largest face of a crop, enlarged where the crop is small."""
    side = max(len(crop), EMBEDDED_PX)
    enlarged = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC))
    found = detect_faces(enlarged, DetectConfig(min_quad_px=side // 2, upsample=1))
    if not found:
        return None
    return embedding_of(enlarged, (found[0].landmarks + 0.5) / side)


def _shows_face(crop: NDArray[np.uint8]) -> bool:
    """Whether the detector finds a face that fills half of the crop or more, enlarged where the crop is small."""
    return bool(detect_faces(crop, DetectConfig(min_quad_px=max(1, len(crop) // 2), upsample=3)))
