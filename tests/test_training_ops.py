"""The layers against their definitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import ops
from training.ops import (
    EqualConv2d,
    EqualLinear,
    adaptive_instance_norm,
    append_batch_deviation,
    blur,
    convolved,
    convolved_transposed,
    input_gradients_only,
    lrelu,
    pixel_norm,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def layers(gain: float) -> list[tuple[nn.Module, Tensor]]:
    """A linear layer and convolutions, each with an input of unit variance."""
    return [
        (EqualLinear(512, 512, gain=gain), torch.randn(256, 512)),
        (EqualLinear(512, 512, gain=gain, lr_multiplier=0.01), torch.randn(256, 512)),
        (EqualConv2d(128, 128, 3, gain=gain), torch.randn(8, 128, 16, 16)),
        (EqualConv2d(128, 64, 1, gain=gain), torch.randn(8, 128, 16, 16)),
    ]


def interior(x: Tensor) -> Tensor:
    """The part of a feature map that padding does not reach."""
    return x[..., 1:-1, 1:-1] if x.dim() == 4 else x


@torch.no_grad()
def test_equalized_layers_keep_variance() -> None:
    """At gain 1 the output's variance is 1; at gain sqrt 2 it is 1 (to 4%) behind a leaky ReLU."""
    for layer, x in layers(gain=1.0):
        variance = interior(layer(x)).var().item()
        assert variance == pytest.approx(1, rel=0.05), layer
    for layer, x in layers(gain=2**0.5):
        square = interior(lrelu(layer(x))).square().mean().item()
        assert square == pytest.approx(1.04, rel=0.05), layer


def test_equalized_weights_are_stored_at_unit_scale() -> None:
    """Weights are stored as N(0, 1), over the rate multiplier, whatever the fan-in: the scale is at run time."""
    for fan_in in (32, 2048):
        assert EqualLinear(fan_in, 512).weight.std().item() == pytest.approx(1, rel=0.05)
        assert EqualLinear(fan_in, 512, lr_multiplier=0.01).weight.std().item() == pytest.approx(
            100, rel=0.05
        )
    assert EqualConv2d(64, 64, 3).weight.std().item() == pytest.approx(1, rel=0.05)


def test_rate_multiplier_slows_the_function() -> None:
    """One unit step on a stored bias moves the output by the multiplier."""
    layer = EqualLinear(4, 4, lr_multiplier=0.01)
    x = torch.randn(2, 4)
    before = layer(x)
    with torch.no_grad():
        layer.bias.add_(1)
    torch.testing.assert_close(layer(x), before + 0.01)


@torch.no_grad()
def test_folded_resampling_equals_its_two_steps() -> None:
    """Convolutions with folded resampling equal nearest upscale then convolve, and convolve then 2x2 mean."""
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64)
    for resample in ("up", "down"):
        layer = EqualConv2d(5, 7, 3, resample=resample).double()
        layer.bias.add_(torch.randn(7))
        weight = layer.weight * layer.weight_scale
        if resample == "up":
            wide = F.interpolate(x, scale_factor=2, mode="nearest")
            expected = F.conv2d(wide, weight, layer.bias, padding=1)
        else:
            expected = F.avg_pool2d(F.conv2d(x, weight, layer.bias, padding=1), 2)
        torch.testing.assert_close(layer(x), expected)


def test_blur_is_the_binomial_filter() -> None:
    """Blur equals a depthwise convolution with [1, 2, 1] x [1, 2, 1] / 16 and zero padding."""
    x = torch.randn(2, 3, 6, 7)
    row = torch.tensor([1.0, 2.0, 1.0])
    kernel = (row[:, None] * row / 16).expand(3, 1, 3, 3)
    torch.testing.assert_close(blur(x), F.conv2d(x, kernel, padding=1, groups=3))


def test_adain_sets_mean_and_deviation() -> None:
    """After AdaIN each channel's mean is the style's bias and its deviation the style's |scale|."""
    x = torch.randn(3, 4, 16, 16) * 5 + 7
    scale, bias = torch.randn(3, 4), torch.randn(3, 4)
    y = adaptive_instance_norm(x, scale, bias)
    torch.testing.assert_close(y.mean(dim=(2, 3)), bias, atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(dim=(2, 3), correction=0), scale.abs(), atol=1e-5, rtol=1e-4)


