"""Faces by YuNet, a small network that finds tilted, turned and covered ones too, with five points of each.

Weights of 2023 are beside this file (232 kB, MIT: `LICENSE`); any other file of the same kind can be given. Not here:
the 68 landmarks that a crop is made of (`preprocessing.photo.detect`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError

WEIGHTS = Path(__file__).parent / "face_detection_yunet_2023mar.onnx"

_SURELY_FOUND_PX = 80
"""Side of the smallest crop, in the picture that the network sees, that is found surely."""
_LARGE_PX = 640
"""Side of a picture in which a face that fills it is found; in larger ones it is too large for the network."""
_SAME_OVERLAP = 0.3
_MOST_FACES = 5000
_PLACES, _SCORE_DIGITS = 4, 3
"""Places in a pixel of the network's picture, and digits of a score, to which its answers are rounded: what processors
find lies up to 0.00005 px and 0.0000004 apart (`docs/lineage.md`), and no network knows a face so well."""


Rectangle = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True, slots=True, eq=False)
class FivePoints:
    """A face: `box_px` is (left, top, right, bottom), `points` float64 (5, 2) are eyes, nose and corners of the mouth.

    Eyes and corners are in the picture's order, left before right.
    """

    box_px: Rectangle
    score: float
    points: NDArray[np.float64]


def five_points(
    photo: NDArray[np.uint8], weights: Path, min_quad_px: int, threshold: float, max_pixels: int
) -> list[FivePoints]:
    """The faces of an upright sRGB photograph, uint8 (height, width, 3), surest first."""
    height, width = photo.shape[:2]
    scale = min(1.0, _SURELY_FOUND_PX / min_quad_px, (max_pixels / (height * width)) ** 0.5)
    scales = [scale]
    while scales[-1] * max(height, width) > 2 * _LARGE_PX:
        scales.append(scales[-1] / 4)
    if scales[-1] * max(height, width) > _LARGE_PX:
        scales.append(_LARGE_PX / 2 / max(height, width))
    found = [face for one in scales for face in _at_scale(photo, weights, one, threshold)]
    kept: list[FivePoints] = []
    for face in sorted(found, key=lambda face: (-face.score, face.box_px)):
        if all(overlap(face.box_px, other.box_px) <= _SAME_OVERLAP for other in kept):
            kept.append(face)
    return kept


def overlap(one: Rectangle, other: Rectangle) -> float:
    """What two rectangles share of what they cover together, 0 to 1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def rough_boxes(picture: NDArray[np.uint8], threshold: float) -> list[Rectangle]:
    """Where the packaged network sees something like a face in a small grey picture, uint8 (height, width)."""
    rows = _rows(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR), WEIGHTS, threshold)
    corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    return [(left, top, right, bottom) for left, top, right, bottom in corners.astype(np.float64).tolist()]


def _at_scale(photo: NDArray[np.uint8], weights: Path, scale: float, threshold: float) -> list[FivePoints]:
    size = max(round(photo.shape[1] * scale), 1), max(round(photo.shape[0] * scale), 1)
    picture = cv2.resize(photo, size, interpolation=cv2.INTER_AREA) if scale < 1 else photo
    faces = []
    to_photo = np.array([photo.shape[1] / size[0], photo.shape[0] / size[1]])
    for row in _rows(np.ascontiguousarray(picture[..., ::-1]), weights, threshold):
        corner, extent = row[:2].astype(np.float64) * to_photo, row[2:4].astype(np.float64) * to_photo
        left, top, right, bottom = np.concatenate([corner, corner + extent]).tolist()
        points = row[4:14].astype(np.float64).reshape(5, 2) * to_photo
        score = round(float(row[14]), _SCORE_DIGITS)
        faces.append(FivePoints((left, top, right, bottom), score, points))
    return faces


def _rows(picture: NDArray[np.uint8], weights: Path, threshold: float) -> NDArray[np.float32]:
    """What the network says of a BGR picture: rows of left, top, width, height, five points, and a score."""
    detector = _detector(weights)
    detector.setInputSize(picture.shape[1::-1])
    detector.setScoreThreshold(threshold)
    _, rows = detector.detect(picture)
    found: NDArray[np.float32] = np.empty((0, 15), np.float32) if rows is None else rows
    found = found[np.isfinite(found).all(axis=1)]
    return np.concatenate([np.rint(found[:, :14] * _PLACES) / _PLACES, found[:, 14:]], axis=1)


@lru_cache(maxsize=2)
def _detector(weights: Path) -> Any:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of a target that nobody chose
    try:
        return cv2.FaceDetectorYN.create(str(weights), "", (320, 320), 0.6, _SAME_OVERLAP, _MOST_FACES)
    except cv2.error as error:
        raise ConfigError(f"{weights} (detect.yunet) is not a model of YuNet") from error
    finally:
        cv2.utils.logging.setLogLevel(level)
