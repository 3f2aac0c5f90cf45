"""Curation after the fact: other thresholds for a published dataset.

    likeness curate faces --curate.preset ffhq

A re-curation takes its photographs from the version's tables and its crops from the store, so neither the source nor
a decoder is asked again; it gives the version that a build from scratch with those thresholds would give. Not here:
the rules (`preprocessing.curation.choose`).
"""

from __future__ import annotations

from pathlib import Path

from flows.build import Built, Run, build_from
from flows.options import BuildOptions
from flows.stages.crawl import Crawled
from flows.stages.work import Context, Report
from preprocessing.config import BuildConfig, recorded_config
from preprocessing.records import SOURCE_COLUMNS, Item, Photo, Rejection
from preprocessing.reject import CRAWL, Reason
from storage.datasets.dataset import Dataset, open_dataset
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.store import Store, original_key


def recuration(store: Store, reference: str, given: BuildConfig) -> tuple[Dataset, BuildConfig]:
    """The version that `reference` names, and the config that would have given it under the rules of `given`.

    ConfigError where `given` sets anything else, or the rules need what that build did not find or measure.
    """
    if others := sorted(given.model_fields_set - {"curate"}):
        raise ConfigError(
            f"a re-curation changes --curate options only, not --{others[0].replace('_', '-')}: build"
        )
    dataset = open_dataset(store, reference)
    config = recorded_config(dataset).model_copy(update={"curate": given.curate})
    config.resolved()
    return dataset, config


def recurate(dataset: Dataset, config: BuildConfig, options: BuildOptions, run: Run) -> Built:
    """Build again from the photographs of `dataset`; `config` is that of `recuration`."""

    def crawl(context: Context, report: Report, config: BuildConfig) -> Crawled:
        return crawled(dataset)

    return build_from(crawl, config, options, run)


def crawled(dataset: Dataset) -> Crawled:
    """What the crawl of a published version gave, by its tables: every item is an image's, or a rejection's."""
    items: dict[str, Item] = {}
    photos: dict[str, Photo] = {}
    rejections = []
    images = dataset.images()
    num_bytes = {row["photo_sha256"]: row["photo_num_bytes"] for row in images}
    for row in (*images, *dataset.rejections()):
        item = Item(**{name: row[name] for name in SOURCE_COLUMNS})
        ref, sha256 = item.ref, row["photo_sha256"]
        items[ref] = item
        if "reason" in row and _stays(reason := Reason(row["reason"]), sha256, row["face_index"]):
            rejections.append(Rejection(ref, reason, sha256, None, row["detail"], row["duplicate_of"]))
            continue
        if sha256 not in num_bytes:
            num_bytes[sha256] = _original(dataset.store, sha256).stat().st_size
        photos[ref] = Photo(item, sha256, num_bytes[sha256])
    if len(items) != dataset.manifest.counts.photos:
        raise IntegrityError(f"the tables of {dataset.reference} do not hold all of its photographs")
    return Crawled(dataset.manifest.source, items, list(photos.values()), rejections, len(photos))


def _stays(reason: Reason, sha256: str | None, face_index: int | None) -> bool:
    """Whether other thresholds change nothing: the photograph never came, or another version refused all of it.

    What that version meant is not known here, so its word stands; a face is judged anew.
    """
    return sha256 is None or reason in CRAWL or (face_index is None and not reason.is_known)


def _original(store: Store, sha256: str) -> Path:
    path = store.path(original_key(sha256))
    if not path.is_file():
        raise NotFoundError(f"photograph {sha256} is no longer in {store.root}: build again from its source")
    return path
