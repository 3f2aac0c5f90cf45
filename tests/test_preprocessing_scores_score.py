"""Scores: each moves as its name says, on synthetic geometry and on real portraits."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from preprocessing.faces import FacesConfig
from preprocessing.photo.align import AlignConfig, aligned_crop, crop_quad
from preprocessing.photo.detect import DetectConfig, detect_faces, packaged_model
from preprocessing.scores.catalogue import MEASURED
from preprocessing.scores.pose import FACE, MIRRORED, WEIGHTS, fit_pose
from preprocessing.scores.score import (
    FACE_AREA,
    ScoreConfig,
    colorfulness,
    feature_margin,
    padding_fraction,
    score_face,
    sharpness,
)
from storage.digest import file_digest
from storage.errors import ConfigError

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
DETECT = DetectConfig()


@dataclass
class Portrait:
    """A photograph and the landmarks of its face."""

    photo: Pixels
    landmarks: Points

    def crop(self, side: int = 256) -> Pixels:
        """The aligned crop."""
        return aligned_crop(self.photo, self.landmarks, AlignConfig(output_px=side))

    def scores(self, side: int = 256, config: ScoreConfig | None = None, **changed: Any) -> Any:
        """The face's scores, with other crop or landmarks where given."""
        crop = changed.get("crop", self.crop(side))
        landmarks = changed.get("landmarks", self.landmarks)
        return score_face(self.photo, crop, landmarks, crop_quad(landmarks), config or ScoreConfig(), DETECT)


def portrait_of(photo: Pixels) -> Portrait:
    """A photograph with its surest face."""
    return Portrait(photo, detect_faces(photo, DETECT)[0].landmarks)


@pytest.fixture(scope="module")
def astronaut() -> Portrait:
    """The portrait of Eileen Collins that scikit-image carries."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-image is not installed")
    photo = np.array(Image.open(Path(spec.origin).parent / "data" / "astronaut.png").convert("RGB"))
    return portrait_of(np.ascontiguousarray(photo[:330]))


@pytest.fixture(scope="module")
def portraits(faces: Path) -> list[Portrait]:
    """A dozen real portraits, a few of each collection."""
    paths = [path for name in ("bundestag", "congress", "uk_parliament")
             for path in sorted((faces / name).iterdir())[::40][:4]]  # fmt: skip
    return [portrait_of(np.array(Image.open(path).convert("RGB"))) for path in paths]


def square(left: float, top: float, side: float, turn_deg: float = 0.0) -> Points:
    """A quad (4, 2), in the order of crops, turned about its centre."""
    corners = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * side / 2
    angle = math.radians(turn_deg)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(corners @ turn.T + (left + side / 2, top + side / 2))


def rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Points:
    """The rotation that turns the mean face by these angles, as `pose` defines them."""
    a, b, c = math.radians(-yaw_deg), math.radians(-pitch_deg), math.radians(roll_deg)
    y = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return np.asarray(z @ y @ x)


# Geometry


def test_padding_is_the_share_outside() -> None:
    """Squares with a known part outside of the photograph give that part, from none to all."""
    inside = padding_fraction(square(9.5, 9.5, 50), 100, 80)
    assert inside == pytest.approx(0, abs=1e-12)
    assert padding_fraction(square(-0.5, -0.5, 80), 100, 80) == pytest.approx(0, abs=1e-12)  # edge to edge
    assert padding_fraction(square(-25.5, 0, 50), 100, 80) == pytest.approx(0.5)
    assert padding_fraction(square(74.5, 54.5, 50), 100, 80) == pytest.approx(0.75)
    assert padding_fraction(square(-100, -100, 50), 100, 80) == 1
    diamond = square(-25.5, 14.5, 50, 45)  # centred on the left edge
    assert padding_fraction(diamond, 1000, 1000) == pytest.approx(0.5)
    whole = square(-200.5, -210.5, 500, 30)
    assert padding_fraction(whole, 100, 80) == pytest.approx(1 - 100 * 80 / 500**2)


def test_padding_agrees_with_counting() -> None:
    """For quads anywhere, the exact share is what counting points gives."""
    rng = np.random.default_rng(0)
    u, v = rng.random((2, 40_000))
    for _ in range(30):
        left, top = rng.uniform(-80, 120, 2)
        quad = square(left, top, rng.uniform(20, 150), rng.uniform(0, 360))
        points = quad[0] + u[:, None] * (quad[3] - quad[0]) + v[:, None] * (quad[1] - quad[0]) + 0.5
        counted = 1 - np.mean((points >= 0).all(axis=1) & (points <= (160, 110)).all(axis=1))
        exact = padding_fraction(quad, 160, 110)
        assert abs(exact - counted) < 0.01, f"{exact:.4f} exact, {counted:.4f} counted"


def test_margin_is_the_nearest_edge() -> None:
    """Eyes and mouth count, brows and jaw do not; the photograph's edge counts where it is nearer than the crop's."""
    landmarks = np.full((68, 2), 50.0)
    landmarks[:36] = -1000
    quad = square(0, 0, 100)
    assert feature_margin(landmarks, quad, 200, 200) == pytest.approx(0.5)
    landmarks[60] = (90, 50)
    assert feature_margin(landmarks, quad, 200, 200) == pytest.approx(0.1)
    assert feature_margin(landmarks, quad, 95, 200) == pytest.approx(0.045)
    assert feature_margin(landmarks, quad, 80, 200) == pytest.approx(-0.105)


@pytest.mark.parametrize("yaw", [-40, -15, 0, 25])
@pytest.mark.parametrize("pitch", [-25, 0, 20])
@pytest.mark.parametrize("roll", [-70, 0, 30])
def test_pose_is_recovered(yaw: float, pitch: float, roll: float) -> None:
    """Turned, scaled, moved and noisy copies of the mean face give their angles back within 3 degrees."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        points = 80 * (FACE @ rotation(yaw, pitch, roll).T)[:, :2] + (300, 200)
        pose = fit_pose(points + rng.normal(0, 80 * 0.015, points.shape))
        found = np.array([pose.yaw_deg, pose.pitch_deg, pose.roll_deg])
        assert np.abs(found - (yaw, pitch, roll)).max() < 3, f"{found} of {(yaw, pitch, roll)}"
        assert pose.error < 0.03, f"error {pose.error:.3f}"
    exact = fit_pose(points)
    assert exact.error < 1e-6
    assert exact.yaw_deg == pytest.approx(yaw, abs=1e-3)


