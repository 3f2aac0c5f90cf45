"""Decoding: what a file says of its colours is applied, and what comes out is sRGB."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from photo_files import (
    CONFIG,
    SRGB,
    chunk,
    difference,
    encode,
    picture,
    rejection,
)
from preprocessing.photo import decode as module
from preprocessing.photo.decode import decode


def s15(*values: float) -> bytes:
    """Numbers as ICC profiles have them."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


SRGB_CURVE = (
    b"para" + bytes(4) + struct.pack(">HH", 3, 0) + s15(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
)
# The curve of the small sRGB profile that Facebook gives its pictures, as widespread as the long one.
SMALL_CURVE = b"curv" + bytes(4) + bytes.fromhex(
    "0000001a 0000 00cb 01c9 0363 0592 086b 0bf6 103f 1551 1b34 21f1 2990 3218"
    "3b92 4605 5177 5ded 6b70 7a05 89b1 9a7c ac69 bf7d d3c3 e930 ffff"
)  # fmt: skip
SRGB_PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
P3_PRIMARIES = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def gamma_curve(gamma: float) -> bytes:
    """A tone curve that is a power."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", name: bytes = b"of ours") -> bytes:
    """A version 2 ICC profile of these tags."""
    tags = tags | {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(79),
        b"wtpt": b"XYZ " + bytes(4) + s15(0.9642, 1, 0.8249),
    }
    table, body = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", 128 + len(table) + len(body), b"test", 0x02100000, b"mntr", space, pcs
    )
    header += bytes(12) + b"acsp" + bytes(28) + s15(0.9642, 1, 0.8249) + bytes(48)
    return header + table + body


def rgb_profile(primaries: tuple[tuple[float, ...], ...], curve: bytes, name: bytes = b"of ours") -> bytes:
    """An RGB profile of three primaries and one tone curve."""
    tags = {b"rgb"[i : i + 1] + b"XYZ": b"XYZ " + bytes(4) + s15(*primaries[i]) for i in range(3)}
    return profile(b"RGB ", tags | {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}, name=name)


def grey_profile(gamma: float) -> bytes:
    """A grey profile of one tone curve."""
    return profile(b"GRAY", {b"kTRC": gamma_curve(gamma)})


def ink_profile() -> bytes:
    """A CMYK profile with a table of two points an ink, unlike Pillow's own way from CMYK to RGB."""
    c, m, y, k = np.moveaxis(np.indices((2, 2, 2, 2)), 0, -1).reshape(-1, 4).T
    lightness = (1 - k) * (1 - 0.3 * c - 0.4 * m - 0.1 * y)
    a, b = (1 - k) * (0.5 * m - 0.3 * c), (1 - k) * (0.6 * y - 0.3 * c)
    table = np.stack([lightness * 255, 128 + a * 120, 128 + b * 120], axis=-1).round().astype(np.uint8)
    identity = s15(1, 0, 0, 0, 1, 0, 0, 0, 1)
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table.tobytes() + ramp * 3
    return profile(b"CMYK", {b"A2B0": lut, b"A2B1": lut}, pcs=b"Lab ")


def lossless(image: Image.Image, icc: bytes) -> NDArray[np.uint8]:
    """What comes back of an image stored as it is with a profile."""
    return decode(encode(image, "TIFF" if image.mode in ("CMYK", "LAB") else "PNG", icc_profile=icc), CONFIG)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_the_colour_profile_is_applied(format: str) -> None:
    """In every format that carries one, a profile with its primaries exchanged exchanges the colours."""
    swapped = rgb_profile((SRGB_PRIMARIES[1], SRGB_PRIMARIES[0], SRGB_PRIMARIES[2]), SRGB_CURVE)
    lossy = {"quality": 98} if format != "PNG" else {}
    pixels = decode(encode(picture(), format, icc_profile=swapped, **lossy), CONFIG)
    measured = difference(pixels, np.asarray(picture())[:, :, [1, 0, 2]])
    assert measured < 5, f"differs by {measured} from red and green exchanged"


def test_a_phones_colours_become_srgb() -> None:
    """A Display P3 picture is converted as its colorimetry says, within two levels."""
    rng = np.random.default_rng(0)
    image = rng.integers(60, 190, (16, 16, 3)).astype(np.uint8)
    linear = np.where(image <= 0.04045 * 255, image / 255 / 12.92, ((image / 255 + 0.055) / 1.055) ** 2.4)
    linear = linear @ np.array(P3_PRIMARIES) @ np.linalg.inv(np.array(SRGB_PRIMARIES))
    linear = linear.clip(0, 1)
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    pixels = lossless(Image.fromarray(image), rgb_profile(P3_PRIMARIES, SRGB_CURVE, b"Display P3"))
    measured = np.abs(pixels - expected).max()
    assert measured <= 2, f"differs by {measured} levels"
    assert difference(pixels, image) > 3


def test_srgb_is_known_by_what_it_does() -> None:
    """sRGB under any name changes no pixel; another profile that calls itself sRGB does."""
    image, pixels = picture(), np.asarray(picture())
    for curve in (SRGB_CURVE, SMALL_CURVE):
        assert np.array_equal(lossless(image, rgb_profile(SRGB_PRIMARIES, curve, b"c2")), pixels)
    assert np.array_equal(lossless(image, SRGB), pixels)
    linear = lossless(image, rgb_profile(SRGB_PRIMARIES, gamma_curve(1), b"sRGB linear"))
    assert linear.mean() > pixels.mean() + 20


def test_an_unfit_profile_says_nothing() -> None:
    """Damaged profiles and those of other kinds of pixels leave the pixels as they are."""
    image, pixels = picture(), np.asarray(picture())
    cut = rgb_profile(P3_PRIMARIES, SRGB_CURVE)[:200]
    for icc in (b"nonsense", cut, ink_profile(), grey_profile(1.0), SRGB[:128]):
        assert np.array_equal(lossless(image, icc), pixels)
    assert np.array_equal(
        lossless(image.convert("CMYK"), SRGB), np.asarray(image.convert("CMYK").convert("RGB"))
    )


def test_grey_pictures_follow_grey_and_colour_profiles() -> None:
    """A grey profile is applied to every kind of grey, and a colour one as to equal parts of its primaries."""
    grey = picture().convert("L")
    values = np.asarray(grey) / 255
    expected = (
        np.where(values**1.8 <= 0.0031308, 12.92 * values**1.8, 1.055 * values ** (1.8 / 2.4) - 0.055) * 255
    )
    for icc in (grey_profile(1.8), rgb_profile(SRGB_PRIMARIES, gamma_curve(1.8))):
        for image in (grey, grey.convert("LA"), Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)):
            pixels = lossless(image, icc)
            measured = np.abs(pixels - expected[..., None]).max()
            assert measured <= 2, f"{image.mode} differs by {measured} levels"
        assert np.array_equal(
            decode(encode(grey, "JPEG", icc_profile=icc), CONFIG)[..., 0].shape, grey.size[::-1]
        )
    assert np.array_equal(lossless(grey, SRGB)[..., 0], np.asarray(grey))


