"""Dataset versions: what is in one, written once, named by its own hash; and the run records that point at it.

    datasets/NAME/VERSION/manifest.json        canonical; its sha256 is the version
    datasets/NAME/VERSION/images.parquet       a row an image: source record, geometry, shard and offset
    datasets/NAME/VERSION/rejections.parquet   a row for whatever was not kept, and why
    datasets/NAME/VERSION/shards/00000.tar     and its index, 00000.index.json
    datasets/NAME/builds/BUILD.json            when, where and by which code a build gave which version
    datasets/NAME/latest.json                  the version that the newest build gave

What determines the bytes stands in the manifest; times, machines, paths and commits stand in the build record.
Not here: how images are made (`preprocessing`) or read for training (`training.data`).
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.digest import bytes_digest, rows_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.shards import Index, read_index
from storage.store import Store, read_json
from storage.tables import Row, get_table, put_table

FORMAT = 1
VERSION_DIGITS = 16
KEY_DIGITS = 16
"""Of an image's sha256, in its key; `publish` is never given two images that share them."""
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"

_POINTS = pa.list_(pa.list_(pa.float64()))
SOURCE_FIELDS = [
    pa.field("ref", pa.string()),
    pa.field("page", pa.string()),
    pa.field("author", pa.string()),
    pa.field("license", pa.string()),
    pa.field("license_url", pa.string()),
    pa.field("title", pa.string()),
]
SCORE_FIELDS = [
    pa.field("padding_fraction", pa.float64()),
    pa.field("feature_margin", pa.float64()),
    pa.field("sharpness", pa.float64()),
    pa.field("landmark_error", pa.float64()),
    pa.field("yaw_deg", pa.float64()),
    pa.field("pitch_deg", pa.float64()),
    pa.field("roll_deg", pa.float64()),
    pa.field("brightness", pa.float64()),
    pa.field("clipped_fraction", pa.float64()),
    pa.field("colorfulness", pa.float64()),
    pa.field("pdq", pa.string()),
    pa.field("pdq_quality", pa.int32()),
    pa.field("embedding", pa.list_(pa.float64())),
    pa.field("filter_score", pa.float64()),
]
"""The columns of a face that are its scores: what curation judges by."""
FACE_FIELDS = [
    pa.field("photo_sha256", pa.string()),
    pa.field("face_index", pa.int32()),
    pa.field("photo_width_px", pa.int32()),
    pa.field("photo_height_px", pa.int32()),
    pa.field("box_px", pa.list_(pa.float64())),
    pa.field("detector_score", pa.float64()),
    pa.field("landmarks_px", _POINTS),
    pa.field("quad_px", _POINTS),
    pa.field("quad_side_px", pa.float64()),
    *SCORE_FIELDS,
    pa.field("image_sha256", pa.string()),
]
IMAGE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        *FACE_FIELDS,
        pa.field("photo_num_bytes", pa.int64()),
        *SOURCE_FIELDS,
    ]
)
REJECTION_SCHEMA = pa.schema(
    [
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("duplicate_of", pa.string()),
        pa.field("photo_sha256", pa.string()),
        pa.field("face_index", pa.int32()),
        *SOURCE_FIELDS,
    ]
)


@dataclass(frozen=True)
class Dataset:
    """One published version of a dataset, read from its files."""

    store: Store
    name: str
    version: str

    @property
    def reference(self) -> str:
        """NAME@VERSION, which names these bytes forever."""
        return f"{self.name}@{self.version}"

    @property
    def key(self) -> str:
        """The version's folder in the store."""
        return f"datasets/{self.name}/{self.version}"

    @property
    def folder(self) -> Path:
        """The version's folder on disk."""
        return self.store.path(self.key)

    @cached_property
    def manifest_bytes(self) -> bytes:
        """The canonical manifest as stored."""
        return self.store.get(f"{self.key}/manifest.json")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Config, counts, table digests and shards; IntegrityError where it is not what its version names."""
        if self.manifest_sha256[:VERSION_DIGITS] != self.version:
            raise IntegrityError(f"{self.folder / 'manifest.json'} no longer has the sha256 of its version")
        manifest: dict[str, Any] = json.loads(self.manifest_bytes)
        return manifest

    @property
    def manifest_sha256(self) -> str:
        """sha256 of the manifest; the version is its first digits."""
        return bytes_digest(self.manifest_bytes)

    @property
    def resolution(self) -> int:
        """Side of every image, px."""
        return int(self.manifest["resolution"])

    @property
    def num_images(self) -> int:
        """How many images the version holds."""
        return int(self.manifest["images"]["rows"])

    @property
    def shard_paths(self) -> list[Path]:
        """The tars, in order."""
        return [self.folder / shard["file"] for shard in self.manifest["shards"]]

    def images(self) -> list[Row]:
        """Every image's row, ordered by key."""
        return get_table(self.store, f"{self.key}/images.parquet", IMAGE_SCHEMA)

    def rejections(self) -> list[Row]:
        """Every rejection's row."""
        return get_table(self.store, f"{self.key}/rejections.parquet", REJECTION_SCHEMA)

    def index(self, shard: str) -> Index:
        """The index of one shard, named as in the manifest: "shards/00000.tar"."""
        return read_index(self.store.get(f"{self.key}/{index_name(shard)}"))

    def builds(self) -> list[dict[str, Any]]:
        """The records of the builds that gave this version, oldest first."""
        keys = self.store.keys(f"datasets/{self.name}/builds")
        records = (read_json(self.store.path(key), "version", "build_id", "facts") for key in keys)
        return [record for record in records if record["version"] == self.version]

    def summary(self) -> dict[str, Any]:
        """What a training run records of its input."""
        return {
            "name": self.name,
            "version": self.version,
            "manifest_sha256": self.manifest_sha256,
            "directory": self.key,
            "resolution": self.resolution,
            "num_images": self.num_images,
            "shards": [shard["file"] for shard in self.manifest["shards"]],
        }


