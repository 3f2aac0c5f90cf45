"""The frozen records that every stage passes on, and the rows that stand for them.

Stages make these, storage writes them, nothing changes them. Not here: the columns' types (`preprocessing.columns`),
and which scores there are, which a face's bytes do not depend on (`preprocessing.scores.catalogue`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from preprocessing.reject import Reason
from storage.tables import Row

ScoreValue = float | int | str | tuple[float, ...] | None
"""A number, a text or a vector; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class Item:
    """One photograph as its source lists it, before its bytes are read.

    `ref` is what the source calls it: a URL, or a POSIX path relative to the source's root. It is unique
    within a source. Missing metadata is None, never invented. `said` is JSON: what the source said in its own words,
    where a column is a reading of it, and whatever else it said that should be kept. `expected_sha256` is what the
    source claims of the bytes; a photograph that differs is rejected. `opt_out` is what it says against the
    photograph's use, such as Flickr's tag no_cv.
    """

    ref: str
    page: str | None = None
    author: str | None = None
    license: str | None = None
    license_url: str | None = None
    title: str | None = None
    said: str | None = None
    expected_sha256: str | None = None
    opt_out: str | None = None


@dataclass(frozen=True, slots=True)
class Photo:
    """An item whose bytes were read: `sha256` and `num_bytes` are of the original file, untouched."""

    item: Item
    sha256: str
    num_bytes: int


class Scores(Mapping[str, ScoreValue]):
    """What was measured of one face, by name, and nothing changes it; what is good enough is curation's to say.

    `preprocessing.scores.catalogue` says what each is. A score is an attribute too; those that code reads by name are
    declared here, for the type checker.
    """

    __slots__ = ("_values",)

    sharpness: float
    pdq: str
    pdq_quality: int
    embedding: tuple[float, ...] | None

    def __init__(self, /, **values: ScoreValue) -> None:
        self._values = values

    def __getitem__(self, name: str) -> ScoreValue:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Scores({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> ScoreValue:
            try:
                return object.__getattribute__(self, "_values")[name]
            except KeyError:
                raise AttributeError(f"there is no score {name!r}") from None


@dataclass(frozen=True, slots=True)
class Face:
    """One aligned face of one photograph.

    `face_index` numbers a photograph's faces from 0, largest quad first. `box_px` is the detector's rectangle
    (left, top, right, bottom) and `landmarks_px` the 68 points (x, y), both in pixels of the upright
    photograph; `quad_px` is the crop's four corners (top-left, bottom-left, bottom-right, top-right) there and
    `quad_side_px` its side before resampling. `image` is the encoded crop and `image_sha256` its digest. A face that
    came aligned has neither detector's score nor landmarks.
    """

    photo_sha256: str
    face_index: int
    photo_width_px: int
    photo_height_px: int
    box_px: tuple[float, float, float, float]
    detector_score: float | None
    landmarks_px: tuple[tuple[float, float], ...]
    quad_px: tuple[tuple[float, float], ...]
    quad_side_px: float
    scores: Scores
    image_sha256: str
    image: bytes


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one photograph, or one face of it, is not in the dataset.

    `detail` is deterministic (no times, addresses or absolute paths); `duplicate_of` names the sha256 kept in
    its place. `photo_sha256` is None when the bytes never arrived.
    """

    ref: str
    reason: Reason
    photo_sha256: str | None = None
    face_index: int | None = None
    detail: str | None = None
    duplicate_of: str | None = None


CLAIMS = ("expected_sha256", "opt_out")
"""What is acted on before a photograph is in a dataset, and not on record in it."""
SOURCE_COLUMNS = tuple(field.name for field in fields(Item) if field.name not in CLAIMS)
"""What the source says of a photograph, as columns."""


def face_row(face: Face) -> Row:
    """A face without its pixels, its scores as columns of their own."""
    row = asdict(face)
    del row["image"], row["scores"]
    return {**row, **face.scores}
