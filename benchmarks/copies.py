"""How often the original of a portrait is preferred over its copies, and the weights by which detail is measured.

    python benchmarks/copies.py FOLDER... [--portraits 200]
    python benchmarks/copies.py FOLDER... --fit    # the weights anew, and how they do on portraits held out
    python benchmarks/copies.py FOLDER... --otherwise    # copies of kinds that no weight was fitted on

FOLDER holds portraits. Every copy is decoded, detected and measured again, as a build would. An original wins where no
copy has more detail; a copy of the same crop, byte for byte, is as good as the original.
"""

from __future__ import annotations

import argparse
import io
import random
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from photographs import files, need
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from scipy.optimize import minimize

from preprocessing.photo.align import AlignConfig, aligned_crop, crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces
from preprocessing.scores.detail import BANDS, WEIGHTS, features

Copy = Callable[[Image.Image, random.Random], bytes]
Measured = dict[str, tuple[bytes, dict[str, float]]]
"""Of an original ("") and its copies: the crop, and what detail is made of."""

MEASURED_PARTS = [f"{plane}_{band}" for plane in ("luma", "chroma") for band in BANDS]
CAPS = {"picture": 8.0, "levels": 12.0, "scene": 3.0}
"""Of weights, relative to those of the bands together: how a copy was made must not outweigh what it shows."""


def saved(photo: Image.Image, file_format: str, **options: object) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    photo.save(buffer, file_format, **options)
    return buffer.getvalue()


