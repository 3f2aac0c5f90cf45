"""What a PNG says beside its pixels: chunks that are damaged but not needed, and how its numbers stand for light.

A viewer asks for cICP first, then for a profile, sRGB, and gAMA with cHRM, and so do we. Not here: the pixels, which
Pillow reads, and profiles (`preprocessing.photo.decode`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import MAX_TEXT_CHUNK

from preprocessing.reject import Reason, Rejected

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_CHROMATICITIES = {
    1: _SRGB_CHROMATICITIES,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""White, red, green and blue, as x and y, by number of ITU-T H.273: BT.709 and sRGB, BT.2020, Display P3."""
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
_SIZES = {
    b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"eXIf": 0, b"acTL": 8, b"fcTL": 26, b"fdAT": 4,
}  # fmt: skip
"""The least bytes of the chunks that say how pixels look, or are frames of an animation."""
_CLEAR_BYTES = {0: 2, 2: 6, 3: 1}
"""The least bytes of tRNS, by type of colour."""
_LIKE_SRGB = {1, 6, 13, 14, 15}
_HIGH_RANGE = {16: "PQ", 18: "HLG"}
_NEARLY_SRGB = 2.2
"""The power with which sRGB is often written down."""
_LIGHTS, _SHARES = 2**16, 2**12
"""Steps of light, and of the matrix, from 0 to 1."""
_BAND_PX = 2**18
_PIECE_BYTES = 256


@dataclass(frozen=True)
class Colours:
    """How numbers stand for light: a power, or sRGB's curve where it is None; and the primaries' chromaticities."""

    power: float | None
    chromaticities: tuple[float, ...]

    def to_srgb(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) as sRGB has them; the same array where that changes next to nothing.

        Light and matrix are rounded so far that their products and sums are exact, on every processor.
        """
        values = np.arange(256) / 255
        light = _light(values) if self.power is None else values**self.power
        matrix = np.linalg.inv(_to_xyz(_SRGB_CHROMATICITIES)) @ _to_xyz(self.chromaticities)
        if np.abs(matrix - np.eye(3)).max() < 0.02:
            if self.power is None or abs(self.power - _NEARLY_SRGB) < 0.05:
                return pixels
            return np.asarray(cv2.LUT(pixels, np.rint(255 * _coded(light)).astype(np.uint8)))
        light, matrix = np.rint(light * _LIGHTS) / _LIGHTS, np.rint(matrix * _SHARES) / _SHARES
        codes = np.rint(255 * _coded(np.arange(_LIGHTS + 1) / _LIGHTS)).astype(np.uint8)
        coded = np.empty_like(pixels)
        at_once = max(_BAND_PX // pixels.shape[1], 1)
        for first in range(0, len(pixels), at_once):
            band = slice(first, first + at_once)
            linear = np.clip(cv2.transform(light[pixels[band]], matrix), 0, 1)
            coded[band] = codes[np.rint(linear * _LIGHTS).astype(np.int32)]
        return coded


def without_notes(data: bytes) -> bytes:
    """A PNG without the chunks that do not say how its pixels look, and those that are damaged: viewers pass over them.

    Texts above all, of any size when they are unpacked; and what has a wrong checksum, or cannot be what its name says.
    """
    parts, kept = [], 0
    for name, start, end in _chunks(data):
        if name[0] & 0x20 and not _is_told(name, data, start, end):  # a small first letter: not critical
            parts.append(data[kept:start])
            kept = end
    return b"".join([*parts, data[kept:]]) if parts else data


def _is_told(name: bytes, data: bytes, start: int, end: int) -> bool:
    """Whether a chunk that is not critical says how pixels look, and is whole."""
    body = data[start + 8 : end - 4]
    if name == b"iCCP":
        is_sound = _is_profile(body)
    elif name == b"tRNS":
        is_sound = len(body) >= _CLEAR_BYTES.get(data[25], len(body) + 1)
    else:
        is_sound = name in _SIZES and len(body) >= _SIZES[name]
    return is_sound and zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _is_profile(body: bytes) -> bool:
    """Whether it is a name and a packed profile of a size that Pillow unpacks."""
    name, _, packed = body.partition(b"\0")
    if not 1 <= len(name) <= 79 or packed[:1] != b"\0":
        return False
    try:
        return len(zlib.decompressobj().decompress(packed[1:], MAX_TEXT_CHUNK + 1)) <= MAX_TEXT_CHUNK
    except zlib.error:
        return False


def colours(data: bytes) -> Colours | None:
    """What a PNG's chunks say of its colours; None where they say sRGB, or nothing, or leave it to a profile.

    Rejected for a curve of a high dynamic range, which no 8 bits hold.
    """
    said: dict[bytes, bytes] = {}
    for name, start, end in _chunks(data):
        if name == b"IDAT":
            break
        said.setdefault(name, data[start + 8 : end - 4])
    if len(said.get(b"cICP", b"")) == 4:
        primaries, curve, _, _ = said[b"cICP"]
        if curve in _HIGH_RANGE:
            raise Rejected(Reason.UNSUPPORTED_IMAGE, f"PNG: high dynamic range ({_HIGH_RANGE[curve]})")
        if primaries in _CHROMATICITIES and curve in _LIKE_SRGB | _POWERS.keys():
            return Colours(_POWERS.get(curve), _CHROMATICITIES[primaries])
    if b"iCCP" in said or b"sRGB" in said or len(said.get(b"gAMA", b"")) != 4:
        return None
    gamma = int.from_bytes(said[b"gAMA"], "big") / 100_000
    chromaticities = _SRGB_CHROMATICITIES
    if len(said.get(b"cHRM", b"")) == 32:
        chromaticities = tuple(number / 100_000 for number in struct.unpack(">8I", said[b"cHRM"]))
    if not 0.1 <= gamma <= 10 or min(chromaticities[1::2]) <= 0:
        return None
    return Colours(1 / gamma, chromaticities)


def missing_share(data: bytes) -> float | None:
    """The share of a PNG's rows that its data does not reach to; None where it is interlaced, or unreadable."""
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    depth, colour, _, _, interlaced = data[24:29]
    if interlaced or not height:
        return None
    bits = width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    stream, num_bytes = zlib.decompressobj(), 0
    try:
        for name, start, end in _chunks(data, until_the_end=True):
            if name == b"IDAT":
                for at in range(start + 8, end - 4, _PIECE_BYTES):  # what comes before a fault counts
                    num_bytes += len(stream.decompress(data[at : min(at + _PIECE_BYTES, end - 4)]))
    except zlib.error:
        pass  # what was read before it counts
    return 1 - min(num_bytes / (height * (1 + -(-bits // 8))), 1)


def _chunks(data: bytes, until_the_end: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each whole chunk; with the last one cut, if `until_the_end`."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            if until_the_end:
                yield data[at + 4 : at + 8], at, len(data) + 4
            return
        yield data[at + 4 : at + 8], at, end
        at = end


def _light(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _coded(light: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _to_xyz(chromaticities: tuple[float, ...]) -> NDArray[np.float64]:
    """The matrix from linear RGB to XYZ, with the white at sRGB's."""
    points = np.array(chromaticities).reshape(4, 2)
    white, *primaries = np.stack([points[:, 0], points[:, 1], 1 - points.sum(axis=1)], axis=1) / points[:, 1:]
    columns = np.array(primaries).T
    return np.asarray(columns * np.linalg.solve(columns, white))
