"""The GPU's kernels against what they stand for: run on a GPU where there is one, by Triton's interpreter elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from plain_networks import phase_inputs, small_networks
from training import ops
from training.engine.gradients import GradientFunction, launch_own
from training.loss import (
    DiscriminatorPhase,
    GeneratorPhase,
    PairingDiscriminatorPhase,
    PairingGeneratorPhase,
    PathLengthPhase,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytest.importorskip("triton")
from training import convolutions, kernels  # noqa: E402
from training.kernels import programs  # noqa: E402

SHAPES = [(2, 16, 64), (1, 72, 8), (3, 12, 4)] if DEVICE == "cuda" else [(1, 16, 16), (1, 72, 8), (3, 12, 4)]
"""Images, channels and sides, such that blocks are whole, are cut off, and are several."""


@pytest.fixture(autouse=True)
def _small_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    if DEVICE == "cpu":  # the interpreter takes a millisecond a row
        monkeypatch.setattr(programs, "ROWS", 4)
        monkeypatch.setattr(programs, "TILE", 256)


def features(num: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
    """Random features, channels last, and the same in float64."""
    x = torch.randn(num, side, side, channels, device=DEVICE).permute(0, 3, 1, 2)
    return x, x.double()


def near(found: Tensor, expected: Tensor) -> None:
    """Equal but for float32's rounding."""
    assert (found.double() - expected).norm() <= 2e-6 * expected.norm()


def slope(y: Tensor) -> Tensor:
    """Of leaky ReLU."""
    return torch.where(y > 0, 1.0, 0.2)


def per_channel(x: Tensor) -> Tensor:
    """(C,) against (N, C, H, W)."""
    return x.double()[:, None, None]


def per_image(x: Tensor) -> Tensor:
    """(N, C) against (N, C, H, W)."""
    return x.double()[:, :, None, None]


