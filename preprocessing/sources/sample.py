"""The embedded demo: two public-domain portraits set into varied scenes, offline. A sample, never a dataset.

Two people only. The portraits ship inside scikit-image (Eileen Collins, NASA) and matplotlib (Grace Hopper, U.S.
Navy). Each scene is a function of its number alone: scale, tilt, place, mirroring, background, colour, EXIF
orientation and file format vary, so that decoding, detection and alignment have real work; some scenes hold both
people, and a few are there to be rejected: the same file twice, one without a face, one cut short. Not here:
anything to train a useful generator on.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from preprocessing.records import Item, Rejection
from storage.errors import ConfigError

DEFAULT_SCENES = 48
MAX_SCENES = 10_000

_EXIF_ORIENTATION = 0x0112
# How upright pixels are stored so that a reader honouring the orientation turns them upright again.
_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_SIZES = ((480, 360), (640, 480), (420, 560), (560, 560), (800, 600), (360, 480))


@dataclass(frozen=True)
class Portrait:
    """A photograph inside an installed package, and where its one face is.

    `area_px` is the part that is used, `face_px` the middle of the eyes and `quad_px` the side of the aligned
    crop, in pixels of the whole photograph.
    """

    package: str
    path: str
    area_px: tuple[int, int, int, int]
    face_px: tuple[float, float]
    quad_px: float
    title: str
    author: str
    page: str


COLLINS = Portrait(
    package="skimage",
    path="data/astronaut.png",
    area_px=(0, 0, 512, 330),  # below is a round mission patch that the detector takes for a face
    face_px=(225.0, 103.0),
    quad_px=174.0,
    title="Eileen Collins",
    author="NASA",
    page="https://flic.kr/p/r9qvLn",
)
HOPPER = Portrait(
    package="matplotlib",
    path="mpl-data/sample_data/grace_hopper.jpg",
    area_px=(0, 0, 512, 600),
    face_px=(265.0, 191.0),
    quad_px=327.0,
    title="Grace Hopper",
    author="U.S. Navy",
    page="https://commons.wikimedia.org/wiki/File:Grace_Hopper.jpg",
)


@dataclass(frozen=True)
class SampleSource:
    """The first `num_scenes` scenes."""

    num_scenes: int = DEFAULT_SCENES
    kind: ClassVar[str] = "sample"

    @classmethod
    def parse(cls, argument: str) -> SampleSource:
        """The source of `sample:` or `sample:N`; ConfigError for another N, or without the portraits."""
        if argument and not (argument.isdecimal() and 1 <= int(argument) <= MAX_SCENES):
            raise ConfigError(f"source 'sample:{argument}' is not sample:N with N from 1 to {MAX_SCENES}")
        for portrait in (COLLINS, HOPPER):
            _portrait_path(portrait)
        return cls(int(argument)) if argument else cls()

    def description(self) -> dict[str, Any]:
        """The kind and the number of scenes."""
        return {"kind": self.kind, "num_scenes": self.num_scenes}

    def items(self, limit: int | None = None) -> list[Item]:
        """Every scene, by number, or the first so many."""
        return [_item(index) for index in range(self.num_scenes)[:limit]]

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes] | Rejection]:
        """Each scene, drawn now."""
        for item in items:
            yield item, scene_bytes(int(PurePosixPath(item.ref).stem))


def scene_bytes(index: int) -> bytes:
    """The encoded photograph of scene `index`."""
    index = _drawn_index(index)
    rng = np.random.default_rng(index)
    scene = _scene(index, rng)
    data = _encoded(scene, _suffix(index), rng)
    return data[: len(data) // 2] if _is_cut_short(index) else data


def _drawn_index(index: int) -> int:
    """The scene shown: now and then the one before it, byte for byte."""
    return index - 1 if index % 24 == 7 else index


def _holds_both(index: int) -> bool:
    return index % 16 == 5


def _is_empty(index: int) -> bool:
    return index % 48 == 11


def _is_cut_short(index: int) -> bool:
    return index % 48 == 19


def _suffix(index: int) -> str:
    return {2: "png", 6: "webp"}.get(index % 8, "jpg")


def _people(index: int) -> tuple[Portrait, ...]:
    if _holds_both(index):
        return (COLLINS, HOPPER)
    return (COLLINS, HOPPER)[index % 2 : index % 2 + 1]


def _item(index: int) -> Item:
    drawn = _drawn_index(index)
    # The scene without a face shows a part of the first portrait.
    people = (COLLINS,) if _is_empty(drawn) else _people(drawn)
    return Item(
        ref=f"sample/{index:04d}.{_suffix(drawn)}",
        page=" ".join(portrait.page for portrait in people),
        author=", ".join(portrait.author for portrait in people),
        license="PDM-1.0",
        license_url="https://creativecommons.org/publicdomain/mark/1.0/",
        title=", ".join(portrait.title for portrait in people),
    )


def _portrait_path(portrait: Portrait) -> Path:
    # Located without importing the package, which takes seconds.
    spec = importlib.util.find_spec(portrait.package)
    path = Path(spec.origin).parent / portrait.path if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ConfigError(
            f"source sample: needs {portrait.package}'s portrait: pip install 'likeness[sample]'"
        )
    return path


@lru_cache(maxsize=2)
def _portrait(portrait: Portrait) -> Image.Image:
    with Image.open(_portrait_path(portrait)) as image:
        return image.convert("RGB").crop(portrait.area_px)


def _scene(index: int, rng: np.random.Generator) -> Image.Image:
    """The upright picture."""
    if _is_empty(index):
        return _portrait(COLLINS).crop((330, 0, 512, 250)).resize((364, 500), Image.Resampling.BICUBIC)
    width, height = (800, 480) if _holds_both(index) else _SIZES[int(rng.integers(len(_SIZES)))]
    canvas = _background(width, height, rng)
    people = _people(index)
    for place, portrait in enumerate(people):
        room = min(width / len(people), height)
        quad = room * rng.uniform(0.3, 0.85)
        centre_x = width * (place + rng.uniform(0.35, 0.65)) / len(people)
        centre_y = height * rng.uniform(0.35, 0.65)
        # Two people share the scene, so neither may cover the other.
        half_width = math.inf if len(people) == 1 else room / 2
        layer = _placed(portrait, canvas.size, quad, (centre_x, centre_y), half_width, rng)
        canvas.paste(layer, mask=layer.getchannel("A"))
    canvas = _coloured(canvas, rng)
    return canvas.convert("L") if index % 12 == 9 else canvas


def _background(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Soft blots of colour."""
    blots = rng.integers(40, 220, size=(3, 4, 3)).astype(np.uint8)
    return Image.fromarray(blots).resize((width, height), Image.Resampling.BICUBIC)


