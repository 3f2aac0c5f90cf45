"""All that a store in a bucket holds, damaged or not, in a folder for a while; what is changed there goes back.

    with working_copy(Store("s3://bucket/prefix"), without=("runs",)) as copy:
        repair(copy, "faces", IMAGE_SCHEMA, dry=False)

For what reads and writes a store's files in no order, and is asked for seldom: mending and building again. A store in a
folder is its own copy. Not here: what a command reads of a bucket as it goes (`storage.mirror`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

from storage.bucket import Bucket, Listed
from storage.datasets.dataset import Dataset, all_versions
from storage.digest import bytes_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError, PipelineError
from storage.leases import FOLDER as LEASES
from storage.local import delete_files, link_whole
from storage.mirror import AT_ONCE, is_data, is_here_alone
from storage.scratch import scratch_folder
from storage.store import Store

OF_MLFLOW = "mlartifacts"
"""What this machine alone has of runs."""
Stamp = tuple[int, int, int]
"""A file's number on the disk, size and time: one that was written since has another."""


@contextmanager
def working_copy(store: Store, *, without: Collection[str] = (), dry: bool = False) -> Iterator[Store]:
    """The store, or where it is a bucket a folder with all of it but some of its folders.

    When the block ends well, what was written or deleted in the folder is in the bucket too, but with `dry`. A record
    that another has written meanwhile stays. ConfigError where the disk has no room for it.
    """
    if store.mirror is None:
        yield store
        return
    with store.in_use(), scratch_folder(store.root.parent, "copy-") as folder:
        copy = _Copy(store, store.mirror.bucket, folder)
        copy.fetch(without)
        yield copy.store
        if not dry:
            copy.send()


class _Copy:
    """A bucket's objects in a folder, and how they were when they came."""

    def __init__(self, store: Store, bucket: Bucket, root: Path) -> None:
        self.of, self.bucket, self.root = store, bucket, root
        self.came: dict[str, tuple[str, Stamp]] = {}
        """Of each key the sha256 that came, and the file's stamp."""

    @cached_property
    def store(self) -> Store:
        """The folder as a store."""
        return Store(self.root)

    def fetch(self, without: Collection[str]) -> None:
        """Have everything here."""
        folders = [name for name in self.bucket.names("")[0] if name not in (LEASES, *without)]
        listed = [
            entry for name in folders for entry in self.bucket.entries(name) if not is_here_alone(entry.key)
        ]
        needed, free = sum(entry.size for entry in listed), shutil.disk_usage(self.root).free
        if needed > free:
            raise ConfigError(
                f"{self.of} takes {needed / 1e9:.1f} GB, and {self.root.parent}, where it is worked on, has "
                f"{free / 1e9:.1f} GB: $LIKENESS_CACHE may name another folder"
            )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self.came.update(found for found in pool.map(self._fetch, listed) if found is not None)
        if (artifacts := self.of.path(OF_MLFLOW)).is_dir():
            (self.root / OF_MLFLOW).symlink_to(artifacts)

    def _fetch(self, entry: Listed) -> tuple[str, tuple[str, Stamp]] | None:
        path = self.store.spot(entry.key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sha256 = self.bucket.fetch(entry.key, path, limit=1 << 50)
        except NotFoundError:  # it was deleted meanwhile
            path.unlink(missing_ok=True)
            return None
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise IntegrityError(
                f"{self.bucket.name(entry.key)} is a file there, and a folder too"
            ) from error
        return entry.key, (sha256, _stamp(path))

    def send(self) -> None:
        """Have in the bucket what was written here, data before the records that name it, and not what was deleted."""
        linked = {
            f"{version.key}/{name}": source
            for version in all_versions(self.store)
            for name, source in shared_files(version).items()
        }
        keys = {
            path.relative_to(self.root).as_posix()
            for top in self.root.iterdir()
            if top.is_dir() and not top.is_symlink()
            for path in top.rglob("*")
            if path.is_file()
        }
        written = [
            key
            for key in keys
            if not is_here_alone(key)
            and (key in self.came or key not in linked)
            and self.came.get(key, ("", None))[1] != _stamp(self.root / key)
        ]
        for key in sorted(written, key=lambda key: (not is_data(key), key.endswith(".json"), key)):
            if is_data(key):
                self.of.put(key, self.root / key)
            else:
                self.of.change(key, partial(self._changed, key, (self.root / key).read_bytes()))
        gone = (
            self.came.keys() - keys - set(linked.values())
        )  # what a version needs is not lost for its damage
        delete_files(self.of.path(key) for key in sorted(gone) if is_data(key) or self._is_as_it_came(key))

    def _changed(self, key: str, data: bytes) -> bytes | None:
        return data if self._is_as_it_came(key) else None

    def _is_as_it_came(self, key: str) -> bool:
        """Whether nobody has written a record meanwhile."""
        path = self.of.file(key)
        now = bytes_digest(path.read_bytes()) if path.is_file() else None
        return now == self.came.get(key, (None, None))[0]


def link_versions(copy: Store) -> None:
    """Have in a copy of a bucket the files of versions under each name that they have in a folder."""
    for version in all_versions(copy):
        for name, source in shared_files(version).items():
            path = version.folder / name
            if copy.path(source).is_file() and not path.exists():
                link_whole(copy.path(source), path, durable=False)


def shared_files(version: Dataset) -> dict[str, str]:
    """What files of a version are the same as, as far as its records hold."""
    try:
        return version.shared_files
    except PipelineError:
        return {}


def _stamp(path: Path) -> Stamp:
    stat = os.stat(path)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
