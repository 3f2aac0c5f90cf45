"""Draws the pictures of the golden store: cartoons of ellipses, gradients and blur, in which a detector finds faces.

    python tests/data/golden_pictures.py pictures

No photograph went into them. Some stand in a folder, others are meant to be fetched; lists say who drew some of them,
and under which licence.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
SCALE = 2
"""Pictures are drawn so many times larger, and reduced."""


@dataclass(frozen=True)
class Look:
    """How one face looks; lengths are in half widths of a face, `centre_px` and `half_px` in pixels."""

    skin: Colour
    hair: Colour
    shirt: Colour
    wall: tuple[Colour, Colour]
    iris: Colour = (60, 90, 120)
    centre_px: tuple[int, int] = (180, 190)
    half_px: int = 88
    long: float = 1.32
    light: float = 0.3
    tilt_deg: float = 0.0
    smile: float = 0.12
    brows: float = 0.06
    fringe: float = 0.75
    beard: float = 0.0
    glasses: bool = False
    stripes: int = 0


def picture(looks: list[Look], size_px: tuple[int, int], seed: int) -> Image.Image:
    """Faces before one wall, the first one's, with a little grain."""
    canvas = wall(looks[0], size_px)
    for look in looks:
        canvas = with_face(canvas, look)
    canvas = canvas.filter(ImageFilter.GaussianBlur(0.9 * SCALE)).resize(size_px, Image.Resampling.LANCZOS)
    grain = np.random.default_rng(seed).normal(0, 1.5, (size_px[1], size_px[0], 1))
    return Image.fromarray(np.clip(np.asarray(canvas) + grain, 0, 255).astype(np.uint8))


def wall(look: Look, size_px: tuple[int, int]) -> Image.Image:
    """A slanting gradient, striped where asked for."""
    width, height = (side * SCALE for side in size_px)
    y, x = np.mgrid[0:height, 0:width]
    share = (0.6 * y / height + 0.4 * x / width)[..., None]
    if look.stripes:
        share = share + 0.25 * np.sin(2 * np.pi * look.stripes * x / width)[..., None]
    first, second = (np.array(colour) for colour in look.wall)
    return Image.fromarray(np.clip(first * (1 - share) + second * share, 0, 255).astype(np.uint8))


def with_face(canvas: Image.Image, look: Look) -> Image.Image:
    """The canvas with a head and shoulders on it, tilted about the head's middle."""
    layer = Image.new("RGBA", canvas.size, (*look.hair, 0))
    pen = Pen(layer, look)
    pen.ellipse(0, 2.55, 1.7, 1.1, look.shirt)
    pen.ellipse(0, 1.25, 0.5, 0.75, shade(look.skin, 0.72))
    pen.ellipse(0, -0.2, 1.18, look.long + 0.06, look.hair)
    pen.ellipse(0, 0, 1.0, look.long, look.skin)
    layer.alpha_composite(shading(layer.size, look))
    pen.ellipse(0, -look.long * 0.98, 0.95, look.long * (1 - look.fringe), look.hair)
    if look.beard:
        pen.ellipse(0, 1.0, 0.72, 0.42, (*shade(look.hair, 1.1), round(255 * look.beard)))
    for side in (-1, 1):
        pen.eye(side * 0.4, -0.18)
    pen.nose()
    pen.mouth()
    layer = layer.filter(ImageFilter.GaussianBlur(0.012 * look.half_px * SCALE))
    centre = (look.centre_px[0] * SCALE, look.centre_px[1] * SCALE)
    layer = layer.rotate(-look.tilt_deg, Image.Resampling.BICUBIC, center=centre)
    return Image.alpha_composite(canvas.convert("RGBA"), layer).convert("RGB")


