"""The stage `publish`: the manifest, whose hash is the version, and everything that it names.

Not here: the format (`storage.datasets.manifest`).
"""

from __future__ import annotations

from collections.abc import Sequence

from flows.stages.crawl import Crawled
from flows.stages.shard import Sharded
from flows.stages.work import Progress, Report
from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from preprocessing.config import BuildConfig
from preprocessing.records import Rejection, rejection_row
from storage.datasets import manifest
from storage.datasets.dataset import Dataset
from storage.digest import canonical_json
from storage.store import Store


def publish(
    store: Store,
    report: Report,
    config: BuildConfig,
    crawled: Crawled,
    rejections: Sequence[Rejection],
    sharded: Sharded,
) -> Dataset:
    """Write the manifest, whose hash is the version, and everything that it names."""
    rows = sorted((rejection_row(rejection, crawled.items) for rejection in rejections), key=canonical_json)
    dataset = manifest.publish(
        store,
        config.name,
        settings={
            "resolution": config.resolution,
            "source": crawled.source,
            "config": {
                "faces": config.faces.identity(),
                "curate": config.curation.model_dump(mode="json"),
                "shard": config.shard.model_dump(mode="json"),
            },
        },
        images=sharded.images,
        image_schema=IMAGE_SCHEMA,
        rejections=rows,
        rejection_schema=REJECTION_SCHEMA,
        shards=sharded.shards,
        num_photos=len(crawled.items),
    )
    report(Progress("publish", 1, 1, "version", {}))
    return dataset
