"""A local folder of photographs, read recursively, with licences and authors from the JSONL files beside them.

Every visible file but JSONL is an item, so that a file which is no photograph is counted as rejected instead of
passed over. A file that says that a model drew it is rejected. A JSONL row describes `file`, a path relative to the
JSONL's own folder; files in the folder, below it, and in its parent are read. Not here: any look at the pixels.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from preprocessing.crawl.readers import read_photograph
from preprocessing.crawl.signals import Signal, SignalsConfig, policy
from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason
from preprocessing.sources.metadata import checked, item_from_row
from storage.digest import bytes_digest
from storage.errors import SourceError

logger = logging.getLogger(__name__)

_SYNTHETIC = SignalsConfig(honoured=(Signal.SYNTHETIC,))


@dataclass(frozen=True)
class FolderSource:
    """The photographs under `root`, an absolute path."""

    root: Path
    reject_synthetic: bool = True
    """Whether a file is refused that says that a model drew it; what else it says refuses nothing of one's own."""
    kind: ClassVar[str] = "folder"

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

    def items(self, limit: int | None = None) -> list[Item]:
        """Every photograph, sorted by its POSIX path relative to the root, or the first so many."""
        refs: list[str] = []
        about: list[Path] = []
        for path in _files(self.root, ()):
            if path.suffix.lower() == ".jsonl":
                about.append(path)
            else:
                refs.append(_ref(path, self.root))
        refs.sort()
        facts = _metadata(self.root, sorted(about))
        if absent := facts.keys() - set(refs):
            logger.warning("%d files that metadata describes are not in %s", len(absent), self.root)
        return [facts.get(ref, Item(ref)) for ref in refs[:limit]]

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes] | Rejection]:
        """The bytes of each item, read now."""
        for item in items:
            path = self.root / item.ref
            try:
                if not path.is_file():  # a broken link, or something that never ends, such as a pipe
                    raise FileNotFoundError
                data = path.read_bytes()
            except OSError as error:
                yield Rejection(item.ref, Reason.UNREADABLE_FILE, detail=type(error).__name__)
            else:
                verdict = policy(read_photograph(data), _SYNTHETIC) if self.reject_synthetic else None
                if verdict is None or verdict.reason is None:
                    yield checked(item, data)
                else:
                    yield Rejection(item.ref, Reason(verdict.reason), bytes_digest(data), detail=verdict.rule)


def _files(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Visible files below `folder`, through links but never into a folder that holds the present one."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        entries = list(os.scandir(folder))
    except OSError as error:
        raise SourceError(f"folder {folder} cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry.path):
            yield from _files(Path(entry.path), (*above, identity))
        elif os.path.isfile(entry.path) or entry.is_symlink():
            yield Path(entry.path)


def _ref(path: Path, root: Path) -> str:
    """POSIX path below the root; a name that is no UTF-8 is escaped, and so rejected as unreadable later."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _metadata(root: Path, inside: Sequence[Path]) -> dict[str, Item]:
    """What the JSONL files say, by ref: those inside the root and those in its parent folder."""
    facts: dict[str, tuple[Item, str]] = {}
    for path in (*_beside(root), *inside):
        for number, row in _rows(path):
            where = f"{path}:{number}"
            ref = _described_ref(row["file"], path, root)
            if ref is None:
                continue
            item = item_from_row(ref, row, where)
            known, known_where = facts.setdefault(ref, (item, where))
            if known != item:
                raise SourceError(f"{where} and {known_where} say different things about {ref}")
    return {ref: item for ref, (item, _) in facts.items()}


def _beside(root: Path) -> list[Path]:
    """JSONL files in the root's parent that are about the root: any other is no business of this source."""
    files = [path for path in sorted(root.parent.glob("*.jsonl")) if path.is_file()]
    return [path for path in files if any(_is_about(row, path, root) for _, row in _lines(path))]


def _is_about(row: dict[str, Any] | None, path: Path, root: Path) -> bool:
    return (
        row is not None
        and isinstance(row.get("file"), str)
        and _described_ref(row["file"], path, root) is not None
    )


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a metadata JSONL with their line numbers; none where the file is about something else."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, row in _lines(path):
        if row is None:
            raise SourceError(f"{path}:{number} is not a JSON object")
        rows.append((number, row))
    if rows and not any("file" in row for _, row in rows):
        logger.warning("%s has no key `file` in any row: not read as metadata", path)
        return []
    for number, row in rows:
        if not isinstance(row.get("file"), str) or not row["file"]:
            raise SourceError(
                f"{path}:{number} lacks `file`, the photograph's path relative to {path.parent}"
            )
    return rows


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The lines that are not blank, numbered from 1; None for one that is no JSON object."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="backslashreplace")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _json_object(line)


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _described_ref(file: str, path: Path, root: Path) -> str | None:
    """The ref of the file that a row in the JSONL at `path` is about; None outside of the root."""
    described = Path(os.path.normpath(path.parent / file))
    return _ref(described, root) if described.is_relative_to(root) else None
