"""Curation after the fact: other thresholds for a published dataset.

    likeness curate faces --curate.preset ffhq

A re-curation takes its photographs from the version's tables and its crops from the store, so neither the source nor
a decoder is asked again; it gives the version that a build from scratch with those thresholds would give. Not here:
the rules (`preprocessing.curation.choose`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.build import Built, Run, build_from
from flows.options import BuildOptions
from flows.stages.crawl import Crawled
from flows.stages.screen import screened
from flows.stages.work import Context, Report
from preprocessing.columns import (
    ITEM_SCHEMA,
    READ_SCHEMA,
    REJECTED_SCHEMA,
    REJECTION_SCHEMA,
    rejection_columns,
)
from preprocessing.config import BuildConfig, recorded_config
from preprocessing.curation.facts import with_standing
from preprocessing.records import SOURCE_COLUMNS, Item
from preprocessing.reject import CRAWL, LICENSING, Reason
from preprocessing.sources.licenses import LicensesConfig, licensed
from storage.datasets.dataset import Dataset, open_dataset
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.store import Store, original_key
from storage.tables import BATCH_ROWS, Stored, arrow, fitted, leaders, rows_holding

OF_SPLITS = {"splits", "split_identity_distance"}
OF_SIGNALS = {"opt_outs", "respect_robots", "respect_opt_out", "reject_synthetic"}
"""Settings by which photographs are judged that were fetched: a stricter policy asks nobody again."""


def recuration(store: Store, reference: str, given: BuildConfig) -> tuple[Dataset, BuildConfig]:
    """The version that `reference` names, and the config that would have given it under the rules of `given`.

    ConfigError where `given` sets anything else, or the rules need what that build did not find or measure.
    """
    others = given.model_fields_set - {"curate", "block", "fetch", "licenses", *OF_SPLITS}
    others |= {f"fetch.{name}" for name in given.fetch.model_fields_set - OF_SIGNALS}
    others |= {f"licenses.{name}" for name in given.licenses.model_fields_set - {"allow"}}
    if others:
        raise ConfigError(
            f"a re-curation changes --curate, --splits, --block, --licenses.allow and what of --fetch judges signals, "
            f"not --{min(others).replace('_', '-')}: build"
        )
    dataset = open_dataset(store, reference)
    config = recorded_config(dataset)
    fetch = {name: getattr(given.fetch, name) for name in given.fetch.model_fields_set}
    update: dict[str, Any] = {"curate": given.curate, "fetch": config.fetch.model_copy(update=fetch)}
    for name in {"block", *OF_SPLITS} & given.model_fields_set:
        update[name] = getattr(given, name)
    if "licenses" in given.model_fields_set:
        if wider := sorted(given.licenses.families - config.licenses.families):
            raise ConfigError(
                f"licenses.allow has {', '.join(wider)}, which that build did not ask for: build, or allow less"
            )
        update["licenses"] = config.licenses.model_copy(update={"allow": given.licenses.allow})
    config = config.model_copy(update=update)
    config.resolved()
    return dataset, config


def recurate(dataset: Dataset, config: BuildConfig, options: BuildOptions, run: Run) -> Built:
    """Build again from the photographs of `dataset`; `config` is that of `recuration`."""

    def crawl(context: Context, report: Report, config: BuildConfig) -> Crawled:
        found = relicensed(crawled(dataset, config.licenses), config.licenses)
        return screened(found, context, config, by_ledger=True)

    return build_from(crawl, config, options, run)


def crawled(dataset: Dataset, licenses: LicensesConfig) -> Crawled:
    """What the crawl of a published version gave, by its tables: every item is an image's, or a rejection's."""
    images = _read(dataset.table("images"), [*SOURCE_COLUMNS, "photo_sha256", "photo_num_bytes"])
    refused = _read(dataset.table("rejections"), REJECTION_SCHEMA.names)
    stays = _stays(refused)
    rejections, later = refused.filter(stays), refused.filter(pc.invert(stays))
    known = later.append_column("photo_num_bytes", _num_bytes(dataset.store, images, later["photo_sha256"]))
    found = pa.concat_tables([table.select(images.column_names) for table in (images, known)])
    found = found.take(arrow(np.unique(leaders(found["ref"]))))
    items = pa.concat_tables([table.select(SOURCE_COLUMNS) for table in (found, rejections)])
    items = fitted(items, ITEM_SCHEMA)
    if items.num_rows != dataset.manifest.counts.photos:
        raise IntegrityError(f"the tables of {dataset.reference} do not hold all of its photographs")
    photos = found.select(["ref", "photo_sha256", "photo_num_bytes"]).rename_columns(READ_SCHEMA.names)
    photos = with_standing(photos.cast(READ_SCHEMA), items, licenses)
    rejections = fitted(rejections.select(REJECTED_SCHEMA.names), REJECTED_SCHEMA)
    return Crawled(dataset.manifest.source, items, photos, rejections, photos.num_rows)


def relicensed(found: Crawled, config: LicensesConfig) -> Crawled:
    """What is left of photographs of the web by licences that may be fewer than those that they were fetched under."""
    if "licenses" not in found.source:  # a folder's, or of a version from before licences counted
        return found
    rejections = []
    by_licence = pc.is_in(found.rejections["reason"], value_set=pa.array(sorted(LICENSING), pa.string()))
    others = found.rejections.filter(pc.invert(by_licence))
    items = found.items.filter(pc.invert(pc.is_in(found.items["ref"], value_set=others["ref"])))
    for start in range(0, items.num_rows, BATCH_ROWS):
        for row in items.slice(start, BATCH_ROWS).to_pylist():
            _, rejection = licensed(Item(**row), config)
            if rejection is not None:
                rejections.append(rejection)
    refused = rejection_columns(rejections)
    photos = found.photos.filter(pc.invert(pc.is_in(found.photos["ref"], value_set=refused["ref"])))
    return replace(
        found,
        source={**found.source, "licenses": config.description()},
        photos=photos,
        rejections=pa.concat_tables([others, fitted(refused, REJECTED_SCHEMA)]),
    )


def _read(table: Stored, names: Sequence[str]) -> pa.Table:
    """Columns of a version's table; of the source's columns, one that it does not have yet is missing in every row."""
    there = [name for name in names if name in table.schema.names or name not in SOURCE_COLUMNS]
    found = table.read(there)
    for name in names:
        if name not in there:
            found = found.append_column(name, pa.nulls(found.num_rows, pa.string()))
    return found.select(names)


def _stays(rejections: pa.Table) -> pa.ChunkedArray:
    """Where other thresholds change nothing: the photograph never came, or another version refused all of it.

    What that version meant is not known here, so its word stands; a face is judged anew.
    """
    reasons = rejections["reason"]
    in_crawl, known = (pc.is_in(reasons, value_set=pa.array(list(of), pa.string())) for of in (CRAWL, Reason))
    of_others = pc.and_(rejections["face_index"].is_null(), pc.invert(known))
    return pc.or_(rejections["photo_sha256"].is_null(), pc.or_(in_crawl, of_others))


def _num_bytes(store: Store, images: pa.Table, sha256s: pa.ChunkedArray) -> pa.Array:
    """The size of each photograph's file: by the rows of images, or else as it lies in the store."""
    missing = sha256s.filter(pc.invert(pc.is_in(sha256s, value_set=images["photo_sha256"]))).unique()
    sizes = pa.array([_original(store, sha256).stat().st_size for sha256 in missing.to_pylist()], pa.int64())
    sized = pa.table({"photo_sha256": missing, "photo_num_bytes": sizes})
    known = pa.concat_tables([images.select(sized.column_names), sized])
    return known["photo_num_bytes"].take(arrow(rows_holding(known["photo_sha256"], sha256s)))


def _original(store: Store, sha256: str) -> Path:
    path = store.file(original_key(sha256))
    if not path.is_file():
        raise NotFoundError(f"photograph {sha256} is no longer in {store}: build again from its source")
    return path
