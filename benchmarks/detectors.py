"""What dlib, YuNet and both find: faces, false faces, time, and how far their crops lie apart.

    python benchmarks/detectors.py PORTRAITS... [--portraits 200] [--photographs FOLDER...]

PORTRAITS are folders of photographs of one person each, which are turned, reduced, darkened and cut: so it is known
how many faces there are, and where. An interval is Wilson's, of 95%, for the number of people: ten looks at one are no
ten people. Groups by skin are of the individual typology angle (ITA) of the cheeks, as they are in the photograph:
light and camera are in it. PHOTOGRAPHS are any others, of which counts and times are printed.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from photographs import files, need

from preprocessing.photo.align import crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces
from preprocessing.photo.turn import turned
from preprocessing.reject import Rejected

Pixels = NDArray[np.uint8]
Quad = NDArray[np.float64]
Change = Callable[[Pixels, Quad], tuple[Pixels, Quad]]

MODELS = ("dlib", "yunet", "both")
FEWEST_FOR_A_TAIL = 20
"""Distances of which there can be a 95th percentile: of fewer it is the largest."""
CHEEKS = ((1, 2, 31, 41), (14, 15, 35, 46))
"""Landmarks around each cheek."""


def turn(degrees: float) -> Change:
    """Turned, and the quad with it."""

    def change(photo: Pixels, quad: Quad) -> tuple[Pixels, Quad]:
        whole = turned(photo, degrees)
        return whole.photo, quad @ whole.matrix[:, :2].T + whole.matrix[:, 2]

    return change


def resize(side: float) -> Change:
    """To a quad of this side."""

    def change(photo: Pixels, quad: Quad) -> tuple[Pixels, Quad]:
        factor = side / quad_side(quad)
        size = max(round(photo.shape[1] * factor), 1), max(round(photo.shape[0] * factor), 1)
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(photo, size, interpolation=method)), (quad + 0.5) * factor - 0.5

    return change


def cut(share: float) -> Change:
    """Without what lies left of `share` of the quad."""

    def change(photo: Pixels, quad: Quad) -> tuple[Pixels, Quad]:
        left = int(np.clip(quad[:, 0].min() + share * np.ptp(quad[:, 0]), 0, photo.shape[1] - 2))
        return np.ascontiguousarray(photo[:, left:]), quad - (left, 0)

    return change


def darken(photo: Pixels, quad: Quad) -> tuple[Pixels, Quad]:
    """At a fifth of the light, with noise."""
    rng = np.random.default_rng(0)
    light = 255 * (photo / 255.0) ** 2.2 / 5
    dark = 255 * (light / 255) ** (1 / 2.2) + rng.normal(size=photo.shape) * 4
    return np.clip(dark, 0, 255).astype(np.uint8), quad


CHANGES: dict[str, Change] = {
    "as they are": lambda photo, quad: (photo, quad),
    **{f"roll {degrees}": turn(degrees) for degrees in (15, 30, 45)},
    **{f"crop of {side} px": resize(side) for side in (64, 96, 160)},
    "dark": darken,
    "cut to the cheek": cut(0.27),
    "cut to the eye": cut(0.36),
}


def skin_angle(photo: Pixels, landmarks: NDArray[np.float64]) -> float | None:
    """The individual typology angle of the cheeks, degrees: high for light skin. None without a cheek or colour."""
    colours = []
    for corners in CHEEKS:
        mask = np.zeros(photo.shape[:2], np.uint8)
        cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(landmarks[list(corners)]).astype(np.int32)), 1)
        if mask.any():
            colours.append(np.median(photo[mask > 0], axis=0))
    if not colours:
        return None
    rgb = np.mean(colours, axis=0).astype(np.float32)[None, None] / 255
    lightness, red, yellow = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[0, 0]
    if np.hypot(red, yellow) < 2:
        return None
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))


def skin_group(angle: float | None) -> str:
    """The usual groups of the angle, three of them."""
    if angle is None:
        return "ITA not measured"
    return "ITA above 41" if angle > 41 else "ITA 19 to 41" if angle > 19 else "ITA below 19"


def interval(hits: int, total: int, people: int) -> str:
    """A share with Wilson's interval, in percent, for so many people: several looks at one are no more people."""
    if not total or not people:
        return "none (0 to 100)"
    share, z = hits / total, 1.96
    middle = (share + z * z / (2 * people)) / (1 + z * z / people)
    half = z * np.sqrt(share * (1 - share) / people + z * z / (4 * people**2)) / (1 + z * z / people)
    low, high = max(middle - half, 0), min(middle + half, 1)
    return f"{100 * share:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def apart(quad: Quad, other: Quad) -> float:
    """The root mean square distance of corners, in sides."""
    return float(np.sqrt(((quad - other) ** 2).sum(axis=1).mean()) / quad_side(quad))


