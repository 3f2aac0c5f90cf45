"""What is measured of one face, from its crop and its geometry: the numbers that curation judges by.

    scores = score_face(photo, crop, landmarks, quad, ScoreConfig(), DetectConfig())

A pure function: the same pixels and points give the same numbers, none of them NaN. What belongs to the face is
measured in the crop's middle (`FACE_AREA`), which the alignment fills with it. Not here: what is good enough
(`preprocessing.curation`), and the size of the crop in its photograph and the detector's score, which the face's
record holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsFloat

import cv2
import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from preprocessing.photo.detect import DETECTED_BOX, DetectConfig, landmarks_in_box
from preprocessing.records import Scores, ScoreValue
from preprocessing.scores.detail import detail
from preprocessing.scores.models import (
    Pixels,
    Points,
    embedding_of,
    embedding_path,
    filter_score_of,
    filter_session,
)
from preprocessing.scores.pose import Pose, fit_pose
from storage.config import Config
from storage.digest import cached_file_digest

FACE_AREA = (0.25, 0.30, 0.75, 0.85)
"""Left, top, right and bottom of what is surely face, in crop sides: brows to below the mouth, temple to temple."""

EYES_AND_MOUTH = slice(36, 68)
WORKING_PX = 256
"""Side at which all but the sharpness is measured, so that crops of every size compare."""

HASH_PX = 128
"""Side of what is hashed: PDQ looks at 64 x 64, and hashes of 128 and of 256 px tell copies apart equally well."""

FINE = np.array([3, 29, 64, 29, 3]) / 128
COARSE = np.array([1, 6, 15, 26, 32, 26, 15, 6, 1]) / 128
FINE_PX, COARSE_PX = 0.8, 1.581
"""Blurs whose edges are compared for the sharpness, and standard deviations of Gaussians that tell the same, in pixels.

The second is fitted to 830 portraits, whose sharpness by a Gaussian of 1.6 px is higher by 0.0001 to 0.0015.

