"""What the presets do with faces that a person has looked at: precision and recall of each rule, and of all.

    python benchmarks/thresholds.py FOLDER    # that holds bundestag, congress, uk_parliament and wild

`benchmarks/labels.csv` has the verdicts: good, cut (the chin lies outside of the photograph, and was made up from its
border), or false (no face, or a crop that misses it). It holds all faces that a rule on landmarks, features or padding
rejects of 1,714 in 1,750 photographs, and those nearest to these bounds.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2
from photographs import files

from preprocessing.curation.rules import check
from preprocessing.curation.settings import CurateConfig
from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.photo.align import AlignConfig
from preprocessing.photo.detect import DetectConfig
from preprocessing.records import Face

LABELS = Path(__file__).with_name("labels.csv")
CONFIG = FacesConfig(align=AlignConfig(output_px=256), detect=DetectConfig(min_quad_px=96))


def main() -> None:
    """Measure every labelled face again, and print what the presets make of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    files([folder], parser)
    cv2.setNumThreads(1)
    labelled: list[tuple[Face, str]] = []
    with LABELS.open(newline="") as file:
        for row in csv.DictReader(file):
            if not (folder / row["file"]).is_file():
                parser.error(f"{folder} has no {row['file']}, of which {LABELS} has a verdict")
            found = faces_in_photo(row["file"], "", (folder / row["file"]).read_bytes(), CONFIG)
            faces = [face for face in found if isinstance(face, Face)]
            labelled += [
                (face, row["verdict"]) for face in faces if face.face_index == int(row["face_index"])
            ]
    bad = sum(verdict != "good" for _, verdict in labelled)
    print(f"{len(labelled)} labelled faces, {bad} of them cut or false")
    for preset in ("lenient", "ffhq"):
        config = CurateConfig.model_validate({"preset": preset, "min_quad_px": 1})
        rejected: dict[str, list[str]] = {"all rules": []}
        for face, verdict in labelled:
            failed = [said.rule.setting for said in check(face, config) if not said.passed]
            for setting in (*failed, *(["all rules"] if failed else [])):
                rejected.setdefault(setting, []).append(verdict)
        for setting, verdicts in rejected.items():
            right = sum(verdict != "good" for verdict in verdicts)
            print(
                f"{preset}, {setting}: rejects {len(verdicts)}, precision {right / max(len(verdicts), 1):.2f}, "
                f"recall {right / max(bad, 1):.2f}"
            )


if __name__ == "__main__":
    main()
