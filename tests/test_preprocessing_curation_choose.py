"""Curation as a pure function: nothing is lost, order does not matter, and every rule gives its reason."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessing.columns import columns_of, item_columns, photo_columns, rejections_of
from preprocessing.curation import choose as module
from preprocessing.curation.facts import with_standing
from preprocessing.curation.rules import check, rules
from preprocessing.curation.settings import PRESETS, CurateConfig
from preprocessing.records import Face, Item, Photo, Rejection, Scores
from preprocessing.reject import Reason
from preprocessing.sources.licenses import LicensesConfig
from storage.errors import ConfigError, EmptyDatasetError

GOOD = Scores(
    padding_fraction=0.0,
    feature_margin=0.2,
    sharpness=0.6,
    visible_detail=100.0,
    landmark_error=0.02,
    yaw_deg=0.0,
    pitch_deg=0.0,
    roll_deg=0.0,
    brightness=0.5,
    clipped_fraction=0.0,
    colorfulness=0.1,
    pdq="00" * 32,
    pdq_quality=0,  # too little to compare: a near-duplicate of nothing
    embedding=None,
    filter_score=None,
)


def photo(ref: str, sha256: str, num_bytes: int = 100) -> Photo:
    """A photograph's record."""
    return Photo(Item(ref), sha256, num_bytes)


def curation(**settings: Any) -> CurateConfig:
    """Settings, those of the catalogue among them, which type checkers do not know."""
    return CurateConfig(**settings)


def face(sha256: str, index: int, side: float, image: str | None = None, **scores: Any) -> Face:
    """A face's record without its image."""
    return Face(
        photo_sha256=sha256,
        face_index=index,
        photo_width_px=500,
        photo_height_px=500,
        box_px=(0.0, 0.0, side, side),
        detector_score=scores.pop("detector_score", 1.0),
        landmarks_px=(),
        quad_px=((0.0, 0.0), (0.0, side), (side, side), (side, 0.0)),
        quad_side_px=side,
        scores=Scores(**{**GOOD, **scores}),
        image_sha256=image or f"image of {sha256} {index}",
        image=b"",
    )


def hashed(*flipped: int) -> dict[str, Any]:
    """A hash of good quality that has these of its 256 bits set."""
    return {"pdq": f"{sum(1 << bit for bit in flipped):064x}", "pdq_quality": 100}


@dataclass(frozen=True)
class Curated:
    """What is kept and what is not, as records."""

    kept: list[tuple[Photo, Face]]
    rejections: list[Rejection]


def table(photos: Sequence[Photo]) -> pa.Table:
    """Photographs as the stages hand them on."""
    return with_standing(
        photo_columns(photos), item_columns([photo.item for photo in photos]), LicensesConfig()
    )


def choose(photos: Sequence[Photo], faces: Sequence[Face], config: CurateConfig) -> Curated:
    """The choice among records."""
    columns = table(photos)
    return records(photos, faces, module.choose(columns, columns_of(faces, columns), config))


def curate(photos: Sequence[Photo], faces: Sequence[Face], config: CurateConfig) -> Curated:
    """The choice among records, where keeping nothing is an error."""
    columns = table(photos)
    return records(photos, faces, module.curate(columns, columns_of(faces, columns), config))


def records(photos: Sequence[Photo], faces: Sequence[Face], curated: module.Curated) -> Curated:
    """What was chosen by number, as records."""
    kept = zip(curated.photos.tolist(), curated.faces.tolist(), strict=True)
    return Curated([(photos[photo], faces[face]) for photo, face in kept], rejections_of(curated.rejections))


CONFIG = CurateConfig(min_quad_px=50, max_faces_per_photo=2)
EVERYTHING = CurateConfig.model_validate(
    {
        "preset": "ffhq",
        "min_quad_px": 50,
        "max_faces_per_photo": 2,
        "min_sharpness": 0.3,
        "pdq_max_distance": 10,
        "max_faces_per_identity": 2,
        "min_filter_score": 0.5,
    }
)
"""All that can be rejected."""


