"""The stage `publish`: the manifest, whose hash is the version, and everything that it names.

Not here: the format (`storage.datasets.manifest`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from flows.stages.crawl import Crawled
from flows.stages.shard import Sharded
from flows.stages.work import Progress, Report
from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from preprocessing.config import BuildConfig
from storage.datasets import manifest
from storage.datasets.dataset import Dataset
from storage.digest import canonical_json
from storage.store import Store
from storage.tables import BATCH_ROWS, arrow, rows_holding


def publish(
    store: Store,
    report: Report,
    config: BuildConfig,
    crawled: Crawled,
    rejections: pa.Table,
    sharded: Sharded,
) -> Dataset:
    """Write the manifest, whose hash is the version, and everything that it names."""
    dataset = manifest.publish(
        store,
        config.name,
        settings={
            "resolution": config.resolution,
            "source": crawled.source,
            "config": {
                "faces": config.faces.identity(),
                "curate": config.curation_identity(),
                "shard": config.shard.model_dump(mode="json"),
            },
        },
        images=sharded.images(store),
        image_schema=IMAGE_SCHEMA,
        rejections=_in_order(rejections, crawled.items),
        rejection_schema=REJECTION_SCHEMA,
        shards=sharded.shards,
        num_photos=crawled.items.num_rows,
    )
    report(Progress("publish", 1, 1, "version", {}))
    return dataset


def _in_order(rejections: pa.Table, items: pa.Table) -> Iterator[pa.Table]:
    """The rows of rejections, with what the source says of each, ordered by their canonical JSON; few at a time."""
    rejections = rejections.append_column("item", arrow(rows_holding(items["ref"], rejections["ref"])))

    def joined(part: pa.Table) -> pa.Table:
        sources = items.take(part["item"])
        for name in sources.column_names:
            if name != "ref":
                part = part.append_column(name, sources[name])
        return part.drop_columns(["item"])

    def parts(of: pa.Table) -> Iterator[pa.Table]:
        for start in range(0, of.num_rows, BATCH_ROWS):
            yield joined(of.slice(start, BATCH_ROWS))

    lines = [canonical_json(row) for part in parts(rejections) for row in part.to_pylist()]
    order = sorted(range(len(lines)), key=lines.__getitem__)
    del lines
    yield from parts(rejections.take(pa.array(order, pa.int64())))
