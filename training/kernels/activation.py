"""Bias, leaky ReLU and binomial filter, and their derivatives: the discriminator's."""

# mypy: disable-error-code="no-any-return, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from training.kernels.programs import (
    along,
    by_block,
    grid_of,
    laid_out,
    like,
    of_channels,
    place,
    signs_of,
    slope_by_sign,
    slope_of,
    store_block,
    store_signs,
)


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
    store_signs(y, signs, pixel, tl.program_id(0) * CHANNELS, channels, is_here & is_own, COLUMNS, CHANNELS)
    y = tl.where(is_here[:, None], y * slope_of(y), 0.0)
    if FILTERS:
        is_left = (is_row & (w > 0) & (w <= width))[:, None]
        left = tl.load(x + at - channels, is_c & is_left, 0.0).to(tl.float32) + b
        left = tl.where(is_left, left * slope_of(left), 0.0)
        is_right = (is_row & (w < width - 1))[:, None]
        right = tl.load(x + at + channels, is_c & is_right, 0.0).to(tl.float32) + b
        right = tl.where(is_right, right * slope_of(right), 0.0)
        y = along(left, y, right)
    return y


@triton.jit(do_not_specialize=["height", "width"])
def _activated_kernel(
    x, bias, out, signs, height, width, channels,
    FILTERS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    first, w, c, image = place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    b = of_channels(bias, c, channels)
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
            y = along(above, here, below)
            above = here
            here = below
        else:
            y = _activated_row(
                x, b, signs, image, row, True, w, c, height, width, channels, False, COLUMNS, CHANNELS
            )
        at = (image + row.to(tl.int64) * width + w[:, None]) * channels + c[None, :]
        tl.store(out + at, y, is_there & (row < height))


@triton.jit
def sloped_pixels(a, signs, pixel, first, c, channels, is_pixel, SLOPES: tl.constexpr,
            PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """`a` at pixels (P,), times the slope if it is asked for; zero outside."""
    is_there = is_pixel[:, None] & (c < channels)[None, :]
    y = tl.load(a + pixel[:, None] * channels + c[None, :], is_there, 0.0).to(tl.float32)
    if SLOPES:
        y *= slope_by_sign(signs, pixel, first, channels, is_pixel, PIXELS, CHANNELS)
    return y


@triton.jit
def sloped_row(a, signs, image, row, w, c, height, width, channels, SLOPES: tl.constexpr,
                COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """A row of it, filtered along itself."""
    is_row = (row >= 0) & (row < height)
    pixel = image + row.to(tl.int64) * width + w
    block = tl.program_id(0) * CHANNELS
    is_left = is_row & (w > 0) & (w <= width)
    left = sloped_pixels(a, signs, pixel - 1, block, c, channels, is_left, SLOPES, COLUMNS, CHANNELS)
    here = sloped_pixels(a, signs, pixel, block, c, channels, is_row & (w < width), SLOPES, COLUMNS, CHANNELS)
    is_right = is_row & (w < width - 1)
    right = sloped_pixels(a, signs, pixel + 1, block, c, channels, is_right, SLOPES, COLUMNS, CHANNELS)
    return along(left, here, right)


@triton.jit(do_not_specialize=["height", "width"])
def _sloped_kernel(
    a, signs, out, sums, height, width, channels,
    FILTERS: tl.constexpr, SLOPES_AFTER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The slope before the filter; or after it, and sums."""
    first, w, c, image = place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    block = tl.program_id(0) * CHANNELS
    before: tl.constexpr = not SLOPES_AFTER
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    above = total
    here = total
    if FILTERS:
        above = sloped_row(
            a, signs, image, first - 1, w, c, height, width, channels, before, COLUMNS, CHANNELS
        )
        here = sloped_row(a, signs, image, first, w, c, height, width, channels, before, COLUMNS, CHANNELS)
    for i in range(ROWS):
        row = first + i
        is_pixel = (w < width) & (row < height)
        pixel = image + row.to(tl.int64) * width + w
        if FILTERS:
            below = sloped_row(
                a, signs, image, row + 1, w, c, height, width, channels, before, COLUMNS, CHANNELS
            )
            y = along(above, here, below)
            above = here
            here = below
        else:
            y = sloped_pixels(a, signs, pixel, block, c, channels, is_pixel, before, COLUMNS, CHANNELS)
        if SLOPES_AFTER:
            y *= slope_by_sign(signs, pixel, block, channels, is_pixel, COLUMNS, CHANNELS)
            total += tl.where(is_pixel[:, None], y, 0.0)
        is_own = is_pixel[:, None] & (c < channels)[None, :]
        tl.store(out + pixel[:, None] * channels + c[None, :], y, is_own)
    if SLOPES_AFTER:
        store_block(tl.sum(total, 0), sums, c, channels, channels)


@custom_op("likeness::activated", mutates_args=())
def _activated(x_NCHW: Tensor, bias_C: Tensor, filters: bool) -> tuple[Tensor, Tensor]:
    grid, sizes = grid_of(x_NCHW)
    out, signs = like(x_NCHW), signs_of(x_NCHW)
    _activated_kernel[grid](x_NCHW, bias_C, out, signs, FILTERS=filters, **sizes)
    return out, signs


@_activated.register_fake
def _(x_NCHW: Tensor, bias_C: Tensor, filters: bool) -> tuple[Tensor, Tensor]:
    return like(x_NCHW), signs_of(x_NCHW)


def activated(x_NCHW: Tensor, bias_C: Tensor, filters: bool) -> tuple[Tensor, Tensor]:
    """lrelu(x + bias), blurred where it `filters`, and the signs of x + bias."""
    return _activated(laid_out(x_NCHW), bias_C, filters)


@custom_op("likeness::sloped", mutates_args=())
def _sloped_op(a_NCHW: Tensor, signs: Tensor, filters: bool, after: bool) -> tuple[Tensor, Tensor]:
    grid, sizes = grid_of(a_NCHW)
    out, sums = like(a_NCHW), by_block(a_NCHW)
    _sloped_kernel[grid](a_NCHW, signs, out, sums, FILTERS=filters, SLOPES_AFTER=after, **sizes)
    return out, sums


@_sloped_op.register_fake
def _(a_NCHW: Tensor, signs: Tensor, filters: bool, after: bool) -> tuple[Tensor, Tensor]:
    return like(a_NCHW), by_block(a_NCHW)


def sloped(t_NCHW: Tensor, signs: Tensor, filters: bool) -> Tensor:
    """blur(t * slope), without the blur where it `filters` not."""
    return _sloped_op(laid_out(t_NCHW), signs, filters, False)[0]


def sloped_after(g_NCHW: Tensor, signs: Tensor, filters: bool) -> tuple[Tensor, Tensor]:
    """blur(g) * slope, without the blur where it `filters` not, and its sums."""
    return _sloped_op(laid_out(g_NCHW), signs, filters, True)
