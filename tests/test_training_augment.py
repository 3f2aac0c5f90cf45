"""Adaptive discriminator augmentation: what the transforms do to images, and how their strength moves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.augment import (
    NUM_NORMAL,
    NUM_UNIFORM,
    SYM6,
    AdaptiveStrength,
    _coarsening,
    _refining,
    augmented,
    draw_augmentation,
    transforms,
    warped,
)

DOUBLE = torch.float64


def drawn(num: int, seed: int = 0) -> Tensor:
    """Random numbers of the transforms of `num` images, in float64."""
    return draw_augmentation(num, torch.Generator().manual_seed(seed)).double()


def matrix(rows: list[list[float]]) -> Tensor:
    """A geometry of one image."""
    return torch.tensor([rows], dtype=DOUBLE)


def blob(x: float, y: float, size: float = 0.3) -> Tensor:
    """A soft spot (1, 1, 64, 64) around a point of the image, whose sides are -1 and 1."""
    line = (torch.arange(64, dtype=DOUBLE) + 0.5) / 32 - 1
    return torch.exp(-((line[None] - x) ** 2 + (line[:, None] - y) ** 2) / size**2)[None, None]


def test_filter_is_orthonormal() -> None:
    """The filter's even shifts are orthonormal and it has six vanishing moments: its taps are those of sym6."""
    taps = torch.tensor(SYM6, dtype=DOUBLE)
    assert taps.sum().item() == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(0, 12, 2):
        product = (taps[shift:] * taps[: 12 - shift]).sum().item()
        assert product == pytest.approx(float(shift == 0), abs=1e-11), shift
    index = torch.arange(12, dtype=DOUBLE)
    for moment in range(6):
        alternating = ((-1) ** index * index**moment * taps).sum().item()
        assert abs(alternating) < 1e-6, (moment, alternating)


def test_identity_changes_nothing() -> None:
    """Up and down by the filter gives the image back, to rounding, away from the border."""
    images = torch.rand(2, 3, 32, 32, dtype=DOUBLE)
    found = warped(images, torch.eye(3, dtype=DOUBLE).expand(2, 3, 3))
    assert (found - images)[..., 4:-4, 4:-4].abs().max() < 1e-10
    assert (found - images).abs().max() < 0.05


@pytest.mark.parametrize("side", [4, 5, 8, 16])
def test_resampling_is_convolution_by_the_filter(side: int) -> None:
    """The matrices up and down are strided convolutions by the taps, the image continued by its mirror image."""
    taps = torch.tensor(SYM6, dtype=DOUBLE)[None, None]
    line = torch.randn(3, 1, side, dtype=DOUBLE)
    continued = torch.cat([line[..., :3].flip(2), line, line[..., -3:].flip(2)], 2)
    up = torch.nn.functional.conv_transpose1d(continued, taps * math.sqrt(2), stride=2)[
        ..., 11 : 11 + 2 * side
    ]
    torch.testing.assert_close(line @ _refining(side, line).T, up)
    fine = torch.randn(3, 1, 2 * side + 10, dtype=DOUBLE)
    down = torch.nn.functional.conv1d(fine, taps / math.sqrt(2), stride=2)
    torch.testing.assert_close(fine @ _coarsening(side, fine).T, down)


@pytest.mark.parametrize(
    ("rows", "centre"),
    [
        ([[1, 0, -0.25], [0, 1, 0.125], [0, 0, 1]], (0.45, 0.025)),
        ([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], (-0.15, 0.2)),
        ([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]], (0.4, 0.3)),
        ([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], (-0.2, 0.15)),
    ],
    ids=["shift", "quarter turn", "twice as large", "mirror"],
)
def test_geometry_moves_what_is_in_the_image(rows: list[list[float]], centre: tuple[float, float]) -> None:
    """A matrix leads from places in the output to places in the input, without a shift of the filter's own."""
    size = 0.3 / math.sqrt(abs(torch.linalg.det(matrix(rows)).item()))
    found, expected = warped(blob(0.2, 0.15), matrix(rows)), blob(*centre, size)
    assert (found - expected)[..., 6:-6, 6:-6].abs().max() < 2e-3


