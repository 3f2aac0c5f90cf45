"""training.networks against a slow, plain, float64 reading of section 2 of the paper, on the same weights.

The reference has separate up-scaling, convolutions and blurs, explicit statistics, and a discriminator that takes
images at full resolution and averages them down itself.
"""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.augment import NUM_NORMAL, NUM_UNIFORM
from training.config import TrainConfig
from training.loop import Training
from training.loss import DiscriminatorPhase, GeneratorPhase, draw_latents
from training.networks import Discriminator, Generator, level_of
from training.schedule import stage_at
from training.step import GradientFunction

log = logging.getLogger(__name__)

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


# --------------------------------------------------------------------------------------------------------------
# Gradients of both phases


def copies(networks: tuple[Generator, Discriminator], lod: float) -> tuple[Generator, Discriminator]:
    """Networks of the test's own, at a level of detail."""
    generator, discriminator = copy.deepcopy(networks)
    generator.lod = discriminator.lod = lod
    return generator, discriminator


def phase_inputs(generator: Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Pixels of real images, and the inputs that fakes are drawn from, in float64; nothing is augmented."""
    rng = torch.Generator().manual_seed(2)
    side = generator.resolution >> math.floor(generator.lod)
    pixels = torch.randint(256, (8, 3, side, side), generator=rng, dtype=torch.uint8)
    latents = draw_latents(generator, 8, 0.9, rng)
    inputs = [torch.tensor(generator.lod % 1), torch.zeros(()), *latents[:3], *latents.noise]
    return pixels, tuple(x.double() if x.is_floating_point() else x for x in inputs)


def reference_gradients(
    generator: Generator, discriminator: Discriminator, pixels: Tensor, inputs: tuple[Tensor, ...]
) -> dict[str, dict[str, Tensor]]:
    """Gradients of both losses through the plain networks, by PyTorch's own differentiation, R1 at gamma 10."""
    _, _, z, crossover, _, *noise = inputs
    w, mixed = (generator.broadcast(reference_mapping(generator, code)) for code in z)
    layer = torch.arange(w.shape[1])[None, :, None]
    lod = generator.lod
    fakes = reference_synthesis(
        generator, torch.where(layer < crossover[:, None, None], w, mixed), noise, lod
    )
    reals = pixels.double() / 127.5 - 1
    fade = lod % 1
    reals = (reals * (1 - fade) + nearest(F.avg_pool2d(reals, 2)) * fade).requires_grad_()

    def logits(images: Tensor) -> Tensor:
        return reference_discriminator(discriminator, nearest(images, 2 ** math.floor(lod)), lod)

    real = logits(reals)
    (slope,) = torch.autograd.grad(real.sum(), reals, create_graph=True)
    loss_d = torch.log1p(torch.exp(-real)).mean() + torch.log1p(torch.exp(logits(fakes.detach()))).mean()
    loss_d = loss_d + 5 * slope.pow(2).sum((1, 2, 3)).mean()
    loss_g = torch.log1p(torch.exp(-logits(fakes))).mean()
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
            DiscriminatorPhase(generator, discriminator, 10.0),
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
