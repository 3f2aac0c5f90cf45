"""One photograph in, its aligned and encoded faces out: decode, detect, order, crop, encode.

A pure function of the photograph's bytes and the config. Not here: reading sources, and choosing which faces
are kept (curate.py).
"""

from __future__ import annotations

import io
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from preprocessing.align import AlignConfig, aligned_crop, crop_quad, quad_side
from preprocessing.decode import DecodeConfig, decode
from preprocessing.detect import DetectConfig, Detection, detect_faces, predictor_digest
from preprocessing.records import Face, Rejection
from preprocessing.reject import Reason, Rejected
from storage.config import Config
from storage.digest import bytes_digest, code_digest

ALGORITHM_MODULES = (
    "preprocessing.align",
    "preprocessing.decode",
    "preprocessing.detect",
    "preprocessing.faces",
    "preprocessing.records",
)
"""Modules whose change may change a face's bytes or record, for `storage.digest.code_digest`."""

ALGORITHM_DISTRIBUTIONS = ("dlib-bin", "numpy", "pillow", "scipy")
"""Installed packages whose change may do so."""


def algorithm_digest() -> str:
    """Digest of all code that a face's bytes and record depend on, as it is in this process."""
    return code_digest(ALGORITHM_MODULES, ALGORITHM_DISTRIBUTIONS)


class EncodeConfig(Config):
    """How crops are stored."""

    format: Literal["png", "webp", "jpeg"] = Field(
        default="png", description="png and webp are lossless; jpeg is not, and a quarter of the size."
    )
    png_compress_level: int = Field(
        default=4, ge=0, le=9, description="zlib effort of png: higher is smaller and slower."
    )
    jpeg_quality: int = Field(
        default=95, ge=1, le=100, description="Quality of jpeg, without chroma subsampling."
    )


class FacesConfig(Config):
    """Everything that decides which faces a photograph gives, and their bytes."""

    decode: DecodeConfig = Field(default=DecodeConfig(), description="What a photograph may be.")
    detect: DetectConfig = Field(default=DetectConfig(), description="How faces are found.")
    align: AlignConfig = Field(default=AlignConfig(), description="The crop's size and sampling.")
    encode: EncodeConfig = Field(default=EncodeConfig(), description="How crops are stored.")

    def resolved(self) -> FacesConfig:
        """This config with every None that has a meaning replaced by it."""
        return self.model_copy(update={"align": self.align.resolved()})

    def identity(self) -> dict[str, Any]:
        """What of this config determines the result, as JSON: the predictor by its sha256, not by its path."""
        identity = self.resolved().model_dump(mode="json")
        del identity["detect"]["predictor"]
        identity["detect"]["predictor_sha256"] = predictor_digest(self.detect)
        return identity


def faces_in_photo(ref: str, sha256: str, data: bytes, config: FacesConfig) -> list[Face | Rejection]:
    """The faces of one photograph, largest quad first, or why there is none; never empty.

    `ref` and `sha256` name the photograph in the records. Only errors of the installation escape.
    """
    try:
        photo = decode(data, config.decode)
    except Rejected as rejected:
        return [Rejection(ref, rejected.reason, photo_sha256=sha256, detail=rejected.detail)]
    detections = detect_faces(photo, config.detect)
    if not detections:
        return [Rejection(ref, Reason.NO_FACE, photo_sha256=sha256)]
    results: list[Face | Rejection] = []
    for index, detection in enumerate(sorted(detections, key=_largest_first)):
        try:
            results.append(_face(sha256, index, photo, detection, config))
        except Rejected as rejected:
            results.append(Rejection(ref, rejected.reason, sha256, index, rejected.detail))
    return results


def encoded(image: NDArray[np.uint8], config: EncodeConfig) -> bytes:
    """The bytes of an RGB image, uint8 (height, width, 3): the same for the same pixels, without metadata."""
    buffer = io.BytesIO()
    match config.format:
        case "png":
            Image.fromarray(image).save(buffer, "PNG", compress_level=config.png_compress_level)
        case "webp":
            Image.fromarray(image).save(buffer, "WEBP", lossless=True, method=0, quality=50)
        case "jpeg":
            Image.fromarray(image).save(buffer, "JPEG", quality=config.jpeg_quality, subsampling="4:4:4")
    return buffer.getvalue()


def _largest_first(detection: Detection) -> tuple[float, tuple[float, float, float, float]]:
    side = quad_side(crop_quad(detection.landmarks))
    return (-side if math.isfinite(side) else math.inf, detection.box_px)


def _face(sha256: str, index: int, photo: NDArray[np.uint8], found: Detection, config: FacesConfig) -> Face:
    image = encoded(aligned_crop(photo, found.landmarks, config.align), config.encode)
    quad = crop_quad(found.landmarks)
    return Face(
        photo_sha256=sha256,
        face_index=index,
        photo_width_px=photo.shape[1],
        photo_height_px=photo.shape[0],
        box_px=found.box_px,
        detector_score=found.score,
        landmarks_px=_points(found.landmarks),
        quad_px=_points(quad),
        quad_side_px=quad_side(quad),
        image_sha256=bytes_digest(image),
        image=image,
    )


def _points(points: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)
