"""Which faces make the dataset: rules composed in one order, on records alone.

Every rule reads the records and no pixels, and ties are broken by names, so the result is the same whatever the
order of the input. Not here: near-duplicates, and scores of quality.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field

from preprocessing.records import Face, Photo, Rejection
from preprocessing.reject import Reason
from storage.config import Config
from storage.errors import EmptyDatasetError

Pair = tuple[Photo, Face]


class CurateConfig(Config):
    """Which faces are kept."""

    min_quad_px: int | None = Field(
        default=None,
        ge=1,
        description="Smallest side of a crop in its photograph, before resampling; None means half of the output.",
    )
    max_faces_per_photo: int = Field(
        default=8, ge=1, description="Faces kept of one photograph, the largest first."
    )

    def resolved(self, output_px: int) -> CurateConfig:
        """This config with the smallest quad set, for crops of side `output_px`."""
        if self.min_quad_px is not None:
            return self
        return self.model_copy(update={"min_quad_px": max(output_px // 2, 1)})


@dataclass(frozen=True, slots=True)
class Curated:
    """The faces kept, each with its photograph, by ref and face index; and a rejection for everything else."""

    kept: list[Pair]
    rejections: list[Rejection]


def curate(photos: Sequence[Photo], faces: Sequence[Face], config: CurateConfig) -> Curated:
    """Choose among the faces of `photos`; the bytes in `Face.image` are not looked at and may be missing.

    In order: one ref for photographs with the same bytes, the smallest quad, the number of faces in a photograph,
    one face for images with the same bytes. `photos` holds a row for each ref, `faces` one for each face of each
    distinct photograph. Raises EmptyDatasetError where nothing is kept.
    """
    if config.min_quad_px is None:
        raise ValueError("curate needs a resolved config")
    distinct, rejections = _distinct_photos(photos)
    pairs = sorted(((distinct[face.photo_sha256], face) for face in faces), key=_order)
    kept, small = _large_enough(pairs, config.min_quad_px)
    kept, crowded = _largest_of_each_photo(kept, config.max_faces_per_photo)
    kept, repeated = _distinct_images(kept)
    rejections += small + crowded + repeated
    if not kept:
        raise _nothing_kept(faces, rejections, config.min_quad_px)
    return Curated(
        kept, sorted(rejections, key=lambda r: (r.ref, -1 if r.face_index is None else r.face_index))
    )


def _order(pair: Pair) -> tuple[str, int]:
    photo, face = pair
    return photo.item.ref, face.face_index


def _distinct_photos(photos: Iterable[Photo]) -> tuple[dict[str, Photo], list[Rejection]]:
    """The photograph of the smallest ref for each sha256."""
    distinct: dict[str, Photo] = {}
    rejections = []
    for photo in sorted(photos, key=lambda photo: photo.item.ref):
        first = distinct.setdefault(photo.sha256, photo)
        if first is not photo:
            reason = Reason.DUPLICATE_PHOTO
            rejections.append(
                Rejection(
                    photo.item.ref, reason, photo.sha256, detail=first.item.ref, duplicate_of=photo.sha256
                )
            )
    return distinct, rejections


def _large_enough(pairs: Iterable[Pair], min_quad_px: int) -> tuple[list[Pair], list[Rejection]]:
    kept, rejections = [], []
    for pair in pairs:
        side = pair[1].quad_side_px
        if side >= min_quad_px:
            kept.append(pair)
        else:
            rejections.append(_rejection(pair, Reason.QUAD_TOO_SMALL, f"{side:.1f} px < {min_quad_px} px"))
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


def _rejection(pair: Pair, reason: Reason, detail: str, duplicate_of: str | None = None) -> Rejection:
    photo, face = pair
    return Rejection(photo.item.ref, reason, photo.sha256, face.face_index, detail, duplicate_of)


def _nothing_kept(
    faces: Sequence[Face], rejections: Iterable[Rejection], min_quad_px: int
) -> EmptyDatasetError:
    if not faces:
        return EmptyDatasetError(
            f"no face was found at all, whatever its size (curate.min_quad_px={min_quad_px})"
        )
    sides = [face.quad_side_px for face in faces]
    reasons = Counter(rejection.reason.value for rejection in rejections)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return EmptyDatasetError(
        f"no face is kept with curate.min_quad_px={min_quad_px}: the {len(sides)} faces found have quad sides from "
        f"{min(sides):.0f} over {statistics.median(sides):.0f} (median) to {max(sides):.0f} px; rejected: {counts}"
    )
