"""A version brought from another store, every byte of it checked against the manifest before it is named.

    pull(Store("./store"), Remote("s3://bucket/faces"), "faces@1f0c2d3e4a5b6978")

The manifest has the sha256 that the version is named by, and says that of all else. What arrives goes below `chunks`,
by what it holds, as a build would put it, and the version links there: what is here already and intact is not fetched,
whatever version or killed pull it is of. In a bucket it lies below `chunks` alone, and a tar that has its name and its
size there is not fetched. The manifest is written last. Tables come first, so that a version may be refused by its
rows. Not here: how a store is asked (`storage.remote`), what a version is made of (`content`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.datasets.attribution import write_attribution
from storage.datasets.content import RECORD_LIMIT, Piece, content_of
from storage.datasets.dataset import COLUMNS_OF, Dataset, latest_version
from storage.datasets.elsewhere import AT_ONCE, Copied, Elsewhere, Report, names_in, parsed, quiet
from storage.datasets.lookup import keep_lookup
from storage.datasets.manifest import record_build
from storage.datasets.verify import photographs
from storage.digest import bytes_digest, file_digest
from storage.environment import run_facts
from storage.errors import ConfigError, IntegrityError, NotFoundError, PipelineError
from storage.local import delete, delete_files, link_whole, sync_all, whole_file
from storage.remote import Remote
from storage.shards import index_json, index_name, index_of
from storage.store import Store, original_key
from storage.withdrawals import check_not_withdrawn

ORIGINAL_LIMIT = 1 << 30
"""Bytes of a photograph."""
INDEX_LIMIT = 64 << 10
"""Bytes that the index of a tar may have beyond the tar's."""
NUMBERS = ("offset", "size", "face_index")
"""Columns of numbers, among those that storage reads; all others are texts."""

Check = Callable[[Dataset], None]
"""Raises a PipelineError for a version that must not come; only its tables can be read yet."""


def allow(dataset: Dataset) -> None:
    """A check that refuses nothing."""


def pull(
    store: Store,
    remote: Remote,
    reference: str,
    *,
    originals: bool = False,
    backup: bool = False,
    check: Check = allow,
    report: Report = quiet,
) -> Copied:
    """Bring the version that NAME (the latest there) or NAME@V means, and make it what the name means here.

    With `originals` the photographs come too that are there. Of a `backup` the name means what it means there: a
    version that is not the latest there, and is here, changes nothing. Errors are those of `Remote`, an IntegrityError
    for what is not what the manifest says, and a ConfigError where the disk has too little room.
    """
    name, digits = parsed(reference)
    return _Pull(store, Elsewhere(remote, name), digits).run(originals, backup, check, report)


def look(store: Store, remote: Remote, reference: str) -> Copied:
    """What a pull would fetch, but for photographs; nothing is written."""
    name, digits = parsed(reference)
    return _Pull(store, Elsewhere(remote, name), digits).look()


def references_in(remote: Remote) -> list[str]:
    """Every version of every name there, each name's latest last, so that it is the latest after a pull of all."""
    references = []
    for name in names_in(remote):
        source = Elsewhere(remote, name)
        times = {record.version: record.started_at for record, _ in source.builds}
        last = source.latest and source.latest.version
        versions = sorted(source.versions, key=lambda v: (v == last, times.get(v, ""), v))
        references += [f"{name}@{version}" for version in versions]
    return references