Quarters of a level blurred by 128ths along both axes are exact in float32, so that every processor gives the same.
"""


Measurement = SupportsFloat | str | Sequence[float] | None


class ScoreConfig(Config):
    """What is measured of each face beside the scores that are always there."""

    embedding: bool = Field(
        default=False,
        description="Compute dlib's 128-d identity embedding: the same person's faces lie within about 0.6.",
    )
    filter_model: Path | None = Field(
        default=None,
        description="Your own ONNX model: float32 (N, 3, H, W) RGB from 0 to 1 in, one float a face out, higher for "
        "what is more surely a photograph of a face; it becomes the filter score.",
    )

    def identity(self) -> dict[str, Any]:
        """What of this config determines the scores: models by their sha256, checked to be such models."""
        embedding = filter_model = None
        if self.embedding:
            embedding = cached_file_digest(embedding_path())
        if self.filter_model is not None:
            path = self.filter_model.expanduser()
            filter_session(path)
            filter_model = cached_file_digest(path)
        return {"embedding_sha256": embedding, "filter_model_sha256": filter_model}


@dataclass(frozen=True)
class Prepared:
    """One face ready to be measured. What several scores need of it is made once, when it is first asked for.

    `photo` is uint8 RGB (height, width, 3); `crop` (side, side, 3) is aligned to `quad` (4, 2) by `landmarks` (68, 2),
    both in pixels of the photograph. `detect` names the landmark predictor.
    """

    photo: Pixels
    crop: Pixels
    landmarks: Points
    quad: Points
    config: ScoreConfig
    detect: DetectConfig

    @property
    def photo_width_px(self) -> int:
        """Width of the photograph."""
        return int(self.photo.shape[1])

    @property
    def photo_height_px(self) -> int:
        """Height of the photograph."""
        return int(self.photo.shape[0])

    @cached_property
    def in_crop(self) -> Points:
        """The landmarks in crop sides."""
        return _in_crop(self.landmarks, self.quad)

    @cached_property
    def working(self) -> Pixels:
        """The crop at the size at which most is measured."""
        return _resized(self.crop, WORKING_PX)

    @cached_property
    def luma(self) -> Pixels:
        """What is surely face, in grey."""
        grey: Pixels = cv2.cvtColor(_middle(self.working), cv2.COLOR_RGB2GRAY)
        return grey

    @cached_property
    def pose(self) -> Pose:
        """How the head is turned."""
        return fit_pose(self.landmarks)

    @cached_property
    def pdq(self) -> tuple[str, int]:
        """The perceptual hash, 64 hex digits, and how much there was to hash."""
        bits, quality = pdqhash.compute(_resized(self.working, HASH_PX))
        return np.packbits(bits.astype(bool)).tobytes().hex(), int(quality)


MEASURES: dict[str, Callable[[Prepared], Measurement]] = {
    "padding_fraction": lambda face: padding_fraction(face.quad, face.photo_width_px, face.photo_height_px),
    "feature_margin": lambda face: feature_margin(
        face.landmarks, face.quad, face.photo_width_px, face.photo_height_px
    ),
    "landmark_error": lambda face: landmark_error(face.working, face.in_crop, face.detect),
    "yaw_deg": lambda face: face.pose.yaw_deg,
    "pitch_deg": lambda face: face.pose.pitch_deg,
    "roll_deg": lambda face: face.pose.roll_deg,
    "sharpness": lambda face: sharpness(face.crop),
    "visible_detail": lambda face: detail(face.photo, face.quad),
    "brightness": lambda face: face.luma.mean(dtype=np.float64) / 255,
    "clipped_fraction": lambda face: np.mean((face.luma <= 4) | (face.luma >= 251)),
    "colorfulness": lambda face: colorfulness(face.working),
    "pdq": lambda face: face.pdq[0],
    "pdq_quality": lambda face: face.pdq[1],
    "embedding": lambda face: embedding_of(face.crop, face.in_crop) if face.config.embedding else None,
    "filter_score": lambda face: (
        None if face.config.filter_model is None else filter_score_of(face.crop, face.config.filter_model)
    ),
}
"""How each score of the catalogue is measured."""


def score_face(
    photo: Pixels,
    crop: Pixels,
    landmarks: Points,
    quad: Points,
    config: ScoreConfig,
    detect: DetectConfig,
) -> Scores:
    """The scores of one face, given as to `Prepared`; `preprocessing.scores.catalogue` says what each is."""
    crop = np.ascontiguousarray(crop)
    face = Prepared(photo, crop, landmarks, quad, config, detect)
    return Scores(**{name: _plain(measure(face)) for name, measure in MEASURES.items()})


def _plain(value: Measurement) -> ScoreValue:
    """A measurement as records hold it."""
    if value is None or isinstance(value, (int, str)):
        return value
    return _rounded(value) if isinstance(value, SupportsFloat) else tuple(map(_rounded, value))


def _rounded(value: SupportsFloat) -> float:
    """To a millionth, which is far below what means anything, so that processors agree and digests with them."""
    return round(float(value), 6) + 0.0  # no minus zero


def padding_fraction(quad: Points, photo_width_px: int, photo_height_px: int) -> float:
    """The share of the quad's area that lies outside of the photograph, 0 to 1."""
    inside = [(float(x) + 0.5, float(y) + 0.5) for x, y in quad]  # pixel 0 reaches from 0 to 1
    for axis, sign, limit in ((0, 1, 0), (0, -1, photo_width_px), (1, 1, 0), (1, -1, photo_height_px)):
        inside = _clipped(inside, axis, sign, limit)
    whole = abs(_area([(float(x), float(y)) for x, y in quad]))
    return min(max(1 - abs(_area(inside)) / whole, 0.0), 1.0) if whole > 0 else 1.0


def feature_margin(landmarks: Points, quad: Points, photo_width_px: int, photo_height_px: int) -> float:
    """The least distance of eyes and mouth from the edges of crop and photograph, in crop sides; negative outside."""
    side = float(np.hypot(*(quad[3] - quad[0])))
    features = landmarks[EYES_AND_MOUTH]
    in_crop = _in_crop(features, quad)
    size = np.array([photo_width_px, photo_height_px])
    from_photo = np.minimum(features + 0.5, size - features - 0.5) / side
    return float(min(in_crop.min(), (1 - in_crop).min(), from_photo.min()))


def sharpness(crop: Pixels) -> float:
    """1 / sqrt(1 + w^2), where w is how blurred the face's strongest edges are, in pixels of the crop; 0 without any.

    w is the standard deviation of the Gaussian that made them of ideal edges: a further blur lowers an edge's slope
    the more, the sharper it was, whatever its contrast (Zhuo and Sim 2011).
    """
    grey = cv2.cvtColor(_middle(crop), cv2.COLOR_RGB2GRAY)
    if grey.min() == grey.max():
        return 0.0
    return float(1 / np.hypot(1, _edge_blur(grey.astype(np.float32))))


