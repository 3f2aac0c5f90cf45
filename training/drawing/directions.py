"""Directions in w along which a trained generator's pictures change, found without a label, and moves along them.

    SeFa (Shen, Zhou 2021)                 the right singular vectors of the layers' style weights: what w changes most
    GANSpace (Haerkoenen et al. 2020)      the principal components of w: how w itself varies

Each is found for a block of layers and acts on that block. A strength is a number of standard deviations: of w along
the direction. Directions follow from the checkpoint alone, so that a name such as `sefa.coarse.0` is enough. Not
here: which pictures are moved (`training.drawing.edits`).

    for direction in directions(generator, DirectionsConfig()): ...
    w_SLD = moved(w_LD, direction, [-2.0, 0.0, 2.0])

Suffixes: N samples, S strengths, L layers, D entries of w, K directions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from storage.errors import ConfigError
from storage.lineage.origin import GRID_TEXT
from storage.local import whole_file
from training.data import ImageArray
from training.drawing.figures import fixed_noise, labelled, layer_range, tiled
from training.drawing.images import images_from_w, w_from_seeds
from training.drawing.settings import BLOCKS, METHODS, DirectionsConfig
from training.networks import Generator, StyledLayer

NUM_SAMPLES = 20_000
"""Of w, for its components and deviations; drawn from a seed of their own."""
_SEED = 0


@dataclass(frozen=True)
class Direction:
    """One direction, and the layers that it acts on."""

    method: str
    block: str
    index: int
    vector_D: Tensor
    """Of unit length."""
    layers: range
    deviation: float
    """Of w along the vector: one unit of strength."""
    share: float
    """Of what all directions of its kind and block explain together."""

    @property
    def name(self) -> str:
        """As a command takes it."""
        return f"{self.method}.{self.block}.{self.index}"


def blocks_of(generator: Generator) -> list[str]:
    """The blocks that this generator has layers in use of, all of them first."""
    num = generator.num_layers_in_use
    return [name for name in BLOCKS if name == "all" or layer_range(name, num)]


def block_layers(generator: Generator, block: str) -> range:
    """The layers of a block; ConfigError for one that this generator has none of."""
    num = generator.num_layers_in_use
    layers = range(num) if block == "all" else layer_range(block, num)
    if not layers:
        raise ConfigError(f"this generator has no {block} layers: choose {', '.join(blocks_of(generator))}")
    return layers


def directions(generator: Generator, config: DirectionsConfig = DirectionsConfig()) -> list[Direction]:
    """The strongest directions of each method and block that the config asks for and this generator has."""
    wanted = [block for block in blocks_of(generator) if block in config.blocks]
    if not wanted:
        raise ConfigError(
            f"this generator has no {', '.join(config.blocks)} layers: choose {', '.join(blocks_of(generator))}"
        )
    w_ND = _samples(generator)
    components = _components(w_ND) if "pca" in config.methods else None
    found = []
    for method in config.methods:
        for block in wanted:
            layers = block_layers(generator, block)
            vectors_KD, power_K = (method == "pca" and components) or _factors(generator, layers)
            for index, vector_D in enumerate(vectors_KD[: config.num_directions]):
                deviation = float((w_ND @ vector_D).std())
                share = float(power_K[index] / power_K.sum())
                direction = Direction(method, block, index, vector_D.float(), layers, deviation, share)
                found.append(direction)
    return found


def direction_of(generator: Generator, name: str) -> Direction:
    """The direction that a name such as `sefa.coarse.0` means; ConfigError where it means none."""
    method, _, rest = name.partition(".")
    block, _, number = rest.partition(".")
    if method not in METHODS or block not in BLOCKS or not number.isdecimal():
        raise ConfigError(
            f"direction {name!r} is none: METHOD.BLOCK.NUMBER, of {', '.join(METHODS)} and {', '.join(BLOCKS)}"
        )
    block_layers(generator, block)
    if int(number) >= len(generator.w_avg):
        raise ConfigError(f"direction {name!r} is none: a block has {len(generator.w_avg)}, numbered from 0")
    config = DirectionsConfig(methods=(method,), blocks=(block,), num_directions=int(number) + 1)
    return directions(generator, config)[-1]


def moved(
    w_LD: Tensor, direction: Direction, strengths: Sequence[float], layers: Sequence[int] | None = None
) -> Tensor:
    """Styles (S, L, D): w moved by each strength on the direction's layers, or on others."""
    w_SLD = w_LD[None].repeat(len(strengths), 1, 1)
    step_S = torch.tensor(strengths, device=w_LD.device, dtype=w_LD.dtype) * direction.deviation
    chosen = list(direction.layers if layers is None else layers)
    w_SLD[:, chosen] += step_S[:, None, None] * direction.vector_D.to(w_LD)
    return w_SLD


