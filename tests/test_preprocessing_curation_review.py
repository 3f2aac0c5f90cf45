"""Verdicts of people: read whole or not at all, part of the version by what they say, a rule with its own reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_preprocessing_curation_choose import face

from preprocessing.columns import columns_of, item_columns, photo_columns, rejections_of
from preprocessing.config import BuildConfig
from preprocessing.curation.choose import choose
from preprocessing.curation.facts import with_standing
from preprocessing.curation.review import Verdict, read_verdicts
from preprocessing.curation.settings import CurateConfig
from preprocessing.records import Item, Photo
from preprocessing.reject import Reason
from preprocessing.sources.licenses import LicensesConfig
from storage.digest import bytes_digest
from storage.errors import ConfigError

ONE, TWO, THREE = (bytes_digest(name.encode()) for name in ("one", "two", "three"))


def written(path: Path, *rows: dict[str, Any] | str) -> Path:
    """A file of verdicts."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def refusal(image: str, **more: Any) -> dict[str, Any]:
    """A row that refuses an image."""
    return {"image": image, "verdict": "refuse", **more}


def test_the_last_verdict_of_a_face_counts(tmp_path: Path) -> None:
    """Rows are read in order, blank ones passed over; the same verdicts in another order have one digest."""
    path = tmp_path / "verdicts.jsonl"
    first = read_verdicts(written(path, refusal(ONE), "", {"image": ONE, "verdict": "keep"}, refusal(TWO)))
    assert first.of(ONE, "", 0) == Verdict(image=ONE, verdict="keep")
    again = read_verdicts(written(path, refusal(TWO), {"image": ONE, "verdict": "keep"}))
    assert again.digest == first.digest
    assert read_verdicts(written(path, refusal(TWO))).digest != first.digest
    assert read_verdicts(None).of(ONE, "", 0) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"v\.jsonl:1 \(curate\.reviews\) is no verdict: it is no JSON"),
        ({"image": "abc", "verdict": "keep"}, r"v\.jsonl:1 .* image: String should match"),
        ({"image": ONE, "verdict": "maybe"}, r"verdict: Input should be 'keep' or 'refuse'"),
        ({"verdict": "keep"}, r"image: Field required"),
    ],
)
def test_a_row_that_is_no_verdict_is_named(tmp_path: Path, row: dict[str, Any] | str, message: str) -> None:
    """With its line, what is wrong, and what may stand there."""
    with pytest.raises(ConfigError, match=message):
        read_verdicts(written(tmp_path / "v.jsonl", row))
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        read_verdicts(tmp_path / "none.jsonl")


def test_verdicts_are_a_rule_with_a_reason_of_its_own(tmp_path: Path) -> None:
    """What is refused goes for that; what is kept passes every rule on scores; a new crop is known by its face."""
    photos = [Photo(Item(f"{name}.jpg"), name, 9) for name in "ABC"]
    faces = [
        face("A", 0, 90.0, ONE),
        face("B", 0, 80.0, TWO, sharpness=0.01),
        face("C", 0, 70.0, "other bytes than the reviewer saw"),
    ]
    rows = (
        refusal(ONE, reviewer="Ann", reason="a statue"),
        {"image": TWO, "verdict": "keep"},
        refusal(THREE, photo=bytes_digest(b"photo"), face_index=0),
    )
    photos[2] = Photo(Item("C.jpg"), bytes_digest(b"photo"), 9)
    faces[2] = face(bytes_digest(b"photo"), 0, 70.0, "other bytes than the reviewer saw")
    table = with_standing(photo_columns(photos), item_columns([p.item for p in photos]), LicensesConfig())
    columns = columns_of(faces, table)
    config = CurateConfig(min_quad_px=50)
    verdicts = read_verdicts(written(tmp_path / "v.jsonl", *rows))
    curated = choose(table, columns, config, verdicts)
    assert curated.faces.tolist() == [1]
    assert [(r.ref, r.reason, r.detail) for r in rejections_of(curated.rejections)] == [
        ("A.jpg", Reason.REFUSED_BY_REVIEW, "a statue, by Ann"),
        ("C.jpg", Reason.REFUSED_BY_REVIEW, None),
    ]
    assert choose(table, columns, config).faces.tolist() == [0, 2]


def test_verdicts_are_part_of_a_version_by_what_they_say(tmp_path: Path) -> None:
    """Another place of the file changes nothing, another verdict does, and without any nothing is said of them."""
    here, there = written(tmp_path / "a.jsonl", refusal(ONE)), written(tmp_path / "b.jsonl", refusal(ONE))
    identities = [
        BuildConfig(curate=CurateConfig(reviews=path)).curation_identity()
        for path in (here, there, written(tmp_path / "c.jsonl", refusal(TWO)))
    ]
    assert identities[0] == identities[1] != identities[2]
    assert str(tmp_path) not in str(identities)
    assert not {name for name in BuildConfig().curation_identity() if name.startswith("reviews")}
