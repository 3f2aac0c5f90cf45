"""Objects in a bucket, or on a web server, by their keys: read in bounded pieces, and written whole or not at all.

    bucket = Bucket("s3://bucket/prefix")
    data = bucket.read("datasets/faces/latest.json", limit=65_536)
    bucket.replace("datasets/faces/latest.json", data, tag=bucket.tag("datasets/faces/latest.json"))

A server's failures and dropped connections are tried again, for a bounded time. Credentials come from the environment
alone. Not here: what the bytes should be (`storage.datasets.pull`), and which of them are kept here (`storage.mirror`).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import urlsplit

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import HTTPStore, LocalStore, from_url

from storage.errors import ConfigError, IntegrityError, NotFoundError, ServiceError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https")
"""Of URLs that obstore opens; `file` is a folder."""
RETRY: RetryConfig = {
    "max_retries": 60,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=10),
        "base": 3,  # a wait is random up to so many times the last: by the default, 2, they hardly grow
    },
}
"""Of a request that was not answered, or with a server's error: two minutes, which a store's restart takes."""
FIRST: RetryConfig = {"max_retries": 6, "retry_timeout": timedelta(seconds=30)}
"""Of one without which nothing is lost, as the first of a command: a few seconds."""
CLIENT: ClientConfig = {"timeout": timedelta(hours=1), "read_timeout": timedelta(seconds=30)}
"""A server that is silent for half a minute has dropped the connection."""
TRIES = 4
"""How often an object is asked for whose bytes stop halfway."""
PAUSE_S = 0.2
PIECE = 1 << 20
"""Bytes that are read at a time, at least."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
DELETED_AT_ONCE = 1000
STOPPED = "body error"
"""What obstore says of an answer that stops halfway."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a bucket lists it: its size in bytes, when it was written, in microseconds, and its tag."""

    key: str
    size: int
    modified_us: int
    tag: str | None


