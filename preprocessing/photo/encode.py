"""How a crop is stored: its pixels as the bytes of a PNG, WebP or JPEG file."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from storage.config import Config

SUFFIX = {"png": "png", "webp": "webp", "jpeg": "jpg"}
"""Of a file's name, for each format."""


class EncodeConfig(Config):
    """How crops are stored."""

    format: Literal["png", "webp", "jpeg"] = Field(
        default="webp",
        description="webp and png are lossless, webp being the smaller and faster; jpeg is lossy, and a third of webp.",
    )
    png_compress_level: int = Field(
        default=4, ge=0, le=9, description="zlib effort of png: higher is smaller and slower."
    )
    jpeg_quality: int = Field(
        default=95, ge=1, le=100, description="Quality of jpeg, without chroma subsampling."
    )


def encoded(image: NDArray[np.uint8], config: EncodeConfig) -> bytes:
    """The bytes of an RGB image, uint8 (height, width, 3): the same for the same pixels, without metadata."""
    buffer = io.BytesIO()
    match config.format:
        case "png":
            Image.fromarray(image).save(buffer, "PNG", compress_level=config.png_compress_level)
        case "webp":
            Image.fromarray(image).save(buffer, "WEBP", lossless=True, method=0, quality=0)
        case "jpeg":
            Image.fromarray(image).save(buffer, "JPEG", quality=config.jpeg_quality, subsampling="4:4:4")
    return buffer.getvalue()
