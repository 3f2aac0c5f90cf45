"""Every score of a face, as it is shown: its name, title, meaning, digits and unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from preprocessing.records import Face


@dataclass(frozen=True)
class Score:
    """How a number measured of each face is shown; `name` is its field in `Face` or in `Scores`."""

    name: str
    title: str
    meaning: str
    digits: int
    unit: str = ""

    def of(self, face: Face) -> float:
        """The face's score; NaN where it has none."""
        value = getattr(face if hasattr(face, self.name) else face.scores, self.name)
        return math.nan if value is None else float(value)

    def text(self, value: float) -> str:
        """A value with its unit, such as "128 px"."""
        return f"{value:,.{self.digits}f}{self.unit}"


SCORES = (
    Score("quad_side_px", "Crop side", "Side of the crop in its photograph, before resampling.", 0, " px"),
    Score("detector_score", "Detector score", "How sure the detector is that this is a face.", 2),
    Score(
        "landmark_error",
        "Landmark error",
        "How far the landmarks move when found anew in the crop: far for no face.",
        3,
    ),
    Score("sharpness", "Sharpness", "How much fine detail the crop has; a blurred one has little.", 3),
    Score("padding_fraction", "Padding", "Share of the crop that lies outside of the photograph.", 3),
    Score(
        "feature_margin",
        "Feature margin",
        "Distance of the outermost eye or mouth landmark from the edge, in crop sides; negative is outside.",
        3,
    ),
    Score("yaw_deg", "Yaw", "Turn of the head to a side; 0° looks ahead.", 1, "°"),
    Score("pitch_deg", "Pitch", "Turn of the head up or down; 0° looks ahead.", 1, "°"),
    Score("roll_deg", "Roll", "Tilt of the head in the photograph, which the crop takes out.", 1, "°"),
    Score("brightness", "Brightness", "Mean luma of the face, from 0, black, to 1, white.", 3),
    Score("clipped_fraction", "Clipped", "Share of the face that is all but black or white.", 3),
    Score("colorfulness", "Colourfulness", "0 for grey pictures.", 3),
    Score("pdq_quality", "PDQ quality", "How much the crop offers a perceptual hash, from 0 to 100.", 0),
    Score("filter_score", "Filter score", "What the configured ONNX model says of the crop.", 3),
)
"""Every number measured of a face, in the report's order."""
