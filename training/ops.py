"""The layers the networks are made of, each a direct reading of its definition.

Layers compute in the type of their input and store in it; statistics are always taken in float32 or better. All can
be differentiated twice, as R1 needs. No network is here. Suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from training.device import is_nvidia

GAIN_LRELU = math.sqrt(2)
"""He's gain for (leaky) ReLU, used wherever a layer's output meets one."""


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.2."""
    return F.leaky_relu(x, 0.2)


class EqualLinear(nn.Module):
    """Fully connected layer with equalized learning rate (Progressive GAN, section 4.1).

    Weights are stored as N(0, 1) and scaled by gain / sqrt(fan_in) at run time, so that Adam's steps are alike
    for every layer; `lr_multiplier` slows weights and bias without changing the function at the start.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        gain: float = GAIN_LRELU,
        bias: bool = True,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.weight_scale = gain / math.sqrt(in_features) * lr_multiplier
        self.bias_scale = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_features) to (N, out_features)."""
        bias = None if self.bias is None else (self.bias * self.bias_scale).to(x.dtype)
        return F.linear(x, (self.weight * self.weight_scale).to(x.dtype), bias)


class EqualConv2d(nn.Module):
    """Convolution with equalized learning rate, with 2x resampling folded in where asked.

    `up` is a nearest 2x upscale before the 3x3 convolution, `down` a 2x2 mean after it. Both are computed as
    the equal strided convolution with a 4x4 kernel, which needs a quarter to a half of the multiplications.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        gain: float = GAIN_LRELU,
        bias: bool = True,
        resample: Literal["none", "up", "down"] = "none",
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_scale = gain / math.sqrt(in_channels * kernel_size**2)
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H', W'); H' is H, 2H or H/2."""
        y = self.without_bias(x)
        return y if self.bias is None else (y + self.bias[:, None, None]).to(x.dtype)

    def without_bias(self, x: Tensor) -> Tensor:
        """The convolution alone."""
        weight = self.weight * self.weight_scale
        if self.resample == "up":
            # A transposed convolution spreads each pixel through the kernel, hence the flip.
            folded = _folded(weight.flip(2, 3)).transpose(0, 1)
            return convolved_transposed(x, folded.to(x.dtype), stride=2, padding=1)
        if self.resample == "down":
            return convolved(x, (_folded(weight) / 4).to(x.dtype), stride=2, padding=1)
        return convolved(x, weight.to(x.dtype), padding=weight.shape[-1] // 2)


def _folded(weight: Tensor) -> Tensor:
    """A k x k kernel convolved with a 2x2 box: (out, in, k, k) to (out, in, k + 1, k + 1)."""
    padded = F.pad(weight, (1, 1, 1, 1))
    rows = padded[:, :, 1:] + padded[:, :, :-1]
    return rows[..., 1:] + rows[..., :-1]


# --------------------------------------------------------------------------------------------------------------
# Convolutions differentiable any number of times, by convolutions alone
#
# PyTorch's own second derivative of a convolution takes the weight's gradient by a convolution whose kernel is as
# large as the image. These three are each other's derivatives instead.

_asked_for_weights = True


@contextmanager
def input_gradients_only() -> Iterator[None]:
    """Within it, gradients are taken of convolutions' inputs alone: autograd cannot see which are asked for."""
    global _asked_for_weights
    _asked_for_weights = False
    try:
        yield
    finally:
        _asked_for_weights = True


def convolved(x: Tensor, weight_OIkk: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """conv2d without bias."""
    return _Convolved.apply(x, weight_OIkk, stride, padding)  # type: ignore[no-any-return]


def convolved_transposed(x: Tensor, weight_IOkk: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """conv_transpose2d without bias, the adjoint of `convolved` with the same weight."""
    return _Transposed.apply(x, weight_IOkk, stride, padding)  # type: ignore[no-any-return]


class _Convolved(torch.autograd.Function):
    """y = conv(x, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding
        return _conv(x, weight, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _Transposed.apply(gradient, weight, *ctx.how)
        if ctx.needs_input_grad[1] and _asked_for_weights:
            of_weight = _WeightGradient.apply(x, gradient, weight.shape, *ctx.how)
        return of_x, of_weight, None, None


class _Transposed(torch.autograd.Function):
    """x = conv^T(y, w)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(y, weight)
        ctx.how = stride, padding
        return _conv_transposed(y, weight, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        y, weight = ctx.saved_tensors
        of_y = of_weight = None
        if ctx.needs_input_grad[0]:
            of_y = _Convolved.apply(gradient, weight, *ctx.how)
        if ctx.needs_input_grad[1] and _asked_for_weights:
            of_weight = _WeightGradient.apply(gradient, y, weight.shape, *ctx.how)
        return of_y, of_weight, None, None


class _WeightGradient(torch.autograd.Function):
    """The gradient of <y, conv(x, w)> in w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.how = stride, padding
        return _conv_weight(x, y, shape, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, y = ctx.saved_tensors
        of_x = of_y = None
        if ctx.needs_input_grad[0]:
            of_x = _Transposed.apply(y, gradient, *ctx.how)
        if ctx.needs_input_grad[1]:
            of_y = _Convolved.apply(x, gradient, *ctx.how)
        return of_x, of_y, None, None, None


# --------------------------------------------------------------------------------------------------------------
# Convolutions of few channels, with neighbouring pixels taken together
#
# Tensor cores multiply by tiles of 64 channels or so, of which 16 or 32 fill a part. Features with channels last are
# also features of half the width and twice the channels. A convolution of those, with the kernel repeated along a band
# and zeros beside it, is the same function: more multiplications, and on the largest images a third of the time.

_TOGETHER = {
    (1, 16): (4, 4, 4),
    (1, 32): (2, 2, 2),
    (2, 16): (2, 2, 2),
    (2, 32): (0, 1, 1),
    (2, 64): (0, 1, 0),
}
"""By stride and channels on the finer side, for a convolution, its transpose and its weight's gradient: how many pixels
of the coarser side are taken together, and `stride` times as many of the finer one; 0 where the plain one is faster.
Measured on an H100."""


def _is_fast(x: Tensor) -> bool:
    return is_nvidia(x.device) and x.dtype in (torch.bfloat16, torch.float16)


def _together(x: Tensor, stride: int, weight_shape: Sequence[int]) -> tuple[int, int, int]:
    if not _is_fast(x) or x.shape[-1] < 64 or weight_shape[-1] == 1:
        return 0, 0, 0
    return _TOGETHER.get((stride, weight_shape[1]), (0, 0, 0))


def _conv(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    if _is_fast(x):
        from training import convolutions

        if convolutions.is_thin(x, weight.shape):
            return convolutions.convolved(x, weight)
    num = _together(x, stride, weight.shape)[0]
    if num == 0:
        return F.conv2d(x, weight, stride=stride, padding=padding)
    banded = _banded(weight, stride, padding, num)
    return _parted(F.conv2d(_joined(x, num * stride), banded, stride=(stride, 1), padding=(padding, 1)), num)


def _conv_transposed(y: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    if _is_fast(y):
        from training import convolutions

        if convolutions.is_thin(y, weight.shape):
            return convolutions.transposed(y, weight)
    num = _together(y, stride, weight.shape)[1]
    if num == 0:
        return F.conv_transpose2d(y, weight, stride=stride, padding=padding)
    banded = _banded(weight, stride, padding, num)
    x = F.conv_transpose2d(_joined(y, num), banded, stride=(stride, 1), padding=(padding, 1))
    return _parted(x, num * stride)


def _conv_weight(x: Tensor, y: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    num = _together(x, stride, shape)[2]
    if num == 0:
        return conv2d_weight(x, shape, y, stride=stride, padding=padding)  # type: ignore[no-any-return, no-untyped-call]
    banded = torch.Size((num * shape[0], num * stride * shape[1], shape[2], 3))
    x, y = _joined(x, num * stride), _joined(y, num)
    found = conv2d_weight(x, banded, y, stride=(stride, 1), padding=(padding, 1))  # type: ignore[no-untyped-call]
    return _unbanded(found, shape, stride, padding, num)


def _joined(x_NCHW: Tensor, num: int) -> Tensor:
    """`num` neighbours in a row as one pixel: (N, num * C, H, W / num). With channels last it is the same memory."""
    images, channels, height, width = x_NCHW.shape
    joined_NHWC = x_NCHW.permute(0, 2, 3, 1).reshape(images, height, width // num, num * channels)
    return joined_NHWC.permute(0, 3, 1, 2)


def _parted(x_NCHW: Tensor, num: int) -> Tensor:
    """The opposite of `_joined`."""
    images, channels, height, width = x_NCHW.shape
    parted_NHWC = x_NCHW.permute(0, 2, 3, 1).reshape(images, height, width * num, channels // num)
    return parted_NHWC.permute(0, 3, 1, 2)


def _banded(weight_OIkk: Tensor, stride: int, padding: int, num: int) -> Tensor:
    """The weight of the convolution from `num` * stride joined pixels to `num`: (num * O, num * stride * I, k, 3)."""
    channels, before, size, _ = weight_OIkk.shape
    taken = num * stride
    starts = [taken + stride * i - padding for i in range(num)]
    rows = torch.stack([F.pad(weight_OIkk, (start, 3 * taken - size - start)) for start in starts])
    taps = rows.reshape(num, channels, before, size, 3, taken).permute(0, 1, 5, 2, 3, 4)
    return taps.reshape(num * channels, taken * before, size, 3)


def _unbanded(banded: Tensor, shape: torch.Size, stride: int, padding: int, num: int) -> Tensor:
    """The adjoint of `_banded`."""
    channels, before, size, _ = shape
    taken = num * stride
    taps = banded.reshape(num, channels, taken, before, size, 3)
    rows = taps.permute(0, 1, 3, 4, 5, 2).flatten(4)
    starts = [taken + stride * i - padding for i in range(num)]
    return torch.stack([rows[i, ..., start : start + size] for i, start in enumerate(starts)]).sum(dim=0)


# --------------------------------------------------------------------------------------------------------------
# Resampling


def blur(x_NCHW: Tensor) -> Tensor:
    """Filter with [1, 2, 1] x [1, 2, 1] / 16 and zero padding (Style GAN, section 2, "bilinear" sampling)."""
    return _Blur.apply(x_NCHW)  # type: ignore[no-any-return]


class _Blur(torch.autograd.Function):
    """A symmetric filter with zero padding is its own adjoint.

    Written as sums of slices: on a CPU several times faster than a depthwise convolution, and a compiler can take it
    into the operations around it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        wide = F.pad(x, (1, 1, 1, 1))
        rows = wide[:, :, :-2] * 0.25 + wide[:, :, 1:-1] * 0.5 + wide[:, :, 2:] * 0.25
        return rows[..., :-2] * 0.25 + rows[..., 1:-1] * 0.5 + rows[..., 2:] * 0.25

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Blur.apply(gradient)


def upsample(x_NCHW: Tensor, factor: int = 2) -> Tensor:
    """Nearest upscale by `factor`."""
    return x_NCHW if factor == 1 else F.interpolate(x_NCHW, scale_factor=factor, mode="nearest")


def downsample(x_NCHW: Tensor) -> Tensor:
    """Halve height and width by 2x2 means."""
    return F.avg_pool2d(x_NCHW, 2)


def adaptive_instance_norm(x_NCHW: Tensor, scale_NC: Tensor, bias_NC: Tensor, eps: float = 1e-8) -> Tensor:
    """AdaIN (Style GAN, eq. 1): each channel normalised over its pixels, then scaled and shifted.

    In float32 whatever the input's type, since squares overflow in half precision; float64 stays as it is.
    """
    x = x_NCHW if x_NCHW.dtype == torch.float64 else x_NCHW.float()
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    factor = scale_NC[:, :, None, None] * torch.rsqrt(variance + eps)
    return ((x - mean) * factor + bias_NC[:, :, None, None]).to(x_NCHW.dtype)


def pixel_norm(x_NC: Tensor, eps: float = 1e-8) -> Tensor:
    """Divide by the root mean square over dimension 1 (Progressive GAN, section 4.2)."""
    x = x_NC if x_NC.dtype == torch.float64 else x_NC.float()
    return (x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + eps)).to(x_NC.dtype)


def append_batch_deviation(x_NCHW: Tensor, group_size: int = 4, eps: float = 1e-8) -> Tensor:
    """Append one channel: the mean standard deviation within groups of images (Progressive GAN, section 3).

    Image i is in group i mod (N / group_size); N must divide into groups or be one smaller group.
    """
    num, channels, height, width = x_NCHW.shape
    size = min(group_size, num)
    as_float = x_NCHW if x_NCHW.dtype == torch.float64 else x_NCHW.float()
    groups = as_float.reshape(size, num // size, channels, height, width)
    variance = groups.var(dim=0, correction=0)
    deviation = (variance + eps).sqrt().mean(dim=(1, 2, 3)).to(x_NCHW.dtype)
    plane = deviation.repeat(size)[:, None, None, None].expand(num, 1, height, width)
    return torch.cat([x_NCHW, plane], dim=1)


# --------------------------------------------------------------------------------------------------------------
# What stands between two convolutions
#
# On a GPU in kernels of our own, which read and write each tensor once; elsewhere as it is defined.


def _has_kernels(x: Tensor) -> bool:
    return is_nvidia(x.device) and x.dtype != torch.float64


def activated(x_NCHW: Tensor, bias_C: Tensor, *, filters: bool) -> Tensor:
    """lrelu(x + bias), blurred where it `filters`."""
    if _has_kernels(x_NCHW):
        return _Activated.apply(x_NCHW, bias_C, filters)  # type: ignore[no-any-return]
    y = lrelu((x_NCHW + bias_C[:, None, None]).to(x_NCHW.dtype))
    return blur(y) if filters else y


class _Activated(torch.autograd.Function):
    """y = B lrelu(x + b), B being the blur, or nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, filters: bool) -> Tensor:
        from training import kernels

        y, signs = kernels.activated(x, bias, filters)
        ctx.save_for_backward(signs)
        ctx.filters = filters
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        of_x, of_bias = _ActivatedBackward.apply(gradient, *ctx.saved_tensors, ctx.filters)
        return of_x, of_bias, None


class _ActivatedBackward(torch.autograd.Function):
    """x = s B g, s being the slope of the leaky ReLU by its input's signs, and its sum by channel."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, signs: Tensor, filters: bool) -> tuple[Tensor, Tensor]:
        from training import kernels

        ctx.save_for_backward(signs)
        ctx.filters, ctx.shape, ctx.dtype = filters, gradient.shape, gradient.dtype
        ctx.set_materialize_grads(False)
        of_x, sums = kernels.sloped_after(gradient, signs, filters)
        return of_x, sums.sum(dim=(0, 1))

    @staticmethod
    def backward(ctx: Any, of_x: Tensor | None, of_bias: Tensor | None) -> Any:
        t = of_x
        if of_bias is not None:
            added = of_bias[:, None, None].to(ctx.dtype).expand(ctx.shape)
            t = added if t is None else t + added
        return None if t is None else _Sloped.apply(t, *ctx.saved_tensors, ctx.filters), None, None


class _Sloped(torch.autograd.Function):
    """B s t, with s as before."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, signs: Tensor, filters: bool) -> Tensor:
        from training import kernels

        ctx.save_for_backward(signs)
        ctx.filters = filters
        return kernels.sloped(t, signs, filters)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _ActivatedBackward.apply(gradient, *ctx.saved_tensors, ctx.filters)[0], None, None


def styled(
    x_NCHW: Tensor,
    noise_N1HW: Tensor | None,
    strength_C: Tensor | None,
    bias_C: Tensor,
    scale_NC: Tensor,
    shift_NC: Tensor,
    *,
    filters: bool,
) -> Tensor:
    """x blurred where it `filters`, then noise, bias, leaky ReLU and AdaIN (Style GAN, fig. 1b)."""
    arguments = x_NCHW, noise_N1HW, strength_C, bias_C, scale_NC, shift_NC, filters
    if _has_kernels(x_NCHW):
        return _Styled.apply(*arguments)  # type: ignore[no-any-return]
    return _plainly_styled(*arguments)


def _plainly_styled(
    x: Tensor,
    noise: Tensor | None,
    strength: Tensor | None,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    filters: bool,
) -> Tensor:
    y = blur(x) if filters else x
    if noise is not None and strength is not None:
        y = y + noise * strength[:, None, None]
    return adaptive_instance_norm(lrelu(y + bias[:, None, None]), scale, shift).to(x.dtype)


class _Styled(torch.autograd.Function):
    """z = (y - mean) r scale + shift, r being 1 / deviation of y = lrelu(B x + noise * strength + bias)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        noise: Tensor | None,
        strength: Tensor | None,
        bias: Tensor,
        scale: Tensor,
        shift: Tensor,
        filters: bool,
    ) -> Tensor:
        from training import kernels

        num_pixels = x.shape[2] * x.shape[3]
        filtered, means, squares = kernels.style_statistics(x, noise, strength, bias, filters)
        mean = means.mean(dim=1)
        between = (means - mean[:, None]).square().mean(dim=1)
        r = torch.rsqrt(squares.sum(dim=1) / num_pixels + between + 1e-8)
        given = filtered if filters else x
        ctx.save_for_backward(x, given, noise, strength, bias, scale, shift, mean, r)
        ctx.filters = filters
        return kernels.styled(given, noise, strength, bias, mean, r * scale, shift)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        from training import kernels

        x, given, noise, strength, bias, scale, shift, mean, r = ctx.saved_tensors
        if torch.is_grad_enabled():  # of these gradients others will be taken
            arguments = x, noise, strength, bias, scale, shift, ctx.filters
            return _gradients(_plainly_styled, arguments, gradient)
        num_pixels = given.shape[2] * given.shape[3]
        sums, products = kernels.style_sums(gradient, given, noise, strength, bias, mean)
        of_shift, of_scale = sums.sum(dim=1), products.sum(dim=1) * r
        of_gradient = scale * r
        of_y = -of_gradient * r * of_scale / num_pixels
        constant = -of_gradient * of_shift / num_pixels - of_y * mean
        of_x, sums, noise_sums = kernels.style_backward(
            gradient, given, noise, strength, bias, of_gradient, of_y, constant, ctx.filters
        )
        of_strength = None if noise is None else noise_sums.sum(dim=(0, 1))
        return of_x, None, of_strength, sums.sum(dim=(0, 1)), of_scale, of_shift, None


def _gradients(
    function: Callable[..., Tensor], arguments: tuple[Any, ...], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients in a function's arguments, such that they can be differentiated; None where none is asked for."""
    wanted = [isinstance(x, Tensor) and x.requires_grad for x in arguments]
    inputs = [x for x, is_wanted in zip(arguments, wanted, strict=True) if is_wanted]
    y = function(*arguments)
    found = iter(torch.autograd.grad(y, inputs, gradient, create_graph=True, allow_unused=True))
    return tuple(next(found) if is_wanted else None for is_wanted in wanted)


class FromColours(EqualConv2d):
    """Features of an image: a 1x1 convolution with bias, and leaky ReLU."""

    bias: nn.Parameter

    def __init__(self, channels: int) -> None:
        super().__init__(3, channels, 1)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, channels, H, W)."""
        if not _has_kernels(x_N3HW):
            return lrelu(super().forward(x_N3HW))
        weight_3C = self.weight[:, :, 0, 0].T * self.weight_scale
        return _FromColours.apply(x_N3HW, weight_3C, self.bias)  # type: ignore[no-any-return]


class _FromColours(torch.autograd.Function):
    """y = lrelu(W^T x + b)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from training import kernels

        y, signs = kernels.from_colours(x, weight, bias)
        ctx.save_for_backward(x, weight, signs)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _FromColoursBackward.apply(gradient, *ctx.saved_tensors)


class _FromColoursBackward(torch.autograd.Function):
    """x = W s g, s being the slope of the leaky ReLU by its input's signs, and the sums of x s g and of s g."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, signs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        from training import kernels

        ctx.save_for_backward(gradient, x, weight, signs)
        ctx.set_materialize_grads(False)
        sums_4C = kernels.colour_products(x, gradient, signs).sum(dim=0)
        return kernels.to_colours(gradient, signs, weight), sums_4C[:3], sums_4C[3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_x: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None) -> Any:
        from training import kernels

        gradient, x, weight, signs = ctx.saved_tensors
        to_gradient = to_x = to_weight = None
        if of_x is not None:
            of_x = of_x.contiguous(memory_format=torch.channels_last)  # once for both
            to_gradient, _ = kernels.from_colours(of_x, weight, signs=signs)
            to_weight = kernels.colour_products(of_x, gradient, signs).sum(dim=0)[:3]
        if of_weight is not None:
            added, _ = kernels.from_colours(x, of_weight, signs=signs)
            to_gradient = added if to_gradient is None else to_gradient + added
            to_x = kernels.to_colours(gradient, signs, of_weight)
        if of_bias is not None:
            added = kernels.sloped(
                of_bias[:, None, None].to(gradient.dtype).expand_as(gradient), signs, False
            )
            to_gradient = added if to_gradient is None else to_gradient + added
        return to_gradient, to_x, to_weight, None


class ToColours(EqualConv2d):
    """An image of features: a 1x1 convolution with bias."""

    bias: nn.Parameter

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 3, 1, gain=1.0)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 3, H, W)."""
        if not _has_kernels(x_NCHW):
            return super().forward(x_NCHW)
        weight_3C = self.weight[:, :, 0, 0] * self.weight_scale
        image = _ToColours.apply(x_NCHW, weight_3C)
        return (image + self.bias[:, None, None]).to(x_NCHW.dtype)  # type: ignore[no-any-return]


class _ToColours(torch.autograd.Function):
    """y = W x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        from training import kernels

        ctx.save_for_backward(x, weight)
        return kernels.to_colours(x, None, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        from training import kernels

        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # of these gradients others will be taken
            return _gradients(_convolved_1x1, (x, weight), gradient)
        of_weight = kernels.colour_products(gradient, x, None).sum(dim=0)[:3]
        return kernels.from_colours(gradient, weight)[0], of_weight


def _convolved_1x1(x: Tensor, weight: Tensor) -> Tensor:
    return convolved(x, weight[:, :, None, None].to(x.dtype))
