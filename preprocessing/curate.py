"""Which faces make the dataset: rules composed in one order, on records alone.

Nothing here reads a pixel, so thresholds can change without a photograph being decoded again; and ties are broken by
names and digests, so the result is the same whatever the order of the input. In order:

1. one ref for photographs with the same bytes;
2. the rules on a single face's scores, in the order of `rules`: the first that fails is the reason on record;
3. several faces in a photograph: `faces`, then `max_faces_per_photo`;
4. one face for crops with the same bytes, then for near-identical crops (`duplicates`), the best of them;
5. where asked for, so many faces of one person, the best of them.

The best has the most of (size in its photograph x sharpness)^4 x bytes of its file; of equals the smaller digest.
Not here: how scores are measured (`scores`).
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from preprocessing.duplicates import HASH_BITS, Groups, group_embeddings, group_hashes
from preprocessing.records import Face, Photo, Rejection
from preprocessing.reject import Reason
from storage.config import Config
from storage.errors import ConfigError, EmptyDatasetError

Pair = tuple[Photo, Face]
PresetName = Literal["lenient", "ffhq", "none"]

PRESETS: dict[str, dict[str, Any]] = {
    "lenient": {
        "min_detector_score": None,
        "min_feature_margin": 0.0,
        "max_padding_fraction": 0.5,
        "max_landmark_error": 0.12,
        "max_abs_yaw_deg": None,
        "max_abs_pitch_deg": None,
        "max_abs_roll_deg": None,
        "min_sharpness": 0.2,
        "min_brightness": None,
        "max_brightness": None,
        "max_clipped_fraction": 0.4,
        "min_colorfulness": None,
        "pdq_max_distance": 36,
    },
    "ffhq": {
        "min_detector_score": 0.1,  # dark faces score low: 0.3 rejects some that are well exposed
        "min_feature_margin": 0.06,
        "max_padding_fraction": 0.2,
        "max_landmark_error": 0.09,
        "max_abs_yaw_deg": 40.0,
        "max_abs_pitch_deg": 30.0,
        "max_abs_roll_deg": None,  # the crop undoes it
        "min_sharpness": 0.35,
        "min_brightness": 0.1,
        "max_brightness": 0.9,
        "max_clipped_fraction": 0.15,
        "min_colorfulness": None,  # FFHQ holds grey pictures
        "pdq_max_distance": 36,
    },
}
"""Set by looking at what each bound rejects of 1,735 photographs (`docs/curation.md`)."""
PRESETS["none"] = dict.fromkeys(PRESETS["lenient"])
_LENIENT = PRESETS["lenient"]

MEASURED_BY = {"filter_score": "scores.filter_model", "embedding": "scores.embedding"}
"""The setting that makes a build measure a score which is not measured by default."""


def _drop_preset_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults a preset governs from the JSON schema: a web form submits every default it is shown."""
    for name in _LENIENT:
        schema["properties"][name].pop("default", None)


