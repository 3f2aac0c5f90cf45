"""Where what lies in a store: which names are files and which are folders, and whatever lies there that is neither.

    for problem in misplaced(Store("./store")): ...

A version's folder and a run's may hold what people put there; folders of records and of data hold these alone. Not
here: whether a file is what it was (`storage.verify`).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from storage.datasets.records import NAME_PATTERN
from storage.errors import IntegrityError
from storage.imports import NAME_PATTERN as IMPORT_PATTERN
from storage.local import PARTIAL
from storage.mirror import is_here_alone
from storage.store import Store
from storage.withdrawals import FILE as WITHDRAWN
from storage.wording import plain

_NAME, _ANY, _SHA256 = NAME_PATTERN, "[^/]+", "[0-9a-f]{64}"
_VERSION = f"datasets/{_NAME}/[0-9a-f]{{16}}"
_RUN, _IMPORT = f"runs/{_ANY}", f"imports/{IMPORT_PATTERN}"

FOLDERS = (
    f"datasets(/{_NAME}(/builds|/rechecks|/[0-9a-f]{{16}}(/shards|/images.parquet|/rejections.parquet)?)?)?",
    f"runs(/{_ANY}(/checkpoints(/{_ANY})?|/metrics|/audit|/grids)?)?",
    f"chunks(/shard|/table|/align(/{_ANY}(/gathered)?)?|/crawl(/{_ANY})?)?",
    "originals(/[0-9a-f]{2})?",
    "ledger(/segments(/[0-9]{2})?|/working)?",
    "tombstones",
    f"forgets(/{_ANY})?",
    f"promotions(/{_NAME}(/decisions)?)?",
    f"exports(/{_NAME})?",
    f"imports(/{IMPORT_PATTERN})?",
    "answers|cache|incoming|leases|lineage|mlartifacts",
)
"""Keys of folders."""
FILES = (
    r"originals/(?P<two>[0-9a-f]{2})/(?P=two)[0-9a-f]{62}",
    rf"datasets/{_NAME}/(latest|(builds|rechecks)/{_ANY})\.json",
    rf"{_VERSION}/({re.escape(WITHDRAWN)}|manifest\.json|shards\.txt|(images|rejections)\.(parquet|parts\.json))",
    rf"{_VERSION}/(shards/{_ANY}\.(tar|index\.json)|(images|rejections)\.parquet/{_ANY}\.parquet)",
    rf"{_RUN}/((run|result|mlflow)\.json|lock|(metrics|audit)/{_ANY}\.json|checkpoints/{_ANY}/state\.json)",
    rf"chunks/(shard/{_ANY}\.(tar|json|parquet)|table/{_ANY}\.parquet)",
    rf"chunks/(align/{_ANY}/({_ANY}\.(parquet|images)|gathered/{_ANY}\.parquet)|crawl/{_ANY}/{_ANY}\.parquet)",
    rf"ledger/segments/[0-9]{{2}}/{_SHA256}\.parquet",
    rf"tombstones/(key|{_SHA256}\.jsonl)",
    rf"forgets/{_ANY}/(intent\.json|certificate\.(json|html))",
    rf"promotions/{_NAME}/(champion\.json|decisions/{_ANY}\.json)",
    rf"exports/{_NAME}/{_ANY}\.json",
    rf"{_IMPORT}/import\.json",
    r"mlflow\.db",
    r"(.*/)?\.lock",
)
"""Keys of files."""
OPEN = (
    "",
    _VERSION,
    _RUN,
    rf"{_RUN}/(checkpoints|metrics|audit|grids)",
    rf"{_RUN}/checkpoints/{_ANY}",
    _IMPORT,
)
"""Folders that may hold other files and folders too."""
LOOSE = "answers|cache|incoming|leases|lineage|mlartifacts|ledger/working"
"""Folders whose content is made again, or is others': it is not looked at."""
NEEDED = {_RUN: "run.json", rf"{_RUN}/checkpoints/[0-9]+": "state.json", _IMPORT: "import.json"}
"""The record without which a folder that holds something is none of its kind."""

