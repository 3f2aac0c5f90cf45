"""Every score of a face, declared once: what it is, the rules on it, their presets, and how it is shown.

    python -m preprocessing.scores.catalogue    # the tables of docs/curation.md

The columns of tables, the settings and presets of curation, its rules, the report and the docs are made from this. A
new score is one entry here and one function in `preprocessing.scores.score.MEASURES`. Not here: how scores are
measured, and which faces the rules keep (`preprocessing.curation`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from preprocessing.records import Face, ScoreValue
from preprocessing.reject import Reason

Side = Literal["low", "high", "within"]


class Presets(NamedTuple):
    """The bound that each preset sets; None is no bound."""

    lenient: float | None
    ffhq: float | None


@dataclass(frozen=True)
class Bound:
    """A rule on one score: `setting` is the field of CurateConfig that says how low, how high, or how far from 0.

    `presets` is None where no preset governs the setting, which is then off by default. The setting itself lies from
    `ge` to `le`.
    """

    setting: str
    side: Side
    reason: Reason
    description: str
    presets: Presets | None = None
    ge: float | None = None
    le: float | None = None
    is_whole: bool = False


@dataclass(frozen=True)
class Score:
    """One score. `name` is its column, and its name in `records.Scores`; of a field of `records.Face`, `is_field`.

    `meaning` is a sentence for whoever reads a report. `digits` are shown after the point of a number. `measured_by`
    is the setting of a build that has it measured, where that is not always so.
    """

    name: str
    title: str
    meaning: str
    kind: Literal["float", "int", "text", "vector"] = "float"
    unit: str = ""
    digits: int = 3
    bounds: tuple[Bound, ...] = ()
    measured_by: str | None = None
    is_field: bool = False

    @property
    def is_number(self) -> bool:
        """Whether it has a histogram, and may have bounds."""
        return self.kind in ("float", "int")

    def of(self, face: Face) -> float | None:
        """The face's score, a number; None where it was not measured."""
        value: ScoreValue = getattr(face, self.name) if self.is_field else face.scores.get(self.name)
        if value is not None and not isinstance(value, (float, int)):
            raise TypeError(f"{self.name} is no number")
        return value

    def text(self, value: float) -> str:
        """A value as it is shown, such as "128 px"."""
        return f"{value:,.{self.digits}f}{self.suffix}"

    @property
    def suffix(self) -> str:
        """What is shown behind a value."""
        return {"px": " px", "degrees": "°"}.get(self.unit, "")


