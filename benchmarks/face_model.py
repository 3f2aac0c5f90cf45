"""The mean face that `preprocessing.scores.pose` fits, made from the 68 landmarks of many near-frontal portraits.

    python benchmarks/face_model.py FOLDER...

FOLDER holds portraits, one face each. Prints the rows of `preprocessing.scores.pose._MEAN_FACE` and what is known of
their accuracy. No other model enters, but for one length:

1. Landmarks and their mirror images are brought together by similarity (Procrustes); the mean gives x and y.
2. Of what is left, the first principal component is antisymmetric: heads that turn. A turn by a small angle moves
   a point sideways by the angle times its depth (Tomasi and Kanade's factorisation to first order), so this
   component is the depth, but for one factor. The second component is symmetric: heads that nod; it moves points
   vertically by the same depth, and agrees with the first (correlation printed).
3. The factor would follow from how much a face narrows as it turns, which near-frontal portraits do not show well:
   fits gave a nose 0.4 to 1.0 eye distances deep. It is set so that the nose's tip lies 0.65 eye distances (about
   42 of 64 mm, our own estimate) before the outer corners of the eyes.
4. The model is turned about its ear axis until the median portrait neither looks up nor down, and each point's
   weight is 1 / (its variance about the fit + 0.02 squared), the largest 1: mouth and jaw count less than eyes and
   nose.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from photographs import files, need

from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces
from preprocessing.scores.pose import MIRRORED, fit_pose

Points = NDArray[np.float64]

NOSE_DEPTH = 0.65
"""Of the nose's tip before the outer corners of the eyes, in distances between the eyes' centres."""


def aligned_shapes(landmarks: Points) -> Points:
    """The shapes (n, 68, 2) and their mirror images (2n, 68, 2), turned onto their mean, at unit eye distance."""
    both = np.concatenate([landmarks, landmarks[:, MIRRORED] * (-1, 1)])
    shapes = both[..., 0] + 1j * both[..., 1]
    shapes -= shapes.mean(axis=1, keepdims=True)
    shapes /= np.sqrt((abs(shapes) ** 2).sum(axis=1, keepdims=True))
    mean = shapes[0]
    for _ in range(10):
        turn = (shapes.conj() * mean).sum(axis=1)
        shapes = shapes * (turn / abs(turn))[:, None]
        mean = shapes.mean(axis=0)
    level = (mean + -mean[MIRRORED].conj()) / 2  # the symmetric mean stands upright
    turn = (mean.conj() * level).sum()
    shapes *= turn / abs(turn)
    eyes = abs(level[36:42].mean() - level[42:48].mean())
    return np.stack([shapes.real, shapes.imag], axis=-1) / eyes


def mean_face(landmarks: Points) -> tuple[Points, Points, float]:
    """Points (68, 3) and weights (68,) of the mean face, and how well the two estimates of depth agree."""
    shapes = aligned_shapes(landmarks)
    mean = shapes.mean(axis=0)
    _, _, components = np.linalg.svd((shapes - mean).reshape(len(shapes), -1), full_matrices=False)
    turn, nod = components[0].reshape(68, 2)[:, 0], components[1].reshape(68, 2)[:, 1]
    if not (np.allclose(turn, turn[MIRRORED], atol=0.02) and np.allclose(nod, nod[MIRRORED], atol=0.02)):
        raise SystemExit("the two largest variations are not heads that turn and nod: too few portraits?")
    depth = (turn + turn[MIRRORED]) / 2
    depth *= NOSE_DEPTH / (depth[[36, 45]].mean() - depth[30])
    plane = np.column_stack([depth, np.ones(68), mean[:, 1]])
    agreement = np.corrcoef(plane @ np.linalg.lstsq(plane, nod)[0], nod)[0, 1]

    points, weights = _centred(np.column_stack([mean, depth])), np.ones(68)
    for _ in range(4):
        poses = [fit_pose(shape, points, weights) for shape in landmarks]
        pitch = np.radians(np.median([pose.pitch_deg for pose in poses]))
        cos, sin = np.cos(pitch), np.sin(pitch)
        points = _centred(points @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]))
        variance = np.mean([(pose.residuals**2).sum(axis=1) for pose in poses], axis=0)
        variance = (variance + variance[MIRRORED]) / 2
        weights = 1 / (variance + 0.02**2)
        weights /= weights.max()
    return points, weights, float(agreement)


def _centred(points: Points) -> Points:
    points = (points + points[MIRRORED] * (-1, 1, 1)) / 2
    points = points - points[36:48].mean(axis=0)
    return points / (points[42:48, 0].mean() - points[36:42, 0].mean())


def main() -> None:
    """Print the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    given = parser.parse_args()
    found = []
    for path in files(given.folders, parser):
        detections = detect_faces(decode(path.read_bytes(), DecodeConfig()), DetectConfig())
        if len(detections) == 1:
            found.append(detections[0].landmarks)
    need(len(found), "photograph of one face", given.folders, parser)
    landmarks = np.array(found)
    points, weights, agreement = mean_face(landmarks)
    for row in zip(points.tolist(), weights.tolist(), strict=True):
        print("({:.2f}, {:.2f}, {:.2f}, {:.2f}),".format(*row[0], row[1]))
    poses = [fit_pose(shape, points, weights) for shape in landmarks]
    print(f"\n{len(landmarks)} faces; depth from turns and from nods: correlation {agreement:.3f}")
    for name in ("yaw_deg", "pitch_deg", "error"):
        values = np.percentile([getattr(pose, name) for pose in poses], [1, 5, 25, 50, 75, 95, 99])
        print(f"{name:>10}", *(f"{value:8.3f}" for value in values))


if __name__ == "__main__":
    main()
