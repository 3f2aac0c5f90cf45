"""Decoding: every format, mode and orientation to upright RGB."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from photo_files import (
    CONFIG,
    ORIENTATION,
    STORED,
    by_pillow,
    chunk,
    difference,
    encode,
    picture,
    png,
    rejection,
    tiff,
    with_orientation,
)
from preprocessing.photo.decode import decode
from preprocessing.reject import Reason


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG", "AVIF", "HEIF", "MPO"])
def test_every_allowed_format_is_read(format: str) -> None:
    """Each format gives its picture's pixels, exactly where it is lossless."""
    jpeg = {"quality": 100, "subsampling": 0}
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": jpeg, "MPO": jpeg}
    pixels = decode(encode(picture(), format, **options.get(format, {})), CONFIG)
    limit = {"JPEG": 1.5, "MPO": 1.5, "GIF": 12.0, "AVIF": 6.0, "HEIF": 6.0}.get(format, 0.0)
    measured = difference(pixels, np.asarray(picture()))
    assert measured <= limit, f"{format} differs by {measured}"
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_orientation_is_honoured(orientation: int, format: str) -> None:
    """A picture stored in any of the eight orientations comes back upright, turned once and not twice."""
    pixels = decode(with_orientation(picture(), orientation, format, quality=98), CONFIG)
    assert pixels.shape == (24, 40, 3)
    measured = difference(pixels, np.asarray(picture()))
    assert measured < 4, f"orientation {orientation} differs by {measured}"


def test_turned_copies_are_one_photograph() -> None:
    """Lossless copies of a photograph in all eight orientations decode to the same bytes, so they give one crop."""
    expected = np.asarray(picture())
    for orientation in range(1, 9):
        for format, options in [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]:
            pixels = decode(with_orientation(picture(), orientation, format, **options), CONFIG)
            assert np.array_equal(pixels, expected), (orientation, format)
            assert pixels.flags.c_contiguous


def test_the_container_of_heic_and_avif_outranks_their_exif() -> None:
    """EXIF or XMP that asks for a turn which the container does not make is not obeyed, as in browsers."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for format in ("HEIF", "AVIF"):
        turned = encode(picture(), format, exif=exif.tobytes())
        rotation = turned.index(b"irot") + 4
        assert turned[rotation] in (1, 3)
        still = turned[:rotation] + b"\0" + turned[rotation + 1 :]
        assert decode(turned, CONFIG).shape == (40, 24, 3)
        assert decode(still, CONFIG).shape == (24, 40, 3)
    assert decode(encode(picture(), "AVIF", xmp=xmp), CONFIG).shape == (24, 40, 3)


def test_a_heic_whose_container_says_nothing_is_turned_by_its_exif() -> None:
    """Without a turn in the container, HEIC's EXIF is obeyed."""
    for orientation in range(1, 9):
        turned = picture().transpose(STORED[orientation]) if orientation > 1 else picture()
        exif = Image.Exif()
        exif[ORIENTATION] = 1
        told = encode(turned, "HEIF", exif=exif.tobytes(), quality=98)
        tag = struct.pack("<HHI", ORIENTATION, 3, 1), struct.pack(">HHI", ORIENTATION, 3, 1)
        at = max(told.find(order) for order in tag) + 8
        silent = told[:at] + told[at : at + 2].replace(b"\1", bytes([orientation])) + told[at + 2 :]
        assert b"irot" not in silent
        pixels = decode(silent, CONFIG)
        assert pixels.shape == (24, 40, 3), orientation
        measured = difference(pixels, np.asarray(picture()))
        assert measured < 4, f"orientation {orientation} differs by {measured}"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_no_turn_of_xmp_is_made(format: str) -> None:
    """An orientation that stands in XMP alone turns nothing, as in browsers."""
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options: dict[str, Any] = {"xmp": packet}
    if format == "PNG":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode())
    if format == "TIFF":
        options = {"tiffinfo": {700: packet}}
    data = encode(picture(), format, **options)
    assert packet in data
    assert decode(data, CONFIG).shape == (24, 40, 3)


