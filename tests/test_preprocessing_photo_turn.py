"""Turning: points of the turned photograph are found again in the first."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.photo.turn import turned


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90])
def test_quarters_change_no_pixel(degrees: int) -> None:
    """A turn by quarters is that of NumPy, and each pixel's place leads back to it."""
    photo = np.random.default_rng(0).integers(0, 256, (5, 8, 3)).astype(np.uint8)
    whole = turned(photo, degrees)
    assert np.array_equal(whole.photo, np.rot90(photo, -degrees // 90))
    for y, x in np.ndindex(whole.photo.shape[:2]):
        (first,) = whole.in_first(np.array([(x, y)], float))
        column, row = np.rint(first).astype(int)
        assert np.allclose(first, (column, row))
        assert np.array_equal(whole.photo[y, x], photo[row, column])


@pytest.mark.parametrize("degrees", [20, -35, 135])
def test_a_turned_photograph_is_whole(degrees: int) -> None:
    """A bright spot lies where the matrix says, and every corner is inside of the turned picture."""
    photo = np.zeros((60, 90, 3), np.uint8)
    photo[28:33, 68:73] = 255
    whole = turned(photo, degrees)
    y, x = np.argwhere(whole.photo[..., 0] > 200).mean(axis=0)
    assert np.allclose(whole.in_first(np.array([(x, y)])), (70, 30), atol=0.5)
    corners = np.array([(0, 0), (89, 0), (89, 59), (0, 59)]) @ whole.matrix[:, :2].T + whole.matrix[:, 2]
    assert corners.min() > -1e-6
    assert (corners <= np.array(whole.photo.shape[1::-1])).all()


def test_the_box_of_a_turned_face_is_upright_around_it() -> None:
    """Turned by a quarter, width and height change places; turned by less, the box grows."""
    photo = np.zeros((100, 200, 3), np.uint8)
    left, top, right, bottom = turned(photo, 90).box_in_first((10, 20, 40, 90))
    assert (right - left, bottom - top) == pytest.approx((70, 30))
    left, top, right, bottom = turned(photo, 45).box_in_first((100, 100, 120, 120))
    assert right - left == pytest.approx(20 * 2**0.5, abs=1 / 128)