def test_inks_follow_their_profile() -> None:
    """CMYK with a profile is what colour management makes of it; without, inks on white paper."""
    inks, icc = picture().convert("CMYK"), ink_profile()
    expected = ImageCms.profileToProfile(
        inks,
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.ImageCmsProfile(io.BytesIO(SRGB)),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    pixels = lossless(inks, icc)
    assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= 1
    assert difference(pixels, np.asarray(inks.convert("RGB"))) > 10
    jpeg = decode(encode(inks, "JPEG", quality=100, icc_profile=icc), CONFIG)
    assert difference(jpeg, pixels) < 3


def test_a_profile_does_not_colour_what_is_clear() -> None:
    """The profile is applied to the picture, and clear parts are white after that."""
    image = picture().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 10, 24))
    pixels = lossless(image, rgb_profile(P3_PRIMARIES, gamma_curve(1.8)))
    opaque = lossless(picture(), rgb_profile(P3_PRIMARIES, gamma_curve(1.8)))
    assert (pixels[:, :10] == 255).all()
    assert np.array_equal(pixels[:, 10:], opaque[:, 10:])


def chromaticities(*values: float) -> bytes:
    """The chunk cHRM: white, red, green and blue."""
    return chunk(b"cHRM", b"".join(struct.pack(">I", round(value * 100_000)) for value in values))


