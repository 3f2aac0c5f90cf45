"""A photograph turned by any angle, and points of the turned one in the first. Not here: EXIF orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocessing.photo.warp import rounded_places, warped


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """The turned photograph, and the matrix (2, 3) from the first one's points to its own."""

    photo: NDArray[np.uint8]
    matrix: NDArray[np.float64]

    def in_first(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (n, 2) of the turned photograph, in the first."""
        return rounded_places((points - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T)

    def box_in_first(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """The upright rectangle around a turned one."""
        left, top, right, bottom = box
        corners = self.in_first(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]))
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return left, top, right, bottom


def turned(photo: NDArray[np.uint8], degrees: float) -> Turned:
    """The photograph turned clockwise, whole; what is new at the corners is grey. By quarters no pixel changes."""
    height, width = photo.shape[:2]
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    quarters = round(degrees / 90)
    if abs(degrees - 90 * quarters) < 1e-9:
        matrix = np.rint(matrix)
    corners = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]) @ matrix[:, :2].T
    matrix[:, 2] = -corners.min(axis=0)
    size = np.ceil(np.ptp(corners, axis=0) - 1e-6).astype(int) + 1
    if abs(degrees - 90 * quarters) < 1e-9:
        whole = np.ascontiguousarray(np.rot90(photo, -quarters % 4))
    else:
        back = np.linalg.inv(matrix[:, :2])
        to_first = np.concatenate([back, -back @ matrix[:, 2:]], axis=1)
        whole = warped(photo, to_first, (int(size[0]), int(size[1])), outside=(128, 128, 128))
    return Turned(np.asarray(whole), matrix)
