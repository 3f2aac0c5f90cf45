"""Other people's networks in a store: a folder a name, with their weights, and where they come from.

    imports/ffhq/import.json                    file, its sha256, licence, origin, config
    imports/ffhq/generator_ema.safetensors      and generator, discriminator: as in a checkpoint
    imports/ffhq/noise.safetensors              the fixed noise that the file holds

Not here: how a file of theirs is read (`training.imports`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from storage.digest import file_digest
from storage.errors import IntegrityError, NotFoundError
from storage.local import here, listed
from storage.records import StoredRecord
from storage.store import Store

IMPORTED = "imported"
"""The entry of a picture's origin that says which import drew it."""
NAME_PATTERN = "[a-z0-9][a-z0-9_-]{0,63}"


class ImportRecord(StoredRecord):
    """What is on record of somebody else's networks."""

    name: str
    created_at: str
    file: str
    """The name of the file that was imported."""
    file_sha256: str
    license: str
    """As an SPDX identifier, or in its own words."""
    origin: str | None = None
    """Where the file was published."""
    config: dict[str, Any]
    """The settings of a run that has such networks."""
    sha256: dict[str, str]
    """Of each file beside the record, by name."""

    @property
    def generator_sha256(self) -> str:
        """The hash of the weights that images are drawn with."""
        return self.sha256["generator_ema.safetensors"]

    def facts(self) -> dict[str, Any]:
        """What `likeness trace` shows of it."""
        facts = {
            "name": self.name,
            "file": self.file,
            "file_sha256": self.file_sha256,
            "license": self.license,
        }
        return {**facts, "origin": self.origin, "created_at": self.created_at, "sha256": self.sha256}


@dataclass(frozen=True)
class Import:
    """One import: `folder` is <store>/imports/<name>."""

    folder: Path

    @cached_property
    def record(self) -> ImportRecord:
        """What is on record of it."""
        return ImportRecord.read(self.folder / "import.json")

    def check(self, only: str | None = None) -> None:
        """IntegrityError where one of its files, or the only one that matters, is not as it was written."""
        for name, sha256 in self.record.sha256.items():
            path = self.folder / name
            if only in (None, name) and (not here(path).is_file() or file_digest(path) != sha256):
                raise IntegrityError(f"{path} is missing or no longer has its recorded sha256")


def import_folder(store: Store, name: str) -> Path:
    """Where the import of a name lies, or would."""
    return store.path(f"imports/{name}")


def known_import(store: Store, reference: str) -> Import | None:
    """The import that a name or its folder means; None where there is none."""
    folder = Path(reference)
    return Import(folder.resolve()) if (folder / "import.json").is_file() else _named(store, reference)


def _named(store: Store, name: str) -> Import | None:
    if re.fullmatch(NAME_PATTERN, name) and store.exists(f"imports/{name}/import.json"):
        return Import(import_folder(store, name))
    return None


def find_import(store: Store, name: str) -> Import:
    """The import of a name; NotFoundError where there is none."""
    found = _named(store, name)
    if found is None:
        there = [path.parent.name for path in listed(store.path("imports"), "*/import.json")]
        raise NotFoundError(f"no import {name!r} in {store}: there are {', '.join(there) or 'none'}")
    return found
