"""Faces in a photograph: dlib's frontal detector and the 68 landmarks of each face.

Detection runs on the full-resolution photograph. The landmark model comes from the package
`face_recognition_models`; it was trained on iBUG 300-W, whose licence excludes commercial use: for such use
configure a predictor of your own. Not here: recognition (who it is), and any crop.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from storage.config import Config
from storage.digest import file_digest
from storage.errors import ConfigError


class DetectConfig(Config):
    """How faces are found."""

    upsample: int = Field(
        default=1,
        ge=0,
        le=3,
        description="Times the photograph is doubled before detection: 0 finds faces from 80 px, 1 from 40 px.",
    )
    threshold: float = Field(
        default=0.0, ge=-2.0, le=5.0, description="Lowest detector score; higher finds fewer and surer faces."
    )
    predictor: Path | None = Field(
        default=None,
        description="A dlib 68-point predictor file; None takes the one of face_recognition_models (not for "
        "commercial use).",
    )


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face: `box_px` is (left, top, right, bottom), `landmarks` float64 (68, 2) as (x, y), in pixels."""

    box_px: tuple[float, float, float, float]
    score: float
    landmarks: NDArray[np.float64]


def detect_faces(photo: NDArray[np.uint8], config: DetectConfig) -> list[Detection]:
    """The faces of an upright sRGB photograph, uint8 (height, width, 3), surest first."""
    predictor = _predictor(predictor_path(config))
    # Grey finds the same faces as RGB at three quarters of the cost.
    grey = np.asarray(Image.fromarray(photo).convert("L"))
    boxes, scores, _ = _detector().run(grey, config.upsample, config.threshold)
    return [
        Detection(
            (float(box.left()), float(box.top()), float(box.right()), float(box.bottom())),
            float(score),
            np.array([(point.x, point.y) for point in predictor(photo, box).parts()], dtype=np.float64),
        )
        for box, score in zip(boxes, scores, strict=True)
    ]


def predictor_path(config: DetectConfig) -> Path:
    """The predictor file that `config` means; ConfigError where it is not there."""
    if config.predictor is not None:
        path = config.predictor.expanduser()
    else:
        # Located without importing the package: its __init__ needs pkg_resources, which is often not there.
        spec = importlib.util.find_spec("face_recognition_models")
        if spec is None or spec.origin is None:
            raise ConfigError("detect.predictor is not set, and face_recognition_models is not installed")
        path = Path(spec.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"
    if not path.is_file():
        raise ConfigError(f"landmark predictor {path} (detect.predictor) is not a file")
    return path


def predictor_digest(config: DetectConfig) -> str:
    """sha256 of the predictor file: the part of a detection's identity that a path cannot give."""
    return _file_digest(predictor_path(config))


@lru_cache(maxsize=4)
def _file_digest(path: Path) -> str:
    return file_digest(path)


@lru_cache(maxsize=1)
def _detector() -> Any:
    return dlib.get_frontal_face_detector()


@lru_cache(maxsize=2)
def _predictor(path: Path) -> Any:
    try:
        return dlib.shape_predictor(str(path))
    except RuntimeError as error:
        raise ConfigError(f"{path} (detect.predictor) is not a dlib shape predictor") from error
