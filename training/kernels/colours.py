"""Colours: 1x1 convolutions between features and three channels, and products with those.

Libraries have convolutions of many channels; of three they make passes over padded copies.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from training.kernels.activation import sloped_pixels
from training.kernels.programs import (
    laid_out,
    like,
    of_channels,
    pixel_blocks,
    signs_of,
    slope_by_sign,
    slope_of,
    store_signs,
)


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
        y += value[:, None] * of_channels(weight + colour * channels, c, channels)
    if ACTIVATES:
        y += of_channels(bias, c, channels)
        store_signs(y, signs_out, pixel, tl.program_id(1) * CHANNELS, channels, is_pixel, PIXELS, CHANNELS)
        y *= slope_of(y)
    if SLOPES:
        y *= slope_by_sign(signs, pixel, tl.program_id(1) * CHANNELS, channels, is_pixel, PIXELS, CHANNELS)
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
        y = sloped_pixels(x, signs, pixel, i * CHANNELS, c, channels, is_pixel, SLOPES, PIXELS, CHANNELS)
        red += tl.sum(y * of_channels(weight, c, channels), 1)
        green += tl.sum(y * of_channels(weight + channels, c, channels), 1)
        blue += tl.sum(y * of_channels(weight + 2 * channels, c, channels), 1)
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
        y = sloped_pixels(x, signs, pixel, block, c, channels, is_pixel, SLOPES, PIXELS, CHANNELS)
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
    out = like(colours_N3HW, weight_3C.shape[1])
    signs_out = signs_of(out)
    sizes = pixel_blocks(out)
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
    out = like(colours_N3HW, weight_3C.shape[1])
    return out, signs_of(out)


def from_colours(
    colours_N3HW: Tensor, weight_3C: Tensor, bias_C: Tensor | None = None, signs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The 1x1 convolution of colours: with a bias through a leaky ReLU, and its signs; with signs, times its slope."""
    return _from_colours(laid_out(colours_N3HW), weight_3C.contiguous(), bias_C, signs)


@custom_op("likeness::to_colours", mutates_args=())
def _to_colours(x_NCHW: Tensor, signs: Tensor | None, weight_3C: Tensor) -> Tensor:
    out = like(x_NCHW, 3)
    sizes = pixel_blocks(x_NCHW)
    grid = (triton.cdiv(sizes["pixels"], sizes["PIXELS"]),)
    blocks = triton.cdiv(sizes["channels"], sizes["CHANNELS"])
    _to_colours_kernel[grid](x_NCHW, signs, weight_3C, out, SLOPES=signs is not None, BLOCKS=blocks, **sizes)
    return out


@_to_colours.register_fake
def _(x_NCHW: Tensor, signs: Tensor | None, weight_3C: Tensor) -> Tensor:
    return like(x_NCHW, 3)


def to_colours(x_NCHW: Tensor, signs: Tensor | None, weight_3C: Tensor) -> Tensor:
    """(N, 3, H, W): the 1x1 convolution of x, times the slope by signs where those are given."""
    return _to_colours(laid_out(x_NCHW), signs, weight_3C.contiguous())


def _product_blocks(x_NCHW: Tensor) -> tuple[int, int]:
    """How many blocks of pixels there are, and of how many steps."""
    sizes = pixel_blocks(x_NCHW)
    steps = 32
    return triton.cdiv(sizes["pixels"], sizes["PIXELS"] * steps), steps


@custom_op("likeness::colour_products", mutates_args=())
def _colour_products(colours_N3HW: Tensor, x_NCHW: Tensor, signs: Tensor | None) -> Tensor:
    sizes = pixel_blocks(x_NCHW)
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
    return _colour_products(laid_out(colours_N3HW), laid_out(x_NCHW), signs)
