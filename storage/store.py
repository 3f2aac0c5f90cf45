"""Where bytes are kept: a folder of immutable objects under keys, written whole or not at all; or a bucket of them.

    store = Store("./store")
    store.put("originals/ab/abcd...", data)
    store = Store("s3://bucket/prefix")

A store in a bucket is worked on in its image on this machine (`storage.mirror`): `path` says where an object lies in
it, and `file` brings it there. Not here: what the keys mean. Layout belongs to the module that owns it (`manifest`,
`runs`, the stages).
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from obstore.exceptions import BaseError
from obstore.store import LocalStore

from storage.digest import bytes_digest, file_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError, ServiceError
from storage.leases import leased
from storage.local import (
    PARTIAL,
    add_image,
    drop_image,
    here,
    image_of,
    is_linked,
    keep_within,
    link_whole,
    real_path,
    sync,
    whole_file,
)
from storage.mirror import Mirror, is_data
from storage.scratch import delete_left_over, scratch_folder

logger = logging.getLogger(__name__)

_SHA256 = re.compile("[0-9a-f]{64}")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
"""With one slash too: a Path folds two."""
TRIES = 20
"""How often a pointer is written that others write too."""
_seen: set[Path] = set()
"""The images that this process has refreshed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it is listed: its size in bytes, and when it was written, in microseconds."""

    key: str
    size: int
    modified_us: int


@dataclass(frozen=True)
class Store:
    """A local folder as an object store, created on the first write, or the image of a bucket; it travels by value."""

    root: Path

    def __init__(self, root: str | Path) -> None:
        path = _folder_of(str(root))
        if path.exists() and not path.is_dir():
            raise ConfigError(f"store {root!s} is a file, and a store is a folder or a bucket")
        object.__setattr__(self, "root", path)
        keep_within(path)
        if self.mirror is not None and path not in _seen and _URL.match(str(root)):
            delete_left_over(path.parent)
            self.mirror.bucket.hasty.names("")  # a wrong address is told at once
            self.mirror.refresh()
            _seen.add(path)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.root,)

    def __str__(self) -> str:
        return str(self.root) if self.mirror is None else self.mirror.url

    def check_is_folder(self, what: str, why: str) -> None:
        """Raise ConfigError for a bucket, on which `what` does not work, and `why`."""
        if self.mirror is not None:
            raise ConfigError(f"{what} works on a store in a folder, and {self} is a bucket: {why}")

    @property
    def place(self) -> Path:
        """What a store is opened by: its folder, or its URL, of which a path folds two slashes."""
        return Path(str(self))

    @cached_property
    def mirror(self) -> Mirror | None:
        """What the store is the image of; None where it is a folder itself."""
        mirror = image_of(self.root / "of")
        if not isinstance(mirror, Mirror) or mirror.root != self.root:
            mirror = Mirror.of_folder(self.root)
            if mirror is not None:
                add_image(self.root, mirror)
        return mirror

    @cached_property
    def _objects(self) -> LocalStore:
        try:
            return LocalStore(prefix=self.root, mkdir=True)
        except OSError as error:
            raise ConfigError(f"store {self.root} cannot be created: {error}") from error

    def refresh(self, prefix: str | None = None) -> None:
        """See what others have written to a bucket; a folder shows it anyway."""
        if self.mirror is not None:
            self.mirror.refresh(prefix)

    @contextmanager
    def unseen(self) -> Iterator[Store]:
        """The store as one sees it who was never here: of a bucket nothing that was fetched before."""
        if self.mirror is None:
            yield self
            return
        with scratch_folder(self.root.parent, "verify-") as folder:
            image = Mirror.at(folder, self.mirror.url)
            image.refresh()
            try:
                yield Store(image.root)
            finally:
                drop_image(image.root)

    def path(self, key: str) -> Path:
        """The local file or folder of a key, whether or not it is here."""
        return self.root / key

    def exists(self, key: str) -> bool:
        """Whether an object was ever completely written under `key`."""
        if self.path(key).is_file():
            return True
        return self.mirror is not None and is_data(key) and self.mirror.size(key) is not None

    def file(self, key: str) -> Path:
        """The file of a key, which is here if there is one; IntegrityError where it leads out of the store."""
        return here(self.spot(key))

    def spot(self, key: str) -> Path:
        """As `path`, of what is to be written; IntegrityError where a name or a link leads out of the store."""
        place = str(self.root)
        for part in key.split("/"):
            place = f"{place}/{part}"
            if part == ".." or (
                os.path.islink(place) and not Path(os.path.realpath(place)).is_relative_to(self.root)
            ):
                raise IntegrityError(
                    f"{place} leads out of the store {self.root}, and nothing is read or written there"
                )
        return Path(place)

    @contextmanager
    def locked(self, key: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
        """Be the only process, or with `shared` one of those, that does what `key` names, a file without other meaning.

        It is waited for until that is so; without `wait` False says that it is not.
        """
        with self._locked_here(key, shared=shared, wait=wait) as is_mine, ExitStack() as stack:
            if is_mine and self.mirror is not None:
                is_mine = stack.enter_context(leased(self.mirror.bucket, key, shared=shared, wait=wait))
            yield is_mine

    @contextmanager
    def _locked_here(self, key: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
        """As `locked`, among the processes of this machine."""
        path = self.spot(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lock:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            try:
                fcntl.flock(lock, kind if wait else kind | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def in_use(self) -> AbstractContextManager[bool]:
        """Make or name what nobody may delete meanwhile."""
        return self.locked(".lock", shared=True)

    def get(self, key: str) -> bytes:
        """The object's bytes; NotFoundError names the key, IntegrityError a link that leads out of the store."""
        path = self.file(key)
        if path.exists() and not path.is_file():
            raise IntegrityError(f"{path} is no file")
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"store {self.root} holds no {key}") from None

    def put(self, key: str, data: bytes | Path, *, durable: bool = True) -> None:
        """Write an object whole or not at all, from bytes or from a file, replacing what was there.

        It is on the disk then, unless it need not be `durable`.
        """
        self._objects  # makes the root  # noqa: B018
        with whole_file(self.spot(key), durable=durable) as partial:
            if isinstance(data, Path):
                shutil.copyfile(data, partial)
            else:
                partial.write_bytes(data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object that none was under the key before; whether it was not, and is this one now."""
        if self.mirror is not None:
            is_new = self.mirror.bucket.replace(key, data, None)
            self.mirror.current(key)
            return is_new
        with self.locked(f"{key.rpartition('/')[0]}/.lock"):
            if is_new := not self.exists(key):
                self.put(key, data)
        return is_new

    def change(self, key: str, make: Callable[[], bytes | None]) -> None:
        """Write what `make` gives in the place of a record that others write too, or for None leave it.

        `make` reads it, and what lies beside it, as it is then, and is called again where another wrote meanwhile.
        """
        folder = key.rpartition("/")[0]
        with self._locked_here(f"{folder}/.lock"):
            if self.mirror is None:
                if (data := make()) is not None:
                    self.put(key, data)
                return
            self.mirror.check_conditions()
            for number in range(TRIES):
                self.refresh(folder)
                tag = self.mirror.current(key)
                data = make()
                if data is None or self.mirror.bucket.replace(key, data, tag):
                    self.mirror.current(key)
                    return
                time.sleep(random.random() * min(number, 10) / 10)
        raise ServiceError(f"{self}/{key} is written by others all the time: do it again")

    def put_derived(self, key: str, data: bytes) -> None:
        """As `put`, of what can be made again: a store that cannot be written to goes without it."""
        try:
            self.put(key, data, durable=False)
        except (OSError, ServiceError) as error:
            logger.info("%s is not kept: %s", self.path(key), error)

    def discard(self, key: str) -> None:
        """Delete what can be made again, if it is there and the store can be written to."""
        try:
            if self.mirror is not None:
                self.mirror.drop([self.path(key)])
            self._objects.delete(key)
        except (BaseError, FileNotFoundError, ServiceError) as error:
            logger.info("%s is not deleted: %s", self.path(key), error)

    def link(self, source: str, target: str, *, durable: bool = True) -> None:
        """Make `target` the same object as `source`, without copying its bytes where the disk can."""
        link_whole(self.file(source), self.file(target), durable=durable)

    def share(self, objects: Mapping[str, str]) -> None:
        """Make each of `objects` the same as another, of which the key stands beside it, all of them on the disk then.

        A bucket holds what is the same once (`shared`): that it does is made sure of.
        """
        if self.mirror is None:
            folders = {key.rpartition("/")[0]: None for key in objects}
            for folder in (*folders, *{key.rpartition("/")[0] for key in objects.values()}):
                self.spot(folder)
            for target, source in objects.items():
                if not is_linked(self.path(source), self.path(target)):
                    self.link(source, target, durable=False)
            for folder in folders:
                sync(self.path(folder))
            return
        there = {
            entry.key
            for folder in {source.rpartition("/")[0] for source in objects.values()}
            for entry in self.mirror.bucket.entries(folder)
        }
        for source in set(objects.values()) - there:  # it was deleted there since it was found here
            self.mirror.send(self.path(source), self.path(source))

    def shared(self, target: str, source: str | None) -> Path:
        """Where `target` is read, which may be the same object as `source`."""
        if self.mirror is not None and source is not None and (path := self.file(source)).is_file():
            return path
        return self.file(target)

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys below `prefix`, sorted; objects still being written are not among them."""
        yield from sorted(entry.key for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """All objects below `prefix`, in no order, without what is still being written.

        OSError where a folder may not be listed; IntegrityError for a name that is no text.
        """
        if self.mirror is not None and is_data(prefix):
            for listed in self.mirror.bucket.entries(prefix):
                yield Entry(listed.key, listed.size, listed.modified_us)
            return
        yield from self._below(prefix, frozenset())

    def _below(self, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
        """All objects below a folder, which lies in those `above`.

        A link that leads out of the store, round or to nothing counts as a file: whoever reads it is told.
        """
        try:
            stat = os.stat(self.path(folder))
            with os.scandir(self.path(folder)) as found:
                entries = [entry for entry in found if not entry.name.endswith(PARTIAL)]
        except (FileNotFoundError, NotADirectoryError):
            return
        above |= {(stat.st_dev, stat.st_ino)}
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if not entry.name.isprintable():
                raise IntegrityError(f"{self.path(folder)} holds a name that no store has: {entry.name!a}")
            try:
                leads_on = not entry.is_symlink() or self._leads_within(entry, above)
                if leads_on and entry.is_dir():
                    yield from self._below(key, above)
                elif not leads_on or entry.is_file():
                    stat = entry.stat(follow_symlinks=leads_on)
                    yield Entry(key, stat.st_size, stat.st_mtime_ns // 1000)
            except FileNotFoundError:  # it was just deleted
                continue

    def _leads_within(self, entry: os.DirEntry[str], above: frozenset[tuple[int, int]]) -> bool:
        """Whether a link leads to something in the store, and to no folder that it lies in."""
        try:
            stat = entry.stat()
        except OSError:  # it leads to nothing, or to itself
            return False
        is_within = Path(os.path.realpath(entry.path)).is_relative_to(self.root)
        return is_within and (stat.st_dev, stat.st_ino) not in above

    def put_original(self, data: bytes, sha256: str | None = None) -> str:
        """Keep a photograph's original bytes under their sha256, which the caller may have taken, and return it."""
        sha256 = sha256 or bytes_digest(data)
        key = original_key(sha256)
        if self.mirror is not None:
            is_there = self.mirror.size(key) == len(data)
        else:  # damaged bytes are mended by the next build that has them
            is_there = self.exists(key) and self.get(key) == data
        if not is_there:
            self.put(key, data, durable=False)  # there are many, and each can be read again
        return sha256

    def adopt_original(self, path: str | Path, sha256: str) -> None:
        """Keep a photograph whose bytes are in a file, and have that sha256, by moving the file to its place."""
        key = original_key(sha256)
        if self.mirror is not None:
            if self.mirror.size(key) != os.path.getsize(path):
                self.put(key, Path(path), durable=False)
            os.unlink(path)
            return
        target = f"{self.root}/{key}"
        if os.path.isfile(target) and file_digest(Path(target)) == sha256:
            os.unlink(path)
            return
        try:
            os.replace(path, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(path, target)

    def original(self, sha256: str) -> bytes:
        """A photograph's original bytes, checked against their sha256 (IntegrityError names it)."""
        data = self.get(original_key(sha256))
        if bytes_digest(data) != sha256:
            raise IntegrityError(f"{self.path(original_key(sha256))} no longer has the sha256 of its name")
        return data


def original_key(sha256: str) -> str:
    """Where a photograph's original bytes are kept; IntegrityError for what is no sha256."""
    if not _SHA256.fullmatch(sha256 or ""):
        raise IntegrityError(f"{sha256!r} is no sha256 of a photograph")
    return f"originals/{sha256[:2]}/{sha256}"


def spelled(root: Path) -> str:
    """A store's folder, or its URL, of which a path has folded two slashes."""
    found = _URL.match(str(root))
    return str(root) if found is None or found[1] == "file" else f"{found[1]}://{found[2]}"


def _folder_of(root: str) -> Path:
    """The folder in which a store is worked on, by its folder or its URL."""
    found = _URL.match(root)
    if found is None:
        return real_path(Path(root).expanduser())
    scheme, rest = found.groups()
    if scheme == "file":
        return real_path(Path(url2pathname(urlsplit(f"file:///{rest}").path)))
    return Mirror.of_url(f"{scheme}://{rest}").root