@st.composite
def collections(draw: st.DrawFn) -> tuple[list[Photo], list[Face]]:
    """Photographs, some of the same bytes, with faces, some of the same crop, look or person."""
    sha256s = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=10))
    num_bytes = {sha256: draw(st.integers(1, 3)) for sha256 in sorted(set(sha256s))}
    photos = [photo(f"{number:02d}.jpg", sha256, num_bytes[sha256]) for number, sha256 in enumerate(sha256s)]
    faces = []
    for sha256 in sorted(set(sha256s)):
        sides = sorted(draw(st.lists(st.floats(10, 200), max_size=4)), reverse=True)
        for index, side in enumerate(sides):
            image = draw(st.one_of(st.none(), st.sampled_from(["same", "equal"])))
            person = draw(st.sampled_from([0.0, 0.3, 0.7, 5.0]))
            scores = hashed(*range(draw(st.integers(0, 6)) * 6)) | {
                "sharpness": draw(st.sampled_from([0.2, 0.5, 0.6])),
                "visible_detail": draw(st.sampled_from([20.0, 50.0, 60.0])),
                "yaw_deg": draw(st.sampled_from([0.0, -80.0])),
                "embedding": (person,) + (0.0,) * 127,
                "filter_score": draw(st.sampled_from([0.4, 0.6])),
            }
            faces.append(face(sha256, index, side, image, **scores))
    return photos, faces


configs = st.sampled_from(
    [
        CONFIG,
        EVERYTHING,
        CurateConfig(min_quad_px=50, faces="largest"),
        CurateConfig(min_quad_px=50, faces="single", max_faces_per_identity=1),
    ]
)


@given(collections(), configs, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    collection: tuple[list[Photo], list[Face]], config: CurateConfig, rng: random.Random
) -> None:
    """Shuffled photographs and faces give the same result, in the same order."""
    photos, faces = collection
    expected = choose(photos, faces, config)
    shuffled_photos, shuffled_faces = rng.sample(photos, len(photos)), rng.sample(faces, len(faces))
    assert choose(shuffled_photos, shuffled_faces, config) == expected


@given(collections(), configs)
def test_nothing_is_lost(collection: tuple[list[Photo], list[Face]], config: CurateConfig) -> None:
    """Every face is kept or rejected once, and every further ref of the same bytes is a rejection."""
    photos, faces = collection
    curated = choose(photos, faces, config)
    kept = [(face.photo_sha256, face.face_index) for _, face in curated.kept]
    rejected = [(r.photo_sha256, r.face_index) for r in curated.rejections if r.face_index is not None]
    assert sorted(kept + rejected) == sorted((face.photo_sha256, face.face_index) for face in faces)
    repeated = [r for r in curated.rejections if r.face_index is None]
    assert len(repeated) == len(photos) - len({photo.sha256 for photo in photos})
    assert {r.reason for r in repeated} <= {Reason.DUPLICATE_PHOTO}


@given(collections(), configs)
def test_what_is_kept_obeys_every_rule(
    collection: tuple[list[Photo], list[Face]], config: CurateConfig
) -> None:
    """Kept faces pass each check, are few enough a photograph and a person, from the smallest ref, and unlike."""
    photos, faces = collection
    curated = choose(photos, faces, config)
    first_ref = {photo.sha256: photo.item.ref for photo in reversed(photos)}
    of_photo = Counter(photo.sha256 for photo, _ in curated.kept)
    assert max(of_photo.values(), default=0) <= (1 if config.faces != "all" else config.max_faces_per_photo)
    for number, (photo, face) in enumerate(curated.kept):
        assert photo.sha256 == face.photo_sha256
        assert photo.item.ref == first_ref[photo.sha256]
        assert all(verdict.passed for verdict in check(face, config))
        for _, other in curated.kept[:number]:
            assert face.image_sha256 != other.image_sha256
            differing = int(face.scores.pdq, 16) ^ int(other.scores.pdq, 16)
            assert config.pdq_max_distance is not None
            assert differing.bit_count() > config.pdq_max_distance


@given(collections(), configs)
def test_rejections_point_at_what_is_kept(
    collection: tuple[list[Photo], list[Face]], config: CurateConfig
) -> None:
    """A face rejected for another names an image that the dataset holds, whatever step dropped the first choice."""
    curated = choose(*collection, config)
    kept = {face.image_sha256 for _, face in curated.kept}
    for rejection in curated.rejections:
        if rejection.face_index is not None and rejection.duplicate_of is not None:
            assert rejection.duplicate_of in kept, rejection


