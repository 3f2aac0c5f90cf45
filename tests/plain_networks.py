"""The paper's networks once more, slow and plain, on the weights of `training.networks`: what tests compare with.

Separate up-scaling, convolutions and blurs, explicit statistics, and a discriminator that takes images at full
resolution and averages them down itself. Every configuration of the paper's table 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import TrainConfig
from training.loss import draw_latents
from training.networks import (
    Discriminator,
    Generator,
    TraditionalGenerator,
    build_discriminator,
    build_generator,
    level_of,
)

SIDE = 32
TOP = level_of(SIDE)
INPUT_GAIN = math.sqrt(2) / 4
"""Of the dense input layer of configs A to C, as the official code has it."""

Filter = Callable[[Tensor], Tensor]
Opened = Any
"""A network whose parts are taken by name: to mypy each of them is "Tensor | Module"."""
AnyNetwork = TypeVar("AnyNetwork", bound=torch.nn.Module)


def small_networks() -> tuple[Generator, Discriminator]:
    """Small networks whose constant parameters (biases, noise strengths, the input) are made random."""
    torch.manual_seed(0)
    widths: dict[str, Any] = {"channel_base": 128, "max_channels": 16}
    generator = Generator(SIDE, z_dim=16, w_dim=16, mapping_layers=8, **widths).double()
    discriminator = Discriminator(SIDE, **widths).double()
    return made_random(generator), made_random(discriminator)


def made_random(network: AnyNetwork) -> AnyNetwork:
    """The network, its constant parameters moved."""
    for parameter in network.parameters():
        if parameter.std(correction=0) == 0:
            parameter.data += torch.randn_like(parameter) * 0.3
    return network


def scaled(weight: Tensor, gain: float = math.sqrt(2)) -> Tensor:
    """Equalized learning rate: N(0, 1) weights times gain / sqrt(fan in)."""
    return weight * gain / math.sqrt(weight[0].numel())


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2."""
    return torch.where(x > 0, x, 0.2 * x)


def blurred(x: Tensor) -> Tensor:
    """[1, 2, 1] in both directions over 16, zeros outside."""
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype)
    kernel = (kernel[:, None] * kernel / 16).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def nearest(x: Tensor, factor: int = 2) -> Tensor:
    """Each pixel repeated."""
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def unfiltered(x: Tensor) -> Tensor:
    """No blur: config A."""
    return x


def unit(x: Tensor) -> Tensor:
    """Divided by the root mean square over dimension 1."""
    return x / (x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()


def reference_mapping(generator: Opened, z: Tensor) -> Tensor:
    """z normalised, then layers with a learning-rate multiplier of 0.01 on weights and biases."""
    x = unit(z)
    for layer in generator.mapping.layers:
        gain = math.sqrt(2) / math.sqrt(layer.weight.shape[1])
        x = lrelu(x @ (layer.weight * 0.01 * gain).T + layer.bias * 0.01)
    return x


def reference_layer(layer: Opened, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
    """Noise if there is any, bias, leaky ReLU, instance norm, style (figure 1b)."""
    if noise is not None:
        x = x + noise * layer.noise_strength[None, :, None, None]
    x = lrelu(x + layer.bias[None, :, None, None])
    x = x - x.mean((2, 3), keepdim=True)
    x = x / (x.pow(2).mean((2, 3), keepdim=True) + 1e-8).sqrt()
    style = (w @ scaled(layer.style.weight, 1.0).T + layer.style.bias).reshape(len(w), 2, -1, 1, 1)
    return x * (style[:, 0] + 1) + style[:, 1]


def reference_synthesis(
    generator: Opened, w: Tensor, noise: Sequence[Tensor], lod: float, z: Tensor | None = None
) -> Tensor:
    """The image at the resolution of `lod`, fading between it and the one below by its fraction.

    It begins with a dense layer where there is no constant, on the first layer's w (config C), or on the normalised `z`
    if that is given; `noise` may be empty.
    """
    added: Sequence[Tensor | None] = noise or [None] * w.shape[1]
    network = generator.synthesis
    layers = network.layers

    def convolved(x: Tensor, index: int) -> Tensor:
        return F.conv2d(x, scaled(layers[index].conv.weight), padding=1)

    def to_rgb(x: Tensor, level: int) -> Tensor:
        return F.conv2d(x, scaled(network.to_rgb[level].weight, 1.0), network.to_rgb[level].bias)

    if network.const is not None:
        x = network.const.expand(len(w), -1, -1, -1)
    else:
        code = w[:, 0] if z is None else unit(z)
        x = (code @ scaled(network.input.weight, INPUT_GAIN).T).reshape(len(w), -1, 4, 4)
    x = reference_layer(layers[0], x, w[:, 0], added[0])
    x = reference_layer(layers[1], convolved(x, 1), w[:, 1], added[1])
    image = to_rgb(x, 0)
    for level in range(1, TOP - math.floor(lod) + 1):
        first, second = 2 * level, 2 * level + 1
        x = reference_layer(layers[first], blurred(convolved(nearest(x), first)), w[:, first], added[first])
        x = reference_layer(layers[second], convolved(x, second), w[:, second], added[second])
        fade = min(max(lod - (TOP - level), 0.0), 1.0)
        image = nearest(image) * fade + to_rgb(x, level) * (1 - fade)
    return image


def reference_traditional(network: Opened, z: Tensor, lod: float, filtered: Filter = blurred) -> Tensor:
    """Progressive GAN's generator: pixel norm behind every leaky ReLU (configs A and B)."""

    def activated(x: Tensor, bias: Tensor) -> Tensor:
        return unit(lrelu(x + bias[:, None, None]))

    def convolved(x: Tensor, index: int) -> Tensor:
        return F.conv2d(x, scaled(network.layers[index].weight), padding=1)

    def to_rgb(x: Tensor, level: int) -> Tensor:
        return F.conv2d(x, scaled(network.to_rgb[level].weight, 1.0), network.to_rgb[level].bias)

    x = (unit(z) @ scaled(network.input.weight, INPUT_GAIN).T).reshape(len(z), -1, 4, 4)
    x = activated(convolved(activated(x, network.input_bias), 0), network.layers[0].bias)
    image = to_rgb(x, 0)
    for level in range(1, TOP - math.floor(lod) + 1):
        x = activated(filtered(convolved(nearest(x), 2 * level - 1)), network.up_biases[level - 1])
        x = activated(convolved(x, 2 * level), network.layers[2 * level].bias)
        fade = min(max(lod - (TOP - level), 0.0), 1.0)
        image = nearest(image) * fade + to_rgb(x, level) * (1 - fade)
    return image


def reference_discriminator(network: Opened, full: Tensor, lod: float, filtered: Filter = blurred) -> Tensor:
    """Logits of images at full resolution, seen at `lod`."""
    level = TOP - math.floor(lod)

    def from_rgb(index: int) -> Tensor:
        image = F.avg_pool2d(full, 2 ** (TOP - index)) if index < TOP else full
        return lrelu(F.conv2d(image, scaled(network.from_rgb[index].weight), network.from_rgb[index].bias))

    x = from_rgb(level)
    for index in range(level, 0, -1):
        block = network.blocks[index - 1]
        x = lrelu(F.conv2d(x, scaled(block.conv.weight), block.conv.bias, padding=1))
        x = F.avg_pool2d(F.conv2d(filtered(x), scaled(block.down.weight), padding=1), 2)
        x = lrelu(x + block.down.bias[:, None, None])
        if index == level and lod > math.floor(lod):
            fade = lod - math.floor(lod)
            x = x * (1 - fade) + fade * from_rgb(level - 1)
    groups = x.reshape(4, -1, *x.shape[1:])  # strided: images i, i + N/4, ... make a group
    deviation = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3)).reshape(-1, 1, 1, 1)
    x = torch.cat([x, deviation.repeat(4, 1, *x.shape[2:])], 1)
    x = lrelu(F.conv2d(x, scaled(network.conv.weight), network.conv.bias, padding=1)).flatten(1)
    x = lrelu(x @ scaled(network.dense.weight).T + network.dense.bias)
    return (x @ scaled(network.out.weight, 1.0).T + network.out.bias)[:, 0]


