"""A published version of a dataset, read from its files: found by its reference, opened, its tables and indexes read.

    dataset = open_dataset(Store("./store"), "faces")

Not here: how a version is written (`storage.datasets.manifest`), and whether its bytes are intact
(`storage.datasets.verify`).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.datasets.parts import Checked, PartFacts, Parts, part_key, table_file
from storage.datasets.records import (
    NAME_PATTERN,
    BuildRecord,
    Latest,
    Manifest,
    ShardFacts,
    TableFacts,
    VersionName,
    VersionSummary,
)
from storage.datasets.splits import COLUMN, NAME
from storage.digest import bytes_digest, rows_digest
from storage.errors import ConfigError, FormatError, IntegrityError, NotFoundError, PipelineError
from storage.local import fail, link_whole, listed
from storage.mirror import AT_ONCE
from storage.shards import Index, index_name, open_index
from storage.store import Store
from storage.tables import Row, Stored
from storage.withdrawals import FILE as WITHDRAWN
from storage.withdrawals import check_not_withdrawn

logger = logging.getLogger(__name__)

VERSION_DIGITS = 16
SHARDS_LIST = "shards.txt"
"""The tars of a version, one a line, as they are called from its folder: what readers of webdataset are given."""
SOURCE_COLUMNS = ("ref", "page", "author", "license", "license_url", "title")
IMAGE_COLUMNS = (
    "key",
    "shard",
    "offset",
    "size",
    "image_sha256",
    "photo_sha256",
    "face_index",
    *SOURCE_COLUMNS,
)
"""The columns of an image that storage itself reads; all others are its writer's."""
REJECTION_COLUMNS = ("reason", "detail", "duplicate_of", "photo_sha256", "face_index", *SOURCE_COLUMNS)
TableName = Literal["images", "rejections"]
COLUMNS_OF: dict[TableName, tuple[str, ...]] = {"images": IMAGE_COLUMNS, "rejections": REJECTION_COLUMNS}


