"""A local folder of photographs, read recursively, with licences and authors from the tables beside them.

Every visible file but a table is an item, so that a file which is no photograph is counted as rejected instead of
passed over. A table, JSONL or a CSV with such a column, describes in each row one `file` (or `file_name`, as Hugging
Face has it), a path relative to the table's own folder; tables in the folder, below it, and in its parent are read.
A file that says that a model drew it is rejected.
What cannot be read, a folder, a table or a row of one, is an item of its own that is rejected, so that it is counted
and named. Not here: any look at the pixels.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from preprocessing.crawl.readers import read_photograph
from preprocessing.crawl.signals import Signal, SignalsConfig, policy
from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason
from preprocessing.sources.metadata import KEYS, checked, item_from_row, once
from storage.digest import bytes_digest
from storage.errors import SourceError
from storage.local import file_bytes
from storage.wording import numbered

logger = logging.getLogger(__name__)

_SYNTHETIC = SignalsConfig(honoured=(Signal.SYNTHETIC,))

FILE_KEYS = ("file", "file_name")
"""Keys of the photograph's path, the first one there."""


@dataclass(frozen=True)
class FolderSource:
    """The photographs under `root`, an absolute path."""

    root: Path
    reject_synthetic: bool = True
    """Whether a file is refused that says that a model drew it; what else it says refuses nothing of one's own."""
    kind: ClassVar[str] = "folder"
    # By ref: files whose names are no UTF-8 text, and what is no photograph and says why.
    _paths: dict[str, Path] = field(default_factory=dict, repr=False, compare=False)
    _problems: dict[str, Rejection] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: str, *, reject_synthetic: bool = True) -> FolderSource:
        """The source of the folder at `path`; SourceError where there is none."""
        # Not resolved: metadata names files by the paths the user sees, links included.
        root = Path(os.path.abspath(Path(path).expanduser()))
        if not root.is_dir():
            raise SourceError(
                f"folder {root} does not exist" if not root.exists() else f"{root} is not a folder"
            )
        return cls(root, reject_synthetic)

    def description(self) -> dict[str, Any]:
        """The kind, and where nothing is refused, that: what a folder holds is told by its items."""
        return (
            {"kind": self.kind} if self.reject_synthetic else {"kind": self.kind, "reject_synthetic": False}
        )

    @property
    def problems(self) -> list[str]:
        """What was found wrong with metadata when items were listed, a sentence each."""
        wrong = (problem for problem in self._problems.values() if problem.reason is Reason.BAD_METADATA)
        return [f"{problem.ref} {problem.detail}" for problem in wrong]

    def files(self) -> tuple[list[Path], dict[Path, str]]:
        """Every photograph, sorted, and every folder that cannot be read, with the reason."""
        self._problems.clear()
        paths = [path for path in self._files(str(self.root), ()) if not _is_table(path)]
        refused = {self.root / ref: str(problem.detail) for ref, problem in self._problems.items()}
        return [Path(path) for path in sorted(paths, key=lambda path: path.split(os.sep))], refused

    def items(self, limit: int | None = None) -> list[Item]:
        """Every photograph, sorted by its POSIX path relative to the root, or the first so many; then what is wrong."""
        self._paths.clear()
        self._problems.clear()
        refs: list[str] = []
        tables: list[Path] = []
        for path in self._files(str(self.root), ()):
            if _is_table(path):
                tables.append(Path(path))
            else:
                refs.append(self._ref(path))
        refs.sort()
        facts = self._facts([*self._beside(), *sorted(tables)])
        if absent := self._renamed(facts, refs):
            logger.warning(
                "%s that metadata describes %s not in %s",
                numbered(len(absent), "file"),
                "is" if len(absent) == 1 else "are",
                self.root,
            )
        wrong = [Item(ref) for ref in sorted(self._problems)]
        return [facts.get(ref, Item(ref)) for ref in refs[:limit]] + wrong

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes] | Rejection]:
        """The bytes of each item, read now."""
        for item in items:
            if problem := self._problems.get(item.ref):
                yield problem
                continue
            path = self._paths.get(item.ref, self.root / item.ref)
            try:
                data = file_bytes(path)
            except OSError as error:
                yield Rejection(item.ref, Reason.UNREADABLE_FILE, detail=type(error).__name__)
            else:
                verdict = policy(read_photograph(data), _SYNTHETIC) if self.reject_synthetic else None
                if verdict is None or verdict.reason is None:
                    yield checked(item, data)
                else:
                    yield Rejection(item.ref, Reason(verdict.reason), bytes_digest(data), detail=verdict.rule)

    # Paths below are texts: of a large folder most of the time went into making paths, and taking them apart.

    def _files(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """Visible files below `folder`, through links but never into a folder that holds the present one."""
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                return
            entries = list(os.scandir(folder))
        except OSError as error:
            if not above:
                raise SourceError(f"folder {folder} cannot be read: {error.strerror}") from error
            return self._note(f"{self._ref(folder)}/", Reason.UNREADABLE_FILE, type(error).__name__)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from self._files(entry.path, (*above, identity))
            else:  # a broken link, a pipe or a socket too: reading it rejects it
                yield entry.path

    @cached_property
    def _prefix(self) -> str:
        """What the path of a file below the root begins with."""
        return os.path.join(self.root, "")

    def _ref(self, path: str) -> str:
        """POSIX path below the root; of a name that is no UTF-8 text, the bytes that are not are escaped."""
        below = path.removeprefix(self._prefix).replace(os.sep, "/")
        ref = os.fsencode(below).decode("utf-8", "backslashreplace")
        if ref != below:
            self._paths[ref] = Path(path)
        return ref

    @staticmethod
    def _renamed(facts: dict[str, Item], refs: Sequence[str]) -> set[str]:
        """Give facts to the one file whose name is another form of the same Unicode text; those that are of no file."""
        absent = facts.keys() - set(refs)
        nameless = defaultdict(list)
        for ref in refs if absent else ():
            if ref not in facts:
                nameless[unicodedata.normalize("NFC", ref)].append(ref)
        for form, names in Counter(unicodedata.normalize("NFC", ref) for ref in absent).items():
            if names == 1 and len(nameless[form]) == 1:
                [ref] = (ref for ref in absent if unicodedata.normalize("NFC", ref) == form)
                facts[nameless[form][0]] = replace(facts.pop(ref), ref=nameless[form][0])
        return facts.keys() - set(refs)

    def _note(self, ref: str, reason: Reason, detail: str | None) -> None:
        self._problems[ref] = Rejection(ref, reason, detail=detail)

    def _facts(self, tables: Sequence[Path]) -> dict[str, Item]:
        """What the tables say, by ref; of rows that say different things of one file, the first stands."""
        facts: dict[str, tuple[Item, str]] = {}
        for path in tables:
            name = os.path.relpath(path, self.root)
            try:
                rows = list(_rows(path))
            except OSError as error:
                self._note(name, Reason.UNREADABLE_FILE, type(error).__name__)
                continue
            if rows and all(row is None for _, row in rows):
                self._note(
                    name,
                    Reason.BAD_METADATA,
                    "has no row that is a JSON object or a row of CSV and says each thing once",
                )
                continue
            if rows and not any(row and _file(row) is not None for _, row in rows):
                logger.warning("%s has no key `file` or `file_name` in any row: not read as metadata", path)
                continue
            for number, row in rows:
                where = f"{name}:{number}"
                try:
                    described = self._described(row, path, where)
                    if described is None:
                        continue
                    known, known_where = facts.setdefault(described.ref, (described, where))
                    if known != described:
                        raise SourceError(f"{where} and {known_where} say different things about {known.ref}")
                except SourceError as error:
                    self._note(
                        where, Reason.BAD_METADATA, str(error).removeprefix(where).removeprefix(":").strip()
                    )
        if self._problems:
            num = len(self._problems)
            logger.warning(
                "%s of %s cannot be read, and %s rejected: %s%s",
                "1 folder, table or row" if num == 1 else f"{num} folders, tables or rows",
                self.root,
                "is" if num == 1 else "are",
                ", ".join(sorted(self._problems)[:3]),
                " and others" if num > 3 else "",
            )
        return {ref: item for ref, (item, _) in facts.items()}

    def _described(self, row: dict[str, Any] | None, path: Path, where: str) -> Item | None:
        """What one row says; None of a file outside of the root. SourceError where it cannot be understood."""
        if row is None:
            raise SourceError(f"{where} is no JSON object, or no row of CSV, or says one thing twice")
        file = _file(row)
        if not isinstance(file, str) or not file:
            raise SourceError(f"{where} lacks `file`, the photograph's path relative to the table's folder")
        try:
            ref = self._ref_of(file, path)
        except UnicodeEncodeError as error:
            raise SourceError(f"{where} names no file: {error.reason}") from error
        if ref is None:
            return None
        return item_from_row(ref, row, where)

    def _ref_of(self, file: str, path: Path) -> str | None:
        """The ref of the file that a row in the table at `path` is about; None outside of the root.

        UnicodeEncodeError where it is no name that a file could have.
        """
        described = os.path.normpath(os.path.join(os.path.dirname(path), file))
        return self._ref(described) if described.startswith(self._prefix) else None

    def _beside(self) -> list[Path]:
        """Tables in the root's parent that are about the root: any other is no business of this source."""
        files = sorted(
            path for path in self.root.parent.glob("*") if path.suffix.lower() in (".jsonl", ".csv")
        )
        return [path for path in files if path.is_file() and self._is_about_root(path)]

    def _is_about_root(self, path: Path) -> bool:
        try:
            return any(
                isinstance(file := _file(row or {}), str) and self._ref_of(file, path) is not None
                for _, row in _rows(path)
            )
        except (OSError, UnicodeEncodeError):
            return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one; one that cannot be looked into is one too."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _file(row: dict[str, Any]) -> Any:
    """The path that a row is about; None where it says none."""
    return next((row[key] for key in FILE_KEYS if row.get(key) is not None), None)


def _is_table(path: str) -> bool:
    """Whether it is a JSONL, or a CSV that has a column for the photograph's path; never what might never end."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".csv", ".jsonl") or not os.path.isfile(path):
        return False
    if suffix == ".jsonl":
        return True
    try:
        columns = csv.DictReader(io.StringIO(_text(Path(path)), newline=""), strict=True).fieldnames or ()
        return bool(set(FILE_KEYS) & {name.strip() for name in columns})
    except (OSError, csv.Error):
        return False


def _text(path: Path) -> str:
    """A table's text: UTF-16 where it begins with that mark, as Windows writes it, and else UTF-8."""
    with path.open("rb") as file:
        is_utf16 = file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)
    return path.read_text(encoding="utf-16" if is_utf16 else "utf-8-sig", errors="backslashreplace")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows of a table that are not blank, with their line numbers; None for one that is no JSON object.

    None too for a row of CSV of more cells than columns, or with a lone quote, and for what says one thing twice.
    """
    text = _text(path)
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number, _json_object(line)
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # a lone quote would swallow lines
    columns: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error:
            yield reader.line_num, None
            continue
        if cells is None:
            return
        if columns is None:
            columns = [name.strip() for name in cells]
            if any(columns.count(name) > 1 for name in (*FILE_KEYS, *KEYS)):
                yield reader.line_num, None
                return
        elif cells:
            # CSV has no null: an empty cell says nothing
            row = {key: value or None for key, value in zip(columns, cells, strict=False) if key}
            yield reader.line_num, row if len(cells) <= len(columns) else None


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