def _check_kinds(table: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    """IntegrityError for a column whose values are not what every reader takes them for."""
    for column in columns:
        kind = schema.field(column).type
        is_right = pa.types.is_integer(kind) if column in NUMBERS else pa.types.is_string(kind)
        if not is_right:
            raise IntegrityError(f"table {table} has a column {column} of {kind}, as no version has it")


class _Pull:
    """One version on its way from there to here."""

    def __init__(self, store: Store, source: Elsewhere, digits: str | None) -> None:
        self.store, self.source, self.remote = store, source, source.remote
        if self.remote.local == store or self.remote.url == str(store):
            raise ConfigError(f"{store} is the store itself: pull from another one")
        self.dataset = Dataset(store, source.name, source.version(digits))
        self.came: list[Path] = []
        """Parts of tables that were not here before."""
        check_not_withdrawn(store, source.name, self.dataset.version)
        data = self._record("manifest.json", digits or self.dataset.version)
        self.dataset.__dict__["manifest_bytes"] = data  # it is read before it is here
        self.manifest = self.dataset.manifest
        self.content = content_of(self.manifest, self.remote.name(self.dataset.key), self._record)

    def look(self) -> Copied:
        """What is missing, and how many bytes it has."""
        done = Copied(self.dataset, self.remote.url)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            done.count(pool.map(self._size_of_missing, self.content.pieces))
        return done

    def run(self, originals: bool, backup: bool, check: Check, report: Report) -> Copied:
        """Bring what is missing."""
        clock, started = time.perf_counter(), datetime.now(UTC)
        done = Copied(self.dataset, self.remote.url)
        with self.store.in_use(), ThreadPoolExecutor(AT_ONCE) as pool:
            done.count(pool.map(self._bring_table, self.content.tables))
            for name, data in self.content.records.items():
                self._put(f"{self.dataset.key}/{name}", data)
            photos = self._check_tables(check)
            self._check_room()
            shards = self.content.shards
            done.count(pool.map(self._bring_shard, shards), report, len(shards))
            if originals:
                done.count(pool.map(self._bring_original, photos), report, len(photos))
            done.absent = sum(not self._has_original(sha256) for sha256 in photos)
            self._check_kept()
            sync_all(self.store.root)
            self._put(f"{self.dataset.key}/manifest.json", self.dataset.manifest_bytes)
            write_attribution(self.dataset)
            keep_lookup(self.dataset)
            self._write_down(done, backup, started, clock)
        return done

    def _record(self, name: str, sha256: str, limit: int = RECORD_LIMIT) -> bytes:
        """A file whose sha256, or the beginning of that, is on record; from here, where it is here."""
        key = f"{self.dataset.key}/{name}"
        path = self.store.file(key)
        if path.is_file() and path.stat().st_size <= limit:
            data = path.read_bytes()
            if bytes_digest(data).startswith(sha256):
                return data
        data = self.remote.read(key, limit)
        if not bytes_digest(data).startswith(sha256):
            raise IntegrityError(f"{self.remote.name(key)} has another sha256 than its version has on record")
        return data

    def _put(self, key: str, data: bytes) -> None:
        path = self.store.file(key)
        if not (path.is_file() and path.read_bytes() == data):
            self.store.put(key, data)

    def _places_here(self, piece: Piece) -> list[str]:
        """Where a piece should lie here: in a bucket what versions share lies once."""
        return [piece.key] if piece.key and self.store.mirror is not None else self._places(piece)

    def _places(self, piece: Piece) -> list[str]:
        """Where a store may have a piece: versions before format 3 did not always share."""
        places = [f"{self.dataset.key}/{piece.name}", *([piece.key] if piece.key else [])]
        return places if self.manifest.format < 3 else places[::-1]

    def _is_here(self, piece: Piece) -> bool:
        """Whether a piece is here and intact; if so under each name that it should have."""
        if self.store.mirror is not None and piece.key and piece.sha256:
            return self.store.mirror.size(piece.key) == piece.size
        places = [self.store.file(place) for place in self._places_here(piece)]
        found = next((path for path in places if piece.is_at(path)), None)
        if found is None:
            return False
        for path in places:
            link_whole(found, path, durable=False)
        return True

    def _size_of_missing(self, piece: Piece) -> int | None:
        """The bytes that would be fetched; None where the piece is here."""
        if self.store.mirror is not None and piece.key:
            size = self.store.mirror.size(piece.key)
            is_here = size is not None and piece.size in (None, size)
        else:
            is_here = any(piece.is_at(self.store.file(place)) for place in self._places(piece))
        if is_here:
            return None
        for place in self._places(piece):
            size = piece.size or self.remote.size(place)
            if size is not None:
                return size
        raise NotFoundError(f"{self.remote.name(self._places(piece)[0])} is not there")

    def _bring_table(self, piece: Piece) -> int | None:
        """Have a piece, and say how many bytes came; None where it was here."""
        if self._is_here(piece):
            return None
        places = self._places(piece)
        target = self.store.file(piece.key or places[0])
        with whole_file(target, durable=False) as partial:
            place, sha256 = self._arrive(places, partial, piece)
            if sha256 != piece.sha256 if piece.sha256 else not piece.is_at(partial):
                raise IntegrityError(
                    f"{self.remote.name(place)} is not what the manifest of {self.dataset.reference} says"
                )
            size = partial.stat().st_size
        self.came.append(target)
        for other in self._places_here(piece):
            link_whole(target, self.store.file(other), durable=False)
        return size

    def _arrive(self, places: list[str], path: Path, piece: Piece) -> tuple[str, str]:
        for place in places[:-1]:
            with suppress(NotFoundError):
                return place, self.remote.fetch(place, path, piece.limit, piece.size)
        return places[-1], self.remote.fetch(places[-1], path, piece.limit, piece.size)

    def _bring_shard(self, piece: Piece) -> int | None:
        """As `_bring_table`; the index is made of the tar, and where the version has another form of it, fetched."""
        size = self._bring_table(piece)
        packed, named = (index_name(place) for place in (str(piece.key), f"{self.dataset.key}/{piece.name}"))
        if not self._has(packed, piece.index_sha256):
            data = index_json(index_of(self.store.file(str(piece.key)), str(piece.sha256)))
            if self.store.mirror is None or bytes_digest(data) == piece.index_sha256:
                self._put(packed, data)
        if self._has(packed, piece.index_sha256):
            if self.store.mirror is None:
                self.store.link(packed, named, durable=False)
        else:
            data = self._record(index_name(piece.name), str(piece.index_sha256), piece.limit + INDEX_LIMIT)
            self._put(named, data)
        return size

    def _has(self, key: str, sha256: str | None) -> bool:
        path = self.store.file(key)
        return path.is_file() and file_digest(path) == sha256

    def _has_original(self, sha256: str) -> bool:
        key = original_key(sha256)
        return (
            self.store.exists(key) if self.store.mirror is None else self.store.mirror.size(key) is not None
        )

    def _check_kept(self) -> None:
        """Have in a bucket what is here and another machine deleted there."""
        if self.store.mirror is not None:
            objects = {piece.name: piece.key for piece in self.content.tables if piece.key}
            for piece in self.content.shards:
                name, key = (index_name(str(place)) for place in (piece.name, piece.key))
                if self._has(key, piece.index_sha256):
                    objects[name] = key
            self.store.share(objects)

    def _bring_original(self, sha256: str) -> int | None:
        """Have a photograph, where it is there."""
        key = original_key(sha256)
        if self._has(key, sha256) if self.store.mirror is None else self._has_original(sha256):
            return None
        with suppress(NotFoundError), whole_file(self.store.file(key), durable=False) as partial:
            if self.remote.fetch(key, partial, ORIGINAL_LIMIT) != sha256:
                raise IntegrityError(f"{self.remote.name(key)} has not the sha256 of its name")
            return partial.stat().st_size
        return None

    def _check_tables(self, check: Check) -> list[str]:
        """Hold the rows to `check`, and say which photographs the version was made of."""
        for name, columns in COLUMNS_OF.items():
            _check_kinds(f"{self.dataset.reference}/{name}", self.dataset.table(name).schema, columns)
        was_here = self.store.exists(f"{self.dataset.key}/manifest.json")
        images = self.dataset.table("images").read(["photo_sha256"])
        refused = self.dataset.table("rejections").read(["photo_sha256", "reason"])
        try:
            check(self.dataset)
        except PipelineError:
            if not was_here:
                self._drop_tables()
            raise
        return [str(sha256) for sha256 in photographs(images, refused).to_pylist()]

    def _drop_tables(self) -> None:
        """Delete what came of a version that must not; a part that another version has stays under its name there."""
        if self.store.mirror is not None:
            delete_files(self.came)
        else:
            delete_files(
                self.store.file(place) for piece in self.content.tables for place in self._places(piece)
            )
        if self.dataset.folder.is_dir():
            delete(self.dataset.folder)

    def _check_room(self) -> None:
        """ConfigError where the disk cannot take the shards that are missing; of a bucket's few are kept here."""
        if self.store.mirror is not None:
            return
        missing = sum(
            piece.size or 0
            for piece in self.content.shards
            if not any(self.store.file(place).is_file() for place in self._places(piece))
        )
        free = shutil.disk_usage(self.store.root).free
        if missing > free:
            raise ConfigError(
                f"{self.dataset.reference} needs {missing / 1e9:.1f} GB, and {self.store} has {free / 1e9:.1f} GB"
            )

    def _write_down(self, done: Copied, backup: bool, started: datetime, clock: float) -> None:
        """Record the pull, where it changed something, and the builds that gave the version."""
        name, version = self.dataset.name, self.dataset.version
        builds = self.source.builds_of(version, self.dataset.manifest_sha256)
        is_meant = not backup or (self.source.latest is not None and self.source.latest.version == version)
        is_news = is_meant and latest_version(self.store, name) != version
        if done.copied or is_news or not self.dataset.builds():
            of = next((record for record, _ in reversed(builds) if record.config), None)
            facts: dict[str, Any] = {
                "kind": "pull",
                "config": of.config if of else {},
                "config_sha256": of and of.config_sha256,
                "options": {"from": self.remote.url, "originals": not done.absent},
                "seconds": round(time.perf_counter() - clock, 3),
                "stages": {"pull": {"fetched": done.copied, "bytes": done.num_bytes, "here": done.here}},
                "facts": run_facts(),
            }
            record_build(self.dataset, facts, started)
        for record, data in builds:
            key = f"datasets/{name}/builds/{record.build_id}.json"
            if not self.store.exists(key):
                self.store.put(key, data)
        done.is_latest = latest_version(self.store, name) == version
