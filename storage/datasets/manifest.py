"""Dataset versions as they are written: once, named by their own hash; and the build records that point at them.

    datasets/NAME/VERSION/manifest.json        canonical; its sha256 is the version
    datasets/NAME/VERSION/images.parquet       a row an image: source record, geometry, shard and offset
    datasets/NAME/VERSION/rejections.parquet   a row for whatever was not kept, and why; folders, where they are large
    datasets/NAME/VERSION/images.parts.json    and rejections.parts.json: the parts of the tables, and their digests
    datasets/NAME/VERSION/shards/0110-HASH.tar and its index, 0110-HASH.index.json
    datasets/NAME/VERSION/shards.txt           the tars, a line each: what readers of webdataset are given
    datasets/NAME/builds/BUILD.json            when, where and by which code a build gave which version
    datasets/NAME/latest.json                  the version that the newest build gave

Shards and parts of tables are named by what they hold, and versions share those in which they do not differ: they lie
below `chunks`, and versions link to them. What determines the bytes stands in the manifest; times, machines, paths and
commits stand in the build record.
Not here: how a version is opened (`storage.datasets.dataset`), what its rows say of faces (`preprocessing.records`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from storage.cut import Keys, keys_of, leaves
from storage.datasets.dataset import (
    SHARDS_LIST,
    VERSION_DIGITS,
    Dataset,
    TableName,
    builds_of,
    latest,
    shards_list,
)
from storage.datasets.parts import PartFacts, Parts, part_key, put_part, table_file
from storage.datasets.records import BuildRecord, Latest, Manifest
from storage.datasets.splits import COLUMN
from storage.digest import bytes_digest
from storage.errors import FormatError, IntegrityError
from storage.shards import index_name
from storage.store import Store
from storage.tables import PART_ROWS, counted, fitted

WRITERS = 2
"""Threads that write parts of a table."""


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

    `settings` is what determined the bytes and joins the manifest as it is. `images` and `rejections` are rows, and the
    schemas their columns, those of `dataset.IMAGE_COLUMNS` and `REJECTION_COLUMNS` among them; images are ordered by
    key, rejections by `rejection_keys`. Each table of rows becomes a part; of more than PART_ROWS several. `shards`
    rows give `file`, `sha256`, `size`, `images`, `index_sha256`, and `object`, the key their tar was packed under. The
    manifest is written last: a version whose manifest exists is complete.
    """
    kept = _Tally(store, "images", image_schema, ("license", "author", "page"))
    kept.add(images, lambda rows: keys_of(rows["key"]))
    refused = _Tally(store, "rejections", rejection_schema, ())
    refused.add(rejections, lambda rows: rejection_keys(rows["ref"]))
    manifest = Manifest.new(
        **settings,
        counts={
            "photos": num_photos,
            "images": kept.num_rows,
            "rejected": refused.reasons,
            "images_missing": kept.missing,
            **({"splits": dict(sorted(kept.splits.items()))} if COLUMN in image_schema.names else {}),
        },
        images=kept.facts(),
        rejections=refused.facts(),
        shards=[{key: value for key, value in shard.items() if key != "object"} for shard in shards],
    )
    data = manifest.as_bytes()
    dataset = Dataset(store, name, bytes_digest(data)[:VERSION_DIGITS])
    links = {}
    for shard in shards:
        links[shard["file"]] = shard["object"]
        links[index_name(shard["file"])] = index_name(shard["object"])
    for tally in (kept, refused):
        links |= {str(part.file): part_key(part.sha256) for part in tally.parts}
    store.share({f"{dataset.key}/{file}": key for file, key in links.items()})
    for tally in (kept, refused):
        store.put(f"{dataset.key}/{tally.name}.parts.json", tally.listed())
    store.put(f"{dataset.key}/{SHARDS_LIST}", shards_list(manifest))
    store.put(f"{dataset.key}/manifest.json", data)
    return dataset


