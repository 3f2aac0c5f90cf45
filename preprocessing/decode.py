"""From the bytes of one photograph to upright sRGB pixels, bounded in size.

Pillow reads the file, and only the formats listed here: parsers that run programs or read containers (EPS, PDF,
HDF5) are never tried. EXIF orientation is applied, an embedded colour profile is converted to sRGB, and
transparency is composited on white, as a browser shows it. Not here: HEIC, raw formats, any resizing.
"""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from pydantic import Field

from preprocessing.reject import Reason, Rejected
from storage.config import Config

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


class DecodeConfig(Config):
    """What a photograph may be."""

    max_pixels: int = Field(
        default=80_000_000,
        ge=1,
        # Above twice its own limit Pillow refuses to open a file whatever this says.
        le=178_000_000,
        description="Largest width times height; larger photographs are rejected before their pixels are read.",
    )


def decode(data: bytes, config: DecodeConfig) -> NDArray[np.uint8]:
    """The upright sRGB pixels of an encoded photograph, uint8 (height, width, 3).

    Of an animation, the first frame. Raises `Rejected` for bytes that are empty, no image, broken or too large.
    """
    if not data:
        raise Rejected(Reason.EMPTY_FILE)
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of sizes that `max_pixels` bounds: of no use to anyone here.
        warnings.simplefilter("ignore")
        image = _opened(data)
        if image.width * image.height > config.max_pixels:
            raise Rejected(Reason.TOO_MANY_PIXELS, f"{image.width}x{image.height}")
        return _pixels(image)


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise Rejected(Reason.NOT_AN_IMAGE) from None
    except Image.DecompressionBombError:
        raise Rejected(Reason.TOO_MANY_PIXELS) from None
    except MemoryError:
        raise
    except Exception as error:
        raise _broken("header", error) from error


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    try:
        image.load()
        return np.array(_upright(_srgb(image), _orientation(image)))
    except MemoryError:
        raise
    except Exception as error:
        # On a damaged file Pillow's parsers raise nearly anything (OSError, SyntaxError, struct.error, KeyError).
        raise _broken(str(image.format), error) from error


def _broken(where: str, error: Exception) -> Rejected:
    """A rejection whose detail is the same on every run: no object addresses, no long dumps."""
    message = re.sub(r" at 0x[0-9a-fA-F]+", "", str(error))[:200]
    return Rejected(Reason.BROKEN_IMAGE, f"{where}: {message or type(error).__name__}")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where it is absent, or unreadable although the pixels are fine.

    Read after loading: Pillow turns TIFF files itself then, and drops their tag.
    """
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except MemoryError:
        raise
    except (
        Exception
    ):  # damaged EXIF raises whatever its parser meets; the pixels decide whether the image is kept
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _srgb(image: Image.Image) -> Image.Image:
    """`image` as RGB in sRGB, whatever its mode and profile."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"unsupported pixel type {image.mode}")
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert(
            "RGB"
        )
    elif image.mode in ("1", "P", "PA", "LA", "RGBX"):
        image = image.convert("RGB")
    return (_from_profile(image, profile) if profile else None) or image.convert("RGB")


def _from_profile(image: Image.Image, icc: bytes) -> Image.Image | None:
    """`image` converted from its embedded profile to sRGB, or None where the profile is sRGB or unusable."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if image.mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(profile):
            return None
        return ImageCms.profileToProfile(image, profile, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        # A damaged profile, or one for another mode, says nothing: browsers show such pixels as sRGB too.
        return None
