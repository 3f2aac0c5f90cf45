"""From 68 landmarks to a face crop as FFHQ makes them: pure geometry and resampling.

The crop is a square in the photograph, turned with the face: its frame comes from the eyes and the mouth, and
what lies outside the photograph is reflected and blurred. Written from a description of FFHQ's alignment
(Karras et al. 2019, appendix A). Not here: finding faces, reading or writing files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from preprocessing.photo.warp import warped
from preprocessing.reject import Reason, Rejected
from storage.config import Config
from storage.errors import ConfigError

Quad = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Pads = tuple[int, int, int, int]
Span = tuple[int, int]

LEFT_EYE = slice(36, 42)  # the eye on the left of the picture
RIGHT_EYE = slice(42, 48)
MOUTH_LEFT, MOUTH_RIGHT = 48, 54

_BAND_PX = 2**13
"""Pixels that are blended at once, so that they stay in the processor's cache."""

OFFICIAL_TRANSFORM_PX = 4096
"""Side at which FFHQ samples every quad, before the Lanczos reduction to the output."""


class AlignConfig(Config):
    """The crop's size and sampling."""

    output_px: int = Field(default=256, ge=8, le=1024, description="Side of the aligned crop.")
    mode: Literal["fast", "exact"] = Field(
        default="fast",
        description="exact: FFHQ's crop bit for bit; fast: the same crop to within 50 dB, and many times faster.",
    )


def crop_quad(landmarks: npt.NDArray[np.float64]) -> Quad:
    """The crop's corners in the photograph, float64 (4, 2), from landmarks (68, 2).

    In order top-left, bottom-left, bottom-right, top-right of the upright face.
    """
    centre, x = _frame(landmarks)
    y = _turned(x)
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _frame(landmarks: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The crop's centre, and the vector from there to the middle of its right side."""
    eye_left = landmarks[LEFT_EYE].mean(axis=0)
    eye_right = landmarks[RIGHT_EYE].mean(axis=0)
    eyes = (eye_left + eye_right) * 0.5
    eye_to_eye = eye_right - eye_left
    eyes_to_mouth = (landmarks[MOUTH_LEFT] + landmarks[MOUTH_RIGHT]) * 0.5 - eyes
    x = eye_to_eye - _turned(eyes_to_mouth)
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # all points in one place: not finite, rejected later
        x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eyes_to_mouth) * 1.8)
    return eyes + eyes_to_mouth * 0.1, x


def _turned(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The vector turned by a quarter: (x, y) to (-y, x)."""
    return np.array([-vector[1], vector[0]])


def quad_side(quad: Quad) -> float:
    """Length in pixels of the quad's side, which is a square's."""
    return float(np.hypot(*(quad[3] - quad[0])))


def check_quad(quad: Quad, width_px: int, height_px: int) -> None:
    """Raise `Rejected` for a quad that is no face of a photograph of this size.

    Landmarks on a false detection can collapse to a point or spread far outside; cropping those would pad
    without bound.
    """
    side = quad_side(quad)
    if not (np.isfinite(quad).all() and 4 <= side <= 4 * min(width_px, height_px)):
        raise Rejected(Reason.BAD_GEOMETRY, f"quad side {side:.1f} px in {width_px}x{height_px}")
    if (quad.max(axis=0) <= 0).any() or (quad.min(axis=0) >= (width_px, height_px)).any():
        raise Rejected(Reason.BAD_GEOMETRY, f"quad outside of {width_px}x{height_px}")


def aligned_crop(photo: Pixels, landmarks: npt.NDArray[np.float64], config: AlignConfig) -> Pixels:
    """The aligned face, uint8 (output_px, output_px, 3), of an upright photograph (height, width, 3).

    Raises `Rejected` where the landmarks are no face of this photograph.
    """
    quad = crop_quad(landmarks)
    check_quad(quad, photo.shape[1], photo.shape[0])
    side = float(np.hypot(*_frame(landmarks)[1]) * 2)
    exact = config.mode == "exact"
    photo, quad, side = _shrunk(photo, quad, side, config.output_px, exact)
    border = max(int(np.rint(side * 0.1)), 3)
    image, quad = _cropped(photo, quad, border)
    pads = _pads(image, quad, side, border)
    if pads is not None:
        image, quad = (_padded_exactly if exact else _padded)(image, quad, pads, side)
    return (
        _sampled_exactly(image, quad, config.output_px) if exact else _sampled(image, quad, config.output_px)
    )


def _shrunk(
    photo: Pixels, quad: Quad, side: float, output_px: int, exact: bool
) -> tuple[Pixels, Quad, float]:
    """Reduce a photograph that is much finer than the crop."""
    factor = int(np.floor(side / output_px * 0.5))
    if factor <= 1:
        return photo, quad, side
    height, width = photo.shape[:2]
    size = int(np.rint(width / factor)), int(np.rint(height / factor))
    reduced = _lanczos_exactly(photo, size) if exact else _lanczos(photo, size)
    return reduced, quad / factor, side / factor


def _cropped(image: Pixels, quad: Quad, border: int) -> tuple[Pixels, Quad]:
    """Cut away what is further than `border` from the quad's bounding box."""
    low = np.maximum(np.floor(quad.min(axis=0)).astype(int) - border, 0)
    high = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + border, (image.shape[1], image.shape[0]))
    return image[low[1] : high[1], low[0] : high[0]], quad - low