def test_outside_is_the_mirror_image() -> None:
    """Shifted beyond its border, an image goes on as its mirror image."""
    image = (
        torch.rand(1, 1, 32, 32, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).cumsum(3).cumsum(2)
    )
    image /= image.max()
    found = warped(image, matrix([[1, 0, 0.5], [0, 1, 0], [0, 0, 1]]))
    assert (found[..., 24:] - image[..., 24:].flip(-1)).abs().max() < 0.02


def test_strength_zero_changes_nothing() -> None:
    """At p 0 images pass bit for bit; without random numbers too."""
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    assert (augmented(images, torch.tensor(0.0), drawn(4).float()) - images).abs().max() < 1e-6
    assert augmented(images, torch.tensor(1.0), torch.empty(4, 0)) is images


def test_transforms_are_as_frequent_as_asked() -> None:
    """Of many images, a share p gets each transform: inverted luma half as many, and rotation p over both places."""
    p, num = 0.4, 20_000
    geometry, colour, _ = transforms(torch.tensor(p, dtype=DOUBLE), drawn(num), 64)
    linear = colour[:, :, :3]
    inverted = (torch.linalg.det(linear) < 0).double().mean().item()
    assert inverted == pytest.approx(p / 2, abs=0.01)
    mirrored = (torch.linalg.det(geometry) < 0).double().mean().item()
    assert mirrored == pytest.approx(p / 2, abs=0.01)
    untouched = (linear - torch.eye(3, dtype=DOUBLE)).abs().amax(dim=(1, 2)) < 1e-12
    assert untouched.double().mean().item() == pytest.approx((1 - p) ** 3 * (1 - p / 2), abs=0.01)
    still = (geometry - torch.eye(3, dtype=DOUBLE)).abs().amax(dim=(1, 2)) < 1e-12
    expected = (1 - p / 2) * (1 - p * 3 / 4) * (1 - p) ** 4 * (1 - p)
    assert still.double().mean().item() == pytest.approx(expected, abs=0.015)


def test_colour_keeps_or_inverts_grey() -> None:
    """Hue and saturation leave grey pixels grey; a rotation of hue keeps their length."""
    _, colour, _ = transforms(torch.tensor(1.0, dtype=DOUBLE), drawn(100), 64)
    grey = torch.full((3,), 0.5, dtype=DOUBLE)
    shown = colour[:, :, :3] @ grey + colour[:, :, 3]
    assert (shown - shown.mean(dim=1, keepdim=True)).abs().max() < 1e-9
    one = torch.ones(1, NUM_UNIFORM + NUM_NORMAL, dtype=DOUBLE)  # nothing is taken: 1 is below no p
    one[:, 16:19] = torch.tensor([1.0, 0.8, 0.0])  # but hue
    _, turned, _ = transforms(torch.tensor(0.5, dtype=DOUBLE), one, 64)
    assert (turned[0, :, :3] @ turned[0, :, :3].T - torch.eye(3, dtype=DOUBLE)).abs().max() < 1e-9
    assert (turned[0, :, :3] - torch.eye(3, dtype=DOUBLE)).abs().max() > 0.5


def test_gradients_pass_through() -> None:
    """The generator learns through the augmentation: its gradient is that of finite differences."""
    images = torch.rand(2, 3, 8, 8, dtype=DOUBLE, requires_grad=True)
    numbers, p = drawn(2, seed=4), torch.tensor(0.9, dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda x: augmented(x, p, numbers), images, fast_mode=True)


def test_strength_follows_the_discriminator() -> None:
    """p rises while more real images are told than the target, falls below it, and stays within 0 and 1."""
    strength = AdaptiveStrength(0.0, 0.6, 1.0, torch.device("cpu"))
    for _ in range(4):
        strength.update(torch.tensor(0.9), 25)
    assert strength.p.item() == pytest.approx(0.1)
    for _ in range(400):
        strength.update(torch.tensor(0.9), 25)
    assert strength.p.item() == 1
    for _ in range(8):
        strength.update(torch.tensor(0.3), 25)
    assert strength.p.item() == pytest.approx(0.8)


def test_strength_goes_on_from_its_state() -> None:
    """Stopped between two moves and taken up, p moves as if it had not been stopped."""
    whole, first = (AdaptiveStrength(0.5, 0.6, 1.0, torch.device("cpu")) for _ in range(2))
    signs = torch.rand(20, generator=torch.Generator().manual_seed(0))
    for sign in signs:
        whole.update(sign, 8)
    for sign in signs[:7]:
        first.update(sign, 8)
    second = AdaptiveStrength(0.0, 0.6, 1.0, torch.device("cpu"))
    second.load(first.state())
    for sign in signs[7:]:
        second.update(sign, 8)
    assert second.state() == whole.state()


