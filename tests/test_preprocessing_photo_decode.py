"""Decoding: every format and mode to upright sRGB, and a named rejection for everything else."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, JpegImagePlugin

from preprocessing.photo import decode as module
from preprocessing.photo.decode import DecodeConfig, decode, decoded
from preprocessing.reject import Reason, Rejected

CONFIG = DecodeConfig()
ORIENTATION = 0x0112
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# How a picture has to be stored for a viewer that obeys each EXIF orientation to show it upright.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """A smooth picture without symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) * 2], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    """`image` as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def with_orientation(image: Image.Image, orientation: int, format: str, **options: object) -> bytes:
    """`image` as a file in which it lies as a camera turned that way would have stored it."""
    turned = image.transpose(STORED[orientation]) if orientation in STORED else image
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(turned, format, exif=exif.tobytes(), **options)


def rejection(data: bytes, config: DecodeConfig = CONFIG) -> Rejected:
    """The rejection that decoding raises."""
    with pytest.raises(Rejected) as info:
        decode(data, config)
    return info.value


def outcome(data: bytes, config: DecodeConfig) -> str:
    """What decoding comes to: pixels of the right kind, or a rejection in full."""
    try:
        pixels = decode(data, config)
    except Rejected as rejected:
        return str(rejected)
    assert pixels.ndim == 3
    assert pixels.dtype == np.uint8
    return "pixels"


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    """The pixels as Pillow alone has them, without orientation and profile."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def segment(marker: int, body: bytes) -> bytes:
    """One segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def grey_jpeg(sampling: int, scans: int = 0, size: int = 64) -> bytes:
    """A mid-grey progressive JPEG written by hand, with any luminance sampling and number of empty extra scans."""
    one_code = bytes([1] + [0] * 15)
    frame = struct.pack(">BHHB", 8, size, size, 3) + bytes([1, sampling, 0, 2, 0x11, 0, 3, 0x11, 0])
    data = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, frame)
    data += segment(0xC4, b"\0" + one_code + b"\0" + b"\x10" + one_code + b"\xe0")
    data += segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 0, 1])) + bytes(size * size // 8)
    for number in range(scans):
        high, low = divmod(number, 63)
        approximation = 13 if high == 0 else (14 - high) << 4 | (13 - high)
        # A run of 2^14 + 2^14 - 1 empty blocks: one scan in two bytes.
        data += segment(0xDA, bytes([1, 1, 0, low + 1, low + 1, approximation])) + b"\x7f\xff\0"
    return data + b"\xff\xd9"


def png(
    raw: bytes, size: tuple[int, int], depth: int, colour: int, interlace: int = 0, chunks: bytes = b""
) -> bytes:
    """A PNG written by hand, for what Pillow does not write; `raw` are its filtered rows."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def tiff(size: tuple[int, int], strip: bytes, num_bands: int, num_strips: int = 1, **tags: int) -> bytes:
    """A raw 8-bit TIFF written by hand: `num_strips` times the same strip; `tags` are named `t` and their number."""
    fields: dict[int, list[int]] = {
        256: [size[0]],
        257: [size[1]],
        258: [8] * num_bands,
        259: [1],
        262: [2 if num_bands == 3 else 1],
        273: [0] * num_strips,
        277: [num_bands],
        278: [size[1]],
        279: [len(strip)] * num_strips,
    }
    fields |= {int(name[1:]): [value] for name, value in tags.items()}
    start = 8 + 2 + 12 * len(fields) + 4
    fields[273] = [start + sum(4 * len(v) for v in fields.values() if len(v) > 1)] * num_strips
    table, values = b"", b""
    for tag, numbers in sorted(fields.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        here = packed if len(numbers) == 1 else struct.pack("<I", start + len(values))
        values += packed if len(numbers) > 1 else b""
        table += struct.pack("<HHI", tag, 4, len(numbers)) + here
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + table + bytes(4) + values + strip


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


def test_unmeasured_pixels_are_rejected() -> None:
    """Floating point and 32-bit integers have no white, so no picture is made up of them."""
    for dtype in (np.float32, np.int32):
        rejected = rejection(encode(Image.fromarray(np.zeros((4, 4), dtype)), "TIFF"))
        assert str(rejected).startswith("unsupported_image: TIFF: unsupported pixel type"), rejected


def test_transparency_is_composited_on_white() -> None:
    """Where a picture is clear it is white, and half clear red on white is pink."""
    image = Image.new("RGBA", (4, 1), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    pixels = decode(encode(image, "PNG"), CONFIG)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert abs(int(pixels[0, 1, 1]) - 127) <= 1
    assert pixels[0, 2].tolist() == [255, 0, 0]


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


JPEGS = {
    **{
        kind: simplejpeg.encode_jpeg(np.asarray(picture()), colorsubsampling=kind)
        for kind in ("444", "422", "420")
    },
    **{kind: simplejpeg.encode_jpeg(np.asarray(picture()), colorsubsampling=kind) for kind in ("440", "411")},
    "odd size": encode(picture(37, 21), "JPEG"),
    "progressive": encode(picture(), "JPEG", progressive=True),
    "restart markers": encode(picture(), "JPEG", restart_marker_blocks=1),
    "grey": encode(picture().convert("L"), "JPEG"),
    "grey, subsampled": simplejpeg.encode_jpeg(
        np.asarray(picture().convert("L"))[..., None], colorspace="GRAY"
    ),
    "RGB": encode(picture(), "JPEG", keep_rgb=True),
    "CMYK": encode(picture().convert("CMYK"), "JPEG"),
}
JPEGS["YCCK"] = JPEGS["CMYK"].replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")


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


def test_a_profile_is_read_once() -> None:
    """A crawl pays for each profile once, not once a photograph."""
    data = encode(picture(), "PNG", icc_profile=rgb_profile(P3_PRIMARIES, gamma_curve(2.1)))
    decode(data, CONFIG)
    before = module._to_srgb.cache_info()
    for _ in range(3):
        decode(data, CONFIG)
    after = module._to_srgb.cache_info()
    assert (after.misses, after.hits - before.hits) == (before.misses, 3)


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
    for bomb in (b"iCCP", b"zTXt"):
        zeros = chunk(bomb, b"x\0\0" + zlib.compress(bytes(20_000_000)))
        assert rejection(png(bytes(13), (4, 1), 8, 2, chunks=zeros)).reason is Reason.BROKEN_IMAGE


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
