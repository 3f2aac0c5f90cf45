"""What a store no longer needs, found and deleted: old versions, and the chunks and photographs that only they had.

    garbage = find_garbage(Store("./store"), keep=3, grace_s=86_400)
    delete(garbage)

Kept are the last versions of each name, what a run was trained on or an export was made of, all that these were
made of, and every photograph that was fetched, since it would be asked for again. What is young is kept too. Nothing is
found where a record cannot be read, or a folder may not be listed, for it might have named something. Not here:
deleting a photograph on request.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.datasets.dataset import COLUMNS_OF, Dataset, all_versions, latest_version
from storage.datasets.parts import part_key
from storage.datasets.records import BuildRecord
from storage.errors import ConfigError, IntegrityError
from storage.exports.records import exports_of
from storage.exports.under_way import left_over
from storage.layout import check_listed
from storage.local import PARTIAL, delete_files, listed, partial_beside, sync
from storage.local import delete as delete_path
from storage.runs import list_runs
from storage.shards import PackedRecord, open_index
from storage.store import Entry, Store
from storage.tables import Stored
from storage.withdrawals import FILE as WITHDRAWN

ANSWERS_S = 24 * 3600.0
"""How long answers of services stand, and count against how often these may be asked in a day."""


@dataclass(frozen=True)
class Garbage:
    """What may go: versions, files that nothing needs then, and what was left by processes that were killed."""

    versions: list[Dataset]
    chunks: list[Path]
    originals: list[Path]
    leftovers: list[Path]
    answers: list[Path]
    """Of services, which do not stand any more; what they said of a photograph is in the versions that have it."""
    objects: dict[Path, Entry]
    """Of chunks, originals and answers: how they are listed."""

    @property
    def num_bytes(self) -> int:
        """How much room it takes; a file that goes under several names counts once."""
        paths = [*self.chunks, *self.originals, *self.answers]
        for folder in (*(version.folder for version in self.versions), *self.leftovers):
            paths += [path for path in (folder, *folder.rglob("*")) if path.is_file()]
        sizes: dict[object, int] = {}
        for path in paths:
            if path.is_file():
                stat = path.stat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
            else:  # in a bucket alone
                sizes[path] = self.objects[path].size
        return sum(sizes.values())

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "versions": [version.reference for version in self.versions],
            "chunks": len(self.chunks),
            "originals": len(self.originals),
            "leftovers": [str(path) for path in self.leftovers],
            "answers": len(self.answers),
            "bytes": self.num_bytes,
        }


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Work where no build and no new run does; ConfigError where one does now."""
    with store.locked(".lock", wait=False) as is_mine:
        if not is_mine:
            raise ConfigError(f"a build works in {store} now: wait for it, and then delete")
        store.refresh()
        yield


def find_garbage(store: Store, *, keep: int, grace_s: float) -> Garbage:
    """What is older than `grace_s`, and no longer needed if the last `keep` versions of each name stay."""
    check_listed(store)
    now = time.time()
    prefixes = ("chunks", "originals", "answers")
    objects = {store.path(entry.key): entry for prefix in prefixes for entry in store.entries(prefix)}

    def is_old(path: Path, than_s: float = grace_s) -> bool:
        found = objects.get(path)
        return now - (found.modified_us / 1e6 if found else path.stat().st_mtime) > than_s

    used = {run.record.dataset.manifest_sha256 for run in list_runs(store)}
    used |= {exported.dataset.manifest_sha256 for exported in exports_of(store)}
    last = {name: _last(store, name, keep) for name in {version.name for version in all_versions(store)}}
    kept: list[Dataset] = []
    gone: list[Dataset] = []
    for version in all_versions(store):
        is_needed = version.version in last[version.name] or version.manifest_sha256 in used
        (kept if is_needed or not is_old(version.folder / "manifest.json") else gone).append(version)
    photos = _photographs(store, kept)
    return Garbage(
        gone,
        [path for path in _chunks(store, photos, kept, objects) if path in objects and is_old(path)],
        [path for path in _others(store, photos) if is_old(path)],
        [path for path in _leftovers(store) if is_old(path)],
        [
            path
            for path in map(store.path, store.keys("answers"))
            if is_old(path, than_s=max(grace_s, ANSWERS_S))
        ],
        objects,
    )


def delete(garbage: Garbage) -> None:
    """Delete it; of a kill in between what is left is garbage again, and what is kept is whole."""
    for version in garbage.versions:
        _delete_version(version)
    delete_files([*garbage.chunks, *garbage.originals, *garbage.answers])
    for folder in {path.parent for path in garbage.answers}:
        with suppress(OSError):  # where others stay
            folder.rmdir()
    for path in garbage.leftovers:
        delete_path(path)