def _pads(image: Pixels, quad: Quad, side: float, border: int) -> Pads | None:
    """Pixels to add at left, top, right and bottom; None where the quad stays, but for a few pixels, inside."""
    left, top = np.maximum(border - np.floor(quad.min(axis=0)).astype(int), 0)
    right, bottom = np.maximum(np.ceil(quad.max(axis=0)).astype(int) - image.shape[1::-1] + border, 0)
    if max(left, top, right, bottom) <= border - 4:
        return None
    least = int(np.rint(side * 0.3))
    return max(int(left), least), max(int(top), least), max(int(right), least), max(int(bottom), least)


# Exact: every operation and rounding of the official program.


def _padded_exactly(image: Pixels, quad: Quad, pads: Pads, side: float) -> tuple[Pixels, Quad]:
    """Reflect the photograph outwards, ever more blurred and then even: all one colour at the outer edge."""
    from scipy import ndimage

    left, top, right, bottom = pads
    pixels = np.pad(np.float32(image), ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width = pixels.shape[:2]
    x = np.arange(width, dtype=np.float32)[None, :, None]
    y = np.arange(height, dtype=np.float32)[:, None, None]
    # 1 at the outer edge, 0 at the photograph's, negative inside; float64, as float32 over an int64 pad is.
    mask = np.maximum(
        1.0 - np.minimum(x / np.int64(left), (width - 1 - x) / np.int64(right)),
        1.0 - np.minimum(y / np.int64(top), (height - 1 - y) / np.int64(bottom)),
    )
    sigma = side * 0.02
    pixels += (ndimage.gaussian_filter(pixels, [sigma, sigma, 0]) - pixels) * np.clip(
        mask * 3.0 + 1.0, 0.0, 1.0
    )
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(mask, 0.0, 1.0)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), quad + np.array([left, top])


def _sampled_exactly(image: Pixels, quad: Quad, output_px: int) -> Pixels:
    """Sample the quad at the official side, then reduce."""
    corners = tuple(float(value) for value in (quad + 0.5).flatten())
    sampled = Image.fromarray(image).transform(
        (OFFICIAL_TRANSFORM_PX, OFFICIAL_TRANSFORM_PX),
        Image.Transform.QUAD,
        corners,
        Image.Resampling.BILINEAR,
    )
    return np.array(sampled.resize((output_px, output_px), Image.Resampling.LANCZOS))


def _lanczos_exactly(image: Pixels, size: tuple[int, int]) -> Pixels:
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


# Fast: the same picture from fewer samples, with what is smooth computed at a reduced scale.