def again(photo: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG."""
    return Image.open(io.BytesIO(saved(photo, "JPEG", quality=quality))).convert("RGB")


def enlarged(photo: Image.Image, share: float) -> Image.Image:
    """The picture reduced to `share` of its side, and enlarged to what it was."""
    small = (max(round(photo.width * share), 1), max(round(photo.height * share), 1))
    return photo.resize(small, Image.Resampling.LANCZOS).resize(photo.size, Image.Resampling.BICUBIC)


def larger(photo: Image.Image, factor: float) -> Image.Image:
    """The picture enlarged."""
    return photo.resize((round(photo.width * factor), round(photo.height * factor)), Image.Resampling.BICUBIC)


def gamma(photo: Image.Image, exponent: float) -> Image.Image:
    """Every value to a power."""
    return photo.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def cut(photo: Image.Image, share: float) -> Image.Image:
    """The picture without `share` of its width and height, half on either side."""
    x, y = round(photo.width * share / 2), round(photo.height * share / 2)
    return photo.crop((x, y, photo.width - x, photo.height - y))


def sixteen_bits(photo: Image.Image) -> bytes:
    """A PNG of 16 bits a value."""
    return bytes(cv2.imencode(".png", np.asarray(photo)[..., ::-1].astype(np.uint16) * 257)[1])


COPIES: dict[str, Copy] = {
    "PNG": lambda p, _: saved(p, "PNG"),
    "WebP, lossless": lambda p, _: saved(p, "WEBP", lossless=True),
    "8 to 16 bits": lambda p, _: sixteen_bits(p),
    "JPEG 20": lambda p, _: saved(p, "JPEG", quality=20),
    "JPEG 50": lambda p, _: saved(p, "JPEG", quality=50),
    "JPEG 80": lambda p, _: saved(p, "JPEG", quality=80),
    "JPEG 20 as PNG": lambda p, _: saved(again(p, 20), "PNG"),
    "half size enlarged": lambda p, _: saved(enlarged(p, 0.5), "PNG"),
    "half size enlarged, JPEG 95": lambda p, _: saved(enlarged(p, 0.5), "JPEG", quality=95),
    "gamma 0.8": lambda p, _: saved(gamma(p, 0.8), "PNG"),
    "gamma 1.25": lambda p, _: saved(gamma(p, 1.25), "PNG"),
    "cut by 10%": lambda p, _: saved(cut(p, 0.1), "PNG"),
    "white border": lambda p, _: saved(ImageOps.expand(p, 20, "white"), "PNG"),
    "WebP 80": lambda p, _: saved(p, "WEBP", quality=80),
}
"""What the weights must get right, the last of them apart: it loses least of all."""
LOSSY_WEBP = "WebP 80"

FURTHER: dict[str, Copy] = {
    "twice as large": lambda p, _: saved(larger(p, 2), "PNG"),
    "larger": lambda p, rng: saved(larger(p, rng.uniform(1.15, 1.6)), "PNG"),
    "smaller": lambda p, rng: saved(larger(p, 1 / rng.uniform(1.15, 1.6)), "PNG"),
    "JPEG 85 to 97": lambda p, rng: saved(p, "JPEG", quality=rng.randint(85, 97)),
    "JPEG 25 to 85": lambda p, rng: saved(p, "JPEG", quality=rng.randint(25, 85)),
    "WebP 30 to 70 as PNG": lambda p, rng: saved(
        Image.open(io.BytesIO(saved(p, "WEBP", quality=rng.randint(30, 70)))), "PNG"
    ),
    "JPEG 30 to 90 as WebP": lambda p, rng: saved(again(p, rng.randint(30, 90)), "WEBP", quality=85),
    "smaller, enlarged": lambda p, rng: saved(enlarged(p, rng.uniform(0.4, 0.85)), "PNG"),
    "gamma, JPEG": lambda p, rng: saved(
        gamma(p, rng.choice([0.7, 0.8, 1.25, 1.4])), "JPEG", quality=rng.randint(75, 97)
    ),
    "cut, JPEG": lambda p, rng: saved(cut(p, rng.uniform(0.04, 0.16)), "JPEG", quality=rng.randint(70, 97)),
    "border, JPEG": lambda p, rng: saved(
        ImageOps.expand(p, rng.randint(6, 40), rng.choice(["white", "black", "gray"])), "JPEG", quality=90
    ),
}
"""What else the weights are fitted on."""


def with_noise(photo: Image.Image, deviation: float) -> Image.Image:
    """Normal noise on every value."""
    pixels = np.asarray(photo).astype(float)
    noisy = pixels + np.random.default_rng(0).normal(0, deviation, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).round().astype(np.uint8))


def sharpened(photo: Image.Image, radius: float, percent: int) -> Image.Image:
    """An unsharp mask."""
    return photo.filter(ImageFilter.UnsharpMask(radius, percent, 0))


def written_on(photo: Image.Image) -> Image.Image:
    """With words at the foot, and a faint line across."""
    copy = photo.copy()
    draw = ImageDraw.Draw(copy, "RGBA")
    draw.text((10, copy.height - 20), "(c) an agency", fill=(255, 255, 255, 160))
    draw.line([0, 0, copy.width, copy.height], fill=(255, 255, 255, 60))
    return copy


def on_a_screen(photo: Image.Image, factor: float) -> Image.Image:
    """In a window, on a light ground."""
    shown = larger(photo, factor)
    screen = Image.new("RGB", (shown.width + 200, shown.height + 160), (245, 245, 247))
    screen.paste(shown, (100, 90))
    return screen


OTHERWISE: dict[str, Copy] = {
    "TIFF": lambda p, _: saved(p, "TIFF"),
    "AVIF 80": lambda p, _: saved(p, "AVIF", quality=80),
    "GIF": lambda p, _: saved(p.quantize(256), "GIF"),
    "JPEG 90, 80, 90": lambda p, _: saved(again(again(p, 90), 80), "JPEG", quality=90),
    "WebP 70, JPEG 95": lambda p, _: saved(
        Image.open(io.BytesIO(saved(p, "WEBP", quality=70))), "JPEG", quality=95
    ),
    "JPEG 90, 4:2:0": lambda p, _: saved(p, "JPEG", quality=90, subsampling="4:2:0"),
    "JPEG 95, 4:4:4": lambda p, _: saved(p, "JPEG", quality=95, subsampling="4:4:4"),
    "JPEG 100, 4:4:4": lambda p, _: saved(p, "JPEG", quality=100, subsampling="4:4:4"),
    "JPEG 2000, a twelfth, as PNG": lambda p, _: saved(
        Image.open(io.BytesIO(saved(p, "JPEG2000", quality_mode="rates", quality_layers=[12]))), "PNG"
    ),
    "grey": lambda p, _: saved(p.convert("L"), "PNG"),
    "median of 3": lambda p, _: saved(p.filter(ImageFilter.MedianFilter(3)), "PNG"),
    "contrast 1.3": lambda p, _: saved(ImageEnhance.Contrast(p).enhance(1.3), "PNG"),
    "contrast 1.3, JPEG 92": lambda p, _: saved(ImageEnhance.Contrast(p).enhance(1.3), "JPEG", quality=92),
    "brightness 1.2": lambda p, _: saved(ImageEnhance.Brightness(p).enhance(1.2), "PNG"),
    "sharpened": lambda p, _: saved(sharpened(p, 1.5, 80), "PNG"),
    "sharpened, JPEG 92": lambda p, _: saved(sharpened(p, 1, 120), "JPEG", quality=92),
    "twice as large, sharpened": lambda p, _: saved(sharpened(larger(p, 2), 2, 150), "JPEG", quality=95),
    "half size enlarged, sharpened": lambda p, _: saved(sharpened(enlarged(p, 0.5), 2, 200), "PNG"),
    "noise of 4": lambda p, _: saved(with_noise(p, 4), "PNG"),
    "turned by 2 degrees": lambda p, _: saved(p.rotate(2, Image.Resampling.BICUBIC), "PNG"),
    "written on": lambda p, _: saved(written_on(p), "PNG"),
    "written on, JPEG 90": lambda p, _: saved(written_on(p), "JPEG", quality=90),
    "on a screen, 0.6": lambda p, _: saved(on_a_screen(p, 0.6), "PNG"),
    "on a screen, 2": lambda p, _: saved(on_a_screen(p, 2), "PNG"),
}
"""Copies that no weight was fitted on: how far the measure goes."""


def measured(data: bytes) -> tuple[bytes, dict[str, float]] | None:
    """The crop of a file's largest face, and what its detail is made of."""
    photo = decode(data, DecodeConfig())
    faces = detect_faces(photo, DetectConfig(min_quad_px=64))
    if not faces:
        return None
    landmarks = max((face.landmarks for face in faces), key=lambda points: quad_side(crop_quad(points)))
    crop = aligned_crop(photo, landmarks, AlignConfig(output_px=128))
    return crop.tobytes(), features(photo, crop_quad(landmarks))


def measured_copies(path: Path, copies: dict[str, Copy]) -> Measured:
    """A portrait and its copies, as far as a face is found in them; nothing where the portrait has none."""
    data = path.read_bytes()
    if (original := measured(data)) is None:
        return {}
    photo, rng = Image.fromarray(decode(data, DecodeConfig())), random.Random(zlib.crc32(path.name.encode()))
    found = {name: measured(make(photo, rng)) for name, make in copies.items()}
    return {"": original, **{name: copy for name, copy in found.items() if copy is not None}}


def winners(portraits: Sequence[Measured], weights: dict[str, float]) -> tuple[list[set[str]], Counter[str]]:
    """For each portrait the copies that have more detail, and how many of each kind do."""

    def worth(parts: dict[str, float]) -> float:
        return sum(weights[name] * value for name, value in parts.items())

    beaten_by = []
    for portrait in portraits:
        crop, parts = portrait[""]
        better = {
            name for name, (other, found) in portrait.items() if worth(found) > worth(parts) and other != crop
        }
        beaten_by.append(better)
    return beaten_by, Counter(name for names in beaten_by for name in names)


def fitted(portraits: Sequence[Measured]) -> dict[str, float]:
    """The weights that tell originals from copies best (logistic); those of the bands sum to one."""
    names = list(WEIGHTS)
    rows = []
    for portrait in portraits:
        crop, parts = portrait[""]
        for name, (other, found) in portrait.items():
            if other != crop:
                row = [parts[part] - found[part] for part in names]
                rows += [row] * (4 if name in COPIES else 1)
    differences = np.array(rows)
    scale = differences.std(axis=0) + 1e-6
    scaled = differences / scale

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = scaled @ weights
        slope = -(scaled / (1 + np.exp(np.clip(margins, -50, 50)))[:, None]).mean(axis=0)
        return float(np.logaddexp(0, -margins).mean() + 5e-7 * weights @ weights), slope + 1e-6 * weights

    positive = [name in MEASURED_PARTS or name in CAPS for name in names]
    bounds: list[tuple[float | None, float | None]] = [
        (0, None) if is_so else (None, None) for is_so in positive
    ]
    weights = np.zeros(len(names))
    for _ in range(6):  # a cap is relative to what is fitted
        weights = minimize(
            loss, weights, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 3000}
        ).x
        total = sum(weights[names.index(part)] / scale[names.index(part)] for part in MEASURED_PARTS)
        for name, cap in CAPS.items():
            at = names.index(name)
            bounds[at] = (0, cap * total * scale[at])
            weights[at] = min(weights[at], cap * total * scale[at])
    raw = weights / scale
    total = sum(raw[names.index(part)] for part in MEASURED_PARTS)
    return {name: round(float(weight / total), 3) for name, weight in zip(names, raw, strict=True)}


