"""Small pictures as files of every kind, some written by hand, and what decoding makes of them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms

from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.reject import Rejected

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
