"""What is on record of an export: inside it, what it is of; in the store, where it went.

    OUT/export.json                              the version that it was made of, and how
    OUT/SHA256SUMS                               of every other file in it, as `sha256sum --check` reads it
    STORE/exports/NAME/VERSION-FORMAT-....json   where it was written, and when

The first two are the same for the same version and settings. Not here: how an export is written
(`storage.exports.write`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from storage.datasets.records import VersionName
from storage.digest import bytes_digest
from storage.records import Sha256, StoredRecord
from storage.store import Store

RECORD, SUMS = "export.json", "SHA256SUMS"


class ExportRecord(StoredRecord):
    """What an export says of itself."""

    dataset: VersionName
    layout: str
    """Its format: ffhq, stylegan and so on."""
    resolution: int
    """Side of every image, px."""
    images: int
    settings: dict[str, Any] = Field({})
    """What else determined its bytes."""
    sums_sha256: Sha256
    """Of the file of the digests of all others."""


class Exported(StoredRecord):
    """What a store says of an export that was made of one of its versions."""

    dataset: VersionName
    layout: str
    resolution: int
    images: int
    out: str
    """The folder or the file, where it was written."""
    bytes: int
    sha256: Sha256
    """Of its `export.json`, or of the whole file where it is a ZIP."""
    created_at: str

    @property
    def key(self) -> str:
        """Where it lies in the store: another export to the same place takes its place."""
        place = bytes_digest(self.out.encode(errors="surrogateescape"))[:8]
        return f"exports/{self.dataset.name}/{self.dataset.version}-{self.layout}-{place}.json"


def exports_of(store: Store) -> Iterator[Exported]:
    """Every export on record; IntegrityError or FormatError where one cannot be read."""
    for key in store.keys("exports"):
        if key.endswith(".json"):
            yield Exported.read(store.file(key))
