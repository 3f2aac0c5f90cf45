"""The stage `curate`: which of the aligned faces make the dataset, and in which of its splits each is.

Not here: the rules (`preprocessing.curation`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.stages.align import Aligned
from flows.stages.work import Progress, Report, reasons
from preprocessing.config import BuildConfig
from preprocessing.curation.choose import curate as curate_faces
from preprocessing.curation.kin import kin
from preprocessing.curation.review import read_verdicts
from storage.datasets.splits import Splits
from storage.tables import arrow, numbers


@dataclass(frozen=True, eq=False)
class Curated:
    """The faces whose crops the dataset will hold, by their numbers in `Aligned.faces`, ordered by image digest.

    `photos` are the numbers of their photographs in `Crawled.photos`. `rejections` has the columns REJECTED_SCHEMA.
    `splits` has the split of each, where there are any.
    """

    kept: NDArray[np.int64]
    photos: NDArray[np.int64]
    rejections: pa.Table
    splits: pa.Array | None = None

    def counts(self) -> dict[str, int]:
        """What became of the faces."""
        return {"kept": len(self.kept), **reasons(self.rejections)}


def curate(report: Report, config: BuildConfig, photos: pa.Table, aligned: Aligned) -> Curated:
    """Choose the faces that make the dataset; EmptyDatasetError where none passes."""
    chosen = curate_faces(photos, aligned.faces, config.curation, read_verdicts(config.curate.reviews))
    order = numbers(pc.sort_indices(aligned.faces["image_sha256"].take(arrow(chosen.faces))))
    kept, of = chosen.faces[order], chosen.photos[order]
    curated = Curated(kept, of, chosen.rejections, _splits(config, photos, aligned, kept, of))
    num_faces = aligned.faces.num_rows
    report(Progress("curate", num_faces, num_faces, "faces", curated.counts()))
    return curated


def _splits(
    config: BuildConfig, photos: pa.Table, aligned: Aligned, kept: NDArray[np.int64], of: NDArray[np.int64]
) -> pa.Array | None:
    """The split of each face that is kept, if there are splits; `of` are the numbers of their photographs."""
    if config.splits is None or config.kinship is None:
        return None
    columns = [name for name in ("pdq", "pdq_quality", "embedding") if name in aligned.faces.column_names]
    groups = kin(aligned.faces.select(columns).take(arrow(kept)), of, config.kinship)
    return Splits.parse(config.splits).assigned(photos["sha256"].take(arrow(of)), groups)
