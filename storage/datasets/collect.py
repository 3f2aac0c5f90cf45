"""What a store no longer needs, found and deleted: old versions, and the chunks and photographs that only they had.

    garbage = find_garbage(Store("./store"), keep=3, grace_s=86_400)
    delete(garbage)

Kept are the last versions of each name, what a run was trained on, all that these were made of, and every photograph
that was fetched, since it would be asked for again. What is young is kept too. Nothing is found where a record cannot
be read, for it might have named something. Not here: deleting a photograph on request.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.datasets.dataset import Dataset, all_versions, latest_version
from storage.datasets.records import BuildRecord
from storage.errors import ConfigError, IntegrityError
from storage.local import PARTIAL, sync
from storage.runs import list_runs
from storage.shards import open_index
from storage.store import Store
from storage.tables import Stored


@dataclass(frozen=True)
class Garbage:
    """What may go: versions, files that nothing needs then, and what was left by processes that were killed."""

    versions: list[Dataset]
    chunks: list[Path]
    originals: list[Path]
    leftovers: list[Path]

    @property
    def num_bytes(self) -> int:
        """How much room it takes; a file that goes under several names counts once."""
        paths = [*self.chunks, *self.originals]
        for folder in (*(version.folder for version in self.versions), *self.leftovers):
            paths += [path for path in (folder, *folder.rglob("*")) if path.is_file()]
        stats = [path.stat() for path in paths]
        return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in stats}.values())

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "versions": [version.reference for version in self.versions],
            "chunks": len(self.chunks),
            "originals": len(self.originals),
            "leftovers": [str(path) for path in self.leftovers],
            "bytes": self.num_bytes,
        }


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Work where no build and no new run does; ConfigError where one does now."""
    with store.locked(".lock", wait=False) as is_mine:
        if not is_mine:
            raise ConfigError(f"a build works in {store.root} now: wait for it, and then delete")
        yield


def find_garbage(store: Store, *, keep: int, grace_s: float) -> Garbage:
    """What is older than `grace_s`, and no longer needed if the last `keep` versions of each name stay."""
    now = time.time()

    def is_old(path: Path) -> bool:
        return now - path.stat().st_mtime > grace_s

    trained_on = {run.record.dataset.manifest_sha256 for run in list_runs(store)}
    last = {name: _last(store, name, keep) for name in {version.name for version in all_versions(store)}}
    kept: list[Dataset] = []
    gone: list[Dataset] = []
    for version in all_versions(store):
        is_needed = version.version in last[version.name] or version.manifest_sha256 in trained_on
        (kept if is_needed or not is_old(version.folder / "manifest.json") else gone).append(version)
    photos = _photographs(store, kept)
    shards = {shard.sha256 for version in kept for shard in version.manifest.shards}
    return Garbage(
        gone,
        [path for path in _chunks(store, photos, shards) if is_old(path)],
        [path for path in _others(store, photos) if is_old(path)],
        [path for path in _leftovers(store) if is_old(path)],
    )


def delete(garbage: Garbage) -> None:
    """Delete it; of a kill in between what is left is garbage again, and what is kept is whole."""
    for version in garbage.versions:
        (version.folder / "manifest.json").unlink()  # from here on it is no version
        sync(version.folder)
        shutil.rmtree(version.folder)
    for path in (*garbage.chunks, *garbage.originals):
        path.unlink()
    for path in garbage.leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


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


def _chunks(store: Store, photos: pa.Array, shards: set[str]) -> Iterator[Path]:
    """The files of aligned chunks of no such photograph, and of packed shards that are none of these."""
    for path in map(store.path, store.keys("chunks/align")):
        if path.suffix == ".parquet" and path.parent.name != "gathered":
            try:
                held = Stored(path, ["photo_sha256"]).read(["photo_sha256"])["photo_sha256"]
            except IntegrityError:
                continue
            if not pc.any(pc.is_in(held, value_set=photos)).as_py():
                yield path
                yield path.with_suffix(".images")
    for path in map(store.path, store.keys("chunks/shard")):
        if path.name.endswith(".index.json"):
            try:
                is_kept = open_index(path, None).sha256 in shards
            except IntegrityError:
                continue
            stem = path.name.removesuffix(".index.json")
            for name in () if is_kept else (path.name, f"{stem}.tar", f"{stem}.parquet"):
                if path.with_name(name).is_file():
                    yield path.with_name(name)


def _others(store: Store, photos: pa.Array) -> Iterator[Path]:
    """The originals of all other photographs."""
    wanted = set(photos.to_pylist())
    for key in store.keys("originals"):
        if key.rpartition("/")[2] not in wanted:
            yield store.path(key)


def _leftovers(store: Store) -> Iterator[Path]:
    """What was being written by a process that was killed, and versions that were being deleted by one."""
    for place, folders, files in os.walk(store.root):
        for name in [name for name in (*folders, *files) if name.endswith(PARTIAL)]:
            yield Path(place, name)
        folders[:] = [name for name in folders if not name.endswith(PARTIAL)]
    for folder in store.path("datasets").glob("*/*"):
        if re.fullmatch("[0-9a-f]{16}", folder.name) and not (folder / "manifest.json").exists():
            yield folder
