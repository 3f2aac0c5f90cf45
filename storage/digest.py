"""Identity of data: sha256 of bytes, of files and of canonical JSON. Not here: that of code (`storage.code`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any


def bytes_digest(data: bytes) -> str:
    """sha256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def cached_file_digest(path: Path) -> str:
    """As `file_digest`, once a process: for files that do not change while it runs, such as models."""
    return file_digest(path)


def canonical_json(value: Any) -> bytes:
    """The one JSON form of `value`: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode(errors="surrogatepass")


def json_digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    return bytes_digest(canonical_json(value))


class RowsDigest:
    """sha256 over rows, each as canonical JSON and a newline: a table's identity whatever file holds it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, rows: Iterable[Any]) -> None:
        """Go on with these rows."""
        for row in rows:
            self._digest.update(canonical_json(row))
            self._digest.update(b"\n")

    def hexdigest(self) -> str:
        """Of all rows so far."""
        return self._digest.hexdigest()


def rows_digest(rows: Iterable[Any]) -> str:
    """The `RowsDigest` of these rows."""
    digest = RowsDigest()
    digest.add(rows)
    return digest.hexdigest()
