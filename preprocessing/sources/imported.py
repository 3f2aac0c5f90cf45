"""Somebody's aligned faces: a folder or a ZIP in a format of `storage.exports`, each image with what is said of it.

    import:PATH           in whichever format it is          import:FORMAT:PATH    in this one

Every file that could be an image is an item, and so is what is refused: an entry of the archive that leads out of it,
is a link or is there twice, a row about a file that is not there. What the format says of a photograph beyond the
columns here, its first reference and hash among it, is kept in `said`. Not here: any look at the pixels
(`preprocessing.aligned`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from preprocessing.crawl.blocklist import FORGOTTEN, Blocklist
from preprocessing.crawl.readers import read_photograph
from preprocessing.crawl.signals import Signal, SignalsConfig, policy
from preprocessing.crawl.urls import web_address
from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason, Rejected
from preprocessing.sources.metadata import checked, item_from_row
from storage.digest import bytes_digest, canonical_json
from storage.errors import ConfigError, IntegrityError, SourceError
from storage.exports.archive import MOST_IMAGE_BYTES, MOST_JSON_BYTES, Described, open_archive
from storage.exports.layouts import LAYOUTS, Opened, opened
from storage.exports.records import SUMS

MOST_SAID = 1 << 14
"""Characters of JSON that are kept of what is said of an image."""
_SYNTHETIC = SignalsConfig(honoured=(Signal.SYNTHETIC,))


@dataclass(frozen=True)
class ImportedSource:
    """The images of the folder or ZIP at `path`, an absolute path, in a format by its name."""

    path: Path
    layout: str
    reject_synthetic: bool = True
    kind: ClassVar[str] = "import"
    # by ref: what is no image that could be read, and why
    _problems: dict[str, Rejection] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, argument: str, *, reject_synthetic: bool = True) -> ImportedSource:
        """The source that PATH or FORMAT:PATH names; SourceError or ConfigError where there is none."""
        name, colon, rest = argument.partition(":")
        layout, path = (name, rest) if colon and name in LAYOUTS else (None, argument)
        if not path:
            raise ConfigError(f"source import:{argument} lacks its path: import:PATH")
        place = Path(path).expanduser().absolute()
        return cls(place, opened(place, layout).layout.name, reject_synthetic)

    def has(self, item: Item) -> bool:
        """Whether a listed item is an image, and not a problem."""
        return item.ref not in self._problems

    def bytes_of(self, name: str) -> bytes:
        """The file of an image; SourceError where it cannot be read."""
        return _opened(self.path, self.layout).archive.read(name, MOST_IMAGE_BYTES)

    def description(self) -> dict[str, Any]:
        """The format, the sha256 of the file that was imported, and the version that it says it is of."""
        found = _opened(self.path, self.layout)
        about: dict[str, Any] = {"kind": self.kind, "format": self.layout, "sha256": found.sha256()}
        if not self.reject_synthetic:
            about["reject_synthetic"] = False
        if record := found.record:
            about["of"] = {**record.dataset.as_json(), "resolution": record.resolution}
        return about

    def items(self, limit: int | None = None) -> list[Item]:
        """Every image that the format names, or the first so many; then what is wrong."""
        self._problems.clear()
        found = _opened(self.path, self.layout)
        sums = _sums(self.path)
        items: dict[str, Item] = {}
        for described in found.layout.read(found.archive):
            if described.problem is not None:
                self._note(described.name, *described.problem)
            elif described.name in items:
                self._note(f"{described.name}#{len(self._problems)}", "bad_metadata", "it is described twice")
            elif described.name not in found.archive.files:
                self._note(described.name, "unreadable_file", "it is not in the archive")
            else:
                try:
                    items[described.name] = _item(described, sums.get(described.name))
                except SourceError as error:
                    self._note(described.name, "bad_metadata", str(error))
        for name, (reason, detail) in found.archive.refused.items():
            self._note(name, reason, detail)
        for name in items.keys() & self._problems.keys():  # one entry of a name was read, another was not
            self._note(f"{name}#", *_reason(self._problems.pop(name)))
        wrong = [Item(ref) for ref in sorted(self._problems)]
        return list(items.values())[:limit] + wrong

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes] | Rejection]:
        """The bytes of each item, read now."""
        archive = _opened(self.path, self.layout).archive
        for item in items:
            if problem := self._problems.get(item.ref):
                yield problem
            elif (size := archive.files.get(item.ref, 0)) > MOST_IMAGE_BYTES:
                yield Rejection(
                    item.ref, Reason.TOO_MANY_BYTES, detail=f"{size} bytes, above {MOST_IMAGE_BYTES}"
                )
            else:
                try:
                    data = archive.read(item.ref, MOST_IMAGE_BYTES)
                except (SourceError, OSError) as error:
                    detail = re.sub(rf".*{re.escape(item.ref)}:? ", "", str(error))
                    yield Rejection(item.ref, Reason.UNREADABLE_FILE, detail=detail)
                else:
                    yield self._judged(item, data)

    def _judged(self, item: Item, data: bytes) -> tuple[Item, bytes] | Rejection:
        sha256 = bytes_digest(data)
        md5 = said_of(item).get("file_md5")
        if md5 is not None and hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            return Rejection(item.ref, Reason.CHECKSUM_MISMATCH, sha256, detail=f"expected md5 {md5}")
        if self.reject_synthetic:
            verdict = policy(read_photograph(data), _SYNTHETIC)
            if verdict.reason is not None:
                return Rejection(item.ref, Reason(verdict.reason), sha256, detail=verdict.rule)
        return checked(item, data)

    def _note(self, ref: str, reason: str, detail: str | None) -> None:
        ref = ref if ref.isprintable() else repr(ref)[1:-1]
        self._problems[ref] = Rejection(ref, Reason(reason), detail=detail)


def said_of(item: Item) -> dict[str, Any]:
    """What an imported item's format said of it, beyond the columns of an item."""
    found = json.loads(item.said) if item.said else {}
    return found if isinstance(found, dict) else {}