def test_a_damaged_exif_is_read_as_upright() -> None:
    """EXIF that cannot be parsed costs a photograph nothing."""
    data = encode(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(decode(data, CONFIG), by_pillow(encode(picture(), "JPEG")))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """Grey, palette, alpha, CMYK and 16-bit pictures come out as RGB close to the original."""
    if mode == "I;16":
        grey = np.asarray(picture().convert("L"))
        data = encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    else:
        data = encode(picture().convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    pixels = decode(data, CONFIG)
    assert pixels.shape == (24, 40, 3)
    assert pixels.dtype == np.uint8
    expected = picture() if mode in ("RGB", "RGBA", "CMYK", "P") else picture().convert("L").convert("RGB")
    if mode == "1":  # dots of black and white keep only the brightness of the whole
        assert abs(float(pixels.mean()) - float(np.asarray(expected).mean())) < 8
        return
    measured = difference(pixels, np.asarray(expected))
    assert measured < {"P": 20, "CMYK": 2}.get(mode, 1), f"mode {mode} differs by {measured}"


@pytest.mark.parametrize(
    "compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"]
)
def test_every_compression_of_tiff_is_read(compression: str) -> None:
    """TIFF gives its first page whatever packs it, also where further pages follow."""
    image = picture().convert("1") if compression == "group4" else picture()
    options = {} if compression == "raw" else {"compression": compression}
    data = encode(image, "TIFF", save_all=True, append_images=[image.rotate(180)], **options)
    measured = difference(decode(data, CONFIG), np.asarray(image.convert("RGB")))
    assert measured < (8 if compression == "jpeg" else 1e-9), f"differs by {measured}"


def test_unusual_kinds_of_pixels_are_read() -> None:
    """Lab, YCbCr and planar TIFF; 16-bit colour and interlaced PNG; 10-bit HEIC; run-length BMP."""
    image, pixels = picture(), np.asarray(picture())
    lab: Any = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert difference(decode(encode(lab, "TIFF"), CONFIG), pixels) < 2
    assert difference(decode(encode(image.convert("YCbCr"), "TIFF"), CONFIG), pixels) < 2
    planes = np.moveaxis(pixels, -1, 0).tobytes()
    planar = bytearray(tiff((40, 24), planes, num_bands=3, num_strips=3, t284=2))
    for band in range(3):  # each plane is a strip of its own
        at = len(planar) - len(planes) - 24 + 4 * band
        planar[at : at + 4] = struct.pack("<I", len(planar) - len(planes) + 960 * band)
        planar[at + 12 : at + 16] = struct.pack("<I", 960)
    assert np.array_equal(decode(bytes(planar), CONFIG), pixels)

    deep = np.concatenate([np.zeros((24, 1)), np.repeat(pixels, 2, axis=-1).reshape(24, -1)], axis=1)
    assert np.array_equal(decode(png(deep.astype(np.uint8).tobytes(), (40, 24), 16, 2), CONFIG), pixels)
    rows = b""
    for y, x, dy, dx in [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]:
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[y::dy, x::dx])
    assert np.array_equal(decode(png(rows, (40, 24), 8, 2, interlace=1), CONFIG), pixels)

    for mode, sixteen in [("RGB;16", pixels), ("L;16", pixels[:, :, 0])]:
        buffer = io.BytesIO()
        heif = pillow_heif.from_bytes(mode, (40, 24), (sixteen.astype(np.uint16) * 257).tobytes())
        heif.save(buffer, quality=95)
        expected = pixels if mode == "RGB;16" else np.repeat(sixteen[:, :, None], 3, axis=-1)
        assert difference(decode(buffer.getvalue(), CONFIG), expected) < 6, mode

    runs = b"".join(bytes([40, 10 * row, 0, 0]) for row in range(24)) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 40, 24, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = b"".join(bytes([value] * 3 + [0]) for value in range(256))
    bmp = b"BM" + struct.pack("<IHHI", 54 + 1024 + len(runs), 0, 0, 54 + 1024) + header + palette + runs
    assert decode(bmp, CONFIG)[:, 0, 0].tolist() == [10 * row for row in reversed(range(24))]


