"""Faces in a photograph: found by dlib's frontal detector, which is FFHQ's, by YuNet, or by both; 68 landmarks of each.

dlib's time grows with the pixels it sees, so it sees a grey picture just fine enough for the smallest face that is
wanted. Where nothing is found it looks once more, more closely, and then at the photograph turned, if that is asked
for. Landmarks are always dlib's, placed on the full-resolution photograph; YuNet's five points straighten the head
before. The landmark model comes from the package `face_recognition_models`; it was trained on iBUG 300-W, whose licence
excludes commercial use: for such use configure a predictor of your own. Not here: recognition (who it is).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from preprocessing.photo.align import LEFT_EYE, MOUTH_LEFT, MOUTH_RIGHT, RIGHT_EYE, crop_quad, quad_side
from preprocessing.photo.frontal import FrontalBox, frontal_boxes, whole_boxes
from preprocessing.photo.turn import turned
from preprocessing.photo.warp import rounded_places, warped
from preprocessing.photo.yunet import WEIGHTS, five_points, overlap
from storage.config import Config, comma_separated
from storage.digest import cached_file_digest
from storage.errors import ConfigError

_SURELY_FOUND_PX = 161
"""Side of the smallest crop that the detector finds as surely as in the full-size photograph. Its window is 80 px, a
crop is about 1.6 times its face's rectangle, and the rest is margin: `benchmarks/fidelity.py` prints the recall."""


_CLOSER = 1.6
"""How many times larger the picture of the second look is. Where the detector's window falls is chance, and a face that
one size loses another finds."""

DETECTED_BOX = (0.19, 0.29, 0.80, 0.90)
"""Where the detector's rectangle lies in a crop, in crop sides: the median of 1,669 portraits."""

_SCORE_DIGITS = 4
"""Of dlib's score, of which the sixth may depend on where a cut begins (`preprocessing.photo.frontal`)."""

_SAME_FACE = 0.3
_ASTRAY = 0.05
"""Distance of two crops of one face, in sides, from which dlib's landmarks are taken for those of a head too tilted."""
_STRAIGHT_PX = (200, 1000)