def test_adain_works_in_half_precision() -> None:
    """AdaIN of half-precision features larger than their squares could be stays finite."""
    x = (torch.randn(2, 3, 8, 8) * 1000).half()
    y = adaptive_instance_norm(x, torch.ones(2, 3), torch.zeros(2, 3))
    assert y.dtype == torch.float16
    assert y.isfinite().all()


@pytest.mark.parametrize("function", [
    lambda x: adaptive_instance_norm(x, torch.ones(8, 6, dtype=x.dtype), torch.zeros(8, 6, dtype=x.dtype)),
    lambda x: pixel_norm(x),
    lambda x: append_batch_deviation(x.reshape(-1, 1, 1, 1))[:, -1],
])  # fmt: skip
def test_statistics_of_bfloat16_features_are_not_taken_in_bfloat16(
    function: Callable[[Tensor], Tensor],
) -> None:
    """Of features far from zero, the result is that of float64, rounded to bfloat16 once."""
    x = (100 + 3 * torch.randn(8, 6, 16, 16)).bfloat16()
    found, expected = function(x), function(x.double())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-7.99, atol=1e-4)


def test_pixel_norm_gives_unit_rows() -> None:
    """After pixel norm the mean square over channels is 1."""
    squares = pixel_norm(torch.randn(4, 512) * 3).square().mean(dim=1)
    torch.testing.assert_close(squares, torch.ones(4))


@pytest.mark.parametrize("num", [2, 4, 12])
def test_batch_deviation_groups_are_strided(num: int) -> None:
    """The added channel is the mean deviation over images i, i + N/4, i + 2N/4, ..., the same for all of them."""
    x = torch.randn(num, 3, 4, 4)
    y = append_batch_deviation(x)
    torch.testing.assert_close(y[:, :3], x)
    stride = num // min(4, num)
    for group in range(stride):
        members = x[group::stride]
        expected = (members.var(dim=0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[group::stride, 3], expected.expand(len(members), 4, 4))


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (1, 1, 0)])
def test_convolutions_differentiate_twice(size: int, stride: int, padding: int) -> None:
    """Convolutions and blur agree with finite differences in first and second derivatives (float64)."""
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, size, size, dtype=torch.float64, requires_grad=True)

    def there(x: Tensor, weight: Tensor) -> Tensor:
        return blur(convolved(x, weight, stride=stride, padding=padding))

    def back(y: Tensor, weight: Tensor) -> Tensor:
        return convolved_transposed(blur(y), weight, stride=stride, padding=padding)

    y = there(x, weight)
    torch.testing.assert_close(y, blur(F.conv2d(x, weight, stride=stride, padding=padding)))
    y = y.detach().requires_grad_()
    torch.testing.assert_close(
        back(y, weight), F.conv_transpose2d(blur(y), weight, stride=stride, padding=padding)
    )
    for function, inputs in ((there, (x, weight)), (back, (y, weight))):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("num", [1, 2, 4])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (4, 2)])
def test_joined_pixels(size: int, stride: int, num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of pixels taken together, their transposes and weight gradients are the plain ones."""
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    weight = torch.randn(5, 3, size, size, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 5, 4 // stride, 8 // stride, dtype=torch.float64)

    def found() -> list[Tensor]:
        there = convolved(x, weight, stride=stride, padding=1)
        back = convolved_transposed(y, weight, stride=stride, padding=1)
        (gradient,) = torch.autograd.grad(there, weight, y)
        return [there, back, gradient]

    plain = found()
    monkeypatch.setattr(ops, "_together", lambda *_: (num, num, num))
    for one, other in zip(found(), plain, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_inputs_alone() -> None:
    """Within input_gradients_only a convolution's weight gets no gradient, and afterwards it does again."""
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, requires_grad=True)
    with input_gradients_only():
        one = torch.autograd.grad(convolved(x, weight).sum(), (x, weight), allow_unused=True)
    two = torch.autograd.grad(convolved(x, weight).sum(), (x, weight))
    assert one[1] is None
    torch.testing.assert_close(one[0], two[0])
    torch.testing.assert_close(two[1], torch.autograd.grad(F.conv2d(x, weight).sum(), weight)[0])