def test_transparency_is_composited_on_white() -> None:
    """Where a picture is clear it is white, and half clear red on white is pink."""
    image = Image.new("RGBA", (4, 1), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    pixels = decode(encode(image, "PNG"), CONFIG)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert abs(int(pixels[0, 1, 1]) - 127) <= 1
    assert pixels[0, 2].tolist() == [255, 0, 0]


def test_one_grey_of_16_bits_may_stand_for_clear() -> None:
    """The very number that a PNG names is white, and not its neighbours of the same upper half."""
    numbers = np.array([[0x5A00, 0x5A5A, 0x5A5B]], np.uint16)
    data = encode(Image.fromarray(numbers), "PNG")
    head = 8 + 25
    pixels = decode(data[:head] + chunk(b"tRNS", struct.pack(">H", 0x5A5A)) + data[head:], CONFIG)
    assert pixels[0, :, 0].tolist() == [0x5A, 255, 0x5A]


def test_a_gif_is_clear_around_its_first_frame() -> None:
    """A frame that does not fill its screen stands on white, whatever its first colour."""
    data = bytearray(encode(Image.new("L", (2, 1), 90), "GIF"))
    data[6:10] = struct.pack("<HH", 4, 2)
    at = data.index(b",\0\0\0\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 1, 1)
    assert decode(bytes(data), CONFIG)[:, :, 1].tolist() == [[255] * 4, [255, 90, 90, 255]]


def test_an_animated_png_is_its_first_frame() -> None:
    """Not the picture that stands before it for viewers that cannot animate."""
    before, first, second = (Image.new("RGB", (4, 3), (red, 0, 0)) for red in (10, 20, 30))
    for default_image, red in ((True, 20), (False, 10)):
        data = encode(
            before, "PNG", save_all=True, append_images=[first, second], default_image=default_image
        )
        assert decode(data, CONFIG)[0, 0].tolist() == [red, 0, 0]


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_one_colour_may_stand_for_clear(mode: str) -> None:
    """The colour or palette entry that a file names as transparent is white, the others as they are."""
    image = Image.new(mode, (2, 1), 0)
    colours: dict[str, float | tuple[int, ...]] = {"L": 90, "RGB": (90, 80, 70), "P": 1}
    image.putpixel((1, 0), colours[mode])
    if mode == "P":
        image.putpalette([0, 0, 0, 90, 80, 70])
    data = encode(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    expected = [90, 90, 90] if mode == "L" else [90, 80, 70]
    assert decode(data, CONFIG)[0].tolist() == [[255, 255, 255], expected]


def test_a_png_with_damaged_notes_is_whole() -> None:
    """A wrong checksum in a chunk that no pixel depends on costs nothing; in a header it does."""
    note = bytearray(chunk(b"tEXt", b"Author\0somebody") + chunk(b"tIME", bytes(7)))
    note[-1] ^= 1
    note[20] ^= 1
    raw = b"".join(b"\0" + row.tobytes() for row in np.asarray(picture()))
    for late in (False, True):
        data = png(raw, (40, 24), 8, 2, chunks=b"" if late else bytes(note))
        data = data[:-12] + bytes(note) + data[-12:] if late else data
        assert np.array_equal(decode(data, CONFIG), np.asarray(picture()))
    damaged = bytearray(png(raw, (40, 24), 8, 2))
    damaged[32] ^= 255
    assert rejection(bytes(damaged)).reason is Reason.BROKEN_IMAGE


def test_the_first_of_several_pictures_is_taken() -> None:
    """An animation is its first frame, and a phone's file of two pictures its first."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    for format in ("WEBP", "GIF", "PNG", "AVIF", "HEIF", "TIFF", "MPO"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        red, _, blue = decode(data, CONFIG)[0, 0].tolist()
        assert red > 200, format
        assert blue < 50, format


def test_mislabelled_files_are_known_by_their_bytes() -> None:
    """A HEIC whose brand is the general one is read; nothing but the bytes is asked."""
    data = encode(picture(), "HEIF")
    general = data[:8] + b"mif1" + data[12:]
    assert np.array_equal(decode(general, CONFIG), decode(data, CONFIG))


def test_real_files_of_every_kind(faces: Path) -> None:
    """The collected odd files decode, or are rejected for what is wrong with them."""
    formats = faces / "wild" / "formats"
    upright = decode((formats / "skimage_astronaut_nasa_pd.png").read_bytes(), CONFIG)
    alpha = decode((formats / "alpha.png").read_bytes(), CONFIG)
    assert (alpha[:, :80] == 255).all(), "the clear strip is not white"
    assert difference(alpha[:, 100:], upright[:, 100:]) == 0
    close = ["progressive.jpg", "webp.webp", "tiff_lzw.tif", "palette.png", "cmyk.jpg"]
    close += [f"exif_orientation_{number}.jpg" for number in range(1, 9)]
    for name in close:
        measured = difference(decode((formats / name).read_bytes(), CONFIG), upright)
        assert measured < 16, f"{name} differs by {measured}"
    reasons = {
        "zero_byte.jpg": Reason.EMPTY_FILE,
        "text_named.jpg": Reason.NOT_AN_IMAGE,
        "truncated.jpg": Reason.BROKEN_IMAGE,
    }
    for name, reason in reasons.items():
        assert rejection((formats / name).read_bytes()).reason is reason, name
    for path in sorted((faces / "wild" / "exif").iterdir()):
        landscape = decode((faces / "wild" / "exif" / "landscape_1.jpg").read_bytes(), CONFIG)
        measured = difference(decode(path.read_bytes(), CONFIG), landscape)
        assert measured < 6, f"{path.name} differs by {measured}"


NOTES = {
    "a text that is not packed as it says": (b"zTXt", b"Comment\0\0nothing"),
    "a text of 100 million letters": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)),
    "a text without its name": (b"iTXt", b"a"),
    "a size without its unit": (b"pHYs", b"\1"),
    "half a gamma": (b"gAMA", b"\1"),
    "half of the primaries": (b"cHRM", b"\1\2"),
    "no intent": (b"sRGB", b""),
    "a clear colour of one channel": (b"tRNS", b"\1"),
    "an empty profile": (b"iCCP", b""),
    "a profile without a name": (b"iCCP", b"\0\0"),
    "a profile packed otherwise": (b"iCCP", b"of ours\0\5" + zlib.compress(b"x")),
    "a profile of 100 million bytes": (b"iCCP", b"of ours\0\0" + zlib.compress(bytes(100_000_000), 9)),
    "an animation of no length": (b"acTL", b"\0"),
    "EXIF that is none": (b"eXIf", b"nothing"),
}


@pytest.mark.parametrize("kind", NOTES)
def test_a_note_that_cannot_be_read_costs_nothing(kind: str) -> None:
    """What no pixel depends on is passed over where it is not what its name says, as browsers do."""
    data = encode(picture(), "PNG")
    head = 8 + 25
    noted = data[:head] + chunk(*NOTES[kind]) + data[head:]
    assert np.array_equal(decode(noted, CONFIG), np.asarray(picture()))


def test_a_profile_that_is_cut_costs_a_jpeg_nothing() -> None:
    """Of which less is there than its own head."""
    data = encode(picture(), "JPEG")
    noted = data[:2] + b"\xff\xe2\0\x0eICC_PROFILE\0" + data[2:]
    assert np.array_equal(decode(noted, CONFIG), decode(data, CONFIG))