def shading(size: tuple[int, int], look: Look) -> Image.Image:
    """Darkness towards the edge of the face and away from the light."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    u = (x / SCALE - look.centre_px[0]) / look.half_px
    v = (y / SCALE - look.centre_px[1]) / look.half_px / look.long
    radius = np.hypot(u, v)
    dark = np.clip(0.42 * radius**3 - look.light * 0.7 * u, 0, 0.65) * (radius < 1)
    light = np.clip(look.light * (u + 0.15) - 0.25 * np.hypot(u - 0.25, v + 0.3), 0, 0.3) * (radius < 1)
    rgba = np.zeros((*u.shape, 4), np.uint8)
    rgba[..., :3] = np.where((light > dark)[..., None], 255, 25)
    rgba[..., 3] = 255 * np.maximum(dark, light)
    return Image.fromarray(rgba).filter(ImageFilter.GaussianBlur(3 * SCALE))


class Pen:
    """Draws in half widths of a face about its middle."""

    def __init__(self, layer: Image.Image, look: Look) -> None:
        self._layer, self._look = layer, look

    def ellipse(
        self, x: float, y: float, a: float, b: float, colour: tuple[int, ...], soft: float = 0
    ) -> None:
        """A filled ellipse with half axes a and b; `soft` blurs its edge."""
        self._draw(lambda pen: pen.ellipse(self._box(x, y, a, b), fill=colour), soft)

    def arc(
        self, x: float, y: float, a: float, b: float, angles: tuple[int, int], colour: Colour, wide: float
    ) -> None:
        """A part of an ellipse's outline, from one angle to another, in degrees clockwise from the right."""
        width = max(round(wide * self._look.half_px * SCALE), 1)
        self._draw(lambda pen: pen.arc(self._box(x, y, a, b), *angles, fill=colour, width=width), 0.01)

    def eye(self, x: float, y: float) -> None:
        """Socket, white, iris, pupil, glint, lid and brow."""
        look = self._look
        self.ellipse(x, y - 0.02, 0.3, 0.2, (*shade(look.skin, 0.45), 150), 0.05)
        self.ellipse(x, y, 0.2, 0.1, (235, 232, 228))
        self.ellipse(x, y, 0.095, 0.1, look.iris)
        self.ellipse(x, y, 0.045, 0.05, (10, 10, 12))
        self.ellipse(x + 0.03, y - 0.035, 0.018, 0.02, (250, 250, 250))
        self.arc(x, y + 0.03, 0.23, 0.14, (195, 345), shade(look.skin, 0.3), 0.045)
        self.arc(x, y, 0.21, 0.11, (20, 160), shade(look.skin, 0.6), 0.02)
        self.arc(x, y - 0.12, 0.3, 0.16, (205, 335), shade(look.hair, 0.8), look.brows)
        if look.glasses:
            self.arc(x, y + 0.02, 0.33, 0.26, (0, 360), (30, 30, 34), 0.04)
            self.arc(0, y, 0.1, 0.08, (180, 360), (30, 30, 34), 0.04)

    def nose(self) -> None:
        """A shaded ridge and two nostrils."""
        skin = self._look.skin
        self.ellipse(-0.1, 0.12, 0.06, 0.3, (*shade(skin, 0.6), 110), 0.05)
        self.ellipse(0.06, 0.1, 0.05, 0.26, (255, 245, 235, 60), 0.05)
        self.ellipse(0, 0.42, 0.2, 0.08, (*shade(skin, 0.55), 150), 0.04)
        for side in (-1, 1):
            self.ellipse(side * 0.09, 0.42, 0.045, 0.03, shade(skin, 0.3), 0.012)

    def mouth(self) -> None:
        """Two lips, the line between them, and shade below."""
        look = self._look
        lip = (min(look.skin[0] + 5, 255), round(look.skin[1] * 0.55), round(look.skin[2] * 0.58))
        self.ellipse(0, 0.92, 0.24, 0.05, (*shade(look.skin, 0.5), 130), 0.04)
        self.ellipse(0, 0.74, 0.34, 0.075, shade(lip, 0.85))
        self.ellipse(0, 0.79, 0.27, 0.08, lip)
        self.arc(0, 0.755 - look.smile, 0.36, look.smile, (10, 170), shade(lip, 0.3), 0.035)

    def _draw(self, stroke: Callable[[ImageDraw.ImageDraw], None], soft: float) -> None:
        stamp = Image.new("RGBA", self._layer.size, (0, 0, 0, 0))
        stroke(ImageDraw.Draw(stamp))
        if soft:
            alpha = stamp.getchannel("A").filter(ImageFilter.GaussianBlur(soft * self._look.half_px * SCALE))
            stamp = Image.new("RGB", stamp.size, tuple(np.asarray(stamp).max((0, 1))[:3].tolist()))
            stamp.putalpha(alpha)
        self._layer.alpha_composite(stamp)

    def _box(self, x: float, y: float, a: float, b: float) -> tuple[float, float, float, float]:
        across, down = self._look.centre_px
        unit = self._look.half_px * SCALE
        left, top = across * SCALE + (x - a) * unit, down * SCALE + (y - b) * unit
        return left, top, left + 2 * a * unit, top + 2 * b * unit


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker or lighter."""
    return tuple(min(round(value * factor), 255) for value in colour)  # type: ignore[return-value]


LOOKS = {
    "anna": Look((232, 188, 160), (70, 44, 30), (40, 70, 120), ((190, 200, 210), (120, 140, 150))),
    "bruno": Look((198, 142, 106), (24, 20, 20), (150, 40, 40), ((90, 110, 90), (40, 60, 50)), light=-0.35,
                  beard=0.75, fringe=0.82, smile=0.05, iris=(70, 45, 25), long=1.38),
    "clara": Look((244, 208, 186), (196, 150, 80), (230, 230, 225), ((60, 70, 110), (150, 120, 150)), light=0.15,
                  fringe=0.6, smile=0.2, tilt_deg=12, stripes=5),
    "david": Look((132, 88, 64), (18, 14, 12), (210, 190, 60), ((225, 215, 195), (180, 160, 140)), light=0.4,
                  fringe=0.86, iris=(50, 30, 18), glasses=True, long=1.25),
    "emma": Look((222, 170, 130), (120, 40, 24), (60, 120, 90), ((30, 34, 40), (70, 60, 60)), light=-0.2, smile=0.16,
                 tilt_deg=-9, long=1.22, fringe=0.7),
    "fritz": Look((236, 196, 170), (150, 150, 150), (30, 30, 40), ((200, 170, 90), (240, 220, 160)), stripes=3,
                  fringe=0.88, brows=0.09, long=1.4, smile=0.08),
    "gina": Look((176, 122, 88), (50, 30, 60), (120, 60, 140), ((20, 90, 120), (10, 40, 70)), light=0.35, fringe=0.65,
                 smile=0.18, iris=(40, 70, 50)),
}  # fmt: skip
PORTRAIT_PX = (360, 420)
WEB = "http://127.0.0.1:8765"


def main(folder: Path) -> None:
    """Write the folder `photos`, the folder `web`, and `urls.jsonl`, the list of what stands at WEB."""
    photos, web = folder / "photos", folder / "web"
    (photos / "twice").mkdir(parents=True)
    web.mkdir()
    faces = {name: picture([look], PORTRAIT_PX, seed) for seed, (name, look) in enumerate(LOOKS.items())}
    faces["anna"].save(photos / "anna.jpg", quality=85)
    shutil.copy(photos / "anna.jpg", photos / "twice/anna.jpg")
    faces["bruno"].save(photos / "bruno.webp", quality=85)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    faces["clara"].rotate(90, expand=True).save(photos / "clara.jpg", quality=85, exif=turned)
    faces["david"].save(photos / "david.jpg", quality=85)
    faces["emma"].save(photos / "emma.jpg", quality=85)
    faces["emma"].resize((300, 350)).save(photos / "emma-small.jpg", quality=60)
    faces["fritz"].point(lambda value: 2 * value).save(photos / "fritz.jpg", quality=70)
    two = [
        replace(LOOKS[name], centre_px=(x, 130), half_px=half)
        for name, x, half in (("fritz", 120, 60), ("gina", 320, 48))
    ]
    picture(two, (440, 280), 20).save(photos / "two.jpg", quality=85)
    wall(LOOKS["fritz"], PORTRAIT_PX).save(photos / "wall.jpg", quality=70)
    (photos / "broken.jpg").write_bytes(b"no picture at all\n")
    write_rows(
        photos / "photos.jsonl",
        [
            {"file": "anna.jpg", **drawn_by("A. Pencil", "CC0-1.0"), "title": "Anna, drawn"},
            {"file": "bruno.webp", **drawn_by("B. Brush", "CC-BY-4.0"), "title": "Bruno, drawn"},
            {"file": "clara.jpg", **drawn_by("C. Crayon", "CC-BY-SA-4.0")},
            {"file": "two.jpg", "author": "D. Chalk"},
        ],
    )
    faces["gina"].save(web / "gina.jpg", quality=85)
    shutil.copy(photos / "anna.jpg", web / "anna.jpg")
    faces["fritz"].save(web / "changed.jpg", quality=70)
    write_rows(
        folder / "urls.jsonl",
        [
            {"url": f"{WEB}/gina.jpg", **drawn_by("E. Charcoal", "CC-BY-4.0"), "title": "Gina, drawn"},
            {"url": f"{WEB}/anna.jpg", **drawn_by("A. Pencil", "CC0-1.0")},
            {"url": f"{WEB}/changed.jpg", "sha256": "0" * 64},
            {"url": f"{WEB}/gone.jpg", "author": "F. Ink"},
        ],
    )


def drawn_by(author: str, license: str) -> dict[str, str]:
    """What a source says of a picture."""
    page = f"https://drawings.example/{author[3:].lower()}"
    return {
        "author": author,
        "license": license,
        "license_url": f"https://licences.example/{license}",
        "page": page,
    }


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """A line of JSON a row."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