class CurateConfig(Config):
    """Which faces are kept; none turns a rule off, but for `min_quad_px`."""

    model_config = ConfigDict(json_schema_extra=_drop_preset_defaults)

    preset: PresetName = Field(
        default="lenient",
        description="Named thresholds; every field given beside it wins. lenient drops what is broken, ffhq what is "
        "not a sharp, whole, near-frontal face; none has no rule but the smallest quad.",
    )
    min_quad_px: int | None = Field(
        default=None,
        ge=1,
        description="Smallest side of a crop in its photograph, before resampling; None means the resolution under "
        "the preset ffhq, so that no pixel is invented, and detect.min_quad_px otherwise.",
    )
    min_detector_score: float | None = Field(
        default=_LENIENT["min_detector_score"], description="Lowest detector score."
    )
    max_padding_fraction: float | None = Field(
        default=_LENIENT["max_padding_fraction"],
        ge=0,
        le=1,
        description="Largest share of the crop outside of its photograph.",
    )
    min_feature_margin: float | None = Field(
        default=_LENIENT["min_feature_margin"],
        ge=-10,
        le=0.5,
        description="Smallest distance of eyes and mouth from the edge of crop and photograph, in crop sides.",
    )
    max_landmark_error: float | None = Field(
        default=_LENIENT["max_landmark_error"],
        ge=0,
        description="Furthest that landmarks may move when found anew in the crop, in eye distances.",
    )
    max_abs_yaw_deg: float | None = Field(
        default=_LENIENT["max_abs_yaw_deg"], ge=0, le=180, description="Furthest turn to either side."
    )
    max_abs_pitch_deg: float | None = Field(
        default=_LENIENT["max_abs_pitch_deg"], ge=0, le=180, description="Furthest nod up or down."
    )
    max_abs_roll_deg: float | None = Field(
        default=_LENIENT["max_abs_roll_deg"],
        ge=0,
        le=180,
        description="Furthest tilt in the photograph; the crop itself is upright.",
    )
    min_sharpness: float | None = Field(
        default=_LENIENT["min_sharpness"], ge=0, le=1, description="Lowest sharpness of the crop."
    )
    min_brightness: float | None = Field(
        default=_LENIENT["min_brightness"],
        ge=0,
        le=1,
        description="Lowest mean luma of the face; keep it low, or it selects by skin.",
    )
    max_brightness: float | None = Field(
        default=_LENIENT["max_brightness"], ge=0, le=1, description="Highest mean luma."
    )
    max_clipped_fraction: float | None = Field(
        default=_LENIENT["max_clipped_fraction"],
        ge=0,
        le=1,
        description="Largest share of pixels that are all but black or white.",
    )
    min_colorfulness: float | None = Field(
        default=_LENIENT["min_colorfulness"],
        ge=0,
        description="Lowest colourfulness; 0.01 keeps colour only.",
    )
    min_filter_score: float | None = Field(
        default=None, description="Lowest score by the model that scores.filter_model names."
    )
    faces: Literal["all", "largest", "single"] = Field(
        default="all",
        description="Of a photograph with several faces: all, only the largest, or none (single). Faces smaller than "
        "min_quad_px do not count.",
    )
    max_faces_per_photo: int = Field(
        default=8, ge=1, description="Faces kept of one photograph, the largest first."
    )
    pdq_max_distance: int | None = Field(
        default=_LENIENT["pdq_max_distance"],
        ge=0,
        lt=HASH_BITS // 2,
        description="Crops whose PDQ hashes differ in at most so many of 256 bits are one picture, of which the best "
        "is kept; None keeps all.",
    )
    min_pdq_quality: int = Field(
        default=50,
        ge=0,
        le=100,
        description="Crops whose hash has a lower quality are never near-duplicates.",
    )
    max_faces_per_identity: int | None = Field(
        default=None, ge=1, description="Faces kept of one person, the best first; needs scores.embedding."
    )
    identity_max_distance: float = Field(
        default=0.6, gt=0, le=2, description="Embeddings no further apart are one person; dlib's own is 0.6."
    )

    @model_validator(mode="before")
    @classmethod
    def _lay_over_preset(cls, data: Any) -> Any:
        """Lay the given fields over the preset's; the text "none", as the command line gives it, is None."""
        if not isinstance(data, Mapping):
            return data
        preset = data.get("preset", "lenient")
        if not isinstance(preset, str) or preset not in PRESETS:
            return data  # the field's own check lists the valid names
        given = {name: None if value == "none" else value for name, value in data.items()}
        return {**PRESETS[preset], **given, "preset": preset}

    def resolved(
        self,
        output_px: int,
        smallest_found_px: int,
        *,
        measures_filter_score: bool = False,
        measures_embedding: bool = False,
    ) -> CurateConfig:
        """This config with the smallest quad set, for crops of side `output_px` where detection looked for quads
        from `smallest_found_px` (detect.min_quad_px).

        ConfigError where it asks for smaller faces, or for a score that is not measured.
        """
        if self.min_filter_score is not None and not measures_filter_score:
            raise _not_measured("curate.min_filter_score", "filter_score")
        if self.max_faces_per_identity is not None and not measures_embedding:
            raise _not_measured("curate.max_faces_per_identity", "embedding")
        if self.min_quad_px is None:
            wanted = output_px if self.preset == "ffhq" else 1
            return self.model_copy(update={"min_quad_px": max(wanted, smallest_found_px)})
        if self.min_quad_px < smallest_found_px:
            raise ConfigError(
                f"curate.min_quad_px={self.min_quad_px} is below detect.min_quad_px={smallest_found_px}: faces that "
                f"small were not looked for; lower detect.min_quad_px too, which detects again"
            )
        return self


