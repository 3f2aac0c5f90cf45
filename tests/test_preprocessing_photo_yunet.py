"""YuNet: its faces have FFHQ's crops, and those that dlib does not find are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.faces import FacesConfig
from preprocessing.photo.align import crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces
from preprocessing.photo.turn import turned
from preprocessing.photo.yunet import WEIGHTS, overlap
from preprocessing.sources.sample import scene_bytes
from storage.digest import file_digest
from storage.errors import ConfigError

DLIB = DetectConfig(min_quad_px=64)
YUNET = DetectConfig(min_quad_px=64, model="yunet")
BOTH = DetectConfig(min_quad_px=64, model="both")


@pytest.fixture(scope="module")
def scene() -> NDArray[np.uint8]:
    """A photograph of one face."""
    return decode(scene_bytes(1), DecodeConfig())


def drift(photo: NDArray[np.uint8], config: DetectConfig, quad: NDArray[np.float64]) -> float:
    """How far the nearest crop that is found lies from a quad, in its sides."""
    quads = [crop_quad(face.landmarks) for face in detect_faces(photo, config)]
    return min((np.abs(other - quad).max() / quad_side(quad) for other in quads), default=np.inf)


def test_the_weights_are_those_of_2023() -> None:
    """The file is what its name says: its digest is that of OpenCV's collection."""
    assert file_digest(WEIGHTS) == "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
    assert "MIT License" in (WEIGHTS.parent / "LICENSE").read_text()


def test_both_detectors_give_one_crop(scene: NDArray[np.uint8]) -> None:
    """Where both find a face, their crops lie near each other, and asked for together they give it once."""
    (face,) = detect_faces(scene, DLIB)
    measured = drift(scene, YUNET, crop_quad(face.landmarks))
    assert measured < 0.05, f"{measured:.3f} sides"
    (same,) = detect_faces(scene, BOTH)
    assert np.array_equal(same.landmarks, face.landmarks)


@pytest.mark.parametrize("degrees", [-50, -60])
def test_a_tilted_face_is_found_with_its_own_crop(scene: NDArray[np.uint8], degrees: int) -> None:
    """Turned from 23 degrees to one side to 27 and 37 to the other, the head has the crop it had."""
    (face,) = detect_faces(scene, DLIB)
    whole = turned(scene, degrees)
    quad = crop_quad(face.landmarks) @ whole.matrix[:, :2].T + whole.matrix[:, 2]
    measured = drift(whole.photo, YUNET, quad)
    assert measured < 0.08, f"{measured:.3f} sides"


@pytest.mark.parametrize(("config", "degrees"), [(DLIB, 90), (DLIB, 180), (YUNET, 90)])
def test_a_second_look_turns_the_photograph(
    scene: NDArray[np.uint8], config: DetectConfig, degrees: int
) -> None:
    """A photograph that lies on its side has a face only where `rotations` says so, and its crop is upright."""
    whole = turned(scene, degrees)
    assert not detect_faces(whole.photo, config)
    (face,) = detect_faces(scene, DLIB)
    quad = crop_quad(face.landmarks) @ whole.matrix[:, :2].T + whole.matrix[:, 2]
    measured = drift(whole.photo, config.model_copy(update={"rotations": (180, 90, 270)}), quad)
    assert measured < 0.08, f"{measured:.3f} sides"


def test_the_weights_are_part_of_what_a_face_is(tmp_path: Path) -> None:
    """By their digest, not their path; and only where they are asked."""
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(WEIGHTS.read_bytes())
    identity = FacesConfig(detect=YUNET).identity()
    assert identity["detect"]["yunet_sha256"] == file_digest(WEIGHTS)
    assert identity == FacesConfig(detect=YUNET.model_copy(update={"yunet": copy})).identity()
    assert FacesConfig(detect=DLIB).identity()["detect"]["yunet_sha256"] is None


def test_wrong_weights_are_told(tmp_path: Path, scene: NDArray[np.uint8]) -> None:
    """A file that is not there, or is no such network, is named."""
    text = tmp_path / "text.onnx"
    text.write_text("no network")
    for path in (text, tmp_path / "none.onnx"):
        with pytest.raises(ConfigError, match=path.name):
            detect_faces(scene, YUNET.model_copy(update={"yunet": path}))


def test_overlap_is_what_is_shared() -> None:
    """Of what two rectangles cover: nothing apart, all of the same, a third of halves."""
    assert overlap((0, 0, 2, 2), (3, 0, 5, 2)) == 0
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)


def test_a_portrait_that_scaling_loses_is_found(faces: Path) -> None:
    """The detector's window happens to miss this frontal face at one size; the second look finds it."""
    photo = decode((faces / "congress" / "D000355.jpg").read_bytes(), DecodeConfig())
    config = DetectConfig(min_quad_px=128)
    assert not detect_faces(photo, config.model_copy(update={"second_look": False}))
    (face,) = detect_faces(photo, config)
    assert quad_side(crop_quad(face.landmarks)) > 250
