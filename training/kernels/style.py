"""Filter, noise, bias, leaky ReLU, instance norm and style, and their derivatives: the generator's.

y is lrelu(x + noise * strength + bias), x filtered before where the layer has a filter.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from training.kernels.activation import sloped_row
from training.kernels.programs import (
    along,
    by_block,
    grid_of,
    laid_out,
    like,
    of_channels,
    of_image,
    place,
    slope_of,
    store_block,
    whole,
)


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
    first, w, c, image = place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    is_there = (w < width)[:, None] & (c < channels)[None, :]
    b = of_channels(bias, c, channels)
    s = b
    if NOISY:
        s = of_channels(strength, c, channels)
    mean = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    square = mean
    above = mean
    here = mean
    if FILTERS:
        above = sloped_row(x, x, image, first - 1, w, c, height, width, channels, False, COLUMNS, CHANNELS)
        here = sloped_row(x, x, image, first, w, c, height, width, channels, False, COLUMNS, CHANNELS)
    for i in range(ROWS):
        row = first + i
        pixel = image + row.to(tl.int64) * width + w
        is_own = is_there & (row < height)
        if FILTERS:
            below = sloped_row(x, x, image, row + 1, w, c, height, width, channels, False, COLUMNS, CHANNELS)
            y = along(above, here, below).to(filtered.dtype.element_ty)
            above = here
            here = below
            tl.store(filtered + pixel[:, None] * channels + c[None, :], y, is_own)
            y = y.to(tl.float32) + b
            if NOISY:
                y += tl.load(noise + pixel, (w < width) & (row < height), 0.0).to(tl.float32)[:, None] * s
        else:
            y = _before_lrelu(x, noise, s, b, pixel, c, channels, is_own, (w < width) & (row < height), NOISY)
        y = y * slope_of(y)
        distance = tl.where(is_own, y - mean, 0.0)  # Welford's: y may lie far from zero and close together
        mean += distance * (1.0 / (i + 1))
        square += distance * (y - mean)
    num_rows = tl.minimum(height - first, ROWS)
    num_columns = tl.minimum(width - tl.program_id(1) % tl.cdiv(width, COLUMNS) * COLUMNS, COLUMNS)
    middle = tl.sum(mean, 0) / num_columns
    distance = tl.where(is_there, mean - middle[None, :], 0.0)
    store_block(middle, means, c, channels, channels)
    spread = tl.sum(square, 0) + tl.sum(distance * distance, 0) * num_rows
    store_block(spread, squares, c, channels, channels)


@triton.jit(do_not_specialize=["height", "width"])
def _style_kernel(
    x, noise, strength, bias, mean, factor, shift, out, height, width, channels,
    NOISY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """(y - mean) * factor + shift."""
    first, w, c, image = place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    is_there = (w < width)[:, None] & (c < channels)[None, :]
    b = of_channels(bias, c, channels)
    s = b
    if NOISY:
        s = of_channels(strength, c, channels)
    m = of_image(mean, c, channels)
    f = of_image(factor, c, channels)
    d = of_image(shift, c, channels)
    for i in range(ROWS):
        row = first + i
        pixel = image + row.to(tl.int64) * width + w
        is_own = is_there & (row < height)
        y = _before_lrelu(x, noise, s, b, pixel, c, channels, is_own, (w < width) & (row < height), NOISY)
        tl.store(out + pixel[:, None] * channels + c[None, :], (y * slope_of(y) - m) * f + d, is_own)


@triton.jit(do_not_specialize=["height", "width"])
def _style_sums_kernel(
    g, x, noise, strength, bias, mean, of_g, of_product, height, width, channels,
    NOISY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of g, and of g * (y - mean)."""
    first, w, c, image = place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    is_there = (w < width)[:, None] & (c < channels)[None, :]
    b = of_channels(bias, c, channels)
    s = b
    if NOISY:
        s = of_channels(strength, c, channels)
    m = of_image(mean, c, channels)
    total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    product = total
    for i in range(ROWS):
        row = first + i
        pixel = image + row.to(tl.int64) * width + w
        is_own = is_there & (row < height)
        y = _before_lrelu(x, noise, s, b, pixel, c, channels, is_own, (w < width) & (row < height), NOISY)
        gradient = tl.load(g + pixel[:, None] * channels + c[None, :], is_own, 0.0).to(tl.float32)
        total += gradient
        product += gradient * (y * slope_of(y) - m)
    store_block(tl.sum(total, 0), of_g, c, channels, channels)
    store_block(tl.sum(product, 0), of_product, c, channels, channels)