def _padded(image: Pixels, quad: Quad, pads: Pads, side: float) -> tuple[Pixels, Quad]:
    """`_padded_exactly` with blur, median and evening-out at a reduced scale, and only where the quad lies."""
    left, top, right, bottom = pads
    width, height = image.shape[1] + left + right, image.shape[0] + top + bottom
    sigma = side * 0.02
    halvings = max(round(float(np.log2(sigma / 2))), 0)
    factor = 2**halvings
    extra_x, extra_y = -width % factor, -height % factor  # so that the reduction is by a whole number
    pixels = cv2.copyMakeBorder(image, top, bottom + extra_y, left, right + extra_x, cv2.BORDER_REFLECT_101)
    x, y = _outwards(width, left, right, extra_x), _outwards(height, top, bottom, extra_y)

    small = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    # reducing and enlarging blur too, by a variance of about factor^2 / 4
    blurred = _gaussian(small, np.sqrt(sigma**2 - (factor**2 - 1) / 4) / factor)
    middle = slice(factor // 2, None, factor)
    mask = np.maximum(y[middle, None], x[None, middle])[..., None]
    sampled = pixels[middle, middle] + np.float32(0)
    sampled += (blurred - sampled) * np.clip(mask * 3 + 1, 0, 1)
    blurred += (np.median(sampled, axis=(0, 1)) - blurred) * np.clip(mask, 0, 1)

    quad = quad + np.array([left, top])
    low = np.maximum(np.floor(quad.min(axis=0)).astype(int) // factor - 1, 0)
    high = np.ceil(quad.max(axis=0)).astype(int) // factor + 2
    outside = _enlarged(blurred[low[1] : high[1], low[0] : high[0]], halvings)
    low *= factor
    rows, columns = (slice(low[axis], low[axis] + outside.shape[1 - axis]) for axis in (1, 0))
    return _blended(pixels[rows, columns], outside, x[columns], y[rows]), quad - low


def _blended(
    pixels: Pixels, outside: npt.NDArray[np.float32], x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
) -> Pixels:
    """The photograph where it is to stay, `outside` where nothing of it is left, and their mix between.

    Where anything is evened out nothing of the photograph is left, so that one blend does both. Products and sums are
    rounded one by one, which every processor does alike.
    """
    share_x, share_y = np.clip(x * 3 + 1, 0, 1), np.clip(y * 3 + 1, 0, 1)
    # along an axis of three NumPy is slow: a line is one row of levels
    share_of_levels = np.repeat(share_x, 3)[None]
    whole = np.empty_like(pixels)

    def fill(rows: slice, columns: slice) -> None:
        whole[rows, columns] = cv2.convertScaleAbs(outside[rows, columns])

    def mix(rows: slice, columns: slice) -> None:
        mixed = outside[rows, columns] - pixels[rows, columns]
        levels = slice(3 * columns.start, 3 * columns.stop)
        lines = mixed.reshape(len(mixed), -1)
        lines *= np.maximum(share_y[rows, None], share_of_levels[:, levels])
        mixed += pixels[rows, columns]
        whole[rows, columns] = cv2.convertScaleAbs(mixed)

    all_x, all_y = (0, len(x)), (0, len(y))
    mixed_x, mixed_y = _ends(share_x < 1), _ends(share_y < 1)
    inner_x, inner_y = _ends(share_x == 0), _ends(share_y == 0)
    whole[slice(*inner_y), slice(*inner_x)] = pixels[slice(*inner_y), slice(*inner_x)]
    for work, (outer_x, outer_y), (within_x, within_y) in (
        (fill, (all_x, all_y), (mixed_x, mixed_y)),
        (mix, (mixed_x, mixed_y), (inner_x, inner_y)),
    ):
        for rows, columns in _around(outer_x, outer_y, within_x, within_y):
            at_once = max(_BAND_PX // (columns.stop - columns.start), 1)
            for first in range(rows.start, rows.stop, at_once):
                work(slice(first, min(first + at_once, rows.stop)), columns)
    return whole


def _around(outer_x: Span, outer_y: Span, inner_x: Span, inner_y: Span) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the parts of a rectangle around another in it, none of them empty."""
    for rows, columns in (
        ((outer_y[0], inner_y[0]), outer_x),
        ((inner_y[1], outer_y[1]), outer_x),
        (inner_y, (outer_x[0], inner_x[0])),
        (inner_y, (inner_x[1], outer_x[1])),
    ):
        if rows[0] < rows[1] and columns[0] < columns[1]:
            yield slice(*rows), slice(*columns)


def _ends(there: npt.NDArray[np.bool_]) -> Span:
    """The first of what is there and the one behind the last; twice the middle where there is none."""
    found = np.flatnonzero(there)
    return (int(found[0]), int(found[-1]) + 1) if found.size else (len(there) // 2, len(there) // 2)


def _outwards(length: int, before: int, after: int, extra: int) -> npt.NDArray[np.float32]:
    """Along one axis: 1 at the outer edges and in `extra`, 0 at the photograph's edges, negative inside."""
    position = np.arange(length + extra, dtype=np.float32)
    inwards = np.minimum(position / np.float32(before), (length - 1 - position) / np.float32(after))
    return np.asarray(np.float32(1) - np.maximum(inwards, 0))


def _gaussian(image: Pixels, sigma: float) -> npt.NDArray[np.float32]:
    """A blurred picture in levels, to 1/256: in whole numbers OpenCV blurs alike on every processor."""
    size = 2 * int(4 * sigma + 0.5) + 1
    deep = image.astype(np.uint16) << 8
    blurred = cv2.GaussianBlur(deep, (size, size), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred / np.float32(256), np.float32)


def _enlarged(image: npt.NDArray[np.float32], halvings: int) -> npt.NDArray[np.float32]:
    """A picture enlarged twofold so many times, bilinear.

    Levels are rounded so far that the mean of four, each with its weight, is exact in float32, in whatever order.
    """
    steps = np.float32(2.0 ** (14 - 2 * halvings))
    factor = 2**halvings
    return np.asarray(
        cv2.resize(np.rint(image * steps) / steps, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    )


def _sampled(image: Pixels, quad: Quad, output_px: int, oversampling: float | None = None) -> Pixels:
    """Sample the quad only as densely as its detail needs, then reduce.

    The official sampling truncates to 8 bits and never rounds, and so does this.
    """
    side = round(output_px * (oversampling or _oversampling(image, quad_side(quad) / output_px, output_px)))
    right, down = (quad[3] - quad[0]) / side, (quad[1] - quad[0]) / side
    first = quad[0] + (right + down) / 2
    sampled = warped(image, np.stack([right, down, first], axis=1), (side, side), truncated=True)
    return _lanczos(sampled, (output_px, output_px))


def _oversampling(image: Pixels, ratio: float, output_px: int) -> float:
    """Samples a side over the output's, in quarters from 1 to 4, for a quad `ratio` times the output's side.

    Sampling m times as densely as the output errs by about 0.0038 d ratio^3.4 / m^5.5 (mean square, in grey levels)
    against sampling without end, d being the photograph's mean squared second difference: fitted to measurements by
    hand, the factor checked by `benchmarks/fidelity.py`. Together with the error of rounding, 0.1 without and 0.2 with
    a reduction, that shall stay below 0.3, which is 53 dB. Small outputs, where samples are cheap, take at least 3 if
    more than one: that halves the error of rounding.
    """
    error = 0.0038 * _detail(image) * ratio**3.4
    if error < 0.2:
        return 1.0
    return float(np.clip(np.ceil(4 * (error / 0.08) ** (1 / 5.5)) / 4, 3 if output_px <= 256 else 1, 4))


def _detail(image: Pixels) -> float:
    """Mean squared second difference along both axes, in grey levels; of green, and of every third line."""
    rows, columns = cv2.extractChannel(image[::3], 1), np.ascontiguousarray(image[:, ::3, 1])
    return _mean_square(rows, 1, 0) + _mean_square(columns, 0, 1)


def _mean_square(lines: Pixels, along_x: int, along_y: int) -> float:
    """Of second differences along one axis, in whole numbers, so that no order of summation matters; 0 of none."""
    height, width = lines.shape[0] - 2 * along_y, lines.shape[1] - 2 * along_x
    if height <= 0 or width <= 0:
        return 0.0
    whole = cv2.Sobel(lines, cv2.CV_16S, 2 * along_x, 2 * along_y, ksize=1)
    inner = whole[along_y : along_y + height, along_x : along_x + width]
    return float(round(cv2.norm(inner, cv2.NORM_L2SQR)) / inner.size)


def _lanczos(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Reduce to (width, height): Pillow's Lanczos to within a grey level, several times faster."""
    if image.shape[1::-1] == size:
        return image
    import torch  # half a second, and only where needed
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)[None]
    try:
        reduced = interpolate(pixels, size=size[::-1], mode="lanczos", antialias=True)
    except NotImplementedError as error:
        raise ConfigError(
            f"aligning in mode fast needs torch 2.12 or newer, and this is {torch.__version__}"
        ) from error
    return np.asarray(cv2.merge(list(reduced[0].numpy())))
