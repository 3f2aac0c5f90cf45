"""Triton kernels for what stands between two convolutions on a GPU, each tensor read and written once.

The compiler's own take more: it sums over pixels in another pass than it computes what is summed in, and does the
arithmetic before a filter of nine taps nine times. Here a program takes some columns and channels down some rows,
keeps the filter's last rows in registers, and adds up as it goes. What the functions mean, and that they are each
other's derivatives, is in `training.ops`. Features are channels last, of any type; arithmetic is in float32.

Statistics and sums over pixels come by blocks of pixels, (N, B, C). Signs, which the slope of a leaky ReLU goes by,
come in bytes of eight channels, (N, H, W, C / 8). Suffixes as in `training.networks`.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

ROWS = 32
"""How many rows a program goes down."""
TILE = 1024
"""How many features of a row it takes, columns times channels."""


def _grid(x_NCHW: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """The programs over features, and what each is told of them."""
    num, channels, height, width = x_NCHW.shape
    block = min(max(triton.next_power_of_2(channels), 8), 64)
    columns = TILE // block
    grid = (triton.cdiv(channels, block), triton.cdiv(height, ROWS) * triton.cdiv(width, columns), num)
    sizes = {"height": height, "width": width, "channels": channels}
    return grid, {**sizes, "ROWS": ROWS, "COLUMNS": columns, "CHANNELS": block}


def _laid_out(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.contiguous(memory_format=torch.channels_last)


def _whole(noise_N1HW: Tensor | None) -> Tensor | None:
    """The noise with a place in memory for each pixel of each image."""
    return None if noise_N1HW is None else noise_N1HW.contiguous()


def _like(x_NCHW: Tensor, channels: int | None = None) -> Tensor:
    """Room for features of the same size."""
    num, given, height, width = x_NCHW.shape
    room = x_NCHW.new_empty((num, height, width, channels or given))
    return room.permute(0, 3, 1, 2)


def _signs_of(x_NCHW: Tensor) -> Tensor:
    num, channels, height, width = x_NCHW.shape
    return x_NCHW.new_empty((num, height, width, triton.cdiv(channels, 8)), dtype=torch.uint8)


def _by_block(x_NCHW: Tensor) -> Tensor:
    """Room for a number a block and channel."""
    return x_NCHW.new_empty((x_NCHW.shape[0], _grid(x_NCHW)[0][1], x_NCHW.shape[1]), dtype=torch.float32)


# --------------------------------------------------------------------------------------------------------------
# What programs share


@triton.jit
def _place(height, width, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):
    """A program's first row, columns, channels, and where its image's first pixel is among all pixels."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    strips = tl.cdiv(width, COLUMNS)
    w = tl.program_id(1) % strips * COLUMNS + tl.arange(0, COLUMNS)
    return tl.program_id(1) // strips * ROWS, w, c, tl.program_id(2).to(tl.int64) * height * width


@triton.jit
def _store_block(values, to, c, stride, channels):
    """Write what a program has by channel into its block's place, `stride` from the next."""
    block = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64)
    tl.store(to + block * stride + c, values, c < channels)


@triton.jit
def _of_channels(values, c, channels):
    """A part of (C,) as a row."""
    return tl.load(values + c, c < channels, 0.0).to(tl.float32)[None, :]


@triton.jit
def _of_image(values, c, channels):
    """A part of (N, C) as a row."""
    return tl.load(values + tl.program_id(2) * channels + c, c < channels, 0.0)[None, :]


@triton.jit
def _along(left, here, right):
    """The binomial filter in one direction."""
    return 0.5 * here + 0.25 * (left + right)


@triton.jit
def _slope(y):
    return tl.where(y > 0, 1.0, 0.2)