# fmt: off
SCORES = (
    Score(
        "quad_side_px", "Crop side",
        "Side of the crop in its photograph, before resampling: below the output's, pixels are invented.",
        unit="px", digits=0, is_field=True,
        bounds=(
            Bound("min_quad_px", "low", Reason.QUAD_TOO_SMALL, is_whole=True, ge=1, description=
                  "Smallest side of a crop in its photograph, before resampling; None means the resolution under the "
                  "preset ffhq, so that no pixel is invented, and detect.min_quad_px otherwise."),
        ),
    ),
    Score(
        "detector_score", "Detector score",
        "How sure the detector is that this is a face.",
        unit="dlib's margin", digits=2, is_field=True,
        bounds=(
            Bound("min_detector_score", "low", Reason.LOW_DETECTOR_SCORE, "Lowest detector score.",
                  # dark faces score low: 0.3 rejects some that are well exposed
                  Presets(lenient=None, ffhq=0.1)),
        ),
    ),
    Score(
        "padding_fraction", "Padding",
        "Share of the crop that lies outside of the photograph.",
        bounds=(
            Bound("max_padding_fraction", "high", Reason.PADDING,
                  "Largest share of the crop outside of its photograph.",
                  Presets(lenient=0.5, ffhq=0.24), ge=0, le=1),
        ),
    ),
    Score(
        "feature_margin", "Feature margin",
        "Distance of the outermost eye or mouth landmark from the edge of crop and photograph; negative is outside.",
        unit="crop sides",
        bounds=(
            Bound("min_feature_margin", "low", Reason.FEATURES_OUT_OF_FRAME,
                  "Smallest distance of eyes and mouth from the edge of crop and photograph, in crop sides.",
                  Presets(lenient=0.0, ffhq=0.11), ge=-10, le=0.5),
        ),
    ),
    Score(
        "landmark_error", "Landmark error",
        "How far the landmarks move when found anew in the crop, at most 1: far for no face.",
        unit="eye distances",
        bounds=(
            Bound("max_landmark_error", "high", Reason.BAD_LANDMARKS,
                  "Furthest that landmarks may move when found anew in the crop, in eye distances.",
                  Presets(lenient=0.2, ffhq=0.18), ge=0),
        ),
    ),
    Score(
        "yaw_deg", "Yaw",
        "Turn of the head in the photograph, positive to the picture's right; 0 looks ahead.",
        unit="degrees", digits=1,
        bounds=(
            Bound("max_abs_yaw_deg", "within", Reason.POSE, "Furthest turn to either side.",
                  Presets(lenient=None, ffhq=40.0), ge=0, le=180),
        ),
    ),
    Score(
        "pitch_deg", "Pitch",
        "Nod of the head, positive where it looks up; 0 is the median portrait.",
        unit="degrees", digits=1,
        bounds=(
            Bound("max_abs_pitch_deg", "within", Reason.POSE, "Furthest nod up or down.",
                  Presets(lenient=None, ffhq=30.0), ge=0, le=180),
        ),
    ),
    Score(
        "roll_deg", "Roll",
        "Tilt of the head in the photograph, positive clockwise; the crop takes it out.",
        unit="degrees", digits=1,
        bounds=(
            Bound("max_abs_roll_deg", "within", Reason.POSE,
                  "Furthest tilt in the photograph; the crop itself is upright.",
                  Presets(lenient=None, ffhq=None), ge=0, le=180),
        ),
    ),
    Score(
        "sharpness", "Sharpness",
        "How sharp edges are in the crop's own pixels: near 0.7 as sharp as pixels allow, near 0.25 in a picture "
        "enlarged six times.",
        bounds=(
            Bound("min_sharpness", "low", Reason.BLURRED, "Lowest sharpness of the crop.",
                  Presets(lenient=0.2, ffhq=0.35), ge=0, le=1),
        ),
    ),
    Score(
        "visible_detail", "Detail",
        "How much there really is to see of the crop in its photograph: an enlarged, strongly compressed or darkened "
        "copy has less than its original. Only faces of one picture compare.",
        unit="root of bits", digits=0,
    ),
    Score(
        "brightness", "Brightness",
        "Mean luma of the face, from 0, black, to 1, white.",
        bounds=(
            Bound("min_brightness", "low", Reason.EXPOSURE,
                  "Lowest mean luma of the face; keep it low, or it selects by skin.",
                  Presets(lenient=None, ffhq=0.1), ge=0, le=1),
            Bound("max_brightness", "high", Reason.EXPOSURE, "Highest mean luma.",
                  Presets(lenient=None, ffhq=0.9), ge=0, le=1),
        ),
    ),
    Score(
        "clipped_fraction", "Clipped",
        "Share of the face that is all but black or white.",
        bounds=(
            Bound("max_clipped_fraction", "high", Reason.EXPOSURE,
                  "Largest share of pixels that are all but black or white.",
                  Presets(lenient=0.4, ffhq=0.15), ge=0, le=1),
        ),
    ),
    Score(
        "colorfulness", "Colourfulness",
        "Spread of colour that brightness does not explain: 0 for grey pictures, up to 0.015 for toned ones.",
        bounds=(
            Bound("min_colorfulness", "low", Reason.GREY, "Lowest colourfulness; 0.01 keeps colour only.",
                  Presets(lenient=None, ffhq=None), ge=0),  # FFHQ holds grey pictures
        ),
    ),
    Score(
        "pdq", "PDQ hash",
        "Perceptual hash of the crop, 64 hex digits: pictures that look the same differ in few bits.",
        kind="text",
    ),
    Score(
        "pdq_quality", "PDQ quality",
        "How much the crop offers a perceptual hash, from 0 to 100.",
        kind="int", digits=0,
    ),
    Score(
        "embedding", "Embedding",
        "dlib's 128-d identity: the same person's faces lie within about 0.6.",
        kind="vector", measured_by="scores.embedding",
    ),
    Score(
        "filter_score", "Filter score",
        "What the configured ONNX model says of the crop.",
        unit="the model's", measured_by="scores.filter_model",
        bounds=(
            Bound("min_filter_score", "low", Reason.FILTERED,
                  "Lowest score by the model that scores.filter_model names."),
        ),
    ),
)
# fmt: on
"""Every score, in the order of columns, settings and report.

The presets were set by looking at what each bound rejects of 1,735 photographs (`docs/curation.md`).
"""

MEASURED = tuple(score for score in SCORES if not score.is_field)
"""Those that stand in `records.Scores`."""

NUMBERS = tuple(score for score in SCORES if score.is_number)
"""Those that can be drawn and bounded."""

BOUNDS = tuple(
    sorted(
        ((score, bound) for score in SCORES for bound in score.bounds),
        key=lambda rule: list(Reason).index(rule[1].reason),
    )
)
"""Every rule in the order in which they apply, which is that of their reasons."""


def scores_table() -> str:
    """What each score is, as Markdown."""

    def rows() -> Iterator[tuple[str, ...]]:
        for score in SCORES:
            option = score.measured_by and score.measured_by.replace("_", "-")
            asked = f" Measured with `--{option}`." if option else ""
            yield f"`{score.name}`", score.meaning + asked, score.unit

    return _markdown(("score", "what it says", "unit"), rows())


def rules_table() -> str:
    """Each rule with the bounds that presets set, as Markdown."""
    signs = {"low": "at least", "high": "at most", "within": "either way at most"}

    def rows() -> Iterator[tuple[str, ...]]:
        for score, bound in BOUNDS:
            values = ("", "") if bound.presets is None else map(_bound_text, bound.presets)
            yield f"`{bound.setting}`", f"`{score.name}` {signs[bound.side]}", f"`{bound.reason}`", *values

    return _markdown(("setting", "keeps", "rejects as", *Presets._fields), rows())


def _bound_text(bound: float | None) -> str:
    return "off" if bound is None else f"{bound:g}"


def _markdown(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ("---",) * len(header), *rows))


if __name__ == "__main__":
    sys.stdout.write(f"{scores_table()}\n{rules_table()}")
