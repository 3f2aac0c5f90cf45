"""Whether an export is what it was when it was written, and which version it is of: by its own files alone.

    record = record_of(Path("faces.zip"))

Not here: the version itself (`storage.datasets.verify`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from storage.checks import Check
from storage.datasets.dataset import Dataset
from storage.digest import bytes_digest
from storage.errors import IntegrityError, SourceError
from storage.exports.archive import MOST_JSON_BYTES, Archive, open_archive
from storage.exports.records import RECORD, SUMS, ExportRecord
from storage.store import Store

MOST_RECORD_BYTES = 1 << 20


def record_of(path: Path) -> ExportRecord | None:
    """What a folder or ZIP says of itself; None where it is no export of ours.

    IntegrityError or FormatError where it is one, and its record cannot be read.
    """
    if path.is_dir():
        if not (path / RECORD).is_file():
            return None
    elif path.suffix.lower() != ".zip" or not path.is_file():
        return None
    archive = open_archive(path)
    try:
        if RECORD not in archive.files:
            return None
        return ExportRecord.of_bytes(archive.read(RECORD, MOST_RECORD_BYTES), f"{path}: {RECORD}")
    except SourceError as error:
        raise IntegrityError(str(error)) from error


def version_of(store: Store, record: ExportRecord, path: Path) -> Dataset | None:
    """The version that an export was made of; None where it is not here, IntegrityError where another is."""
    dataset = Dataset(store, record.dataset.name, record.dataset.version)
    if not store.exists(f"{dataset.key}/manifest.json"):
        return None
    dataset.manifest  # which is checked by the version's name  # noqa: B018
    if dataset.manifest_sha256 != record.dataset.manifest_sha256:
        raise IntegrityError(f"{path} was made of another manifest than {dataset.folder} holds")
    return dataset


def checks_of_export(path: Path, record: ExportRecord) -> Iterator[Check]:
    """Every file of it, by its SHA256SUMS, whose own sha256 its record holds."""
    archive = open_archive(path)
    try:
        data = archive.read(SUMS, MOST_JSON_BYTES)
        lines = data.decode().splitlines()
    except (SourceError, UnicodeDecodeError) as error:
        yield Check("record", partial(_said, f"{path}: {SUMS} cannot be read: {error}"))
        return
    if bytes_digest(data) != record.sums_sha256:
        yield Check("record", partial(_said, f"{path}: {SUMS} no longer has the sha256 of {RECORD}"))
        return
    yield Check("record", lambda: ())
    known = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    for name, sha256 in known.items():
        yield Check("file", partial(_problems, archive, name, sha256), name)
    for name in sorted({*archive.files, *archive.refused} - {*known, SUMS, RECORD}):
        yield Check("file", partial(_said, f"{path}: {name} is none of the files that it was written with"))


def _problems(archive: Archive, name: str, sha256: str) -> Iterator[str]:
    if name not in archive.files:
        yield f"{archive.path}: {name} is missing"
    elif archive.digest(name) != sha256:
        yield f"{archive.path}: {name} no longer has its recorded sha256"


def _said(problem: str) -> list[str]:
    return [problem]
