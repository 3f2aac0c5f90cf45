"""Decoding JPEG: Pillow's own pixels without Pillow, reduced where it is large, and rejected where it is cut."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from PIL import Image, JpegImagePlugin

from photo_files import (
    CONFIG,
    JPEGS,
    by_pillow,
    difference,
    encode,
    grey_jpeg,
    picture,
    rejection,
    segment,
    with_orientation,
)
from preprocessing.photo.decode import DecodeConfig, decode, decoded
from preprocessing.reject import Reason


@pytest.mark.parametrize("kind", JPEGS)
def test_jpegs_are_pillows_own_without_pillow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of JPEG gives the very pixels that Pillow does, and Pillow decodes none of them."""
    expected = by_pillow(JPEGS[kind])

    def load(self: Image.Image) -> None:
        raise AssertionError("decoded by Pillow")

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", load)
    pixels = decode(JPEGS[kind], CONFIG)
    assert np.array_equal(pixels, expected), f"{kind} differs by {difference(pixels, expected)}"


@pytest.mark.parametrize("sampling", [0x31, 0x13, 0x42, 0x24])
def test_jpegs_of_rare_subsampling_are_left_to_pillow(sampling: int) -> None:
    """What simplejpeg does not know, Pillow does."""
    data = grey_jpeg(sampling)
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(data)
    assert (decode(data, CONFIG) == 128).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}], ids=str)
def test_jpegs_that_lost_pixels_are_rejected(options: dict[str, object]) -> None:
    """A JPEG cut anywhere is broken, also with an end marker or zeros put after the cut, where Pillow sees no fault."""
    whole = encode(picture(160, 120), "JPEG", **options)
    start = whole.index(b"\xff\xda") + 16
    for cut in np.linspace(start, len(whole) - 3, 12).astype(int):
        for end in (b"", b"\xff\xd9", bytes(4000)):
            assert rejection(whole[:cut] + end).reason is Reason.BROKEN_IMAGE, (cut, end[:2])
    assert by_pillow(whole[:start] + b"\xff\xd9").shape == (120, 160, 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}], ids=str)
def test_a_jpeg_that_lacks_only_its_end_is_whole(options: dict[str, object]) -> None:
    """Without its end marker, or the half of it, a JPEG has all its pixels."""
    data = encode(picture(160, 120), "JPEG", **options)
    for cut in (1, 2):
        assert np.array_equal(decode(data[:-cut], CONFIG), decode(data, CONFIG)), cut


def test_a_jpeg_without_its_last_passes_is_broken() -> None:
    """Of a JPEG sent in passes, one that was cut between two of them has all its rows, and not all they had."""
    data = encode(picture(160, 120), "JPEG", progressive=True)
    assert rejection(data[: data.rindex(b"\xff\xda")]).reason is Reason.BROKEN_IMAGE


def test_jpegs_with_superfluous_bytes_are_whole() -> None:
    """Bytes after the end, before the end and between segments, and a second picture, change no pixel."""
    data = encode(picture(), "JPEG")
    expected = decode(data, CONFIG)
    for odd in (
        data + b"</html>" * 100,
        data + data,
        data[:-2] + b"abc\xff\xd9",
        data[:20] + b"xyz" + data[20:],
        data[:2] + b"\xff" * 50 + data[2:],
        data[:2] + segment(0xED, b"Photoshop 3.0\0nonsense") + segment(0xE2, b"MPF\0nonsense") + data[2:],
    ):
        assert np.array_equal(decode(odd, CONFIG), expected), odd[:40]


@pytest.mark.parametrize("kind", ["420", "444", "grey", "CMYK", "odd size"])
def test_a_large_jpeg_is_decoded_reduced(kind: str) -> None:
    """Above the limit a JPEG is decoded at the most eighths of its side that fit, upright, and says its own size."""
    data = JPEGS[kind]
    whole = decode(data, CONFIG)
    height, width = whole.shape[:2]
    for eighths in (7, 4, 2):
        size = -(-width * eighths // 8), -(-height * eighths // 8)
        found = decoded(data, DecodeConfig(max_pixels=size[0] * size[1]))
        assert (found.width_px, found.height_px) == (width, height)
        assert found.pixels.shape[1::-1] == size
        expected = np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BOX))
        measured = difference(found.pixels, expected)
        assert measured < 12, f"{eighths} eighths of {kind} differ by {measured}"
    turned = with_orientation(picture(), 6, "JPEG")
    assert decoded(turned, DecodeConfig(max_pixels=500)).pixels.shape == (15, 25, 3)
    assert decoded(turned, DecodeConfig(max_pixels=500)).height_px == 24


def test_a_jpeg_that_cannot_be_reduced_is_too_large() -> None:
    """In passes it needs memory for all of its pixels, and beyond a quarter of the side it is not reduced."""
    assert rejection(JPEGS["progressive"], DecodeConfig(max_pixels=500)).detail == "40x24, in passes"
    assert rejection(JPEGS["420"], DecodeConfig(max_pixels=59)).detail == "40x24"
    rare = decoded(grey_jpeg(0x31, size=64).replace(b"\xff\xc2", b"\xff\xc0"), DecodeConfig(max_pixels=2000))
    assert rare.pixels.shape == (32, 32, 3)
