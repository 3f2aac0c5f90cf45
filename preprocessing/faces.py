"""One photograph in, its aligned and encoded faces out: decode, detect, order, crop, encode.

A pure function of the photograph's bytes and the config. Not here: reading sources, and choosing which faces
are kept (`preprocessing.curation`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from preprocessing.photo.align import AlignConfig, aligned_crop, crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, Decoded, decoded
from preprocessing.photo.detect import DetectConfig, Detection, detect_faces, predictor_digest, yunet_digest
from preprocessing.photo.encode import EncodeConfig, encoded
from preprocessing.photo.memory import keep_freed_memory
from preprocessing.records import Face, Rejection
from preprocessing.reject import Reason, Rejected
from preprocessing.scores.score import ScoreConfig, score_face
from storage.config import Config
from storage.digest import bytes_digest


class FacesConfig(Config):
    """Everything that decides which faces a photograph gives, and their bytes."""

    decode: DecodeConfig = Field(default=DecodeConfig(), description="What a photograph may be.")
    detect: DetectConfig = Field(default=DetectConfig(), description="How faces are found.")
    align: AlignConfig = Field(default=AlignConfig(), description="The crop's size and sampling.")
    scores: ScoreConfig = Field(default=ScoreConfig(), description="What is measured of each face.")
    encode: EncodeConfig = Field(default=EncodeConfig(), description="How crops are stored.")

    def resolved(self) -> FacesConfig:
        """This config with every None that has a meaning replaced by it."""
        return self.model_copy(update={"detect": self.detect.resolved(self.align.output_px)})

    def identity(self) -> dict[str, Any]:
        """What of this config determines the result, as JSON: the predictor by its sha256, not by its path."""
        identity = self.resolved().model_dump(mode="json")
        del identity["detect"]["predictor"]
        identity["detect"]["predictor_sha256"] = predictor_digest(self.detect)
        del identity["detect"]["yunet"]
        identity["detect"]["yunet_sha256"] = yunet_digest(self.detect)
        identity["scores"] = self.scores.identity()
        return identity


def faces_in_photo(ref: str, sha256: str, data: bytes, config: FacesConfig) -> list[Face | Rejection]:
    """The faces of one photograph, largest quad first, or why there is none; never empty.

    `ref` and `sha256` name the photograph in the records. Only errors of the installation escape.
    """
    keep_freed_memory()
    try:
        photo = decoded(data, config.decode)
    except Rejected as rejected:
        return [Rejection(ref, rejected.reason, photo_sha256=sha256, detail=rejected.detail)]
    detections = detect_faces(photo.pixels, _as_decoded(config.resolved().detect, photo))
    if not detections:
        return [Rejection(ref, Reason.NO_FACE, photo_sha256=sha256, detail=_said_of(photo))]
    results: list[Face | Rejection] = []
    for index, detection in enumerate(sorted(detections, key=_largest_first)):
        try:
            results.append(_face(sha256, index, photo, detection, config))
        except Rejected as rejected:
            results.append(Rejection(ref, rejected.reason, sha256, index, rejected.detail))
    return results


def _as_decoded(config: DetectConfig, photo: Decoded) -> DetectConfig:
    """The config with its smallest quad in pixels of the photograph as it was decoded."""
    assert config.min_quad_px is not None
    smallest_px = max(round(config.min_quad_px / float(photo.reduction.max())), 1)
    return (
        config
        if smallest_px == config.min_quad_px
        else config.model_copy(update={"min_quad_px": smallest_px})
    )


def _said_of(photo: Decoded) -> str | None:
    """What to know of a photograph that was reduced."""
    height_px, width_px = photo.pixels.shape[:2]
    if (width_px, height_px) == (photo.width_px, photo.height_px):
        return None
    return f"decoded at {width_px}x{height_px}: decode.max_pixels is below {photo.width_px}x{photo.height_px}"


def _largest_first(detection: Detection) -> tuple[float, tuple[float, float, float, float]]:
    side = quad_side(crop_quad(detection.landmarks))
    return (-side if math.isfinite(side) else math.inf, detection.box_px)


def _face(sha256: str, index: int, photo: Decoded, found: Detection, config: FacesConfig) -> Face:
    """One face, its geometry in pixels of the photograph, its crop and scores from the pixels that were decoded."""
    crop = aligned_crop(photo.pixels, found.landmarks, config.align)
    quad = crop_quad(found.landmarks)
    if (reduced := _said_of(photo)) and quad_side(quad) < config.align.output_px:
        raise Rejected(Reason.TOO_MANY_PIXELS, f"crop side {quad_side(quad):.0f} px when {reduced}")
    image = encoded(crop, config.encode)
    in_photo = _in_photo(quad, photo)
    left, top, right, bottom = map(float, _in_photo(np.array(found.box_px).reshape(2, 2), photo).ravel())
    return Face(
        photo_sha256=sha256,
        face_index=index,
        photo_width_px=photo.width_px,
        photo_height_px=photo.height_px,
        box_px=(left, top, right, bottom),
        detector_score=found.score,
        landmarks_px=_points(_in_photo(found.landmarks, photo)),
        quad_px=_points(in_photo),
        quad_side_px=quad_side(in_photo),
        scores=score_face(photo.pixels, crop, found.landmarks, quad, config.scores, config.detect),
        image_sha256=bytes_digest(image),
        image=image,
    )


def _in_photo(points: NDArray[np.float64], photo: Decoded) -> NDArray[np.float64]:
    """Points of the decoded picture as they lie in the photograph itself."""
    return points if (photo.reduction == 1).all() else (points + 0.5) * photo.reduction - 0.5


def _points(points: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)
