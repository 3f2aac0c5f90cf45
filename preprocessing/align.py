"""From 68 landmarks to a face crop as FFHQ makes them: pure geometry and resampling.

The crop is a square in the photograph, turned with the face: its frame comes from the eyes and the mouth, and
what lies outside the photograph is reflected and blurred. Written from a description of FFHQ's alignment
(Karras et al. 2018, appendix A). Not here: finding faces, reading or writing files, speed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, model_validator
from scipy import ndimage

from preprocessing.reject import Reason, Rejected
from storage.config import Config

Quad = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

LEFT_EYE = slice(36, 42)  # the eye on the left of the picture
RIGHT_EYE = slice(42, 48)
MOUTH_LEFT, MOUTH_RIGHT = 48, 54


class AlignConfig(Config):
    """The crop's size and sampling."""

    output_px: int = Field(default=256, ge=8, le=1024, description="Side of the aligned crop.")
    transform_px: int | None = Field(
        default=None,
        ge=8,
        le=4096,
        description="Side at which the quad is sampled before the Lanczos reduction to output_px; 4096 is the official "
        "value at every output, None means 4 times output_px and at most 4096.",
    )

    @model_validator(mode="after")
    def _transform_covers_output(self) -> AlignConfig:
        if self.transform_px is not None and self.transform_px < self.output_px:
            raise ValueError(f"transform_px={self.transform_px} is smaller than output_px={self.output_px}")
        return self

    def resolved(self) -> AlignConfig:
        """This config with every None replaced by what it means."""
        return self.model_copy(update={"transform_px": self.transform_px or min(4 * self.output_px, 4096)})


def crop_quad(landmarks: npt.NDArray[np.float64]) -> Quad:
    """The crop's corners in the photograph, float64 (4, 2), from landmarks (68, 2).

    In order top-left, bottom-left, bottom-right, top-right of the upright face.
    """
    eye_left = landmarks[LEFT_EYE].mean(axis=0)
    eye_right = landmarks[RIGHT_EYE].mean(axis=0)
    eyes = (eye_left + eye_right) / 2
    eye_to_eye = eye_right - eye_left
    eyes_to_mouth = (landmarks[MOUTH_LEFT] + landmarks[MOUTH_RIGHT]) / 2 - eyes

    x = eye_to_eye - _turned(eyes_to_mouth)
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # all points in one place: not finite, rejected later
        x /= np.hypot(*x)
    x *= max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eyes_to_mouth))
    y = _turned(x)
    centre = eyes + 0.1 * eyes_to_mouth
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def quad_side(quad: Quad) -> float:
    """Length in pixels of the quad's side, which is a square's."""
    return float(np.hypot(*(quad[3] - quad[0])))


def check_quad(quad: Quad, width_px: int, height_px: int) -> None:
    """Raise `Rejected` for a quad that is no face of a photograph of this size.

    Landmarks on a false detection can collapse to a point or spread far outside; cropping those would pad
    without bound.
    """
    side = quad_side(quad)
    if not (np.isfinite(quad).all() and 4 <= side <= 4 * min(width_px, height_px)):
        raise Rejected(Reason.BAD_GEOMETRY, f"quad side {side:.1f} px in {width_px}x{height_px}")
    if (quad.max(axis=0) <= 0).any() or (quad.min(axis=0) >= (width_px, height_px)).any():
        raise Rejected(Reason.BAD_GEOMETRY, f"quad outside of {width_px}x{height_px}")


def aligned_crop(photo: Pixels, landmarks: npt.NDArray[np.float64], config: AlignConfig) -> Pixels:
    """The aligned face, uint8 (output_px, output_px, 3), of an upright photograph (height, width, 3).

    Raises `Rejected` where the landmarks are no face of this photograph.
    """
    quad = crop_quad(landmarks)
    check_quad(quad, photo.shape[1], photo.shape[0])
    image, quad = _shrunk(Image.fromarray(photo), quad, config.output_px)
    border = max(int(np.rint(0.1 * quad_side(quad))), 3)
    image, quad = _cropped(image, quad, border)
    image, quad = _padded(image, quad, border)
    return _transformed(image, quad, config)


def _turned(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The vector turned by a quarter: (x, y) to (-y, x)."""
    return np.array([-vector[1], vector[0]])


def _shrunk(image: Image.Image, quad: Quad, output_px: int) -> tuple[Image.Image, Quad]:
    """Reduce a photograph that is much finer than the crop."""
    factor = int(np.floor(quad_side(quad) / output_px * 0.5))
    if factor <= 1:
        return image, quad
    size = int(np.rint(image.width / factor)), int(np.rint(image.height / factor))
    return image.resize(size, Image.Resampling.LANCZOS), quad / factor


def _cropped(image: Image.Image, quad: Quad, border: int) -> tuple[Image.Image, Quad]:
    """Cut away what is further than `border` from the quad."""
    size = (image.width, image.height)
    low = np.maximum(np.floor(quad.min(axis=0)).astype(int) - border, 0)
    high = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + border, size)
    if (high - low < size).any():
        return image.crop((int(low[0]), int(low[1]), int(high[0]), int(high[1]))), quad - low
    return image, quad


def _padded(image: Image.Image, quad: Quad, border: int) -> tuple[Image.Image, Quad]:
    """Reflect the photograph outwards where the quad leaves it, ever more blurred and then even.

    Nothing is added where the quad stays, but for a few pixels, inside.
    """
    left, top = np.maximum(border - np.floor(quad.min(axis=0)).astype(int), 0)
    right, bottom = np.maximum(np.ceil(quad.max(axis=0)).astype(int) - image.size + border, 0)
    if max(left, top, right, bottom) <= border - 4:
        return image, quad
    side = quad_side(quad)
    left, top, right, bottom = (max(int(pad), int(np.rint(0.3 * side))) for pad in (left, top, right, bottom))
    pixels = np.pad(np.asarray(image, dtype=np.float32), ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width = pixels.shape[:2]
    x = np.arange(width, dtype=np.float32)[None, :, None]
    y = np.arange(height, dtype=np.float32)[:, None, None]
    # 1 at the outer edge, 0 at the photograph's, negative inside.
    mask = np.maximum(
        1.0 - np.minimum(x / np.float32(left), (width - 1 - x) / np.float32(right)),
        1.0 - np.minimum(y / np.float32(top), (height - 1 - y) / np.float32(bottom)),
    )
    sigma = 0.02 * side
    pixels += (ndimage.gaussian_filter(pixels, [sigma, sigma, 0]) - pixels) * np.clip(
        mask * 3.0 + 1.0, 0.0, 1.0
    )
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(mask, 0.0, 1.0)
    return Image.fromarray(np.uint8(np.clip(np.rint(pixels), 0, 255))), quad + np.array([left, top])


def _transformed(image: Image.Image, quad: Quad, config: AlignConfig) -> Pixels:
    """Sample the quad, then reduce to the output."""
    side = config.resolved().transform_px
    assert side is not None
    corners = tuple(float(value) for value in (quad + 0.5).flatten())
    image = image.transform((side, side), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    output = (config.output_px, config.output_px)
    return np.array(image.resize(output, Image.Resampling.LANCZOS))
