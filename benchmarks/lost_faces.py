"""Photographs in which dlib's detector finds a face at full size, upsampled once, and a build finds none.

    python benchmarks/lost_faces.py FOLDER... [--megapixels 4]

Of each photograph of at most so many megapixels: dlib's own detector on its RGB pixels, upsampled once, at its own
threshold 0, against ours for each smallest crop, on one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import dlib

from preprocessing.photo.align import crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces, landmarks_in_box
from preprocessing.reject import Rejected

SIDES_PX = (64, 128, 256)


def main() -> None:
    """Count, and name what is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--megapixels", type=float, default=4)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    detector = dlib.get_frontal_face_detector()
    lost: dict[int, list[str]] = {side: [] for side in SIDES_PX}
    seconds = {"official": 0.0, **{f"crops from {side} px": 0.0 for side in SIDES_PX}}
    count = 0
    for path in sorted(path for folder in arguments.folders for path in folder.rglob("*") if path.is_file()):
        try:
            photo = decode(path.read_bytes(), DecodeConfig())
        except Rejected:
            continue
        if photo.shape[0] * photo.shape[1] > arguments.megapixels * 1e6:
            continue
        count += 1
        clock = time.process_time()
        boxes, _, _ = detector.run(photo, 1, 0.0)
        seconds["official"] += time.process_time() - clock
        corners = [(box.left(), box.top(), box.right(), box.bottom()) for box in boxes]
        sides = [quad_side(crop_quad(landmarks_in_box(photo, box, DetectConfig()))) for box in corners]
        for side in SIDES_PX:
            clock = time.process_time()
            found = detect_faces(photo, DetectConfig(min_quad_px=side))
            seconds[f"crops from {side} px"] += time.process_time() - clock
            if not found and max(sides, default=0) >= side:
                lost[side].append(path.name)
    for side, names in lost.items():
        print(f"crops from {side} px: {len(names)} of {count} photographs lost: {', '.join(names) or 'none'}")
    print(", ".join(f"{name}: {1000 * spent / max(count, 1):.0f} ms" for name, spent in seconds.items()))


if __name__ == "__main__":
    main()