def _placed(
    portrait: Portrait,
    size: tuple[int, int],
    quad_px: float,
    centre: tuple[float, float],
    half_width: float,
    rng: np.random.Generator,
) -> Image.Image:
    """The portrait scaled, tilted and perhaps mirrored, its face at `centre`, on a clear canvas."""
    image = _portrait(portrait)
    face_x, face_y = portrait.face_px
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        face_x = image.width - face_x
    scale = quad_px / portrait.quad_px
    if half_width < math.inf:
        reach = min(half_width / scale, image.width)
        left, right = max(int(face_x - reach), 0), min(int(face_x + reach), image.width)
        image, face_x = image.crop((left, 0, right, image.height)), face_x - left
    if scale < 1:  # the affine step below does not filter what it shrinks
        smaller = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        image = image.resize(smaller, Image.Resampling.LANCZOS)
        face_x, face_y, scale = face_x * scale, face_y * scale, 1.0
    tilt = math.radians(rng.uniform(-22.0, 22.0))
    cos, sin = math.cos(tilt) / scale, math.sin(tilt) / scale
    x, y = centre
    coefficients = (cos, sin, face_x - cos * x - sin * y, -sin, cos, face_y + sin * x - cos * y)
    return image.convert("RGBA").transform(
        size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC, fillcolor=(0, 0, 0, 0)
    )


def _coloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and a tint, as tables of 256 values: the same on every machine."""
    gain, offset = rng.uniform(0.7, 1.15), rng.uniform(-20.0, 25.0)
    table: list[int] = []
    for tint in rng.uniform(0.88, 1.1, size=3):
        table += [min(max(round(value * gain * float(tint) + offset), 0), 255) for value in range(256)]
    return image.point(table)


def _encoded(image: Image.Image, suffix: str, rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    if suffix == "png":
        image.save(buffer, "PNG")
    elif suffix == "webp":
        image.save(buffer, "WEBP", quality=int(rng.integers(60, 96)))
    else:
        orientation = int(rng.integers(1, 9))
        stored = _STORED[orientation]
        exif = Image.Exif()
        exif[_EXIF_ORIENTATION] = orientation
        turned = image if stored is None else image.transpose(stored)
        turned.save(buffer, "JPEG", quality=int(rng.integers(60, 96)), exif=exif)
    return buffer.getvalue()
