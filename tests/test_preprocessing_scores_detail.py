"""Detail: an original has more of it than what was made of it, whatever its pixels and bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from preprocessing.photo.align import crop_quad
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces
from preprocessing.scores.detail import MAX_BLOCKS, WEIGHTS, detail, features, picture_in

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]


def jpeg(photo: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def half(photo: Image.Image) -> Image.Image:
    """Half the size, enlarged."""
    small = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.LANCZOS)
    return small.resize(photo.size, Image.Resampling.BICUBIC)


def gamma(photo: Image.Image, exponent: float) -> Image.Image:
    """Every value to a power."""
    return photo.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def cut(photo: Image.Image) -> Image.Image:
    """A tenth less on every side."""
    x, y = photo.width // 10, photo.height // 10
    return photo.crop((x, y, photo.width - x, photo.height - y))


COPIES: dict[str, tuple[Callable[[Image.Image], Image.Image], Callable[[Points, Any], Points]]] = {
    "JPEG 20": (lambda p: jpeg(p, 20), lambda quad, p: quad),
    "JPEG 50": (lambda p: jpeg(p, 50), lambda quad, p: quad),
    "JPEG 80": (lambda p: jpeg(p, 80), lambda quad, p: quad),
    "half size enlarged": (half, lambda quad, p: quad),
    "gamma 0.8": (lambda p: gamma(p, 0.8), lambda quad, p: quad),
    "gamma 1.25": (lambda p: gamma(p, 1.25), lambda quad, p: quad),
    "darkened": (lambda p: p.point([value // 12 for value in range(256)] * 3), lambda quad, p: quad),
    "cut": (cut, lambda quad, p: quad - (p.width // 10, p.height // 10)),
    "border": (lambda p: ImageOps.expand(p, 40, "black"), lambda quad, p: quad + 40),
}
"""Each copy, and where a quad of its original lies in it."""


def drawn(side: int = 480) -> Image.Image:
    """A picture with edges, texture and colours at every scale, as a photograph has, without symmetry."""
    rng = np.random.default_rng(7)
    pixels = np.full((side, side, 3), 128.0)
    for octave in range(1, 8):
        noise = rng.normal(size=(2**octave + 1, 2**octave + 1, 3)) * 60 / octave
        pixels += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    pixels += rng.normal(size=pixels.shape) * 3
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


QUAD = np.array([[140.0, 140.0], [140.0, 340.0], [340.0, 340.0], [340.0, 140.0]])


@pytest.mark.parametrize("kind", COPIES)
def test_a_drawn_original_has_more_than_its_copy(kind: str) -> None:
    """Whatever is made of a detailed picture has less of it."""
    make, moved = COPIES[kind]
    photo = drawn()
    copy = detail(np.asarray(make(photo)), moved(QUAD, photo))
    original = detail(np.asarray(photo), QUAD)
    assert copy < 0.995 * original, f"{copy:.1f} of {original:.1f}"


def test_a_larger_original_has_more() -> None:
    """Twice the pixels of a picture that has something to show in them are more detail, and half of them less."""
    large = drawn(960)
    reduced = large.resize((480, 480), Image.Resampling.LANCZOS)
    assert detail(np.asarray(large), 2 * QUAD) > 1.1 * detail(np.asarray(reduced), QUAD)


def test_many_blocks_are_sampled_evenly() -> None:
    """Of a large picture a part of the blocks is looked at, and stands for all."""
    large = np.asarray(drawn(1600))
    quad = QUAD * (1600 / 480)
    sampled = features(large, quad)
    assert 2 * MAX_BLOCKS < (2 * 1600 / 2.4 / 8) ** 2
    whole = {name: value for name, value in features(large[::2, ::2], quad / 2).items() if name == "scene"}
    assert abs(sampled["scene"] - whole["scene"]) < 0.05


def test_a_frame_is_no_picture() -> None:
    """A border of one colour is seen, a plain background that the head stands out of is not."""
    photo = np.asarray(drawn(200))
    assert picture_in(photo) == (0, 0, 200, 200)
    framed = cv2.copyMakeBorder(photo, 5, 10, 20, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    assert picture_in(framed) == (20, 5, 220, 205)
    plain = np.full((200, 200, 3), 250, np.uint8)
    cv2.ellipse(plain, (100, 120), (40, 60), 0, 0, 360, (90, 60, 50), -1)
    assert picture_in(plain) == (0, 0, 200, 200)


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7), (20, 20)])
def test_odd_sizes_have_a_detail(shape: tuple[int, int]) -> None:
    """Pictures of a few pixels have a finite detail, down to none."""
    photo = np.zeros((*shape, 3), np.uint8)
    measured = detail(photo, np.array([[0.0, 0.0], [0.0, 9.0], [9.0, 9.0], [9.0, 0.0]]))
    assert np.isfinite(measured)
    assert measured >= 0


def test_the_weights_of_the_bands_are_shares() -> None:
    """So that the detail is a root of bits, and doubles with the side."""
    of_bands = [weight for name, weight in WEIGHTS.items() if name.startswith(("luma", "chroma"))]
    assert sum(of_bands) == pytest.approx(1, abs=0.01)
    assert min(of_bands) >= 0


def quad_of(photo: Pixels) -> Points | None:
    """The crop of the surest face."""
    faces = detect_faces(photo, DetectConfig(min_quad_px=64))
    return crop_quad(faces[0].landmarks) if faces else None


def test_originals_of_real_portraits_win(faces: Path) -> None:
    """Of twelve portraits the original has more detail than every copy, detected anew."""
    paths = [
        path
        for name in ("bundestag", "congress", "uk_parliament")
        for path in sorted((faces / name).iterdir())[7::137]
    ]
    lost = []
    for path in paths[:12]:
        photo = decode(path.read_bytes(), DecodeConfig())
        quad = quad_of(photo)
        assert quad is not None
        original = detail(photo, quad)
        for kind, (make, _) in COPIES.items():
            copy = np.asarray(make(Image.fromarray(photo)))
            found = quad_of(copy)
            if found is not None and detail(copy, found) > original:
                lost.append((path.name, kind))
    assert not lost, f"copies preferred: {lost}"
