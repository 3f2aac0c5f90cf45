"""Which faces make the dataset: rules composed in one order, on columns alone.

Nothing here reads a pixel, so thresholds can change without a photograph being decoded again; and ties are broken by
names and digests, so the result is the same whatever the order of the input. In order:

1. one ref for photographs with the same bytes (`facts` says which);
2. what people said of a face, and else the rules on its scores, in the order of `rules`: the first that fails is the
   reason on record;
3. several faces in a photograph: `faces`, then `max_faces_per_photo`;
4. one face for crops with the same bytes, then for near-identical crops (`duplicates`), the best of them;
5. where asked for, so many faces of one person, the best of them.

The best copy is one whose licence is allowed, if there is one; then that with the most detail (`visible_detail`). The
best face of a person has the largest product of size and sharpness. Of equals the smaller digest.
Faces and photographs are tables (`preprocessing.columns`), so that a million of them take few hundred megabytes. Not
here: how scores are measured (`preprocessing.scores`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing.columns import FACE_FIELDS, REJECTED_SCHEMA, values_of
from preprocessing.curation.duplicates import Groups, group_embeddings, group_hashes
from preprocessing.curation.review import NO_VERDICTS, Verdict, Verdicts
from preprocessing.curation.rules import Rule, rules
from preprocessing.curation.settings import CurateConfig, not_measured
from preprocessing.reject import Reason
from storage.errors import EmptyDatasetError
from storage.tables import arrow, column_of, counted, filled, fitted, leaders, numbers, texts, where
from storage.wording import numbered

Rows = NDArray[np.int64]
"""Numbers of faces, ascending, as `_Faces` has them."""

_NOT_JUDGED = {"photo_sha256", "photo_width_px", "photo_height_px", "box_px", "landmarks_px", "quad_px"}


@dataclass(frozen=True, slots=True, eq=False)
class Curated:
    """What is kept: the number of each face among those given, by ref and face index, and that of its photograph.

    `rejections` has a row for everything else, likewise, with the columns REJECTED_SCHEMA.
    """

    faces: NDArray[np.int64]
    photos: NDArray[np.int64]
    rejections: pa.Table


def columns_to_judge(config: CurateConfig) -> list[str]:
    """The columns of a face that are looked at, but for its photograph: its scores, and what it is."""
    left_out = _NOT_JUDGED if config.max_faces_per_identity is not None else {*_NOT_JUDGED, "embedding"}
    return [field.name for field in FACE_FIELDS if field.name not in left_out]


def curate(
    photos: pa.Table, faces: pa.Table, config: CurateConfig, verdicts: Verdicts = NO_VERDICTS
) -> Curated:
    """Choose among the faces of `photos`.

    `photos` holds a row for each ref, with the columns PHOTO_SCHEMA, `faces` one for each face of each distinct
    photograph, with at least those of `columns_to_judge`, and as `photo` the number of a photograph of those bytes.
    Raises EmptyDatasetError where nothing is kept, and ConfigError where a rule needs a score that was not measured.
    """
    curated = choose(photos, faces, config, verdicts)
    if not len(curated.faces):
        raise _nothing_kept(faces, curated.rejections, config)
    return curated


def choose(
    photos: pa.Table, faces: pa.Table, config: CurateConfig, verdicts: Verdicts = NO_VERDICTS
) -> Curated:
    """As `curate`, where keeping nothing is no error."""
    if config.min_quad_px is None:
        raise ValueError("curate needs a resolved config")
    everyone, repeated_photos = _Faces.of(photos, faces)
    said = _said(everyone, verdicts)
    kept, failed = _passing(everyone, config, said)
    kept, unwanted = _of_several(everyone, kept, config)
    kept, crowded = _largest_of_each_photo(everyone, kept, config.max_faces_per_photo)
    kept, repeated = _distinct_images(everyone, kept)
    kept, similar = _distinct_pictures(everyone, kept, config)
    kept, familiar = _few_of_each_person(everyone, kept, config)
    copies = _pointing_at_kept(everyone, [repeated, similar, familiar])
    tables = [rejected.table(everyone) for rejected in (*failed, *unwanted, crowded, *copies)]
    rejections = pa.concat_tables([repeated_photos, *tables]).sort_by(
        [("ref", "ascending"), ("face_index", "ascending")]
    )
    return Curated(everyone.number[kept], everyone.photo[kept], rejections)


@dataclass(frozen=True, slots=True, eq=False)
class _Faces:
    """All faces by ref and face index, as arrays of that order; `number` is each one's number in `table`.

    `photo` is the number of each one's photograph in `photos`. `image` stands for its image's digest: equal for equal
    ones, and in their order.
    """

    table: pa.Table
    photos: pa.Table
    number: NDArray[np.int64]
    photo: NDArray[np.int64]
    index: NDArray[np.int32]
    image: NDArray[np.int64]

    @classmethod
    def of(cls, photos: pa.Table, faces: pa.Table) -> tuple[_Faces, pa.Table]:
        """The faces, and a rejection for each photograph of which another, of a smaller rank, has the same bytes."""
        by_ref = numbers(pc.sort_indices(photos["ref"]))
        place = np.empty(len(by_ref), np.int64)
        place[by_ref] = np.arange(len(by_ref))
        leader = leaders(photos["sha256"], photos["rank"])
        photo = leader[numbers(faces["photo"])]
        index = numbers(faces["face_index"])
        image = numbers(pc.rank(faces["image_sha256"].combine_chunks(), tiebreaker="dense")).astype(np.int64)
        number = np.lexsort((index, place[photo]))
        everyone = cls(faces, photos, number, photo[number], index[number], image[number])
        again = np.flatnonzero(leader != np.arange(len(leader)))
        repeated, kept = photos.take(arrow(again)), photos.take(arrow(leader[again]))
        columns = {
            "ref": repeated["ref"],
            "reason": texts(*[Reason.DUPLICATE_PHOTO.value] * len(again)),
            "photo_sha256": repeated["sha256"],
            "face_index": pa.nulls(len(again), pa.int32()),
            "detail": kept["ref"],
            "duplicate_of": kept["sha256"],
        }
        return everyone, fitted(pa.table(columns), REJECTED_SCHEMA)

    def values(self, rule: Rule) -> NDArray[np.float64]:
        """A rule's score of each face; NaN where it was not measured."""
        return values_of(rule.score, self.table)[self.number]

    def column(self, name: str, rows: Rows) -> pa.ChunkedArray:
        """A column of some of the faces."""
        return self.table[name].take(arrow(self.number[rows]))

    def refs(self, rows: Rows) -> pa.ChunkedArray:
        """The refs of some of the faces."""
        return self.photos["ref"].take(arrow(self.photo[rows]))

    def best_copies_first(self, rows: Rows) -> Rows:
        """Some of the faces, of different images, in the order in which near-identical ones are preferred."""
        is_licensed = numbers(self.photos["is_licensed"].cast(pa.int8()))[self.photo[rows]]
        return rows[np.lexsort((self.image[rows], -self._score("visible_detail", rows), -is_licensed))]

    def best_of_person_first(self, rows: Rows) -> Rows:
        """Some of the faces, of different images, in the order in which those of one person are preferred."""
        worth = self._score("quad_side_px", rows) * self._score("sharpness", rows)
        return rows[np.lexsort((self.image[rows], -worth))]

    def _score(self, name: str, rows: Rows) -> NDArray[np.float64]:
        return numbers(filled(self.column(name, rows), np.nan))