@dataclass(frozen=True)
class Dataset:
    """One published version of a dataset, read from its files; with a `split` the images that are in it."""

    store: Store
    name: str
    version: str
    split: str | None = None

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
    def manifest(self) -> Manifest:
        """Config, counts, table digests and shards; IntegrityError where it is not what its version names."""
        path = self.folder / "manifest.json"
        if self.manifest_sha256[:VERSION_DIGITS] != self.version:
            raise IntegrityError(f"{path} no longer has the sha256 of its version")
        return Manifest.of_bytes(self.manifest_bytes, path)

    @property
    def manifest_sha256(self) -> str:
        """sha256 of the manifest; the version is its first digits."""
        return bytes_digest(self.manifest_bytes)

    @property
    def resolution(self) -> int:
        """Side of every image, px."""
        return self.manifest.resolution

    @property
    def num_images(self) -> int:
        """How many images the version holds, or its split."""
        return self.manifest.images.rows if self.split is None else self.manifest.counts.splits[self.split]

    @property
    def num_bytes(self) -> int:
        """Of all tars of the version."""
        return sum(shard.size for shard in self.manifest.shards)

    @cached_property
    def keys(self) -> frozenset[str] | None:
        """The keys of the images of the split, or None where all of the version's count."""
        return None if self.split is None else frozenset(row["key"] for row in self._of_split(["key"]))

    def _of_split(self, columns: list[str] | None) -> Iterator[Row]:
        names = None if columns is None else [*columns, COLUMN]
        table = self.table("images").read(names)
        yield from table.filter(pc.equal(table[COLUMN], self.split)).to_pylist()

    @property
    def shard_paths(self) -> list[Path]:
        """Where the tars are read, in order, their indexes beside them; of a bucket they need not be here yet."""
        if self.store.mirror is None:
            return [self.shard_path(shard) for shard in self.manifest.shards]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._shard_place, self.manifest.shards))

    def _shard_place(self, shard: ShardFacts) -> Path:
        name = index_name(shard.file)
        place, found = self.store.path(self.shared_files[name]), self.file(name)
        if found != place:  # it lies elsewhere in a bucket that a version was pushed to
            link_whole(found, place, durable=False)
        return self.store.path(self.shared_files[shard.file])

    def shard_path(self, shard: ShardFacts) -> Path:
        """One of them."""
        return self.file(shard.file)

    def images(self) -> list[Row]:
        """Every image's row, of the split if it is one, ordered by key, with the columns that its writer had."""
        return self.table("images").rows() if self.split is None else list(self._of_split(None))

    def rejections(self) -> list[Row]:
        """Every rejection's row, likewise."""
        return self.table("rejections").rows()

    def table(self, name: TableName) -> Stored:
        """The table `images` or `rejections`, of which parts can be read, each checked by its digest as it is read.

        IntegrityError where it cannot be, or is not what was published. A table of format 1 is checked as a whole,
        when it is first opened.
        """
        facts = self.manifest.table(name)
        if facts.file is None:
            columns = COLUMNS_OF[name]
            return Checked(
                self.folder / table_file(name), self._parts(facts), columns, self.file, self._footers
            )
        path = self.file(facts.file)
        if facts.parts is not None:
            return Checked(path, self._parts(facts), COLUMNS_OF[name])
        stored = Stored(path, COLUMNS_OF[name])
        if name not in self._checked_whole:
            if rows_digest(stored.each_row()) != facts.sha256:
                raise IntegrityError(f"{path} no longer holds the rows that it was published with")
            self._checked_whole.add(name)
        return stored

    @cached_property
    def _checked_whole(self) -> set[TableName]:
        """The tables of format 1 that were read and are intact."""
        return set()

    def table_parts(self, name: TableName) -> list[PartFacts]:
        """The parts of a table, each a file; none where the table is one file, as before format 3."""
        facts = self.manifest.table(name)
        return [] if facts.file is not None else self._parts(facts).each()

    @cached_property
    def _footers(self) -> dict[str, pq.FileMetaData]:
        """Of files of tables that were read."""
        return {}

    @cached_property
    def _listed(self) -> dict[str, Parts]:
        """The lists of parts that were read, by their sha256."""
        return {}

    def _parts(self, facts: TableFacts) -> Parts:
        sha256 = str(facts.parts_sha256)
        if sha256 not in self._listed:
            self._listed[sha256] = self._read_parts(facts)
        return self._listed[sha256]

    def _read_parts(self, facts: TableFacts) -> Parts:
        path = self.file(str(facts.parts))
        if not path.is_file():
            raise IntegrityError(f"{path} is missing")
        data = path.read_bytes()
        if bytes_digest(data) != facts.parts_sha256:
            raise IntegrityError(f"{path} no longer has the sha256 of its version's manifest")
        return Parts.of_bytes(data, path)

    def index(self, shard: ShardFacts) -> Index:
        """The index of one shard; IntegrityError where it is not the manifest's."""
        return open_index(self.file(index_name(shard.file)), shard.index_sha256)

    def file(self, name: str) -> Path:
        """A file of the version, where it is read; IntegrityError where a link leads out of the store."""
        return self.store.shared(f"{self.key}/{name}", self._source(name))

    def where(self, name: str) -> str:
        """Where a file of the version lies in the store, for people."""
        return f"{self.store}/{self._source(name) or f'{self.key}/{name}'}"

    def _source(self, name: str) -> str | None:
        """What a file of a version in a bucket is the same as."""
        may_be_shared = self.store.mirror is not None and ("/" in name or name.endswith(".parquet"))
        return self.shared_files.get(name) if may_be_shared else None

    @cached_property
    def shared_files(self) -> dict[str, str]:
        """Of the files that versions share: what each is the same as; of a table only where its list can be read."""
        found = {}
        for shard in self.manifest.shards:
            found[shard.file] = f"chunks/shard/{shard.sha256}.tar"
            found[index_name(shard.file)] = index_name(found[shard.file])
        for facts in (self.manifest.images, self.manifest.rejections):
            with suppress(IntegrityError):  # it is raised where the table is read
                for part in self._parts(facts).each() if facts.file is None else ():
                    found[str(part.file)] = part_key(part.sha256)
        return found

    def builds(self) -> list[BuildRecord]:
        """The records of the builds that gave this version, oldest first; as of `builds_of`."""
        return [record for record in builds_of(self.store, self.name) if record.version == self.version]

    def summary(self) -> VersionSummary:
        """What a training run records of its input."""
        return VersionSummary(
            name=self.name,
            version=self.version,
            manifest_sha256=self.manifest_sha256,
            directory=self.key,
            resolution=self.resolution,
            num_images=self.num_images,
            shards=[shard.file for shard in self.manifest.shards],
            **({} if self.split is None else {"split": self.split}),
        )


def shards_list(manifest: Manifest) -> bytes:
    """What stands in SHARDS_LIST."""
    return "".join(f"{shard.file}\n" for shard in manifest.shards).encode()


def builds_of(store: Store, name: str) -> list[BuildRecord]:
    """The records of all builds of a name, oldest first.

    One that cannot be read is passed over with a warning that names it; the error for it is raised where none can be.
    """
    records, errors = [], []
    for key in store.keys(f"datasets/{name}/builds"):
        try:
            records.append(BuildRecord.read(store.file(key)))
        except (IntegrityError, FormatError) as error:
            logger.warning("%s", error)
            errors.append(error)
    if errors and not records:
        raise errors[0]
    return sorted(records, key=lambda build: (build.started_at, build.build_id))


