"""How much there really is to see of a face in its photograph: what tells an original from its copies.

Neither pixels nor bytes tell: an enlarged copy has more pixels, a lossless copy of a bad JPEG more bytes. Here the
picture is cut into blocks of 8 x 8, as JPEG cuts it, and what counts is how far their frequencies stand out from a
fixed noise, per area of the face, so that empty frequencies of an enlarged copy count nothing. What copying leaves
behind counts against a copy, or for an original: levels that a tone curve has emptied, a frame, and steps of JPEG's
quantisation that are still exact, which shows that nothing came after it.

    benchmarks/copies.py fits the weights, and says how often an original wins over its copies

Not here: how sharp the crop is (`sharpness`), and which copy is kept (`preprocessing.curation`).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
Blocks = NDArray[np.float32]

BLOCK = 8
MAX_BLOCKS = 2000
"""Blocks that are looked at, evenly spread: more would tell no more, and cost time."""

NOISE = 64.0
"""Mean square that a coefficient has to stand out from, for a crop of REFERENCE_PX; in larger ones noise is finer."""
REFERENCE_PX = 256

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
    return float(np.exp(sum(WEIGHTS[name] * value for name, value in found.items()) / 2))


def features(photo: Pixels, quad: Points) -> dict[str, float]:
    """What `WEIGHTS` weigh, most of it as logarithms."""
    middle, side = quad.mean(axis=0), float(np.hypot(*(quad[3] - quad[0])))
    left, top, right, bottom = picture_in(photo)
    low = np.maximum(np.floor(middle - NONE * side).astype(int), (left, top))
    high = np.minimum(np.ceil(middle + NONE * side).astype(int), (right, bottom))
    window = photo[low[1] : max(high[1], low[1]), low[0] : max(high[0], low[0])]
    blocks, places, every = _blocks(window)
    if not len(blocks):
        return {"luma_1": -np.inf}
    apart = np.abs(places + low - middle) / side
    weights = np.prod(np.clip((NONE - apart) / (NONE - FULL), 0, 1), axis=1) * every**2
    planes = cv2.cvtColor(blocks.reshape(-1, BLOCK, 3), cv2.COLOR_RGB2YCrCb).reshape(blocks.shape)
    coefficients = np.moveaxis(planes, -1, 0).astype(np.float32)
    coefficients = _cosines() @ coefficients @ _cosines().T
    bits = np.log2(1 + np.square(coefficients) / (NOISE * (side / REFERENCE_PX) ** 2))
    bits = np.einsum("cnij,n->cij", bits, weights.astype(np.float32))
    found = {}
    for band, (first, last) in zip(BANDS, pairwise((*BANDS, 2 * BLOCK)), strict=True):
        of_band = (_sums() >= first) & (_sums() < last)
        found[f"luma_{band}"] = float(np.log(1 + bits[0, of_band].sum()))
        found[f"chroma_{band}"] = float(np.log(1 + bits[1:, of_band].sum()))
    exactness, step = _steps(coefficients[0])
    shares = np.maximum(1 - np.abs(np.log(max(step, 1) / np.array(STEP_KNOTS))) / np.log(1.45), 0)
    return {
        **found,
        "picture": float(np.log((right - left) * (bottom - top) / (photo.shape[0] * photo.shape[1]))),
        "levels": float(np.log(_levels_used(window))),
        "scene": float(np.log(max(weights.sum() * BLOCK**2 / side**2, 1e-6))),
        **{
            f"step_{knot:.0f}": exactness * float(share)
            for knot, share in zip(STEP_KNOTS, shares, strict=True)
        },
    }


def picture_in(photo: Pixels) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the picture without a frame of one colour that ends in a straight line."""
    height, width = photo.shape[:2]
    columns = np.swapaxes(photo, 0, 1)
    top, bottom, left, right = (_frame_lines(lines) for lines in (photo, photo[::-1], columns, columns[::-1]))
    return left, top, width - right, height - bottom


def _frame_lines(lines: Pixels) -> int:
    """How many of the first lines are a frame."""
    colour = np.median(lines[0], axis=0)
    for number in range(len(lines) // 3):
        differs = np.abs(lines[number] - colour).max(axis=1) > FRAME_TOLERANCE
        if differs.mean() > 0.02:
            inner = np.abs(lines[number + 1] - colour).max(axis=1) > FRAME_TOLERANCE
            return number if inner.mean() > 0.5 else 0
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
    lines = window[..., 1] if axis == 0 else window[..., 1].T
    lines = lines[:, :: max(lines.shape[1] // 256, 1)].astype(np.int16)
    steps = np.abs(np.diff(lines, axis=0)).mean(axis=1)
    whole = steps[: len(steps) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return (int(np.argmax(whole.mean(axis=0))) + 1) % BLOCK if len(whole) > 1 else 0


def _steps(luma: Blocks) -> tuple[float, float]:
    """How exactly coefficients (n, 8, 8) are multiples of some step, 0 to 1, and the mean step."""
    exactness, steps = [], []
    luma = luma[:: max(len(luma) // (MAX_BLOCKS // 2), 1)]
    for row, column in STEP_FREQUENCIES:
        values = luma[:, row, column]
        counts = np.abs(values) > STEPS[:, None] / 2  # what is nearest to zero is a multiple of anything
        number = counts.sum(axis=1)
        cosines = np.cos(2 * np.pi * values / STEPS[:, None].astype(np.float32))
        match = np.where(number >= 12, (cosines * counts).sum(axis=1) / np.maximum(number, 1), 0)
        match -= 1.5 / np.sqrt(np.maximum(number, 1))
        best = int(np.argmax(match))
        exactness.append(max(float(match[best]), 0.0))
        steps.append(float(STEPS[best]) if match[best] > 0.3 else 0.0)
    return float(np.clip((np.mean(exactness) - 0.3) / 0.4, 0, 1)), float(np.mean(steps))


def _levels_used(window: Pixels) -> float:
    """The share of levels that occur, of those that should: around which there are many pixels."""
    shares = []
    sample = window[:: max(window.shape[0] // 256, 1), :: max(window.shape[1] // 256, 1)]
    for channel in range(3):
        counts = np.bincount(sample[..., channel].ravel(), minlength=256)
        there = np.flatnonzero(counts)
        expected = np.convolve(counts, np.ones(5), "same") >= MIN_DENSITY
        expected[: there[0]] = expected[there[-1] + 1 :] = False
        shares.append(float((counts[expected] > 0).mean()) if expected.any() else 1.0)
    return float(np.mean(shares))


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float32]:
    """The orthonormal cosine transform of eight values."""
    number = np.arange(BLOCK)
    matrix = np.sqrt(2 / BLOCK) * np.cos((2 * number[None] + 1) * number[:, None] * np.pi / (2 * BLOCK))
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, np.float32)


@lru_cache(maxsize=1)
def _sums() -> NDArray[np.int64]:
    """The sum of both frequencies of each coefficient."""
    return np.asarray(np.add.outer(np.arange(BLOCK), np.arange(BLOCK)))
