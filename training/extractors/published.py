"""The published networks, through torch-fidelity: Inception, VGG16, and LPIPS on VGG16.

Not here: where their weights lie (`training.extractors.weights`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from storage.digest import file_digest, json_digest
from training.extractors.weights import (
    INCEPTION_FILE,
    LPIPS_FILE,
    VGG16_FILE,
    WeightsPlace,
    check_is_plain,
    hub_of,
)
from training.metric_names import ExtractorName


class Inception:
    """torch-fidelity's Inception, which resizes as TensorFlow 1 did: the numbers are torch-fidelity's."""

    name: ExtractorName = "inception"
    resize = "299 px, bilinear as in TensorFlow 1"

    def __init__(self, place: WeightsPlace, device: torch.device) -> None:
        from torch_fidelity import FeatureExtractorInceptionV3

        path = place.path(INCEPTION_FILE, self.name)
        check_is_plain(path)
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
        check_is_plain(path)
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
            check_is_plain(path)
        self.weights_sha256 = json_digest([file_digest(path) for path in paths])
        with hub_of(paths):
            self._network = SampleSimilarityLPIPS("lpips-vgg16").to(device)

    def __call__(self, a_N3HW: Tensor, b_N3HW: Tensor) -> Tensor:
        """LPIPS (N,)."""
        return self._network(a_N3HW, b_N3HW).flatten()  # type: ignore[no-any-return]
