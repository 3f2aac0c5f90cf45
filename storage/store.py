"""Where bytes are kept: a folder of immutable objects under keys, written whole or not at all.

Not here: what the keys mean. Layout belongs to the module that owns it (`manifest`, `runs`, the stages).

    store = Store("./store")
    store.put("originals/ab/abcd...", data)
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from obstore.exceptions import BaseError
from obstore.store import LocalStore

from storage.digest import bytes_digest, file_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.local import PARTIAL, link_whole, whole_file

logger = logging.getLogger(__name__)

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it is listed: its size in bytes, and when it was written, in microseconds."""

    key: str
    size: int
    modified_us: int


@dataclass(frozen=True)
class Store:
    """A local folder as an object store; `root` is created on the first write and travels by value."""

    root: Path

    def __init__(self, root: str | Path) -> None:
        if re.match(r"\w{2,}:/", str(root)):  # one slash: a Path folds two
            raise ConfigError(f"store {root!s} is a URL, and a store is a local folder, such as ./store")
        path = Path(root).expanduser().resolve()
        if path.exists() and not path.is_dir():
            raise ConfigError(f"store {root!s} is a file, and a store is a folder")
        object.__setattr__(self, "root", path)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.root,)

    @cached_property
    def _objects(self) -> LocalStore:
        try:
            return LocalStore(prefix=self.root, mkdir=True)
        except OSError as error:
            raise ConfigError(f"store {self.root} cannot be created: {error}") from error

    def path(self, key: str) -> Path:
        """The local file or folder of a key."""
        return self.root / key

    def exists(self, key: str) -> bool:
        """Whether an object was ever completely written under `key`."""
        return self.path(key).is_file()

    def file(self, key: str) -> Path:
        """As `path`, of what is to be read or written; IntegrityError where a name or a link leads out of the store."""
        place = str(self.root)
        for part in key.split("/"):
            place = f"{place}/{part}"
            if part == ".." or (
                os.path.islink(place) and not Path(place).resolve().is_relative_to(self.root)
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
        path = self.file(key)
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
        with whole_file(self.file(key), durable=durable) as partial:
            if isinstance(data, Path):
                shutil.copyfile(data, partial)
            else:
                partial.write_bytes(data)

    def put_derived(self, key: str, data: bytes) -> None:
        """As `put`, of what can be made again: a store that cannot be written to goes without it."""
        try:
            self.put(key, data, durable=False)
        except OSError as error:
            logger.info("%s is not kept: %s", self.path(key), error)

    def discard(self, key: str) -> None:
        """Delete what can be made again, if it is there and the store can be written to."""
        try:
            self._objects.delete(key)
        except (BaseError, FileNotFoundError) as error:
            logger.info("%s is not deleted: %s", self.path(key), error)

    def link(self, source: str, target: str) -> None:
        """Make `target` the same object as `source`, without copying its bytes where the disk can."""
        link_whole(self.file(source), self.file(target))

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys below `prefix`, sorted; objects still being written are not among them."""
        yield from sorted(entry.key for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        """All objects below `prefix`, in no order, without what is still being written."""
        if not self.path(prefix).is_dir():
            return
        for batch in self._objects.list(prefix):
            for entry in batch:
                if not entry["path"].endswith(PARTIAL):
                    yield Entry(entry["path"], entry["size"], round(entry["last_modified"].timestamp() * 1e6))

    def put_original(self, data: bytes) -> str:
        """Keep a photograph's original bytes under their sha256 and return it."""
        sha256 = bytes_digest(data)
        key = original_key(sha256)
        if (
            not self.exists(key) or self.get(key) != data
        ):  # damaged bytes are mended by the next build that has them
            self.put(key, data, durable=False)  # there are many, and each can be read again
        return sha256

    def adopt_original(self, path: Path, sha256: str) -> None:
        """Keep a photograph whose bytes are in a file, and have that sha256, by moving the file to its place."""
        target = f"{self.root}/{original_key(sha256)}"
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
