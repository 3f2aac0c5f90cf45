"""The gradients that training takes, with R1, WGAN-GP and path lengths, against those of plain float64 networks."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plain_networks import (
    SIDE,
    nearest,
    phase_inputs,
    reference_discriminator,
    reference_fakes,
    reference_mapping,
    reference_styles,
    reference_synthesis,
    row_of_table_1,
    small_networks,
)
from training.augment import NUM_NORMAL, NUM_UNIFORM, augmented
from training.device import full_precision
from training.engine.gradients import GradientFunction
from training.loss import (
    CriticPhase,
    DiscriminatorPhase,
    GeneratorPhase,
    PairingDiscriminatorPhase,
    PairingGeneratorPhase,
    PathLengthPhase,
    Phase,
    draw_shares,
    wasserstein_generator_loss,
)
from training.networks import Discriminator, Generator

log = logging.getLogger(__name__)

GAMMA = 1000.0
"""Of R1, such that its gradient is the larger part of the discriminator's."""
# bfloat16 flips the sign of some features near zero and so the slope of their leaky ReLU: hence the wide bounds.
BOUNDS = {None: 2e-3, torch.bfloat16: 0.2}


@pytest.fixture(scope="module")
def networks() -> tuple[Generator, Discriminator]:
    """Small networks, all of whose parameters are random."""
    return small_networks()


def copies(networks: tuple[Generator, Discriminator], lod: float) -> tuple[Generator, Discriminator]:
    """Networks of the test's own, at a level of detail."""
    generator, discriminator = copy.deepcopy(networks)
    generator.lod = discriminator.lod = lod
    return generator, discriminator


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


