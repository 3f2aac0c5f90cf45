"""How far apart the PDQ hashes of crops are: copies of one photograph, against photographs of different people.

    python benchmarks/near_duplicates.py FOLDER... [--copies 200] [--resolution 256]

The folders hold portraits of different people. Every copy is detected and aligned again, as a build would. Printed: the
distances between different people, the closest of them by name, and the share of the copies of each kind that a
threshold finds. Then the time and memory of grouping random hashes.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pdqhash
from numpy.typing import NDArray
from photographs import files, need
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from preprocessing.curation.duplicates import group_hashes
from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.photo.align import AlignConfig
from preprocessing.records import Face

THRESHOLDS = (16, 24, 30, 36, 40, 48, 56)


def resized(photo: Image.Image, factor: float) -> Image.Image:
    """The photograph at `factor` of its size."""
    size = (max(round(photo.width * factor), 1), max(round(photo.height * factor), 1))
    return photo.resize(size, Image.Resampling.LANCZOS)


def cropped(photo: Image.Image, share: float) -> Image.Image:
    """The photograph without `share` of its width and height, half on either side."""
    x, y = round(photo.width * share / 2), round(photo.height * share / 2)
    return photo.crop((x, y, photo.width - x, photo.height - y))


def warmer(photo: Image.Image) -> Image.Image:
    """More red, less blue."""
    pixels = np.asarray(photo, dtype=float) * (1.12, 1.0, 0.88)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def gamma(photo: Image.Image, exponent: float) -> Image.Image:
    """Every value to a power."""
    return photo.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def watermarked(photo: Image.Image) -> Image.Image:
    """A half-transparent line of text across the middle."""
    layer = Image.new("RGBA", photo.size)
    size = photo.width // 8
    ImageDraw.Draw(layer).text(
        (size // 2, photo.height // 2), "PREVIEW", (255, 255, 255, 128), font_size=size
    )
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def captioned(photo: Image.Image) -> Image.Image:
    """A black bar with text over the lowest tenth."""
    copy, height = photo.copy(), photo.height // 10
    draw = ImageDraw.Draw(copy)
    draw.rectangle((0, copy.height - height, copy.width, copy.height), (0, 0, 0))
    draw.text((4, copy.height - height), "Breaking news", (255, 255, 255), font_size=max(height - 4, 8))
    return copy


def badged(photo: Image.Image) -> Image.Image:
    """An opaque disc in the upper corner."""
    copy, side = photo.copy(), photo.width // 6
    ImageDraw.Draw(copy).ellipse((4, 4, 4 + side, 4 + side), (220, 20, 40))
    return copy


def reposted(photo: Image.Image) -> Image.Image:
    """Cropped, smaller, brighter: what a few hands make of a photograph."""
    return ImageEnhance.Brightness(resized(cropped(photo, 0.06), 0.8)).enhance(1.1)


EDITS: dict[str, tuple[Callable[[Image.Image], Image.Image], str, int]] = {
    "JPEG 95": (lambda p: p, "JPEG", 95),
    "JPEG 75": (lambda p: p, "JPEG", 75),
    "JPEG 50": (lambda p: p, "JPEG", 50),
    "JPEG 30": (lambda p: p, "JPEG", 30),
    "WebP 75": (lambda p: p, "WEBP", 75),
    "WebP 30": (lambda p: p, "WEBP", 30),
    "resized 0.25": (partial(resized, factor=0.25), "JPEG", 90),
    "resized 0.5": (partial(resized, factor=0.5), "JPEG", 90),
    "resized 0.75": (partial(resized, factor=0.75), "JPEG", 90),
    "resized 1.5": (partial(resized, factor=1.5), "JPEG", 90),
    "resized 2": (partial(resized, factor=2.0), "JPEG", 90),
    "cropped by 5%": (partial(cropped, share=0.05), "JPEG", 90),
    "cropped by 10%": (partial(cropped, share=0.10), "JPEG", 90),
    "cropped by 20%": (partial(cropped, share=0.20), "JPEG", 90),
    "brighter 1.25": (lambda p: ImageEnhance.Brightness(p).enhance(1.25), "JPEG", 90),
    "darker 0.75": (lambda p: ImageEnhance.Brightness(p).enhance(0.75), "JPEG", 90),
    "contrast 1.3": (lambda p: ImageEnhance.Contrast(p).enhance(1.3), "JPEG", 90),
    "gamma 0.7": (partial(gamma, exponent=0.7), "JPEG", 90),
    "grey": (lambda p: ImageOps.grayscale(p).convert("RGB"), "JPEG", 90),
    "warmer": (warmer, "JPEG", 90),
    "blurred 1 px": (lambda p: p.filter(ImageFilter.GaussianBlur(1)), "JPEG", 90),
    "sharpened": (lambda p: p.filter(ImageFilter.UnsharpMask(2, 100)), "JPEG", 90),
    "rotated 2 deg": (lambda p: p.rotate(2, Image.Resampling.BICUBIC), "JPEG", 90),
    "badge in a corner": (badged, "JPEG", 90),
    "caption bar": (captioned, "JPEG", 90),
    "text over the face": (watermarked, "JPEG", 90),
    "reposted": (reposted, "JPEG", 60),
    "mirrored": (ImageOps.mirror, "JPEG", 90),
}


def crop_hash(data: bytes, config: FacesConfig) -> tuple[NDArray[np.uint8], int, float] | None:
    """Hash (32 bytes) and quality of the largest face's crop, and the crop's side in the photograph, px."""
    faces = [face for face in faces_in_photo("", "", data, config) if isinstance(face, Face)]
    if not faces:
        return None
    crop = np.asarray(Image.open(io.BytesIO(faces[0].image)).convert("RGB"))
    bits, quality = pdqhash.compute(crop)
    return np.packbits(bits), int(quality), faces[0].quad_side_px


def file_hash(path: Path, config: FacesConfig) -> tuple[NDArray[np.uint8], int, float] | None:
    """As `crop_hash`, of a file."""
    return crop_hash(path.read_bytes(), config)


def copy_distances(path: Path, config: FacesConfig) -> dict[str, int | None]:
    """Bits between a photograph's crop and that of each edited copy; None where a copy has no face."""
    original = crop_hash(path.read_bytes(), config)
    assert original is not None
    photo = Image.open(path).convert("RGB")
    distances: dict[str, int | None] = {}
    for name, (edit, file_format, quality) in EDITS.items():
        buffer = io.BytesIO()
        edit(photo).save(buffer, file_format, quality=quality)
        copy = crop_hash(buffer.getvalue(), config)
        distances[name] = None if copy is None else int(np.bitwise_count(original[0] ^ copy[0]).sum())
    return distances


