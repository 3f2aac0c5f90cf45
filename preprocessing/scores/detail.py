"""How much there really is to see of a face in its photograph: what tells an original from its copies.

Neither pixels nor bytes tell: an enlarged copy has more pixels, a lossless copy of a bad JPEG more bytes. Here the
picture is cut into blocks of 8 x 8, as JPEG cuts it, and what counts is how far their frequencies stand out from a
fixed noise, per area of the face, so that empty frequencies of an enlarged copy count nothing. What copying leaves
behind counts against a copy, or for an original: levels that a tone curve has emptied, a frame, and steps of JPEG's
quantisation that are still exact, which shows that nothing came after it.

Cosines, logarithms and weights are taken from tables of rounded values, so that products and sums of them are exact in
whatever order a processor computes them.

    benchmarks/copies.py fits the weights, and says how often an original wins over its copies

Not here: how sharp the crop is (`sharpness`), and which copy is kept (`preprocessing.curation`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
Sizes = NDArray[np.int64]

BLOCK = 8
MAX_BLOCKS = 2000
"""Blocks that are looked at, evenly spread: more would tell no more, and cost time."""

NOISE = 64.0
"""Mean square that a coefficient has to stand out from, for a crop of REFERENCE_PX; in larger ones noise is finer."""
REFERENCE_PX = 256

FINENESS = 16
"""Steps in a grey level to which coefficients are rounded."""
_COSINES, _BITS, _WEIGHTS = 2.0**14, 2.0**20, 2.0**10
"""Steps from 0 to 1 in tables of cosines, bits, and weights of blocks."""
_FEW = 64
"""Rows that are multiplied at once: for more, OpenBLAS begins threads, though other workers have the other cores."""

FULL, NONE = 0.5, 1.0
"""Distances from the crop's middle, in crop sides, to which blocks count in full, and from which they do not."""

BANDS = (1, 3, 5, 8)
"""The least sums of both frequencies in each of four bands."""

STEPS = np.arange(3, 64)
"""Steps of quantisation that are looked for, in grey levels."""
STEP_FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (0, 3), (3, 0))
STEP_KNOTS = (5.0, 7.0, 10.0, 16.0, 28.0)
"""Steps for which exactness has a weight of its own; between them it is shared."""

FRAME_TOLERANCE = 24
_FRAME_CHUNK = 64
"""Lines that are looked at together, behind the first: most photographs have no frame, and most frames are narrower."""
MIN_DENSITY = 20

WEIGHTS = {
    "luma_1": 0.446,
    "luma_3": 0.0,
    "luma_5": 0.078,
    "luma_8": 0.13,
    "chroma_1": 0.072,
    "chroma_3": 0.197,
    "chroma_5": 0.078,
    "chroma_8": 0.0,
    "picture": 7.739,
    "levels": 6.695,
    "scene": 1.644,
    "step_5": 0.045,
    "step_7": 0.36,
    "step_10": 0.318,
    "step_16": -0.584,
    "step_28": 0.216,
}
"""Of the logarithms of bits in each band, which sum to one; and of what copying leaves behind."""


def detail(photo: Pixels, quad: Points) -> float:
    """The detail of one face, uint8 RGB (height, width, 3) and the crop's corners (4, 2) in it; 0 where there is none.

    The square root of bits, so that it grows with the side. Faces of one picture compare, those of two do not.
    """
    found = features(photo, quad)
    return round(math.exp(sum(WEIGHTS[name] * value for name, value in found.items()) / 2), 3)