def gradients_of(loss: Tensor, network: torch.nn.Module) -> dict[str, Tensor]:
    """Gradients by name, but for those that are zero."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None and g.any()}


def assert_same_gradients(
    phase: Phase, fade_at: int, inputs: tuple[Tensor, ...], expected: dict[str, Tensor]
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
    whole, terms, _ = critic(*given)
    assert critic.terms == ("loss_d", "gradient_penalty", "real_logit", "fake_logit", "real_sign")
    torch.testing.assert_close(
        terms, torch.stack([loss, penalty, real.mean(), fake.mean(), real.sign().mean()])
    )
    torch.testing.assert_close(whole, loss + penalty)
    assert_same_gradients(critic, 2, given, gradients_of(loss + penalty, discriminator))
    phase = GeneratorPhase(generator, discriminator, wasserstein_generator_loss)
    assert_same_gradients(phase, 0, inputs, gradients_of(-logits(nearest(fakes)).mean(), generator))


@pytest.mark.parametrize("is_through", [False, True])
@pytest.mark.parametrize("loss", ["logistic", "r3"])
def test_r1_by_the_image_before_its_augmentation(loss: str, is_through: bool) -> None:
    """R1, and R2, are of the gradient of D(augment(x)) by x or by augment(x); both by finite differences of logits, and
    the gradients in the discriminator by finite differences of the loss (float64).
    """
    torch.manual_seed(0)
    generator, discriminator = row_of_table_1("f", 2.0)[:2]
    pixels, inputs = phase_inputs(generator)
    pixels, inputs = pixels[:4], tuple(x[:, :4] if x.dim() == 3 else x[:4] if x.dim() else x for x in inputs)
    p = torch.tensor(0.7, dtype=torch.double)
    drawn = [
        torch.cat([torch.rand(4, NUM_UNIFORM), torch.randn(4, NUM_NORMAL)], 1).double() for _ in range(2)
    ]
    inputs = (inputs[0], p, *inputs[2:4], drawn[1], *inputs[5:])
    kind = DiscriminatorPhase if loss == "logistic" else PairingDiscriminatorPhase
    phase = kind(generator, discriminator, GAMMA, through_augmentation=is_through)
    given = (pixels, drawn[0], *inputs)
    terms = dict(zip(phase.terms, phase(*given)[1].tolist(), strict=True))
    with torch.no_grad():
        images = {"r1": (pixels.double() / 127.5 - 1, drawn[0])}
        if loss == "r3":
            images["r2"] = (reference_fakes("f", generator, inputs), drawn[1])
        for name, (x, random) in images.items():
            base, square = x if is_through else augmented(x, p, random), 0.0
            for index in range(x.numel()):
                ends = []
                for sign in (1, -1):
                    moved = base.clone()
                    moved.view(-1)[index] += sign * 1e-5
                    ends.append(discriminator(augmented(moved, p, random) if is_through else moved).sum())
                square += (float(ends[0] - ends[1]) / 2e-5) ** 2
            assert terms[name] == pytest.approx(GAMMA / 2 * square / 4 / 16, rel=1e-4), name
    gradients, _ = GradientFunction(phase, discriminator, compiled=False)(*given)
    for parameter, gradient in list(gradients.items())[::3]:
        direction, values = torch.randn_like(parameter), []
        for sign in (1, -1):
            parameter.data += sign * 1e-6 * direction
            values.append(phase(*given)[0].item())
            parameter.data -= sign * 1e-6 * direction
        slope = float((gradient * direction).sum())
        assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=2e-3, abs=1e-5)
    assert_same_gradients(phase, 2, given, gradients_of(phase(*given)[0], discriminator))


@pytest.mark.parametrize("row", "bcf")
@pytest.mark.parametrize("interval", [1, 4])
def test_the_pairing_loss_equals_the_reference(row: str, interval: int) -> None:
    """R3GAN's losses, R1, R2 and gradients in both networks, plain and recorded, are those of the plain networks."""
    lod = 1.4
    generator, discriminator, filtered = row_of_table_1(row, lod)
    pixels, inputs = phase_inputs(generator, 0.9 if row == "f" else 0.0)
    fakes = reference_fakes(row, generator, inputs)

    def logits(full_images: Tensor) -> Tensor:
        return reference_discriminator(discriminator, full_images, lod, filtered)

    def penalty(images: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(logits(images).sum(), images, create_graph=True)
        return GAMMA / 2 * slope.pow(2).sum((1, 2, 3)).mean()

    reals = pixels.double() / 127.5 - 1
    fade = float(inputs[0])
    reals = nearest(reals * (1 - fade) + nearest(F.avg_pool2d(reals, 2)) * fade).requires_grad_()
    fixed = nearest(fakes.detach()).requires_grad_()
    real, fake = logits(reals), logits(fixed)
    loss = -torch.log(torch.sigmoid(real - fake)).mean()
    r1, r2 = penalty(reals), penalty(fixed)

    phase = PairingDiscriminatorPhase(generator, discriminator, GAMMA, interval)
    given = (pixels, torch.empty(8, 0), *inputs)
    whole, terms, _ = phase(*given)
    assert phase.terms == ("loss_d", "r1", "r2", "real_logit", "fake_logit", "real_sign")
    sign = (real > fake).double().mean() * 2 - 1
    torch.testing.assert_close(terms, torch.stack([loss, r1, r2, real.mean(), fake.mean(), sign]))
    torch.testing.assert_close(whole, loss + interval * (r1 + r2))
    assert_same_gradients(phase, 2, given, gradients_of(loss + interval * (r1 + r2), discriminator))
    loss_g = -torch.log(torch.sigmoid(logits(nearest(fakes)) - real.detach())).mean()
    assert_same_gradients(
        PairingGeneratorPhase(generator, discriminator), 0, given, gradients_of(loss_g, generator)
    )


@pytest.mark.parametrize("row", "cf")
def test_path_lengths_equal_the_reference(row: str) -> None:
    """The penalty, the mean's move and the gradients, plain and recorded, are those of the plain generator."""
    generator, _, _ = row_of_table_1(row, 1.4)
    assert isinstance(generator, Generator)
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


@pytest.fixture
def without_tf32() -> Iterator[None]:
    """A training in the same process leaves TF32 on."""
    with full_precision(torch.device("cuda")):
        yield


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.usefixtures("without_tf32")
def test_compiled_wgan_gp_pairing_and_path_lengths_on_a_gpu(dtype: torch.dtype | None) -> None:
    """Compiled and replayed as a CUDA graph, the other losses' and path lengths' gradients stay near float64's.

    Or as near as uncompiled ones of that precision: of the traditional generator, bfloat16 moves them by 0.4.
    """
    for row in "af":
        pair = row_of_table_1(row, 0.4)[:2]
        generator = pair[0]
        pixels, inputs = phase_inputs(pair[0], 0.9 if row == "f" else 0.0)
        y = torch.randn(8, 3, SIDE, SIDE, dtype=torch.double) / SIDE
        share = torch.rand(8, dtype=torch.double)
        mean = torch.tensor(0.3, dtype=torch.double)
        phases: list[tuple[Phase, tuple[Tensor, ...]]] = [
            (CriticPhase(*pair), (pixels, torch.empty(8, 0), *inputs, share)),
            (PairingDiscriminatorPhase(*pair, GAMMA), (pixels, torch.empty(8, 0), *inputs)),
            (PairingGeneratorPhase(*pair), (pixels, torch.empty(8, 0), *inputs)),
        ]
        if isinstance(generator, Generator):
            phases.append((PathLengthPhase(generator, 2.0), (mean, y, inputs[0], *inputs[2:4], *inputs[5:])))
        for phase, given in phases:
            plain, _ = GradientFunction(phase, phase.network, compiled=False)(*given)
            names = {parameter: name for name, parameter in phase.network.named_parameters()}
            expected = {names[p]: g for p, g in plain.items()}
            fast = copy.deepcopy(phase).float().cuda()
            fast.generator.dtype = dtype
            if isinstance(fast.generator, Generator):
                fast.generator.synthesis.dtype = dtype
            if isinstance(fast, DiscriminatorPhase | PairingGeneratorPhase):
                fast.discriminator.dtype = dtype
            given = tuple((x.float() if x.is_floating_point() else x).cuda() for x in given)
            names = {parameter: name for name, parameter in fast.network.named_parameters()}
            rounding, measured = (
                distance({names[p]: g.double().cpu() for p, g in gradients.items()}, expected)
                for gradients in (
                    GradientFunction(fast, fast.network, compiled=compiled)(*given)[0]
                    for compiled in (False, True)
                )
            )
            log.info("%s %s %s: %.2g, uncompiled %.2g", row, dtype, type(phase).__name__, measured, rounding)
            assert measured < max(BOUNDS[dtype], 1.2 * rounding), (
                f"{row} {type(phase).__name__}: {measured:.2g}"
            )


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.usefixtures("without_tf32")
def test_compiled_gradients_on_a_gpu(
    networks: tuple[Generator, Discriminator], dtype: torch.dtype | None
) -> None:
    """Compiled and replayed as a CUDA graph, both phases' gradients stay near the float64 reference."""
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
