"""Triton convolutions of 16 channels, which the largest images have: 3x3, and 4x4 of stride 2 to 32 channels and back.

Such a convolution waits for memory, and libraries' tiles of 64 channels leave it waiting for their arithmetic. Here a
program goes down the rows of some columns, reads each row once, and adds it to all the rows that it is a part of. With
channels last, the pixels that a kernel's row reaches from one column are one run of memory, so a row of columns is
multiplied by a row of the kernel as one matrix. Features are bfloat16 or float16; sums are float32. That this is the
same function as PyTorch's is in the tests; where it is used is in `training.ops`.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

COLUMNS = 64


def is_thin(x_NCHW: Tensor, weight_shape: Sequence[int]) -> bool:
    """Whether a convolution, or its transpose, of such a weight and input is one of those here."""
    is_half = x_NCHW.dtype in (torch.bfloat16, torch.float16)
    is_wide = x_NCHW.shape[-1] % COLUMNS == 0 and x_NCHW.shape[-2] % COLUMNS == 0
    return is_half and is_wide and tuple(weight_shape) in {(16, 16, 3, 3), (32, 16, 4, 4)}


def convolved(x_NCHW: Tensor, weight_OIkk: Tensor) -> Tensor:
    """conv2d with padding 1, of stride 1 (3x3) or 2 (4x4)."""
    taps = weight_OIkk.permute(2, 3, 1, 0)
    if weight_OIkk.shape[-1] == 3:
        taps = torch.nn.functional.pad(taps, (0, 0, 0, 0, 0, 1))
    x = x_NCHW.contiguous(memory_format=torch.channels_last)
    return _thin(x, taps.flatten(1, 2).contiguous(), "same" if weight_OIkk.shape[-1] == 3 else "down")


def transposed(y_NCHW: Tensor, weight_OIkk: Tensor) -> Tensor:
    """conv_transpose2d of the same."""
    if weight_OIkk.shape[-1] == 3:
        return convolved(y_NCHW, weight_OIkk.flip(2, 3).transpose(0, 1))
    # Of a row of the kernel, for two pixels: the first takes taps 3 and 1 of the pixels before and at it, the second
    # taps 2 and 0 of those at and after it.
    after, left, right, before = weight_OIkk.permute(3, 2, 0, 1)
    none = torch.zeros_like(left)
    first, second = (
        torch.stack(pixels, dim=1) for pixels in ((before, left, none, none), (none, right, after, none))
    )
    taps = torch.stack([first, second], dim=3)  # (row, pixel before, O, pixel, I)
    y = y_NCHW.contiguous(memory_format=torch.channels_last)
    return _thin(y, taps.flatten(3, 4).flatten(1, 2).contiguous(), "up")


# --------------------------------------------------------------------------------------------------------------


@triton.jit
def _reach(
    width, first, STRIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Where in a row lies what a row of the kernel reaches, four pixels a column, and which of it is read."""
    k = tl.arange(0, 4 * CHANNELS)[None, :]
    start = (first + tl.arange(0, COLUMNS))[:, None] * STRIDE - 1
    pixel = start + k // CHANNELS
    return start * CHANNELS + k, (pixel >= 0) & (pixel < width) & (k < PIXELS * CHANNELS)


@triton.jit
def _window(x, row, pitch, at, is_there):
    """What a kernel's row reaches in a row of x."""
    return tl.load(x + row.to(tl.int64) * pitch + at, is_there, 0.0)


@triton.jit
def _taps(weight, row, INTO: tl.constexpr, OUT: tl.constexpr):
    """A row of the kernel as a matrix."""
    return tl.load(weight + (row * INTO + tl.arange(0, INTO)[:, None]) * OUT + tl.arange(0, OUT)[None, :])