def config(model: str) -> DetectConfig:
    """For crops from 64 px."""
    return DetectConfig.model_validate({"model": model, "min_quad_px": 64})


class Tally:
    """What a detector found of a group of photographs."""

    def __init__(self) -> None:
        self.faces = self.found = self.false = 0
        self.people: set[str] = set()
        self.seconds = 0.0
        self.distances: list[float] = []

    def add(self, person: str, photo: Pixels, quad: Quad, model: str) -> None:
        """Detect, and compare with the one face that is there."""
        self.people.add(person)
        clock = time.process_time()
        quads = [crop_quad(face.landmarks) for face in detect_faces(photo, config(model))]
        self.seconds += time.process_time() - clock
        distances = sorted(apart(quad, other) for other in quads)
        hit = bool(distances) and distances[0] < 0.25
        self.faces += 1
        self.found += hit
        self.false += len(quads) - hit
        self.distances += distances[:1] if hit else []

    def row(self) -> str:
        """As cells of a table."""
        middle, far = np.percentile(self.distances or [0.0], [50, 95])
        apart = [f"{100 * middle:.1f}" if self.distances else "-"]
        apart.append(f"{100 * far:.1f}" if len(self.distances) >= FEWEST_FOR_A_TAIL else "-")
        return (
            f"{len(self.people)} | {interval(self.found, self.faces, len(self.people))} | {self.false} | "
            f"{', '.join(apart)} | {1000 * self.seconds / max(self.faces, 1):.0f}"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--portraits", type=int, default=200)
    parser.add_argument("--photographs", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    paths = files(arguments.folders, parser)
    tallies: dict[tuple[str, str], Tally] = {}
    groups: dict[str, int] = {}
    for path in random.Random(0).sample(paths, min(arguments.portraits, len(paths))):
        try:
            photo = decode(path.read_bytes(), DecodeConfig())
        except Rejected:
            continue
        faces = detect_faces(photo, config("both"))
        if not faces:
            print(f"{path.name}: no detector finds its face")
            continue
        face = max(faces, key=lambda face: quad_side(crop_quad(face.landmarks)))
        group = skin_group(skin_angle(photo, face.landmarks))
        groups[group] = groups.get(group, 0) + 1
        for change, make in CHANGES.items():
            changed, quad = make(photo, crop_quad(face.landmarks))
            for model in MODELS:
                for name in (change, group):
                    if name == change or change != "cut to the eye":
                        tallies.setdefault((name, model), Tally()).add(path.name, changed, quad, model)
    need(len(tallies), "photograph in which a face is found", arguments.folders, parser)
    print(
        "| portraits | model | people | found, % (95%) | false faces | apart, % of the side: median, 95% | CPU ms |"
    )
    print("|---|---|---|---|---|---|---|")
    for (name, model), tally in sorted(
        tallies.items(), key=lambda item: [*CHANGES, *sorted(groups)].index(item[0][0])
    ):
        print(f"| {name} | {model} | {tally.row()} |")
    for path in files(arguments.photographs, parser) if arguments.photographs else ():
        try:
            photo = decode(path.read_bytes(), DecodeConfig())
        except Rejected:
            continue
        cells = []
        for model in MODELS:
            clock = time.process_time()
            found = detect_faces(photo, config(model))
            cells.append(f"{model} {len(found)} in {time.process_time() - clock:.2f} s")
        print(f"{path.name}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
