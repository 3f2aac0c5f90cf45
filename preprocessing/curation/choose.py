"""Which faces make the dataset: rules composed in one order, on records alone.

Nothing here reads a pixel, so thresholds can change without a photograph being decoded again; and ties are broken by
names and digests, so the result is the same whatever the order of the input. In order:

1. one ref for photographs with the same bytes;
2. the rules on a single face's scores, in the order of `rules`: the first that fails is the reason on record;
3. several faces in a photograph: `faces`, then `max_faces_per_photo`;
4. one face for crops with the same bytes, then for near-identical crops (`duplicates`), the best of them;
5. where asked for, so many faces of one person, the best of them.

The best has the most of (size in its photograph x sharpness)^4 x bytes of its file; of equals the smaller digest.
Not here: how scores are measured (`preprocessing.scores`).
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from preprocessing.curation.duplicates import Groups, group_embeddings, group_hashes
from preprocessing.curation.rules import first_failure, rules, verdict
from preprocessing.curation.settings import CurateConfig, not_measured
from preprocessing.records import Face, Photo, Rejection
from preprocessing.reject import Reason
from storage.errors import EmptyDatasetError

Pair = tuple[Photo, Face]


@dataclass(frozen=True, slots=True)
class Curated:
    """The faces kept, each with its photograph, by ref and face index; and a rejection for everything else."""

    kept: list[Pair]
    rejections: list[Rejection]


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
        failure = first_failure(pair[1], table)
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
        if all(verdict(rule, face).passed for rule in doubts):
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
        raise not_measured("curate.max_faces_per_identity", "embedding")
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


def _nothing_kept(
    faces: Sequence[Face], rejections: Iterable[Rejection], config: CurateConfig
) -> EmptyDatasetError:
    """Which rule rejected most faces, and what their scores were."""
    if not faces:
        return EmptyDatasetError(
            f"no face was found at all (detect.min_quad_px is at most {config.min_quad_px}, the smallest crop side)"
        )
    table = rules(config)
    failed = Counter(failure.rule for face in faces if (failure := first_failure(face, table)))
    reasons = Counter(rejection.reason.value for rejection in rejections)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    if not failed:
        return EmptyDatasetError(f"none of {len(faces)} faces found is kept; rejected: {counts}")
    [(rule, count)] = failed.most_common(1)
    values = [value for face in faces if (value := rule.value(face)) is not None]
    bound = getattr(config, rule.setting.removeprefix("curate."))
    return EmptyDatasetError(
        f"none of {len(faces)} faces found is kept, most often ({count}) for {rule.setting}={bound:g}: "
        f"{rule.score.name} runs from {min(values):.4g} over {statistics.median(values):.4g} (median) to "
        f"{max(values):.4g}; rejected: {counts}"
    )
