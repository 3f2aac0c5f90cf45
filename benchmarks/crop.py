"""Choices inside a crop, each as a ratio in one run: sampling side, PNG effort, grey or RGB detection.

    python benchmarks/crop.py FOLDER [--photos 20] [--output-px 128]

FOLDER holds photographs of faces. PSNR is against the official 4096 px transform from the same landmarks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import dlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocessing.align import AlignConfig, aligned_crop
from preprocessing.decode import DecodeConfig, decode
from preprocessing.detect import DetectConfig, detect_faces
from preprocessing.faces import EncodeConfig, encoded

Result = TypeVar("Result")


def timed(function: Callable[[], Result]) -> tuple[float, Result]:
    """CPU seconds of one call, and its result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """dB between two images; infinite where they are equal."""
    error = float(np.mean((first.astype(float) - second.astype(float)) ** 2))
    return 10 * np.log10(255**2 / error) if error else float("inf")


def main() -> None:
    """Print one table a choice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--output-px", type=int, default=128)
    given = parser.parse_args()

    photos = []
    for path in sorted(path for path in given.folder.iterdir() if path.is_file()):
        photo = decode(path.read_bytes(), DecodeConfig())
        if found := detect_faces(photo, DetectConfig()):
            photos.append((photo, found[0].landmarks))
        if len(photos) == given.photos:
            break

    print(f"{len(photos)} photographs of {given.folder.name}, {given.output_px} px, CPU time\n")
    official_s, official = _crops(photos, AlignConfig(output_px=given.output_px, transform_px=4096))
    print("transform    ms/photo   4096's time over it   PSNR median   min")
    for factor in (1, 2, 4, 8):
        side = min(factor * given.output_px, 4096)
        seconds, crops = _crops(photos, AlignConfig(output_px=given.output_px, transform_px=side))
        decibels = [psnr(a, b) for a, b in zip(crops, official, strict=True)]
        print(f"{side:>7} px {1000 * seconds / len(photos):>11.1f} {official_s / seconds:>20.1f}x "
              f"{statistics.median(decibels):>13.1f} {min(decibels):>5.1f}")  # fmt: skip

    print("\nPNG level   ms/crop   level 6's time over it   size over level 6's")
    reference_s, reference = timed(
        lambda: [encoded(crop, EncodeConfig(png_compress_level=6)) for crop in official]
    )
    for level in (1, 2, 4, 6):
        config = EncodeConfig(png_compress_level=level)
        seconds, files = timed(lambda config=config: [encoded(crop, config) for crop in official])  # type: ignore[misc]
        size = sum(map(len, files)) / sum(map(len, reference))
        print(
            f"{level:>9} {1000 * seconds / len(photos):>9.2f} {reference_s / seconds:>23.2f}x {size:>20.3f}"
        )

    detector = dlib.get_frontal_face_detector()
    grey = [np.asarray(Image.fromarray(photo).convert("L")) for photo, _ in photos]
    rgb_s, in_rgb = timed(lambda: [len(detector(photo, 1)) for photo, _ in photos])
    grey_s, in_grey = timed(lambda: [len(detector(photo, 1)) for photo in grey])
    differing = sum(a != b for a, b in zip(in_rgb, in_grey, strict=True))
    print(f"\ndetection: grey takes {grey_s / rgb_s:.2f} of RGB's time; "
          f"photographs with another number of faces: {differing} of {len(photos)}")  # fmt: skip


def _crops(
    photos: list[tuple[NDArray[np.uint8], NDArray[np.float64]]], config: AlignConfig
) -> tuple[float, list[NDArray[np.uint8]]]:
    return timed(lambda: [aligned_crop(photo, landmarks, config) for photo, landmarks in photos])


if __name__ == "__main__":
    main()
