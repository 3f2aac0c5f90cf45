"""Detection on a picture as small as the smallest wanted face allows finds what the full-size detector finds."""

from __future__ import annotations

from pathlib import Path

import dlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from preprocessing.photo import detect
from preprocessing.photo.align import crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces, landmarks_in_box
from preprocessing.photo.frontal import FrontalBox, frontal_boxes


def test_the_scale_follows_the_smallest_face() -> None:
    """Halving the smallest quad doubles the picture, up to what upsample allows."""
    scales = [DetectConfig(min_quad_px=size).scale for size in (644, 322, 161, 100, 20)]
    assert scales == pytest.approx([0.25, 0.5, 1, 1.61, 2])
    assert DetectConfig(min_quad_px=20, upsample=0).scale == 1
    assert DetectConfig(min_quad_px=20, upsample=3).scale == 8
    assert DetectConfig().scale == 2, "without a smallest face: as large as allowed"


def test_the_smallest_face_is_half_of_the_output_unless_given() -> None:
    """Resolution gives the default; a given value stays."""
    assert DetectConfig().resolved(256).min_quad_px == 128
    assert DetectConfig(min_quad_px=200).resolved(256).min_quad_px == 200


@pytest.fixture(scope="module")
def group(faces: Path) -> NDArray[np.uint8]:
    """A group photograph: portraits side by side, from less than half to more than twice their size."""
    canvas = np.full((1300, 1900, 3), 120, np.uint8)
    left = top = row = 0
    for number, path in enumerate(sorted((faces / "uk_parliament").iterdir())[:60:2]):
        photo = Image.fromarray(decode(path.read_bytes(), DecodeConfig()))
        side = (640, 110, 260, 520, 160)[number % 5]
        photo = photo.resize((side, side), Image.Resampling.BICUBIC)
        if left + side > canvas.shape[1]:
            left, top, row = 0, top + row, 0
        if top + side <= canvas.shape[0]:
            canvas[top : top + side, left : left + side] = np.asarray(photo)
            left, row = left + side, max(row, side)
    return canvas


@pytest.mark.parametrize("min_quad_px", [80, 160, 320])
def test_reduced_pictures_lose_no_face(group: NDArray[np.uint8], min_quad_px: int) -> None:
    """Every face of the full-size detector from the smallest quad on is found, and crops hardly move."""
    boxes = dlib.get_frontal_face_detector()(group, 1)
    quads = [
        crop_quad(landmarks_in_box(group, (box.left(), box.top(), box.right(), box.bottom()), DetectConfig()))
        for box in boxes
    ]
    quads = [quad for quad in quads if quad_side(quad) >= min_quad_px]
    assert len(quads) >= 3
    found = [crop_quad(face.landmarks) for face in detect_faces(group, DetectConfig(min_quad_px=min_quad_px))]
    drifts = []
    for quad in quads:
        nearest = min(np.sqrt(((quad - other) ** 2).sum(axis=1).mean()) for other in found)
        drifts.append(nearest / quad_side(quad))
    assert max(drifts) < 0.1, "a face was lost"
    assert np.median(drifts) < 0.01


def test_boxes_and_landmarks_are_in_pixels_of_the_photograph(group: NDArray[np.uint8]) -> None:
    """Whatever the detector's scale, a face's box holds its landmarks' middle and is about a crop's 0.6."""
    found = detect_faces(group, DetectConfig(min_quad_px=400))
    assert len(found) >= 3
    for face in found:
        left, top, right, bottom = face.box_px
        x, y = face.landmarks.mean(axis=0)
        assert left < x < right
        assert top < y < bottom
        assert 0.4 < (right - left) / quad_side(crop_quad(face.landmarks)) < 0.9


def test_the_detector_never_sees_more_than_it_may(
    group: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photograph whose picture would be too large is reduced further; its large faces are still found."""
    seen = []

    def watched(picture: NDArray[np.uint8], threshold: float) -> list[FrontalBox]:
        seen.append(picture.size)
        return frontal_boxes(picture, threshold)

    monkeypatch.setattr(detect, "frontal_boxes", watched)
    found = detect_faces(group, DetectConfig(min_quad_px=40, max_pixels=500_000))
    assert seen[0] <= 502_000
    assert any(quad_side(crop_quad(face.landmarks)) > 300 for face in found)