@dataclass(frozen=True, slots=True)
class Rule:
    """A face is kept where `low` <= its score <= `high`; None is no bound. `setting` is the field that sets them."""

    reason: Reason
    score: str
    low: float | None
    high: float | None
    setting: str

    @property
    def is_on(self) -> bool:
        """Whether there is a bound."""
        return self.low is not None or self.high is not None

    def value(self, face: Face) -> float | None:
        """The face's score; None where it was not measured."""
        record = face if self.score in ("quad_side_px", "detector_score") else face.scores
        value: float | None = getattr(record, self.score)
        return value


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of a face; `value` is None only where a rule that is off has nothing measured."""

    rule: Rule
    value: float | None
    passed: bool

    @property
    def detail(self) -> str:
        """The failure as in `Rejection.detail`: "sharpness 0.12 < 0.2"."""
        if self.passed or self.value is None:
            raise ValueError("a rule that passed has no failure")
        if self.rule.low is not None and not self.value >= self.rule.low:
            return f"{self.rule.score} {_compared(self.value, '<', self.rule.low)}"
        assert self.rule.high is not None
        return f"{self.rule.score} {_compared(self.value, '>', self.rule.high)}"


@dataclass(frozen=True, slots=True)
class Curated:
    """The faces kept, each with its photograph, by ref and face index; and a rejection for everything else."""

    kept: list[Pair]
    rejections: list[Rejection]


def rules(config: CurateConfig) -> list[Rule]:
    """Every rule on a single face's scores, in the order in which they apply, those that are off included."""

    def low(reason: Reason, score: str, field: str) -> Rule:
        return Rule(reason, score, getattr(config, field), None, f"curate.{field}")

    def high(reason: Reason, score: str, field: str) -> Rule:
        return Rule(reason, score, None, getattr(config, field), f"curate.{field}")

    def within(reason: Reason, score: str, field: str) -> Rule:
        bound: float | None = getattr(config, field)
        return Rule(reason, score, None if bound is None else -bound, bound, f"curate.{field}")

    return [
        low(Reason.QUAD_TOO_SMALL, "quad_side_px", "min_quad_px"),
        low(Reason.LOW_DETECTOR_SCORE, "detector_score", "min_detector_score"),
        low(Reason.FEATURES_OUT_OF_FRAME, "feature_margin", "min_feature_margin"),
        high(Reason.PADDING, "padding_fraction", "max_padding_fraction"),
        high(Reason.BAD_LANDMARKS, "landmark_error", "max_landmark_error"),
        within(Reason.POSE, "yaw_deg", "max_abs_yaw_deg"),
        within(Reason.POSE, "pitch_deg", "max_abs_pitch_deg"),
        within(Reason.POSE, "roll_deg", "max_abs_roll_deg"),
        low(Reason.BLURRED, "sharpness", "min_sharpness"),
        low(Reason.EXPOSURE, "brightness", "min_brightness"),
        high(Reason.EXPOSURE, "brightness", "max_brightness"),
        high(Reason.EXPOSURE, "clipped_fraction", "max_clipped_fraction"),
        low(Reason.GREY, "colorfulness", "min_colorfulness"),
        low(Reason.FILTERED, "filter_score", "min_filter_score"),
    ]


