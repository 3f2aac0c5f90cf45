"""The user's attribute classifiers, ONNX files in a folder, for linear separability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from storage.digest import file_digest, json_digest
from storage.errors import ConfigError
from training.extractors.weights import WeightsPlace
from training.metric_names import ExtractorName


def attribute_files(place: WeightsPlace) -> list[Path]:
    """The classifiers, one an attribute, sorted by name; ConfigError where there are none."""
    files = sorted(place.attributes.glob("*.onnx")) if place.attributes else []
    if not files:
        where = f"{place.attributes} holds none" if place.attributes else "no folder of them is named"
        raise ConfigError(
            f"separability needs attribute classifiers, one ONNX file an attribute, and {where}: name their folder as "
            f"attributes (there is no stand-in)"
        )
    return files


class Attributes:
    """The user's classifiers: ONNX, images (N, 3, S, S) in [-1, 1] to the attribute's probability (N,) or (N, 1)."""

    name: ExtractorName = "attributes"
    default_px = 256
    """Side of the images given to a model that takes any."""

    def __init__(self, place: WeightsPlace) -> None:
        import onnxruntime

        files = attribute_files(place)
        self.names = [file.stem for file in files]
        self.weights_sha256 = json_digest({file.name: file_digest(file) for file in files})
        self.resize = "each model's own side, bilinear, antialiased"
        self._files = files
        try:
            self._sessions = [
                onnxruntime.InferenceSession(file, providers=onnxruntime.get_available_providers())
                for file in files
            ]
        except Exception as error:
            raise ConfigError(
                f"an attribute classifier cannot be read: {str(error).splitlines()[0]}"
            ) from error

    def probabilities(self, pixels_N3RR: Tensor) -> NDArray[np.float32]:
        """Probabilities (N, A) of uint8 images; ConfigError where a model gives something else."""
        columns = []
        for file, session in zip(self._files, self._sessions, strict=True):
            given = session.get_inputs()[0]
            size = given.shape[-1] if isinstance(given.shape[-1], int) else self.default_px
            images = nn.functional.interpolate(
                pixels_N3RR.float().cpu(), (size, size), mode="bilinear", antialias=True
            )
            step = given.shape[0] if isinstance(given.shape[0], int) else len(images)
            filled = nn.functional.pad(images / 127.5 - 1, (0, 0, 0, 0, 0, 0, 0, -len(images) % step))
            parts = [
                np.asarray(session.run(None, {given.name: part.numpy()})[0], np.float32)
                for part in torch.split(filled, step)
            ]
            column = np.concatenate([part.reshape(len(part), -1) for part in parts])[: len(images)]
            if column.shape != (len(images), 1) or not ((column >= 0) & (column <= 1)).all():
                raise ConfigError(f"{file} does not give one probability in [0, 1] an image")
            columns.append(column[:, 0])
        return np.stack(columns, 1)
