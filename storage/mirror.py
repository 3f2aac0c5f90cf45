"""A folder of this machine that is the image of a store in a bucket: records as they are there, data when asked for.

    mirror = Mirror.of_url("s3://bucket/prefix")
    mirror.refresh()                                       records: manifests, builds, runs, pointers, tombstones
    mirror.bring(mirror.root / "chunks/shard/0f3a.tar")    data: fetched when first read, kept until there is no room

The bucket is the truth. A file that is written in the folder is put there first (`storage.local`), so that nothing here
is named that is not there. Data never changes under its name, but when something is forgotten: then all of it goes from
here. It lies below `chunks` and `originals`, and what was not asked for the longest is deleted when it takes more than
`LIKENESS_CACHE_BYTES`. Some files are of this machine alone, such as those of SQLite.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cached_property
from pathlib import Path
from threading import Lock

from storage.bucket import ENDPOINTS, Bucket, Listed
from storage.digest import json_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.leases import FOLDER as LEASES
from storage.local import PARTIAL, partial_beside

logger = logging.getLogger(__name__)

CACHE = "LIKENESS_CACHE"
"""A variable of the environment with the folder for images of buckets; unset: likeness in the user's cache folder."""
CACHE_BYTES = "LIKENESS_CACHE_BYTES"
"""One with the bytes of data that are kept here of a bucket."""
DEFAULT_CACHE_BYTES = 20 * 10**9
OWN = ".bucket"
"""The folder with what the image says of itself."""
MARKER = f"{OWN}/of.json"
TAGS = f"{OWN}/tags.json"
"""The tags of all objects of which the records here are the images."""
SENT = f"{OWN}/sent.jsonl"
"""Those of records that were put there from here since."""
DATA = ("chunks", "originals")
"""Folders of what is fetched when it is asked for."""
FORGETS = "forgets"
HERE_ALONE = re.compile(
    r"(.*/)?\.[^/]*(/.*)?|(cache|incoming|lineage|mlartifacts)/.*|mlflow\.db.*|ledger/working/.*"
    rf"|{LEASES}/.*|runs/[^/]+/(lock|mlflow\.json|precompile\.log)|.*{re.escape(PARTIAL)}(/.*)?"
)
"""What is of this machine alone."""
RECORD_BYTES = 4 << 20
"""Larger records are fetched when they are asked for."""
AT_ONCE = 16
"""Objects that are asked for at a time."""
YOUNG_S = 60
"""What was written or asked for so lately is not deleted here."""
SHARE = 20
"""Of the bytes that are kept: when so many came anew, it is looked at whether there is room."""
_NAMED = re.compile(r"originals/../([0-9a-f]{64})|chunks/shard/([0-9a-f]{64})\.tar")
"""Data that is named by the sha256 of its bytes."""