def rotation(angle: float) -> Tensor:
    """Of the plane, by an angle that turns x towards y."""
    return torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    )


def shift(x: float, y: float) -> Tensor:
    """Of the plane."""
    return torch.tensor([[1, 0, x], [0, 1, y], [0, 0, 1]])


def scaling(x: float, y: float) -> Tensor:
    """Of the plane."""
    return torch.diag(torch.tensor([x, y, 1.0]))


ONE, GREY = torch.eye(3), torch.ones(3, 3) / 3
THIRD_TURN = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3) + GREY
"""Hue by a quarter of the circle: about the grey axis, by its cross product."""


def coloured(linear: Tensor, offset: float = 0.0) -> Tensor:
    """(3, 4): what colours are multiplied by, and what is added."""
    return torch.cat([linear, torch.full((3, 1), offset)], 1)


# Numbers of the uniform draws and of the normal ones; a transform is taken by a uniform draw below p.
Case = tuple[str, dict[int, float], dict[int, float], Tensor]

GEOMETRY: list[Case] = [
    ("mirror", {0: 0.75, 1: 0}, {}, scaling(-1, 1)),
    ("quarter turns", {2: 0.8, 3: 0}, {}, rotation(1.5 * math.pi)),
    ("whole pixels, an eighth of 64", {4: 1.0, 5: 0.25, 6: 0}, {}, shift(0.25, -0.125)),
    ("scale", {7: 0}, {0: 1.0}, scaling(2**-0.2, 2**-0.2)),
    ("first rotation", {8: 0.75, 9: 0}, {}, rotation(math.pi / 2)),
    ("stretch", {10: 0}, {1: 1.0}, scaling(2**-0.2, 2**0.2)),
    ("last rotation", {11: 0.75, 12: 0}, {}, rotation(math.pi / 2)),
    ("translation, an eighth of the side", {13: 0}, {2: 1.0, 3: -2.0}, shift(0.25, -0.5)),
    ("rotation, then translation", {11: 0.75, 12: 0, 13: 0}, {2: 1.0, 3: -2.0},
     rotation(math.pi / 2) @ shift(0.25, -0.5)),
    ("whole pixels, then scale", {4: 1.0, 5: 0.25, 6: 0, 7: 0}, {0: 1.0},
     shift(0.25, -0.125) @ scaling(2**-0.2, 2**-0.2)),
]  # fmt: skip
COLOURS: list[Case] = [
    ("brightness", {14: 0}, {4: 1.0}, coloured(ONE, 0.2)),
    ("contrast", {15: 0}, {5: 1.0}, coloured(2**0.5 * ONE)),
    ("luma", {16: 0}, {}, coloured(ONE - 2 * GREY)),
    ("hue", {17: 0.75, 18: 0}, {}, coloured(THIRD_TURN)),
    ("saturation", {19: 0}, {6: 1.0}, coloured(GREY + 2 * (ONE - GREY))),
    ("brightness, then contrast", {14: 0, 15: 0}, {4: 1.0, 5: 1.0}, coloured(2**0.5 * ONE, 0.2 * 2**0.5)),
]  # fmt: skip


@pytest.mark.parametrize(("part", "cases"), [(0, GEOMETRY), (1, COLOURS)])
def test_transforms_are_the_papers(part: int, cases: list[Case]) -> None:
    """Each transform alone, and two in their order, by the distributions of Appendix B.1, at draws set by hand.

    Geometry goes from output to input: what is done last to an image stands first.
    """
    for name, uniforms, normals, expected in cases:
        row = torch.cat([torch.ones(NUM_UNIFORM), torch.zeros(NUM_NORMAL)]).double()
        row[list(uniforms)] = torch.tensor(list(uniforms.values())).double()
        for index, value in normals.items():
            row[NUM_UNIFORM + index] = value
        found = transforms(torch.tensor(0.5).double(), row[None], 64)[part][0]
        torch.testing.assert_close(found, expected.double(), atol=1e-6, rtol=0, msg=f"{name}: {found}")