@dataclass(frozen=True, slots=True, eq=False)
class _Rejected:
    """Faces rejected for one reason, with its details; `instead` are faces whose images are kept in their place."""

    rows: Rows
    reason: Reason
    details: Sequence[str | None] | str
    instead: Rows | None = None

    def table(self, everyone: _Faces) -> pa.Table:
        """As rejections."""
        num = len(self.rows)
        details = [self.details] * num if isinstance(self.details, str) else self.details
        columns = {
            "ref": everyone.refs(self.rows),
            "reason": texts(*[self.reason.value] * num),
            "photo_sha256": everyone.photos["sha256"].take(arrow(everyone.photo[self.rows])),
            "face_index": arrow(everyone.index[self.rows]),
            "detail": column_of(details, pa.string()),
            "duplicate_of": pa.nulls(num, pa.string())
            if self.instead is None
            else everyone.column("image_sha256", self.instead),
        }
        return fitted(pa.table(columns), REJECTED_SCHEMA)


def _said(everyone: _Faces, verdicts: Verdicts) -> dict[int, Verdict]:
    """What people said of faces, by the faces' rows."""
    if not verdicts.by_image:
        return {}
    rows = np.arange(len(everyone.number))
    images = everyone.column("image_sha256", rows).to_pylist()
    photos = everyone.photos["sha256"].take(arrow(everyone.photo)).to_pylist()
    found = map(verdicts.of, images, photos, everyone.index.tolist())
    return {row: verdict for row, verdict in enumerate(found) if verdict is not None}