class Mirror:
    """The image of the store at `url`, in the folder `root`."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self._arriving: dict[str, Lock] = {}
        self._lock = Lock()
        self._new_bytes: int | None = None
        self._listed: dict[str, tuple[float, dict[str, int]]] = {}
        """Photographs by their folder: when these were listed, and their sizes."""

    @classmethod
    def of_url(cls, url: str) -> Mirror:
        """That of a bucket, which is made where there is none; ConfigError for a URL of no bucket."""
        url = url.rstrip("/")
        bucket = Bucket(url)
        if not bucket.lists:
            raise ConfigError(
                f"store {url} is a web server, which is read alone: likeness pull copies from it"
            )
        endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
        name = f"{re.sub('[^A-Za-z0-9]+', '-', url).strip('-')[:60]}-{json_digest([url, endpoint])[:12]}"
        return cls.at(cache_folder() / name, url)

    @classmethod
    def at(cls, root: Path, url: str) -> Mirror:
        """That of a bucket in this folder."""
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(exist_ok=True, mode=0o700)
            (root / OWN).mkdir(exist_ok=True)
            partial = partial_beside(root / MARKER)
            partial.write_text(json.dumps({"format": 1, "url": url}))
            os.replace(partial, root / MARKER)
        except OSError as error:
            raise ConfigError(f"{root}, the image of {url}, cannot be made: {error.strerror}") from error
        return cls(root.resolve(), url)

    @classmethod
    def of_folder(cls, root: Path) -> Mirror | None:
        """That which a folder is; None where it is a store itself."""
        try:
            data = (root / MARKER).read_bytes()
        except OSError:
            return None
        try:
            return cls(root, str(json.loads(data)["url"]))
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{root / MARKER} is damaged: delete {root}, and it is made again"
            ) from error

    @cached_property
    def bucket(self) -> Bucket:
        """Where the store is."""
        return Bucket(self.url)

    @cached_property
    def room(self) -> int:
        """The bytes of data that are kept here."""
        text = os.environ.get(CACHE_BYTES, str(DEFAULT_CACHE_BYTES))
        if not text.isdecimal():
            raise ConfigError(
                f"${CACHE_BYTES} is {text!r}, and is a number of bytes, such as {DEFAULT_CACHE_BYTES}"
            )
        return int(text)

    def key(self, path: Path) -> str | None:
        """What a file here is called there; None of what is here alone."""
        key = os.path.relpath(path, self.root)
        return None if is_here_alone(key) else key

    def send(self, path: Path, source: Path) -> None:
        """Have what lies at `source` in the bucket as what is to lie at `path`."""
        if (key := self.key(path)) is not None:
            tag = self.bucket.put(key, source)
            if is_data(key):
                self._listed.get(key.rpartition("/")[0], (0.0, {}))[1][key] = source.stat().st_size
                self._note(source.stat().st_size)
            else:
                self._write_sent(key, tag)

    def drop(self, paths: Iterable[Path]) -> None:
        """Have files no more in the bucket."""
        self._listed.clear()
        self.bucket.delete([key for path in paths if (key := self.key(path)) is not None])

    def drop_folder(self, path: Path) -> None:
        """Have nothing of a folder any more in the bucket, its records sooner than what they name."""
        key = os.path.relpath(path, self.root)
        keys = [entry.key for entry in self.bucket.entries(key) if not is_here_alone(entry.key)]
        self.bucket.delete([key for key in keys if key.endswith(".json")])
        self.bucket.delete([key for key in keys if not key.endswith(".json")])

    def move_folder(self, path: Path, target: Path) -> None:
        """Have all of a folder in another one of the bucket."""
        key, other = (os.path.relpath(one, self.root) for one in (path, target))
        for entry in list(self.bucket.entries(key)):
            self.bucket.copy(entry.key, f"{other}{entry.key.removeprefix(key)}")
        self.drop_folder(path)

    def piece(self, path: Path, offset: int, size: int) -> bytes:
        """Some bytes of a file that the bucket has."""
        return self.bucket.piece(os.path.relpath(path, self.root), offset, size)

    def bring(self, path: Path) -> None:
        """Have the data here that the bucket has under a name, if it has some; records are as they were refreshed."""
        try:
            stat = path.stat()
        except OSError:
            self._bring(path)
            return
        if time.time() - stat.st_mtime > YOUNG_S and is_data(os.path.relpath(path, self.root)):
            os.utime(path)  # it was asked for

    def _bring(self, path: Path) -> None:
        if (key := self.key(path)) is None:
            return
        with self._lock:
            arriving = self._arriving.setdefault(key, Lock())
        with arriving:
            if not path.exists():
                self._fetch(key, path)
        self._arriving.pop(key, None)

    def _fetch(self, key: str, path: Path, modified_us: int | None = None) -> None:
        """Have an object here, under its name once it is whole; nothing where there is none."""
        if not {"", ".", ".."}.isdisjoint(key.split("/")) or "\0" in key:
            raise IntegrityError(f"{self.bucket.name(key)} has a name that leads out of the store")
        partial = partial_beside(path)
        try:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                sha256 = self.bucket.fetch(key, partial, limit=1 << 50)
            except NotFoundError:
                return
            if (named := _NAMED.fullmatch(key)) and sha256 not in named.groups():
                raise IntegrityError(f"{self.bucket.name(key)} no longer has the sha256 of its name")
            if is_data(key):
                self._note(partial.stat().st_size)
            if modified_us is not None:
                os.utime(partial, ns=(modified_us * 1000, modified_us * 1000))
            os.replace(partial, path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise IntegrityError(f"{self.bucket.name(key)} is a file there, and a folder too") from error
        finally:
            with suppress(NotADirectoryError):
                partial.unlink(missing_ok=True)

    def size(self, key: str) -> int | None:
        """The bytes of an object in the bucket; None where there is none. Of photographs many are asked for at once."""
        folder = key.rpartition("/")[0]
        if not key.startswith("originals/"):
            return self.bucket.size(key)
        asked, sizes = self._listed.get(folder, (0.0, {}))
        if time.monotonic() - asked > YOUNG_S:
            sizes = {entry.key: entry.size for entry in self.bucket.entries(folder)}
            self._listed[folder] = time.monotonic(), sizes
        return sizes.get(key)

    def refresh(self, prefix: str | None = None) -> None:
        """Have records here as they are in the bucket, all of them or those below a folder."""
        with self._alone("refresh"):
            began = time.time()
            folders = [prefix] if prefix else self._record_folders()
            listed = {
                entry.key: entry
                for folder in folders
                for entry in self.bucket.entries(folder)
                if not is_here_alone(entry.key)
            }
            known = self._tags()
            tags = {key: entry.tag for key, entry in listed.items()}
            if _below(FORGETS, known).keys() != _below(FORGETS, tags).keys() and FORGETS in folders:
                self._forget_data()
            stale = [
                entry
                for key, entry in listed.items()
                if known.get(key) != entry.tag or not (self.root / key).is_file()
            ]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self._renew, stale))
            for folder in folders if prefix else self._folders_here():
                self._sweep(folder, listed, began)
            others = {key: tag for key, tag in known.items() if prefix and not key.startswith(f"{prefix}/")}
            self._write_tags({**others, **tags})

    def check_conditions(self) -> None:
        """Warn, once on this machine, of a bucket in which one may overwrite what another has written meanwhile."""
        known = self.root / OWN / "conditions"
        if known.exists():
            return
        if not self.bucket.honours_conditions(f"{LEASES}/conditions/{secrets.token_hex(8)}"):
            logger.warning(
                "%s ignores If-None-Match: of builds that end at once one may lose its name, and no promotion is safe",
                self.url,
            )
        known.touch()

    def current(self, key: str) -> str | None:
        """Have one record here as it is in the bucket, and say its tag; None where there is none."""
        tag = self.bucket.tag(key)
        path = self.root / key
        if tag is None:
            path.unlink(missing_ok=True)
        else:
            self._fetch(key, path)
        return tag

    def _renew(self, entry: Listed) -> None:
        path = self.root / entry.key
        if entry.size <= RECORD_BYTES or entry.key.startswith("ledger/"):
            self._fetch(entry.key, path, entry.modified_us)
        else:
            path.unlink(missing_ok=True)

    def _record_folders(self) -> list[str]:
        return [name for name in self.bucket.names("")[0] if name not in (*DATA, LEASES)]

    def _folders_here(self) -> list[str]:
        folders = (path.name for path in self.root.iterdir() if path.is_dir())
        return [name for name in folders if name not in DATA and not is_here_alone(f"{name}/file")]

    def _sweep(self, folder: str, listed: dict[str, Listed], began: float) -> None:
        """Delete records here that are not in the bucket; what is just being written may be yet to be seen there."""
        for place, _, files in os.walk(self.root / folder, topdown=False):
            for file in files:
                path = Path(place, file)
                key = self.key(path)
                if key is not None and key not in listed and began - path.stat().st_mtime > YOUNG_S:
                    path.unlink(missing_ok=True)
            if not os.listdir(place) and began - os.stat(place).st_mtime > YOUNG_S:
                os.rmdir(place)

    def _forget_data(self) -> None:
        """Delete all data here, and what was made of it: something was forgotten, and what it was is not said."""
        for folder in (*DATA, "cache", "ledger/working"):
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def _tags(self) -> dict[str, str | None]:
        """Of which objects the records here are the images, as far as that is known."""
        tags: dict[str, str | None] = {}
        with suppress(OSError, ValueError):
            tags.update(json.loads((self.root / TAGS).read_bytes()))
        with suppress(OSError, ValueError):
            tags.update(json.loads(line) for line in (self.root / SENT).read_bytes().splitlines())
        return tags

    def _write_sent(self, key: str, tag: str | None) -> None:
        with (self.root / SENT).open("a") as file:
            file.write(json.dumps([key, tag]) + "\n")

    def _write_tags(self, tags: dict[str, str | None]) -> None:
        partial = partial_beside(self.root / TAGS)
        partial.write_text(json.dumps(tags))
        os.replace(partial, self.root / TAGS)
        (self.root / SENT).unlink(missing_ok=True)

    @contextmanager
    def _alone(self, what: str, *, wait: bool = True) -> Iterator[bool]:
        """Be the only process of this machine that does it."""
        with (self.root / OWN / f"{what}.lock").open("a") as lock:
            try:
                flock(lock, LOCK_EX if wait else LOCK_EX | LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _note(self, num_bytes: int) -> None:
        """Count data that is new here, and have room for it."""
        with self._lock:
            is_first = self._new_bytes is None
            self._new_bytes = (self._new_bytes or 0) + num_bytes
            if not is_first and self._new_bytes < self.room // SHARE:
                return
            self._new_bytes = 0
        self.make_room()

    def make_room(self) -> None:
        """Delete data that was not asked for the longest, where there is more than is to be kept."""
        with self._alone("room", wait=False) as is_mine:
            if not is_mine:
                return
            found = []
            for folder in DATA:
                for place, _, files in os.walk(self.root / folder):
                    for file in files:
                        path = os.path.join(place, file)
                        with suppress(FileNotFoundError):
                            stat = os.stat(path)
                            found.append((stat.st_mtime, stat.st_size, path))
            total = sum(size for _, size, _ in found)
            if total <= self.room:
                return
            latest = time.time() - YOUNG_S
            for modified, size, path in sorted(found):
                if total <= self.room * (SHARE - 1) // SHARE or modified > latest:
                    return
                Path(path).unlink(missing_ok=True)
                total -= size


def is_here_alone(key: str) -> bool:
    """Whether a file is of this machine alone."""
    return HERE_ALONE.fullmatch(key) is not None


def is_data(key: str) -> bool:
    """Whether a file is fetched when it is asked for, and deleted here when there is no room."""
    return key.partition("/")[0] in DATA


def cache_folder() -> Path:
    """Where images of buckets are kept."""
    if folder := os.environ.get(CACHE):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "likeness" / "stores"


def _below(folder: str, tags: dict[str, str | None]) -> dict[str, str | None]:
    return {key: tag for key, tag in tags.items() if key.startswith(f"{folder}/")}
