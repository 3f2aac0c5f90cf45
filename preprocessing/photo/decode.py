"""From the bytes of one photograph to upright sRGB pixels, bounded in size.

Pillow reads every file's header, and only of the formats listed here: parsers that run programs or read containers
(EPS, PDF, HDF5) are never tried. The bytes decide, never a name or a content type. Pixels of a JPEG come from
simplejpeg; those of HEIC from libheif; all others from Pillow. EXIF orientation is applied, an embedded colour profile
is converted to sRGB, and transparency is composited on white, as a browser shows it. Of an animation or a phone's
several pictures, the first. Of a JPEG larger than the limit, a reduced picture: libjpeg makes it without making the
large one. Not here: raw formats, JPEG 2000 and XL, HDR transfer curves.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    Image,
    ImageChops,
    ImageCms,
    JpegImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)
from pydantic import Field

from preprocessing.photo import png
from preprocessing.photo.jpeg import eighths_within, jpeg_pixels
from preprocessing.reject import Reason, Rejected
from storage.config import Config

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "TIFF", "WEBP")
"""AVIF before HEIF: both may call themselves `mif1`, and only AVIF's reader leaves the other one's files to it."""

# One thread each, for other workers have the other cores; and of a HEIF file only the photograph itself.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
Image.MAX_IMAGE_PIXELS = None  # `max_pixels` is the limit, and may be above Pillow's own

_BITS_TAG, _ORIENTATION_TAG, _TILE_WIDTH_TAG, _TILE_HEIGHT_TAG = 0x0102, 0x0112, 0x0142, 0x0143
_TURNS: dict[int, tuple[bool, int | None]] = {
    1: (False, None),
    2: (False, 1),
    3: (False, -1),
    4: (False, 0),
    5: (True, None),
    6: (True, 1),
    7: (True, -1),
    8: (True, 0),
}
"""By EXIF orientation: whether rows become columns, and OpenCV's code for the flip after that."""

_HEIF_SIZE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)
_HEIF_TURN = re.compile(rb"\0\0\0\x09i(?:rot|mir)")
_JPEG_SCAN = re.compile(rb"\xff\xda\x00[\x06\x08\x0a\x0c][\x01-\x04]")

_MAX_JPEG_SCANS = 100  # encoders write at most 18; a few bytes of one cost a pass over the whole picture
_MAX_EXIF_SEGMENTS = 100  # one is usual; Pillow joins them in quadratic time
_MAX_TIFF_TILES = 100_000
_MAX_TIFF_BANDS = 5  # planes, each of which covers the picture once
_MAX_RUNS_BYTES = 8 * 2**20  # of a run-length BMP, which Pillow decodes in Python

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