def check(face: Face, config: CurateConfig) -> list[Verdict]:
    """What each of `rules(config)` says of one face; ConfigError where one needs a score that was not measured."""
    return [_verdict(rule, face) for rule in rules(config)]


def curate(photos: Sequence[Photo], faces: Sequence[Face], config: CurateConfig) -> Curated:
    """Choose among the faces of `photos`; the bytes in `Face.image` are not looked at and may be missing.

    `photos` holds a row for each ref, `faces` one for each face of each distinct photograph. Raises
    EmptyDatasetError where nothing is kept, and ConfigError where a rule needs a score that was not measured.
    """
    curated = choose(photos, faces, config)
    if not curated.kept:
        raise _nothing_kept(faces, curated.rejections, config)
    return curated


def choose(photos: Sequence[Photo], faces: Sequence[Face], config: CurateConfig) -> Curated:
    """As `curate`, where keeping nothing is no error."""
    if config.min_quad_px is None:
        raise ValueError("curate needs a resolved config")
    distinct, repeated_photos = _distinct_photos(photos)
    everyone = sorted(((distinct[face.photo_sha256], face) for face in faces), key=_order)
    kept, failed = _passing(everyone, config)
    kept, unwanted = _of_several(kept, everyone, config)
    kept, crowded = _largest_of_each_photo(kept, config.max_faces_per_photo)
    kept, repeated = _distinct_images(kept)
    kept, similar = _distinct_pictures(kept, config)
    kept, familiar = _few_of_each_person(kept, config)
    copies = _pointing_at_kept([*repeated, *similar, *familiar], everyone)
    rejections = [*repeated_photos, *failed, *unwanted, *crowded, *copies]
    return Curated(kept, sorted(rejections, key=_place))


def _order(pair: Pair) -> tuple[str, int]:
    photo, face = pair
    return photo.item.ref, face.face_index


def _place(rejection: Rejection) -> tuple[str, int]:
    return rejection.ref, -1 if rejection.face_index is None else rejection.face_index


def _best_first(pair: Pair) -> tuple[float, str]:
    """The order in which near-identical faces are preferred.

    A product, since each factor alone is decided by noise: a copy's landmarks, and with them its quad, differ a
    little for no good reason, and overlays and sharpening raise the sharpness. The fourth power weighs a face of half
    the pixels against a file sixteen times as large.
    """
    photo, face = pair
    detail_px = face.quad_side_px * face.scores.sharpness
    return -(detail_px * detail_px) * (detail_px * detail_px) * photo.num_bytes, face.image_sha256


def _distinct_photos(photos: Iterable[Photo]) -> tuple[dict[str, Photo], list[Rejection]]:
    """The photograph of the smallest ref for each sha256."""
    distinct: dict[str, Photo] = {}
    rejections = []
    for photo in sorted(photos, key=lambda photo: photo.item.ref):
        first = distinct.setdefault(photo.sha256, photo)
        if first is not photo:
            reason, ref = Reason.DUPLICATE_PHOTO, first.item.ref
            rejections.append(
                Rejection(photo.item.ref, reason, photo.sha256, detail=ref, duplicate_of=photo.sha256)
            )
    return distinct, rejections


def _passing(pairs: Sequence[Pair], config: CurateConfig) -> tuple[list[Pair], list[Rejection]]:
    """The faces that pass every rule on scores."""
    kept, rejections = [], []
    table = rules(config)
    for pair in pairs:
        failure = _first_failure(pair[1], table)
        if failure is None:
            kept.append(pair)
        else:
            rejections.append(_rejection(pair, failure.rule.reason, failure.detail))
    return kept, rejections