def features(photo: Pixels, quad: Points) -> dict[str, float]:
    """What `WEIGHTS` weigh, most of it as logarithms."""
    middle, side = quad.mean(axis=0), float(np.hypot(*(quad[3] - quad[0])))
    left, top, right, bottom = picture_in(photo)
    low = np.maximum(np.floor(middle - NONE * side).astype(int), (left, top))
    high = np.minimum(np.ceil(middle + NONE * side).astype(int), (right, bottom))
    window = photo[low[1] : max(high[1], low[1]), low[0] : max(high[0], low[0])]
    blocks, places, every = _blocks(window)
    if not len(blocks):
        return {"luma_1": -math.inf}
    apart = np.abs(places + low - middle) / side
    weights = np.prod(np.clip((NONE - apart) / (NONE - FULL), 0, 1), axis=1)
    weights = np.rint(weights * _WEIGHTS) / _WEIGHTS
    planes = cv2.cvtColor(blocks.reshape(-1, BLOCK, 3), cv2.COLOR_RGB2YCrCb).reshape(-1, BLOCK**2, 3)
    sizes = [_sizes(plane) for plane in cv2.split(planes)]
    table = _bits(max(int(plane.max()) for plane in sizes), NOISE * (side / REFERENCE_PX) ** 2)
    luma, *chroma = (
        every**2 * np.einsum("n,nc->c", weights, table.take(plane)).reshape(BLOCK, BLOCK) for plane in sizes
    )
    found = {}
    for band, (first, last) in zip(BANDS, pairwise((*BANDS, 2 * BLOCK)), strict=True):
        of_band = (_sums() >= first) & (_sums() < last)
        found[f"luma_{band}"] = math.log(1 + luma[of_band].sum())
        found[f"chroma_{band}"] = math.log(1 + sum(chroma)[of_band].sum())
    exactness, step = _steps(sizes[0].reshape(-1, BLOCK, BLOCK))
    shares = [max(1 - abs(math.log(max(step, 1) / knot)) / math.log(1.45), 0.0) for knot in STEP_KNOTS]
    return {
        **found,
        "picture": math.log((right - left) * (bottom - top) / (photo.shape[0] * photo.shape[1])),
        "levels": math.log(levels) if (levels := _levels_used(window)) else -math.inf,
        "scene": math.log(max(weights.sum() * (every * BLOCK / side) ** 2, 1e-6)),
        **{f"step_{knot:.0f}": exactness * share for knot, share in zip(STEP_KNOTS, shares, strict=True)},
    }


def _sizes(plane: Pixels) -> Sizes:
    """The sizes of the coefficients of blocks (n, 64), row by row, in steps of a level."""
    levels = plane.astype(np.float32)
    levels -= 128
    coefficients = np.empty_like(levels)
    for first in range(0, len(levels), _FEW):
        rows = slice(first, first + _FEW)
        np.matmul(levels[rows], _transform(), out=coefficients[rows])
    np.abs(coefficients, out=coefficients)
    coefficients *= FINENESS
    return np.asarray(np.rint(coefficients), np.int64)


def _bits(largest: int, noise: float) -> Points:
    """How far coefficients of each size up to the largest stand out from a mean square of noise, in bits."""
    squares = (np.arange(largest + 1) / FINENESS) ** 2
    return np.rint(np.log2(1 + squares / noise) * _BITS) / _BITS