def pair_distances(hashes: NDArray[np.uint8]) -> Iterator[NDArray[np.int64]]:
    """For each row, the bits between it and every later row."""
    for row in range(len(hashes) - 1):
        yield np.bitwise_count(hashes[row] ^ hashes[row + 1 :]).sum(axis=1)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--copies", type=int, default=200, help="photographs that are copied")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hashes", type=int, default=100_000, help="random hashes that are grouped")
    arguments = parser.parse_args()
    config = FacesConfig(align=AlignConfig(output_px=arguments.resolution))
    photos = [path for path in files(arguments.folders, parser) if path.suffix in {".jpg", ".webp", ".png"}]
    with ProcessPoolExecutor(arguments.workers) as pool:
        found = [
            (path, *result)
            for path, result in zip(
                photos, pool.map(partial(file_hash, config=config), photos, chunksize=8), strict=True
            )
            if result is not None
        ]
        need(len(found) // 2, "two photographs with a face", arguments.folders, parser)
        paths = [path for path, *_ in found]
        hashes = np.stack([bits for _, bits, *_ in found])
        _print_people(paths, hashes, np.array([quality for *_, quality, _ in found]))
        sample = paths[:: max(len(paths) // arguments.copies, 1)]
        copies = list(pool.map(partial(copy_distances, config=config), sample, chunksize=2))
    _print_copies(copies)
    _print_grouping(arguments.hashes)


def _print_people(paths: list[Path], hashes: NDArray[np.uint8], qualities: NDArray[np.int64]) -> None:
    rows = list(pair_distances(hashes))
    distances = np.concatenate(rows)
    print(f"{len(paths)} crops, {len(distances)} pairs; hash quality from {qualities.min()}", end=" ")
    print(f"over {np.median(qualities):.0f} (median), lowest 5%: {np.quantile(qualities, 0.05):.0f}")
    shares = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.5)
    print("quantiles", {share: int(np.quantile(distances, share)) for share in shares})
    print("pairs within", {threshold: int((distances <= threshold).sum()) for threshold in THRESHOLDS})
    close = [(int(d), i, i + 1 + j) for i, row in enumerate(rows) for j, d in enumerate(row) if d <= 80]
    for distance, first, second in sorted(close)[:40]:
        print(f"  {distance:4d}  {paths[first].name}  {paths[second].name}")


def _print_copies(copies: list[dict[str, int | None]]) -> None:
    print(f"{'copy':20} found median  90% 99%  max | share within", *(f"{t:5d}" for t in THRESHOLDS))
    for name in EDITS:
        there = np.array([value for row in copies if (value := row[name]) is not None])
        if not len(there):
            print(f"{name:20} none found")
            continue
        median, most, all_but, top = (int(np.quantile(there, share)) for share in (0.5, 0.9, 0.99, 1.0))
        shares = (f"{(there <= threshold).mean():5.2f}" for threshold in THRESHOLDS)
        found = f"{len(there) / len(copies):5.2f} {median:6d} {most:4d} {all_but:3d} {top:4d}"
        print(f"{name:20} {found} |            ", *shares)


def _print_grouping(count: int) -> None:
    """All strangers, the slowest case; and families of ten or so, a few bits apart."""
    rng = np.random.default_rng(0)
    strangers = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    noise = np.packbits(rng.random((count, 256)) < 0.03, axis=1)
    families = strangers[rng.integers(0, max(count // 10, 1), count)] ^ noise
    for name, hashes in (("strangers", strangers), ("families of ten", families)):
        before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        groups = group_hashes(hashes, 36)
        seconds = time.process_time() - clock
        added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        leaders = int((groups.leader == np.arange(count)).sum())
        print(f"{count} hashes, {name}: {seconds:.1f} CPU s, {added:.0f} MiB more, {leaders} groups")


if __name__ == "__main__":
    main()