class DecodeConfig(Config):
    """What a photograph may be."""

    max_pixels: int = Field(
        default=80_000_000,
        ge=1,
        le=2**30,
        description="Most pixels that are decoded, at up to 15 bytes each. Of a larger JPEG a reduced picture is "
        "decoded, down to a quarter of its side, where that leaves a crop its pixels; other larger photographs are "
        "rejected before their pixels are read.",
    )


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A photograph as it was decoded: its pixels, and its own size, which is larger where it was reduced."""

    pixels: NDArray[np.uint8]
    width_px: int
    height_px: int

    @property
    def reduction(self) -> NDArray[np.float64]:
        """How many times larger the photograph is, in x and y; ones where its pixels are its own."""
        return np.array([self.width_px / self.pixels.shape[1], self.height_px / self.pixels.shape[0]])


def decode(data: bytes, config: DecodeConfig) -> NDArray[np.uint8]:
    """The pixels of `decoded`."""
    return decoded(data, config).pixels


def decoded(data: bytes, config: DecodeConfig) -> Decoded:
    """The upright sRGB pixels of an encoded photograph, uint8 (height, width, 3), the same for the same bytes.

    Raises `Rejected` for bytes that are empty, no image, broken or too large. A JPEG cut short is broken also where
    something put an end marker after the cut, which Pillow alone would take for a picture with a grey rest; one that
    lacks nothing but that marker is whole.
    """
    if not data:
        raise Rejected(Reason.EMPTY_FILE)
    if is_png := data.startswith(png.SIGNATURE):
        data = png.without_notes(data)
    with warnings.catch_warnings():
        # Pillow warns of odd metadata: of no use to anyone here.
        warnings.simplefilter("ignore")
        image = _opened(data)
        _without_xmp(image)  # before a TIFF is loaded, which turns it
        eighths = 8
        if image.format == "JPEG":
            eighths = eighths_within(image, config.max_pixels)
        else:
            _check_size(image, data, config.max_pixels)
        width_px, height_px = image.size
        try:
            _refuse_bombs(image, data, config)
            pixels = jpeg_pixels(image, data, eighths) if image.format == "JPEG" else None
            if pixels is None:
                if image.info.get("default_image") and getattr(image, "n_frames", 1) > 1:
                    image.seek(1)  # before an animated PNG's first frame stands a picture for old viewers
                if eighths < 8:
                    times = 2 if eighths >= 4 else 4
                    image.draft(image.mode, (-(-width_px // times), -(-height_px // times)))
                image.load()
                _refuse_small_numbers(image, data)
            orientation = _orientation(image, data)
            upright = _upright(_srgb(image, pixels, png.colours(data) if is_png else None), orientation)
            if _TURNS[orientation][0]:
                width_px, height_px = height_px, width_px
            return Decoded(upright, width_px, height_px)
        except (MemoryError, Rejected):
            raise
        except Exception as error:
            # On a damaged file the parsers raise nearly anything (OSError, SyntaxError, struct.error, KeyError).
            share = png.missing_share(data) if is_png else None
            raise _broken(str(image.format), error, share) from error


def _check_size(image: Image.Image, data: bytes, max_pixels: int) -> None:
    sizes = [image.size]
    if image.format == "HEIF":  # of which `image.size` may be a small window
        sizes += [struct.unpack(">II", size) for size in _HEIF_SIZE.findall(data)]
    for width, height in sizes:
        if width * height > max_pixels:
            raise Rejected(Reason.TOO_MANY_PIXELS, f"{width}x{height}")


def _opened(data: bytes) -> Image.Image:
    try:
        if data.startswith(b"\xff\xd8\xff"):
            if data.count(b"Exif\0\0") > _MAX_EXIF_SEGMENTS:
                raise ValueError("too many EXIF segments")
            # Not `Image.open`: that also reads the index of a phone's further pictures, and fails where that is bad.
            try:
                return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
            except SyntaxError as error:
                if not isinstance(error.__cause__, IndexError):
                    raise
                # a profile of which less is there than its own head: it says nothing
                return JpegImagePlugin.JpegImageFile(
                    io.BytesIO(data.replace(b"ICC_PROFILE\0", b"icc_profile\0"))
                )
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        signed = [name for name in FORMATS if (accept := Image.OPEN[name][1]) and accept(data[:16])]
        if signed:
            raise Rejected(Reason.BROKEN_IMAGE, f"header: unreadable {' or '.join(signed)}") from None
        raise Rejected(Reason.NOT_AN_IMAGE) from None
    except MemoryError:
        raise
    except Exception as error:
        raise _broken("header", error) from error


def _broken(where: str, error: Exception, missing: float | None = None) -> Rejected:
    """A rejection whose detail is the same on every run: no object addresses, no long dumps."""
    message = re.sub(r" at 0x[0-9a-fA-F]+", "", str(error))[:200]
    lost = f": {missing:.0%} of the rows are missing" if missing else ""
    return Rejected(Reason.BROKEN_IMAGE, f"{where}: {message or type(error).__name__}{lost}")


def _refuse_bombs(image: Image.Image, data: bytes, config: DecodeConfig) -> None:
    """Raise ValueError for a file made to take hours or all memory, such as no camera or program writes.

    And for a TIFF of which rows are missing, which Pillow leaves black.
    """
    if image.format == "JPEG" and len(_JPEG_SCAN.findall(data)) > _MAX_JPEG_SCANS:
        raise ValueError("too many scans")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile_px = image.tag_v2.get(_TILE_WIDTH_TAG, 1) * image.tag_v2.get(_TILE_HEIGHT_TAG, 1)
        boxes = [tile.extents or (0, 0, 0, 0) for tile in image.tile[:_MAX_TIFF_TILES]]
        covered_px = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
        if tile_px > config.max_pixels or len(image.tile) > _MAX_TIFF_TILES:
            raise ValueError("too many or too large tiles")
        if not 1 <= covered_px / (image.width * image.height) <= _MAX_TIFF_BANDS:
            raise ValueError("tiles do not cover the picture once")
    runs = isinstance(image, BmpImagePlugin.BmpImageFile) and image.tile[0].codec_name == "bmp_rle"
    if runs and len(data) > _MAX_RUNS_BYTES:
        raise ValueError("too many runs")


def _refuse_small_numbers(image: Image.Image, data: bytes) -> None:
    """Reject a loaded picture of 16 bits whose numbers have 12 at most: a viewer shows it all but black."""
    bits = data[24] if image.format == "PNG" else max(getattr(image, "tag_v2", {}).get(_BITS_TAG, (8,)))
    if bits != 16 or image.mode in ("I", "F"):
        return
    extrema = np.atleast_2d(image.getextrema())
    highest = max(
        high for band, (_, high) in zip(image.getbands(), extrema, strict=True) if band not in ("A", "a")
    )
    if highest < (4096 if image.mode.startswith("I;16") else 16):  # Pillow keeps the upper half of colours
        raise Rejected(
            Reason.UNSUPPORTED_IMAGE, f"{image.format}: all but black, as 12 bits or fewer in 16 are"
        )


def _srgb(
    image: Image.Image, pixels: NDArray[np.uint8] | None, colours: png.Colours | None
) -> NDArray[np.uint8]:
    """The pixels of `image`, whatever its mode and profile, as sRGB; `pixels` are its own if decoded already.

    `colours` outrank a profile.
    """
    icc = None if colours else _LAB if image.mode == "LAB" else image.info.get("icc_profile")
    if pixels is not None:
        if image.mode != "CMYK" and not (icc and _to_srgb(icc, image.mode)):
            return pixels if image.mode == "RGB" else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        image = Image.frombuffer(image.mode, pixels.shape[1::-1], pixels, "raw", image.mode, 0, 1)
    if image.mode in ("I", "F"):
        raise Rejected(Reason.UNSUPPORTED_IMAGE, f"{image.format}: unsupported pixel type {image.mode}")
    alpha = None
    if image.mode.startswith("I;16"):
        numbers = np.asarray(image).astype(np.uint16)
        if isinstance(clear := image.info.get("transparency"), int):
            alpha = Image.fromarray(np.where(numbers == clear, 0, 255).astype(np.uint8))
        image = Image.fromarray((numbers >> 8).astype(np.uint8))
    mode = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "RGB")
    drawn = getattr(image, "dispose_extent", None) if image.format == "GIF" else None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if drawn and tuple(drawn) != (0, 0, *image.size):  # the rest of a GIF's screen is clear
        covered = Image.new("L", image.size, 0)
        covered.paste(255, tuple(drawn))
        alpha = covered if alpha is None else ImageChops.darker(alpha, covered)
    image = _in_mode(image, mode)
    transform = _to_srgb(icc, mode) if icc else None
    image = transform.apply(_in_mode(image, transform.input_mode)) if transform else _in_mode(image, "RGB")
    if colours:
        image = Image.fromarray(colours.to_srgb(np.asarray(image)))
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    # Four bytes a pixel, as Pillow keeps them, and OpenCV: a quarter of the time of NumPy's array of the image.
    rgbx = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(image.height, image.width, 4)
    rgb: NDArray[np.uint8] = cv2.cvtColor(rgbx, cv2.COLOR_RGBA2RGB)
    return rgb


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


@lru_cache(maxsize=32)
def _to_srgb(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion of pixels of `mode` from an embedded profile to sRGB, from its own `input_mode`.

    None where the pixels are to stay: the profile is sRGB, under whatever name; or it is damaged or for another kind
    of pixels, and says nothing: browsers show such pixels as sRGB too. Relative colorimetric with black point
    compensation: cameras' and displays' profiles give the same for every intent, and of a printer's this keeps the
    colours that are in reach of both.
    """
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
            mode = "RGB"  # grey pictures often carry the profile of their colour original
        transform = ImageCms.buildTransform(
            profile,
            _SRGB,
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode in ("L", "RGB"):
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        cube = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3))
        change = np.asarray(transform.apply(cube.convert(mode)), int) - np.asarray(
            cube.convert(mode).convert("RGB")
        )
        if np.abs(change).max() <= 1:
            return None
    return transform


def _orientation(image: Image.Image, data: bytes) -> int:
    """EXIF orientation 1 to 8; 1 where it is absent, or unreadable although the pixels are fine.

    Read after loading: Pillow turns TIFF files itself then, and drops their tag. HEIC and AVIF say it in their
    container, and what their EXIF or XMP repeats does not count: libheif turns the pixels, and Pillow writes AVIF's
    word into EXIF. Of a HEIC whose container says nothing, EXIF is believed. XMP is not, as in browsers.
    """
    if image.format == "HEIF":
        said = image.info.get("original_orientation")
        return said if said in _TURNS and not _HEIF_TURN.search(data) else 1
    _without_xmp(image)
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except MemoryError:
        raise
    except Exception:
        # Damaged EXIF raises whatever its parser meets; the pixels decide whether the image is kept.
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _without_xmp(image: Image.Image) -> None:
    """Have Pillow not look for a turn in XMP, where EXIF says none."""
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    transposed, flip = _TURNS[orientation]
    if transposed:
        pixels = cv2.transpose(pixels)
    return pixels if flip is None else cv2.flip(pixels, flip)
