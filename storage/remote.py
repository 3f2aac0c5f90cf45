"""A store that is somewhere else: a bucket, a folder, a plain web server, read in bounded pieces and never believed.

    remote = Remote("s3://bucket/prefix")
    data = remote.read("datasets/faces/latest.json", limit=65_536)
    sha256 = remote.fetch("chunks/shard/0f3a.tar", Path("new.tar"), limit=2_500_000)

Keys are those of `storage.store`. Not here: how a bucket is asked (`storage.bucket`), and what the bytes should be
(`storage.datasets.pull`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from obstore.exceptions import BaseError
from obstore.store import LocalStore

from storage.bucket import FIRST, Bucket, opened
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.store import Store

if TYPE_CHECKING:
    from obstore import ObjectMeta


class Remote(Bucket):
    """The store at a URL, or in a folder, which is made where a `new` one will do; ConfigError where it can be none."""

    def __init__(self, url: str, *, new: bool = False) -> None:
        self.url = url.rstrip("/") or url
        self._has_answered = True
        self.local: Store | None = None
        """The same store, where it is a folder of this machine."""
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", url)
        if scheme is None or scheme[1] == "file":
            path = url if scheme is None else url2pathname(urlsplit(url).path)
            self.local = Store(path)
            if not new and not self.local.root.is_dir():
                raise NotFoundError(f"there is no store {path}")
            self._objects = _folder(self.local, new)
        else:
            self._objects = opened(url, FIRST)
            self._has_answered = False

    def _copy(self, key: str, file: BinaryIO, limit: int, size: int | None) -> str:
        sha256 = super()._copy(key, file, limit, size)
        self._answered()
        return sha256

    def _head(self, key: str) -> ObjectMeta | None:
        found = super()._head(key)
        self._answered()
        return found

    def _answered(self) -> None:
        """From now on a failure is waited out: it is no wrong address."""
        if not self._has_answered:
            self._objects, self._has_answered = opened(self.url), True

    def _checked(self, key: str) -> None:
        """Of a folder: that no link leads out of it, and that the object is a file."""
        if self.local is None:
            return
        path = self.local.file(key)
        if not path.exists():
            raise NotFoundError(f"{self.name(key)} is not there")
        if not path.is_file():
            raise IntegrityError(f"{path} is no file")


def _folder(store: Store, new: bool) -> LocalStore:
    try:
        return LocalStore(prefix=store.root, mkdir=new)
    except (BaseError, OSError) as error:
        raise ConfigError(f"store {store} cannot be {'made' if new else 'opened'}: {error}") from error
