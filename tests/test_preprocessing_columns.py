"""Records as rows: what was written is read back, and tables of other versions of the code are read too."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preprocessing.columns import FACE_FIELDS, IMAGE_SCHEMA, SOURCE_FIELDS
from preprocessing.records import Face, Item, Photo, Scores, face_of_row, face_row, image_row
from preprocessing.scores.catalogue import MEASURED
from storage.store import Store
from storage.tables import Row, get_table, put_table

COLUMNS = [field.name for field in FACE_FIELDS]
VALUES: dict[str, Any] = {"float": 0.25, "int": 7, "text": "0f", "vector": (0.5, -1.0)}
SCORES = Scores(**{score.name: VALUES[score.kind] for score in MEASURED})
FACE = Face(
    "a" * 64, 1, 40, 30, (0.0, 1.0, 2.0, 3.0), 0.5, ((0.0, 1.0),) * 68, ((0.0, 0.0),) * 4, 9.0, SCORES, "b" * 64, b""
)  # fmt: skip
PHOTO = Photo(Item("a.jpg", author="A. Photographer", expected_sha256="a" * 64), "a" * 64, 9)


def read_back(row: Row, tmp_path: Path, **others: Any) -> Row:
    """A row of an image once written and read, with columns that this code does not know, `others`."""
    schema = IMAGE_SCHEMA
    for name in others:
        schema = schema.append(SOURCE_FIELDS[0].with_name(name))
    store = Store(tmp_path)
    put_table(store, "table.parquet", [{**row, **others}], schema)
    [again] = get_table(store, "table.parquet", COLUMNS)
    return again


@pytest.mark.parametrize("missing", [(), ("embedding", "filter_score")], ids=["all", "without models"])
def test_a_face_is_read_as_it_was_written(missing: tuple[str, ...], tmp_path: Path) -> None:
    """A face through a table is the same face, without its pixels; a row holds it, the photograph and its source."""
    face = replace(FACE, scores=Scores(**{**SCORES, **dict.fromkeys(missing)}))
    row = read_back(image_row(replace(face, image=b"pixels"), PHOTO), tmp_path)
    assert face_of_row(row, COLUMNS) == face
    assert hash(face_of_row(row, COLUMNS)) == hash(face)
    assert row.keys() == set(IMAGE_SCHEMA.names)
    assert (row["ref"], row["author"], row["photo_num_bytes"]) == ("a.jpg", "A. Photographer", 9)


def test_other_scores_are_no_obstacle(tmp_path: Path) -> None:
    """A score that only a newer code measures is handed on, one that an older did not measure is None."""
    row = read_back(image_row(FACE, PHOTO), tmp_path, symmetry="0.5")
    assert row["symmetry"] == "0.5"
    assert face_of_row(row, COLUMNS) == FACE
    del row["sharpness"]
    assert face_of_row(row, COLUMNS).scores == {**SCORES, "sharpness": None}


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