def index_name(shard: str) -> str:
    """The index that stands beside a tar."""
    return shard.removesuffix(".tar") + ".index.json"


def publish(
    store: Store,
    name: str,
    *,
    settings: Mapping[str, Any],
    images: Sequence[Row],
    rejections: Sequence[Row],
    shards: Sequence[Mapping[str, Any]],
    num_photos: int,
) -> Dataset:
    """Write a version and return it; the same content gives the same version, written again over itself.

    `settings` is what determined the bytes and joins the manifest as it is. `shards` rows give `file`, `sha256`,
    `size`, `images`, `index_sha256`, and `object`, the key their tar was packed under. The manifest is written
    last: a version whose manifest exists is complete.
    """
    missing = {column: sum(row[column] is None for row in images) for column in ("license", "author", "page")}
    manifest = {
        "format": FORMAT,
        **settings,
        "counts": {
            "photos": num_photos,
            "images": len(images),
            "rejected": dict(sorted(Counter(row["reason"] for row in rejections).items())),
            "images_missing": missing,
        },
        "images": {"file": "images.parquet", "rows": len(images), "sha256": rows_digest(images)},
        "rejections": {
            "file": "rejections.parquet",
            "rows": len(rejections),
            "sha256": rows_digest(rejections),
        },
        "shards": [{key: value for key, value in shard.items() if key != "object"} for shard in shards],
    }
    data = (json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    dataset = Dataset(store, name, bytes_digest(data)[:VERSION_DIGITS])
    for shard in shards:
        store.link(shard["object"], f"{dataset.key}/{shard['file']}")
        store.link(index_name(shard["object"]), f"{dataset.key}/{index_name(shard['file'])}")
    put_table(store, f"{dataset.key}/images.parquet", images, IMAGE_SCHEMA)
    put_table(store, f"{dataset.key}/rejections.parquet", rejections, REJECTION_SCHEMA)
    store.put(f"{dataset.key}/manifest.json", data)
    return dataset


def record_build(dataset: Dataset, facts: Mapping[str, Any], started_at: datetime) -> dict[str, Any]:
    """Write the run record that points at the version, and make the version its name's latest."""
    previous = latest_version(dataset.store, dataset.name)
    stamp = started_at.astimezone(UTC).strftime("%Y%m%d-%H%M%S")
    build_id = f"{stamp}-{dataset.name}-{secrets.token_hex(2)}"
    record = {
        "build_id": build_id,
        "kind": "build",
        "dataset": dataset.name,
        "version": dataset.version,
        "manifest_sha256": dataset.manifest_sha256,
        "previous_version": previous,
        "unchanged": previous == dataset.version,
        "started_at": started_at.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
    root = f"datasets/{dataset.name}"
    dataset.store.put(f"{root}/builds/{build_id}.json", json.dumps(record, indent=2).encode())
    dataset.store.put(f"{root}/latest.json", json.dumps({"version": dataset.version}).encode())
    return record


def latest_version(store: Store, name: str) -> str | None:
    """The version that the newest finished build of a name gave, or None."""
    key = f"datasets/{name}/latest.json"
    return str(read_json(store.path(key), "version")["version"]) if store.exists(key) else None


def dataset_names(store: Store) -> list[str]:
    """The names with at least one published version, sorted."""
    return sorted(path.parent.name for path in store.path("datasets").glob("*/latest.json"))


def open_dataset(store: Store, reference: str) -> Dataset:
    """The version that NAME (its latest) or NAME@VERSION names; a unique beginning of VERSION will do."""
    match = re.fullmatch(rf"({NAME_PATTERN})(?:@([0-9a-f]+))?", reference)
    if match is None:
        raise ConfigError(f"dataset reference {reference!r} is neither NAME nor NAME@VERSION")
    name, version = match[1], match[2] or latest_version(store, match[1])
    found = sorted(path.parent.name for path in store.path(f"datasets/{name}").glob("*/manifest.json"))
    if not found:
        names = dataset_names(store)
        there = f"it holds {', '.join(names)}" if names else "it holds no dataset yet"
        raise NotFoundError(f"no dataset {name!r} in {store.root}: {there}")
    if version is None:
        raise NotFoundError(
            f"no build of dataset {name!r} has finished: build it again, or name a version of {', '.join(found)}"
        )
    matches = [candidate for candidate in found if candidate.startswith(version)]
    if len(matches) != 1:
        state = "no" if not matches else "more than one"
        raise NotFoundError(
            f"{state} version {version!r} of dataset {name!r}: its versions are {', '.join(found)}"
        )
    return Dataset(store, name, matches[0])
