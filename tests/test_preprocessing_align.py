"""The crop's geometry: it turns, scales and moves with the face, and padding is bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from preprocessing.align import AlignConfig, aligned_crop, check_quad, crop_quad, quad_side
from preprocessing.reject import Reason, Rejected

CONFIG = AlignConfig(output_px=64)


def landmarks(centre: tuple[float, float] = (150.0, 120.0), scale: float = 1.0) -> NDArray[np.float64]:
    """68 points of a slightly tilted face; only eyes and mouth corners matter to the crop."""
    points = np.zeros((68, 2))
    points[36:42] = (-20.0, -1.0)
    points[42:48] = (20.0, 3.0)
    points[48], points[54] = (-14.0, 38.0), (12.0, 42.0)
    return points * scale + centre


def photograph(width: int = 300, height: int = 260) -> NDArray[np.uint8]:
    """A smooth picture that differs everywhere."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    waves = [np.sin(x / 17) + np.cos(y / 23), np.sin((x + y) / 29), np.cos((x - 2 * y) / 41)]
    return np.stack([128 + 60 * wave for wave in waves], axis=-1).clip(0, 255).astype(np.uint8)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = float(((a.astype(float) - b.astype(float)) ** 2).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def test_the_quad_of_a_known_face() -> None:
    """For level eyes 40 px apart and a mouth 40 px below, the quad is worked out by hand."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (80.0, 100.0), (120.0, 100.0)
    points[48], points[54] = (85.0, 140.0), (115.0, 140.0)
    # v = (40, 0), u = (0, 40): x = v - rot(u) = (80, 0), of length max(2.0 * 40, 1.8 * 40); c = (100, 104).
    expected = [[20, 24], [20, 184], [180, 184], [180, 24]]
    np.testing.assert_allclose(crop_quad(points), expected, atol=1e-9)
    assert quad_side(crop_quad(points)) == pytest.approx(160)


@given(
    angle=st.floats(-np.pi, np.pi),
    scale=st.floats(0.1, 20),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
def test_the_quad_follows_every_similarity(angle: float, scale: float, shift: tuple[float, float]) -> None:
    """Turn, scale and move the landmarks: the quad does the same, and stays a square."""
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    quad = crop_quad(landmarks())
    moved = crop_quad(landmarks() @ turn + shift)
    np.testing.assert_allclose(moved, quad @ turn + shift, atol=1e-6)
    sides = np.linalg.norm(np.roll(moved, -1, axis=0) - moved, axis=1)
    np.testing.assert_allclose(sides, quad_side(moved), rtol=1e-9)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("centre", [(150.0, 120.0), (60.0, 30.0)], ids=["inside", "padded"])
def test_a_turned_photograph_gives_the_same_crop(quarters: int, centre: tuple[float, float]) -> None:
    """Turning photograph and landmarks by quarters leaves the crop as it was."""
    photo, points = photograph(), landmarks(centre)
    straight = aligned_crop(photo, points, CONFIG)
    for _ in range(quarters):
        # np.rot90 takes the pixel (x, y) to (y, width - 1 - x).
        points = np.stack([points[:, 1], photo.shape[1] - 1 - points[:, 0]], axis=1)
        photo = np.ascontiguousarray(np.rot90(photo))
    measured = psnr(aligned_crop(photo, points, CONFIG), straight)
    assert measured > 38, f"{measured:.1f} dB"


def test_a_mirrored_photograph_gives_the_mirrored_crop() -> None:
    """Mirroring the photograph, left and right eye exchanged, mirrors the crop."""
    photo, points = photograph(), landmarks()
    mirrored = points.copy()
    mirrored[:, 0] = photo.shape[1] - 1 - points[:, 0]
    mirrored[36:42], mirrored[42:48] = mirrored[42:48].copy(), mirrored[36:42].copy()
    mirrored[[48, 54]] = mirrored[[54, 48]]
    crop = aligned_crop(np.ascontiguousarray(photo[:, ::-1]), mirrored, CONFIG)
    measured = psnr(crop[:, ::-1], aligned_crop(photo, points, CONFIG))
    assert measured > 38, f"{measured:.1f} dB"


@pytest.mark.parametrize("factor", [2, 5])
def test_a_larger_photograph_gives_nearly_the_same_crop(factor: int) -> None:
    """Enlarging photograph and landmarks changes only the resampling, shrinking first or not."""
    photo = photograph()
    size = (photo.shape[1] * factor, photo.shape[0] * factor)
    large = np.array(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
    points = (landmarks() + 0.5) * factor - 0.5
    measured = psnr(aligned_crop(large, points, CONFIG), aligned_crop(photo, landmarks(), CONFIG))
    assert measured > 33, f"{measured:.1f} dB"


def test_a_level_quad_of_the_output_size_is_the_photograph() -> None:
    """Where the quad is axis-aligned, on whole pixels and as large as the output, the crop is those pixels."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (80.0, 100.0), (112.0, 100.0)
    points[48], points[54] = (86.0, 130.0), (106.0, 130.0)
    quad = crop_quad(points)
    side = round(quad_side(quad))
    assert side == pytest.approx(quad_side(quad))
    photo = photograph()
    crop = aligned_crop(photo, points, AlignConfig(output_px=side, transform_px=side))
    left, top = np.rint(quad[0] + 0.5).astype(int)
    shown = photo[top : top + side, left : left + side]
    measured = psnr(crop, shown)
    assert measured > 40, f"{measured:.1f} dB"


def test_a_face_at_the_border_is_padded_with_its_surroundings() -> None:
    """Outside of the photograph the crop is filled, smoothly, and inside it is as without the border."""
    photo = photograph()
    whole = aligned_crop(photo, landmarks(), CONFIG)
    cut = aligned_crop(np.ascontiguousarray(photo[:, :190]), landmarks(), CONFIG)
    assert psnr(whole[10:-10, 10:30], cut[10:-10, 10:30]) > 35
    assert cut[:, -4:].std() < whole[:, -4:].std(), (
        "the far side of the padding is not smoother than a photograph"
    )
    assert abs(float(cut[:, -4:].mean()) - 128) < 60, "the padding is black or white"


def test_the_photograph_is_not_written_to() -> None:
    """Cropping leaves its input as it was, padded or not."""
    photo = photograph()
    before = photo.copy()
    aligned_crop(photo, landmarks((20.0, 20.0)), CONFIG)
    assert (photo == before).all()


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((68, 2)),
        np.full((68, 2), np.nan),
        landmarks(scale=0.01),
        landmarks(scale=1e6),
        landmarks(centre=(9000.0, 20.0)),
        landmarks(centre=(-9000.0, 20.0)),
    ],
    ids=["one point", "nan", "tiny", "huge", "right of it", "left of it"],
)
def test_landmarks_that_are_no_face_are_rejected(points: NDArray[np.float64]) -> None:
    """Degenerate geometry is a rejection with its reason, never a crash or an endless image."""
    with pytest.raises(Rejected) as info:
        aligned_crop(photograph(), points, CONFIG)
    assert info.value.reason is Reason.BAD_GEOMETRY