P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)


def gamma_chunk(value: float) -> bytes:
    """The chunk gAMA."""
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def with_chunks(image: Image.Image, *chunks: bytes) -> bytes:
    """A PNG with chunks before its pixels."""
    data = encode(image, "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


@pytest.mark.parametrize(
    ("chunks", "icc"),
    [
        ((gamma_chunk(1.0),), rgb_profile(SRGB_PRIMARIES, gamma_curve(1.0))),
        ((gamma_chunk(1 / 1.8),), rgb_profile(SRGB_PRIMARIES, gamma_curve(1.8))),
        ((gamma_chunk(1 / 2.2), chromaticities(*P3)), rgb_profile(P3_PRIMARIES, gamma_curve(2.2))),
        ((chunk(b"cICP", bytes([12, 13, 0, 1])),), rgb_profile(P3_PRIMARIES, SRGB_CURVE)),
        (
            (chunk(b"cICP", bytes([1, 8, 0, 1])), gamma_chunk(0.2)),
            rgb_profile(SRGB_PRIMARIES, gamma_curve(1.0)),
        ),
    ],
    ids=["linear", "Macintosh", "P3 by cHRM", "P3 by cICP", "cICP outranks gAMA"],
)
def test_what_a_png_says_of_its_colours_is_applied(chunks: tuple[bytes, ...], icc: bytes) -> None:
    """gAMA, cHRM and cICP give, within two levels, what a profile of the same gives."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(60, 190, (16, 16, 3)).astype(np.uint8))
    expected = lossless(image, icc).astype(int)
    measured = np.abs(decode(with_chunks(image, *chunks), CONFIG) - expected).max()
    assert measured <= 2, f"differs by {measured} levels"
    assert difference(decode(with_chunks(image, *chunks), CONFIG), np.asarray(image)) > 3


def test_a_png_that_says_srgb_stays_as_it_is() -> None:
    """sRGB's own gamma and primaries change no pixel, and gAMA says nothing beside sRGB or a profile."""
    image, pixels = picture(), np.asarray(picture())
    for chunks in (
        (gamma_chunk(0.45455),),
        (gamma_chunk(0.45455), chromaticities(*SRGB_CHROMATICITIES)),
        (chunk(b"sRGB", b"\0"), gamma_chunk(1.0)),
        (chunk(b"cICP", bytes([1, 13, 0, 1])),),
        (chunk(b"gAMA", bytes(4)),),
    ):
        assert np.array_equal(decode(with_chunks(image, *chunks), CONFIG), pixels), chunks
    profiled = encode(image, "PNG", icc_profile=SRGB)
    assert np.array_equal(decode(profiled[:33] + gamma_chunk(1.0) + profiled[33:], CONFIG), pixels)


def test_high_dynamic_range_has_its_reason() -> None:
    """A PNG of PQ or HLG is no picture that 8 bits could hold."""
    for curve, name in ((16, "PQ"), (18, "HLG")):
        rejected = rejection(with_chunks(picture(), chunk(b"cICP", bytes([9, curve, 0, 1]))))
        assert str(rejected) == f"unsupported_image: PNG: high dynamic range ({name})"


def test_a_profile_is_read_once() -> None:
    """A crawl pays for each profile once, not once a photograph."""
    data = encode(picture(), "PNG", icc_profile=rgb_profile(P3_PRIMARIES, gamma_curve(2.1)))
    decode(data, CONFIG)
    before = module._to_srgb.cache_info()
    for _ in range(3):
        decode(data, CONFIG)
    after = module._to_srgb.cache_info()
    assert (after.misses, after.hits - before.hits) == (before.misses, 3)