def save_directions(found: Sequence[Direction], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write vectors (K, D), deviations (K,) and shares (K,) of each method and block as safetensors."""
    tensors: dict[str, Tensor] = {}
    for method, block in dict.fromkeys((one.method, one.block) for one in found):
        own = [one for one in found if (one.method, one.block) == (method, block)]
        tensors[f"{method}.{block}"] = torch.stack([one.vector_D.cpu() for one in own])
        tensors[f"{method}.{block}.deviation"] = torch.tensor([one.deviation for one in own])
        tensors[f"{method}.{block}.share"] = torch.tensor([one.share for one in own])
    with whole_file(path) as partial:
        partial.write_bytes(save(tensors, {GRID_TEXT: json.dumps(dict(metadata), sort_keys=True)}))


def directions_figure(
    generator: Generator, found: Sequence[Direction], config: DirectionsConfig, cutoff: int
) -> ImageArray:
    """Each direction a row, each strength a column: the picture of one seed moved along it, its noise held still."""
    w_LD = w_from_seeds(generator, [config.seed], config.psi, cutoff)[0]
    noise = fixed_noise(generator, config.seed)
    rows = [list(images_from_w(generator, moved(w_LD, one, config.strengths), noise)) for one in found]
    return labelled(tiled(rows), [one.name for one in found])


@torch.no_grad()
def _samples(generator: Generator) -> Tensor:
    """Untruncated w (N, D) about its mean, in double precision on the CPU, where sums are the same every time."""
    rng = torch.Generator("cpu").manual_seed(_SEED)
    z_NZ = torch.randn(NUM_SAMPLES, generator.z_dim, generator=rng).to(generator.w_avg.device)
    w_ND: Tensor = generator.mapping(z_NZ).double().cpu()
    return w_ND - w_ND.mean(dim=0)


def _components(w_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Principal components (K, D) of w, largest first, and their variances."""
    variances, vectors = torch.linalg.eigh(w_ND.T @ w_ND / len(w_ND))
    return _upright(vectors.T.flip(0)), variances.flip(0).clamp(min=0)


@torch.no_grad()
def _factors(generator: Generator, layers: range) -> tuple[Tensor, Tensor]:
    """Right singular vectors (K, D) of the style weights of `layers`, one above the other, and the values' squares."""
    weights = torch.cat([_style_weight(generator, index) for index in layers])
    values, vectors = torch.linalg.eigh(weights.T @ weights)
    return _upright(vectors.T.flip(0)), values.flip(0).clamp(min=0)


def _style_weight(generator: Generator, index: int) -> Tensor:
    """What a layer's styles are made of w by, (2C, D)."""
    layer = generator.synthesis.layers[index]
    assert isinstance(layer, StyledLayer)
    return (layer.style.weight * layer.style.weight_scale).double().cpu()


def _upright(vectors_KD: Tensor) -> Tensor:
    """Of a vector and its opposite the one whose largest entry is positive."""
    largest_K1 = vectors_KD.abs().argmax(dim=1, keepdim=True)
    return vectors_KD * vectors_KD.gather(1, largest_K1).sign()
