"""The warp: bilinear to 1/256 pixel, by arithmetic in which nothing is rounded."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.photo import warp
from preprocessing.photo.warp import rounded_places, warped

TURN = np.array([[0.91, 0.07, 20.3], [-0.07, 0.91, 15.7]])


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """A picture in which every pixel is another."""
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int], outside: int | None
) -> NDArray[np.float64]:
    """The bilinear means in whole numbers over 65,536, as levels."""
    width, height = size
    places = []
    for axis in (0, 1):
        along = rounded_places(matrix[axis, 0] * np.arange(width))
        down = rounded_places(matrix[axis, 1] * np.arange(height) + matrix[axis, 2])
        places.append(((down[:, None] + along) * 256).astype(np.int64))
    (x, x_part), (y, y_part) = (np.divmod(place, 256) for place in places)
    total = np.zeros((height, width, 3), np.int64)
    for right, of_x in ((0, 256 - x_part), (1, x_part)):
        for below, of_y in ((0, 256 - y_part), (1, y_part)):
            at_x, at_y = x + right, y + below
            inside = (at_x >= 0) & (at_x < image.shape[1]) & (at_y >= 0) & (at_y < image.shape[0])
            near = image[np.clip(at_y, 0, image.shape[0] - 1), np.clip(at_x, 0, image.shape[1] - 1)].astype(
                np.int64
            )
            if outside is not None:
                near = np.where(inside[..., None], near, outside)
            total += near * (of_x * of_y)[..., None]
    return total / 65536


@pytest.mark.parametrize("outside", [None, 128])
@pytest.mark.parametrize("shift", [0, -60, 90], ids=["inside", "left and above", "right and below"])
def test_every_pixel_is_what_whole_numbers_give(shift: int, outside: int | None) -> None:
    """Rounded to the nearest, a half to the even one, or cut off: not one pixel is otherwise."""
    image, size = noise(140, 150), (131, 117)
    matrix = TURN + np.array([[0, 0, shift], [0, 0, shift]])
    means = expected(image, matrix, size, outside)
    colour = None if outside is None else (outside, outside, outside)
    assert (warped(image, matrix, size, colour) == np.rint(means)).all()
    assert (warped(image, matrix, size, colour, truncated=True) == np.floor(np.rint(means * 256) / 256)).all()


@pytest.mark.parametrize("shape", [(5, 33_000), (33_000, 5)])
def test_pictures_longer_than_opencv_takes_are_warped(shape: tuple[int, int]) -> None:
    """In parts, which a shift by whole pixels shows to be the picture itself."""
    image = noise(*shape)
    shifted = warped(image, np.array([[1.0, 0, 1], [0, 1.0, 1]]), shape[::-1])
    assert (shifted[:-1, :-1] == image[1:, 1:]).all()


def test_parts_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warp in parts is the whole one to within the places that are rounded."""
    y, x = np.mgrid[0:150, 0:160]
    image = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    whole = warped(image, TURN, (130, 120))
    monkeypatch.setattr(warp, "_MOST_PX", 100)
    assert np.abs(warped(image, TURN, (130, 120)).astype(int) - whole).max() <= 1