def latest(store: Store, name: str) -> Latest | None:
    """What a name alone means, or None where no build of it has finished.

    It is on record; where that record is gone or damaged it is what the build gave that was asked for last, and written
    down again, with a warning.
    """
    key = f"datasets/{name}/latest.json"
    path = store.file(key)
    try:
        return Latest.read(path)
    except (NotFoundError, IntegrityError) as error:
        if path.exists() and not os.access(path, os.R_OK):
            raise  # it may be whole
        problem = error
    found = [
        build
        for build in (builds_of(store, name) if store.path(f"datasets/{name}/builds").is_dir() else [])
        if store.exists(f"datasets/{name}/{build.version}/manifest.json")
    ]
    if not found:
        if isinstance(problem, IntegrityError):
            raise problem
        return None
    last = max(found, key=lambda build: (build.started_at, build.build_id))
    mended = Latest.new(version=last.version, build_id=last.build_id, asked_at=last.started_at)
    logger.warning("%s: it is written again, as %s of build %s", problem, last.version, last.build_id)
    store.put_derived(key, mended.as_bytes())
    return mended


def latest_version(store: Store, name: str) -> str | None:
    """The version that a name alone means, or None."""
    found = latest(store, name)
    return None if found is None else found.version


def dataset_names(store: Store, refused: Callable[[OSError], None] = fail) -> list[str]:
    """The names with at least one finished build, sorted; `refused` as of `listed`."""
    folder = store.path("datasets")
    pointers, builds = (listed(folder, pattern, refused) for pattern in ("*/latest.json", "*/builds/*.json"))
    return sorted({path.parent.name for path in pointers} | {path.parents[1].name for path in builds})


def all_versions(store: Store, refused: Callable[[OSError], None] = fail) -> Iterator[Dataset]:
    """Every version of every name; `refused` as of `listed`."""
    for path in listed(store.path("datasets"), "*/*/manifest.json", refused):
        yield Dataset(store, path.parents[1].name, path.parent.name)


def lacks_manifest(dataset: Dataset) -> bool:
    """Whether a version's folder is there without its manifest, which a build or a name says was written.

    A folder that nothing names is what a build that was killed has left; one without any record what was left of it by
    a deletion in a bucket, where records go first.
    """
    folder = dataset.folder
    if any((folder / name).exists() for name in ("manifest.json", WITHDRAWN)):
        return False
    if not any(folder.rglob("*.json")):
        return False
    named: set[str] = set()
    try:
        named.update(build.version for build in builds_of(dataset.store, dataset.name))
        named.add(Latest.read(dataset.store.file(f"datasets/{dataset.name}/latest.json")).version)
    except PipelineError as error:
        if not isinstance(error, NotFoundError):  # what it would name is not known
            return True
    return dataset.version in named


def open_recorded(store: Store, named: VersionName, who: str) -> Dataset:
    """The version that a record of `who` names; NotFoundError where it is gone, WithdrawnError where it was
    withdrawn, IntegrityError where it has changed.
    """
    dataset = Dataset(store, named.name, named.version)
    if not store.exists(f"{dataset.key}/manifest.json"):
        check_not_withdrawn(store, named.name, named.version, who)
        raise NotFoundError(f"{who} was trained on {named.reference}, which is not in {store}")
    if dataset.manifest_sha256 != named.manifest_sha256:
        raise IntegrityError(
            f"{dataset.folder / 'manifest.json'} is not the version that {who} was trained on"
        )
    if isinstance(named, VersionSummary) and named.split is not None:
        return with_split(dataset, named.split)
    return dataset


def open_part(store: Store, reference: str) -> Dataset:
    """As `open_dataset`, of which `NAME:SPLIT` or `NAME@VERSION:SPLIT` names one split."""
    whole, colon, split = reference.partition(":")
    dataset = open_dataset(store, whole)
    return with_split(dataset, split) if colon else dataset


def with_split(dataset: Dataset, split: str) -> Dataset:
    """One split of a version; ConfigError lists what splits it has."""
    splits = dataset.manifest.counts.splits
    if split not in splits:
        there = f"its splits are {', '.join(splits)}" if splits else "it was built without --splits"
        raise ConfigError(f"dataset {dataset.reference} has no split {split!r}: {there}")
    return replace(dataset, split=split)


def open_dataset(store: Store, reference: str) -> Dataset:
    """The version that NAME (its latest) or NAME@VERSION names; a unique beginning of VERSION will do."""
    match = re.fullmatch(rf"({NAME_PATTERN})(?:@([0-9a-f]+))?", reference)
    if match is None:
        whole, colon, split = reference.partition(":")
        if colon and re.fullmatch(NAME, split):
            raise ConfigError(
                f"dataset reference {reference!r} names a split, and all of a version is meant here: give {whole}"
            )
        raise ConfigError(f"dataset reference {reference!r} is neither NAME nor NAME@VERSION")
    name, version = match[1], match[2] or latest_version(store, match[1])
    check_not_withdrawn(store, name, version)
    found = [path.parent.name for path in listed(store.path(f"datasets/{name}"), "*/manifest.json")]
    if not found:
        names = dataset_names(store)
        there = f"it holds {', '.join(names)}" if names else "it holds no dataset yet"
        raise NotFoundError(f"no dataset {name!r} in {store}: {there}")
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
