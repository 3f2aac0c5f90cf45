"""What another store says of its datasets: names, versions, which is the latest, which builds gave them.

And what came of a copy from there or to there.

    found = Elsewhere(remote, "faces")
    found.version("1f0c")

None of it is checked by a hash, so that it leads to manifests and is believed in nothing else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from storage.datasets.dataset import VERSION_DIGITS, Dataset
from storage.datasets.records import NAME_PATTERN, BuildRecord, Latest
from storage.errors import ConfigError, FormatError, IntegrityError, NotFoundError
from storage.remote import Remote

logger = logging.getLogger(__name__)

POINTER_LIMIT = 64 << 10
"""Bytes of `latest.json`."""
BUILD_LIMIT = 1 << 20
"""Bytes of the record of a build."""
BUILDS = 1000
"""Of a name, so many of the newest are looked at."""
AT_ONCE = 8
"""Objects that are asked for at a time."""
_BUILD_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")


Report = Callable[[int, int], None]
"""Is told how many shards, or photographs, are where they should be, of how many."""


def quiet(done: int, total: int) -> None:
    """A report to nobody."""


@dataclass
class Copied:
    """What came of a copy between stores, or would come of it."""

    dataset: Dataset
    store: str
    """Where it came from, or went to."""
    copied: int = 0
    """Files that the other did not have, but for records."""
    num_bytes: int = 0
    """Of these."""
    here: int = 0
    """Files that it had."""
    absent: int | None = None
    """Photographs of the version that are not there then; None where that was not looked at."""
    is_latest: bool = False
    """Whether the name alone means the version then."""

    def count(self, sizes: Iterable[int | None], report: Report = quiet, total: int = 0) -> None:
        """Add files, `total` of them, by the bytes that were copied; None stands for a file that was there."""
        for number, size in enumerate(sizes):
            self.here += size is None
            self.copied += size is not None
            self.num_bytes += size or 0
            report(number + 1, total)

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "reference": self.dataset.reference,
            "store": self.store,
            "copied": self.copied,
            "bytes": self.num_bytes,
            "here": self.here,
            "absent_originals": self.absent,
            "latest": self.is_latest,
        }


def names_in(remote: Remote) -> list[str]:
    """The names of all datasets; ServiceError where the store does not say."""
    return [name for name in remote.names("datasets")[0] if re.fullmatch(NAME_PATTERN, name)]


def parsed(reference: str) -> tuple[str, str | None]:
    """The name, and the digits of the version if any, of NAME or NAME@V."""
    match = re.fullmatch(rf"({NAME_PATTERN})(?:@([0-9a-f]{{1,64}}))?", reference)
    if match is None:
        raise ConfigError(f"dataset reference {reference!r} is neither NAME nor NAME@VERSION")
    return match[1], match[2]


class Elsewhere:
    """One dataset of another store, as it is when first asked for."""

    def __init__(self, remote: Remote, name: str) -> None:
        self.remote = remote
        self.name = name
        self.key = f"datasets/{name}"

    @cached_property
    def versions(self) -> list[str]:
        """All that there are; none where the store does not list what it holds."""
        if not self.remote.lists:
            return []
        folders = [name for name in self.remote.names(self.key)[0] if re.fullmatch("[0-9a-f]{16}", name)]
        return [name for name in folders if self.remote.size(f"{self.key}/{name}/manifest.json") is not None]

    @cached_property
    def latest(self) -> Latest | None:
        """What the name alone means there."""
        key = f"{self.key}/latest.json"
        try:
            return Latest.of_bytes(self.remote.read(key, POINTER_LIMIT), self.remote.name(key))
        except NotFoundError:
            return None

    def version(self, digits: str | None) -> str:
        """The version whose digits begin so, or that the name means; a NotFoundError says what there is."""
        if digits is not None and len(digits) >= VERSION_DIGITS:
            return digits[:VERSION_DIGITS]
        if digits is not None and not self.remote.lists:
            raise ConfigError(
                f"{self.remote.url} does not list what it holds: name all {VERSION_DIGITS} digits of the version"
            )
        if digits is None and self.latest is not None:
            return self.latest.version
        found = [version for version in self.versions if version.startswith(digits or "")]
        if digits is not None and len(found) == 1:
            return found[0]
        raise NotFoundError(self._nothing(digits))

    def _nothing(self, digits: str | None) -> str:
        what = f"dataset {self.name!r}" if digits is None else f"version {digits!r} of dataset {self.name!r}"
        if self.versions:
            return f"no one {what} in {self.remote.url}: its versions are {', '.join(self.versions)}"
        there = names_in(self.remote) if self.remote.lists else []
        return f"no {what} in {self.remote.url}" + (f": it holds {', '.join(there)}" if there else "")

    @cached_property
    def builds(self) -> list[tuple[BuildRecord, bytes]]:
        """The records of builds, oldest first, as they lie there; of a store that does not list, the latest's."""
        if self.remote.lists:
            files = self.remote.names(f"{self.key}/builds")[1]
            ids = [file.removesuffix(".json") for file in files if file.endswith(".json")]
        else:
            ids = [self.latest.build_id] if self.latest is not None and self.latest.build_id else []
        ids = [build_id for build_id in ids if _BUILD_ID.fullmatch(build_id)][-BUILDS:]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [found for found in pool.map(self._build, ids) if found is not None]

    def builds_of(self, version: str, manifest_sha256: str) -> list[tuple[BuildRecord, bytes]]:
        """Those that say that they gave a version."""
        return [
            (record, data)
            for record, data in self.builds
            if record.version == version and record.manifest_sha256 in (None, manifest_sha256)
        ]

    def _build(self, build_id: str) -> tuple[BuildRecord, bytes] | None:
        key = f"{self.key}/builds/{build_id}.json"
        try:
            data = self.remote.read(key, BUILD_LIMIT)
            record = BuildRecord.of_bytes(data, self.remote.name(key))
        except (NotFoundError, IntegrityError, FormatError) as error:
            logger.warning("%s", error)
            return None
        return (record, data) if record.build_id == build_id else None