def test_yaw_follows_the_nose() -> None:
    """A nose right of the eyes' middle is positive yaw, one nearer to the eyes positive pitch."""
    right = FACE[:, :2].copy()
    right[27:36, 0] += np.linspace(0.02, 0.2, 9)
    assert fit_pose(right).yaw_deg > 3
    up = FACE[:, :2].copy()
    up[28:31, 1] -= 0.1
    assert fit_pose(up).pitch_deg > 1


def test_mirrored_portraits_turn_the_other_way(portraits: list[Portrait]) -> None:
    """Mirrored landmarks negate yaw and roll and keep pitch; turned ones change roll alone."""
    for portrait in portraits:
        pose = fit_pose(portrait.landmarks)
        mirrored = fit_pose((portrait.landmarks * (-1, 1))[MIRRORED])
        assert mirrored.yaw_deg == pytest.approx(-pose.yaw_deg, abs=0.01)
        assert mirrored.roll_deg == pytest.approx(-pose.roll_deg, abs=0.01)
        assert mirrored.pitch_deg == pytest.approx(pose.pitch_deg, abs=0.01)
        turned = fit_pose(portrait.landmarks @ rotation(0, 0, 20)[:2, :2].T)
        assert turned.roll_deg == pytest.approx(pose.roll_deg + 20, abs=0.01)
        assert turned.yaw_deg == pytest.approx(pose.yaw_deg, abs=0.01)
        assert max(abs(pose.yaw_deg), abs(pose.pitch_deg), abs(pose.roll_deg)) < 30, f"{pose}"


def test_a_mirrored_photograph_turns_the_other_way(astronaut: Portrait) -> None:
    """Landmarks found anew in the mirrored photograph give the opposite yaw and roll within a few degrees."""
    pose = fit_pose(astronaut.landmarks)
    mirrored = fit_pose(portrait_of(np.ascontiguousarray(astronaut.photo[:, ::-1])).landmarks)
    for there, back in ((pose.yaw_deg, -mirrored.yaw_deg), (pose.roll_deg, -mirrored.roll_deg),
                        (pose.pitch_deg, mirrored.pitch_deg)):  # fmt: skip
        assert there == pytest.approx(back, abs=4), f"{pose} and mirrored {mirrored}"


def test_the_mean_face_is_symmetric() -> None:
    """Mirroring the model is renumbering it, for points and weights."""
    assert np.array_equal(MIRRORED[MIRRORED], np.arange(68))
    assert np.allclose(FACE[MIRRORED], FACE * (-1, 1, 1), atol=0.011)
    assert np.allclose(WEIGHTS[MIRRORED], WEIGHTS, atol=0.011)


