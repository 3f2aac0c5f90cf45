"""How near the fast path is to the slow one: crops against exact mode, and detection against the full-size detector.

    python benchmarks/fidelity.py --photos FOLDER... --portraits FOLDER... [--crops 8] [--mosaics 12] [--seed 0]

Photographs should have large ones among them; portraits show one face each. Crops are of random quads, turned, inside
and across the border; the large photographs are there reduced and sharpened too, which is the hardest case. Detection
runs on mosaics of the portraits, scaled at random: group photographs whose every face is known to be one.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import dlib
import numpy as np
from numpy.typing import NDArray
from photographs import files, need
from PIL import Image, ImageFilter
from skimage.metrics import structural_similarity

from preprocessing.photo import align
from preprocessing.photo.align import AlignConfig, aligned_crop, check_quad, crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces, landmarks_in_box
from preprocessing.reject import Rejected

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]


def squared_error(first: Pixels, second: Pixels) -> float:
    """Mean square difference in grey levels."""
    return float(np.mean((first.astype(float) - second.astype(float)) ** 2))


def print_crops(photos: Sequence[Pixels], count: int, rng: np.random.Generator) -> None:
    """PSNR and SSIM of fast mode against exact mode, for every output, ratio and side of the border."""
    print(
        f"{'fast against exact':<34}{'crops':>6}{'PSNR median':>13}{'min':>7}{'SSIM min':>10}{'sampling':>14}"
    )
    for padded in (False, True):
        for output_px in (1024, 512, 256, 128):
            for ratio in (0.5, 1, 2, 4):
                decibels, similarities, sampling = [], [], []
                for photo, points in islands(photos, ratio * output_px, padded, count, rng):
                    exact = aligned_crop(photo, points, AlignConfig(output_px=output_px, mode="exact"))
                    fast = aligned_crop(photo, points, AlignConfig(output_px=output_px))
                    decibels.append(10 * np.log10(255**2 / max(squared_error(exact, fast), 1e-9)))
                    similarities.append(structural_similarity(exact, fast, channel_axis=2))
                    sampling.append(align._oversampling(photo, ratio if ratio < 4 else ratio / 2, output_px))
                if decibels:
                    name = f"{output_px} px, quad {ratio} x, {'padded' if padded else 'inside'}"
                    figures = (
                        f"{statistics.median(decibels):>13.1f}{min(decibels):>7.1f}{min(similarities):>10.4f}"
                    )
                    used = f"{min(sampling):.2f}-{max(sampling):.2f}"
                    print(f"{name:<34}{len(decibels):>6}{figures}{used:>14}", flush=True)


def print_law(photos: Sequence[Pixels], count: int, rng: np.random.Generator) -> None:
    """The constant of `align._oversampling`: error of sampling once a pixel, over detail times ratio^3.4."""
    constants = []
    for ratio in (0.75, 1, 1.5, 2, 3):
        for photo, points in islands(photos, ratio * 256, False, count, rng):
            exact = aligned_crop(photo, points, AlignConfig(output_px=256, mode="exact"))
            direct = align._sampled(photo, crop_quad(points), 256, oversampling=1)
            detail = align._detail(photo)
            if detail > 20:
                constants.append((squared_error(exact, direct) - 0.1) / (detail * ratio**3.4))
    low, median, high = np.percentile(constants, [5, 50, 95])
    print(f"\nerror over detail x ratio^3.4: median {median:.4f}, 5% {low:.4f}, 95% {high:.4f}, highest "
          f"{max(constants):.4f}, of {len(constants)}", flush=True)  # fmt: skip


def islands(
    photos: Sequence[Pixels], side: float, padded: bool, count: int, rng: np.random.Generator
) -> Iterator[tuple[Pixels, Points]]:
    """Surroundings and landmarks of random quads of this side, inside or across the border of a photograph."""
    limit = 2.5 if padded else 0.75
    large = [photo for photo in photos if side < limit * min(photo.shape[:2])]
    while large and count:
        photo = large[rng.integers(len(large))]
        height, width = photo.shape[:2]
        points = np.zeros((68, 2))
        points[36:42], points[42:48], points[48], points[54] = (-1, 0), (1, 0), (-0.7, 2.1), (0.7, 2.1)
        angle = np.deg2rad(rng.uniform(-25, 25))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        points = (points * side / quad_side(crop_quad(points))) @ turn
        points += rng.uniform(0, 1, 2) * (width, height) - crop_quad(points).mean(axis=0)
        quad = crop_quad(points)
        inside = (quad.min(axis=0) >= 0).all() and (quad.max(axis=0) <= (width, height)).all()
        try:
            check_quad(quad, width, height)
        except Rejected:
            continue
        if inside != padded:
            low = np.maximum(np.floor(quad.min(axis=0)).astype(int) - round(0.4 * side), 0)
            high = np.ceil(quad.max(axis=0)).astype(int) + round(0.4 * side)
            yield photo[low[1] : high[1], low[0] : high[0]], points - low
            count -= 1


def print_detection(portraits: Sequence[Pixels], count: int, rng: np.random.Generator) -> None:
    """Recall of the faces that the full-size detector finds, and how far their crops move, by the smallest wanted."""
    detector = dlib.get_frontal_face_detector()
    mosaics = [mosaic(portraits, rng) for _ in range(count)]
    known = []
    for photo in mosaics:
        boxes = [(box.left(), box.top(), box.right(), box.bottom()) for box in detector(photo, 1)]
        known.append([crop_quad(landmarks_in_box(photo, box, DetectConfig())) for box in boxes])
    print(
        f"\n{'smallest quad':<16}{'scale':>7}{'faces':>7}{'found':>7}{'recall':>9}{'drift median':>14}{'95%':>8}"
    )
    for min_quad_px in (64, 96, 128, 192, 256, 384, 512):
        config = DetectConfig(min_quad_px=min_quad_px)
        wanted, drifts = 0, []
        for photo, quads in zip(mosaics, known, strict=True):
            found = [crop_quad(face.landmarks) for face in detect_faces(photo, config)]
            for quad in quads:
                if quad_side(quad) >= min_quad_px:
                    wanted += 1
                    drift = min((drifted(quad, other) for other in found), default=1.0)
                    drifts += [drift] if drift < 0.25 else []
        if wanted:
            print(f"{min_quad_px:<16}{config.scale:>7.2f}{wanted:>7}{len(drifts):>7}{len(drifts) / wanted:>8.1%}"
                  f"{np.median(drifts):>13.2%}{np.percentile(drifts, 95):>8.2%}", flush=True)  # fmt: skip


def drifted(quad: Points, other: Points) -> float:
    """Root mean square distance of the corners, in sides."""
    return float(np.sqrt(((quad - other) ** 2).sum(axis=1).mean()) / quad_side(quad))


def mosaic(portraits: Sequence[Pixels], rng: np.random.Generator) -> Pixels:
    """2400 x 1600 px of photographs in rows, each scaled by 0.3 to 3."""
    canvas = rng.integers(117, 137, (1600, 2400, 3)).astype(np.uint8)
    left = top = row = 0
    while True:
        image = Image.fromarray(portraits[int(rng.integers(len(portraits)))])
        scale = float(np.exp(rng.uniform(np.log(0.3), np.log(3)))) * 260 / image.height
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
        if left + image.width > 2400:
            left, top, row = 0, top + row, 0
        if top + image.height > 1600:
            return canvas
        canvas[top : top + image.height, left : left + image.width] = np.asarray(image)
        left, row = left + image.width, max(row, image.height)


def sharpened(photo: Pixels, factor: float) -> Pixels:
    """Reduced and then sharpened, as pictures on the web are."""
    image = Image.fromarray(photo)
    size = max(round(image.width * factor), 1), max(round(image.height * factor), 1)
    image = image.resize(size, Image.Resampling.LANCZOS).filter(ImageFilter.UnsharpMask(1, 80, 0))
    return np.array(image)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders for the crops")
    parser.add_argument("--portraits", type=Path, nargs="*", default=[], help="folders for the mosaics")
    parser.add_argument("--crops", type=int, default=8, help="of each kind")
    parser.add_argument("--mosaics", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not given.photos and not given.portraits:
        parser.error("no photograph: --photos, --portraits or both name folders of some")
    if photos := decoded(given.photos, parser):
        large = [photo for photo in photos if min(photo.shape[:2]) > 1400]
        photos += [sharpened(photo, factor) for photo in large for factor in (0.5, 0.33)]
        print(f"{len(photos)} photographs, seed {given.seed}\n")
        rng = np.random.default_rng(given.seed)
        print_crops(photos, given.crops, rng)
        print_law(photos, given.crops, rng)
    if portraits := decoded(given.portraits, parser):
        portraits = [
            photo for photo in portraits if len(detect_faces(photo, DetectConfig(min_quad_px=100))) == 1
        ]
        need(len(portraits), "photograph of one face", given.portraits, parser)
        print(f"\n{given.mosaics} mosaics of {len(portraits)} portraits, seed {given.seed}")
        print_detection(portraits, given.mosaics, np.random.default_rng(given.seed))


def decoded(folders: Sequence[Path], parser: argparse.ArgumentParser) -> list[Pixels]:
    """Up to 60 photographs of each folder, evenly chosen; the program ends where a folder has none."""
    photos: list[Pixels] = []
    for folder in folders:
        paths = files([folder], parser)
        for path in paths[:: max(len(paths) // 60, 1)]:
            with contextlib.suppress(Rejected):
                photos.append(decode(path.read_bytes(), DecodeConfig()))
    if folders:
        need(len(photos), "photograph that can be read", folders, parser)
    return photos


if __name__ == "__main__":
    main()