class _Tally:
    """A table on its way into its parts, and what the manifest says of it."""

    def __init__(self, store: Store, name: TableName, schema: pa.Schema, wanted: Sequence[str]) -> None:
        self.store = store
        self.name = name
        self.schema = schema
        self.missing = Counter(dict.fromkeys(wanted, 0))
        """How often each of these columns has no value."""
        self.reasons: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self.parts: list[PartFacts] = []

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return sum(part.rows for part in self.parts)

    def add(self, tables: Iterable[pa.Table], keys: Callable[[pa.Table], Keys]) -> None:
        """All rows, of which `keys` gives the keys; of none a part without rows, which has the columns.

        Parts are written in threads while the rows of the next are made, and few of them are held.
        """
        written: deque[Future[PartFacts]] = deque()
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="part") as pool:
            for table in tables:
                for key, part in self._cut(fitted(table, self.schema).combine_chunks(), keys(table)):
                    written.append(pool.submit(put_part, self.store, self.name, key, part))
                    if len(written) > 2 * WRITERS:
                        self.parts.append(written.popleft().result())
            self.parts.extend(part.result() for part in written)
        if not self.parts:
            self.parts.append(put_part(self.store, self.name, 0, self.schema.empty_table()))
        if len(self.parts) == 1:  # no folder, so that every reader of Parquet finds a file
            self.parts = [self.parts[0].model_copy(update={"file": table_file(self.name)})]

    def _cut(self, rows: pa.Table, keys: Keys) -> Iterator[tuple[int, pa.Table]]:
        """The parts of some rows, counted, each with the key of its first row."""
        for leaf in leaves(keys, PART_ROWS):
            part = rows.slice(leaf.start, leaf.stop - leaf.start)
            self.missing.update({column: part[column].null_count for column in self.missing})
            for column, counts in (("reason", self.reasons), (COLUMN, self.splits)):
                if column in self.schema.names:
                    counts.update(counted(part[column]))
            yield int(keys[leaf.start]), part

    def listed(self) -> bytes:
        """The list of its parts."""
        return Parts.new(rows=self.num_rows, parts=[part.as_json() for part in self.parts]).as_bytes()

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        sha256 = bytes_digest(self.listed())
        return {"rows": self.num_rows, "parts": f"{self.name}.parts.json", "parts_sha256": sha256}


def rejection_keys(refs: pa.ChunkedArray) -> Keys:
    """By which rejections are ordered and cut: the first bits of the sha256 of what the source calls a photograph."""
    digests = (hashlib.sha256(ref.encode()).digest()[:8] for ref in refs.to_pylist())
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def record_build(dataset: Dataset, facts: Mapping[str, Any], started_at: datetime) -> BuildRecord:
    """Write the build record that points at the version, and make the version its name's latest.

    `facts` may say of another `kind` than "build" how the version came here.

    Of builds that run at once, that which was asked for last has the name: one that was asked for sooner and ends later
    leaves it, and its record says whom to.
    """
    store, root = dataset.store, f"datasets/{dataset.name}"
    started_at = started_at.astimezone(UTC)
    asked_at = started_at.isoformat(timespec="microseconds")
    build_id = f"{started_at:%Y%m%d-%H%M%S}-{dataset.name}-{secrets.token_hex(2)}"
    record: BuildRecord | None = None

    def pointed() -> bytes | None:
        nonlocal record
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        current = latest(store, dataset.name)
        overtaken = current is not None and asked_at < (current.asked_at or "") <= now
        record = BuildRecord.new(
            build_id=build_id,
            dataset=dataset.name,
            version=dataset.version,
            manifest_sha256=dataset.manifest_sha256,
            previous_version=current and current.version,
            unchanged=current is not None and current.version == dataset.version,
            was_known=_was_built(dataset),
            started_at=asked_at,
            finished_at=now,
            **({"overtaken_by": current.build_id} if current is not None and overtaken else {}),
            **{"kind": "build", **facts},
        )
        store.put(f"{root}/builds/{build_id}.json", record.as_bytes())
        if overtaken:
            return None
        return Latest.new(version=dataset.version, build_id=build_id, asked_at=asked_at).as_bytes()

    store.change(f"{root}/latest.json", pointed)
    assert record is not None, "a change is always made"
    return record


def _was_built(dataset: Dataset) -> bool:
    """Whether the record of an earlier build has the version."""
    try:
        return any(build.version == dataset.version for build in builds_of(dataset.store, dataset.name))
    except (IntegrityError, FormatError):  # none can be read, which was warned of
        return False
