"""dlib near what a cheap look finds gives the boxes that dlib gives over the whole picture, for a part of the work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocessing.photo import frontal
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, dlib_picture
from preprocessing.photo.frontal import frontal_boxes, whole_boxes
from preprocessing.sources.sample import scene_bytes

THRESHOLD = DetectConfig().threshold


def picture_of(photo: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """What dlib sees of a photograph."""
    return dlib_picture(photo, DetectConfig(), scale)


def close(boxes: list[frontal.FrontalBox]) -> list[Any]:
    """These boxes, and their scores to rounding."""
    return [(pytest.approx(box.score, abs=1e-5), *box[1:]) for box in boxes]


def scenes() -> NDArray[np.uint8]:
    """A photograph of one person, thrice: at several sizes, on grey."""
    scene = decode(scene_bytes(1), DecodeConfig())
    canvas = np.full((900, 1300, 3), 90, np.uint8)
    for left, height in ((0, 360), (330, 500), (740, 800)):
        small = cv2.resize(scene, (round(height * scene.shape[1] / scene.shape[0]), height))
        small = np.asarray(small)[:, : canvas.shape[1] - left]
        canvas[37 : 37 + height, left : left + small.shape[1]] = small
    return canvas


@pytest.mark.parametrize("scale", [0.9, 1, 1.26])
def test_cuts_give_what_the_whole_gives(scale: float) -> None:
    """Faces of several sizes have the very boxes and scores of dlib's detector over the whole picture."""
    picture = picture_of(scenes(), scale)
    near = frontal._boxes_near(picture, THRESHOLD)
    assert len(near) >= 2
    assert near == close(whole_boxes(picture, THRESHOLD))


@pytest.mark.parametrize("name", ["B000944", "C001045", "K000369", "P000603"])
@pytest.mark.parametrize("min_quad_px", [64, 128])
def test_real_portraits_have_the_boxes_of_dlib_alone(faces: Path, name: str, min_quad_px: int) -> None:
    """Of each portrait, at the sizes at which builds look."""
    photo = decode((faces / "congress" / f"{name}.jpg").read_bytes(), DecodeConfig())
    picture = picture_of(photo, DetectConfig(min_quad_px=min_quad_px).scale)
    assert frontal_boxes(picture, THRESHOLD) == close(whole_boxes(picture, THRESHOLD))


def test_every_level_of_the_pyramid_is_that_of_dlib() -> None:
    """With cuts that are whole levels the boxes are dlib's, those of doubtful things too."""
    picture = picture_of(scenes(), 1)
    pyramid, tuned = frontal._Pyramid(picture), frontal._level_detector()
    assert tuned is not None
    found = []
    for number in range(pyramid.num_levels()):
        height, width = pyramid[number].shape
        cut = frontal._Cut(0, 0, width, height)
        found += frontal._boxes_in(pyramid[number], number, cut, tuned.detector, -1.3)
    expected = whole_boxes(picture, -1.3)
    assert len(expected) > 5
    assert frontal._strongest(found, tuned) == expected


def test_nothing_is_lost_where_the_cheap_look_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place to look at, or with one that is elsewhere, dlib looks at the whole picture."""
    picture = picture_of(scenes(), 1)
    expected = whole_boxes(picture, THRESHOLD)
    for places in ([], [(0.0, 0.0, 30.0, 40.0)]):
        monkeypatch.setattr(frontal, "rough_boxes", lambda *_, places=places: places)
        assert frontal_boxes(picture, THRESHOLD) == expected


class Counted:
    """A detector that counts the pixels it sees."""

    def __init__(self, detector: Any) -> None:
        self.detector, self.pixels = detector, 0

    def run(self, picture: NDArray[np.uint8], upsample: int, threshold: float) -> Any:
        """As the detector."""
        self.pixels += picture.size
        return self.detector.run(picture, upsample, threshold)


def test_most_of_a_photograph_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a photograph of two megapixels dlib's filters see less than a quarter of the pyramid's pixels."""
    scene = decode(scene_bytes(1), DecodeConfig())
    picture = picture_of(scene, (2e6 / (scene.shape[0] * scene.shape[1])) ** 0.5)
    tuned = frontal._level_detector()
    assert tuned is not None
    counted = Counted(tuned.detector)
    monkeypatch.setattr(frontal, "_level_detector", lambda: tuned._replace(detector=counted))
    monkeypatch.setattr(frontal, "whole_boxes", lambda *_: pytest.fail("looked at whole"))
    assert frontal_boxes(picture, THRESHOLD)
    pyramid = picture.size / (1 - (5 / 6) ** 2)
    assert 0 < counted.pixels < 0.25 * pyramid, f"{counted.pixels / pyramid:.2f}"


def test_a_picture_full_of_places_is_looked_at_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cuts would be most of the pyramid, dlib's own way is the shorter one."""
    picture = picture_of(scenes(), 1)
    everywhere = [
        (float(x), float(y), x + side, y + side)
        for side in (20.0, 45.0, 90.0, 150.0)
        for x in range(0, 360, 20)
        for y in range(0, 250, 20)
    ]
    monkeypatch.setattr(frontal, "rough_boxes", lambda *_: everywhere)
    monkeypatch.setattr(frontal, "_boxes_in", lambda *_: pytest.fail("a cut was looked at"))
    assert frontal_boxes(picture, THRESHOLD) == whole_boxes(picture, THRESHOLD)


@pytest.mark.parametrize("shape", [(1, 1), (1, 200_000), (70, 3000), (3000, 66), (20, 9000), (400, 400)])
def test_odd_pictures_are_looked_at(shape: tuple[int, int]) -> None:
    """A line, a ribbon and an even picture have no face, and end nothing."""
    assert frontal_boxes(np.full(shape, 77, np.uint8), THRESHOLD) == []


@given(st.lists(st.integers(-(2**62), 2**62), min_size=19, max_size=19))
def test_numbers_are_read_as_they_are_written(numbers: list[int]) -> None:
    """The head of dlib's file goes there and back."""
    data = b"".join(map(frontal._written_number, numbers))
    assert frontal._read_numbers(data + b"rest") == (numbers, len(data))


@pytest.fixture
def unknown_form(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A dlib whose detector's file begins with other numbers."""
    monkeypatch.setattr(frontal, "_HEADER", {0: 3})
    frontal._level_detector.cache_clear()
    yield
    frontal._level_detector.cache_clear()


@pytest.mark.usefixtures("unknown_form")
def test_another_dlib_finds_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Where its detector cannot be had for one level, it looks at everything, and a warning says so once."""
    picture = picture_of(scenes(), 1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert frontal_boxes(picture, THRESHOLD) == whole_boxes(picture, THRESHOLD)
    assert len(caplog.records) == 1