def refusal_of_origin(item: Item, blocklist: Blocklist) -> Rejected | None:
    """Why the photograph that an imported image was cut from must not be used: its tombstone."""
    said, buried = said_of(item), blocklist.tombstones
    ref, sha256 = said.get("ref"), said.get("photo_sha256")
    for address in (ref, item.page):
        try:
            found = blocklist.refusal_of_address(web_address(address)) if isinstance(address, str) else None
        except Rejected:  # it is none
            continue
        if found is not None:
            return found
    if isinstance(ref, str) and buried.has("ref", ref):
        return Rejected(Reason.BLOCKED_URL, FORGOTTEN)
    is_buried = isinstance(sha256, str) and buried.has("sha256", sha256)
    return Rejected(Reason.BLOCKED_SHA256, FORGOTTEN) if is_buried else None


def _item(described: Described, sha256: str | None) -> Item:
    """As an item; SourceError where what is said of it cannot be kept."""
    facts = dict(described.facts)
    ref = described.said.get("ref")
    if not facts.get("page") and isinstance(ref, str) and ref.startswith(("https://", "http://")):
        facts["page"] = ref
    try:
        said = canonical_json(described.said).decode()
    except (ValueError, RecursionError) as error:
        raise SourceError(f"what is said of it cannot be kept: {error}") from error
    if len(said) > MOST_SAID:
        raise SourceError(f"{len(said)} characters are said of it, above {MOST_SAID}")
    item = item_from_row(described.name, {**facts, "sha256": sha256}, described.name)
    return Item(**{**_fields(item), "said": said if described.said else None})


def _fields(item: Item) -> dict[str, Any]:
    return {name: getattr(item, name) for name in Item.__dataclass_fields__}


def _reason(rejection: Rejection) -> tuple[str, str | None]:
    return rejection.reason.value, rejection.detail


@lru_cache(maxsize=4)
def _opened(path: Path, layout: str) -> Opened:
    """The archive, listed once in each process."""
    return opened(path, layout)


def _sums(path: Path) -> dict[str, str]:
    """What SHA256SUMS, where there is one, says of each file."""
    place = open_archive(path)
    if SUMS not in place.files:
        return {}
    try:
        lines = place.read(SUMS, MOST_JSON_BYTES).decode().splitlines()
    except (SourceError, IntegrityError, UnicodeDecodeError):
        return {}
    pairs = (line.split(" ", 1) for line in lines if re.match("[0-9a-f]{64} [ *]", line))
    return {name[1:]: sha256 for sha256, name in pairs}
