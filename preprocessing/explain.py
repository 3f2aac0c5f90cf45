"""Why one photograph passed or not: every rule's verdict on every face, and what a dataset recorded of it.

likeness curate --explain photo.jpg
likeness curate faces --explain photo.jpg
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from preprocessing.aligned import aligned_face
from preprocessing.columns import columns_of, item_columns, photo_columns, rejections_of
from preprocessing.config import BuildConfig, recorded_config
from preprocessing.curation.choose import choose
from preprocessing.curation.facts import with_standing
from preprocessing.curation.review import read_verdicts
from preprocessing.curation.rules import Verdict, check
from preprocessing.faces import faces_in_photo
from preprocessing.records import Face, Item, Photo, Rejection
from storage.datasets.dataset import IMAGE_COLUMNS, Dataset, open_dataset
from storage.datasets.lookup import find_rows
from storage.digest import bytes_digest
from storage.errors import ConfigError, NotFoundError
from storage.lineage.trace import trace
from storage.store import Store
from storage.tables import Row


@dataclass(frozen=True)
class Explanation:
    """Why one photograph passed or not: every rule's verdict on every face, and what a dataset recorded of it.

    `outcomes` are the records by which the photograph or a face would be rejected, and None for a kept face, by face
    index; the photograph itself, without a face, is -1. Other photographs play no part in them: only `recorded`, a
    dataset's rows, knows duplicates. `faces` holds the faces that could be aligned, with the verdicts on each.
    """

    photograph: str
    sha256: str
    outcomes: dict[int, Rejection | None]
    faces: list[tuple[Face, list[Verdict]]]
    dataset: Dataset | None

    @cached_property
    def recorded(self) -> list[dict[str, Any]]:
        """What the dataset holds of this photograph: a dictionary for each face or rejection."""
        if self.dataset is None:
            return []
        images = find_rows(self.dataset, "images", {"photo": self.sha256}, IMAGE_COLUMNS)
        kept = [
            {"ref": row["ref"], "face_index": row["face_index"], "kept": True, "key": row["key"]}
            for row in images
        ]
        columns = ("ref", "face_index", "reason", "detail", "duplicate_of")
        rejected = [
            {**{column: row[column] for column in columns}, "kept": False, "instead": self._ref_of(row)}
            for row in find_rows(self.dataset, "rejections", {"photo": self.sha256})
        ]
        return kept + rejected

    def _ref_of(self, rejection: Row) -> str | None:
        """The ref of the image that is kept in a rejected one's place."""
        if self.dataset is None or rejection["duplicate_of"] is None:
            return None
        kept = find_rows(self.dataset, "images", {"image": rejection["duplicate_of"]}, IMAGE_COLUMNS)
        return kept[-1]["ref"] if kept else None

    def as_json(self) -> dict[str, Any]:
        """What `likeness curate --explain --json` prints."""
        return {
            "photograph": self.photograph,
            "sha256": self.sha256,
            "kept": sum(rejection is None for rejection in self.outcomes.values()),
            "outcomes": [
                {
                    "face_index": None if index < 0 else index,
                    "kept": rejection is None,
                    "reason": None if rejection is None else rejection.reason.value,
                    "detail": None if rejection is None else rejection.detail,
                }
                for index, rejection in self.outcomes.items()
            ],
            "rules": [
                {
                    "face_index": face.face_index,
                    "setting": verdict.rule.setting,
                    "reason": verdict.rule.reason.value,
                    "score": verdict.rule.score.name,
                    "value": verdict.value,
                    "low": verdict.rule.low,
                    "high": verdict.rule.high,
                    "passed": verdict.passed,
                }
                for face, verdicts in self.faces
                for verdict in verdicts
            ],
            "dataset": None if self.dataset is None else self.dataset.reference,
            "recorded": self.recorded,
        }

    def lines(self) -> Iterator[str]:
        """The same for people."""
        kept = sum(rejection is None for rejection in self.outcomes.values())
        yield f"{self.photograph}: {len(self.faces)} aligned, {kept} pass (sha256 {self.sha256[:16]})"
        tables = {face.face_index: (face, verdicts) for face, verdicts in self.faces}
        for index, rejection in self.outcomes.items():
            what = "the photograph" if index < 0 else f"face {index}"
            if index in tables:
                left, top, right, bottom = tables[index][0].box_px
                what += f" at ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f})"
            yield f"{what} {'passes' if rejection is None else f'is rejected: {_said(rejection)}'}"
            if index in tables:
                yield from (f"  {line}" for line in _table(tables[index][1]))
        if self.dataset is None:
            yield "other photographs were not looked at: with a dataset's name, its duplicates are told too"
            return
        if not self.recorded:
            yield f"{self.dataset.reference} knows no such photograph"
        for row in self.recorded:
            what = row["ref"] if row["face_index"] is None else f"{row['ref']} face {row['face_index']}"
            if row["kept"]:
                yield f"{self.dataset.reference}: {what} is image {row['key']}"
            else:
                instead = f"; kept instead: {row['instead']}" if row["instead"] else ""
                detail = f" ({row['detail']})" if row["detail"] else ""
                yield f"{self.dataset.reference}: {what} is rejected: {row['reason']}{detail}{instead}"