def _delete_version(version: Dataset) -> None:
    """Delete a version: one renaming makes it none, so that a kill leaves no version without its manifest."""
    folder = version.folder
    if version.store.mirror is None:
        gone = partial_beside(folder.parent)
        os.replace(folder, gone)
        sync(folder.parent)
        folder = gone
    delete_path(folder)


def _last(store: Store, name: str, keep: int) -> set[str]:
    """The versions that the last builds of a name gave, and what the name means."""
    builds = [BuildRecord.read(store.file(key)) for key in store.keys(f"datasets/{name}/builds")]
    builds.sort(key=lambda build: (build.started_at, build.build_id), reverse=True)
    versions = list(dict.fromkeys(build.version for build in builds))
    return {*versions[:keep], str(latest_version(store, name))}


def _photographs(store: Store, versions: list[Dataset]) -> pa.Array:
    """The sha256 of each photograph that some versions, or the record of what was fetched, name."""
    columns = [pa.chunked_array([], pa.string())]
    for version in versions:
        for table in (version.table("images"), version.table("rejections")):
            columns.append(table.read(["photo_sha256"])["photo_sha256"])
    for prefix in ("ledger", "chunks/crawl"):
        for key in store.keys(prefix):
            if key.endswith(".parquet"):
                columns.append(Stored(store.path(key), ["sha256"]).read(["sha256"])["sha256"])
    chunks = [chunk for column in columns for chunk in column.chunks]
    return pa.chunked_array(chunks, pa.string()).unique().drop_null()


def _chunks(store: Store, photos: pa.Array, kept: list[Dataset], there: Collection[Path]) -> Iterator[Path]:
    """The files of aligned chunks of no such photograph, and of shards and parts of tables that are none of these.

    Those too of which a kill, in a build or in here, has left some and not what names them.
    """
    for path in map(store.path, store.keys("chunks/align")):
        if path.suffix == ".images" and path.with_suffix(".parquet") not in there:
            yield path
        if path.suffix == ".parquet" and path.parent.name != "gathered":
            try:
                held = Stored(path, ["photo_sha256"]).read(["photo_sha256"])["photo_sha256"]
                is_needed = pc.any(pc.is_in(held, value_set=photos)).as_py()
            except (IntegrityError, pa.ArrowException):  # of another kind
                continue
            if not is_needed:
                yield path
                yield path.with_suffix(".images")
    shards = {shard.sha256 for version in kept for shard in version.manifest.shards}
    for path in map(store.path, store.keys("chunks/shard")):
        if path.suffix in (".tar", ".parquet"):
            if path.stem not in shards and path.with_name(f"{path.stem}.index.json") not in there:
                yield path
        elif path.suffix == ".json":
            stem = path.name.removesuffix(".json").removesuffix(".index")
            is_index = path.name.endswith(".index.json")
            try:
                sha256 = open_index(path, None).sha256 if is_index else PackedRecord.read(path).sha256
            except IntegrityError:
                continue
            if sha256 not in shards:
                yield path
                for name in (f"{stem}.tar", f"{stem}.parquet") if is_index else ():
                    if path.with_name(name) in there:
                        yield path.with_name(name)
    parts = {
        part_key(part.sha256) for version in kept for name in COLUMNS_OF for part in version.table_parts(name)
    }
    yield from (store.path(key) for key in store.keys("chunks/table") if key not in parts)


def _others(store: Store, photos: pa.Array) -> Iterator[Path]:
    """The originals of all other photographs."""
    wanted = set(photos.to_pylist())
    for key in store.keys("originals"):
        if key.rpartition("/")[2] not in wanted:
            yield store.path(key)


def _leftovers(store: Store) -> Iterator[Path]:
    """What was being written by a process that was killed, here or as an export, and versions that one was deleting."""
    for place, folders, files in os.walk(store.root):
        for name in [name for name in (*folders, *files) if name.endswith(PARTIAL)]:
            yield Path(place, name)
        folders[:] = [name for name in folders if not name.endswith(PARTIAL)]
    for folder in listed(store.path("datasets"), "*/*"):
        is_version = any((folder / name).exists() for name in ("manifest.json", WITHDRAWN))
        if re.fullmatch("[0-9a-f]{16}", folder.name) and not is_version:
            yield folder
    yield from left_over(store)
