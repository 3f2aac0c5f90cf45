"""Where a head points, and how far its landmarks are from a face: a rigid mean face fitted to 68 points.

The fit is weak perspective: rotation, one scale, and translation in the picture. Angles are in degrees and follow
the picture: yaw is positive where the face turns to the picture's right, pitch where it looks up, roll where the
head tips to the picture's right (clockwise). Zero is a face as the median portrait holds it. Not here: what angle
is too much (`preprocessing.curation`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """A fit: three angles, the error, and `residuals` (68, 2) from fit to landmarks in eye distances, not turned back.

    `error` is the weighted root mean square of the residuals' lengths.
    """

    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    error: float
    residuals: Points


def fit_pose(landmarks: Points, face: Points | None = None, weights: Points | None = None) -> Pose:
    """The least-squares fit of the mean face to landmarks (68, 2), in pixels of an upright or turned photograph.

    `face` (68, 3) and `weights` (68,) replace the built-in model. The angles turn the head about its own ear axis
    (pitch), then its neck (yaw), then in the picture (roll). Landmarks that all but coincide are an error of 1 at no
    angle.
    """
    face = FACE if face is None else face
    weights = WEIGHTS if weights is None else weights
    share = (weights / weights.sum())[:, None]
    model = face - (share * face).sum(axis=0)
    points = landmarks - (share * landmarks).sum(axis=0)
    spread = float(np.sqrt((share * points**2).sum()))
    if not 1e-6 < spread < 1e9:
        return Pose(0.0, 0.0, 0.0, 1.0, np.zeros_like(landmarks))
    points = points / spread
    affine = points.T @ (share * model) @ np.linalg.inv((share * model).T @ model)
    left, _, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    rotation = np.vstack([rows, np.cross(rows[0], rows[1])])
    root = np.sqrt(share)
    for step in range(5):
        turned = model @ rotation.T
        flat = turned[:, :2]
        scale = float((share * flat * points).sum() / (share * flat * flat).sum())
        residuals = points - scale * flat
        if step == 4 or scale < 1e-3:
            break
        x, y, z = turned.T
        zero = np.zeros_like(x)
        # Gauss-Newton: slopes of the projection by turns about x, y and z, and by scale
        slopes = np.array([[zero, scale * z, -scale * y, x], [-scale * z, zero, scale * x, y]])
        slopes = (slopes.transpose(2, 0, 1) * root[:, :, None]).reshape(-1, 4)
        turn = np.linalg.solve(slopes.T @ slopes, slopes.T @ (root * residuals).reshape(-1))
        rotation = _rotation(turn[:3]) @ rotation
    if scale < 1e-3:
        return Pose(0.0, 0.0, 0.0, 1.0, np.zeros_like(landmarks))
    residuals = residuals / scale
    return Pose(
        yaw_deg=float(np.degrees(np.arcsin(np.clip(rotation[2, 0], -1, 1)))),
        pitch_deg=float(np.degrees(np.arctan2(-rotation[2, 1], rotation[2, 2]))),
        roll_deg=float(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))),
        error=min(float(np.sqrt((share * residuals**2).sum())), 1.0),
        residuals=residuals,
    )


def _rotation(turn: Points) -> Points:
    """The rotation about the vector `turn` by its length in radians."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = turn / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: Points = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation


MIRRORED = np.array([
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
])  # fmt: skip
"""The number that each landmark has in the mirrored picture."""

_MEAN_FACE = np.array([
    (-1.15, 0.05, 0.92, 0.20), (-1.14, 0.35, 0.88, 0.25), (-1.12, 0.64, 0.87, 0.21), (-1.07, 0.94, 0.82, 0.18),
    (-0.97, 1.22, 0.67, 0.18), (-0.79, 1.47, 0.45, 0.20), (-0.56, 1.67, 0.22, 0.23), (-0.30, 1.83, 0.01, 0.20),
    (0.00, 1.87, -0.06, 0.18), (0.30, 1.83, 0.01, 0.20), (0.56, 1.67, 0.22, 0.23), (0.79, 1.47, 0.45, 0.20),
    (0.97, 1.22, 0.67, 0.18), (1.07, 0.94, 0.82, 0.18), (1.12, 0.64, 0.87, 0.21), (1.14, 0.35, 0.88, 0.25),
    (1.15, 0.05, 0.92, 0.20), (-0.93, -0.15, 0.17, 0.17), (-0.79, -0.29, 0.00, 0.22), (-0.59, -0.34, -0.11, 0.24),
    (-0.38, -0.31, -0.20, 0.23), (-0.19, -0.23, -0.28, 0.21), (0.19, -0.23, -0.28, 0.21), (0.38, -0.31, -0.20, 0.23),
    (0.59, -0.34, -0.11, 0.24), (0.79, -0.29, 0.00, 0.22), (0.93, -0.15, 0.17, 0.17), (0.00, -0.03, -0.35, 0.73),
    (0.00, 0.16, -0.42, 1.00), (0.00, 0.36, -0.52, 0.75), (0.00, 0.56, -0.61, 0.44), (-0.24, 0.68, -0.29, 0.57),
    (-0.13, 0.72, -0.36, 0.75), (0.00, 0.76, -0.40, 0.77), (0.13, 0.72, -0.36, 0.75), (0.24, 0.68, -0.29, 0.57),
    (-0.69, 0.01, 0.04, 0.42), (-0.57, -0.06, 0.00, 0.42), (-0.43, -0.06, -0.01, 0.49), (-0.30, 0.02, -0.02, 0.59),
    (-0.44, 0.05, -0.01, 0.51), (-0.57, 0.05, 0.01, 0.45), (0.30, 0.02, -0.02, 0.59), (0.43, -0.06, -0.01, 0.49),
    (0.57, -0.06, 0.00, 0.42), (0.69, 0.01, 0.04, 0.42), (0.57, 0.05, 0.01, 0.45), (0.44, 0.05, -0.01, 0.51),
    (-0.50, 1.01, 0.10, 0.17), (-0.31, 0.97, -0.11, 0.25), (-0.13, 0.95, -0.24, 0.37), (0.00, 0.98, -0.27, 0.41),
    (0.13, 0.95, -0.24, 0.37), (0.31, 0.97, -0.11, 0.25), (0.50, 1.01, 0.10, 0.17), (0.32, 1.17, -0.07, 0.21),
    (0.14, 1.24, -0.20, 0.17), (0.00, 1.26, -0.23, 0.17), (-0.14, 1.24, -0.20, 0.17), (-0.32, 1.17, -0.07, 0.21),
    (-0.43, 1.02, 0.09, 0.19), (-0.14, 1.02, -0.22, 0.36), (0.00, 1.04, -0.25, 0.42), (0.14, 1.02, -0.22, 0.36),
    (0.43, 1.02, 0.09, 0.19), (0.14, 1.12, -0.21, 0.23), (0.00, 1.13, -0.24, 0.23), (-0.14, 1.12, -0.21, 0.23),
])  # fmt: skip
"""x (picture's right), y (down), z (away) and weight of each landmark, at a distance of 1 between the eyes.

From 1,669 portraits' landmarks by benchmarks/face_model.py, which says how.
"""

FACE, WEIGHTS = _MEAN_FACE[:, :3], _MEAN_FACE[:, 3]
