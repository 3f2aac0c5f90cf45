"""Photographs in which dlib's detector finds a face at full size, upsampled once, and a build finds none.

    python benchmarks/lost_faces.py FOLDER... [--megapixels 4] [--every 10]

Of each photograph of at most so many megapixels: dlib's own detector on its RGB pixels, upsampled once, at its own
threshold 0, against ours for each smallest crop, on one thread. And of the picture that a build looks at, for each
smallest crop: dlib alone over the whole of it, against dlib near what YuNet sees, box by box.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray
from photographs import files, need

from preprocessing.photo.align import crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces, dlib_picture, landmarks_in_box
from preprocessing.photo.frontal import frontal_boxes, whole_boxes
from preprocessing.reject import Rejected

SIDES_PX = (64, 128, 256)

SECONDS: dict[str, float] = defaultdict(float)


@contextmanager
def clock(name: str) -> Iterator[None]:
    """Add the CPU time of a with-block to a name."""
    start = time.process_time()
    yield
    SECONDS[name] += time.process_time() - start


def missing_boxes(photo: NDArray[np.uint8], side: int) -> tuple[list[str], int]:
    """The scores of boxes that only one of dlib alone and dlib near places gives; and how many dlib alone gives."""
    config = DetectConfig(min_quad_px=side)
    picture = dlib_picture(photo, config, config.scale)
    with clock(f"dlib alone, crops from {side} px"):
        whole = {box[1:]: box.score for box in whole_boxes(picture, config.threshold)}
    with clock(f"dlib near places, crops from {side} px"):
        near = {box[1:]: box.score for box in frontal_boxes(picture, config.threshold)}
    lost = [f"-{score:.2f}" for box, score in whole.items() if box not in near]
    return lost + [f"+{score:.2f}" for box, score in near.items() if box not in whole], len(whole)


def main() -> None:
    """Count, and name what is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--megapixels", type=float, default=4)
    parser.add_argument("--every", type=int, default=1, help="only each so many-th file")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    detector = dlib.get_frontal_face_detector()
    lost: dict[int, list[str]] = {side: [] for side in SIDES_PX}
    others: dict[int, list[str]] = {side: [] for side in SIDES_PX}
    boxes_of: dict[int, int] = dict.fromkeys(SIDES_PX, 0)
    count = 0
    for path in files(arguments.folders, parser)[:: arguments.every]:
        try:
            photo = decode(path.read_bytes(), DecodeConfig())
        except Rejected:
            continue
        if photo.shape[0] * photo.shape[1] > arguments.megapixels * 1e6:
            continue
        if not count:
            detect_faces(photo, DetectConfig())  # loads the models
        count += 1
        with clock("official"):
            boxes, _, _ = detector.run(photo, 1, 0.0)
        corners = [(box.left(), box.top(), box.right(), box.bottom()) for box in boxes]
        sides = [quad_side(crop_quad(landmarks_in_box(photo, box, DetectConfig()))) for box in corners]
        for side in SIDES_PX:
            with clock(f"crops from {side} px"):
                found = detect_faces(photo, DetectConfig(min_quad_px=side))
            if not found and max(sides, default=0) >= side:
                lost[side].append(path.name)
            differing, num_boxes = missing_boxes(photo, side)
            boxes_of[side] += num_boxes
            if differing:
                others[side].append(f"{path.name} ({' '.join(differing)})")
    need(count, "photograph that can be read", arguments.folders, parser)
    for side in SIDES_PX:
        print(
            f"crops from {side} px: {len(lost[side])} of {count} photographs lost: {', '.join(lost[side]) or 'none'}"
        )
        print(f"  of {boxes_of[side]} boxes of dlib alone others (- lost, + new, score) in {len(others[side])} "
              f"photographs: {', '.join(others[side]) or 'none'}")  # fmt: skip
    print(", ".join(f"{name}: {1000 * spent / count:.0f} ms" for name, spent in SECONDS.items()))


if __name__ == "__main__":
    main()
