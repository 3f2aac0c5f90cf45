"""The crop's geometry: it turns, scales and moves with the face, and padding is bounded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from skimage.metrics import structural_similarity

from preprocessing.photo.align import AlignConfig, aligned_crop, check_quad, crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces
from preprocessing.reject import Reason, Rejected
from storage.digest import bytes_digest

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


@pytest.mark.parametrize("centre", [(150.0, 120.0), (60.0, 30.0)], ids=["inside", "padded"])
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_a_mirrored_photograph_gives_the_mirrored_crop(mode: str, centre: tuple[float, float]) -> None:
    """Mirroring the photograph, left and right eye exchanged, mirrors the crop."""
    photo, points = photograph(), landmarks(centre)
    config = AlignConfig.model_validate({"output_px": 64, "mode": mode})
    mirrored = points.copy()
    mirrored[:, 0] = photo.shape[1] - 1 - points[:, 0]
    mirrored[36:42], mirrored[42:48] = mirrored[42:48].copy(), mirrored[36:42].copy()
    mirrored[[48, 54]] = mirrored[[54, 48]]
    crop = aligned_crop(np.ascontiguousarray(photo[:, ::-1]), mirrored, config)
    measured = psnr(crop[:, ::-1], aligned_crop(photo, points, config))
    assert measured > 38, f"{measured:.1f} dB"


@given(angle=st.floats(-180, 180))
@settings(max_examples=20)
def test_a_photograph_turned_by_any_angle_gives_nearly_the_same_crop(angle: float) -> None:
    """Turning photograph and landmarks about the face changes only the resampling."""
    photo, points = photograph(500, 500), landmarks((250.0, 240.0))
    turn = cv2.getRotationMatrix2D((250, 240), angle, 1.0)
    turned = cv2.warpAffine(photo, turn, (500, 500), flags=cv2.INTER_CUBIC)
    measured = psnr(
        aligned_crop(turned, points @ turn[:, :2].T + turn[:, 2], CONFIG), aligned_crop(photo, points, CONFIG)
    )
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
    crop = aligned_crop(photo, points, AlignConfig(output_px=side))
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


def test_config_refuses() -> None:
    """An output out of range or another mode is refused with what is valid."""
    with pytest.raises(ValidationError, match="less than or equal to 1024"):
        AlignConfig(output_px=2048)
    with pytest.raises(ValidationError, match="'fast' or 'exact'"):
        AlignConfig.model_validate({"mode": "official"})


def checkered(width: int, height: int) -> NDArray[np.uint8]:
    """A picture of integer arithmetic alone, with slopes, edges and noise: the same on every machine."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(7).integers(0, 40, (height, width, 3))
    base = np.stack([x * 255 // width, y * 255 // height, 40 * ((x // 9 + y // 13) % 5)], axis=-1)
    return np.minimum(base + noise, 255).astype(np.uint8)


GOLDEN = {
    "inside": (128, (150.0, 120.0), 1.0, "1b93b8824f281f4e"),
    "padded": (128, (60.0, 30.0), 1.0, "bd1e88982847ed74"),
    "shrunk": (32, (150.0, 120.0), 1.0, "e5ded6ced40a642a"),
    "shrunk and padded": (16, (250.0, 220.0), 1.1, "32478ed39139f023"),
    "enlarged": (1024, (150.0, 120.0), 0.9, "1be39d5d8f8aefe9"),
}


@pytest.mark.parametrize(("output_px", "centre", "scale", "expected"), GOLDEN.values(), ids=GOLDEN)
def test_exact_crops_never_change(
    output_px: int, centre: tuple[float, float], scale: float, expected: str
) -> None:
    """Exact mode has these bytes (Pillow 13.0, NumPy 2.4, SciPy 1.17); a change of them is a change of datasets."""
    config = AlignConfig(output_px=output_px, mode="exact")
    crop = aligned_crop(checkered(300, 260), landmarks(centre, scale), config)
    assert bytes_digest(crop.tobytes())[:16] == expected


@pytest.mark.parametrize(("output_px", "largest_px"), [
    *((output_px, 512) for output_px in (128, 256, 512, 1024)),
    *(pytest.param(output_px, 1024, marks=pytest.mark.slow) for output_px in (256, 512, 1024)),
])  # fmt: skip
def test_fast_is_near_exact(output_px: int, largest_px: int) -> None:
    """Every crop at 50 dB, half of them at 52, and all of a structural similarity of 0.996: for quads smaller and
    larger than the output, in the photograph and across its border.
    """
    decibels, similarities = [], []
    for ratio in (0.5, 1, 2, 4):
        for centre in ((0.5, 0.45), (0.25, 0.85)):
            if output_px * ratio > largest_px:
                continue  # seconds each; benchmarks/fidelity.py measures those above 1,024 px
            scale = output_px * ratio / quad_side(crop_quad(landmarks()))
            side = int(1.6 * output_px * ratio)
            photo, points = natural(side), landmarks((centre[0] * side, centre[1] * side), scale)
            exact = aligned_crop(photo, points, AlignConfig(output_px=output_px, mode="exact"))
            fast = aligned_crop(photo, points, AlignConfig(output_px=output_px))
            decibels.append(psnr(fast, exact))
            similarities.append(structural_similarity(fast, exact, channel_axis=2))
    assert min(decibels) >= 50, decibels
    assert np.median(decibels) >= 52, decibels
    assert min(similarities) >= 0.996, similarities


@cache
def natural(side: int) -> NDArray[np.uint8]:
    """Noise whose amplitude falls with frequency as in sharp photographs, and an edge; nobody writes to it."""
    rng = np.random.default_rng(side)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / frequency**1.2
        channel = np.fft.irfft2(spectrum, s=(side, side))
        channels.append(128 + 45 * channel / channel.std())
    picture = np.stack(channels, axis=-1)
    picture[:, side // 2 :] *= 0.8
    return picture.clip(0, 255).astype(np.uint8)


def test_fast_is_exact_to_50_db_on_portraits(faces: Path) -> None:
    """The same on real faces, at the outputs that these portraits allow."""
    paths = [*sorted((faces / "congress").iterdir())[:300:100], *sorted((faces / "bundestag").iterdir())[:2]]
    for path in paths:
        photo = decode(path.read_bytes(), DecodeConfig())
        points = detect_faces(photo, DetectConfig())[0].landmarks
        for output_px in (64, 256):
            exact = aligned_crop(photo, points, AlignConfig(output_px=output_px, mode="exact"))
            measured = psnr(aligned_crop(photo, points, AlignConfig(output_px=output_px)), exact)
            assert measured > 52, f"{path.name} at {output_px}: {measured:.1f} dB"


def test_photographs_that_cannot_be_written_to_are_cropped_alike() -> None:
    """A read-only view, as of a memory map, gives the crop of its copy, without a warning."""
    photo = natural(300)
    view = photo[:, ::-1]
    view.flags.writeable = False
    for config in (CONFIG, AlignConfig(output_px=64, mode="exact")):
        expected = aligned_crop(np.ascontiguousarray(view), landmarks(), config)
        assert (aligned_crop(view, landmarks(), config) == expected).all()
