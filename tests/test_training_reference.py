"""training.networks against a slow, plain, float64 reading of section 2 of the paper, on the same weights.

The reference has separate up-scaling, convolutions and blurs, explicit statistics, and a discriminator that takes
images at full resolution and averages them down itself. It covers every configuration of the paper's table 1, WGAN-GP
and path length regularization.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.augment import NUM_NORMAL, NUM_UNIFORM, augmented, draw_augmentation
from training.config import TrainConfig
from training.loss import (
    CriticPhase,
    DiscriminatorPhase,
    GeneratorPhase,
    PathLengthPhase,
    draw_latents,
    draw_shares,
    wasserstein_generator_loss,
)
from training.networks import (
    Discriminator,
    Generator,
    TraditionalGenerator,
    build_discriminator,
    build_generator,
    level_of,
)
from training.schedule import stage_at
from training.state import Training, step_rng
from training.step import GradientFunction

log = logging.getLogger(__name__)

SIDE = 32
TOP = level_of(SIDE)
GAMMA = 1000.0
"""Of R1, such that its gradient is the larger part of the discriminator's."""


@pytest.fixture(scope="module")
def networks() -> tuple[Generator, Discriminator]:
    """Small networks whose constant parameters (biases, noise strengths, the input) are made random."""
    torch.manual_seed(0)
    widths = {"channel_base": 128, "max_channels": 16}
    generator = Generator(SIDE, z_dim=16, w_dim=16, mapping_layers=8, **widths).double()
    discriminator = Discriminator(SIDE, **widths).double()
    return made_random(generator), made_random(discriminator)


def made_random(network: torch.nn.Module) -> torch.nn.Module:
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


Filter = Callable[[Tensor], Tensor]


def unfiltered(x: Tensor) -> Tensor:
    """No blur: config A."""
    return x