@triton.jit
def _before_style(g, x, noise, s, b, p, q, r, pixel, c, channels, is_there, is_pixel, NOISY: tl.constexpr):
    """The gradient of what y is the leaky ReLU of, (p * g + q * y + r) * slope; zero outside."""
    y = _before_lrelu(x, noise, s, b, pixel, c, channels, is_there, is_pixel, NOISY)
    slope = slope_of(y)
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
    return along(left, here, right), here


@triton.jit(do_not_specialize=["height", "width"])
def _style_backward_kernel(
    g, x, noise, strength, bias, of_g, of_y, constant, out, sums, noise_sums, height, width, channels,
    NOISY: tl.constexpr, FILTERS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient of x, filtered where x was, and the sums that those of bias and strength are made of."""
    first, w, c, image = place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    is_there = (w < width)[:, None] & (c < channels)[None, :]
    b = of_channels(bias, c, channels)
    s = b
    if NOISY:
        s = of_channels(strength, c, channels)
    p = of_image(of_g, c, channels)
    q = of_image(of_y, c, channels)
    r = of_image(constant, c, channels)
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
            found = along(above, here, below)
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
    store_block(tl.sum(total, 0), sums, c, channels, channels)
    if NOISY:
        store_block(tl.sum(noisy, 0), noise_sums, c, channels, channels)


@custom_op("likeness::style_statistics", mutates_args=())
def _style_statistics(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor, filters: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grid, sizes = grid_of(x_NCHW)
    filtered = like(x_NCHW) if filters else x_NCHW.new_empty(0)
    means, squares = by_block(x_NCHW), by_block(x_NCHW)
    _statistics_kernel[grid](
        x_NCHW, noise_N1HW, strength_C, bias_C, filtered, means, squares,
        NOISY=noise_N1HW is not None, FILTERS=filters, **sizes,
    )  # fmt: skip
    return filtered, means, squares


@_style_statistics.register_fake
def _(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor, filters: bool
) -> tuple[Tensor, Tensor, Tensor]:
    filtered = like(x_NCHW) if filters else x_NCHW.new_empty(0)
    return filtered, by_block(x_NCHW), by_block(x_NCHW)


def style_statistics(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor, filters: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x filtered (empty where nothing `filters`), the mean of y, and the sum of its squared distances from it."""
    return _style_statistics(laid_out(x_NCHW), whole(noise_N1HW), strength_C, bias_C, filters)


@custom_op("likeness::styled", mutates_args=())
def _styled(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor, factor_NC: Tensor, shift_NC: Tensor,
) -> Tensor:  # fmt: skip
    grid, sizes = grid_of(x_NCHW)
    out = like(x_NCHW)
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
    return like(x_NCHW)


def styled(
    x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor, factor_NC: Tensor, shift_NC: Tensor,
) -> Tensor:  # fmt: skip
    """(y - mean) * factor + shift, of x that is filtered already."""
    of_images = (x.contiguous() for x in (mean_NC, factor_NC, shift_NC))
    return _styled(laid_out(x_NCHW), whole(noise_N1HW), strength_C, bias_C, *of_images)


@custom_op("likeness::style_sums", mutates_args=())
def _style_sums(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grid, sizes = grid_of(x_NCHW)
    of_g, of_product = by_block(x_NCHW), by_block(x_NCHW)
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
    return by_block(x_NCHW), by_block(x_NCHW)


def style_sums(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    mean_NC: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sums of g, and of g * (y - mean)."""
    g, x = laid_out(g_NCHW), laid_out(x_NCHW)
    return _style_sums(g, x, whole(noise_N1HW), strength_C, bias_C, mean_NC.contiguous())


@custom_op("likeness::style_backward", mutates_args=())
def _style_backward(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    of_g_NC: Tensor, of_y_NC: Tensor, constant_NC: Tensor, filters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grid, sizes = grid_of(x_NCHW)
    out, sums, noise_sums = like(x_NCHW), by_block(x_NCHW), by_block(x_NCHW)
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
    return like(x_NCHW), by_block(x_NCHW), by_block(x_NCHW)


def style_backward(
    g_NCHW: Tensor, x_NCHW: Tensor, noise_N1HW: Tensor | None, strength_C: Tensor | None, bias_C: Tensor,
    of_g_NC: Tensor, of_y_NC: Tensor, constant_NC: Tensor, filters: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """d = (of_g * g + of_y * y + constant) * slope, filtered where it `filters`; sums of d, and of d * noise."""
    of_images = (x.contiguous() for x in (of_g_NC, of_y_NC, constant_NC))
    g, x = laid_out(g_NCHW), laid_out(x_NCHW)
    return _style_backward(g, x, whole(noise_N1HW), strength_C, bias_C, *of_images, filters)