@pytest.mark.parametrize(
    "points", [np.zeros((68, 2)), np.full((68, 2), 1e12), np.stack([np.arange(68.0)] * 2, 1)]
)
def test_degenerate_landmarks_have_numbers(points: Points) -> None:
    """Points in one place, or on one line, give finite angles and an error."""
    pose = fit_pose(points)
    assert all(map(math.isfinite, (pose.yaw_deg, pose.pitch_deg, pose.roll_deg, pose.error))), f"{pose}"
    assert pose.error > 0.1, f"error {pose.error:.3f}"


# Pixels


def blurred(crop: Pixels, sigma: float) -> Pixels:
    """The crop out of focus."""
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), dtype=np.uint8)


def test_blur_lowers_sharpness(portraits: list[Portrait]) -> None:
    """Every further blur lowers the sharpness of every face, at every size of crop."""
    for side in (64, 128, 256, 512):
        for portrait in portraits[:: 1 if side == 256 else 4]:
            crop = portrait.crop(side)
            values = [sharpness(crop)]
            values += [sharpness(blurred(crop, share * side)) for share in (0.008, 0.015, 0.02, 0.03, 0.04)]
            assert all(a > b for a, b in pairwise(values)), f"{side} px: {values}"


def test_sharpness_is_the_blur_of_an_edge() -> None:
    """Ideal edges blurred by w pixels have sharpness 1 / sqrt(1 + w^2), whatever their contrast and direction."""
    y, x = np.mgrid[0:256, 0:256]
    for angle in (0.0, 0.4, 1.3):
        along = x * math.cos(angle) + y * math.sin(angle)
        distance = np.abs(along % 32 - 16) - 8  # from the nearest edge; one every 16 pixels
        for low, high in ((20, 220), (100, 140)):
            for width in (1.0, 2.0, 4.0):
                share = (1 + np.vectorize(math.erf)(distance / width / math.sqrt(2))) / 2
                stripes = np.rint(low + (high - low) * share).astype(np.uint8)
                value = sharpness(np.repeat(stripes[..., None], 3, axis=2))
                found = math.sqrt(1 / value**2 - 1)
                assert found == pytest.approx(width, rel=0.2), f"{found:.2f} px for {width} px"


