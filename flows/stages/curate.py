"""The stage `curate`: which of the aligned faces make the dataset.

Not here: the rules (`preprocessing.curation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.stages.align import Aligned, Crop
from flows.stages.work import Progress, Report, reasons
from preprocessing.config import BuildConfig
from preprocessing.curation.choose import curate as curate_faces
from preprocessing.records import (
    Photo,
    Rejection,
)


@dataclass(frozen=True)
class Curated:
    """The crops that the dataset will hold, ordered by image digest, each with the photograph it came from."""

    kept: list[tuple[Crop, Photo]]
    rejections: list[Rejection]

    def counts(self) -> dict[str, int]:
        """What became of the faces."""
        return {"kept": len(self.kept), **reasons(self.rejections)}


def curate(report: Report, config: BuildConfig, photos: Sequence[Photo], aligned: Aligned) -> Curated:
    """Choose the faces that make the dataset; EmptyDatasetError where none passes."""
    where = {(crop.face.photo_sha256, crop.face.face_index): crop for crop in aligned.crops}
    curated = curate_faces(photos, [crop.face for crop in aligned.crops], config.curation)
    kept = [(where[face.photo_sha256, face.face_index], photo) for photo, face in curated.kept]
    kept.sort(key=lambda pair: pair[0].face.image_sha256)
    report(
        Progress(
            "curate", len(where), len(where), "faces", {"kept": len(kept), **reasons(curated.rejections)}
        )
    )
    return Curated(kept, curated.rejections)
