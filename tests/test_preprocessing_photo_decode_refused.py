"""Decoding: a named rejection for everything that is no whole photograph."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from photo_files import (
    CONFIG,
    ORIENTATION,
    SRGB,
    chunk,
    encode,
    grey_jpeg,
    picture,
    png,
    rejection,
    segment,
    tiff,
)
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.reject import Reason, Rejected


def outcome(data: bytes, config: DecodeConfig) -> str:
    """What decoding comes to: pixels of the right kind, or a rejection in full."""
    try:
        pixels = decode(data, config)
    except Rejected as rejected:
        return str(rejected)
    assert pixels.ndim == 3
    assert pixels.dtype == np.uint8
    return "pixels"


def test_unmeasured_pixels_are_rejected() -> None:
    """Floating point and 32-bit integers have no white, so no picture is made up of them."""
    for dtype in (np.float32, np.int32):
        rejected = rejection(encode(Image.fromarray(np.zeros((4, 4), dtype)), "TIFF"))
        assert str(rejected).startswith("unsupported_image: TIFF: unsupported pixel type"), rejected


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_what_is_cut_says_how_much_is_lost(format: str) -> None:
    """Of noise cut in half about half of the rows are missing, and the rejection says so."""
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 256, (400, 300, 3)).astype(np.uint8)), format)
    detail = rejection(data[: len(data) // 2]).detail
    assert detail is not None
    said = re.search(r"(\d+)% of the rows are missing", detail)
    assert said is not None, detail
    assert 45 <= int(said[1]) <= 55, detail


@pytest.mark.parametrize("factor", [1, 16])
def test_twelve_bits_in_sixteen_have_their_reason(factor: int) -> None:
    """16-bit numbers that end at 4095 are all but black to every viewer, and rejected as that."""
    grey = np.asarray(picture().convert("L")).astype(np.uint16) * factor
    colour = np.concatenate(
        [np.zeros((24, 1)), np.repeat(grey.byteswap()[..., None], 3, -1).view(np.uint8).reshape(24, -1)], 1
    )
    for data in (
        encode(Image.fromarray(grey), "PNG"),
        encode(Image.fromarray(grey), "TIFF"),
        png(colour.astype(np.uint8).tobytes(), (40, 24), 16, 2),
    ):
        assert rejection(data).reason is Reason.UNSUPPORTED_IMAGE
    whole = Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)
    assert decode(encode(whole, "PNG"), CONFIG).max() > 200


def test_what_is_no_photograph_has_its_reason() -> None:
    """Empty, foreign, forbidden, cut, oversized and unsupported files each get their own reason."""
    data = encode(picture(), "PNG")
    assert rejection(b"").reason is Reason.EMPTY_FILE
    for foreign in (
        b"Dear reader,\n",
        b"<!DOCTYPE html><title>404</title>",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%PDF-1.7\n",
        b"\0" * 5000,
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"\xff\xd8",
        encode(picture(), "EPS"),
        encode(picture(), "PPM"),
        encode(picture(), "ICO"),
        encode(picture(), "JPEG2000"),
    ):
        assert rejection(foreign).reason is Reason.NOT_AN_IMAGE, foreign[:12]
    assert rejection(data[: len(data) // 2]).reason is Reason.BROKEN_IMAGE
    assert rejection(data, DecodeConfig(max_pixels=959)).reason is Reason.TOO_MANY_PIXELS
    assert rejection(data, DecodeConfig(max_pixels=959)).detail == "40x24"
    assert decode(data, DecodeConfig(max_pixels=960)).shape == (24, 40, 3)


def test_what_calls_itself_an_image_is_broken() -> None:
    """A file with an image's signature and an unusable header is broken, and says of what kind."""
    deep = bytearray(encode(picture(), "JPEG"))
    frame = deep.index(b"\xff\xc0")
    deep[frame + 4] = 12
    assert str(rejection(bytes(deep))) == "broken_image: header: cannot handle 12-bit layers"
    assert str(rejection(encode(picture(), "PNG")[:12])) == "broken_image: header: unreadable PNG"
    assert str(rejection(encode(picture(), "HEIF")[:60])) == "broken_image: header: unreadable HEIF"
    nothing = bytearray(encode(picture(), "JPEG"))
    nothing[frame + 5 : frame + 9] = bytes(4)
    assert rejection(bytes(nothing)).reason is Reason.BROKEN_IMAGE


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF", "HEIF"])
def test_half_a_file_is_broken(format: str) -> None:
    """A download that stopped half way is rejected as broken in every format."""
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)), format)
    assert rejection(data[: len(data) // 2]).reason is Reason.BROKEN_IMAGE


def test_too_many_pixels_are_never_decoded() -> None:
    """A file that claims 20000x20000 pixels, without them, is rejected for its size and not for being cut."""
    header = bytearray(encode(picture(), "BMP"))
    header[18:22] = header[22:26] = (20_000).to_bytes(4, "little")
    assert rejection(bytes(header)).reason is Reason.TOO_MANY_PIXELS
    jpeg = bytearray(encode(picture(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    assert rejection(bytes(jpeg)).detail == "65535x65535"
    for format in ("HEIF", "AVIF"):
        claim = encode(picture(64, 64), format)
        at = claim.index(b"ispe") + 8
        claim = claim[:at] + struct.pack(">II", 12_000, 12_000) + claim[at + 8 :]
        assert rejection(claim).detail == "12000x12000", format
    window = encode(picture(64, 8), "HEIF")  # coded as 64x64, of which 64x8 are shown
    assert decode(window, DecodeConfig(max_pixels=4096)).shape == (8, 64, 3)
    assert rejection(window, DecodeConfig(max_pixels=4095)).detail == "64x64"
    assert rejection(png(b"", (30_000, 30_000), 8, 2)).reason is Reason.TOO_MANY_PIXELS


def test_small_files_made_to_take_hours_are_refused() -> None:
    """Files that cost far more than their bytes or pixels are rejected before that, and their honest kin are not."""
    assert (decode(grey_jpeg(0x22, scans=90), CONFIG) == 128).all()
    assert rejection(grey_jpeg(0x22, scans=200)).detail == "JPEG: too many scans"
    jpeg = encode(picture(), "JPEG")
    exif = jpeg[:2] + segment(0xE1, b"Exif\0\0" + bytes(9)) * 5000 + jpeg[2:]
    assert rejection(exif).detail == "header: too many EXIF segments"
    # Each of 600 strips has to be decoded, though they all lie on the same rows.
    strips = tiff((20, 20), bytes(1200), num_bands=3, num_strips=600, t278=19)
    assert rejection(strips).detail == "TIFF: tiles do not cover the picture once"
    assert rejection(tiff((20, 20), bytes(1200), num_bands=3, t278=19)).reason is Reason.BROKEN_IMAGE
    assert decode(tiff((20, 20), bytes(1200), num_bands=3), CONFIG).shape == (20, 20, 3)
    for bomb in (b"iCCP", b"zTXt"):  # are never unpacked
        zeros = chunk(bomb, b"x\0\0" + zlib.compress(bytes(20_000_000)))
        assert decode(png(bytes(13), (4, 1), 8, 2, chunks=zeros), CONFIG).shape == (1, 4, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_damaged_bytes_give_pixels_or_a_rejection(format: str) -> None:
    """Whatever happens to a file's bytes, decoding gives an image or a rejection, the same one each time."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    original = encode(
        picture(), format, **({} if format in ("GIF", "BMP") else {"exif": exif, "icc_profile": SRGB})
    )
    rng = np.random.default_rng(0)
    config = DecodeConfig(max_pixels=1_000_000)
    rejections = 0
    for _ in range(120):
        data = bytearray(original)
        for _ in range(int(rng.integers(1, 8))):
            data[int(rng.integers(min(len(data), 400)))] = int(rng.integers(256))
        cut = bytes(data[: int(rng.integers(1, len(data) + 1))]) if rng.random() < 0.3 else bytes(data)
        first, again = outcome(cut, config), outcome(cut, config)
        assert first == again
        assert " at 0x" not in first
        rejections += first != "pixels"
    assert rejections > 0
