"""The models behind two scores: dlib's identity embedding, and the user's own filter as ONNX.

Each is loaded once a process. Not here: what is computed without a model (`preprocessing.scores.score`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocessing.photo.detect import packaged_model
from storage.errors import ConfigError

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]


def embedding_of(crop: Pixels, in_crop: Points) -> Sequence[float]:
    """dlib's 128 numbers of a crop; `in_crop` (68, 2) are its landmarks in crop sides."""
    points = [dlib.point(round(x), round(y)) for x, y in in_crop * crop.shape[0] - 0.5]
    shape = dlib.full_object_detection(
        dlib.rectangle(0, 0, crop.shape[1], crop.shape[0]), dlib.points(points)
    )
    vector = _embedding_model(embedding_path()).compute_face_descriptor(crop, shape)
    return list(vector)


def embedding_path() -> Path:
    """The file of the embedding's weights; ConfigError where its package is not here."""
    return packaged_model("dlib_face_recognition_resnet_model_v1.dat", "scores.embedding is set")


@lru_cache(maxsize=1)
def _embedding_model(path: Path) -> Any:
    return dlib.face_recognition_model_v1(str(path))


def filter_score_of(crop: Pixels, path: Path) -> float:
    """What the user's model at `path` says of a crop."""
    path = path.expanduser()
    session = filter_session(path)
    height, width = session.get_inputs()[0].shape[2:]
    resized: Pixels
    if max(height, width) < crop.shape[0]:
        resized = np.asarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA))
    else:  # OpenCV's cubic is not the same on every processor
        resized = np.asarray(Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC))
    shares = resized.astype(np.float32) / np.float32(255)
    return _answer(session, path, np.asarray(shares, np.float32).transpose(2, 0, 1)[None])


@lru_cache(maxsize=1)
def filter_session(path: Path) -> Any:
    """The user's model, ready to run on one thread; ConfigError where it is no model of that kind."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError("scores.filter_model needs onnxruntime: pip install 'likeness[filter]'")
    import onnxruntime

    if not path.is_file():
        raise ConfigError(f"filter model {path} (scores.filter_model) is not a file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class of their own
        raise ConfigError(
            f"filter model {path} (scores.filter_model) is not an ONNX model that runs here"
        ) from error
    given = [(tensor.type, list(tensor.shape)) for tensor in session.get_inputs()]
    match given:
        case [("tensor(float)", [_, 3, int(height), int(width)])] if height > 0 and width > 0:
            _answer(session, path, np.full((1, 3, height, width), 0.5, np.float32))
        case _:
            inputs = ", ".join(f"{kind} {shape}" for kind, shape in given)
            raise ConfigError(
                f"filter model {path} (scores.filter_model) takes {inputs}, not float32 (N, 3, H, W) of a fixed H and W"
            )
    return session


def _answer(session: Any, path: Path, image: NDArray[np.float32]) -> float:
    """The one finite number that a filter model gives for one image."""
    try:
        outputs = session.run(None, {session.get_inputs()[0].name: image})
    except Exception as error:  # as above
        raise ConfigError(
            f"filter model {path} (scores.filter_model) does not run on float32 {image.shape}"
        ) from error
    shapes = [np.shape(output) for output in outputs]
    if shapes not in ([(1,)], [(1, 1)]):
        raise ConfigError(
            f"filter model {path} (scores.filter_model) gives {shapes or 'nothing'} for one face, not one float: "
            f"(N,) or (N, 1)"
        )
    value = float(np.ravel(outputs[0])[0])
    if not np.isfinite(value):
        raise ConfigError(f"filter model {path} (scores.filter_model) gives {value} for a face")
    return value
