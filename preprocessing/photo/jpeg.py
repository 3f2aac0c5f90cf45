"""The pixels of a JPEG by simplejpeg: Pillow's own in half the time or less, at full size or reduced.

libjpeg warns of bytes that are missing, and of odd ones that cost nothing; here the two are told apart. Not here: what
the pixels mean (`preprocessing.photo.decode`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from preprocessing.reject import Reason, Rejected

EIGHTHS = (8, 7, 6, 5, 4, 3, 2)
"""What of its side a JPEG is decoded at: smaller, a face is seldom left enough."""

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_DAMAGE = re.compile(r"premature end|bad Huffman code|bad arithmetic code|instead of RST", re.IGNORECASE)
"""What libjpeg warns of when pixels are lost; its other warnings are of odd headers and superfluous bytes."""
_NO_END = "Premature end of JPEG file"
_END = b"\xff\xd9"
_SCAN, _PROGRESSIVE = 0xDA, 0xC2
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers that no length follows."""
_NUM_COEFFICIENTS = 64


def eighths_within(image: Image.Image, max_pixels: int) -> int:
    """At how many eighths of its side an opened JPEG has at most `max_pixels`.

    Rejected where it has more at all of `EIGHTHS`; or is stored in passes, which need memory for all of its pixels.
    """
    width, height = image.size
    if width * height <= max_pixels:
        return 8
    if image.info.get("progressive"):
        raise Rejected(Reason.TOO_MANY_PIXELS, f"{width}x{height}, in passes")
    for eighths in EIGHTHS:
        if -(-width * eighths // 8) * -(-height * eighths // 8) <= max_pixels:
            return eighths
    raise Rejected(Reason.TOO_MANY_PIXELS, f"{width}x{height}")


def jpeg_pixels(image: Image.Image, data: bytes, eighths: int) -> NDArray[np.uint8] | None:
    """The pixels of an opened JPEG, (height, width, bands), or None where Pillow is to try by itself.

    Raises ValueError where pixels are lost, with how many.
    """
    # A given buffer is also the check that libjpeg sees the size that Pillow does.
    height, width = -(-image.height * eighths // 8), -(-image.width * eighths // 8)
    buffer = np.empty((height, width, len(image.getbands())), np.uint8)
    options: dict[str, Any] = {"colorspace": _SPACES[image.mode], "buffer": buffer}
    if eighths < 8:
        options |= {"min_height": height, "min_width": width}
    try:
        pixels = simplejpeg.decode_jpeg(data, **options)
    except ValueError as error:
        if str(error) == _NO_END and not data.endswith(_END) and _is_whole(data):
            # Zeros are room that a download never filled, and would be read as pixels.
            coded = data.rstrip(b"\0") if data.endswith(bytes(_NUM_COEFFICIENTS)) else data
            return jpeg_pixels(image, coded.removesuffix(_END[:1]) + _END, eighths)
        if _DAMAGE.search(str(error)):
            simplejpeg.decode_jpeg(data, **options, strict=False)
            raise ValueError(f"{error}: {_missing_share(buffer):.0%} of the rows are missing") from error
        return None  # a kind of subsampling it does not know, or superfluous bytes
    if pixels.shape != buffer.shape:
        return None
    # Inks are stored inverted, as Adobe has them; Pillow takes that for granted too.
    return ~buffer if image.mode == "CMYK" else buffer


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG without its end marker may lack nothing else: all coefficients were sent to the last bit.

    Of a picture sent at once, libjpeg sees itself what is missing.
    """
    sent: dict[int, NDArray[np.bool_]] = {}
    is_progressive = False
    for marker, body in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            is_progressive = marker == _PROGRESSIVE
            sent = {component: np.zeros(_NUM_COEFFICIENTS, bool) for component in body[6::3]}
        elif marker == _SCAN and body:
            components = body[1 : 1 + 2 * body[0] : 2]
            first, last, bits = body[-3:]
            for component in components:
                if component in sent and not bits & 15:
                    sent[component][first : last + 1] = True
    return not is_progressive or all(coefficients.all() for coefficients in sent.values())


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment; what a scan codes is passed over."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3:
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in _ALONE:  # a coded 255, filling, or a restart
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)


def _missing_share(pixels: NDArray[np.uint8]) -> float:
    """The share of the last rows that libjpeg filled with one colour."""
    is_even = (pixels == pixels[-1, -1]).all(axis=(1, 2))
    return float(np.argmin(is_even[::-1])) / len(pixels) if not is_even.all() else 1.0
