"""Dataset versions as they are written: once, named by their own hash; and the build records that point at them.

    datasets/NAME/VERSION/manifest.json        canonical; its sha256 is the version
    datasets/NAME/VERSION/images.parquet       a row an image: source record, geometry, shard and offset
    datasets/NAME/VERSION/rejections.parquet   a row for whatever was not kept, and why
    datasets/NAME/VERSION/images.parts.json    and rejections.parts.json: the digests of the parts of the tables
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.datasets.dataset import VERSION_DIGITS, Dataset, builds_of, latest
from storage.datasets.parts import PartsTally
from storage.datasets.records import BuildRecord, Latest, Manifest
from storage.digest import bytes_digest
from storage.errors import FormatError, IntegrityError
from storage.shards import index_name
from storage.store import Store
from storage.tables import counted, write_parts


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
        kept = _written(Path(folder) / "images.parquet", images, image_schema, ("license", "author", "page"))
        refused = _written(Path(folder) / "rejections.parquet", rejections, rejection_schema, ())
        manifest = Manifest.new(
            **settings,
            counts={
                "photos": num_photos,
                "images": kept.num_rows,
                "rejected": refused.reasons,
                "images_missing": kept.missing,
            },
            images=kept.facts(),
            rejections=refused.facts(),
            shards=[{key: value for key, value in shard.items() if key != "object"} for shard in shards],
        )
        data = manifest.as_bytes()
        dataset = Dataset(store, name, bytes_digest(data)[:VERSION_DIGITS])
        for shard in shards:
            store.link(shard["object"], f"{dataset.key}/{shard['file']}")
            store.link(index_name(shard["object"]), f"{dataset.key}/{index_name(shard['file'])}")
        for tally in (kept, refused):
            store.put(f"{dataset.key}/{tally.path.name}", tally.path)
            store.put(f"{dataset.key}/{tally.parts_name}", tally.digests.parts().as_bytes())
    store.put(f"{dataset.key}/manifest.json", data)
    return dataset


class _Tally:
    """What the manifest says of a table's rows, noted as they pass by on their way into a file."""

    def __init__(self, path: Path, schema: pa.Schema, wanted: Sequence[str]) -> None:
        self.path = path
        self.missing = Counter(dict.fromkeys(wanted, 0))
        self.reasons: Counter[str] = Counter()
        self.digests = PartsTally(schema)
        self.num_rows = 0

    @property
    def parts_name(self) -> str:
        """The file of the digests of its parts, beside it."""
        return f"{self.path.stem}.parts.json"

    def noted(self, tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
        """The same rows."""
        for table in self.digests.noted(tables, schema):
            self.num_rows += table.num_rows
            self.missing.update({column: table[column].null_count for column in self.missing})
            if "reason" in schema.names:
                self.reasons.update(counted(table["reason"]))
            yield table

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        sha256 = bytes_digest(self.digests.parts().as_bytes())
        return {
            "file": self.path.name,
            "rows": self.num_rows,
            "parts": self.parts_name,
            "parts_sha256": sha256,
        }


def _written(path: Path, tables: Iterable[pa.Table], schema: pa.Schema, wanted: Sequence[str]) -> _Tally:
    """Write rows to a file; how often each of the columns `wanted` is missing is noted."""
    tally = _Tally(path, schema, wanted)
    write_parts(path, tally.noted(tables, schema), schema)
    return tally


def record_build(dataset: Dataset, facts: Mapping[str, Any], started_at: datetime) -> BuildRecord:
    """Write the build record that points at the version, and make the version its name's latest.

    Of builds that run at once, that which was asked for last has the name: one that was asked for sooner and ends later
    leaves it, and its record says whom to.
    """
    store, root = dataset.store, f"datasets/{dataset.name}"
    started_at = started_at.astimezone(UTC)
    asked_at = started_at.isoformat(timespec="microseconds")
    build_id = f"{started_at:%Y%m%d-%H%M%S}-{dataset.name}-{secrets.token_hex(2)}"
    with store.locked(f"{root}/.lock"):
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        current = latest(store, dataset.name)
        overtaken = current is not None and asked_at < (current.asked_at or "") <= now
        record = BuildRecord.new(
            build_id=build_id,
            kind="build",
            dataset=dataset.name,
            version=dataset.version,
            manifest_sha256=dataset.manifest_sha256,
            previous_version=current and current.version,
            unchanged=current is not None and current.version == dataset.version,
            was_known=_was_built(dataset),
            started_at=asked_at,
            finished_at=now,
            **({"overtaken_by": current.build_id} if current is not None and overtaken else {}),
            **facts,
        )
        store.put(f"{root}/builds/{build_id}.json", record.as_bytes())
        if not overtaken:
            latest_now = Latest.new(version=dataset.version, build_id=build_id, asked_at=asked_at)
            store.put(f"{root}/latest.json", latest_now.as_bytes())
    return record


def _was_built(dataset: Dataset) -> bool:
    """Whether the record of an earlier build has the version."""
    try:
        return any(build.version == dataset.version for build in builds_of(dataset.store, dataset.name))
    except (IntegrityError, FormatError):  # none can be read, which was warned of
        return False
