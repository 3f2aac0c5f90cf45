"""What a source says about its photographs: one row of a list to an `Item`, and the promise it makes kept.

Not here: guessing. A key that is missing stays None.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason
from storage.digest import bytes_digest
from storage.errors import SourceError

KEYS = ("license", "license_url", "author", "title", "page", "sha256")
"""Columns of a list, and keys of a JSONL, that are read; others are ignored."""


def item_from_row(ref: str, row: Mapping[str, Any], where: str) -> Item:
    """The item that a list's row describes; `where` (file:line) names it in a SourceError."""
    values = {key: _text(value, key, where) for key in KEYS if (value := row.get(key)) is not None}
    sha256 = values.pop("sha256", None)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise SourceError(f"{where}: sha256 {sha256!r} is not 64 hexadecimal digits")
    for key in ("license", "license_url"):  # a few texts, which many items have
        if text := values.get(key):
            values[key] = sys.intern(text)
    return Item(ref, expected_sha256=sha256.lower() if sha256 else None, **values)


def checked(item: Item, data: bytes) -> tuple[Item, bytes] | Rejection:
    """The item with its bytes, or a rejection where they are not the ones it promises."""
    if item.expected_sha256 is None:
        return item, data
    if (digest := bytes_digest(data)) != item.expected_sha256:
        return Rejection(
            item.ref, Reason.CHECKSUM_MISMATCH, digest, detail=f"expected {item.expected_sha256}"
        )
    return item, data


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where it says one name several times, of which readers take the first or the last."""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands there several times")
    return row


def _text(value: Any, key: str, where: str) -> str | None:
    # Parquet through pandas writes a missing text as NaN, which alone differs from itself.
    if value != value:
        return None
    if not isinstance(value, str):
        raise SourceError(f"{where}: {key} is {value!r}, not text")
    if value.isascii():
        return value.strip() or None
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{where}: {key} {value!r} is not Unicode text: {error.reason}") from error
    return value.strip() or None