@given(collections(), configs)
def test_the_first_failing_rule_is_the_reason(
    collection: tuple[list[Photo], list[Face]], config: CurateConfig
) -> None:
    """A face that fails a check is rejected for the first that it fails, with value and bound."""
    photos, faces = collection
    reasons = {(r.photo_sha256, r.face_index): r for r in choose(photos, faces, config).rejections}
    for face in faces:
        failures = [verdict for verdict in check(face, config) if not verdict.passed]
        if failures:
            rejection = reasons[face.photo_sha256, face.face_index]
            assert (rejection.reason, rejection.detail) == (failures[0].rule.reason, failures[0].detail)


def test_rules_between_faces_give_their_reasons() -> None:
    """One example of each rule on copies and crowds, with the rejection that it writes."""
    photos = [photo("c.jpg", "C"), photo("a.jpg", "A"), photo("b.jpg", "A"), photo("d.jpg", "D", 99)]
    faces = [
        face("A", 0, 90.0, **hashed(0)),
        face("A", 1, 80.0, "twin"),
        face("A", 2, 70.0),
        face("A", 3, 49.99),
        face("C", 0, 60.0, "twin"),
        face("D", 0, 89.0, **hashed(1, 2, 3)),
    ]
    curated = curate(photos, faces, CONFIG)
    assert [(photo.item.ref, face.face_index) for photo, face in curated.kept] == [("a.jpg", 0), ("a.jpg", 1)]
    assert curated.rejections == [
        Rejection("a.jpg", Reason.TOO_MANY_FACES, "A", 2, "more than 2"),
        Rejection("a.jpg", Reason.QUAD_TOO_SMALL, "A", 3, "quad_side_px 49.99 < 50"),
        Rejection("b.jpg", Reason.DUPLICATE_PHOTO, "A", None, "a.jpg", "A"),
        Rejection("c.jpg", Reason.DUPLICATE_IMAGE, "C", 0, "a.jpg", "twin"),
        Rejection("d.jpg", Reason.NEAR_DUPLICATE, "D", 0, "4 bits from a.jpg", "image of A 0"),
    ]


@pytest.mark.parametrize(
    ("scores", "reason", "detail"),
    [
        ({"detector_score": 0.1}, Reason.LOW_DETECTOR_SCORE, "detector_score 0.1 < 0.5"),
        ({"feature_margin": -0.1}, Reason.FEATURES_OUT_OF_FRAME, "feature_margin -0.1 < 0"),
        ({"padding_fraction": 0.3}, Reason.PADDING, "padding_fraction 0.3 > 0.2"),
        ({"landmark_error": 0.3}, Reason.BAD_LANDMARKS, "landmark_error 0.3 > 0.1"),
        ({"yaw_deg": -50.0}, Reason.POSE, "yaw_deg -50 < -45"),
        ({"pitch_deg": 50.0}, Reason.POSE, "pitch_deg 50 > 45"),
        ({"roll_deg": 45.00001}, Reason.POSE, "roll_deg 45.00001 > 45"),
        ({"sharpness": float("nan")}, Reason.BLURRED, "sharpness nan < 0.2"),
        ({"brightness": 0.05}, Reason.EXPOSURE, "brightness 0.05 < 0.1"),
        ({"brightness": 0.95}, Reason.EXPOSURE, "brightness 0.95 > 0.9"),
        ({"clipped_fraction": 0.6}, Reason.EXPOSURE, "clipped_fraction 0.6 > 0.5"),
        ({"colorfulness": 0.0}, Reason.GREY, "colorfulness 0 < 0.01"),
        ({"filter_score": 0.2}, Reason.FILTERED, "filter_score 0.2 < 0.5"),
    ],
)
def test_each_score_has_its_reason(scores: dict[str, Any], reason: Reason, detail: str) -> None:
    """One score beyond its bound rejects the face, for its reason, with value and bound."""
    config = curation(
        preset="none",
        min_quad_px=1,
        min_detector_score=0.5,
        min_feature_margin=0,
        max_padding_fraction=0.2,
        max_landmark_error=0.1,
        max_abs_yaw_deg=45,
        max_abs_pitch_deg=45,
        max_abs_roll_deg=45,
        min_sharpness=0.2,
        min_brightness=0.1,
        max_brightness=0.9,
        max_clipped_fraction=0.5,
        min_colorfulness=0.01,
        min_filter_score=0.5,
    )
    faces = [face("A", 0, 90.0, filter_score=1.0), face("A", 1, 80.0, **{"filter_score": 1.0, **scores})]
    curated = curate([photo("a.jpg", "A")], faces, config)
    assert [face.face_index for _, face in curated.kept] == [0]
    assert curated.rejections == [Rejection("a.jpg", reason, "A", 1, detail)]
    assert curate([photo("a.jpg", "A")], faces, CurateConfig(preset="none", min_quad_px=1)).rejections == []


