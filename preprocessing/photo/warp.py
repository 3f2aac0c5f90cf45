"""A picture under an affine map, bilinear, with the same pixels on every processor.

    straight = warped(photo, matrix, (256, 256))

OpenCV's own warp multiplies and adds in float32, fused into one operation where the processor has it, so that the last
bit depends on the processor. Here the places that are sampled are rounded to 1/256 pixel. Then every product and sum of
the bilinear mean is exact in float32: 8 bits of a level and twice 8 of a place are the 24 that it holds. In which order
they are computed no longer matters. Not here: which map (`preprocessing.photo.align`), and other kernels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]

_PLACES = 256
"""Places in a pixel along an axis."""
_MOST_PX = 2**15 - 2
"""The longest side that OpenCV takes."""
_BAND_PX = 2**17
"""Pixels that are made at once, so that what they are made of stays in the processor's cache."""


def warped(
    image: Pixels,
    matrix: Matrix,
    size: tuple[int, int],
    outside: tuple[int, int, int] | None = None,
    truncated: bool = False,
) -> Pixels:
    """A picture of `size` (width, height); `matrix` (2, 3) leads from its points to those of `image` (h, w, 3).

    What lies outside of `image` has the colour `outside`, or that of the nearest pixel. Means are rounded to whole
    levels, or cut off where `truncated`.
    """
    width, height = size
    part, moved = _within(image, matrix, size)
    if max(*size, *part.shape[:2]) > _MOST_PX:
        axis = 0 if width >= height else 1
        half = size[axis] // 2
        one, other = (
            ((half, height), (width - half, height)) if axis == 0 else ((width, half), (width, height - half))
        )
        further = np.column_stack([matrix[:, :2], matrix[:, 2] + half * matrix[:, axis]])
        halves = [warped(image, of, its, outside, truncated) for of, its in ((matrix, one), (further, other))]
        return np.concatenate(halves, axis=1 - axis)
    image, matrix = part, moved
    columns = np.arange(width)
    rows = np.arange(height)
    # a column's part and a row's are rounded each: their sum is exact
    x, y = (rounded_places(matrix[axis, 0] * columns).astype(np.float32) for axis in (0, 1))
    x_down, y_down = (
        rounded_places(matrix[axis, 1] * rows + matrix[axis, 2]).astype(np.float32) for axis in (0, 1)
    )
    # four channels: OpenCV has a fast path for them and none for three
    deep = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    colour = outside or (0, 0, 0)
    if truncated:  # with 8 bits more, which are then cut off
        deep, colour = _in_upper_bytes(deep), (colour[0] << 8, colour[1] << 8, colour[2] << 8)
    whole = np.empty((height, width, 3), np.uint8)
    at_once = max(_BAND_PX // width, 1)
    for first in range(0, height, at_once):
        band = slice(first, first + at_once)
        sampled = cv2.remap(
            deep,
            np.add.outer(x_down[band], x),
            np.add.outer(y_down[band], y),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT,
            borderValue=(*colour, 0),
        )
        if truncated:
            sampled = (sampled >> 8).astype(np.uint8)
        cv2.cvtColor(sampled, cv2.COLOR_RGBA2RGB, dst=whole[band])
    return whole


def rounded_places(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates to 1/256 pixel, so that the last bit of what they were computed by is gone."""
    return np.rint(places * _PLACES) / _PLACES


def _in_upper_bytes(image: Pixels) -> NDArray[np.uint16]:
    """Every level times 256."""
    height, width, channels = image.shape
    flat = image.reshape(height, width * channels)
    return np.asarray(cv2.merge([np.zeros_like(flat), flat])).view("<u2").reshape(image.shape)


def _within(image: Pixels, matrix: Matrix, size: tuple[int, int]) -> tuple[Pixels, Matrix]:
    """The part of the picture that is sampled, and the matrix to it."""
    width, height = size
    corners = np.array([(0, 0, 1), (width - 1, 0, 1), (width - 1, height - 1, 1), (0, height - 1, 1)])
    reached = corners @ matrix.T
    whole = np.array(image.shape[1::-1])
    low = np.clip(np.floor(reached.min(axis=0)).astype(int) - 2, 0, whole - 1)
    high = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 3, low + 1, whole)
    moved = matrix.copy()
    moved[:, 2] -= low
    return image[low[1] : high[1], low[0] : high[0]], moved