def picture_in(photo: Pixels) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the picture without a frame of one colour that ends in a straight line."""
    height, width = photo.shape[:2]
    (top, bottom), (left, right) = (
        [_frame_lines(photo, axis, backwards) for backwards in (False, True)] for axis in (0, 1)
    )
    return left, top, width - right, height - bottom


def _frame_lines(photo: Pixels, axis: int, backwards: bool) -> int:
    """How many of the first rows (axis 0) or columns are a frame, or of the last ones."""
    length = photo.shape[axis]
    edge = np.sort(photo.take(-1 if backwards else 0, axis).T.copy(), axis=1)  # of bytes faster than a median
    colour = edge[:, [(edge.shape[1] - 1) // 2, edge.shape[1] // 2]].mean(axis=1)
    low = tuple(np.maximum(np.ceil(colour - FRAME_TOLERANCE), 0).tolist())
    high = tuple(np.floor(colour + FRAME_TOLERANCE).tolist())

    def differing(first: int, last: int) -> NDArray[np.float64]:
        """Of each of these lines, counted from the edge, the share of pixels that are not of the frame's colour."""
        lines = slice(length - last, length - first) if backwards else slice(first, last)
        like = cv2.inRange(photo[lines] if axis == 0 else photo[:, lines], low, high)
        across = photo.shape[1 - axis]
        shares = (across - np.count_nonzero(like, axis=1 - axis).astype(np.float64)) / across
        return np.asarray(shares[::-1] if backwards else shares)

    first, last = 0, min(1, length // 3)
    while first < last:
        shares = differing(first, last + 1)
        if (ends := np.flatnonzero(shares[:-1] > 0.02)).size:
            return first + int(ends[0]) if shares[ends[0] + 1] > 0.5 else 0
        first, last = last, min(last + _FRAME_CHUNK, length // 3)
    return 0


def _blocks(window: Pixels) -> tuple[Pixels, Points, int]:
    """Blocks (n, 8, 8, 3) on JPEG's own grid, if there is one; and their middles (n, 2) as x and y in the window.

    Every so many in a row and in a column are taken, which is the third.
    """
    top, left = (_grid_offset(window, axis) for axis in (0, 1))
    rows, columns = (window.shape[0] - top) // BLOCK, (window.shape[1] - left) // BLOCK
    if rows <= 0 or columns <= 0:
        return np.empty((0, BLOCK, BLOCK, 3), np.uint8), np.empty((0, 2)), 1
    every = max(int(np.ceil(np.sqrt(rows * columns / MAX_BLOCKS))), 1)
    grid = window[top : top + rows * BLOCK, left : left + columns * BLOCK]
    grid = grid.reshape(rows, BLOCK, columns, BLOCK, 3)[every // 2 :: every, :, every // 2 :: every]
    x = left + BLOCK * (np.arange(every // 2, columns, every) + 0.5)
    y = top + BLOCK * (np.arange(every // 2, rows, every) + 0.5)
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(-1, BLOCK, BLOCK, 3), places, every


def _grid_offset(window: Pixels, axis: int) -> int:
    """Where along an axis the first block begins: neighbours differ most between blocks."""
    every = max(window.shape[1 - axis] // 256, 1)
    lines = window[:, ::every, 1] if axis == 0 else window[::every, :, 1]
    lines = np.ascontiguousarray(lines)
    one, other = (lines[1:], lines[:-1]) if axis == 0 else (lines[:, 1:], lines[:, :-1])
    if not one.size:
        return 0
    sums = cv2.reduce(cv2.absdiff(one, other), 1 - axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    steps = sums.ravel() / one.shape[1 - axis]
    whole = steps[: len(steps) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return (int(np.argmax(whole.mean(axis=0))) + 1) % BLOCK if len(whole) > 1 else 0


def _steps(luma: Sizes) -> tuple[float, float]:
    """How exactly coefficients, by their sizes (n, 8, 8), are multiples of some step, 0 to 1, and the mean step."""
    exactness, steps = [], []
    luma = luma[:: max(len(luma) // (MAX_BLOCKS // 2), 1)]
    sizes = np.stack([luma[:, row, column] for row, column in STEP_FREQUENCIES])
    counts = np.stack([np.bincount(of_one, minlength=int(sizes.max()) + 1) for of_one in sizes])
    matches = np.zeros((len(counts), len(STEPS)))
    there = np.flatnonzero(counts.any(axis=0))
    for first in range(0, len(there), 4 * _FEW):
        some = there[first : first + 4 * _FEW]
        matches += counts[:, some].astype(np.float64) @ _multiples()[some]
    for of_one, match in zip(sizes, matches, strict=True):
        # what is nearest to zero is a multiple of anything
        number = len(of_one) - np.searchsorted(np.sort(of_one), STEPS * FINENESS // 2, side="right")
        told = number >= 12  # of the larger steps there is too little to see
        match = np.where(told, match, 0) / np.maximum(number, 1) - 1.5 / np.sqrt(np.maximum(number, 1))
        best = int(np.argmax(match))
        exactness.append(max(float(match[best]), 0.0))
        steps.append(float(STEPS[best]) if match[best] > 0.3 else 0.0)
    return min(max((sum(exactness) / len(exactness) - 0.3) / 0.4, 0.0), 1.0), sum(steps) / len(steps)


def _levels_used(window: Pixels) -> float:
    """The share of levels that occur, of those that should: around which there are many pixels."""
    shares = []
    sample = window[:: max(window.shape[0] // 256, 1), :: max(window.shape[1] // 256, 1)]
    sample = np.ascontiguousarray(sample)
    for channel in range(3):
        counts = cv2.calcHist([sample], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        there = np.flatnonzero(counts)
        expected = np.convolve(counts, np.ones(5), "same") >= MIN_DENSITY
        expected[: there[0]] = expected[there[-1] + 1 :] = False
        shares.append(float((counts[expected] > 0).mean()) if expected.any() else 1.0)
    return float(np.mean(shares))


@lru_cache(maxsize=1)
def _transform() -> NDArray[np.float32]:
    """The orthonormal cosine transform of a block's 64 levels, as columns; exact in float32 for levels of 8 bits."""
    number = np.arange(BLOCK)
    matrix = np.sqrt(2 / BLOCK) * np.cos((2 * number[None] + 1) * number[:, None] * np.pi / (2 * BLOCK))
    matrix[0] /= np.sqrt(2)
    return np.asarray(np.rint(np.kron(matrix, matrix).T * _COSINES) / _COSINES, np.float32)


@lru_cache(maxsize=1)
def _multiples() -> Points:
    """How near each size is to a multiple of each step, from -1 to 1; 0 of sizes nearest to zero."""
    sizes = np.arange(128 * BLOCK * FINENESS + 1)[:, None]
    near = np.rint(np.cos(2 * np.pi * sizes / (FINENESS * STEPS)) * _BITS) / _BITS
    return np.where(sizes > STEPS * FINENESS // 2, near, 0.0)


@lru_cache(maxsize=1)
def _sums() -> NDArray[np.int64]:
    """The sum of both frequencies of each coefficient."""
    return np.asarray(np.add.outer(np.arange(BLOCK), np.arange(BLOCK)))
