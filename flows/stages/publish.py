"""The stage `publish`: the manifest, whose hash is the version, and everything that it names.

Not here: the format (`storage.datasets.manifest`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from flows.stages.crawl import Crawled
from flows.stages.shard import Sharded
from flows.stages.work import Progress, Report
from preprocessing.columns import IMAGE_SCHEMA, REJECTED_SCHEMA, REJECTION_SCHEMA
from preprocessing.config import BuildConfig
from preprocessing.records import SOURCE_COLUMNS
from storage.cut import leaves
from storage.datasets import manifest
from storage.datasets.dataset import Dataset
from storage.datasets.splits import COLUMN
from storage.store import Store
from storage.tables import PART_ROWS, arrow, numbers, resized, rows_holding


def publish(
    store: Store,
    report: Report,
    config: BuildConfig,
    crawled: Crawled,
    rejections: pa.Table,
    sharded: Sharded,
    splits: pa.Array | None = None,
) -> Dataset:
    """Write the manifest, whose hash is the version, and everything that it names; `splits` as `Curated` has them."""
    kinship = config.kinship
    items = crawled.items.combine_chunks()  # of pieces, each look for a few rows would copy all
    schema = IMAGE_SCHEMA if splits is None else IMAGE_SCHEMA.append(pa.field(COLUMN, pa.string()))
    dataset = manifest.publish(
        store,
        config.name,
        settings={
            "resolution": config.resolution,
            "source": crawled.source,
            "config": {
                "faces": config.faces_identity(),
                "curate": config.curation_identity(),
                "shard": config.shard.model_dump(mode="json"),
                **({} if kinship is None else {"splits": kinship.as_json()}),
            },
        },
        images=_images(store, items, sharded, splits),
        image_schema=schema,
        rejections=_rejections(rejections, items),
        rejection_schema=REJECTION_SCHEMA,
        shards=sharded.shards,
        num_photos=items.num_rows,
    )
    report(Progress("publish", 1, 1, "version", {}))
    return dataset


def _images(store: Store, items: pa.Table, sharded: Sharded, splits: pa.Array | None) -> Iterator[pa.Table]:
    """The rows of the images with what the source says of each: a part of the version's table after the other."""
    cut = leaves(sharded.keys, PART_ROWS)
    schema = pa.schema([field for field in IMAGE_SCHEMA if field.name not in SOURCE_COLUMNS])
    parts = resized(sharded.images(store), schema, [leaf.stop - leaf.start for leaf in cut])
    for leaf, part in zip(cut, parts, strict=True):
        part = _sourced(part, items, arrow(sharded.items[leaf.start : leaf.stop]))
        mine = None if splits is None else splits.slice(leaf.start, leaf.stop - leaf.start)
        yield part if mine is None else part.append_column(COLUMN, mine)


def _rejections(rejections: pa.Table, items: pa.Table) -> Iterator[pa.Table]:
    """The rows of rejections likewise, in the order of `rejection_keys`."""
    item = rows_holding(items["ref"], rejections["ref"])
    keys = manifest.rejection_keys(rejections["ref"])
    rejections = rejections.append_column("key", arrow(keys)).append_column("item", arrow(item))
    rejections = rejections.sort_by([(name, "ascending") for name in ("key", *REJECTED_SCHEMA.names)])
    for leaf in leaves(numbers(rejections["key"]), PART_ROWS):
        part = rejections.slice(leaf.start, leaf.stop - leaf.start)
        yield _sourced(part.drop_columns(["key", "item", "ref"]), items, part["item"])


def _sourced(rows: pa.Table, items: pa.Table, numbers: pa.Array) -> pa.Table:
    """Rows with the columns of the source, of which they have the numbers of."""
    of = items.take(numbers)
    for name in of.column_names:
        rows = rows.append_column(name, of[name])
    return rows