@pytest.mark.parametrize(
    ("policy", "kept", "reasons"),
    [
        ("all", [0, 2], [Reason.BLURRED, Reason.QUAD_TOO_SMALL]),
        ("largest", [0], [Reason.BLURRED, Reason.NOT_LARGEST, Reason.QUAD_TOO_SMALL]),
        ("single", [], [Reason.NOT_SINGLE, Reason.BLURRED, Reason.NOT_SINGLE, Reason.QUAD_TOO_SMALL]),
    ],
)
def test_several_faces_in_a_photograph(policy: Any, kept: list[int], reasons: list[Reason]) -> None:
    """All, only the largest, or none of several; a face too small is no company, a blurred one is."""
    sides = [90.0, 80.0, 70.0, 20.0]
    faces = [face("A", index, side, sharpness=0.1 if index == 1 else 0.6) for index, side in enumerate(sides)]
    config = curation(min_quad_px=50, min_sharpness=0.3, faces=policy)
    curated = choose([photo("a.jpg", "A")], faces, config)
    assert [face.face_index for _, face in curated.kept] == kept
    assert [rejection.reason for rejection in curated.rejections] == reasons
    alone = choose([photo("a.jpg", "A")], [faces[0], faces[3]], config)
    assert [face.face_index for _, face in alone.kept] == [0]


@pytest.mark.parametrize("policy", ["largest", "single"])
def test_a_false_detection_is_no_company(policy: Any) -> None:
    """What is hardly a face neither makes a photograph one of several faces nor is its largest."""
    faces = [
        face("A", 0, 90.0, landmark_error=0.3),
        face("A", 1, 80.0),
        face("A", 2, 70.0, detector_score=-0.05),
    ]
    config = curation(min_quad_px=50, max_landmark_error=0.12, min_detector_score=0.0, faces=policy)
    curated = choose([photo("a.jpg", "A")], faces, config)
    assert [face.face_index for _, face in curated.kept] == [1]


def test_the_largest_is_never_replaced_by_a_bystander() -> None:
    """Where the largest face fails a rule, the policy `largest` keeps none of the photograph."""
    faces = [face("A", 0, 90.0, sharpness=0.1), face("A", 1, 80.0)]
    config = curation(min_quad_px=50, min_sharpness=0.3, faces="largest")
    assert choose([photo("a.jpg", "A")], faces, config).kept == []


def of_two(better: dict[str, Any], worse: dict[str, Any]) -> set[str]:
    """Which of two copies of a picture, given as facts of an item and scores of a face, is kept, under either name."""
    kept = set()
    for names in (("a.jpg", "b.jpg"), ("b.jpg", "a.jpg")):
        photos, faces = [], []
        for ref, facts in zip(names, (dict(better), dict(worse)), strict=True):
            item = Item(ref, license=facts.pop("license", None))
            photos.append(Photo(item, ref, facts.pop("num_bytes", 100)))
            faces.append(face(ref, 0, facts.pop("side", 100.0), **hashed(1, 2), **facts))
        [(photo, _)] = curate(photos, faces, CONFIG).kept
        kept.add("better" if photo.item.ref == names[0] else "worse")
    return kept


@pytest.mark.parametrize(
    "worse",
    [
        {"visible_detail": 89.0, "side": 400.0, "sharpness": 0.7, "num_bytes": 10**9},
        {"visible_detail": 500.0, "license": "all rights reserved"},
        {"visible_detail": 500.0, "license": "CC-BY-NC-4.0"},
    ],
    ids=["less detail", "no licence", "a licence that is not allowed"],
)
def test_the_best_of_a_picture_is_kept(worse: dict[str, Any]) -> None:
    """The copy whose licence is allowed, then the one with more detail, whatever its size, bytes and name."""
    better = {"visible_detail": 90.0} | ({"license": "CC0-1.0"} if "license" in worse else {})
    assert of_two(better, worse) == {"better"}


