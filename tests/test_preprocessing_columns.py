"""Records as columns: they hold what the records hold, and give it back."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from preprocessing.columns import (
    IMAGE_SCHEMA,
    ITEM_SCHEMA,
    columns_of,
    photo_columns,
    rejection_columns,
    rejections_of,
    values_of,
)
from preprocessing.records import Face, Item, Photo, Rejection, Scores, face_row
from preprocessing.reject import Reason
from preprocessing.scores.catalogue import MEASURED, NUMBERS
from storage.tables import table_of

VALUES: dict[str, Any] = {"float": 0.25, "int": 7, "text": "0f", "vector": (0.5, -1.0)}
SCORES = Scores(**{score.name: VALUES[score.kind] for score in MEASURED})
FACE = Face(
    "a" * 64, 1, 40, 30, (0.0, 1.0, 2.0, 3.0), 0.5, ((0.0, 1.0),) * 68, ((0.0, 0.0),) * 4, 9.0, SCORES, "b" * 64, b""
)  # fmt: skip
PHOTO = Photo(Item("a.jpg", author="A. Photographer", expected_sha256="a" * 64), "a" * 64, 9)


def test_a_face_in_columns_is_its_row() -> None:
    """Every field and score of a face is in its row, but for its pixels; what was not measured is missing."""
    scores = Scores(**{name: value for name, value in SCORES.items() if name != "filter_score"})
    faces = columns_of([FACE, replace(FACE, scores=scores, image=b"pixels")], photo_columns([PHOTO]))
    assert faces["photo"].to_pylist() == [0, 0]
    first, second = faces.drop_columns(["photo"]).to_pylist()
    assert first == {name: as_list(value) for name, value in face_row(FACE).items()}
    assert second == {**first, "filter_score": None}
    assert set(faces.column_names) - set(IMAGE_SCHEMA.names) == {"photo"}
    [filter_score] = [score for score in NUMBERS if score.name == "filter_score"]
    assert np.array_equal(values_of(filter_score, faces), [0.25, np.nan], equal_nan=True)


def as_list(value: Any) -> Any:
    """Tuples as lists, as a table gives them back."""
    return [as_list(element) for element in value] if isinstance(value, tuple) else value


def test_records_are_read_from_columns_as_they_were() -> None:
    """Rejections, photographs and items in columns are what they were, however many there are."""
    rejections = [
        Rejection(
            f"{number}.jpg",
            reason,
            "a" * 64 if number % 2 else None,
            number if number % 3 else None,
            "why",
            "b",
        )
        for number, reason in enumerate(list(Reason) * 200)
    ]
    assert rejections_of(rejection_columns(rejections)) == rejections
    assert rejections_of(rejection_columns([])) == []
    assert photo_columns([PHOTO]).to_pylist() == [{"ref": "a.jpg", "sha256": "a" * 64, "num_bytes": 9}]
    [row] = table_of([asdict(PHOTO.item)], ITEM_SCHEMA).to_pylist()
    assert Item(**row, expected_sha256="a" * 64) == PHOTO.item


def test_scores_travel_and_do_not_change() -> None:
    """Scores are the same once copied or pickled, are read by name or attribute, and take neither."""
    for again in (copy.deepcopy(SCORES), pickle.loads(pickle.dumps(SCORES))):
        assert (again, hash(again)) == (SCORES, hash(SCORES))
    assert SCORES.sharpness == SCORES["sharpness"] == 0.25
    assert face_row(FACE)["sharpness"] == 0.25
    with pytest.raises(AttributeError, match="no score 'sharpnes'"):
        SCORES.sharpnes  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError):
        SCORES.sharpness = 1.0
    with pytest.raises(TypeError):
        SCORES["sharpness"] = 1.0
