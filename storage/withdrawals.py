"""What is left on record of what was forgotten: a withdrawal in place of a version's tables, and a certificate.

    datasets/NAME/VERSION/withdrawn.json     the manifest, hashes alone, which the version is still named by
    forgets/ID/certificate.json              what was done, with hashes before and after, and nothing of anybody
    forgets/ID/intent.json                   while it is under way: what is to go, so that a killed one goes on

    check_not_withdrawn(store, "faces", "3f2a9c01")

Not here: how photographs are found (`preprocessing.forgetting`), and how they go (`storage.datasets.forget`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from storage.datasets.records import VersionName
from storage.digest import bytes_digest
from storage.errors import FormatError, IntegrityError, NotFoundError, WithdrawnError
from storage.local import fail, listed
from storage.records import FileName, Part, Sha256, StoredRecord, Version, json_object
from storage.store import Store
from storage.wording import numbered

logger = logging.getLogger(__name__)

FILE = "withdrawn.json"
FOLDER = "forgets"
INTENT, CERTIFICATE, PAGE = "intent.json", "certificate.json", "certificate.html"


class Withdrawal(StoredRecord):
    """A version whose tables and shards are gone, since photographs of it were forgotten."""

    dataset: str
    version: Version
    manifest_sha256: Sha256
    manifest: str
    """Its bytes, which hold settings, counts and hashes: those of tables and shards among them."""
    withdrawn_at: str
    forget: FileName
    """The certificate, by its name in `forgets`."""
    photographs: int
    """How many of its photographs were forgotten."""
    successor: Version | None = None
    """What is left of it; None where nothing is."""

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return f"{self.dataset}@{self.version}"

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest as it was stored; of what is no text other bytes, which have another hash."""
        return self.manifest.encode(errors="replace")


class Before(VersionName):
    """A version as it was, and how much of it was forgotten."""

    photographs: int
    images: list[Sha256] = Field([])
    """Of what was forgotten; in a certificate it is left out."""
    num_images: int
    rejections: int
    shards: list[Sha256] = Field([])


class After(Part):
    """What a dataset's name means afterwards."""

    name: str
    before: Version
    version: Version | None = None
    """None where nothing was left."""
    manifest_sha256: Sha256 | None = None
    config_sha256: str | None = None
    code_commit: str | None = None
    shards: int = 0
    shards_written: int = 0
    """Those of them that no version had before."""


class NearCopies(Part):
    """What the audit of a checkpoint says of pictures near to what was forgotten."""

    checkpoint: str
    space: str
    seed: int
    distance: float
    threshold: float
    is_near_copy: bool


class Export(Part):
    """A copy of a version outside of the store, which only its owner can delete."""

    dataset: str
    layout: str
    name: str
    """Of the folder or file, without where it lies."""
    sha256: Sha256


class Touched(Part):
    """A run that learned from what was forgotten, and what it left."""

    run_id: str
    dataset: str
    through: str | None = None
    """The run that was trained on it, where this one began with weights of that run, or with what came of them."""
    checkpoints: list[str]
    grids: int
    audited: bool
    near_copies: list[NearCopies] = Field([])


class LearnedBundled(Part):
    """The generator in the box, which learned from what was forgotten, and cannot be erased: it ships."""

    sha256: Sha256
    """Of its file."""
    photographs: int
    """How many of those that it learned from were asked for."""


class Certificate(StoredRecord):
    """What was forgotten, without saying whose it was."""

    forget: FileName
    asked_at: str
    finished_at: str
    likeness: str
    """The version of the code."""
    asked: dict[str, int]
    """How much of each kind was asked for."""
    asked_digests: list[Sha256]
    """HMAC-SHA256 of each thing that was asked for, under the store's key of tombstones."""
    photographs: int
    found_by: dict[str, int]
    images: int
    rejections: int
    tombstones: dict[str, int]
    """How many of each kind."""
    tombstones_sha256: Sha256 | None = None
    withdrawn: list[Before]
    withdrawals: dict[str, Sha256] = Field({})
    """The sha256 of the record that took the place of each version's tables."""
    published: list[After]
    erased: dict[str, int]
    """How many originals, and rows of the ledger, went."""
    runs: list[Touched]
    exports: list[Export]
    bundled: LearnedBundled | None = None
    prefect: str = "not reached"
    """Whether its server was told."""


