"""Photographs to faces: detection, order, encoding and identity, on real portraits."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.photo.align import AlignConfig
from preprocessing.photo.decode import DecodeConfig
from preprocessing.photo.detect import DetectConfig, detect_faces, predictor_digest, predictor_path
from preprocessing.photo.encode import EncodeConfig, encoded
from preprocessing.records import Face, Rejection
from preprocessing.reject import Reason
from storage.digest import bytes_digest
from storage.errors import ConfigError

CONFIG = FacesConfig(align=AlignConfig(output_px=64))


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    """The portrait of Eileen Collins that scikit-image carries."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-image is not installed")
    return (
        Image.open(Path(spec.origin).parent / "data" / "astronaut.png").convert("RGB").crop((0, 0, 512, 330))
    )


def as_png(image: Image.Image) -> bytes:
    """`image` as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_one_face_is_found_where_it_is(astronaut: Image.Image) -> None:
    """The detector finds the one face, and its landmarks stand on the eyes."""
    found = detect_faces(np.array(astronaut), DetectConfig())
    assert len(found) == 1
    assert found[0].landmarks.shape == (68, 2)
    assert found[0].landmarks.dtype == np.float64
    eyes = found[0].landmarks[36:48].mean(axis=0)
    assert np.hypot(*(eyes - (225, 103))) < 4, f"eyes at {eyes}"
    left, top, right, bottom = found[0].box_px
    assert left < 225 < right
    assert top < 103 < bottom


def test_the_record_of_a_face_is_complete(astronaut: Image.Image) -> None:
    """The face's record names its photograph, its geometry and the digest of an image of the output size."""
    data = as_png(astronaut)
    (face,) = faces_in_photo("a.png", bytes_digest(data), data, CONFIG)
    assert isinstance(face, Face)
    assert face.photo_sha256 == bytes_digest(data)
    assert (face.photo_width_px, face.photo_height_px, face.face_index) == (512, 330, 0)
    assert len(face.landmarks_px) == 68
    assert len(face.quad_px) == 4
    assert 160 < face.quad_side_px < 190
    assert face.image_sha256 == bytes_digest(face.image)
    image = Image.open(io.BytesIO(face.image))
    assert (image.format, image.size, image.mode) == ("WEBP", (64, 64), "RGB")


def test_faces_come_largest_first(astronaut: Image.Image) -> None:
    """Several faces in one photograph are records of their own, numbered by falling size, the same each time."""
    small = astronaut.resize((360, 232))
    both = Image.new("RGB", (880, 330), (90, 120, 150))
    both.paste(small, (0, 40))
    both.paste(astronaut, (368, 0))
    data = as_png(both)
    results = faces_in_photo("both.png", "0" * 64, data, CONFIG)
    assert results == faces_in_photo("both.png", "0" * 64, data, CONFIG)
    found = [face for face in results if isinstance(face, Face)]
    assert [face.face_index for face in found] == [0, 1]
    assert found[0].quad_side_px > found[1].quad_side_px
    assert found[0].box_px[0] > found[1].box_px[0]


