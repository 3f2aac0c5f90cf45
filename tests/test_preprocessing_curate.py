"""Curation as a pure function: nothing is lost, and order does not matter."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.curate import CurateConfig, Curated, curate
from preprocessing.records import Face, Item, Photo, Rejection
from preprocessing.reject import Reason
from storage.errors import EmptyDatasetError


def photo(ref: str, sha256: str) -> Photo:
    """A photograph's record."""
    return Photo(Item(ref), sha256, 100)


def face(sha256: str, index: int, side: float, image: str | None = None) -> Face:
    """A face's record without its image."""
    quad = ((0.0, 0.0), (0.0, side), (side, side), (side, 0.0))
    image_sha256 = image or f"image of {sha256} {index}"
    return Face(sha256, index, 500, 500, (0.0, 0.0, side, side), 1.0, (), quad, side, image_sha256, b"")


CONFIG = CurateConfig(min_quad_px=50, max_faces_per_photo=2)


@st.composite
def collections(draw: st.DrawFn) -> tuple[list[Photo], list[Face]]:
    """Photographs, some of the same bytes, with faces, some of the same crop."""
    sha256s = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=10))
    photos = [photo(f"{number:02d}.jpg", sha256) for number, sha256 in enumerate(sha256s)]
    faces = []
    for sha256 in sorted(set(sha256s)):
        sides = sorted(draw(st.lists(st.floats(10, 200), max_size=4)), reverse=True)
        for index, side in enumerate(sides):
            image = draw(st.one_of(st.none(), st.sampled_from(["same", "equal"])))
            faces.append(face(sha256, index, side, image))
    return photos, faces


def outcome(photos: list[Photo], faces: list[Face]) -> Curated | str:
    """What curation returns, or the message of its error."""
    try:
        return curate(photos, faces, CONFIG)
    except EmptyDatasetError as error:
        return str(error)


@given(collections(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    collection: tuple[list[Photo], list[Face]], rng: random.Random
) -> None:
    """Shuffled photographs and faces give the same result, in the same order."""
    photos, faces = collection
    expected = outcome(photos, faces)
    shuffled_photos, shuffled_faces = rng.sample(photos, len(photos)), rng.sample(faces, len(faces))
    assert outcome(shuffled_photos, shuffled_faces) == expected


@given(collections())
def test_nothing_is_lost(collection: tuple[list[Photo], list[Face]]) -> None:
    """Every face is kept or rejected once, and every further ref of the same bytes is a rejection."""
    photos, faces = collection
    curated = outcome(photos, faces)
    if isinstance(curated, str):
        return
    kept = [(face.photo_sha256, face.face_index) for _, face in curated.kept]
    rejected = [(r.photo_sha256, r.face_index) for r in curated.rejections if r.face_index is not None]
    assert sorted(kept + rejected) == sorted((face.photo_sha256, face.face_index) for face in faces)
    repeated = [r for r in curated.rejections if r.face_index is None]
    assert len(repeated) == len(photos) - len({photo.sha256 for photo in photos})
    assert {r.reason for r in repeated} <= {Reason.DUPLICATE_PHOTO}


@given(collections())
def test_what_is_kept_obeys_every_rule(collection: tuple[list[Photo], list[Face]]) -> None:
    """Kept faces are large enough, few enough a photograph, from the smallest ref, and all different."""
    photos, faces = collection
    curated = outcome(photos, faces)
    if isinstance(curated, str):
        return
    first_ref = {photo.sha256: photo.item.ref for photo in reversed(photos)}
    images = [face.image_sha256 for _, face in curated.kept]
    assert len(images) == len(set(images))
    for photo, face in curated.kept:
        assert photo.sha256 == face.photo_sha256
        assert photo.item.ref == first_ref[photo.sha256]
        assert face.quad_side_px >= 50
        assert sum(other.photo_sha256 == photo.sha256 for _, other in curated.kept) <= 2


def test_each_rule_gives_its_reason() -> None:
    """One example of every rule, with the rejection that it writes."""
    photos = [photo("c.jpg", "C"), photo("a.jpg", "A"), photo("b.jpg", "A")]
    faces = [
        face("A", 0, 90.0),
        face("A", 1, 80.0, "twin"),
        face("A", 2, 70.0),
        face("A", 3, 49.9),
        face("C", 0, 60.0, "twin"),
    ]
    curated = curate(photos, faces, CONFIG)
    assert [(photo.item.ref, face.face_index) for photo, face in curated.kept] == [("a.jpg", 0), ("a.jpg", 1)]
    assert curated.rejections == [
        Rejection("a.jpg", Reason.TOO_MANY_FACES, "A", 2, "more than 2"),
        Rejection("a.jpg", Reason.QUAD_TOO_SMALL, "A", 3, "49.9 px < 50 px"),
        Rejection("b.jpg", Reason.DUPLICATE_PHOTO, "A", None, "a.jpg", "A"),
        Rejection("c.jpg", Reason.DUPLICATE_IMAGE, "C", 0, "a.jpg", "twin"),
    ]


def test_an_empty_result_names_threshold_and_distribution() -> None:
    """Where nothing passes, the error says what the threshold was and what was there."""
    faces = [face("A", 0, 40.0), face("A", 1, 30.0), face("A", 2, 10.0)]
    with pytest.raises(EmptyDatasetError) as info:
        curate([photo("a.jpg", "A")], faces, CONFIG)
    for part in ("min_quad_px=50", "3 faces", "10", "30 (median)", "40 px", "3 quad_too_small"):
        assert part in str(info.value), str(info.value)
    with pytest.raises(EmptyDatasetError, match="no face was found"):
        curate([photo("a.jpg", "A")], [], CONFIG)


def test_the_threshold_left_open_is_half_of_the_output() -> None:
    """The config that is recorded holds the number; an explicit one stays."""
    assert CurateConfig().resolved(256).min_quad_px == 128
    assert CurateConfig(min_quad_px=7).resolved(256).min_quad_px == 7
    with pytest.raises(ValueError, match="resolved"):
        curate([], [], CurateConfig())