class DetectConfig(Config):
    """How faces are found."""

    model: Literal["dlib", "yunet", "both"] = Field(
        default="dlib",
        description="What finds faces: dlib, FFHQ's own; yunet, which finds tilted, turned and covered ones too; or "
        "both, yunet for what dlib does not find, or finds askew. Crops are FFHQ's whatever finds the face.",
    )
    min_quad_px: int | None = Field(
        default=None,
        ge=1,
        description="Smallest side of a crop in the photograph that must be found: the larger, the faster. None means "
        "half of the output.",
    )
    upsample: int = Field(
        default=1,
        ge=0,
        le=3,
        description="Times a photograph may be doubled for the sake of small faces: without, crops from about 130 px "
        "are found, and each doubling halves that.",
    )
    threshold: float = Field(
        default=-0.1,
        ge=-2.0,
        le=5.0,
        description="Lowest detector score; higher finds fewer and surer faces. dlib's own is 0; a little lower makes "
        "up for faces that score less in a reduced picture.",
    )
    yunet_threshold: float = Field(
        default=0.7, ge=0, le=1, description="Lowest score of yunet; higher finds fewer and surer faces."
    )
    yunet: Path | None = Field(
        default=None,
        description="Weights of yunet, an ONNX file; None takes those of 2023 that are here (MIT).",
    )
    second_look: bool = Field(
        default=True,
        description="Where dlib finds no face, look once more, at a larger picture: one size loses by chance what "
        "another finds.",
    )
    rotations: Annotated[
        tuple[Annotated[int, Field(gt=-360, lt=360)], ...], BeforeValidator(comma_separated)
    ] = Field(
        default=(),
        max_length=8,
        description="Where no face is found, turn the photograph clockwise by each of these degrees, such as "
        "90,180,270,30,-30, and take the faces of the turn with the surest one.",
    )
    max_pixels: int = Field(
        default=40_000_000,
        ge=10_000,
        description="Most pixels that the detector sees, which bounds its memory to about half a gigabyte: larger "
        "pictures are reduced to it, and lose their smallest faces.",
    )
    predictor: Path | None = Field(
        default=None,
        description="A dlib 68-point predictor file; None takes the one of face_recognition_models (not for "
        "commercial use).",
    )

    def resolved(self, output_px: int) -> DetectConfig:
        """This config with the smallest quad set, for crops of side `output_px`."""
        if self.min_quad_px is not None:
            return self
        return self.model_copy(update={"min_quad_px": max(output_px // 2, 1)})

    @property
    def scale(self) -> float:
        """The side of the detector's picture over the photograph's; as large as allowed where no smallest is set."""
        largest = 2.0**self.upsample
        return largest if self.min_quad_px is None else min(largest, _SURELY_FOUND_PX / self.min_quad_px)


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face: `box_px` is (left, top, right, bottom), `landmarks` float64 (68, 2) as (x, y), in pixels."""

    box_px: tuple[float, float, float, float]
    score: float
    landmarks: NDArray[np.float64]


def detect_faces(photo: NDArray[np.uint8], config: DetectConfig) -> list[Detection]:
    """The faces of an upright sRGB photograph, uint8 (height, width, 3), surest first."""
    _predictor(predictor_path(config))  # a wrong one is an error before the first face too
    if found := _found(photo, config):
        return found
    looks = [_found_turned(photo, degrees, config) for degrees in config.rotations]
    return max(looks, key=lambda found: max((face.score for face in found), default=-math.inf), default=[])


def _found_turned(photo: NDArray[np.uint8], degrees: float, config: DetectConfig) -> list[Detection]:
    """The faces of a photograph once it is turned, where they lie in it as it is."""
    whole = turned(photo, degrees)
    return [
        Detection(whole.box_in_first(face.box_px), face.score, whole.in_first(face.landmarks))
        for face in _found(whole.photo, config)
    ]


def _found(photo: NDArray[np.uint8], config: DetectConfig) -> list[Detection]:
    """The faces of a photograph as it stands."""
    found: list[Detection] = []
    if config.model != "yunet":
        found = _by_dlib(photo, config, config.scale, frontal_boxes)
        closer = min(_CLOSER * config.scale, 2.0)
        if not found and config.second_look and config.model == "dlib" and closer > config.scale:
            found = _by_dlib(photo, config, closer, whole_boxes)  # the cheap look has seen nothing
    return found if config.model == "dlib" else _together(found, _by_yunet(photo, config))


def _together(by_dlib: list[Detection], by_yunet: list[Detection]) -> list[Detection]:
    """The faces of both, each once: dlib's, but for those whose crop YuNet's straightened landmarks put elsewhere."""
    left = list(by_yunet)
    found = []
    for face in by_dlib:
        same = [other for other in left if overlap(face.box_px, other.box_px) >= _SAME_FACE]
        left = [other for other in left if other not in same]
        quad = crop_quad(face.landmarks)
        straight = [other for other in same if _apart(quad, crop_quad(other.landmarks)) > _ASTRAY]
        found.append(straight[0] if straight else face)
    return found + left


def _apart(quad: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The root mean square distance of corners, in sides of the first."""
    return float(np.sqrt(((quad - other) ** 2).sum(axis=1).mean())) / max(quad_side(quad), 1e-9)


def _by_dlib(
    photo: NDArray[np.uint8],
    config: DetectConfig,
    scale: float,
    boxes_of: Callable[[NDArray[np.uint8], float], list[FrontalBox]],
) -> list[Detection]:
    picture = dlib_picture(photo, config, scale)
    to_photo = np.tile([photo.shape[1] / picture.shape[1], photo.shape[0] / picture.shape[0]], 2)
    found = []
    for box in boxes_of(picture, config.threshold):
        left, top, right, bottom = np.rint(to_photo * box[1:]).tolist()
        box_px = (left, top, right, bottom)
        score = round(box.score, _SCORE_DIGITS)
        found.append(Detection(box_px, score, landmarks_in_box(photo, box_px, config)))
    return found


def _by_yunet(photo: NDArray[np.uint8], config: DetectConfig) -> list[Detection]:
    smallest_px = config.min_quad_px or _SURELY_FOUND_PX // 2
    faces = five_points(photo, yunet_path(config), smallest_px, config.yunet_threshold, config.max_pixels)
    return [
        Detection(face.box_px, face.score, _landmarks_of(photo, face.points, config))
        for face in faces
        if quad_side(crop_quad(_as_landmarks(face.points))) > 0
    ]


def _as_landmarks(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of 68 landmarks that a crop depends on, from eyes, nose and corners of the mouth."""
    landmarks = np.tile(points[2], (68, 1))
    landmarks[LEFT_EYE], landmarks[RIGHT_EYE] = points[0], points[1]
    landmarks[MOUTH_LEFT], landmarks[MOUTH_RIGHT] = points[3], points[4]
    return landmarks


def _landmarks_of(
    photo: NDArray[np.uint8], points: NDArray[np.float64], config: DetectConfig
) -> NDArray[np.float64]:
    """The landmarks of a face by its five points: placed in a crop that these straighten, then in that crop's own."""
    landmarks = _as_landmarks(points)
    for _ in range(2):
        quad = crop_quad(landmarks)
        side = int(np.clip(np.ceil(quad_side(quad)), *_STRAIGHT_PX))
        right, down = (quad[3] - quad[0]) / side, (quad[1] - quad[0]) / side
        matrix = np.stack([right, down, quad[0] + (right + down) / 2], axis=1)
        straight = warped(photo, matrix, (side, side))
        left, top, right_edge, bottom = (edge * side for edge in DETECTED_BOX)
        found = landmarks_in_box(straight, (left, top, right_edge, bottom), config)
        landmarks = rounded_places(found @ matrix[:, :2].T + matrix[:, 2])
    return landmarks


def dlib_picture(photo: NDArray[np.uint8], config: DetectConfig, scale: float) -> NDArray[np.uint8]:
    """The picture that dlib sees of a photograph, in grey: the same faces as in RGB at three quarters of the cost."""
    scale = min(scale, (config.max_pixels / (photo.shape[0] * photo.shape[1])) ** 0.5)
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    size = max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))


def landmarks_in_box(
    image: NDArray[np.uint8], box_px: tuple[float, float, float, float], config: DetectConfig
) -> NDArray[np.float64]:
    """The landmarks, float64 (68, 2), of a face that fills a detector's rectangle (left, top, right, bottom).

    `image` is uint8, grey or RGB.
    """
    left, top, right, bottom = (round(value) for value in box_px)
    points = _predictor(predictor_path(config))(image, dlib.rectangle(left, top, right, bottom)).parts()
    return np.array([(point.x, point.y) for point in points], dtype=np.float64)


@lru_cache(maxsize=4)
def packaged_model(name: str, reason: str) -> Path:
    """A file of face_recognition_models; ConfigError, which begins with why it is wanted, without that package."""
    # Located without importing the package: its __init__ needs pkg_resources, which is often not there.
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise ConfigError(f"{reason}, and face_recognition_models is not installed")
    return Path(spec.origin).parent / "models" / name


def predictor_path(config: DetectConfig) -> Path:
    """The predictor file that `config` means; ConfigError where it is not there."""
    if config.predictor is not None:
        path = config.predictor.expanduser()
    else:
        path = packaged_model("shape_predictor_68_face_landmarks.dat", "detect.predictor is not set")
    if not path.is_file():
        raise ConfigError(f"landmark predictor {path} (detect.predictor) is not a file")
    return path


def predictor_digest(config: DetectConfig) -> str:
    """sha256 of the predictor file: the part of a detection's identity that a path cannot give."""
    return cached_file_digest(predictor_path(config))


def yunet_path(config: DetectConfig) -> Path:
    """The weights of YuNet that `config` means; ConfigError where they are not there."""
    path = WEIGHTS if config.yunet is None else config.yunet.expanduser()
    if not path.is_file():
        raise ConfigError(f"weights of yunet {path} (detect.yunet) are not a file")
    return path


def yunet_digest(config: DetectConfig) -> str | None:
    """sha256 of the weights of YuNet, where it is asked."""
    return None if config.model == "dlib" else cached_file_digest(yunet_path(config))


@lru_cache(maxsize=2)
def _predictor(path: Path) -> Any:
    try:
        return dlib.shape_predictor(str(path))
    except RuntimeError as error:
        raise ConfigError(f"{path} (detect.predictor) is not a dlib shape predictor") from error