class Intent(StoredRecord):
    """What is to go; it holds names and addresses, and goes itself when all is done."""

    forget: FileName
    asked_at: str
    asked: dict[str, Any]
    counts: dict[str, int]
    asked_digests: list[Sha256]
    photos: dict[Sha256, str]
    urls: list[str]
    refs: list[str]
    texts: list[str]
    authors: list[str]
    tombstones: list[tuple[str, str]]
    versions: list[Before]
    names: dict[str, Version]
    """The names whose latest version has some of it, and that version."""
    runs: list[Touched]
    exports: list[Export]
    bundled: LearnedBundled | None = None
    erased: dict[str, int]
    shards: list[Sha256]
    """Of all versions that there were."""


def key_of(forget: str, file: str) -> str:
    """Where a file of a request to forget lies."""
    return f"{FOLDER}/{forget}/{file}"


def withdrawals(
    store: Store, name: str = "*", beginning: str = "", refused: Callable[[OSError], None] = fail
) -> Iterator[Withdrawal]:
    """The withdrawals of a name, or of all, whose versions begin so; while tables are still there it is none.

    One that cannot be read is passed over with a warning that names it; `refused` as of `listed`.
    """
    for path in withdrawn(store, name, beginning, refused):
        if not path.with_name("manifest.json").exists():
            try:
                yield Withdrawal.read(path)
            except (IntegrityError, FormatError) as error:
                logger.warning("%s", error)


def withdrawn(
    store: Store, name: str = "*", beginning: str = "", refused: Callable[[OSError], None] = fail
) -> list[Path]:
    """The files of them, whatever these hold; `refused` as of `listed`."""
    return listed(store.path("datasets"), f"{name}/{beginning}*/{FILE}", refused)


def certificates(store: Store) -> Iterator[Certificate]:
    """All of a store, oldest first."""
    for path in listed(store.path(FOLDER), f"*/{CERTIFICATE}"):
        yield Certificate.read(path)


def intents(store: Store) -> list[Intent]:
    """What was begun, and is not done yet."""
    return [Intent.read(path) for path in listed(store.path(FOLDER), f"*/{INTENT}")]


def check_not_withdrawn(store: Store, name: str, version: str | None, who: str | None = None) -> None:
    """WithdrawnError where a version, by its first digits, was withdrawn, or, of None, all of a name was.

    `who` is what was made from it.
    """
    found = list(withdrawals(store, name, version or ""))
    there = listed(store.path(f"datasets/{name}"), f"{version or ''}*/manifest.json")
    if found and not any(there):
        raise WithdrawnError(sentence(store, found[-1], who))


def sentence(store: Store, withdrawal: Withdrawal, who: str | None = None) -> str:
    """What became of a version, for people."""
    made = f"{who} was trained on {withdrawal.reference}, which" if who else withdrawal.reference
    successor = successor_of(store, withdrawal)
    left = f"what is left of it is {withdrawal.dataset}@{successor}" if successor else "nothing is left of it"
    return (
        f"{made} was withdrawn on {withdrawal.withdrawn_at[:10]}, since "
        f"{numbered(withdrawal.photographs, 'photograph')} of it had to be forgotten: {left}"
    )


def successor_of(store: Store, withdrawal: Withdrawal) -> str | None:
    """The version that is left, of successors that may have been withdrawn too."""
    seen = {withdrawal.version}
    version = withdrawal.successor
    while version is not None and version not in seen:
        folder = store.path(f"datasets/{withdrawal.dataset}/{version}")
        if (folder / "manifest.json").exists():
            return version
        seen.add(version)
        try:
            version = Withdrawal.read(folder / FILE).successor
        except NotFoundError:
            return None
    return None