def explain(store: Store, reference: str, given: BuildConfig, name: str | None) -> Explanation:
    """Why the photograph `reference` (a file; or an image's key, a ref or a sha256 in the store) passes or not.

    Under the config `given`; with a dataset's `name`, under that dataset's, with what `given` sets in its place.
    """
    dataset = None if name is None else open_dataset(store, name)
    config = given if dataset is None else _laid_over(recorded_config(dataset), given)
    path = Path(reference)
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise ConfigError(f"{reference} cannot be read: {error.strerror}") from error
    if data is None:
        data = store.original(_photo_sha256(store, reference))
    sha256 = bytes_digest(data)
    found = aligned_face if config.aligned else faces_in_photo
    results = found(reference, sha256, data, config.faces)
    faces = [result for result in results if isinstance(result, Face)]
    rejections = [result for result in results if isinstance(result, Rejection)]
    rules = config.curation
    photo = Photo(Item(reference), sha256, len(data))
    photos = with_standing(photo_columns([photo]), item_columns([photo.item]), config.licenses)
    curated = choose(photos, columns_of(faces, photos), rules, read_verdicts(rules.reviews))
    outcomes: dict[int, Rejection | None] = {faces[number].face_index: None for number in curated.faces}
    for rejection in (*rejections, *rejections_of(curated.rejections)):
        outcomes[-1 if rejection.face_index is None else rejection.face_index] = rejection
    verdicts = [(face, [] if config.aligned else check(face, rules)) for face in faces]
    return Explanation(reference, sha256, dict(sorted(outcomes.items())), verdicts, dataset)


def _laid_over(recorded: BuildConfig, given: BuildConfig) -> BuildConfig:
    """`recorded` with what `given` sets; the rules as a whole, since a preset sets them all."""
    settings = recorded.model_dump()
    for name, value in given.model_dump(exclude_unset=True).items():
        partial = isinstance(value, dict) and name != "curate"
        settings[name] = {**settings[name], **value} if partial else value
    return BuildConfig.model_validate(settings)


def _photo_sha256(store: Store, reference: str) -> str:
    """The one photograph on record that `reference` names."""
    try:
        chain = trace(store, reference)
    except NotFoundError:
        raise NotFoundError(f"{reference!r} is no file, and no image or photograph in {store}") from None
    named = {row["photo_sha256"] for row in (*chain.images, *chain.rejections)} - {None}
    if len(named) != 1:
        raise ConfigError(f"{reference!r} names {len(named) or 'no'} photographs of {store}, not one")
    return str(named.pop())


def _said(rejection: Rejection) -> str:
    return rejection.reason.value + (f" ({rejection.detail})" if rejection.detail else "")


def _table(verdicts: list[Verdict]) -> Iterator[str]:
    """A line for each rule."""
    for verdict in verdicts:
        rule = verdict.rule
        value = "-" if verdict.value is None else f"{verdict.value:.4g}"
        bounds = [
            f"{sign} {bound:g}" for sign, bound in ((">=", rule.low), ("<=", rule.high)) if bound is not None
        ]
        if rule.low is not None and rule.high is not None:
            bounds = [f"{rule.low:g} to {rule.high:g}"]
        state = ("pass" if verdict.passed else f"FAIL: {rule.reason}") if rule.is_on else "off"
        yield f"{rule.score.name:17} {value:>9}  {' '.join(bounds):18} {state:28} {rule.setting}".rstrip()