@given(
    centre=st.tuples(st.floats(-200, 500), st.floats(-200, 500)),
    scale=st.floats(0.02, 30),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_whatever_passes_the_check_can_be_cropped(
    centre: tuple[float, float], scale: float, size: tuple[int, int]
) -> None:
    """In photographs down to one pixel, every quad is cropped to the output size or rejected."""
    photo, points = photograph(*size), landmarks(centre, scale)
    config = AlignConfig(output_px=16)
    try:
        check_quad(crop_quad(points), *size)
    except Rejected:
        return
    assert aligned_crop(photo, points, config).shape == (16, 16, 3)


def test_config_resolves_and_refuses() -> None:
    """The sampling size left open is 4 times the output up to 4096; below the output it is an error."""
    assert AlignConfig(output_px=128).resolved().transform_px == 512
    assert AlignConfig(output_px=1024).resolved().transform_px == 4096
    assert AlignConfig(output_px=128, transform_px=4096).resolved().transform_px == 4096
    with pytest.raises(ValidationError, match="transform_px=64 is smaller than output_px=128"):
        AlignConfig(output_px=128, transform_px=64)


def test_four_times_the_output_is_close_to_the_official_sampling(faces: Path) -> None:
    """On real portraits the default sampling is within 50 dB of FFHQ's 4096 pixels."""
    from preprocessing.decode import DecodeConfig, decode
    from preprocessing.detect import DetectConfig, detect_faces

    for path in sorted((faces / "congress").iterdir())[:400:200]:
        photo = decode(path.read_bytes(), DecodeConfig())
        points = detect_faces(photo, DetectConfig())[0].landmarks
        official = aligned_crop(photo, points, AlignConfig(output_px=128, transform_px=4096))
        measured = psnr(aligned_crop(photo, points, AlignConfig(output_px=128)), official)
        assert measured > 50, f"{path.name}: {measured:.1f} dB"