_FOLDER, _FILE, _OPEN = (
    re.compile("|".join(f"(?:{one})" for one in all_)) for all_ in (FOLDERS, FILES, OPEN)
)
_LOOSE = re.compile(LOOSE)
_NEEDED = [(re.compile(folder), name) for folder, name in NEEDED.items()]
_PHOTO = re.compile(FILES[0])
NOT_OURS = "is none of what a store has there"
UNKNOWN = "what it holds is not known, and nothing is deleted"
UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""In the place of bytes of a name that are no text."""

Kind = Literal["file", "folder", "other"]


def misplaced(store: Store) -> Iterator[str]:
    """What is wrong with the names and kinds of all that lies in a store, a sentence each."""
    yield from _in_bucket(store) if store.mirror is not None else _in_folder(store)


def _in_folder(store: Store) -> Iterator[str]:
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        path = store.path(folder) if folder else store.root
        try:
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:  # it was just deleted
            continue
        except OSError as error:
            yield f"{path} cannot be listed: {error.strerror}"
            continue
        if not os.access(path, os.X_OK):
            yield f"{path} cannot be entered: {os.strerror(errno.EACCES)}"
            continue
        names = set()
        for entry in found:
            name = os.fsencode(entry.name).decode(errors="replace")
            if (name.startswith(".") and name != ".lock") or name.endswith(PARTIAL):
                continue
            names.add(name)
            key = f"{folder}/{name}" if folder else name
            if entry.is_symlink() and (problem := _problem_of_link(store, Path(entry.path))):
                yield f"{path / plain(name)} {problem}"
                continue
            kind: Kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
            if problem := _problem(key, kind):
                yield f"{path / plain(name)} {problem}"
            elif kind == "folder" and _FOLDER.fullmatch(key) and not _LOOSE.fullmatch(key):
                waiting.append(key)
        yield from (f"{path / name} is missing" for name in _lacking(folder, names))


def check_listed(store: Store) -> None:
    """IntegrityError where a folder may not be looked through, so that what it holds, or needs, is not known."""

    def refused(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # it was just deleted
            raise IntegrityError(
                f"{error.filename} cannot be listed ({error.strerror}): {UNKNOWN}"
            ) from error

    for place, _, _ in os.walk(store.root, onerror=refused):
        if not os.access(place, os.R_OK | os.X_OK) and os.path.lexists(place):
            raise IntegrityError(f"{place} cannot be entered ({os.strerror(errno.EACCES)}): {UNKNOWN}")


def _in_bucket(store: Store) -> Iterator[str]:
    """As `_in_folder`, of a bucket, in which files alone are, and folders by their names."""
    assert store.mirror is not None
    names: dict[str, set[str]] = {}
    for entry in store.mirror.bucket.entries(""):
        folder, _, name = entry.key.rpartition("/")
        if is_here_alone(entry.key) or _PHOTO.fullmatch(entry.key) or _is_passed_over(entry.key):
            continue
        names.setdefault(folder, set()).add(name)
        if problem := _problem(entry.key, "file"):
            yield f"{store.path(plain(entry.key))} {problem}"
    parents = {parent.as_posix() for folder in names for parent in (Path(folder), *Path(folder).parents)}
    for folder in sorted(parents - {"."}):
        above, _, name = folder.rpartition("/")
        if name in names.get(above, ()):
            yield f"{store.path(folder)} is a file, and a folder too"
        elif _FILE.fullmatch(folder) and (problem := _problem(folder, "folder")):
            yield f"{store.path(folder)} {problem}"
        yield from (
            f"{store.path(folder) / name} is missing" for name in _lacking(folder, names.get(folder, ()))
        )


def _is_passed_over(key: str) -> bool:
    """Whether a file lies in a folder that may be there and is not looked at, such as a version's report."""
    for parent in reversed(PurePosixPath(key).parents[:-1]):
        folder = str(parent)
        if _LOOSE.fullmatch(folder):
            return True
        if not _FOLDER.fullmatch(folder):
            return _OPEN.fullmatch(folder.rpartition("/")[0]) is not None
    return False


def _problem_of_link(store: Store, path: Path) -> str | None:
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(store.root):
        return f"leads out of the store {store.root}, and nothing is read or written there"
    if not path.exists():
        return "is a link to nothing"
    return "is a link to a folder that it lies in" if path.is_relative_to(target) else None


def _problem(key: str, kind: Kind) -> str | None:
    """Why something does not belong under a key; None where it does."""
    if kind == "other":
        return "is neither a file nor a folder"
    ours, others = (_FILE, _FOLDER) if kind == "file" else (_FOLDER, _FILE)
    if UNREADABLE not in key:
        if ours.fullmatch(key):
            return None
        if others.fullmatch(key):
            return f"is a {kind}, and a {'folder' if kind == 'file' else 'file'} belongs there"
        folder, _, name = key.rpartition("/")
        if name != WITHDRAWN and _OPEN.fullmatch(folder):
            return None
    return NOT_OURS


def _lacking(folder: str, names: Iterable[str]) -> Iterator[str]:
    """The record that a folder has to have, where it has others and not that one."""
    for pattern, needed in _NEEDED:
        if pattern.fullmatch(folder) and {*names} - {"lock"} and needed not in names:
            yield needed
