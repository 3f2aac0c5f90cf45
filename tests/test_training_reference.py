"""training.networks against a slow, plain, float64 reading of section 2 of the paper, on the same weights.

The reference has separate up-scaling, convolutions and blurs, explicit statistics, and a discriminator that takes
images at full resolution and averages them down itself.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import TrainConfig
from training.loop import Training
from training.loss import Losses
from training.networks import Discriminator, Generator, level_of
from training.schedule import stage_at

SIDE = 32
TOP = level_of(SIDE)


@pytest.fixture(scope="module")
def networks() -> tuple[Generator, Discriminator]:
    """Small networks whose constant parameters (biases, noise strengths, the input) are made random."""
    torch.manual_seed(0)
    widths = {"channel_base": 128, "max_channels": 16}
    generator = Generator(SIDE, z_dim=16, w_dim=16, mapping_layers=8, **widths).double()
    discriminator = Discriminator(SIDE, **widths).double()
    for parameter in (*generator.parameters(), *discriminator.parameters()):
        if parameter.std(correction=0) == 0:
            parameter.data += torch.randn_like(parameter) * 0.3
    return generator, discriminator


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


def reference_mapping(generator: Generator, z: Tensor) -> Tensor:
    """z normalised, then layers with a learning-rate multiplier of 0.01 on weights and biases."""
    x = z / (z.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in generator.mapping.layers:
        gain = math.sqrt(2) / math.sqrt(layer.weight.shape[1])
        x = lrelu(x @ (layer.weight * 0.01 * gain).T + layer.bias * 0.01)
    return x


def reference_layer(layer: torch.nn.Module, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """Noise, bias, leaky ReLU, instance norm, style (figure 1b)."""
    x = lrelu(x + noise * layer.noise_strength[None, :, None, None] + layer.bias[None, :, None, None])
    x = x - x.mean((2, 3), keepdim=True)
    x = x / (x.pow(2).mean((2, 3), keepdim=True) + 1e-8).sqrt()
    style = (w @ scaled(layer.style.weight, 1.0).T + layer.style.bias).reshape(len(w), 2, -1, 1, 1)
    return x * (style[:, 0] + 1) + style[:, 1]


def reference_synthesis(generator: Generator, w: Tensor, noise: list[Tensor], lod: float) -> Tensor:
    """The image at the resolution of `lod`, fading between it and the one below by its fraction."""
    network = generator.synthesis
    layers = network.layers

    def convolved(x: Tensor, index: int) -> Tensor:
        return F.conv2d(x, scaled(layers[index].conv.weight), padding=1)

    def to_rgb(x: Tensor, level: int) -> Tensor:
        return F.conv2d(x, scaled(network.to_rgb[level].weight, 1.0), network.to_rgb[level].bias)

    x = reference_layer(layers[0], network.const.expand(len(w), -1, -1, -1), w[:, 0], noise[0])
    x = reference_layer(layers[1], convolved(x, 1), w[:, 1], noise[1])
    image = to_rgb(x, 0)
    for level in range(1, TOP - math.floor(lod) + 1):
        first, second = 2 * level, 2 * level + 1
        x = reference_layer(layers[first], blurred(convolved(nearest(x), first)), w[:, first], noise[first])
        x = reference_layer(layers[second], convolved(x, second), w[:, second], noise[second])
        fade = min(max(lod - (TOP - level), 0.0), 1.0)
        image = nearest(image) * fade + to_rgb(x, level) * (1 - fade)
    return image


def reference_discriminator(network: Discriminator, full: Tensor, lod: float) -> Tensor:
    """Logits of images at full resolution, seen at `lod`."""
    level = TOP - math.floor(lod)

    def from_rgb(index: int) -> Tensor:
        image = F.avg_pool2d(full, 2 ** (TOP - index)) if index < TOP else full
        return lrelu(F.conv2d(image, scaled(network.from_rgb[index].weight), network.from_rgb[index].bias))

    x = from_rgb(level)
    for index in range(level, 0, -1):
        block = network.blocks[index - 1]
        x = lrelu(F.conv2d(x, scaled(block.conv.weight), block.conv.bias, padding=1))
        x = F.avg_pool2d(F.conv2d(blurred(x), scaled(block.down.weight), padding=1), 2)
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


@pytest.mark.parametrize("lod", [2.0, 1.7, 1.0, 0.4, 0.0])
def test_networks_equal_the_reference(networks: tuple[Generator, Discriminator], lod: float) -> None:
    """At every level of detail, whole or fading, both networks compute what the plain reference computes."""
    generator, discriminator = networks
    generator.lod = discriminator.lod = lod
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(8, 16, generator=rng, dtype=torch.double)
    noise = [layer.double() for layer in generator.draw_noise(8, rng)]
    w = generator.mapping(z)
    torch.testing.assert_close(w, reference_mapping(generator, z), rtol=1e-10, atol=1e-12)
    images = generator.synthesis(generator.broadcast(w), noise, lod)
    expected = reference_synthesis(generator, generator.broadcast(w), noise, lod)
    torch.testing.assert_close(images, expected, rtol=1e-9, atol=1e-11)
    logits = discriminator(images)
    expected = reference_discriminator(discriminator, nearest(images, 2 ** math.floor(lod)), lod)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("lod", "num_layers"), [(0.0, 8), (1.0, 6), (2.5, 4)])
def test_mixing_crosses_over_among_layers_in_use(
    networks: tuple[Generator, Discriminator], monkeypatch: pytest.MonkeyPatch, lod: float, num_layers: int
) -> None:
    """However far the networks have grown, every image is mixed within the layers that draw it, at any of them."""
    generator, discriminator = networks
    generator.lod = lod
    crossovers: list[Tensor] = []
    mix = generator.mix

    def recorded(first: Tensor, second: Tensor, crossover: Tensor) -> Tensor:
        crossovers.append(crossover)
        return mix(first, second, crossover)

    monkeypatch.setattr(generator, "mix", recorded)
    losses = Losses(generator.float(), discriminator, mixing_probability=1.0, r1_gamma=10.0)
    with torch.no_grad():
        losses._fakes(200, torch.Generator().manual_seed(0))
    generator.double()
    assert set(crossovers[0].tolist()) == set(range(1, num_layers))


def test_steps_take_the_schedule_s_rate_and_resolutions_begin_with_fresh_moments() -> None:
    """Each step uses its stage's learning rate, and Adam starts anew where a resolution begins, and only there."""
    config = TrainConfig.model_validate(
        {"preset": "smoke", "resolution": 16, "stable_kimg": 0.016, "fade_kimg": 0.016, "total_kimg": 1,
         "batch_size": {"4": 8}, "learning_rate": {"4": 0.001, "16": 0.003}, "max_channels": 8}
    )  # fmt: skip
    training = Training.begin(config, torch.device("cpu"))
    counts, rates = [], []
    for _ in range(8):
        stage = stage_at(config, training.num_images)
        if stage.resolution != training.resolution:
            training.enter(stage.resolution)
        training.step(stage, torch.zeros(8, 3, stage.resolution, stage.resolution))
        optimizer = training.optimizers["generator"]
        state = optimizer.state[training.generator.synthesis.const]  # type: ignore[union-attr]
        counts.append((stage.resolution, int(state["step"])))
        rates.append(optimizer.param_groups[0]["lr"])
    assert counts == [(8, 1), (8, 2), (8, 3), (16, 1), (16, 2), (16, 3), (16, 4), (16, 5)]
    assert rates == [0.001] * 3 + [0.003] * 5
