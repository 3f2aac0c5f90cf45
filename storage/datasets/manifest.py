"""Dataset versions as they are written: once, named by their own hash; and the build records that point at them.

    datasets/NAME/VERSION/manifest.json        canonical; its sha256 is the version
    datasets/NAME/VERSION/images.parquet       a row an image: source record, geometry, shard and offset
    datasets/NAME/VERSION/rejections.parquet   a row for whatever was not kept, and why
    datasets/NAME/VERSION/shards/00000.tar     and its index, 00000.index.json
    datasets/NAME/builds/BUILD.json            when, where and by which code a build gave which version
    datasets/NAME/latest.json                  the version that the newest build gave

What determines the bytes stands in the manifest; times, machines, paths and commits stand in the build record.
Not here: how a version is opened (`storage.datasets.dataset`), what its rows say of faces (`preprocessing.records`).
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from storage.datasets.dataset import VERSION_DIGITS, Dataset, latest_version
from storage.datasets.records import BuildRecord, Latest, Manifest
from storage.digest import bytes_digest, rows_digest
from storage.shards import index_name
from storage.store import Store
from storage.tables import Row, put_table


def publish(
    store: Store,
    name: str,
    *,
    settings: Mapping[str, Any],
    images: Sequence[Row],
    image_schema: pa.Schema,
    rejections: Sequence[Row],
    rejection_schema: pa.Schema,
    shards: Sequence[Mapping[str, Any]],
    num_photos: int,
) -> Dataset:
    """Write a version and return it; the same content gives the same version, written again over itself.

    `settings` is what determined the bytes and joins the manifest as it is. The schemas are the tables' columns, those
    of `dataset.IMAGE_COLUMNS` and `REJECTION_COLUMNS` among them. `shards` rows give `file`, `sha256`,
    `size`, `images`, `index_sha256`, and `object`, the key their tar was packed under. The manifest is written
    last: a version whose manifest exists is complete.
    """
    missing = {column: sum(row[column] is None for row in images) for column in ("license", "author", "page")}
    manifest = Manifest.new(
        **settings,
        counts={
            "photos": num_photos,
            "images": len(images),
            "rejected": Counter(row["reason"] for row in rejections),
            "images_missing": missing,
        },
        images={"file": "images.parquet", "rows": len(images), "sha256": rows_digest(images)},
        rejections={
            "file": "rejections.parquet",
            "rows": len(rejections),
            "sha256": rows_digest(rejections),
        },
        shards=[{key: value for key, value in shard.items() if key != "object"} for shard in shards],
    )
    data = manifest.as_bytes()
    dataset = Dataset(store, name, bytes_digest(data)[:VERSION_DIGITS])
    for shard in shards:
        store.link(shard["object"], f"{dataset.key}/{shard['file']}")
        store.link(index_name(shard["object"]), f"{dataset.key}/{index_name(shard['file'])}")
    put_table(store, f"{dataset.key}/images.parquet", images, image_schema)
    put_table(store, f"{dataset.key}/rejections.parquet", rejections, rejection_schema)
    store.put(f"{dataset.key}/manifest.json", data)
    return dataset


def record_build(dataset: Dataset, facts: Mapping[str, Any], started_at: datetime) -> BuildRecord:
    """Write the run record that points at the version, and make the version its name's latest."""
    previous = latest_version(dataset.store, dataset.name)
    stamp = started_at.astimezone(UTC).strftime("%Y%m%d-%H%M%S")
    build_id = f"{stamp}-{dataset.name}-{secrets.token_hex(2)}"
    record = BuildRecord.new(
        build_id=build_id,
        kind="build",
        dataset=dataset.name,
        version=dataset.version,
        manifest_sha256=dataset.manifest_sha256,
        previous_version=previous,
        unchanged=previous == dataset.version,
        started_at=started_at.isoformat(timespec="seconds"),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    )
    root = f"datasets/{dataset.name}"
    dataset.store.put(f"{root}/builds/{build_id}.json", record.as_bytes())
    dataset.store.put(f"{root}/latest.json", Latest.new(version=dataset.version).as_bytes())
    return record
