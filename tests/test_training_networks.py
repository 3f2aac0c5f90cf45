"""The networks: structure, counts, and the properties the paper gives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import TrainConfig
from training.networks import (
    Discriminator,
    Generator,
    TraditionalGenerator,
    build_discriminator,
    build_generator,
)

SMALL: dict[str, Any] = {"channel_base": 64, "max_channels": 8}


def num_parameters(network: nn.Module) -> int:
    """Trainable numbers in a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def small_generator(resolution: int = 16, **overrides: Any) -> Generator:
    """A narrow generator with noise and styles that matter."""
    torch.manual_seed(0)
    generator = Generator(resolution, z_dim=8, w_dim=8, mapping_layers=2, **SMALL, **overrides)
    generator.w_avg.normal_()
    return generator.requires_grad_(False)


def inputs(
    generator: Generator | TraditionalGenerator, num: int = 3, seed: int = 1
) -> tuple[Tensor, list[Tensor]]:
    """Latents and noise."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(num, generator.z_dim, generator=rng), generator.draw_noise(num, rng)


@pytest.mark.parametrize(
    ("resolution", "count"),
    [(1024, 26_219_627), (256, 26_086_229), (128, 25_843_858), (64, 25_137_935)],
)
def test_generator_parameters(resolution: int, count: int) -> None:
    """The style-based generator has the paper's parameters at each resolution."""
    with torch.device("meta"):
        assert num_parameters(Generator(resolution)) == count


def test_generator_parts_at_1024() -> None:
    """At 1024 each part of the style-based generator has its own known count, in 18 layers."""
    with torch.device("meta"):
        generator = Generator(1024)
    layers: Any = generator.synthesis.layers
    assert len(layers) == 18
    assert num_parameters(generator.mapping) == 2_101_248
    assert generator.synthesis.const.numel() == 8_192
    assert sum(num_parameters(layer.conv) for layer in layers if layer.conv is not None) == 18_872_064
    assert sum(num_parameters(layer.style) for layer in layers) == 5_220_288
    assert sum(layer.noise_strength.numel() for layer in layers) == 5_088
    assert sum(layer.bias.numel() for layer in layers) == 5_088
    assert num_parameters(generator.synthesis.to_rgb) == 7_659


@pytest.mark.parametrize(
    ("resolution", "discriminator", "traditional"),
    [
        (1024, 23_087_249, 23_079_115),
        (256, 23_052_353, 23_044_309),
        (128, 22_941_313, 22_933_394),
        (64, 22_498_049, 22_490_383),
    ],
)
def test_other_parameters(resolution: int, discriminator: int, traditional: int) -> None:
    """Discriminator and traditional generator have the paper's parameters (at 1024; else by the same rule)."""
    with torch.device("meta"):
        assert num_parameters(Discriminator(resolution)) == discriminator
        assert num_parameters(TraditionalGenerator(resolution)) == traditional


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ("a", 23_079_115), ("b", 23_079_115),
        ("c", 26_214_539 - 8_192 + 512 * 8_192), ("d", 26_219_627 - 5_088),
        ("e", 26_219_627), ("f", 26_219_627),
    ],
)  # fmt: skip
def test_parameters_of_table_1(row: str, count: int) -> None:
    """At 1024 each configuration has its own count: C has an input layer for the constant, D no noise."""
    config = TrainConfig.model_validate({"preset": f"table1_{row}"})
    with torch.device("meta"):
        assert num_parameters(build_generator(config)) == count
        assert num_parameters(build_discriminator(config)) == 23_087_249


def test_without_noise_none_is_drawn() -> None:
    """A generator without noise has no strengths, draws no noise, and still mixes among all layers in use."""
    generator = small_generator(noise=False)
    z, noise = inputs(generator)
    assert noise == []
    assert not [name for name, _ in generator.named_parameters() if "noise" in name]
    assert generator.num_layers_in_use == 6
    assert generator(z, noise).shape == (3, 3, 16, 16)


def test_latent_input_reaches_the_image_beside_the_styles() -> None:
    """Where z enters at the input layer, images of one and the same w differ; its length does not matter."""
    generator = small_generator(synthesis_input="latent", noise=False)
    z, _ = inputs(generator)
    images = generator(z, [], psi=0.0)
    assert not torch.allclose(images[0], images[1])
    torch.testing.assert_close(generator(z * 7, [], psi=0.0), images)


def test_constant_starts_as_ones_and_biases_as_zeros() -> None:
    """The learned constant starts at one; biases, noise strengths and style biases at zero."""
    generator = Generator(16, **SMALL)
    assert (generator.synthesis.const == 1).all()
    for name, parameter in generator.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            assert (parameter == 0).all(), name


def test_mapping_ignores_the_length_of_z() -> None:
    """z is normalised, so its length does not change w."""
    generator = small_generator()
    z, _ = inputs(generator)
    torch.testing.assert_close(generator.mapping(z), generator.mapping(z * 7))


def test_mixing_takes_the_second_latent_from_the_crossover_on() -> None:
    """Below its crossover an image has the first w in every layer, from there on the second."""
    generator = small_generator()
    first, second = (generator.broadcast(torch.randn(3, 8)) for _ in range(2))
    mixed = generator.mix(first, second, torch.tensor([1, 4, 6]))
    for image, crossover in enumerate([1, 4, 6]):
        assert torch.equal(mixed[image, :crossover], first[image, :crossover])
        assert torch.equal(mixed[image, crossover:], second[image, crossover:])
    assert torch.equal(mixed[2], first[2])


