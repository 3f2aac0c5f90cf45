"""What Triton programs over features share: which part each takes, room for what it gives, signs of a leaky ReLU."""

# mypy: disable-error-code="no-any-return, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 32
"""How many rows a program goes down."""
TILE = 1024
"""How many features of a row it takes, columns times channels."""


def grid_of(x_NCHW: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """The programs over features, and what each is told of them."""
    num, channels, height, width = x_NCHW.shape
    block = min(max(triton.next_power_of_2(channels), 8), 64)
    columns = TILE // block
    grid = (triton.cdiv(channels, block), triton.cdiv(height, ROWS) * triton.cdiv(width, columns), num)
    sizes = {"height": height, "width": width, "channels": channels}
    return grid, {**sizes, "ROWS": ROWS, "COLUMNS": columns, "CHANNELS": block}


def pixel_blocks(x_NCHW: Tensor) -> dict[str, int]:
    """What programs over pixels, whatever their rows, are told of features."""
    num, channels, height, width = x_NCHW.shape
    block = min(max(triton.next_power_of_2(channels), 8), 64)
    sizes = {"pixels": num * height * width, "channels": channels}
    return {**sizes, "PIXELS": TILE // block, "CHANNELS": block}


def laid_out(x_NCHW: Tensor) -> Tensor:
    """The same features, channels last."""
    return x_NCHW.contiguous(memory_format=torch.channels_last)


def whole(noise_N1HW: Tensor | None) -> Tensor | None:
    """The noise with a place in memory for each pixel of each image."""
    return None if noise_N1HW is None else noise_N1HW.contiguous()


def like(x_NCHW: Tensor, channels: int | None = None) -> Tensor:
    """Room for features of the same size."""
    num, given, height, width = x_NCHW.shape
    room = x_NCHW.new_empty((num, height, width, channels or given))
    return room.permute(0, 3, 1, 2)


def signs_of(x_NCHW: Tensor) -> Tensor:
    """Room for the signs of features, a byte for eight channels."""
    num, channels, height, width = x_NCHW.shape
    return x_NCHW.new_empty((num, height, width, triton.cdiv(channels, 8)), dtype=torch.uint8)


def by_block(x_NCHW: Tensor) -> Tensor:
    """Room for a number a block and channel."""
    return x_NCHW.new_empty((x_NCHW.shape[0], grid_of(x_NCHW)[0][1], x_NCHW.shape[1]), dtype=torch.float32)


@triton.jit
def place(height, width, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):
    """A program's first row, columns, channels, and where its image's first pixel is among all pixels."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    strips = tl.cdiv(width, COLUMNS)
    w = tl.program_id(1) % strips * COLUMNS + tl.arange(0, COLUMNS)
    return tl.program_id(1) // strips * ROWS, w, c, tl.program_id(2).to(tl.int64) * height * width


@triton.jit
def store_block(values, to, c, stride, channels):
    """Write what a program has by channel into its block's place, `stride` from the next."""
    block = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64)
    tl.store(to + block * stride + c, values, c < channels)


@triton.jit
def of_channels(values, c, channels):
    """A part of (C,) as a row."""
    return tl.load(values + c, c < channels, 0.0).to(tl.float32)[None, :]


@triton.jit
def of_image(values, c, channels):
    """A part of (N, C) as a row."""
    return tl.load(values + tl.program_id(2) * channels + c, c < channels, 0.0)[None, :]


@triton.jit
def along(left, here, right):
    """The binomial filter in one direction."""
    return 0.5 * here + 0.25 * (left + right)


@triton.jit
def slope_of(y):
    """Of the leaky ReLU."""
    return tl.where(y > 0, 1.0, 0.2)


@triton.jit
def slope_by_sign(signs, pixel, first, channels, is_there, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """The slope at pixels (P,), of channels from `first` on."""
    byte = first // 8 + tl.arange(0, CHANNELS // 8)
    at = pixel[:, None] * tl.cdiv(channels, 8) + byte[None, :]
    eight = tl.load(signs + at, is_there[:, None] & (byte * 8 < channels)[None, :], 0).to(tl.int32)
    bits = (eight[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.where(tl.reshape(bits, (PIXELS, CHANNELS)) != 0, 1.0, 0.2)


@triton.jit
def store_signs(y, signs, pixel, first, channels, is_there, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Write the signs of y at pixels (P,), of channels from `first` on."""
    bits = tl.reshape((y > 0).to(tl.int32), (PIXELS, CHANNELS // 8, 8)) << tl.arange(0, 8)[None, None, :]
    byte = first // 8 + tl.arange(0, CHANNELS // 8)
    at = pixel[:, None] * tl.cdiv(channels, 8) + byte[None, :]
    tl.store(signs + at, tl.sum(bits, 2).to(tl.uint8), is_there[:, None] & (byte * 8 < channels)[None, :])