def problems_of(store: Store, path: Path) -> Iterator[str]:
    """Why a withdrawal is not what it was written as; nothing where it is."""
    if path.with_name("manifest.json").exists():
        yield f"{path} lies beside manifest.json, which only a likeness forget has that is under way"
        return
    withdrawal = Withdrawal.read(path)
    sha256 = bytes_digest(withdrawal.manifest_bytes)
    if sha256 != withdrawal.manifest_sha256 or not sha256.startswith(withdrawal.version):
        yield f"{path} does not hold the manifest that its version is named by"
    if path.parent.name != withdrawal.version or path.parents[1].name != withdrawal.dataset:
        yield f"{path} is of {withdrawal.reference}"
    if others := sorted(one.name for one in path.parent.iterdir() if one.name != FILE):
        yield f"{path.parent} was withdrawn, and still holds {', '.join(others)}: likeness forget goes on with it"
    certificate = store.file(key_of(withdrawal.forget, CERTIFICATE))
    if not certificate.is_file():
        yield f"{certificate}, which {path} names, is missing"
    elif Certificate.read(certificate).withdrawals.get(withdrawal.reference) != bytes_digest(
        path.read_bytes()
    ):
        yield f"{path} is not the record that {certificate} names"


def problems_of_certificate(store: Store, path: Path) -> Iterator[str]:
    """Why a certificate does not hold today."""
    certificate = Certificate.read(path)
    yield from (f"{path} is at odds with itself: {what}" for what in _at_odds(certificate, path.parent.name))
    before = {version.reference: version for version in certificate.withdrawn}
    for reference in certificate.withdrawals:
        name, _, version = reference.partition("@")
        folder = store.path(f"datasets/{name}/{version}")
        if (folder / "manifest.json").exists():
            yield f"{folder} is there again, which {path} says was withdrawn"
        elif not (folder / FILE).is_file():
            yield f"{folder / FILE}, which {path} names, is missing"
        elif reference in before and not _was(before[reference], Withdrawal.read(folder / FILE)):
            yield f"{path} says of {reference} what {folder / FILE} does not"
    if sha256 := certificate.tombstones_sha256:
        tombstones = store.path(f"tombstones/{sha256}.jsonl")
        if not tombstones.is_file() or bytes_digest(tombstones.read_bytes()) != sha256:
            yield f"{tombstones}, which {path} names, is missing or damaged: what it keeps out may return"
        elif _kinds(tombstones) != certificate.tombstones:
            yield f"{path} counts other tombstones than {tombstones} has"


def _at_odds(certificate: Certificate, folder: str) -> Iterator[str]:
    """In what a certificate does not agree with itself, or its place."""
    if certificate.forget != folder:
        yield f"it is of {certificate.forget}"
    if sum(certificate.found_by.values()) != certificate.photographs:
        yield "its photographs are more or fewer than were found"
    if sum(version.rejections for version in certificate.withdrawn) != certificate.rejections:
        yield "its rejections are more or fewer than those of its versions"
    if {version.reference for version in certificate.withdrawn} != certificate.withdrawals.keys():
        yield "it does not name the records of all that it withdrew"
    if certificate.tombstones_sha256 is None and certificate.tombstones:
        yield "it counts tombstones, and names none"


def _was(before: Before, withdrawal: Withdrawal) -> bool:
    """Whether a version was as a certificate says; a record that is not what it was is named by its own check."""
    if bytes_digest(withdrawal.manifest_bytes) != withdrawal.manifest_sha256:
        return True
    shards = json_object(withdrawal.manifest_bytes, withdrawal.reference).get("shards", [])
    found = (withdrawal.manifest_sha256, withdrawal.photographs, [shard["sha256"] for shard in shards])
    return found == (before.manifest_sha256, before.photographs, before.shards)


def _kinds(tombstones: Path) -> dict[str, int]:
    """How many tombstones of each kind a file has."""
    lines = (json_object(line, tombstones) for line in tombstones.read_bytes().splitlines())
    return dict(Counter(str(line["kind"]) for line in lines if "kind" in line))