def test_truncation() -> None:
    """psi 1 changes nothing, psi 0 gives the mean w, and only the first layers are touched."""
    generator = small_generator(64)
    w = generator.broadcast(torch.randn(3, 8))
    assert w.shape[1] == 10
    assert torch.equal(generator.truncate(w, 1.0), w)
    none = generator.truncate(w, 0.0, cutoff=8)
    assert torch.equal(none[:, :8], generator.w_avg.expand(3, 8, 8))
    assert torch.equal(none[:, 8:], w[:, 8:])
    half = generator.truncate(w, 0.5, cutoff=8)
    torch.testing.assert_close(half[:, :8], (w[:, :8] + generator.w_avg) / 2)


def test_images_agree_at_psi_zero() -> None:
    """At psi 0 on every layer, all latents give the mean image."""
    generator = small_generator()
    z, noise = inputs(generator)
    images = generator(z, noise, psi=0.0)
    torch.testing.assert_close(images[1:], images[:1].expand(2, -1, -1, -1))
    assert not torch.allclose(generator(z, noise)[0], generator(z, noise)[1])


def test_w_avg_is_a_running_mean() -> None:
    """The mean of w moves towards each batch's by 1 - beta."""
    generator = small_generator()
    before, w = generator.w_avg.clone(), torch.randn(8)
    generator.update_w_avg(w, 0.9)
    torch.testing.assert_close(generator.w_avg, 0.9 * before + 0.1 * w)


def test_noise_starts_without_effect_and_gains_one() -> None:
    """At the start noise changes nothing; once a layer's strength is set it does."""
    generator = small_generator()
    z, noise = inputs(generator)
    _, other = inputs(generator, seed=2)
    assert torch.equal(generator(z, noise), generator(z, other))
    generator.synthesis.layers[3].noise_strength.fill_(0.5)
    assert not torch.allclose(generator(z, noise), generator(z, other))


def test_each_style_reaches_its_own_layer() -> None:
    """A change of w in the last layers leaves the levels below as they were."""
    generator = small_generator()
    z, noise = inputs(generator)
    w = generator.broadcast(generator.mapping(z)).clone()
    other = w.clone()
    other[:, 4:] += 1
    assert torch.equal(generator.synthesis(w, noise, 1.0), generator.synthesis(other, noise, 1.0))
    assert not torch.allclose(generator.synthesis(w, noise, 0.0), generator.synthesis(other, noise, 0.0))


@pytest.mark.parametrize("kind", ["style", "traditional"])
def test_generator_fades_linearly(kind: str) -> None:
    """Between levels the image is the blend of the lower one, upscaled, and the higher one."""
    generator: Generator | TraditionalGenerator = small_generator()
    if kind == "traditional":
        generator = TraditionalGenerator(16, z_dim=8, **SMALL).requires_grad_(False)
    z, noise = inputs(generator)

    def image(lod: float) -> Tensor:
        generator.lod = lod
        return generator(z, noise)

    assert image(2.0).shape[-1] == 4
    for lod in (0, 1):
        high = image(float(lod))
        low = F.interpolate(image(lod + 1.0), scale_factor=2, mode="nearest")
        for fade in (0.25, 0.5, 0.999):
            torch.testing.assert_close(image(lod + fade), low * fade + high * (1 - fade))


def test_discriminator_fades_to_the_lower_resolution() -> None:
    """At the end of a level of detail the discriminator judges the image as it does the halved one below."""
    torch.manual_seed(0)
    discriminator = Discriminator(16, **SMALL).requires_grad_(False)
    x = torch.randn(4, 3, 16, 16)
    discriminator.lod = 1 - 1e-7
    high = discriminator(x)
    discriminator.lod = 1.0
    torch.testing.assert_close(high, discriminator(F.avg_pool2d(x, 2)), atol=1e-4, rtol=1e-4)
    discriminator.lod = 0.0
    assert not torch.allclose(discriminator(x), high)


def test_noise_matches_the_present_level() -> None:
    """Noise is drawn for the layers in use, at their resolutions, one channel a sample."""
    generator = small_generator(32)
    generator.lod = 1.5
    shapes = [tuple(noise.shape) for noise in generator.draw_noise(2, torch.Generator())]
    assert shapes == [(2, 1, side, side) for side in (4, 4, 8, 8, 16, 16)]


def test_small_differences_in_the_constant_survive_bfloat16() -> None:
    """Where the constant differs by thousandths, as when training begins, bfloat16 features still show them."""
    torch.manual_seed(0)
    generator = Generator(8, z_dim=8, w_dim=8, mapping_layers=1, channel_base=64, max_channels=8)
    with torch.no_grad():
        generator.synthesis.const.add_(1e-3 * torch.randn(generator.synthesis.const.shape))
    z, noise = torch.randn(4, 8), generator.draw_noise(4, torch.Generator().manual_seed(0))
    exact = generator(z, noise)
    generator.synthesis.dtype = torch.bfloat16
    error = ((generator(z, noise) - exact).norm() / (exact - exact.mean((2, 3), keepdim=True)).norm()).item()
    assert error < 0.05, f"relative error {error:.3f}"


def test_each_image_has_noise_of_its_own() -> None:
    """Noise is drawn for every image and pixel."""
    for layer in small_generator().draw_noise(2, torch.Generator().manual_seed(0)):
        assert not torch.equal(layer[0], layer[1])
        assert layer.shape[1] == 1
        assert layer[0].std() > 0.5


def test_truncation_reaches_as_many_layers_as_are_asked_for() -> None:
    """A generator truncates w on its first `cutoff` layers, and draws of that."""
    generator = small_generator()
    z, noise = inputs(generator)
    w = generator.truncate(generator.broadcast(generator.mapping(z)), 0.3, 2)
    images = generator(z, noise, psi=0.3, cutoff=2)
    torch.testing.assert_close(images, generator.synthesis(w, noise, 0.0))
    assert not torch.allclose(images, generator(z, noise, psi=0.3, cutoff=6))