def row_of_table_1(row: str, lod: float) -> tuple[Generator | TraditionalGenerator, Discriminator, Filter]:
    """Small networks of a configuration, and the filter of their reference."""
    config = TrainConfig.model_validate(
        {"preset": f"table1_{row}", "resolution": SIDE, "channel_base": 64, "max_channels": 8, "z_dim": 12,
         "w_dim": 10, "mapping_layers": 2}
    )  # fmt: skip
    torch.manual_seed(0)
    generator, discriminator = build_generator(config).double(), build_discriminator(config).double()
    generator.lod = discriminator.lod = lod
    return made_random(generator), made_random(discriminator), unfiltered if row == "a" else blurred


def phase_inputs(
    generator: Generator | TraditionalGenerator, mixing_probability: float = 0.9, num: int = 8
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Pixels of real images, and the inputs that fakes are drawn from, in float64; nothing is augmented."""
    rng = torch.Generator().manual_seed(2)
    side = generator.resolution >> math.floor(generator.lod)
    pixels = torch.randint(256, (num, 3, side, side), generator=rng, dtype=torch.uint8)
    latents = draw_latents(generator, num, mixing_probability, rng)
    inputs = [torch.tensor(generator.lod % 1), torch.zeros(()), *latents[:3], *latents.noise]
    return pixels, tuple(x.double() if x.is_floating_point() else x for x in inputs)


def reference_fakes(
    row: str, generator: Generator | TraditionalGenerator, inputs: tuple[Tensor, ...], w: Tensor | None = None
) -> Tensor:
    """A configuration's fakes from a phase's inputs, or from the layers' `w` if given."""
    fade, _, z, _, _, *noise = inputs
    lod = math.floor(generator.lod) + float(fade)
    if row in "ab":
        assert not noise
        return reference_traditional(generator, z[0], lod, unfiltered if row == "a" else blurred)
    assert isinstance(generator, Generator)
    assert bool(noise) == (row in "ef")
    w = reference_styles(generator, inputs) if w is None else w
    return reference_synthesis(generator, w, noise, lod)


def reference_styles(generator: Generator, inputs: tuple[Tensor, ...]) -> Tensor:
    """Each layer's w, of the second code from an image's crossover on, if there is one."""
    _, _, z, crossover, *_ = inputs
    first, second = (generator.broadcast(reference_mapping(generator, code)) for code in (z[0], z[-1]))
    return torch.where(torch.arange(first.shape[1])[None, :, None] < crossover[:, None, None], first, second)