def _passing(
    everyone: _Faces, config: CurateConfig, said: Mapping[int, Verdict]
) -> tuple[Rows, list[_Rejected]]:
    """The faces that pass every rule on scores, and those that people kept, but for those that they refused."""
    kept = np.arange(len(everyone.number))
    refused = np.array([row for row, verdict in said.items() if verdict.verdict == "refuse"], np.int64)
    wanted = np.zeros(len(kept), bool)
    wanted[[row for row, verdict in said.items() if verdict.verdict == "keep"]] = True
    rejected = []
    if len(refused):
        details = [said[row].detail for row in refused.tolist()]
        rejected.append(_Rejected(refused, Reason.REFUSED_BY_REVIEW, details))
        kept = np.setdiff1d(kept, refused)
    for rule in rules(config):
        if rule.is_on:
            values = _measured(everyone, rule, kept)
            passes = rule.passes(values) | wanted[kept]
            details = [rule.failure(value) for value in values[~passes].tolist()]
            rejected.append(_Rejected(kept[~passes], rule.reason, details))
            kept = kept[passes]
    return kept, rejected


def _measured(everyone: _Faces, rule: Rule, rows: Rows) -> NDArray[np.float64]:
    """A rule's score of some faces; ConfigError where one has none."""
    if everyone.column(rule.score.name, rows).null_count:
        raise not_measured(rule.setting, rule.score.name)
    return everyone.values(rule)[rows]


def _of_several(everyone: _Faces, rows: Rows, config: CurateConfig) -> tuple[Rows, list[_Rejected]]:
    """The faces that `config.faces` wants, of all that are large enough and surely faces, whatever else they fail."""
    if config.faces == "all":
        return rows, []
    doubted = {Reason.QUAD_TOO_SMALL, Reason.LOW_DETECTOR_SCORE, Reason.BAD_LANDMARKS}
    sure = np.arange(len(everyone.number))
    for rule in rules(config):
        if rule.is_on and rule.reason in doubted:
            sure = sure[rule.passes(_measured(everyone, rule, sure))]
    photos, first, count = np.unique(everyone.photo[sure], return_index=True, return_counts=True)
    mine = np.searchsorted(photos, everyone.photo[rows])
    if config.faces == "single":
        alone = count[mine] == 1
        details = [f"one of {number} faces" for number in count[mine[~alone]].tolist()]
        return rows[alone], [_Rejected(rows[~alone], Reason.NOT_SINGLE, details)]
    largest = everyone.index[sure[first[mine]]]  # a photograph's faces are numbered by falling size
    is_largest = everyone.index[rows] == largest
    details = [f"face {index} is larger" for index in largest[~is_largest].tolist()]
    return rows[is_largest], [_Rejected(rows[~is_largest], Reason.NOT_LARGEST, details)]


def _largest_of_each_photo(everyone: _Faces, rows: Rows, limit: int) -> tuple[Rows, _Rejected]:
    """At most `limit` faces a photograph; a photograph's faces are numbered by falling size."""
    within = _places(everyone.photo[rows]) < limit
    return rows[within], _Rejected(rows[~within], Reason.TOO_MANY_FACES, f"more than {limit}")


def _distinct_images(everyone: _Faces, rows: Rows) -> tuple[Rows, _Rejected]:
    """One face of those whose crops have the same bytes: of the photograph of the least rank."""
    rank = numbers(everyone.photos["rank"])[everyone.photo[rows]]
    by_rank = np.lexsort((rows, rank))
    _, first, same = np.unique(everyone.image[rows][by_rank], return_index=True, return_inverse=True)
    leader = np.empty_like(rows)
    leader[by_rank] = rows[by_rank][first[same]]
    is_first = leader == rows
    leaders = leader[~is_first]
    details = everyone.refs(leaders).to_pylist()
    return rows[is_first], _Rejected(rows[~is_first], Reason.DUPLICATE_IMAGE, details, leaders)


def _distinct_pictures(everyone: _Faces, rows: Rows, config: CurateConfig) -> tuple[Rows, _Rejected]:
    """The best face of those whose crops look the same."""
    none = _Rejected(rows[:0], Reason.NEAR_DUPLICATE, [], rows[:0])
    if config.pdq_max_distance is None:
        return rows, none
    quality = everyone.column("pdq_quality", rows)
    hashed = everyone.best_copies_first(rows[where(pc.greater_equal(quality, config.min_pdq_quality))])
    if not len(hashed):
        return rows, none
    digits = "".join(everyone.column("pdq", hashed).to_pylist())
    hashes = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(len(hashed), -1)
    groups = group_hashes(hashes, config.pdq_max_distance)
    return _without_followers(everyone, rows, hashed, groups, 1, Reason.NEAR_DUPLICATE, "{:.0f} bits from {}")