def _of_several(
    pairs: Sequence[Pair], everyone: Sequence[Pair], config: CurateConfig
) -> tuple[list[Pair], list[Rejection]]:
    """The faces that `config.faces` wants, of all that are large enough and surely faces, whatever else they fail."""
    doubted = {Reason.QUAD_TOO_SMALL, Reason.LOW_DETECTOR_SCORE, Reason.BAD_LANDMARKS}
    doubts = [rule for rule in rules(config) if rule.reason in doubted]
    sizes: dict[str, list[int]] = {}
    for _, face in everyone:
        if all(_verdict(rule, face).passed for rule in doubts):
            sizes.setdefault(face.photo_sha256, []).append(face.face_index)
    kept, rejections = [], []
    for pair in pairs:
        indexes = sizes[pair[1].photo_sha256]
        if config.faces == "single" and len(indexes) > 1:
            rejections.append(_rejection(pair, Reason.NOT_SINGLE, f"one of {len(indexes)} faces"))
        elif config.faces == "largest" and pair[1].face_index != min(indexes):
            rejections.append(_rejection(pair, Reason.NOT_LARGEST, f"face {min(indexes)} is larger"))
        else:
            kept.append(pair)
    return kept, rejections


def _largest_of_each_photo(pairs: Iterable[Pair], limit: int) -> tuple[list[Pair], list[Rejection]]:
    """At most `limit` faces a photograph; a photograph's faces are numbered by falling size."""
    kept, rejections = [], []
    count: Counter[str] = Counter()
    for pair in pairs:
        count[pair[1].photo_sha256] += 1
        if count[pair[1].photo_sha256] <= limit:
            kept.append(pair)
        else:
            rejections.append(_rejection(pair, Reason.TOO_MANY_FACES, f"more than {limit}"))
    return kept, rejections


def _distinct_images(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Rejection]]:
    """The first face of those whose crops have the same bytes."""
    kept, rejections = [], []
    first: dict[str, Pair] = {}
    for pair in pairs:
        same = first.setdefault(pair[1].image_sha256, pair)
        if same is pair:
            kept.append(pair)
        else:
            rejections.append(
                _rejection(pair, Reason.DUPLICATE_IMAGE, same[0].item.ref, same[1].image_sha256)
            )
    return kept, rejections


def _distinct_pictures(pairs: list[Pair], config: CurateConfig) -> tuple[list[Pair], list[Rejection]]:
    """The best face of those whose crops look the same."""
    hashed = [pair for pair in pairs if pair[1].scores.pdq_quality >= config.min_pdq_quality]
    if config.pdq_max_distance is None or not hashed:
        return pairs, []
    hashed.sort(key=_best_first)
    hashes = np.array([list(bytes.fromhex(face.scores.pdq)) for _, face in hashed], dtype=np.uint8)
    groups = group_hashes(hashes, config.pdq_max_distance)
    return _without_followers(pairs, hashed, groups, 1, Reason.NEAR_DUPLICATE, "{:.0f} bits from {}")


def _few_of_each_person(pairs: list[Pair], config: CurateConfig) -> tuple[list[Pair], list[Rejection]]:
    """The best faces of those whose embeddings are near each other."""
    if config.max_faces_per_identity is None or not pairs:
        return pairs, []
    ranked = sorted(pairs, key=_best_first)
    vectors = [face.scores.embedding for _, face in ranked]
    if None in vectors:
        raise _not_measured("curate.max_faces_per_identity", "embedding")
    groups = group_embeddings(np.array(vectors, dtype=np.float32), config.identity_max_distance)
    limit = config.max_faces_per_identity
    return _without_followers(
        pairs, ranked, groups, limit, Reason.TOO_MANY_OF_IDENTITY, f"more than {limit}; {{:.2f}} from {{}}"
    )