class Bucket:
    """The objects below a URL; ConfigError where it can be none."""

    def __init__(self, url: str, retry: RetryConfig = RETRY) -> None:
        self.url = url.rstrip("/") or url
        self._objects = opened(self.url, retry)

    @cached_property
    def hasty(self) -> Bucket:
        """The same, which fails within seconds where nobody answers, and not after minutes."""
        return Bucket(self.url, FIRST)

    @property
    def lists(self) -> bool:
        """Whether it says what it holds; a plain web server does not."""
        return not isinstance(self._objects, HTTPStore)

    def name(self, key: str) -> str:
        """What an error calls an object."""
        return f"{self.url}/{key}" if key else self.url

    def read(self, key: str, limit: int) -> bytes:
        """An object's bytes; errors as of `fetch`."""
        buffer = io.BytesIO()
        self._copy(key, buffer, limit, None)
        return buffer.getvalue()

    def fetch(self, key: str, path: Path, limit: int, size: int | None = None) -> str:
        """Write an object to a file as it arrives, and return its sha256.

        NotFoundError where there is none; IntegrityError before anything is read where it has more than `limit` bytes,
        or other than `size`; ServiceError where the store refuses, or does not answer.
        """
        with path.open("wb") as file:
            return self._copy(key, file, limit, size)

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None where there is none."""
        found = self._head(key)
        return None if found is None else found["size"]

    def tag(self, key: str) -> str | None:
        """What tells this state of an object from others; None where there is no object."""
        found = self._head(key)
        return None if found is None else found["e_tag"]

    def names(self, key: str) -> tuple[list[str], list[str]]:
        """Of the folders and of the objects right below a folder, sorted; ServiceError where the store does not say."""
        if not self.lists:
            raise ServiceError(f"{self.url} is a plain web server, which does not list what it holds")
        found = self._whole(key, lambda: self._objects.list_with_delimiter(key or None))
        objects = [entry["path"] for entry in found["objects"]]
        folders, files = (
            sorted(path.rpartition("/")[2] for path in paths) for paths in (found["common_prefixes"], objects)
        )
        return folders, files

    def entries(self, prefix: str) -> Iterator[Listed]:
        """All objects below a folder, in no order."""
        batches = iter(self._objects.list(prefix or None))
        last: str | None = None

        def following() -> Sequence[ObjectMeta] | None:
            nonlocal batches
            try:
                return next(batches, None)
            except (BaseError, OSError):  # what follows is asked for anew
                batches = iter(self._objects.list(prefix or None, offset=last))
                raise

        while (batch := self._whole(prefix, following)) is not None:
            for entry in batch:
                modified_us = round(entry["last_modified"].timestamp() * 1e6)
                yield Listed(entry["path"], entry["size"], modified_us, entry["e_tag"])
                last = entry["path"]

    def piece(self, key: str, offset: int, size: int) -> bytes:
        """Some bytes of an object; errors as of `fetch`."""
        return self._whole(key, lambda: bytes(self._objects.get_range(key, start=offset, length=size)))

    def put(self, key: str, data: bytes | Path) -> str | None:
        """Write an object, whole or not at all, and return its tag."""
        try:
            return self._objects.put(key, data)["e_tag"]
        except (BaseError, OSError, ValueError) as error:
            raise self._failed(key, error) from error

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Write an object if nobody else did since it had the `tag`, or for None since there was none."""
        try:
            self._objects.put(key, data, mode="create" if tag is None else {"e_tag": tag})
        except (AlreadyExistsError, PreconditionError):
            return self._was_written(key, data)
        except (BaseError, OSError, ValueError) as error:
            raise self._failed(key, error) from error
        return True

    def honours_conditions(self, key: str) -> bool:
        """Whether an object that is to be new is refused where it is there; nothing of `key` is left."""
        try:
            return [self.replace(key, data, None) for data in (b"1", b"2")] == [True, False]
        finally:
            self.delete([key])

    def _was_written(self, key: str, data: bytes) -> bool:
        """Whether an object is what was to be written: then the answer to a first try was lost, and not the write."""
        try:
            return self.read(key, len(data)) == data
        except (NotFoundError, IntegrityError):
            return False

    def copy(self, key: str, target: str) -> None:
        """Have an object under another key too."""
        try:
            self._objects.copy(key, target)
        except (BaseError, OSError, ValueError) as error:
            raise self._failed(key, error) from error

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, whether or not they are there."""
        waiting = iter(keys)
        while batch := list(islice(waiting, DELETED_AT_ONCE)):
            with suppress(NotFoundError):
                self._whole(batch[0], partial(self._objects.delete, batch))

    def _whole(self, key: str, ask: Callable[[], Answer]) -> Answer:
        """What is answered, asked for again where it stops halfway; errors as of `fetch`."""
        for tries_left in reversed(range(TRIES)):
            try:
                return ask()
            except (BaseError, OSError, ValueError) as error:
                if not tries_left or STOPPED not in str(error):
                    raise self._failed(key, error) from error
            time.sleep(PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def _copy(self, key: str, file: BinaryIO, limit: int, size: int | None) -> str:
        for tries_left in reversed(range(TRIES)):
            digest = hashlib.sha256()
            file.seek(0)
            file.truncate()
            try:
                for piece in self._pieces(key, limit, size):
                    digest.update(piece)
                    file.write(piece)
                break
            except _StoppedError:
                if not tries_left:
                    raise
                time.sleep(PAUSE_S)
        return digest.hexdigest()

    def _checked(self, key: str) -> None:
        """Raise for what is not to be read, before it is."""

    def _pieces(self, key: str, limit: int, size: int | None = None) -> Iterator[bytes]:
        """The pieces of an object; _StoppedError where they end early."""
        try:
            self._checked(key)
            got = self._objects.get(key)
        except (BaseError, OSError, ValueError) as error:
            raise self._failed(key, error) from error
        said = got.meta["size"]
        if said > limit or size not in (None, said):
            most = f"at most {limit}" if size is None else str(size)
            raise IntegrityError(f"{self.name(key)} has {said} bytes, and should have {most}")
        read = 0
        try:
            for piece in got.stream(min_chunk_size=PIECE):
                read += len(piece)
                if read > said:
                    raise IntegrityError(f"{self.name(key)} has more than the {said} bytes that it says")
                yield bytes(piece)
        except (BaseError, OSError) as error:
            raise _StoppedError(
                f"{self.name(key)} stops after {read} of {said} bytes: {_reason(error)}"
            ) from error
        if read < said:
            raise _StoppedError(f"{self.name(key)} stops after {read} of {said} bytes")

    def _head(self, key: str) -> ObjectMeta | None:
        try:
            self._checked(key)
            return self._objects.head(key)
        except NotFoundError:
            return None
        except (BaseError, OSError, ValueError) as error:
            failed = self._failed(key, error)
            if isinstance(failed, NotFoundError):
                return None
            raise failed from error

    def _failed(self, key: str, error: Exception) -> NotFoundError | ServiceError:
        if "NoSuchBucket" in str(error):
            return ServiceError(f"{self.name(key)} cannot be had: there is no such bucket")
        if isinstance(error, FileNotFoundError):
            return NotFoundError(f"{self.name(key)} is not there")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return ServiceError(
                f"{self.name(key)} is refused: {_reason(error)}; credentials are taken from the environment"
            )
        return ServiceError(f"{self.name(key)} cannot be had: {_reason(error)}")


class _StoppedError(ServiceError):
    """Bytes that end early, which another try may mend."""


def opened(url: str, retry: RetryConfig = RETRY) -> LocalStore:
    """The client of a URL, by obstore, whose kinds have the same methods."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise ConfigError(f"store {url} is neither a folder nor one of file, {', '.join(SCHEMES)}://...")
    try:
        parts = urlsplit(url)
        is_secret = parts.password is not None or (scheme[:2] != "ab" and parts.username is not None)
    except ValueError as error:
        raise ConfigError(f"store {url} is no URL: {error}") from error
    if is_secret or parts.query or parts.fragment:
        raise ConfigError(
            f"store {scheme}://{parts.hostname}{parts.path} is given with a user, a query or a fragment: credentials "
            f"are taken from the environment"
        )
    is_plain = scheme == "http" or any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
    try:
        return from_url(url, client_options={**CLIENT, "allow_http": is_plain}, retry_config=retry)  # type: ignore[return-value]
    except (BaseError, OSError, ValueError) as error:
        raise ConfigError(f"store {url} cannot be opened: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What obstore says, in few words: its first line, without addresses, pages of HTML and XML."""
    first = str(error).partition("\n")[0]
    if "169.254." in first:
        return "there are no credentials, such as AWS_ACCESS_KEY_ID (or AWS_SKIP_SIGNATURE=true for a public bucket)"
    if found := re.search(r"status code: ([^:<]*[^:<\s])", first):
        return f"it answers {found[1]}"
    return first.rpartition(" error: ")[2].strip() or type(error).__name__
