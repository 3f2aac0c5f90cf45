"""Decoding: every format and mode to upright sRGB, and a named rejection for everything else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from preprocessing.decode import DecodeConfig, decode
from preprocessing.reject import Reason, Rejected

CONFIG = DecodeConfig()


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


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG", "AVIF"])
def test_every_allowed_format_is_read(format: str) -> None:
    """Each format gives its picture's pixels, exactly where it is lossless."""
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    pixels = decode(encode(picture(), format, **options), CONFIG)
    limit = {"JPEG": 1.5, "GIF": 12.0, "AVIF": 6.0}.get(format, 0.0)
    measured = difference(pixels, np.asarray(picture()))
    assert measured <= limit, f"{format} differs by {measured}"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_honoured(orientation: int, format: str) -> None:
    """A picture stored in any of the eight orientations comes back upright."""
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = picture()
    turned = image.transpose(stored[orientation]) if orientation in stored else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encode(turned, format, exif=exif, quality=98), CONFIG)
    assert pixels.shape == (24, 40, 3)
    measured = difference(pixels, np.asarray(image))
    assert measured < 4, f"orientation {orientation} differs by {measured}"


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


def test_transparency_is_composited_on_white() -> None:
    """Where a picture is clear it is white, and half clear red on white is pink."""
    image = Image.new("RGBA", (4, 1), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    pixels = decode(encode(image, "PNG"), CONFIG)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert abs(int(pixels[0, 1, 1]) - 127) <= 1
    assert pixels[0, 2].tolist() == [255, 0, 0]


def test_the_colour_profile_is_applied() -> None:
    """A profile with its primaries exchanged changes the pixels; sRGB and an unreadable profile do not."""
    image = picture()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(decode(encode(image, "PNG", icc_profile=srgb), CONFIG), np.asarray(image)) == 0
    assert difference(decode(encode(image, "PNG", icc_profile=b"nonsense"), CONFIG), np.asarray(image)) == 0
    # The green and red primaries exchanged: a true RGB profile that is not sRGB.
    swapped = srgb.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "ours".encode("utf-16-be"))
    pixels = decode(encode(image, "PNG", icc_profile=swapped), CONFIG)
    measured = difference(pixels, np.asarray(image)[:, :, [1, 0, 2]])
    assert measured < 3, f"differs by {measured} from red and green exchanged"


def test_the_first_frame_of_an_animation_is_taken() -> None:
    """An animated file is its first frame."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data, CONFIG)[0, 0].tolist() == [255, 0, 0]


def test_what_is_no_photograph_has_its_reason() -> None:
    """Empty, foreign, forbidden, cut, oversized and unsupported files each get their own reason."""
    png = encode(picture(), "PNG")
    assert rejection(b"").reason is Reason.EMPTY_FILE
    assert rejection(b"Dear reader,\n").reason is Reason.NOT_AN_IMAGE
    assert rejection(encode(picture(), "EPS")).reason is Reason.NOT_AN_IMAGE
    assert rejection(encode(picture(), "PPM")).reason is Reason.NOT_AN_IMAGE
    assert rejection(png[: len(png) // 2]).reason is Reason.BROKEN_IMAGE
    assert rejection(png, DecodeConfig(max_pixels=959)).reason is Reason.TOO_MANY_PIXELS
    assert rejection(png, DecodeConfig(max_pixels=959)).detail == "40x24"
    assert decode(png, DecodeConfig(max_pixels=960)).shape == (24, 40, 3)
    float_tiff = encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
    assert rejection(float_tiff).reason is Reason.BROKEN_IMAGE


def test_too_many_pixels_are_never_decoded() -> None:
    """A file that claims 20000x20000 pixels, without them, is rejected for its size and not for being cut."""
    header = bytearray(encode(picture(), "BMP"))
    header[18:22] = header[22:26] = (20_000).to_bytes(4, "little")
    assert rejection(bytes(header)).reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_damaged_bytes_give_pixels_or_a_rejection(format: str) -> None:
    """Whatever happens to a file's bytes, decoding gives an image or a rejection, the same one each time."""
    exif = Image.Exif()
    exif[0x0112] = 6
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    original = encode(
        picture(), format, **({} if format in ("GIF", "BMP") else {"exif": exif, "icc_profile": srgb})
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