def print_wins(title: str, portraits: Sequence[Measured], beaten_by: Sequence[set[str]]) -> None:
    """How many originals win over all copies of each group of kinds."""
    for name, kinds in (
        ("all copies but lossy WebP", COPIES.keys() - {LOSSY_WEBP}),
        ("all copies", COPIES.keys()),
        ("further copies too", COPIES.keys() | FURTHER.keys()),
    ):
        if any(kinds & portrait.keys() == kinds for portrait in portraits):
            wins = sum(not names & kinds for names in beaten_by)
            print(
                f"{title}, {name}: the original wins {wins} of {len(portraits)} ({wins / len(portraits):.1%})"
            )


def main() -> None:
    """Measure portraits, and print how often the original wins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--portraits", type=int, default=200)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--otherwise", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    paths = files(arguments.folders, parser)
    paths = random.Random(0).sample(paths, min(arguments.portraits, len(paths)))
    copies = {**COPIES, **FURTHER} if arguments.fit else OTHERWISE if arguments.otherwise else COPIES
    portraits = [found for path in paths if (found := measured_copies(path, copies))]
    need(len(portraits), "photograph in which a face is found", arguments.folders, parser)
    beaten_by, kinds = winners(portraits, WEIGHTS)
    if arguments.otherwise:
        for name in OTHERWISE:
            num = sum(name in portrait for portrait in portraits)
            print(f"  {name}: the original wins {num - kinds[name]} of {num}")
        return
    print_wins("weights as they are", portraits, beaten_by)
    for name, count in kinds.most_common():
        print(f"  {name}: {count}")
    if arguments.fit:
        held_out: list[set[str]] = []
        for fold in range(5):
            weights = fitted([found for number, found in enumerate(portraits) if number % 5 != fold])
            held_out += winners(portraits[fold::5], weights)[0]
        print_wins("fitted on four fifths, of the rest", portraits, held_out)
        for name, weight in fitted(portraits).items():
            print(f'    "{name}": {weight},')


if __name__ == "__main__":
    main()
