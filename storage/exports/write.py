"""A version of a dataset, written for other programs: one folder or one ZIP, whole, the same bytes every time.

    exported = export(open_dataset(store, "faces"), "ffhq", Path("out"))

In each are ATTRIBUTION.txt, LICENSES.txt, SHA256SUMS and export.json, and in the store a record of where it went. Not
here: the layouts (`storage.exports.ffhq` and its neighbours), and reading them back (`storage.exports.layouts`).
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from storage.datasets.attribution import FILE as ATTRIBUTION
from storage.datasets.attribution import attribution
from storage.datasets.dataset import Dataset
from storage.datasets.records import VersionName
from storage.digest import bytes_digest
from storage.errors import ConfigError
from storage.exports.layouts import LAYOUTS, Layout
from storage.exports.pictures import Job, licences_text
from storage.exports.records import RECORD, SUMS, Exported, ExportRecord
from storage.exports.sinks import Sink, open_sink, sink_digest
from storage.exports.under_way import delete_left_over, under_way
from storage.local import real_path
from storage.tables import numbers

logger = logging.getLogger(__name__)

LICENSES = "LICENSES.txt"
SAMPLED = 16
"""Images that a dry run encodes to say how large all are."""


@dataclass(frozen=True)
class Planned:
    """What an export would be: its images, and about how many bytes they take."""

    job: Job
    layout: Layout
    images: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "dataset": self.job.dataset.reference,
            "format": self.layout.name,
            "resolution": self.job.resolution,
            "images": self.images,
            "about_bytes": self.bytes,
        }


def checked_job(
    dataset: Dataset, layout: str, out: Path, *, resolution: int | None = None, label: str | None = None
) -> tuple[Job, Layout]:
    """What an export is of; ConfigError where it cannot be made, or something is at `out` already."""
    if layout not in LAYOUTS:
        raise ConfigError(f"format {layout!r} is none of {', '.join(LAYOUTS)}")
    found = LAYOUTS[layout]
    job = Job(dataset, resolution or dataset.resolution, label)
    job.check()
    if label is not None and not found.has_labels:
        with_labels = ", ".join(name for name, one in LAYOUTS.items() if one.has_labels)
        raise ConfigError(f"--label is for {with_labels}: every other format holds all columns")
    if found.is_zip and out.suffix.lower() != ".zip":
        raise ConfigError(f"--out {out} is to end in .zip, as the format {layout} is one")
    if os.path.lexists(out):
        raise ConfigError(f"--out {out} is there already: nothing is written over it")
    if blocking := next((above for above in out.parents if above.exists() and not above.is_dir()), None):
        raise ConfigError(f"--out {out} cannot be there: {blocking} is no folder")
    if real_path(out).is_relative_to(dataset.store.root):
        raise ConfigError(f"--out {out} lies inside the store {dataset.store}: choose a place elsewhere")
    return job, found


def plan(job: Job, layout: Layout) -> Planned:
    """How large an export would be: of what is encoded anew by some images, taken evenly."""
    table = job.dataset.table("images").read(["shard", "offset", "size", "image_sha256", "key"])
    num_images, num_bytes = table.num_rows, int(numbers(table["size"]).sum())
    is_same = job.resolution == job.dataset.resolution
    if num_images and (layout.is_png or not is_same):
        sizes = []
        for index in np.unique(np.linspace(0, num_images - 1, SAMPLED).astype(int)).tolist():
            [row] = table.slice(index, 1).to_pylist()
            sizes.append(len(job.as_png(job.stored(row))[0]))
        num_bytes = round(sum(sizes) / len(sizes) * num_images)
    return Planned(job, layout, num_images, num_bytes)


def export(job: Job, layout: Layout, out: Path) -> Exported:
    """Write it, whole, and its record into the store; as of `checked_job`, which comes before."""
    dataset = job.dataset
    named = VersionName(name=dataset.name, version=dataset.version, manifest_sha256=dataset.manifest_sha256)
    dataset.manifest  # which is checked by it  # noqa: B018
    for left in delete_left_over(dataset.store):
        logger.warning("%s is deleted, which an export that was killed had left", left)
    exported: Exported | None = None

    def record(sink: Sink, whole: Path) -> None:
        """Put it on record before it has its name: one that the store does not know of could not be forgotten."""
        nonlocal exported
        exported = Exported.new(
            dataset=named,
            layout=layout.name,
            resolution=job.resolution,
            images=dataset.num_images,
            out=str(real_path(out)),
            bytes=sink.num_bytes,
            sha256=sink_digest(whole, RECORD),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        dataset.store.put(exported.key, exported.as_bytes())

    with (
        dataset.store.in_use(),
        under_way(dataset.store, out) as partial,
        open_sink(out, is_zip=layout.is_zip, partial=partial, ready=record) as sink,
    ):
        layout.write(job, sink)
        _write_about(job, layout, named, sink)
        if os.path.lexists(out):
            raise FileExistsError(errno.EEXIST, "it is there already", str(out))
    assert exported is not None, "what ends well is on record"
    return exported


def _write_about(job: Job, layout: Layout, named: VersionName, sink: Sink) -> None:
    sink.add(ATTRIBUTION, "".join(f"{line}\n" for line in attribution(job.dataset)).encode())
    sink.add(LICENSES, licences_text(job.dataset).encode())
    sums = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sink.sums.items())).encode()
    sink.add(SUMS, sums)
    settings = {"label": job.label, "labels": [*map(str, job.labels or ())]} if job.label else {}
    record = ExportRecord.new(
        dataset=named,
        layout=layout.name,
        resolution=job.resolution,
        images=job.dataset.num_images,
        settings=settings,
        sums_sha256=bytes_digest(sums),
    )
    sink.add(RECORD, record.as_bytes())