def test_a_reduced_photograph_keeps_its_geometry(astronaut: Image.Image) -> None:
    """Of a JPEG above the limit faces are told in its own pixels, and a crop that it leaves too few is refused."""
    buffer = io.BytesIO()
    astronaut.resize((1024, 660), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    reduced = DecodeConfig(max_pixels=512 * 330)
    (whole,) = faces_in_photo("a", "0" * 64, data, CONFIG)
    (face,) = faces_in_photo("a", "0" * 64, data, CONFIG.model_copy(update={"decode": reduced}))
    assert isinstance(whole, Face)
    assert isinstance(face, Face)
    assert (face.photo_width_px, face.photo_height_px) == (1024, 660)
    apart = np.abs(np.array(face.quad_px) - np.array(whole.quad_px)).max()
    assert apart < 0.05 * whole.quad_side_px, f"the quad moved by {apart:.1f} px"
    large = FacesConfig(decode=reduced, detect=DetectConfig(min_quad_px=64), align=AlignConfig(output_px=256))
    (refused,) = faces_in_photo("a", "0" * 64, data, large)
    assert isinstance(refused, Rejection)
    assert refused.reason is Reason.TOO_MANY_PIXELS
    assert refused.detail is not None
    assert refused.detail.endswith("px when decoded at 512x330: decode.max_pixels is below 1024x660")


def test_a_photograph_without_faces_is_one_rejection() -> None:
    """No face, and no image, each give exactly one rejection that names the photograph."""
    grey = as_png(Image.new("RGB", (120, 120), (128, 128, 128)))
    assert faces_in_photo("a", "1" * 64, grey, CONFIG) == [Rejection("a", Reason.NO_FACE, "1" * 64)]
    assert faces_in_photo("b", "2" * 64, b"", CONFIG) == [Rejection("b", Reason.EMPTY_FILE, "2" * 64)]
    (broken,) = faces_in_photo("c", "3" * 64, grey[:60], CONFIG)
    assert isinstance(broken, Rejection)
    assert (broken.reason, broken.ref, broken.photo_sha256) == (Reason.BROKEN_IMAGE, "c", "3" * 64)


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2), (40, 40)])
def test_odd_sizes_do_not_crash(size: tuple[int, int]) -> None:
    """Photographs too thin or too small for any face are rejected as such."""
    (result,) = faces_in_photo("a", "1" * 64, as_png(Image.new("RGB", size)), CONFIG)
    assert isinstance(result, Rejection)
    assert result.reason is Reason.NO_FACE


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_encoding_is_deterministic_and_faithful(format: str) -> None:
    """The same pixels give the same bytes; png and webp give them back exactly, jpeg nearly, none with metadata."""
    y, x = np.mgrid[0:64, 0:64]
    image = np.stack([x * 4, y * 4, x + y], axis=-1).astype(np.uint8)
    data = encoded(image, EncodeConfig(format=format))
    assert data == encoded(image.copy(), EncodeConfig(format=format))
    opened = Image.open(io.BytesIO(data))
    assert not {"exif", "icc_profile", "dpi", "xmp", "comment"} & opened.info.keys()
    error = np.abs(np.asarray(opened).astype(int) - image).max()
    assert error <= (12 if format == "jpeg" else 0), f"{format}: {error} grey levels"


def test_identity_is_the_predictor_not_its_path(tmp_path: Path) -> None:
    """The same predictor elsewhere, and a default spelt out, are the same config; another output is not."""
    copy = tmp_path / "predictor.dat"
    copy.symlink_to(predictor_path(DetectConfig()))
    elsewhere = FacesConfig(detect=DetectConfig(predictor=copy), align=AlignConfig(output_px=64))
    assert elsewhere.identity() == CONFIG.identity()
    assert str(tmp_path) not in str(elsewhere.identity())
    assert CONFIG.identity()["detect"]["predictor_sha256"] == predictor_digest(DetectConfig())
    assert FacesConfig(align=AlignConfig(output_px=64)).identity() == CONFIG.identity()
    assert FacesConfig(align=AlignConfig(output_px=32)).identity() != CONFIG.identity()


def test_a_wrong_predictor_is_told(tmp_path: Path) -> None:
    """A predictor that is missing, or is another file, is an error that names it."""
    missing, text = tmp_path / "none.dat", tmp_path / "text.dat"
    text.write_text("no predictor")
    photo = np.zeros((60, 60, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"none\.dat"):
        detect_faces(photo, DetectConfig(predictor=missing))
    with pytest.raises(ConfigError, match=r"text\.dat"):
        detect_faces(photo, DetectConfig(predictor=text))


def test_real_portraits_give_crops(faces: Path) -> None:
    """Of real portraits at least 98% give a face."""
    paths = sorted((faces / "congress").iterdir())[::30]
    found = [
        isinstance(faces_in_photo(path.name, "0" * 64, path.read_bytes(), CONFIG)[0], Face) for path in paths
    ]
    assert sum(found) / len(found) >= 0.98, f"{sum(found)} of {len(found)}"


def test_orientation_does_not_change_the_face(faces: Path) -> None:
    """The eight EXIF orientations of one photograph give the same crop but for JPEG's own noise."""
    crops = []
    for number in range(1, 9):
        data = (faces / "wild" / "formats" / f"exif_orientation_{number}.jpg").read_bytes()
        first = faces_in_photo("a", "0" * 64, data, CONFIG)[0]
        assert isinstance(first, Face)
        crops.append(np.asarray(Image.open(io.BytesIO(first.image))).astype(float))
    worst = max(float(np.abs(crop - crops[0]).mean()) for crop in crops)
    assert worst < 6, f"{worst:.1f} grey levels"


def test_the_library_imports_no_scheduler() -> None:
    """Importing everything in preprocessing imports neither Prefect nor Dask, nor the portraits' packages."""
    code = """
import importlib, pkgutil, sys, preprocessing
for module in pkgutil.walk_packages(preprocessing.__path__, "preprocessing."):
    importlib.import_module(module.name)
assert "preprocessing.sources.urls" in sys.modules
print(sorted({"prefect", "dask", "distributed", "torch", "matplotlib", "skimage"} & sys.modules.keys()))
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]", done.stdout