def landmark_error(crop: Pixels, in_crop: Points, detect: DetectConfig) -> float:
    """How far the landmarks are from those that the predictor finds anew in the crop, in eye distances.

    Root mean square over brows, eyes, nose and mouth, at most 1. `in_crop` (68, 2) is in crop sides. On a face the
    two agree, however it is turned; where there is none, or the crop stands on glasses for eyes, they do not.
    """
    side = crop.shape[0]
    left, top, right, bottom = (edge * side for edge in DETECTED_BOX)
    again = (landmarks_in_box(crop, (left, top, right, bottom), detect) + 0.5) / side
    eyes = float(np.hypot(*(in_crop[36:42].mean(axis=0) - in_crop[42:48].mean(axis=0))))
    apart = float(np.sqrt(((again - in_crop)[17:] ** 2).sum(axis=1).mean()))
    return min(apart / eyes, 1.0) if eyes > 0 else 1.0


def colorfulness(crop: Pixels) -> float:
    """How much colour varies beyond what brightness tells, 0 to about 0.2; 0 for grey, and little for sepia.

    Root mean square of the chroma (Cb and Cr, as shares of 1) about its best quadratic in luma: one ink or one
    toning on grey is a curve of luma, the colours of a scene are not.
    """
    small = _resized(crop, 32)
    ycc = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).reshape(-1, 3).astype(np.float64) / 255
    luma, chroma = ycc[:, 0] - ycc[:, 0].mean(), ycc[:, 1:] - ycc[:, 1:].mean(axis=0)
    powers = np.stack([luma, luma**2 - (luma**2).mean()])
    fit = np.linalg.pinv(powers @ powers.T, rcond=1e-6) @ (powers @ chroma)
    return float(np.sqrt(((chroma - powers.T @ fit) ** 2).sum(axis=1).mean()))


def _in_crop(points: Points, quad: Points) -> Points:
    """Points of the photograph in crop sides from the crop's top left corner, pixels' centres as points."""
    x, y = quad[3] - quad[0], quad[1] - quad[0]
    return np.stack([(points - quad[0]) @ x / (x @ x), (points - quad[0]) @ y / (y @ y)], axis=-1)


def _clipped(
    polygon: list[tuple[float, float]], axis: int, sign: int, limit: float
) -> list[tuple[float, float]]:
    """The part of a convex polygon with sign * (coordinate - limit) >= 0 (Sutherland and Hodgman)."""
    result = []
    for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        from_a, from_b = sign * (a[axis] - limit), sign * (b[axis] - limit)
        if from_a >= 0:
            result.append(a)
        if from_a * from_b < 0:
            t = from_a / (from_a - from_b)
            result.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
    return result


def _area(polygon: list[tuple[float, float]]) -> float:
    following = polygon[1:] + polygon[:1]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(polygon, following, strict=True)) / 2


def _middle(crop: Pixels) -> Pixels:
    side = crop.shape[0]
    left, top, right, bottom = (round(edge * side) for edge in FACE_AREA)
    return crop[top:bottom, left:right]


def _resized(crop: Pixels, side: int) -> Pixels:
    if side == crop.shape[0]:
        return crop
    if side < crop.shape[0]:
        return np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))
    # OpenCV's cubic is not the same on every processor
    return np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC))


def _edge_blur(grey: NDArray[np.float32]) -> float:
    """Blur of the strongest 5% of edges, standard deviation in pixels; found in the picture or in smaller copies.

    Two blurs are compared, both wider than a pixel's noise; of edges far wider than these, only smaller pictures tell.
    """
    step = max(min(grey.shape) // 128, 1)  # a large crop has edges to spare
    fine = _squared_slopes(_blurred(grey, FINE), step)
    coarse = _squared_slopes(_blurred(grey, COARSE), step)
    count = max(coarse.size // 20, 1)
    strong = coarse >= np.partition(coarse.ravel(), -count)[-count]
    # ratio = (blur^2 + COARSE_PX^2) / (blur^2 + FINE_PX^2)
    ratio = float(fine[strong].sum(dtype=np.float64)) / max(
        float(coarse[strong].sum(dtype=np.float64)), 1e-12
    )
    blur = float(np.sqrt(max(COARSE_PX**2 - ratio * FINE_PX**2, 0.0) / max(ratio - 1, 1e-3)))
    unsure = min(max(blur - 2, 0.0), 1.0)  # edges much wider than the two blurs hardly tell them apart
    if unsure == 0 or min(grey.shape) < 32:
        return blur
    halved = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    quarters = np.rint(halved * np.float32(4)) / np.float32(4)
    return (1 - unsure) * blur + unsure * 2 * _edge_blur(quarters.astype(np.float32))


def _blurred(grey: NDArray[np.float32], kernel: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(cv2.sepFilter2D(grey, cv2.CV_32F, kernel, kernel))


def _squared_slopes(grey: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    across = grey[1:-1:step, 2::step] - grey[1:-1:step, :-2:step]
    down = grey[2::step, 1:-1:step] - grey[:-2:step, 1:-1:step]
    return across * across + down * down