FULL = {"license": "CC-BY-4.0", "author": "A", "title": "T"}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"license": "CC0-1.0"}, {"license": "CC-BY-NC-4.0", "author": "A", "title": "T", "page": "P"}),
        (FULL, {"license": "CC0-1.0", "title": "T"}),
        ({"title": "T"}, {}),
    ],
    ids=["allowed", "more is said", "something is said"],
)
def test_the_facts_of_one_reference_are_taken_whole(
    better: dict[str, str], worse: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Of files with the same bytes the one with an allowed licence, then with more facts, stands for all."""
    for names in (("a.jpg", "b.jpg"), ("b.jpg", "a.jpg")):
        first, second = Item(names[0], **better), Item(names[1], **worse)
        photos = [Photo(item, "A", 9) for item in sorted((first, second), key=lambda item: item.ref)]
        curated = curate(photos, [face("A", 0, 90.0)], CONFIG)
        assert [photo.item for photo, _ in curated.kept] == [first]
        assert [(r.ref, r.reason, r.detail) for r in curated.rejections] == [
            (second.ref, Reason.DUPLICATE_PHOTO, first.ref)
        ]
    conflict = {"license", "author"} & better.keys() & worse.keys()
    assert ("say different things" in caplog.text) == bool(conflict)
    assert not conflict or ("a.jpg" in caplog.text and "b.jpg" in caplog.text)


def test_the_same_crop_has_the_better_facts() -> None:
    """Of two files whose crops have the same bytes, such as a JPEG and its PNG, the licensed one is kept."""
    photos = [photo("a.png", "A"), Photo(Item("b.jpg", license="CC0-1.0"), "B", 9)]
    curated = curate(photos, [face("A", 0, 90.0, "same"), face("B", 0, 90.0, "same")], CONFIG)
    assert [photo.item.ref for photo, _ in curated.kept] == ["b.jpg"]
    assert [(r.ref, r.reason) for r in curated.rejections] == [("a.png", Reason.DUPLICATE_IMAGE)]


def test_a_hash_of_poor_quality_is_not_compared() -> None:
    """Where there is little to hash, equal hashes mean nothing."""
    photos = [photo("a.jpg", "A"), photo("b.jpg", "B")]
    faces = [
        face(name, 0, 90.0, **{**hashed(1), "pdq_quality": quality})
        for name, quality in (("A", 100), ("B", 49))
    ]
    assert len(curate(photos, faces, CONFIG).kept) == 2
    assert len(curate(photos, faces, CONFIG.model_copy(update={"min_pdq_quality": 49})).kept) == 1


def test_so_many_faces_of_one_person() -> None:
    """The best two of three embeddings within the distance stay; the third points at the best."""
    photos = [photo(f"{name}.jpg", name) for name in "ABCD"]
    where = {"A": 0.0, "B": 0.5, "C": -0.5, "D": 3.0}
    faces = [
        face(name, 0, side, embedding=(where[name],) + (0.0,) * 127)
        for name, side in zip("ABCD", (90.0, 60.0, 75.0, 50.0), strict=True)
    ]
    config = CurateConfig(min_quad_px=50, max_faces_per_identity=2)
    curated = curate(photos, faces, config)
    assert [photo.sha256 for photo, _ in curated.kept] == ["A", "C", "D"]
    reason = Reason.TOO_MANY_OF_IDENTITY
    assert curated.rejections == [
        Rejection("B.jpg", reason, "B", 0, "more than 2; 0.50 from A.jpg", "image of A 0")
    ]


@pytest.mark.parametrize(
    ("rule", "setting"),
    [({"min_filter_score": 0.5}, "scores.filter_model"), ({"max_faces_per_identity": 1}, "scores.embedding")],
)
def test_a_score_that_was_not_measured_is_named(rule: dict[str, Any], setting: str) -> None:
    """A rule on such a score is refused before a build, and of faces that lack it, naming what measures it."""
    config = CurateConfig(min_quad_px=50, **rule)
    with pytest.raises(ConfigError, match=setting):
        config.resolved(100, 50)
    config.resolved(100, 50, ["filter_score", "embedding"])
    with pytest.raises(ConfigError, match=setting):
        curate([photo("a.jpg", "A")], [face("A", 0, 90.0)], config)


def test_an_empty_result_names_threshold_and_distribution() -> None:
    """Where nothing passes, the error says which rule rejected most and what was there."""
    faces = [face("A", 0, 40.0), face("A", 1, 30.0), face("A", 2, 10.0)]
    with pytest.raises(EmptyDatasetError) as info:
        curate([photo("a.jpg", "A")], faces, CONFIG)
    for part in ("min_quad_px=50", "3 faces", "10", "30 (median)", "to 40", "3 quad_too_small"):
        assert part in str(info.value), str(info.value)
    blurred = [face("A", index, 90.0 - index, sharpness=0.1 + index / 10) for index in range(3)]
    blurred.append(face("A", 3, 20.0))
    with pytest.raises(
        EmptyDatasetError, match=r"\(3\) for curate.min_sharpness=0.5: sharpness runs from 0.1 over"
    ):
        curate([photo("a.jpg", "A")], blurred, CONFIG.model_copy(update={"min_sharpness": 0.5}))
    with pytest.raises(EmptyDatasetError, match="2 not_single"):
        curate(
            [photo("a.jpg", "A")],
            [face("A", 0, 90.0), face("A", 1, 80.0)],
            CurateConfig(min_quad_px=50, faces="single"),
        )
    with pytest.raises(EmptyDatasetError, match="no face was found"):
        curate([photo("a.jpg", "A")], [], CONFIG)


def test_the_smallest_quad_left_open() -> None:
    """It is what detection looked for, or the output's side under ffhq; the config that is recorded holds it."""
    assert CurateConfig().resolved(256, 128).min_quad_px == 128
    assert CurateConfig(preset="ffhq").resolved(256, 128).min_quad_px == 256
    assert CurateConfig(preset="ffhq").resolved(256, 300).min_quad_px == 300
    assert CurateConfig(min_quad_px=200).resolved(256, 128).min_quad_px == 200
    with pytest.raises(ConfigError, match=r"curate.min_quad_px=20 is below detect.min_quad_px=128"):
        CurateConfig(min_quad_px=20).resolved(256, 128)
    with pytest.raises(ValueError, match="resolved"):
        curate([], [], CurateConfig())


def test_presets_are_laid_under_what_is_given() -> None:
    """A field beside the preset wins, `none` turns its rule off, and a recorded config is read back as it was."""
    for name, settings in PRESETS.items():
        config = CurateConfig.model_validate({"preset": name})
        assert {field: getattr(config, field) for field in settings} == settings
        assert settings.keys() == PRESETS["lenient"].keys()
        assert CurateConfig.model_validate(config.model_dump(mode="json")) == config
    assert CurateConfig() == CurateConfig(preset="lenient")
    mixed: Any = CurateConfig.model_validate(
        {"preset": "ffhq", "max_abs_yaw_deg": "none", "min_brightness": 0.3}
    )
    assert (mixed.max_abs_yaw_deg, mixed.min_brightness) == (None, 0.3)
    assert mixed.max_padding_fraction == PRESETS["ffhq"]["max_padding_fraction"]
    assert not any(rule.is_on for rule in rules(CurateConfig(preset="none"))[1:])
    with pytest.raises(ValidationError, match="'lenient', 'ffhq' or 'none'"):
        CurateConfig.model_validate({"preset": "strict"})


def test_ffhq_is_stricter_than_lenient() -> None:
    """No bound of ffhq is wider than that of lenient."""
    for lenient, ffhq in zip(rules(CurateConfig()), rules(CurateConfig(preset="ffhq")), strict=True):
        if lenient.low is not None:
            assert ffhq.low is not None
            assert ffhq.low >= lenient.low
        if lenient.high is not None:
            assert ffhq.high is not None
            assert ffhq.high <= lenient.high


def test_schema_hides_defaults_a_preset_governs() -> None:
    """A form is shown no default that would override a preset, and is shown the others."""
    properties = CurateConfig.model_json_schema()["properties"]
    assert all("default" not in properties[name] for name in PRESETS["lenient"])
    assert properties["preset"]["default"] == "lenient"
    assert properties["max_faces_per_photo"]["default"] == 8
    assert all(field.get("description") for field in properties.values())
