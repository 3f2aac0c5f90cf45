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
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, Detection, detect_faces, predictor_digest
from preprocessing.photo.encode import EncodeConfig, encoded
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
        identity["scores"] = self.scores.identity()
        return identity


def faces_in_photo(ref: str, sha256: str, data: bytes, config: FacesConfig) -> list[Face | Rejection]:
    """The faces of one photograph, largest quad first, or why there is none; never empty.

    `ref` and `sha256` name the photograph in the records. Only errors of the installation escape.
    """
    try:
        photo = decode(data, config.decode)
    except Rejected as rejected:
        return [Rejection(ref, rejected.reason, photo_sha256=sha256, detail=rejected.detail)]
    detections = detect_faces(photo, config.resolved().detect)
    if not detections:
        return [Rejection(ref, Reason.NO_FACE, photo_sha256=sha256)]
    results: list[Face | Rejection] = []
    for index, detection in enumerate(sorted(detections, key=_largest_first)):
        try:
            results.append(_face(sha256, index, photo, detection, config))
        except Rejected as rejected:
            results.append(Rejection(ref, rejected.reason, sha256, index, rejected.detail))
    return results


def _largest_first(detection: Detection) -> tuple[float, tuple[float, float, float, float]]:
    side = quad_side(crop_quad(detection.landmarks))
    return (-side if math.isfinite(side) else math.inf, detection.box_px)


def _face(sha256: str, index: int, photo: NDArray[np.uint8], found: Detection, config: FacesConfig) -> Face:
    crop = aligned_crop(photo, found.landmarks, config.align)
    image = encoded(crop, config.encode)
    quad = crop_quad(found.landmarks)
    height_px, width_px = photo.shape[:2]
    return Face(
        photo_sha256=sha256,
        face_index=index,
        photo_width_px=width_px,
        photo_height_px=height_px,
        box_px=found.box_px,
        detector_score=found.score,
        landmarks_px=_points(found.landmarks),
        quad_px=_points(quad),
        quad_side_px=quad_side(quad),
        scores=score_face(crop, found.landmarks, quad, width_px, height_px, config.scores, config.detect),
        image_sha256=bytes_digest(image),
        image=image,
    )


def _points(points: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)