def test_sharpness_is_of_focus_alone(portraits: list[Portrait]) -> None:
    """Darker, flatter, noisier or JPEG copies keep the sharpness; enlarged ones lose it."""
    rng = np.random.default_rng(2)

    def enlarged(crop: Pixels, factor: int) -> Pixels:
        small = cv2.resize(crop, (256 // factor, 256 // factor), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)

    def of_jpeg(crop: Pixels) -> Pixels:
        data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)

    kept: dict[str, Callable[[Pixels], Pixels]] = {
        "dark": lambda crop: (crop * 0.4).astype(np.uint8),
        "flat": lambda crop: (crop * 0.5 + 90).astype(np.uint8),
        "noisy": lambda crop: np.clip(crop + rng.normal(0, 5, crop.shape), 0, 255).astype(np.uint8),
        "jpeg": of_jpeg,
    }
    for portrait in portraits:
        crop = portrait.crop()
        value = sharpness(crop)
        for name, change in kept.items():
            assert sharpness(change(crop)) == pytest.approx(value, abs=0.03), name
        assert sharpness(enlarged(crop, 4)) < sharpness(enlarged(crop, 2)) < value


def test_sharpness_compares_across_sizes(astronaut: Portrait) -> None:
    """Crops no finer than the photograph are about as sharp at every size; beyond that, sharpness falls."""
    large = Portrait(
        cv2.resize(astronaut.photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        astronaut.landmarks / 2,
    )
    fine = [astronaut.scores(side).sharpness for side in (64, 128)]
    assert fine[0] == pytest.approx(fine[1], abs=0.12), f"{fine}"
    beyond = [large.scores(side).sharpness for side in (128, 256, 512, 1024)]
    assert all(a > b + 0.05 for a, b in pairwise(beyond)), f"{beyond}"


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_crops_have_numbers(astronaut: Portrait, value: int) -> None:
    """A crop without any structure, even of 8 pixels, has finite scores: not sharp, not coloured."""
    for side in (8, 256):
        scores = astronaut.scores(crop=np.full((side, side, 3), value, np.uint8))
        numbers = [number for number in scores.values() if isinstance(number, float)]
        assert all(map(math.isfinite, numbers)), f"{scores}"
        assert scores.sharpness == 0
        assert scores.colorfulness == pytest.approx(0, abs=1e-9)
        assert scores.brightness == pytest.approx(value / 255)
        assert scores.clipped_fraction == (value != 128)


def test_landmarks_off_the_face_are_an_error(portraits: list[Portrait]) -> None:
    """Landmarks that fit score low, moved ones with their crop ever higher, and any in a picture of noise high."""
    for portrait in portraits:
        eyes = np.hypot(*(portrait.landmarks[36:42].mean(0) - portrait.landmarks[42:48].mean(0)))
        errors = []
        for share in (0, 0.15, 0.3):
            moved = portrait.landmarks + np.array([share * eyes, 0])
            crop = aligned_crop(portrait.photo, moved, AlignConfig())
            errors.append(portrait.scores(landmarks=moved, crop=crop).landmark_error)
        assert errors[0] < 0.06 < errors[1] < errors[2], f"{errors}"
    scores = portrait.scores(crop=np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    assert scores.landmark_error > 0.1, f"{scores.landmark_error:.3f} in noise"


def test_landmark_error_compares_across_sizes(astronaut: Portrait) -> None:
    """The size of the crop hardly changes the error of its landmarks."""
    errors = [astronaut.scores(side).landmark_error for side in (64, 128, 256, 1024)]
    assert max(errors) - min(errors) < 0.015, f"{errors}"


def test_grey_and_sepia_have_no_colour(portraits: list[Portrait]) -> None:
    """A grey copy of a portrait has colour 0, a toned one nearly so, the portrait itself more."""
    for portrait in portraits:
        crop = portrait.crop()
        grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        share = grey / 255.0
        sepia = np.clip(share * (255, 235, 205) + (20, 8, 0) * (1 - share), 0, 255).astype(np.uint8)
        assert colorfulness(grey) < 1e-9
        assert colorfulness(sepia) < 0.005, f"sepia {colorfulness(sepia):.4f}"
        assert colorfulness(crop) > 0.012, f"{colorfulness(crop):.4f}"


def test_exposure_is_of_the_face(astronaut: Portrait) -> None:
    """Brightness follows a gain, clipping grows with it, and what surrounds the face has no say."""
    crop = astronaut.crop()
    plain = astronaut.scores(crop=crop)
    dark, bright = (
        astronaut.scores(crop=np.clip(crop * gain, 0, 255).astype(np.uint8)) for gain in (0.5, 1.8)
    )
    assert dark.brightness == pytest.approx(plain.brightness / 2, abs=0.01)
    assert bright.clipped_fraction > plain.clipped_fraction + 0.1
    framed = np.zeros_like(crop)
    left, top, right, bottom = (round(edge * 256) for edge in FACE_AREA)
    framed[top:bottom, left:right] = crop[top:bottom, left:right]
    assert astronaut.scores(crop=framed).brightness == plain.brightness
    assert astronaut.scores(crop=framed).clipped_fraction == plain.clipped_fraction


def test_hashes_find_the_same_picture(portraits: list[Portrait]) -> None:
    """PDQ hashes are 64 hex digits, near for a re-saved or resized crop and far for another person's."""
    hashes = []
    for portrait in portraits:
        crop = portrait.crop()
        first = portrait.scores(crop=crop)
        again = portrait.scores(
            crop=cv2.imdecode(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)
        )
        smaller = portrait.scores(128)
        assert len(first.pdq) == 64
        assert first.pdq_quality > 50
        hashes.append(int(first.pdq, 16))
        near = max((hashes[-1] ^ int(other.pdq, 16)).bit_count() for other in (again, smaller))
        assert near <= 24, f"{near} bits"
    apart = min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i])
    assert apart > 40, f"{apart} bits"


def test_scores_are_those_of_the_catalogue(astronaut: Portrait) -> None:
    """The same pixels give the same scores, each of the catalogue's kind; those not asked for are None."""
    scores = astronaut.scores(config=ScoreConfig(embedding=True))
    assert scores == astronaut.scores(config=ScoreConfig(embedding=True))
    kinds = {"float": float, "int": int, "text": str, "vector": tuple}
    measured = {score.name: kinds[score.kind] for score in MEASURED if score.name != "filter_score"}
    assert {name: type(value) for name, value in scores.items() if value is not None} == measured
    assert (astronaut.scores().embedding, astronaut.scores().filter_score) == (None, None)


# Models


def test_embeddings_tell_people_apart(portraits: list[Portrait]) -> None:
    """The same face in another crop lies near, other people's lie apart; 128 plain floats."""
    config = ScoreConfig(embedding=True)
    found = []
    for portrait in portraits[:5]:
        first, smaller = (np.array(portrait.scores(side, config).embedding) for side in (256, 128))
        assert first.shape == (128,)
        near = float(np.linalg.norm(first - smaller))
        assert near < 0.35, f"{near:.2f}"
        found.append(first)
    apart = min(float(np.linalg.norm(a - b)) for i, a in enumerate(found) for b in found[:i])
    assert apart > 0.5, f"{apart:.2f}"


def write_model(
    path: Path, shape: list[Any], axes: list[int], element: str = "FLOAT", log: bool = False
) -> Path:
    """An ONNX model that takes `shape` and gives the mean over `axes`, or its logarithm of minus one less."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, getattr(onnx.TensorProto, element)
    nodes = [helper.make_node("ReduceMean", ["faces", "axes"], ["mean"], keepdims=0)]
    if log:
        nodes += [
            helper.make_node("Sub", ["mean", "one"], ["less"]),
            helper.make_node("Log", ["less"], ["score"]),
        ]
    else:
        nodes += [helper.make_node("Identity", ["mean"], ["score"])]
    graph = helper.make_graph(
        nodes, "mean", [helper.make_tensor_value_info("faces", kind, shape)],
        [helper.make_tensor_value_info("score", kind, None)],
        [helper.make_tensor("axes", onnx.TensorProto.INT64, [len(axes)], axes),
         helper.make_tensor("one", kind, [], [1])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_users_model_scores_faces(astronaut: Portrait, tmp_path: Path) -> None:
    """The model sees RGB from 0 to 1 at its own size, and its number is the filter score; its sha256 is identity."""
    pytest.importorskip("onnxruntime")
    for shape in (["N", 3, 24, 20], [1, 3, 300, 300]):
        path = write_model(tmp_path / f"mean{shape[2]}.onnx", shape, [1, 2, 3])
        config = ScoreConfig(filter_model=path)
        crop = astronaut.crop()
        score = astronaut.scores(config=config).filter_score
        assert score == pytest.approx(crop.mean() / 255, abs=0.005)
        assert score == astronaut.scores(config=config).filter_score
        identity = config.identity()
        assert identity["filter_model_sha256"] == file_digest(path)
        assert str(tmp_path) not in str(FacesConfig(scores=config).identity())


def test_other_models_are_refused(tmp_path: Path) -> None:
    """A missing file, another format, other inputs or outputs, and NaN are errors that name file and shape."""
    pytest.importorskip("onnxruntime")
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    cases = [
        (tmp_path / "none.onnx", "is not a file"),
        (text, "not an ONNX model"),
        (write_model(tmp_path / "grey.onnx", [1, 1, 8, 8], [1, 2, 3]), r"float32 \(N, 3, H, W\)"),
        (write_model(tmp_path / "double.onnx", [1, 3, 8, 8], [1, 2, 3], "DOUBLE"), r"float32 \(N, 3, H, W\)"),
        (write_model(tmp_path / "free.onnx", ["N", 3, "H", "W"], [1, 2, 3]), r"float32 \(N, 3, H, W\)"),
        (write_model(tmp_path / "map.onnx", ["N", 3, 8, 8], [1]), r"\(N,\) or \(N, 1\)"),
        (write_model(tmp_path / "nan.onnx", ["N", 3, 8, 8], [1, 2, 3], log=True), "nan"),
    ]
    for path, message in cases:
        with pytest.raises(ConfigError, match=message) as error:
            FacesConfig(scores=ScoreConfig(filter_model=path)).identity()
        assert path.name in str(error.value)


def test_a_missing_extra_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime, or without the embedding's package, the error says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"likeness\[filter\]"):
        ScoreConfig(filter_model=tmp_path / "any.onnx").identity()
    packaged_model.cache_clear()
    with pytest.raises(ConfigError, match="face_recognition_models"):
        ScoreConfig(embedding=True).identity()


def test_identity_names_what_is_measured() -> None:
    """Without models the identity is empty of them; the embedding adds its model's digest."""
    assert ScoreConfig().identity() == {"embedding_sha256": None, "filter_model_sha256": None}
    assert len(ScoreConfig(embedding=True).identity()["embedding_sha256"]) == 64
    assert FacesConfig(scores=ScoreConfig(embedding=True)).identity() != FacesConfig().identity()