def _without_followers(
    pairs: list[Pair], ranked: list[Pair], groups: Groups, limit: int, reason: Reason, detail: str
) -> tuple[list[Pair], list[Rejection]]:
    """`pairs` without those of `ranked` that come after the first `limit` of their group."""
    count: Counter[int] = Counter()
    rejections = []
    dropped = set()
    for pair, leader, distance in zip(ranked, groups.leader.tolist(), groups.distance.tolist(), strict=True):
        count[leader] += 1
        if count[leader] > limit:
            photo, face = ranked[leader]
            dropped.add(id(pair))
            rejections.append(
                _rejection(pair, reason, detail.format(distance, photo.item.ref), face.image_sha256)
            )
    return [pair for pair in pairs if id(pair) not in dropped], rejections


def _pointing_at_kept(copies: Sequence[Rejection], everyone: Iterable[Pair]) -> list[Rejection]:
    """The rejections with `duplicate_of` led on to an image that no later step has dropped."""
    images: dict[tuple[str | None, int | None], str]
    images = {(face.photo_sha256, face.face_index): face.image_sha256 for _, face in everyone}
    led: dict[str | None, str | None] = {}
    for copy in copies:
        own = images[copy.photo_sha256, copy.face_index]
        if own != copy.duplicate_of:  # else another face with the same bytes
            led[own] = copy.duplicate_of
    pointing = []
    for copy in copies:
        target = copy.duplicate_of
        while target in led:
            target = led[target]
        pointing.append(replace(copy, duplicate_of=target))
    return pointing


def _rejection(pair: Pair, reason: Reason, detail: str, duplicate_of: str | None = None) -> Rejection:
    photo, face = pair
    return Rejection(photo.item.ref, reason, photo.sha256, face.face_index, detail, duplicate_of)


def _verdict(rule: Rule, face: Face) -> Verdict:
    value = rule.value(face)
    if value is None and rule.is_on:
        raise _not_measured(rule.setting, rule.score)
    # so that a score which is not a number passes no bound
    passed = (rule.low is None or value is None or value >= rule.low) and (
        rule.high is None or value is None or value <= rule.high
    )
    return Verdict(rule, value, passed)


def _first_failure(face: Face, table: Iterable[Rule]) -> Verdict | None:
    return next((verdict for rule in table if not (verdict := _verdict(rule, face)).passed), None)


def _not_measured(setting: str, score: str) -> ConfigError:
    return ConfigError(f"{setting} needs {score}, which is not measured: build with {MEASURED_BY[score]} set")


def _compared(value: float, sign: str, bound: float) -> str:
    """`value` and `bound` in as few digits as tell them apart."""
    for digits in range(4, 18):
        first, second = f"{value:.{digits}g}", f"{bound:.{digits}g}"
        if first != second:
            break
    return f"{first} {sign} {second}"


def _nothing_kept(
    faces: Sequence[Face], rejections: Iterable[Rejection], config: CurateConfig
) -> EmptyDatasetError:
    """Which rule rejected most faces, and what their scores were."""
    if not faces:
        return EmptyDatasetError(
            f"no face was found at all (detect.min_quad_px is at most {config.min_quad_px}, the smallest crop side)"
        )
    table = rules(config)
    failed = Counter(failure.rule for face in faces if (failure := _first_failure(face, table)))
    reasons = Counter(rejection.reason.value for rejection in rejections)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    if not failed:
        return EmptyDatasetError(f"none of {len(faces)} faces found is kept; rejected: {counts}")
    [(rule, count)] = failed.most_common(1)
    values = [value for face in faces if (value := rule.value(face)) is not None]
    bound = getattr(config, rule.setting.removeprefix("curate."))
    return EmptyDatasetError(
        f"none of {len(faces)} faces found is kept, most often ({count}) for {rule.setting}={bound:g}: {rule.score} "
        f"runs from {min(values):.4g} over {statistics.median(values):.4g} (median) to {max(values):.4g}; "
        f"rejected: {counts}"
    )