@triton.jit
def _same_kernel(
    x, weight, out, height, width,
    INTO: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    strips = width // COLUMNS
    column = tl.program_id(0) % strips * COLUMNS
    first = tl.program_id(0) // strips * ROWS
    image = tl.program_id(1).to(tl.int64) * height * width
    above, here = _taps(weight, 0, 4 * INTO, OUT), _taps(weight, 1, 4 * INTO, OUT)
    below = _taps(weight, 2, 4 * INTO, OUT)
    at, is_there = _reach(width, column, 1, 3, INTO, COLUMNS)
    pitch = width * INTO
    x += image * INTO
    row = _window(x, first - 1, pitch, at, is_there & (first > 0))
    y = tl.dot(row, above)
    row = _window(x, first, pitch, at, is_there)
    y = tl.dot(row, here, y)
    after = tl.dot(row, above)
    pixel = (column + tl.arange(0, COLUMNS))[:, None]
    c = tl.arange(0, OUT)[None, :]
    for i in range(ROWS):
        row = _window(x, first + i + 1, pitch, at, is_there & (first + i + 1 < height))
        done = tl.dot(row, below, y)
        y = tl.dot(row, here, after)
        after = tl.dot(row, above)
        to = out + (image + (first + i).to(tl.int64) * width) * OUT + (pixel * OUT + c)
        tl.store(to, done.to(out.dtype.element_ty))


@triton.jit
def _down_kernel(
    x, weight, out, height, width,
    INTO: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Height and width are the output's."""
    strips = width // COLUMNS
    column = tl.program_id(0) % strips * COLUMNS
    first = tl.program_id(0) // strips * ROWS
    image = tl.program_id(1).to(tl.int64) * height * width
    one, two = _taps(weight, 0, 4 * INTO, OUT), _taps(weight, 1, 4 * INTO, OUT)
    three, four = _taps(weight, 2, 4 * INTO, OUT), _taps(weight, 3, 4 * INTO, OUT)
    at, is_there = _reach(2 * width, column, 2, 4, INTO, COLUMNS)
    pitch = 2 * width * INTO
    x += 4 * image * INTO
    row = _window(x, 2 * first - 1, pitch, at, is_there & (first > 0))
    y = tl.dot(row, one)
    row = _window(x, 2 * first, pitch, at, is_there)
    y = tl.dot(row, two, y)
    pixel = (column + tl.arange(0, COLUMNS))[:, None]
    c = tl.arange(0, OUT)[None, :]
    for i in range(ROWS):
        odd = _window(x, 2 * (first + i) + 1, pitch, at, is_there)
        even = _window(x, 2 * (first + i) + 2, pitch, at, is_there & (2 * (first + i) + 2 < 2 * height))
        done = tl.dot(even, four, tl.dot(odd, three, y))
        y = tl.dot(even, two, tl.dot(odd, one))
        to = out + (image + (first + i).to(tl.int64) * width) * OUT + (pixel * OUT + c)
        tl.store(to, done.to(out.dtype.element_ty))


@triton.jit
def _up_kernel(
    x, weight, out, height, width,
    INTO: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Height and width are the input's; OUT is of two pixels."""
    strips = width // COLUMNS
    column = tl.program_id(0) % strips * COLUMNS
    first = tl.program_id(0) // strips * ROWS
    image = tl.program_id(1).to(tl.int64) * height * width
    one, two = _taps(weight, 0, 4 * INTO, OUT), _taps(weight, 1, 4 * INTO, OUT)
    three, four = _taps(weight, 2, 4 * INTO, OUT), _taps(weight, 3, 4 * INTO, OUT)
    at, is_there = _reach(width, column, 1, 3, INTO, COLUMNS)
    pitch = width * INTO
    x += image * INTO
    row = _window(x, first - 1, pitch, at, is_there & (first > 0))
    even = tl.dot(row, four)
    row = _window(x, first, pitch, at, is_there)
    even = tl.dot(row, two, even)
    odd = tl.dot(row, three)
    after = tl.dot(row, four)
    pixel = (column + tl.arange(0, COLUMNS))[:, None]
    c = tl.arange(0, OUT)[None, :]
    for i in range(ROWS):
        row = _window(x, first + i + 1, pitch, at, is_there & (first + i + 1 < height))
        to = out + 2 * (image + (first + i).to(tl.int64) * width) * OUT + (pixel * OUT + c)
        tl.store(to, even.to(out.dtype.element_ty))
        tl.store(to + width * OUT, tl.dot(row, one, odd).to(out.dtype.element_ty))
        even = tl.dot(row, two, after)
        odd = tl.dot(row, three)
        after = tl.dot(row, four)


def _room(x_NCHW: Tensor, weight: Tensor, kind: str) -> Tensor:
    num, _, height, width = x_NCHW.shape
    sizes = {"same": (height, width), "down": (height // 2, width // 2), "up": (2 * height, 2 * width)}[kind]
    channels = weight.shape[2] // (2 if kind == "up" else 1)
    return x_NCHW.new_empty((num, *sizes, channels)).permute(0, 3, 1, 2)


@custom_op("likeness::thin", mutates_args=())
def _thin(x_NCHW: Tensor, weight: Tensor, kind: str) -> Tensor:
    out = _room(x_NCHW, weight, kind)
    num, _, height, width = (out if kind == "down" else x_NCHW).shape
    kernel = {"same": _same_kernel, "down": _down_kernel, "up": _up_kernel}[kind]
    # As measured on an H100: rows of a program, and its warps.
    rows, num_warps = {"same": (16, 2), "down": (16, 2), "up": (64, 4)}[kind]
    rows, columns = min(rows, height), min(COLUMNS, width)
    kernel[height // rows * (width // columns), num](
        x_NCHW, weight, out, height, width,
        INTO=x_NCHW.shape[1], OUT=weight.shape[2], ROWS=rows, COLUMNS=columns, num_warps=num_warps, num_stages=3,
    )  # fmt: skip
    return out


@_thin.register_fake
def _(x_NCHW: Tensor, weight: Tensor, kind: str) -> Tensor:
    return _room(x_NCHW, weight, kind)