def _few_of_each_person(everyone: _Faces, rows: Rows, config: CurateConfig) -> tuple[Rows, _Rejected]:
    """The best faces of those whose embeddings are near each other."""
    limit = config.max_faces_per_identity
    if limit is None or not len(rows):
        return rows, _Rejected(rows[:0], Reason.TOO_MANY_OF_IDENTITY, [], rows[:0])
    ranked = everyone.best_of_person_first(rows)
    vectors = everyone.column("embedding", ranked).combine_chunks()
    if vectors.null_count:
        raise not_measured("curate.max_faces_per_identity", "embedding")
    embeddings = numbers(vectors.flatten()).astype(np.float32).reshape(len(ranked), -1)
    groups = group_embeddings(embeddings, config.identity_max_distance)
    return _without_followers(
        everyone,
        rows,
        ranked,
        groups,
        limit,
        Reason.TOO_MANY_OF_IDENTITY,
        f"more than {limit}; {{:.2f}} from {{}}",
    )


def _without_followers(
    everyone: _Faces, rows: Rows, ranked: Rows, groups: Groups, limit: int, reason: Reason, detail: str
) -> tuple[Rows, _Rejected]:
    """`rows` without those of `ranked` that come after the first `limit` of their group."""
    follows = np.flatnonzero(_places(groups.leader) >= limit)
    dropped, leaders = ranked[follows], ranked[groups.leader[follows]]
    distances, refs = groups.distance[follows].tolist(), everyone.refs(leaders).to_pylist()
    details = [detail.format(distance, ref) for distance, ref in zip(distances, refs, strict=True)]
    return np.setdiff1d(rows, dropped, assume_unique=True), _Rejected(dropped, reason, details, leaders)


def _places(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each element of an array how many equal ones stand before it."""
    order = np.argsort(groups, kind="stable")
    _, first, count = np.unique(groups[order], return_index=True, return_counts=True)
    places = np.empty(len(groups), np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(first, count)
    return places


def _pointing_at_kept(everyone: _Faces, steps: Sequence[_Rejected]) -> list[_Rejected]:
    """The rejections of each step with `instead` led on to an image that no later step has dropped."""
    led = np.arange(len(everyone.number))  # from a face of an image to one of what took its place
    face_of = np.empty(everyone.image.max(initial=-1) + 1, np.int64)
    face_of[everyone.image] = led
    for step in steps:
        assert step.instead is not None
        own, other = everyone.image[step.rows], everyone.image[step.instead]
        led[face_of[own[own != other]]] = face_of[other[own != other]]
    while not np.array_equal(further := led[led], led):
        led = further
    return [
        _Rejected(step.rows, step.reason, step.details, led[face_of[everyone.image[step.instead]]])
        for step in steps
    ]


def _nothing_kept(faces: pa.Table, rejections: pa.Table, config: CurateConfig) -> EmptyDatasetError:
    """Which rule rejected most faces, and what their scores were."""
    if not faces.num_rows:
        return EmptyDatasetError(
            f"no face was found at all (detect.min_quad_px is at most {config.min_quad_px}, the smallest crop side)"
        )
    found = numbered(faces.num_rows, "face")
    reasons = counted(rejections["reason"])
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    number, rule, values = max(_failing(faces, config), key=lambda failing: failing[0])
    if not number:
        return EmptyDatasetError(f"none of {found} found is kept; rejected: {counts}")
    bound = getattr(config, rule.setting.removeprefix("curate."))
    return EmptyDatasetError(
        f"none of {found} found is kept, most often ({number}) for {rule.setting}={bound:g}: "
        f"{rule.score.name} runs from {values.min():.4g} over {np.median(values):.4g} (median) to "
        f"{values.max():.4g}; rejected: {counts}"
    )


def _failing(faces: pa.Table, config: CurateConfig) -> Iterable[tuple[int, Rule, NDArray[np.float64]]]:
    """How many faces each rule is the first to reject, and the scores of all that have one."""
    left = np.ones(faces.num_rows, bool)
    for rule in rules(config):
        values = values_of(rule.score, faces)
        passes = rule.passes(values) if rule.is_on else np.ones_like(left)
        yield int((left & ~passes).sum()), rule, values[where(faces[rule.score.name].is_valid())]
        left &= passes
