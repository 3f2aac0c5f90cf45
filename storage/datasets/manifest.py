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
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.datasets.dataset import VERSION_DIGITS, Dataset, latest_version
from storage.datasets.records import BuildRecord, Latest, Manifest
from storage.digest import RowsDigest, bytes_digest
from storage.shards import index_name
from storage.store import Store
from storage.tables import BATCH_ROWS, counted, fitted, write_parts


def publish(
    store: Store,
    name: str,
    *,
    settings: Mapping[str, Any],
    images: Iterable[pa.Table],
    image_schema: pa.Schema,
    rejections: Iterable[pa.Table],
    rejection_schema: pa.Schema,
    shards: Sequence[Mapping[str, Any]],
    num_photos: int,
) -> Dataset:
    """Write a version and return it; the same content gives the same version, written again over itself.

    `settings` is what determined the bytes and joins the manifest as it is. `images` and `rejections` are rows, a few
    in each table, and the schemas their columns, those of `dataset.IMAGE_COLUMNS` and `REJECTION_COLUMNS` among them;
    images are ordered by key. `shards` rows give `file`, `sha256`,
    `size`, `images`, `index_sha256`, and `object`, the key their tar was packed under. The manifest is written
    last: a version whose manifest exists is complete.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {table: Path(folder) / f"{table}.parquet" for table in ("images", "rejections")}
        kept = _written(files["images"], images, image_schema, ("license", "author", "page"))
        refused = _written(files["rejections"], rejections, rejection_schema, ())
        manifest = Manifest.new(
            **settings,
            counts={
                "photos": num_photos,
                "images": kept.num_rows,
                "rejected": refused.reasons,
                "images_missing": kept.missing,
            },
            images=kept.facts("images.parquet"),
            rejections=refused.facts("rejections.parquet"),
            shards=[{key: value for key, value in shard.items() if key != "object"} for shard in shards],
        )
        data = manifest.as_bytes()
        dataset = Dataset(store, name, bytes_digest(data)[:VERSION_DIGITS])
        for shard in shards:
            store.link(shard["object"], f"{dataset.key}/{shard['file']}")
            store.link(index_name(shard["object"]), f"{dataset.key}/{index_name(shard['file'])}")
        for path in files.values():
            store.put(f"{dataset.key}/{path.name}", path)
    store.put(f"{dataset.key}/manifest.json", data)
    return dataset


@dataclass
class _Tally:
    """What the manifest says of a table's rows, noted as they pass by."""

    missing: Counter[str]
    reasons: Counter[str] = field(default_factory=Counter)
    digest: RowsDigest = field(default_factory=RowsDigest)
    num_rows: int = 0

    def noted(self, tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
        """The same tables."""
        for table in tables:
            table = fitted(table, schema)
            for batch in table.to_batches(BATCH_ROWS):
                self.digest.add(batch.to_pylist())
            self.num_rows += table.num_rows
            self.missing.update({column: table[column].null_count for column in self.missing})
            if "reason" in schema.names:
                self.reasons.update(counted(table["reason"]))
            yield table

    def facts(self, file: str) -> dict[str, Any]:
        """For the manifest, of the file that holds them."""
        return {"file": file, "rows": self.num_rows, "sha256": self.digest.hexdigest()}


def _written(path: Path, tables: Iterable[pa.Table], schema: pa.Schema, wanted: Sequence[str]) -> _Tally:
    """Write rows to a file; how often each of the columns `wanted` is missing is noted."""
    tally = _Tally(Counter(dict.fromkeys(wanted, 0)))
    write_parts(path, tally.noted(tables, schema), schema)
    return tally


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