@triton.jit
def _slope_by_sign(signs, pixel, first, channels, is_there, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """The slope at pixels (P,), of channels from `first` on."""
    byte = first // 8 + tl.arange(0, CHANNELS // 8)
    at = pixel[:, None] * tl.cdiv(channels, 8) + byte[None, :]
    eight = tl.load(signs + at, is_there[:, None] & (byte * 8 < channels)[None, :], 0).to(tl.int32)
    bits = (eight[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.where(tl.reshape(bits, (PIXELS, CHANNELS)) != 0, 1.0, 0.2)


@triton.jit
def _store_signs(y, signs, pixel, first, channels, is_there, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Write the signs of y at pixels (P,), of channels from `first` on."""
    bits = tl.reshape((y > 0).to(tl.int32), (PIXELS, CHANNELS // 8, 8)) << tl.arange(0, 8)[None, None, :]
    byte = first // 8 + tl.arange(0, CHANNELS // 8)
    at = pixel[:, None] * tl.cdiv(channels, 8) + byte[None, :]
    tl.store(signs + at, tl.sum(bits, 2).to(tl.uint8), is_there[:, None] & (byte * 8 < channels)[None, :])


# --------------------------------------------------------------------------------------------------------------
# Bias, leaky ReLU and binomial filter, and their derivatives: the discriminator's


@triton.jit
def _activated_row(x, b, signs, image, row, is_own, w, c, height, width, channels, FILTERS: tl.constexpr,
                   COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """lrelu(x + b) of a row, filtered along itself; its signs written where it is the program's own."""
    is_row = (row >= 0) & (row < height)
    pixel = image + row.to(tl.int64) * width + w
    at = pixel[:, None] * channels + c[None, :]
    is_c = (c < channels)[None, :]
    is_here = is_row & (w < width)
    y = tl.load(x + at, is_c & is_here[:, None], 0.0).to(tl.float32) + b
    _store_signs(y, signs, pixel, tl.program_id(0) * CHANNELS, channels, is_here & is_own, COLUMNS, CHANNELS)
    y = tl.where(is_here[:, None], y * _slope(y), 0.0)
    if FILTERS:
        is_left = (is_row & (w > 0) & (w <= width))[:, None]
        left = tl.load(x + at - channels, is_c & is_left, 0.0).to(tl.float32) + b
        left = tl.where(is_left, left * _slope(left), 0.0)
        is_right = (is_row & (w < width - 1))[:, None]
        right = tl.load(x + at + channels, is_c & is_right, 0.0).to(tl.float32) + b
        right = tl.where(is_right, right * _slope(right), 0.0)
        y = _along(left, y, right)
    return y


@triton.jit(do_not_specialize=["height", "width"])
def _activated_kernel(
    x, bias, out, signs, height, width, channels,
    FILTERS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    first, w, c, image = _place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    b = _of_channels(bias, c, channels)
    is_there = (w < width)[:, None] & (c < channels)[None, :]
    above = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    here = above
    if FILTERS:
        above = _activated_row(
            x, b, signs, image, first - 1, False, w, c, height, width, channels, True, COLUMNS, CHANNELS
        )
        here = _activated_row(
            x, b, signs, image, first, True, w, c, height, width, channels, True, COLUMNS, CHANNELS
        )
    for i in range(ROWS):
        row = first + i
        if FILTERS:
            below = _activated_row(
                x,
                b,
                signs,
                image,
                row + 1,
                i < ROWS - 1,
                w,
                c,
                height,
                width,
                channels,
                True,
                COLUMNS,
                CHANNELS,
            )
            y = _along(above, here, below)
            above = here
            here = below
        else:
            y = _activated_row(
                x, b, signs, image, row, True, w, c, height, width, channels, False, COLUMNS, CHANNELS
            )
        at = (image + row.to(tl.int64) * width + w[:, None]) * channels + c[None, :]
        tl.store(out + at, y, is_there & (row < height))


@triton.jit
def _sloped(a, signs, pixel, first, c, channels, is_pixel, SLOPES: tl.constexpr,
            PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """`a` at pixels (P,), times the slope if it is asked for; zero outside."""
    is_there = is_pixel[:, None] & (c < channels)[None, :]
    y = tl.load(a + pixel[:, None] * channels + c[None, :], is_there, 0.0).to(tl.float32)
    if SLOPES:
        y *= _slope_by_sign(signs, pixel, first, channels, is_pixel, PIXELS, CHANNELS)
    return y


@triton.jit
def _sloped_row(a, signs, image, row, w, c, height, width, channels, SLOPES: tl.constexpr,
                COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """A row of it, filtered along itself."""
    is_row = (row >= 0) & (row < height)
    pixel = image + row.to(tl.int64) * width + w
    block = tl.program_id(0) * CHANNELS
    is_left = is_row & (w > 0) & (w <= width)
    left = _sloped(a, signs, pixel - 1, block, c, channels, is_left, SLOPES, COLUMNS, CHANNELS)
    here = _sloped(a, signs, pixel, block, c, channels, is_row & (w < width), SLOPES, COLUMNS, CHANNELS)
    is_right = is_row & (w < width - 1)
    right = _sloped(a, signs, pixel + 1, block, c, channels, is_right, SLOPES, COLUMNS, CHANNELS)
    return _along(left, here, right)


@triton.jit(do_not_specialize=["height", "width"])
def _sloped_kernel(
    a, signs, out, sums, height, width, channels,
    FILTERS: tl.constexpr, SLOPES_AFTER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The slope before the filter; or after it, and sums."""
    first, w, c, image = _place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    block = tl.program_id(0) * CHANNELS
    before: tl.constexpr = not SLOPES_AFTER
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    above = total
    here = total
    if FILTERS:
        above = _sloped_row(
            a, signs, image, first - 1, w, c, height, width, channels, before, COLUMNS, CHANNELS
        )
        here = _sloped_row(a, signs, image, first, w, c, height, width, channels, before, COLUMNS, CHANNELS)
    for i in range(ROWS):
        row = first + i
        is_pixel = (w < width) & (row < height)
        pixel = image + row.to(tl.int64) * width + w
        if FILTERS:
            below = _sloped_row(
                a, signs, image, row + 1, w, c, height, width, channels, before, COLUMNS, CHANNELS
            )
            y = _along(above, here, below)
            above = here
            here = below
        else:
            y = _sloped(a, signs, pixel, block, c, channels, is_pixel, before, COLUMNS, CHANNELS)
        if SLOPES_AFTER:
            y *= _slope_by_sign(signs, pixel, block, channels, is_pixel, COLUMNS, CHANNELS)
            total += tl.where(is_pixel[:, None], y, 0.0)
        is_own = is_pixel[:, None] & (c < channels)[None, :]
        tl.store(out + pixel[:, None] * channels + c[None, :], y, is_own)
    if SLOPES_AFTER:
        _store_block(tl.sum(total, 0), sums, c, channels, channels)


@custom_op("likeness::activated", mutates_args=())
def _activated(x_NCHW: Tensor, bias_C: Tensor, filters: bool) -> tuple[Tensor, Tensor]:
    grid, sizes = _grid(x_NCHW)
    out, signs = _like(x_NCHW), _signs_of(x_NCHW)
    _activated_kernel[grid](x_NCHW, bias_C, out, signs, FILTERS=filters, **sizes)
    return out, signs


@_activated.register_fake
def _(x_NCHW: Tensor, bias_C: Tensor, filters: bool) -> tuple[Tensor, Tensor]:
    return _like(x_NCHW), _signs_of(x_NCHW)


def activated(x_NCHW: Tensor, bias_C: Tensor, filters: bool) -> tuple[Tensor, Tensor]:
    """lrelu(x + bias), blurred where it `filters`, and the signs of x + bias."""
    return _activated(_laid_out(x_NCHW), bias_C, filters)


@custom_op("likeness::sloped", mutates_args=())
def _sloped_op(a_NCHW: Tensor, signs: Tensor, filters: bool, after: bool) -> tuple[Tensor, Tensor]:
    grid, sizes = _grid(a_NCHW)
    out, sums = _like(a_NCHW), _by_block(a_NCHW)
    _sloped_kernel[grid](a_NCHW, signs, out, sums, FILTERS=filters, SLOPES_AFTER=after, **sizes)
    return out, sums


@_sloped_op.register_fake
def _(a_NCHW: Tensor, signs: Tensor, filters: bool, after: bool) -> tuple[Tensor, Tensor]:
    return _like(a_NCHW), _by_block(a_NCHW)


def sloped(t_NCHW: Tensor, signs: Tensor, filters: bool) -> Tensor:
    """blur(t * slope), without the blur where it `filters` not."""
    return _sloped_op(_laid_out(t_NCHW), signs, filters, False)[0]


def sloped_after(g_NCHW: Tensor, signs: Tensor, filters: bool) -> tuple[Tensor, Tensor]:
    """blur(g) * slope, without the blur where it `filters` not, and its sums."""
    return _sloped_op(_laid_out(g_NCHW), signs, filters, True)


# --------------------------------------------------------------------------------------------------------------
# Filter, noise, bias, leaky ReLU, instance norm and style: the generator's
#
# y is lrelu(x + noise * strength + bias), x filtered before where the layer has a filter.


@triton.jit
def _before_lrelu(x, noise, s, b, pixel, c, channels, is_there, is_pixel, NOISY: tl.constexpr):
    """x + noise * strength + bias at pixels (P,)."""
    y = tl.load(x + pixel[:, None] * channels + c[None, :], is_there, 0.0).to(tl.float32) + b
    if NOISY:
        y += tl.load(noise + pixel, is_pixel, 0.0).to(tl.float32)[:, None] * s
    return y


@triton.jit(do_not_specialize=["height", "width"])
def _statistics_kernel(
    x, noise, strength, bias, filtered, means, squares, height, width, channels,
    NOISY: tl.constexpr, FILTERS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The mean of y and the sum of its squared distances from it, and x filtered."""
    first, w, c, image = _place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    is_there = (w < width)[:, None] & (c < channels)[None, :]
    b = _of_channels(bias, c, channels)
    s = b
    if NOISY:
        s = _of_channels(strength, c, channels)
    mean = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    square = mean
    above = mean
    here = mean
    if FILTERS:
        above = _sloped_row(x, x, image, first - 1, w, c, height, width, channels, False, COLUMNS, CHANNELS)
        here = _sloped_row(x, x, image, first, w, c, height, width, channels, False, COLUMNS, CHANNELS)
    for i in range(ROWS):
        row = first + i
        pixel = image + row.to(tl.int64) * width + w
        is_own = is_there & (row < height)
        if FILTERS:
            below = _sloped_row(x, x, image, row + 1, w, c, height, width, channels, False, COLUMNS, CHANNELS)
            y = _along(above, here, below).to(filtered.dtype.element_ty)
            above = here
            here = below
            tl.store(filtered + pixel[:, None] * channels + c[None, :], y, is_own)
            y = y.to(tl.float32) + b
            if NOISY:
                y += tl.load(noise + pixel, (w < width) & (row < height), 0.0).to(tl.float32)[:, None] * s
        else:
            y = _before_lrelu(x, noise, s, b, pixel, c, channels, is_own, (w < width) & (row < height), NOISY)
        y = y * _slope(y)
        distance = tl.where(is_own, y - mean, 0.0)  # Welford's: y may lie far from zero and close together
        mean += distance * (1.0 / (i + 1))
        square += distance * (y - mean)
    num_rows = tl.minimum(height - first, ROWS)
    num_columns = tl.minimum(width - tl.program_id(1) % tl.cdiv(width, COLUMNS) * COLUMNS, COLUMNS)
    middle = tl.sum(mean, 0) / num_columns
    distance = tl.where(is_there, mean - middle[None, :], 0.0)
    _store_block(middle, means, c, channels, channels)
    spread = tl.sum(square, 0) + tl.sum(distance * distance, 0) * num_rows
    _store_block(spread, squares, c, channels, channels)


@triton.jit(do_not_specialize=["height", "width"])
def _style_kernel(
    x, noise, strength, bias, mean, factor, shift, out, height, width, channels,
    NOISY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """(y - mean) * factor + shift."""
    first, w, c, image = _place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    is_there = (w < width)[:, None] & (c < channels)[None, :]
    b = _of_channels(bias, c, channels)
    s = b
    if NOISY:
        s = _of_channels(strength, c, channels)
    m = _of_image(mean, c, channels)
    f = _of_image(factor, c, channels)
    d = _of_image(shift, c, channels)
    for i in range(ROWS):
        row = first + i
        pixel = image + row.to(tl.int64) * width + w
        is_own = is_there & (row < height)
        y = _before_lrelu(x, noise, s, b, pixel, c, channels, is_own, (w < width) & (row < height), NOISY)
        tl.store(out + pixel[:, None] * channels + c[None, :], (y * _slope(y) - m) * f + d, is_own)


@triton.jit(do_not_specialize=["height", "width"])
def _style_sums_kernel(
    g, x, noise, strength, bias, mean, of_g, of_product, height, width, channels,
    NOISY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of g, and of g * (y - mean)."""
    first, w, c, image = _place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    is_there = (w < width)[:, None] & (c < channels)[None, :]
    b = _of_channels(bias, c, channels)
    s = b
    if NOISY:
        s = _of_channels(strength, c, channels)
    m = _of_image(mean, c, channels)
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    product = total
    for i in range(ROWS):
        row = first + i
        pixel = image + row.to(tl.int64) * width + w
        is_own = is_there & (row < height)
        y = _before_lrelu(x, noise, s, b, pixel, c, channels, is_own, (w < width) & (row < height), NOISY)
        gradient = tl.load(g + pixel[:, None] * channels + c[None, :], is_own, 0.0).to(tl.float32)
        total += gradient
        product += gradient * (y * _slope(y) - m)
    _store_block(tl.sum(total, 0), of_g, c, channels, channels)
    _store_block(tl.sum(product, 0), of_product, c, channels, channels)


@triton.jit
def _before_style(g, x, noise, s, b, p, q, r, pixel, c, channels, is_there, is_pixel, NOISY: tl.constexpr):
    """The gradient of what y is the leaky ReLU of, (p * g + q * y + r) * slope; zero outside."""
    y = _before_lrelu(x, noise, s, b, pixel, c, channels, is_there, is_pixel, NOISY)
    slope = _slope(y)
    gradient = tl.load(g + pixel[:, None] * channels + c[None, :], is_there, 0.0).to(tl.float32)
    return tl.where(is_there, (p * gradient + (q * slope * y + r)) * slope, 0.0)


@triton.jit
def _before_style_row(
    g, x, noise, s, b, p, q, r, image, row, w, c, height, width, channels, NOISY: tl.constexpr
):  # fmt: skip
    """A row of it filtered along itself, and unfiltered."""
    is_row = (row >= 0) & (row < height)
    is_c = (c < channels)[None, :]
    at = image + row.to(tl.int64) * width + w
    is_w = is_row & (w > 0) & (w <= width)
    left = _before_style(g, x, noise, s, b, p, q, r, at - 1, c, channels, is_c & is_w[:, None], is_w, NOISY)
    is_w = is_row & (w < width)
    here = _before_style(g, x, noise, s, b, p, q, r, at, c, channels, is_c & is_w[:, None], is_w, NOISY)
    is_w = is_row & (w < width - 1)
    right = _before_style(g, x, noise, s, b, p, q, r, at + 1, c, channels, is_c & is_w[:, None], is_w, NOISY)
    return _along(left, here, right), here


@triton.jit(do_not_specialize=["height", "width"])
def _style_backward_kernel(
    g, x, noise, strength, bias, of_g, of_y, constant, out, sums, noise_sums, height, width, channels,
    NOISY: tl.constexpr, FILTERS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient of x, filtered where x was, and the sums that those of bias and strength are made of."""
    first, w, c, image = _place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    is_there = (w < width)[:, None] & (c < channels)[None, :]
    b = _of_channels(bias, c, channels)
    s = b
    if NOISY:
        s = _of_channels(strength, c, channels)
    p = _of_image(of_g, c, channels)
    q = _of_image(of_y, c, channels)
    r = _of_image(constant, c, channels)
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    noisy = total
    above = total
    here = total
    plain = total
    if FILTERS:
        above, plain = _before_style_row(
            g, x, noise, s, b, p, q, r, image, first - 1, w, c, height, width, channels, NOISY
        )
        here, plain = _before_style_row(
            g, x, noise, s, b, p, q, r, image, first, w, c, height, width, channels, NOISY
        )
    for i in range(ROWS):
        row = first + i
        pixel = image + row.to(tl.int64) * width + w
        is_own = is_there & (row < height)
        is_pixel = (w < width) & (row < height)
        if FILTERS:
            below, after = _before_style_row(
                g, x, noise, s, b, p, q, r, image, row + 1, w, c, height, width, channels, NOISY
            )
            found = _along(above, here, below)
            above = here
            here = below
        else:
            plain = _before_style(g, x, noise, s, b, p, q, r, pixel, c, channels, is_own, is_pixel, NOISY)
            found = plain
            after = plain
        tl.store(out + pixel[:, None] * channels + c[None, :], found, is_own)
        total += plain
        if NOISY:
            noisy += plain * tl.load(noise + pixel, is_pixel, 0.0).to(tl.float32)[:, None]
        plain = after
    _store_block(tl.sum(total, 0), sums, c, channels, channels)
    if NOISY:
        _store_block(tl.sum(noisy, 0), noise_sums, c, channels, channels)


@custom_op("likeness::style_statistics", mutates_args=())
def _style_statistics(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor, filters: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grid, sizes = _grid(x_NCHW)
    filtered = _like(x_NCHW) if filters else x_NCHW.new_empty(0)
    means, squares = _by_block(x_NCHW), _by_block(x_NCHW)
    _statistics_kernel[grid](
        x_NCHW, noise_N1HW, strength_C, bias_C, filtered, means, squares,
        NOISY=noise_N1HW is not None, FILTERS=filters, **sizes,
    )  # fmt: skip
    return filtered, means, squares


@_style_statistics.register_fake
def _(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor, filters: bool
) -> tuple[Tensor, Tensor, Tensor]:
    filtered = _like(x_NCHW) if filters else x_NCHW.new_empty(0)
    return filtered, _by_block(x_NCHW), _by_block(x_NCHW)


def style_statistics(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor, filters: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x filtered (empty where nothing `filters`), the mean of y, and the sum of its squared distances from it."""
    return _style_statistics(_laid_out(x_NCHW), _whole(noise_N1HW), strength_C, bias_C, filters)


@custom_op("likeness::styled", mutates_args=())
def _styled(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor, factor_NC: Tensor, shift_NC: Tensor,
) -> Tensor:  # fmt: skip
    grid, sizes = _grid(x_NCHW)
    out = _like(x_NCHW)
    _style_kernel[grid](
        x_NCHW, noise_N1HW, strength_C, bias_C, mean_NC, factor_NC, shift_NC, out,
        NOISY=noise_N1HW is not None, **sizes,
    )  # fmt: skip
    return out


@_styled.register_fake
def _(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor, factor_NC: Tensor, shift_NC: Tensor,
) -> Tensor:  # fmt: skip
    return _like(x_NCHW)


def styled(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor, factor_NC: Tensor, shift_NC: Tensor,
) -> Tensor:  # fmt: skip
    """(y - mean) * factor + shift, of x that is filtered already."""
    of_images = (x.contiguous() for x in (mean_NC, factor_NC, shift_NC))
    return _styled(_laid_out(x_NCHW), _whole(noise_N1HW), strength_C, bias_C, *of_images)


@custom_op("likeness::style_sums", mutates_args=())
def _style_sums(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grid, sizes = _grid(x_NCHW)
    of_g, of_product = _by_block(x_NCHW), _by_block(x_NCHW)
    _style_sums_kernel[grid](
        g_NCHW, x_NCHW, noise_N1HW, strength_C, bias_C, mean_NC, of_g, of_product,
        NOISY=noise_N1HW is not None, **sizes,
    )  # fmt: skip
    return of_g, of_product


@_style_sums.register_fake
def _(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _by_block(x_NCHW), _by_block(x_NCHW)


def style_sums(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sums of g, and of g * (y - mean)."""
    g, x = _laid_out(g_NCHW), _laid_out(x_NCHW)
    return _style_sums(g, x, _whole(noise_N1HW), strength_C, bias_C, mean_NC.contiguous())


@custom_op("likeness::style_backward", mutates_args=())
def _style_backward(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    of_g_NC: Tensor, of_y_NC: Tensor, constant_NC: Tensor, filters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grid, sizes = _grid(x_NCHW)
    out, sums, noise_sums = _like(x_NCHW), _by_block(x_NCHW), _by_block(x_NCHW)
    _style_backward_kernel[grid](
        g_NCHW, x_NCHW, noise_N1HW, strength_C, bias_C, of_g_NC, of_y_NC, constant_NC, out, sums, noise_sums,
        NOISY=noise_N1HW is not None, FILTERS=filters, **sizes,
    )  # fmt: skip
    return out, sums, noise_sums


@_style_backward.register_fake
def _(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    of_g_NC: Tensor, of_y_NC: Tensor, constant_NC: Tensor, filters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _like(x_NCHW), _by_block(x_NCHW), _by_block(x_NCHW)


def style_backward(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    of_g_NC: Tensor, of_y_NC: Tensor, constant_NC: Tensor, filters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """d = (of_g * g + of_y * y + constant) * slope, filtered where it `filters`; sums of d, and of d * noise."""
    of_images = (x.contiguous() for x in (of_g_NC, of_y_NC, constant_NC))
    g, x = _laid_out(g_NCHW), _laid_out(x_NCHW)
    return _style_backward(g, x, _whole(noise_N1HW), strength_C, bias_C, *of_images, filters)


# --------------------------------------------------------------------------------------------------------------
# Colours: 1x1 convolutions between features and three channels, and products with those
#
# Libraries have convolutions of many channels; of three they make passes over padded copies.


def _pixel_blocks(x_NCHW: Tensor) -> dict[str, int]:
    num, channels, height, width = x_NCHW.shape
    block = min(max(triton.next_power_of_2(channels), 8), 64)
    sizes = {"pixels": num * height * width, "channels": channels}
    return {**sizes, "PIXELS": TILE // block, "CHANNELS": block}


@triton.jit(do_not_specialize=["pixels"])
def _from_colours_kernel(
    colours, weight, bias, signs, out, signs_out, pixels, channels,
    ACTIVATES: tl.constexpr, SLOPES: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    is_pixel = pixel < pixels
    is_there = is_pixel[:, None] & (c < channels)[None, :]
    at = pixel[:, None] * channels + c[None, :]
    y = tl.load(out + at, at < 0, 0.0).to(
        tl.float32
    )  # reads nothing, but has y laid out over threads as `out`
    for colour in tl.static_range(3):
        value = tl.load(colours + pixel * 3 + colour, is_pixel, 0.0).to(tl.float32)
        y += value[:, None] * _of_channels(weight + colour * channels, c, channels)
    if ACTIVATES:
        y += _of_channels(bias, c, channels)
        _store_signs(y, signs_out, pixel, tl.program_id(1) * CHANNELS, channels, is_pixel, PIXELS, CHANNELS)
        y *= _slope(y)
    if SLOPES:
        y *= _slope_by_sign(signs, pixel, tl.program_id(1) * CHANNELS, channels, is_pixel, PIXELS, CHANNELS)
    tl.store(out + at, y, is_there)


@triton.jit(do_not_specialize=["pixels"])
def _to_colours_kernel(
    x, signs, weight, out, pixels, channels,
    SLOPES: tl.constexpr, BLOCKS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    is_pixel = pixel < pixels
    red = tl.zeros((PIXELS,), tl.float32)
    green = red
    blue = red
    for i in range(BLOCKS):
        c = i * CHANNELS + tl.arange(0, CHANNELS)
        y = _sloped(x, signs, pixel, i * CHANNELS, c, channels, is_pixel, SLOPES, PIXELS, CHANNELS)
        red += tl.sum(y * _of_channels(weight, c, channels), 1)
        green += tl.sum(y * _of_channels(weight + channels, c, channels), 1)
        blue += tl.sum(y * _of_channels(weight + 2 * channels, c, channels), 1)
    tl.store(out + pixel * 3, red, is_pixel)
    tl.store(out + pixel * 3 + 1, green, is_pixel)
    tl.store(out + pixel * 3 + 2, blue, is_pixel)


@triton.jit(do_not_specialize=["pixels"])
def _colour_products_kernel(
    colours, x, signs, sums, pixels, channels,
    SLOPES: tl.constexpr, STEPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(1) * CHANNELS
    c = block + tl.arange(0, CHANNELS)
    red = tl.zeros((PIXELS, CHANNELS), tl.float32)
    green = red
    blue = red
    plain = red
    for i in range(STEPS):
        pixel = (tl.program_id(0).to(tl.int64) * STEPS + i) * PIXELS + tl.arange(0, PIXELS)
        is_pixel = pixel < pixels
        y = _sloped(x, signs, pixel, block, c, channels, is_pixel, SLOPES, PIXELS, CHANNELS)
        red += tl.load(colours + pixel * 3, is_pixel, 0.0).to(tl.float32)[:, None] * y
        green += tl.load(colours + pixel * 3 + 1, is_pixel, 0.0).to(tl.float32)[:, None] * y
        blue += tl.load(colours + pixel * 3 + 2, is_pixel, 0.0).to(tl.float32)[:, None] * y
        plain += y
    to = sums + tl.program_id(0).to(tl.int64) * 4 * channels + c
    tl.store(to, tl.sum(red, 0), c < channels)
    tl.store(to + channels, tl.sum(green, 0), c < channels)
    tl.store(to + 2 * channels, tl.sum(blue, 0), c < channels)
    tl.store(to + 3 * channels, tl.sum(plain, 0), c < channels)


@custom_op("likeness::from_colours", mutates_args=())
def _from_colours(
    colours_N3HW: Tensor, weight_3C: Tensor, bias_C: Tensor | None, signs: Tensor | None
) -> tuple[Tensor, Tensor]:
    out = _like(colours_N3HW, weight_3C.shape[1])
    signs_out = _signs_of(out)
    sizes = _pixel_blocks(out)
    grid = (triton.cdiv(sizes["pixels"], sizes["PIXELS"]), triton.cdiv(sizes["channels"], sizes["CHANNELS"]))
    _from_colours_kernel[grid](
        colours_N3HW, weight_3C, bias_C, signs, out, signs_out,
        ACTIVATES=bias_C is not None, SLOPES=signs is not None, **sizes,
    )  # fmt: skip
    return out, signs_out


@_from_colours.register_fake
def _(
    colours_N3HW: Tensor, weight_3C: Tensor, bias_C: Tensor | None, signs: Tensor | None
) -> tuple[Tensor, Tensor]:
    out = _like(colours_N3HW, weight_3C.shape[1])
    return out, _signs_of(out)


def from_colours(
    colours_N3HW: Tensor, weight_3C: Tensor, bias_C: Tensor | None = None, signs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The 1x1 convolution of colours: with a bias through a leaky ReLU, and its signs; with signs, times its slope."""
    return _from_colours(_laid_out(colours_N3HW), weight_3C.contiguous(), bias_C, signs)


@custom_op("likeness::to_colours", mutates_args=())
def _to_colours(x_NCHW: Tensor, signs: Tensor | None, weight_3C: Tensor) -> Tensor:
    out = _like(x_NCHW, 3)
    sizes = _pixel_blocks(x_NCHW)
    grid = (triton.cdiv(sizes["pixels"], sizes["PIXELS"]),)
    blocks = triton.cdiv(sizes["channels"], sizes["CHANNELS"])
    _to_colours_kernel[grid](x_NCHW, signs, weight_3C, out, SLOPES=signs is not None, BLOCKS=blocks, **sizes)
    return out


@_to_colours.register_fake
def _(x_NCHW: Tensor, signs: Tensor | None, weight_3C: Tensor) -> Tensor:
    return _like(x_NCHW, 3)


def to_colours(x_NCHW: Tensor, signs: Tensor | None, weight_3C: Tensor) -> Tensor:
    """(N, 3, H, W): the 1x1 convolution of x, times the slope by signs where those are given."""
    return _to_colours(_laid_out(x_NCHW), signs, weight_3C.contiguous())


def _product_blocks(x_NCHW: Tensor) -> tuple[int, int]:
    """How many blocks of pixels there are, and of how many steps."""
    sizes = _pixel_blocks(x_NCHW)
    steps = 32
    return triton.cdiv(sizes["pixels"], sizes["PIXELS"] * steps), steps


@custom_op("likeness::colour_products", mutates_args=())
def _colour_products(colours_N3HW: Tensor, x_NCHW: Tensor, signs: Tensor | None) -> Tensor:
    sizes = _pixel_blocks(x_NCHW)
    blocks, steps = _product_blocks(x_NCHW)
    sums = x_NCHW.new_empty((blocks, 4, sizes["channels"]), dtype=torch.float32)
    grid = (blocks, triton.cdiv(sizes["channels"], sizes["CHANNELS"]))
    _colour_products_kernel[grid](
        colours_N3HW, x_NCHW, signs, sums, SLOPES=signs is not None, STEPS=steps, **sizes
    )
    return sums


@_colour_products.register_fake
def _(colours_N3HW: Tensor, x_NCHW: Tensor, signs: Tensor | None) -> Tensor:
    return x_NCHW.new_empty((_product_blocks(x_NCHW)[0], 4, x_NCHW.shape[1]), dtype=torch.float32)


def colour_products(colours_N3HW: Tensor, x_NCHW: Tensor, signs: Tensor | None) -> Tensor:
    """Sums (B, 4, C) of each colour times x and of x alone, x times the slope by signs where those are given."""
    return _colour_products(_laid_out(colours_N3HW), _laid_out(x_NCHW), signs)
