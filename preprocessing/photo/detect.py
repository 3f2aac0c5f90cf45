"""Faces in a photograph: dlib's frontal detector and the 68 landmarks of each face.

The detector's time grows with the pixels it sees, so it sees a grey picture just fine enough for the smallest face
that is wanted; landmarks are always placed on the full-resolution photograph. The landmark model comes from the package
`face_recognition_models`; it was trained on iBUG 300-W, whose licence excludes commercial use: for such use
configure a predictor of your own. Not here: recognition (who it is), and any crop.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from storage.config import Config
from storage.digest import cached_file_digest
from storage.errors import ConfigError

_SURELY_FOUND_PX = 161
"""Side of the smallest crop that the detector finds as surely as in the full-size photograph. Its window is 80 px, a
crop is about 1.6 times its face's rectangle, and the rest is margin: `benchmarks/fidelity.py` prints the recall."""


class DetectConfig(Config):
    """How faces are found."""

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
    most = (config.max_pixels / (photo.shape[0] * photo.shape[1])) ** 0.5
    picture = _reduced_grey(photo, min(config.scale, most))
    boxes, scores, _ = _detector().run(picture, 0, config.threshold)
    scale = np.tile([photo.shape[1] / picture.shape[1], photo.shape[0] / picture.shape[0]], 2)
    found = []
    for box, score in zip(boxes, scores, strict=True):
        left, top, right, bottom = np.rint(
            scale * (box.left(), box.top(), box.right(), box.bottom())
        ).tolist()
        box_px = (left, top, right, bottom)
        found.append(Detection(box_px, float(score), landmarks_in_box(photo, box_px, config)))
    return found


def _reduced_grey(photo: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    # Grey finds the same faces as RGB at three quarters of the cost.
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


@lru_cache(maxsize=1)
def _detector() -> Any:
    return dlib.get_frontal_face_detector()


@lru_cache(maxsize=2)
def _predictor(path: Path) -> Any:
    try:
        return dlib.shape_predictor(str(path))
    except RuntimeError as error:
        raise ConfigError(f"{path} (detect.predictor) is not a dlib shape predictor") from error
