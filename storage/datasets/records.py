"""What is on record of a dataset: a version's manifest, the builds that gave it, which version is the latest.

Not here: how they are written (`storage.datasets.manifest`), and how a version is opened (`storage.datasets.dataset`).
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from storage.environment import Facts
from storage.records import Inside, Part, Sha256, StoredRecord, Version

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a dataset may be called."""


class TableFacts(Part):
    """A table of a version: how many rows it has, and what these are checked by."""

    file: Inside | None = None
    """The one file of it, before format 3."""
    rows: int
    parts: Inside | None = None
    """The file that lists its parts, with their digests."""
    parts_sha256: Sha256 | None = None
    sha256: Sha256 | None = None
    """Of all rows, in format 1, which had no digests of parts."""

    @model_validator(mode="after")
    def _is_checked(self) -> Self:
        if None in (self.file, self.sha256) and None in (self.parts, self.parts_sha256):
            raise ValueError("it has no sha256")
        return self


class ShardFacts(Part):
    """A tar of a version, and its index."""

    file: Inside
    sha256: Sha256
    size: int
    images: int
    index_sha256: Sha256


class Counts(Part):
    """What became of the photographs of a version."""

    photos: int
    images: int
    rejected: dict[str, int] = Field({})
    """Rejections by reason."""
    images_missing: dict[str, int] = Field({})
    """Images without a fact of their source, by its column."""
    splits: dict[str, int] = Field({})
    """Images by their split, where there are any."""


class Manifest(StoredRecord):
    """What is in a version: all that determined its bytes, and the digests of these."""

    FORMAT: ClassVar[int] = 3
    """Format 1 had one digest for all rows of a table. Until format 2 a table was one file, and shards were cut by
    count, and had the facts of a photograph's source in them."""

    resolution: int
    """Side of every image, px."""
    source: dict[str, Any] = Field({})
    config: dict[str, Any] = Field({})
    counts: Counts
    images: TableFacts
    rejections: TableFacts
    shards: list[ShardFacts]

    @classmethod
    def _converted(cls, value: dict[str, Any]) -> dict[str, Any]:
        """As it is: its bytes are what its version is named by."""
        return value

    def table(self, name: Literal["images", "rejections"]) -> TableFacts:
        """The facts of a table."""
        return self.images if name == "images" else self.rejections

    def as_bytes(self) -> bytes:
        """The one form of a manifest, whose sha256 is the version."""
        return (json.dumps(self.as_json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


class BuildRecord(StoredRecord):
    """When, where and by which code a build gave which version."""

    build_id: str
    kind: str = "build"
    dataset: str | None = None
    version: Version
    manifest_sha256: Sha256 | None = None
    previous_version: str | None = None
    unchanged: bool = False
    was_known: bool = False
    """Whether an earlier build of the name gave the same version."""
    overtaken_by: str | None = None
    """The build whose version its name went on to mean, since it was asked for later and ended sooner."""
    started_at: str
    finished_at: str | None = None
    config: dict[str, Any] = Field({})
    """The resolved settings; empty where they are not on record."""
    config_sha256: str | None = None
    options: dict[str, Any] = Field({})
    seconds: float = 0.0
    stages: dict[str, dict[str, Any]] = Field({})
    """What became of the units of each stage."""
    timings: dict[str, dict[str, Any]] = Field({})
    """Seconds of each stage, and how many units it worked on."""
    facts: Facts = Facts()


class Latest(StoredRecord):
    """The version that a dataset's name alone means: that of the build that was asked for last."""

    version: Version
    build_id: str | None = None
    asked_at: str | None = None
    """When that build was asked for, in UTC."""


class VersionName(Part):
    """A version, by name and by hash."""

    name: str = Field(pattern=f"^{NAME_PATTERN}$")
    version: Version
    manifest_sha256: Sha256

    @property
    def reference(self) -> str:
        """NAME@VERSION, which names these bytes forever."""
        return f"{self.name}@{self.version}"


class VersionSummary(VersionName):
    """What a training run records of its input."""

    directory: Inside
    """The version's folder in the store."""
    resolution: int
    num_images: int
    """Of the split, if it is one."""
    shards: list[Inside]
    split: str | None = None
    """Which of the version's splits it is, if not all of it."""

    @property
    def part(self) -> str:
        """NAME@VERSION, or NAME@VERSION:SPLIT."""
        return self.reference if self.split is None else f"{self.reference}:{self.split}"