@pytest.mark.parametrize("filters", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_discriminators_kernels(shape: tuple[int, int, int], filters: bool) -> None:
    """Bias, leaky ReLU and blur, its derivative and that one's derivative are in one kernel what they are apart."""
    (x, X), (g, G) = features(*shape), features(*shape)
    bias = torch.randn(shape[1], device=DEVICE)
    blurred: Callable[[Tensor], Tensor] = ops.blur if filters else lambda x: x
    y, signs = kernels.activated(x, bias, filters)
    near(y, blurred(F.leaky_relu(X + per_channel(bias), 0.2)))
    sloped = slope(X + per_channel(bias))
    near(kernels.sloped(g, signs, filters), blurred(G * sloped))
    found, sums = kernels.sloped_after(g, signs, filters)
    near(found, blurred(G) * sloped)
    near(sums.sum(dim=(0, 1)), (blurred(G) * sloped).sum(dim=(0, 2, 3)))


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("filters", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_generators_kernels(shape: tuple[int, int, int], filters: bool, noisy: bool) -> None:
    """Statistics, style, and the sums and the gradient of their derivative are those of the layer written out."""
    (x, X), (g, G) = features(*shape), features(*shape)
    bias, strength = torch.randn(2, shape[1], device=DEVICE)
    noise = torch.randn(shape[0], 1, shape[2], shape[2], device=DEVICE)
    moved: tuple[Tensor | None, Tensor | None, Tensor] = (
        (noise, strength, bias) if noisy else (None, None, bias)
    )
    added = per_channel(bias) + (noise.double() * per_channel(strength) if noisy else 0)

    filtered, means, squares = kernels.style_statistics(x, *moved, filters)
    if filters:
        near(filtered, ops.blur(X))
        x, X = filtered, filtered.double()
    y = F.leaky_relu(X + added, 0.2)
    expected_variance, expected = torch.var_mean(y, dim=(2, 3), correction=0)
    mean = means.mean(dim=1)
    between = (means - mean[:, None]).square().mean(dim=1)
    near(mean, expected)
    near(squares.sum(dim=1) / shape[2] ** 2 + between, expected_variance)

    factor, shift, of_g, of_y, constant = torch.randn(5, *shape[:2], device=DEVICE)
    distance = y - per_image(mean)
    near(kernels.styled(x, *moved, mean, factor, shift), distance * per_image(factor) + per_image(shift))
    sums, products = kernels.style_sums(g, x, *moved, mean)
    near(sums.sum(dim=1), G.sum(dim=(2, 3)))
    near(products.sum(dim=1), (G * distance).sum(dim=(2, 3)))
    plain = (per_image(of_g) * G + per_image(of_y) * y + per_image(constant)) * slope(X + added)
    found, sums, noise_sums = kernels.style_backward(g, x, *moved, of_g, of_y, constant, filters)
    near(found, ops.blur(plain) if filters else plain)
    near(sums.sum(dim=(0, 1)), plain.sum(dim=(0, 2, 3)))
    if noisy:
        near(noise_sums.sum(dim=(0, 1)), (plain * noise).sum(dim=(0, 2, 3)))


@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_of_colours(shape: tuple[int, int, int]) -> None:
    """Convolutions between features and colours, and products with those, are what they are, with or without slopes."""
    g, G = features(*shape)
    image, Image = features(shape[0], 3, shape[2])
    weight, bias = torch.randn(3, shape[1], device=DEVICE), torch.randn(shape[1], device=DEVICE)
    before = torch.einsum("ic,nihw->nchw", weight.double(), Image)
    y, signs = kernels.from_colours(image, weight, bias)
    near(y, F.leaky_relu(before + per_channel(bias), 0.2))
    sloped = slope(before + per_channel(bias))
    near(kernels.from_colours(image, weight)[0], before)
    near(kernels.from_colours(image, weight, signs=signs)[0], before * sloped)
    for given, expected in ((None, G), (signs, G * sloped)):
        near(kernels.to_colours(g, given, weight), torch.einsum("ic,nchw->nihw", weight.double(), expected))
        sums = kernels.colour_products(image, g, given).sum(dim=0)
        near(sums[:3], torch.einsum("nihw,nchw->ic", Image, expected))
        near(sums[3], expected.sum(dim=(0, 2, 3)))


@pytest.mark.parametrize(("channels", "size", "stride"), [(16, 3, 1), (32, 4, 2)])
def test_thin_convolutions(channels: int, size: int, stride: int) -> None:
    """Convolutions of 16 channels and their transposes are PyTorch's."""
    weight = torch.randn(channels, 16, size, size, device=DEVICE)
    side = 128 if DEVICE == "cuda" else 64 * stride
    x, X = features(1, 16, side)
    y, Y = features(1, channels, side // stride)
    if DEVICE == "cuda":  # products of float32 are TF32's there
        x, y, weight = x.bfloat16(), y.bfloat16(), weight.bfloat16()
        X, Y = x.double(), y.double()
        assert convolutions.is_thin(x, weight.shape)
    found, back = convolutions.convolved(x, weight), convolutions.transposed(y, weight)
    bound = 5e-3 if DEVICE == "cuda" else 1e-6
    for one, other in (
        (found, F.conv2d(X, weight.double(), stride=stride, padding=1)),
        (back, F.conv_transpose2d(Y, weight.double(), stride=stride, padding=1)),
    ):
        assert (one.double() - other).norm() <= bound * other.norm()


@pytest.mark.parametrize("kind", [
    GeneratorPhase, DiscriminatorPhase, PathLengthPhase,
    pytest.param(PairingDiscriminatorPhase, marks=pytest.mark.slow),
    pytest.param(PairingGeneratorPhase, marks=pytest.mark.slow),
])  # fmt: skip
def test_phases_by_kernels(kind: type[torch.nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both phases of two losses, R1 and R2 in them, and path lengths have the gradients that they have in float64.

    The networks' weights are not channels last, and 8 px fade in.
    """
    monkeypatch.setattr(programs, "ROWS", 4)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    generator, discriminator = small_networks()
    generator.lod = discriminator.lod = 2.4
    pixels, inputs = phase_inputs(generator, num=4)
    directions = torch.randn(4, 3, 8, 8, dtype=torch.double) / 8
    mean = torch.tensor(0.3, dtype=torch.double)
    images = torch.empty(4, 0)
    phase, given = {
        GeneratorPhase: (GeneratorPhase(generator, discriminator), inputs),
        DiscriminatorPhase: (DiscriminatorPhase(generator, discriminator, 1000.0), (pixels, images, *inputs)),
        PairingDiscriminatorPhase: (
            PairingDiscriminatorPhase(generator, discriminator, 1000.0), (pixels, images, *inputs),
        ),
        PairingGeneratorPhase: (PairingGeneratorPhase(generator, discriminator), (pixels, images, *inputs)),
        PathLengthPhase: (
            PathLengthPhase(generator, 2.0), (mean, directions, inputs[0], *inputs[2:4], *inputs[5:]),
        ),
    }[kind]  # fmt: skip
    expected, _ = GradientFunction(phase, phase.network, compiled=False)(*given)
    fast = copy.deepcopy(phase).float().to(DEVICE)
    monkeypatch.setattr(ops, "_has_kernels", lambda x: x.dtype != torch.double)
    given = tuple((x.float() if x.is_floating_point() else x).to(DEVICE) for x in given)
    found, _ = GradientFunction(fast, fast.network, compiled=False)(*given)
    difference = sum(
        (one.double().cpu() - other).square().sum()
        for one, other in zip(found.values(), expected.values(), strict=True)
    )
    norm = sum(gradient.square().sum() for gradient in expected.values())
    assert (difference / norm).sqrt() < 1e-4


class OurCalls(TorchDispatchMode):
    """Notes the shapes that each kernel of ours is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "likeness":
            self.kinds.append((function, *(x.shape if isinstance(x, Tensor) else x for x in args)))
        return function(*args, **(kwargs or {}))


def test_kernels_are_launched_ahead() -> None:
    """Of a recorded graph each kind of kernel is launched once, however often and with whatever else it is there."""

    def layers(x: Tensor, bias: Tensor) -> Tensor:
        for _ in range(2):
            x = kernels.activated(x, bias, True)[0]
        return kernels.activated(x[:, :, ::2, ::2] * 2, bias, False)[0]

    graph = make_fx(layers, tracing_mode="fake")(features(1, 8, 4)[0], torch.randn(8, device=DEVICE))
    with OurCalls() as ahead:
        assert launch_own(graph, torch.device(DEVICE)) == 2
    op = torch.ops.likeness.activated.default
    assert ahead.kinds == [(op, (1, 8, 4, 4), (8,), True), (op, (1, 8, 2, 2), (8,), False)]