def unit(x: Tensor) -> Tensor:
    """Divided by the root mean square over dimension 1."""
    return x / (x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()


def reference_mapping(generator: Generator, z: Tensor) -> Tensor:
    """z normalised, then layers with a learning-rate multiplier of 0.01 on weights and biases."""
    x = unit(z)
    for layer in generator.mapping.layers:
        gain = math.sqrt(2) / math.sqrt(layer.weight.shape[1])
        x = lrelu(x @ (layer.weight * 0.01 * gain).T + layer.bias * 0.01)
    return x


def reference_layer(layer: torch.nn.Module, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
    """Noise if there is any, bias, leaky ReLU, instance norm, style (figure 1b)."""
    if noise is not None:
        x = x + noise * layer.noise_strength[None, :, None, None]
    x = lrelu(x + layer.bias[None, :, None, None])
    x = x - x.mean((2, 3), keepdim=True)
    x = x / (x.pow(2).mean((2, 3), keepdim=True) + 1e-8).sqrt()
    style = (w @ scaled(layer.style.weight, 1.0).T + layer.style.bias).reshape(len(w), 2, -1, 1, 1)
    return x * (style[:, 0] + 1) + style[:, 1]


def reference_synthesis(
    generator: Generator, w: Tensor, noise: list[Tensor], lod: float, z: Tensor | None = None
) -> Tensor:
    """The image at the resolution of `lod`, fading between it and the one below by its fraction.

    It begins with a dense layer on the normalised `z` where that is given (config C); `noise` may be empty.
    """
    noise = noise or [None] * w.shape[1]
    network = generator.synthesis
    layers = network.layers

    def convolved(x: Tensor, index: int) -> Tensor:
        return F.conv2d(x, scaled(layers[index].conv.weight), padding=1)

    def to_rgb(x: Tensor, level: int) -> Tensor:
        return F.conv2d(x, scaled(network.to_rgb[level].weight, 1.0), network.to_rgb[level].bias)

    if z is None:
        x = network.const.expand(len(w), -1, -1, -1)
    else:
        x = (unit(z) @ scaled(network.input.weight).T).reshape(len(z), -1, 4, 4)
    x = reference_layer(layers[0], x, w[:, 0], noise[0])
    x = reference_layer(layers[1], convolved(x, 1), w[:, 1], noise[1])
    image = to_rgb(x, 0)
    for level in range(1, TOP - math.floor(lod) + 1):
        first, second = 2 * level, 2 * level + 1
        x = reference_layer(layers[first], blurred(convolved(nearest(x), first)), w[:, first], noise[first])
        x = reference_layer(layers[second], convolved(x, second), w[:, second], noise[second])
        fade = min(max(lod - (TOP - level), 0.0), 1.0)
        image = nearest(image) * fade + to_rgb(x, level) * (1 - fade)
    return image


def reference_traditional(
    network: TraditionalGenerator, z: Tensor, lod: float, filtered: Filter = blurred
) -> Tensor:
    """Progressive GAN's generator: pixel norm behind every leaky ReLU (configs A and B)."""

    def activated(x: Tensor, bias: Tensor) -> Tensor:
        return unit(lrelu(x + bias[:, None, None]))

    def convolved(x: Tensor, index: int) -> Tensor:
        return F.conv2d(x, scaled(network.layers[index].weight), padding=1)

    def to_rgb(x: Tensor, level: int) -> Tensor:
        return F.conv2d(x, scaled(network.to_rgb[level].weight, 1.0), network.to_rgb[level].bias)

    x = (unit(z) @ scaled(network.input.weight).T).reshape(len(z), -1, 4, 4)
    x = activated(convolved(activated(x, network.input_bias), 0), network.layers[0].bias)
    image = to_rgb(x, 0)
    for level in range(1, TOP - math.floor(lod) + 1):
        x = activated(filtered(convolved(nearest(x), 2 * level - 1)), network.up_biases[level - 1])
        x = activated(convolved(x, 2 * level), network.layers[2 * level].bias)
        fade = min(max(lod - (TOP - level), 0.0), 1.0)
        image = nearest(image) * fade + to_rgb(x, level) * (1 - fade)
    return image


def reference_discriminator(
    network: Discriminator, full: Tensor, lod: float, filtered: Filter = blurred
) -> Tensor:
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
    networks: tuple[Generator, Discriminator], lod: float, num_layers: int
) -> None:
    """However far the networks have grown, every image is mixed within the layers that draw it, at any of them."""
    generator, _ = networks
    generator.lod = lod
    crossover = draw_latents(generator, 200, 1.0, torch.Generator().manual_seed(0)).crossover_N
    assert set(crossover.tolist()) == set(range(1, num_layers))


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
        training.step(stage, torch.zeros(8, 3, stage.resolution, stage.resolution, dtype=torch.uint8))
        optimizer = training.optimizers["generator"]
        state = optimizer.state[training.generator.synthesis.const]  # type: ignore[union-attr]
        counts.append((stage.resolution, int(state["step"])))
        rates.append(optimizer.param_groups[0]["lr"])
    assert counts == [(8, 1), (8, 2), (8, 3), (16, 1), (16, 2), (16, 3), (16, 4), (16, 5)]
    assert rates == [0.001] * 3 + [0.003] * 5


def test_a_step_is_the_reference_s() -> None:
    """Four steps, mixed and augmented, are those of plain float64 networks, losses, Adam, averages and strength.

    Weights are compared after the first step, but for a few: Adam moves a weight by the whole rate, whichever way the
    rounding of a gradient that is nearly zero points.
    """
    config = TrainConfig.model_validate(
        {"resolution": SIDE, "start_resolution": SIDE, "z_dim": 16, "w_dim": 16, "mapping_layers": 8,
         "channel_base": 128, "max_channels": 16, "batch_size": {4: 8}, "learning_rate": {4: 0.01},
         "mixing_probability": 0.9, "augment": "ada", "augment_p": 0.5, "ada_target": 0.6, "ada_kimg": 0.4,
         "r1_gamma": 100.0, "ema_half_life_kimg": 0.02, "w_avg_beta": 0.9, "adam_beta2": 0.9}
    )  # fmt: skip
    training = Training.begin(config, torch.device("cpu"))
    torch.manual_seed(0)
    made_random(training.generator), made_random(training.discriminator)
    stage, pixels = stage_at(config, 0), torch.randint(256, (8, 3, SIDE, SIDE), dtype=torch.uint8)
    generator, averaged, discriminator = (
        copy.deepcopy(network).double()
        for network in (training.generator, training.generator_ema, training.discriminator)
    )
    assert isinstance(generator, Generator)
    training.enter(SIDE)
    p = torch.tensor(0.5).double()

    def drawn_fakes(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        latents = draw_latents(generator, 8, 0.9, rng, augments=True)
        first, second = (generator.broadcast(reference_mapping(generator, z.double())) for z in latents.z_KNZ)
        is_first = torch.arange(first.shape[1])[None, :, None] < latents.crossover_N[:, None, None]
        noise = [layer.double() for layer in latents.noise]
        fakes = reference_synthesis(generator, torch.where(is_first, first, second), noise, 0.0)
        return fakes, latents.augmentation_NR.double(), first[:, 0]

    def descend(network: torch.nn.Module, loss: Tensor) -> None:
        parameters = list(network.parameters())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            if gradient is not None:  # at the first step the second moment, its bias mended, is the square
                parameter.data -= 0.01 * gradient / (gradient.abs() + 1e-8)

    rng = step_rng(config.seed, 0, torch.device("cpu"))
    fakes, drawn, _ = drawn_fakes(rng)
    reals = augmented(pixels.double() / 127.5 - 1, p, draw_augmentation(8, rng).double())
    shown = reals.requires_grad_()
    real = reference_discriminator(discriminator, shown, 0.0)
    fake = reference_discriminator(discriminator, augmented(fakes.detach(), p, drawn), 0.0)
    (slope,) = torch.autograd.grad(real.sum(), shown, create_graph=True)
    penalty = 50 * slope.square().sum((1, 2, 3)).mean()
    loss_d = F.softplus(-real).mean() + F.softplus(fake).mean()
    descend(discriminator, loss_d + penalty)
    fakes, drawn, w_ND = drawn_fakes(rng)
    loss_g = F.softplus(-reference_discriminator(discriminator, augmented(fakes, p, drawn), 0.0)).mean()
    w_avg = generator.w_avg + 0.1 * (w_ND.detach().mean(0) - generator.w_avg)
    descend(generator, loss_g)

    training.step(stage, pixels)
    terms = training.tally.means()
    for name, expected in (("loss_g", loss_g), ("loss_d", loss_d), ("r1", penalty)):
        assert terms[name] == pytest.approx(expected.item(), rel=1e-4), name
    torch.testing.assert_close(training.generator.w_avg.double(), w_avg, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(training.generator_ema.w_avg, training.generator.w_avg)
    for kept, new in zip(averaged.parameters(), generator.parameters(), strict=True):
        kept.data.lerp_(new.data, 1 - 0.5 ** (8 / 20))
    for name, network in zip(training.networks, (generator, discriminator, averaged), strict=True):
        found, expected = (
            torch.cat([x.detach().double().flatten() for x in now.parameters()])
            for now in (training.networks[name], network)
        )
        share = ((found - expected).abs() > 0.001).double().mean()  # a tenth of the rate
        assert share < 0.01, f"{name}: {share:.2%} of the weights moved otherwise"

    for _ in range(3):
        training.step(stage, pixels)
    for optimizer in training.optimizers.values():  # which the first step does not show
        assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.0, 0.9), 1e-8)
    change = math.copysign(4 * 8 / 400, training.tally.means()["real_sign"] - 0.6)
    assert training.augmentation.p.item() == pytest.approx(0.5 + change)


# --------------------------------------------------------------------------------------------------------------
# Gradients of both phases


def copies(networks: tuple[Generator, Discriminator], lod: float) -> tuple[Generator, Discriminator]:
    """Networks of the test's own, at a level of detail."""
    generator, discriminator = copy.deepcopy(networks)
    generator.lod = discriminator.lod = lod
    return generator, discriminator


def phase_inputs(
    generator: Generator | TraditionalGenerator, mixing_probability: float = 0.9
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Pixels of real images, and the inputs that fakes are drawn from, in float64; nothing is augmented."""
    rng = torch.Generator().manual_seed(2)
    side = generator.resolution >> math.floor(generator.lod)
    pixels = torch.randint(256, (8, 3, side, side), generator=rng, dtype=torch.uint8)
    latents = draw_latents(generator, 8, mixing_probability, rng)
    inputs = [torch.tensor(generator.lod % 1), torch.zeros(()), *latents[:3], *latents.noise]
    return pixels, tuple(x.double() if x.is_floating_point() else x for x in inputs)


def reference_gradients(
    generator: Generator, discriminator: Discriminator, pixels: Tensor, inputs: tuple[Tensor, ...]
) -> dict[str, dict[str, Tensor]]:
    """Gradients of both losses through the plain networks, by PyTorch's own differentiation, R1 among them."""
    _, _, z, crossover, _, *noise = inputs
    w, mixed = (generator.broadcast(reference_mapping(generator, code)) for code in z)
    layer = torch.arange(w.shape[1])[None, :, None]
    lod = generator.lod
    fakes = reference_synthesis(
        generator, torch.where(layer < crossover[:, None, None], w, mixed), noise, lod
    )
    reals = pixels.double() / 127.5 - 1
    fade = lod % 1
    reals = reals * (1 - fade) + nearest(F.avg_pool2d(reals, 2)) * fade

    def full(images: Tensor) -> Tensor:
        return nearest(images, 2 ** math.floor(lod))

    shown = full(reals).requires_grad_()
    real = reference_discriminator(discriminator, shown, lod)
    fake = reference_discriminator(discriminator, full(fakes), lod)
    fixed = reference_discriminator(discriminator, full(fakes.detach()), lod)
    (slope,) = torch.autograd.grad(real.sum(), shown, create_graph=True)
    loss_d = torch.log1p(torch.exp(-real)).mean() + torch.log1p(torch.exp(fixed)).mean()
    loss_d = loss_d + GAMMA / 2 * slope.pow(2).sum((1, 2, 3)).mean()
    loss_g = torch.log1p(torch.exp(-fake)).mean()
    found = {}
    for network, loss in (("discriminator", loss_d), ("generator", loss_g)):
        names, parameters = zip(*locals()[network].named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        # The plain networks compute even what fading has no weight for; its gradients are zero.
        found[network] = {n: g for n, g in zip(names, gradients, strict=True) if g is not None and g.any()}
    return found


def phase_gradients(
    generator: Generator,
    discriminator: Discriminator,
    pixels: Tensor,
    inputs: tuple[Tensor, ...],
    *,
    compiled: bool = False,
) -> dict[str, dict[str, Tensor]]:
    """The same as training takes them."""
    phases = {
        "discriminator": (
            DiscriminatorPhase(generator, discriminator, GAMMA),
            (pixels, torch.empty(len(pixels), 0), *inputs),
        ),
        "generator": (GeneratorPhase(generator, discriminator), inputs),
    }
    found = {}
    for name, (phase, given) in phases.items():
        gradients, _ = GradientFunction(phase, phase.network, compiled=compiled)(*given)
        names = {parameter: key for key, parameter in phase.network.named_parameters()}
        found[name] = {names[p]: g.double().cpu() for p, g in gradients.items()}
    return found


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The norm of the whole difference over that of the expected gradients."""
    assert found.keys() == expected.keys()
    square = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    return math.sqrt(square / sum(float(tensor.square().sum()) for tensor in expected.values()))


@pytest.mark.parametrize("lod", [1.0, 0.4, 0.0])
def test_gradients_equal_the_reference(networks: tuple[Generator, Discriminator], lod: float) -> None:
    """Both phases' gradients, R1's among them, are those of the plain networks, tensor by tensor (float64)."""
    generator, discriminator = copies(networks, lod)
    pixels, inputs = phase_inputs(generator)
    expected = reference_gradients(generator, discriminator, pixels, inputs)
    found = phase_gradients(generator, discriminator, pixels, inputs)
    for network, tensors in expected.items():
        assert found[network].keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[network][name], tensor, rtol=1e-5, atol=1e-7, msg=name)


def in_precision(
    networks: tuple[Generator, Discriminator], lod: float, dtype: torch.dtype | None, device: str = "cpu"
) -> tuple[Generator, Discriminator]:
    """float32 networks that compute their features in `dtype`."""
    generator, discriminator = copies(networks, lod)
    generator.synthesis.dtype = discriminator.dtype = dtype
    generator.float().to(device), discriminator.float().to(device)
    return generator, discriminator


# bfloat16 flips the sign of some features near zero and so the slope of their leaky ReLU: hence the wide bounds.
BOUNDS = {None: 2e-3, torch.bfloat16: 0.2}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("lod", [0.4, 0.0])
def test_precision_keeps_the_gradients(
    networks: tuple[Generator, Discriminator], lod: float, dtype: torch.dtype | None
) -> None:
    """In float32, and with bfloat16 features, both phases' gradients stay near the float64 reference."""
    pixels, inputs = phase_inputs(copies(networks, lod)[0])
    expected = reference_gradients(*copies(networks, lod), pixels, inputs)
    inputs = tuple(x.float() if x.is_floating_point() else x for x in inputs)
    found = phase_gradients(*in_precision(networks, lod, dtype), pixels, inputs)
    for network in expected:
        measured = distance(found[network], expected[network])
        assert measured < BOUNDS[dtype], f"{network}: {measured:.2g}"


@pytest.mark.parametrize("dtype", BOUNDS)
def test_recorded_gradients_serve_every_fade(
    networks: tuple[Generator, Discriminator], dtype: torch.dtype | None
) -> None:
    """What is compiled, the recorded graph, gives the gradients of the phases it records, at any fraction of a fade.

    Images are augmented.
    """
    pair = in_precision(networks, 0.4, dtype)
    for phase in (DiscriminatorPhase(*pair, 10.0), GeneratorPhase(*pair)):
        given: list[tuple[Tensor, ...]] = []
        for lod in (0.4, 0.9):
            for network in pair:
                network.lod = lod
            pixels, inputs = phase_inputs(pair[0])
            inputs = tuple(x.float() if x.is_floating_point() else x for x in inputs)
            drawn = torch.rand(len(pixels), NUM_UNIFORM + NUM_NORMAL)
            inputs = (inputs[0], torch.tensor(0.7), *inputs[2:4], drawn, *inputs[5:])
            given.append((pixels, drawn, *inputs) if isinstance(phase, DiscriminatorPhase) else inputs)
        gradients = GradientFunction(phase, phase.network, compiled=False)
        graph = gradients.record(given[0])
        with torch.no_grad():
            replayed = [graph(*(p for _, p in phase.named_parameters()), *inputs) for inputs in given]
        for inputs, outputs in zip(given, replayed, strict=True):
            plain, others = gradients(*inputs)
            for found, expected in zip(outputs, [*plain.values(), *others], strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------------------------------------
# The configurations of table 1, WGAN-GP and path lengths


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


def reference_fakes(
    row: str, generator: Generator | TraditionalGenerator, inputs: tuple[Tensor, ...], w: Tensor | None = None
) -> Tensor:
    """A configuration's fakes from a phase's inputs, or from the layers' `w` if given."""
    fade, _, z, _, _, *noise = inputs
    lod = math.floor(generator.lod) + float(fade)
    if row in "ab":
        assert not noise
        return reference_traditional(generator, z[0], lod, unfiltered if row == "a" else blurred)
    assert bool(noise) == (row in "ef")
    w = reference_styles(generator, inputs) if w is None else w
    return reference_synthesis(generator, w, noise, lod, z[0] if row == "c" else None)


def reference_styles(generator: Generator, inputs: tuple[Tensor, ...]) -> Tensor:
    """Each layer's w, of the second code from an image's crossover on, if there is one."""
    _, _, z, crossover, *_ = inputs
    first, second = (generator.broadcast(reference_mapping(generator, code)) for code in (z[0], z[-1]))
    return torch.where(torch.arange(first.shape[1])[None, :, None] < crossover[:, None, None], first, second)


def gradients_of(loss: Tensor, network: torch.nn.Module) -> dict[str, Tensor]:
    """Gradients by name, but for those that are zero."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None and g.any()}


def assert_same_gradients(
    phase: torch.nn.Module, fade_at: int, inputs: tuple[Tensor, ...], expected: dict[str, Tensor]
) -> None:
    """The phase's gradients, taken plainly and from the recorded graph, are the expected ones (float64).

    The graph is recorded at another fraction of the fade, the input at `fade_at`: that must not stay in it.
    """
    function = GradientFunction(phase, phase.network, compiled=False)
    plain, others = function(*inputs)
    names = {parameter: name for name, parameter in phase.network.named_parameters()}
    found = {names[p]: g for p, g in plain.items() if g.any()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7, msg=name)
    graph = function.record((*inputs[:fade_at], inputs[fade_at] / 2, *inputs[fade_at + 1 :]))
    with torch.no_grad():
        recorded = graph(*(p for _, p in phase.named_parameters()), *inputs)
    for one, same in zip(recorded, [*plain.values(), *others], strict=True):
        torch.testing.assert_close(one, same, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("row", "abcdef")
def test_table_1_equals_the_reference(row: str) -> None:
    """Both networks of each configuration, whole and fading, are the plain ones that its row tells of."""
    for lod in (2.0, 0.4, 0.0):
        generator, discriminator, filtered = row_of_table_1(row, lod)
        _, inputs = phase_inputs(generator, 0.9 if row == "f" else 0.0)
        z, noise = inputs[2][0], inputs[5:]
        images = generator(z, noise)
        unmixed = (torch.tensor(lod % 1, dtype=z.dtype), inputs[1], z[None], *inputs[3:])
        torch.testing.assert_close(
            images, reference_fakes(row, generator, unmixed), rtol=1e-9, atol=1e-11, check_dtype=True
        )
        expected = reference_discriminator(
            discriminator, nearest(images, 2 ** math.floor(lod)), lod, filtered
        )
        torch.testing.assert_close(discriminator(images), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("row", "acf")
def test_wgan_gp_equals_the_reference(row: str) -> None:
    """WGAN-GP's losses and gradients in both networks, plain and recorded, are those of the plain networks."""
    lod = 1.4
    generator, discriminator, filtered = row_of_table_1(row, lod)
    pixels, inputs = phase_inputs(generator, 0.9 if row == "f" else 0.0)
    share = draw_shares(8, torch.Generator().manual_seed(4)).double()
    fakes = reference_fakes(row, generator, inputs)

    def logits(full_images: Tensor) -> Tensor:
        return reference_discriminator(discriminator, full_images, lod, filtered)

    reals = pixels.double() / 127.5 - 1
    fade = float(inputs[0])
    reals = reals * (1 - fade) + nearest(F.avg_pool2d(reals, 2)) * fade
    mixed = share[:, None, None, None] * reals + (1 - share[:, None, None, None]) * fakes.detach()
    mixed = nearest(mixed).requires_grad_()
    (slope,) = torch.autograd.grad(logits(mixed).sum(), mixed, create_graph=True)
    penalty = 10 * (slope.flatten(1).norm(dim=1) - 1).pow(2).mean()
    real, fake = logits(nearest(reals)), logits(nearest(fakes.detach()))
    loss = fake.mean() - real.mean() + 0.001 * real.pow(2).mean()

    critic = CriticPhase(generator, discriminator)
    given = (pixels, torch.empty(8, 0), *inputs, share)
    whole, terms = critic(*given)
    assert critic.terms == ("loss_d", "gradient_penalty", "real_logit", "fake_logit", "real_sign")
    torch.testing.assert_close(
        terms, torch.stack([loss, penalty, real.mean(), fake.mean(), real.sign().mean()])
    )
    torch.testing.assert_close(whole, loss + penalty)
    assert_same_gradients(critic, 2, given, gradients_of(loss + penalty, discriminator))
    phase = GeneratorPhase(generator, discriminator, wasserstein_generator_loss)
    assert_same_gradients(phase, 0, inputs, gradients_of(-logits(nearest(fakes)).mean(), generator))


@pytest.mark.parametrize("row", "cf")
def test_path_lengths_equal_the_reference(row: str) -> None:
    """The penalty, the mean's move and the gradients, plain and recorded, are those of the plain generator."""
    generator, _, _ = row_of_table_1(row, 1.4)
    _, inputs = phase_inputs(generator, 0.9 if row == "f" else 0.0)
    mean = torch.tensor(0.3, dtype=torch.double)
    y = torch.randn(8, 3, 16, 16, dtype=torch.double, generator=torch.Generator().manual_seed(4)) / 16
    w = reference_styles(generator, inputs)
    fakes = reference_fakes(row, generator, inputs, w)
    (slope,) = torch.autograd.grad((fakes * y).sum(), w, create_graph=True)
    assert not slope[:, 6:].any()
    lengths = slope[:, :6].pow(2).sum(2).mean(1).sqrt()
    moved = 0.99 * mean + 0.01 * lengths.mean().detach()
    penalty = 2 * (lengths - moved).pow(2).mean()

    phase = PathLengthPhase(generator, 2.0, interval=4)
    given = (mean, y, inputs[0], *inputs[2:4], *inputs[5:])
    loss, terms = phase(*given)
    torch.testing.assert_close(terms, torch.stack([penalty, moved]))
    torch.testing.assert_close(loss, 4 * penalty)
    assert_same_gradients(phase, 2, given, gradients_of(4 * penalty, generator))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("dtype", BOUNDS)
def test_compiled_wgan_gp_and_path_lengths_on_a_gpu(
    dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled and replayed as a CUDA graph, WGAN-GP's and the path lengths' gradients stay near float64's."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for row in "af":
        pair = row_of_table_1(row, 0.4)[:2]
        pixels, inputs = phase_inputs(pair[0], 0.9 if row == "f" else 0.0)
        y = torch.randn(8, 3, SIDE, SIDE, dtype=torch.double) / SIDE
        share = torch.rand(8, dtype=torch.double)
        mean = torch.tensor(0.3, dtype=torch.double)
        phases = [(CriticPhase(*pair), (pixels, torch.empty(8, 0), *inputs, share))]
        if row == "f":
            phases.append((PathLengthPhase(pair[0], 2.0), (mean, y, inputs[0], *inputs[2:4], *inputs[5:])))
        for phase, given in phases:
            plain, _ = GradientFunction(phase, phase.network, compiled=False)(*given)
            names = {parameter: name for name, parameter in phase.network.named_parameters()}
            expected = {names[p]: g for p, g in plain.items()}
            fast = copy.deepcopy(phase).float().cuda()
            fast.generator.dtype = dtype  # type: ignore[union-attr]
            if isinstance(fast.generator, Generator):
                fast.generator.synthesis.dtype = dtype
            if isinstance(fast, CriticPhase):
                fast.discriminator.dtype = dtype
            given = tuple((x.float() if x.is_floating_point() else x).cuda() for x in given)
            gradients, _ = GradientFunction(fast, fast.network, compiled=True)(*given)
            names = {parameter: name for name, parameter in fast.network.named_parameters()}
            measured = distance({names[p]: g.double().cpu() for p, g in gradients.items()}, expected)
            log.info("%s %s %s: %.2g", row, dtype, type(phase).__name__, measured)
            assert measured < BOUNDS[dtype], f"{row} {type(phase).__name__}: {measured:.2g}"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("dtype", BOUNDS)
def test_compiled_gradients_on_a_gpu(
    networks: tuple[Generator, Discriminator],
    dtype: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compiled and replayed as a CUDA graph, both phases' gradients stay near the float64 reference."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    lod = 0.4
    pixels, inputs = phase_inputs(copies(networks, lod)[0])
    expected = reference_gradients(*copies(networks, lod), pixels, inputs)
    inputs = tuple((x.float() if x.is_floating_point() else x).cuda() for x in inputs)
    pair = in_precision(networks, lod, dtype, "cuda")
    found = phase_gradients(*pair, pixels.cuda(), inputs, compiled=True)
    for network in expected:
        measured = distance(found[network], expected[network])
        log.info("%s %s: %.2g", dtype, network, measured)
        assert measured < BOUNDS[dtype], f"{network}: {measured:.2g}"
