"""A list of URLs, fetched over HTTP: txt (a URL a line, # for comments), csv, jsonl or parquet.

Tables have a column `url`, and may have license, license_url, author, title, page and sha256; other columns are
ignored. Not here: how a URL is fetched (`preprocessing.crawl`), and searching for photographs.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from preprocessing.crawl.fetch import FetchConfig
from preprocessing.records import Item
from preprocessing.sources.metadata import item_from_row
from preprocessing.sources.web import Web
from storage.errors import SourceError
from storage.tables import BATCH_ROWS

logger = logging.getLogger(__name__)

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands (file:line) and its columns."""


@dataclass(frozen=True)
class UrlSource(Web):
    """The photographs at the URLs that the file at `path` lists."""

    path: Path
    kind: ClassVar[str] = "urls"

    @classmethod
    def open(cls, path: str, fetch: FetchConfig) -> UrlSource:
        """The source of the list at `path`; SourceError where there is none, or of an unknown format."""
        file = Path(os.path.abspath(Path(path).expanduser()))
        if not file.is_file():
            raise SourceError(
                f"list of URLs {file} " + ("is not a file" if file.exists() else "does not exist")
            )
        if file.suffix.lower() not in _READERS:
            raise SourceError(f"list of URLs {file} is none of {', '.join(_READERS)}")
        return cls(fetch, file)

    def description(self) -> dict[str, Any]:
        """The kind, and the rules by which photographs are refused."""
        return {"kind": self.kind, "fetch": self.web_rules()}

    def items(self, limit: int | None = None) -> list[Item]:
        """Every URL once, in the list's order, or the first so many."""
        known: dict[str, Item] = {}
        num_repeated = 0
        read = _READERS[self.path.suffix.lower()]
        for where, row in read(self.path):
            url = _url(row, where)
            item = item_from_row(_ref(url), row, where)
            if item.ref != url:
                self._listed[item.ref] = url
            first = known.setdefault(item.ref, item)
            if first != item:
                place = next(place for place, row in read(self.path) if _ref(_url(row, place)) == item.ref)
                raise SourceError(f"{where} and {place} say different things about {item.ref}")
            num_repeated += first is not item
        if num_repeated:
            logger.warning("%s lists %d URLs more than once; each is taken once", self.path, num_repeated)
        return list(known.values())[:limit]


def _ref(url: str) -> str:
    """A URL as records hold it: as it was given, but for user and password, and what is no Unicode text."""
    scheme, slashes, rest = url.partition("//")
    authority = re.match(r"[^/?#]*", rest)
    assert authority is not None
    if slashes and "@" in authority[0]:
        url = scheme + slashes + authority[0].rpartition("@")[2] + rest[authority.end() :]
    return url.encode("utf-8", "backslashreplace").decode()


def _url(row: Mapping[str, Any], where: str) -> str:
    url = row.get("url")
    if not isinstance(url, str) or not url.strip():
        raise SourceError(f"{where} lacks its url")
    return url.strip()


def _txt_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip() and not line.strip().startswith("#"):
            yield f"{path}:{number}", {"url": line}


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(_lines(path))
    try:
        if "url" not in (reader.fieldnames or ()):
            raise SourceError(
                f"{path}:1 has no column url, but {', '.join(reader.fieldnames or ()) or 'none'}"
            )
        for row in reader:
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise SourceError(f"{path}:{reader.line_num} is not CSV: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise SourceError(f"{where} is not a JSON object")
        yield where, row


def _parquet_rows(path: Path) -> Iterator[Row]:
    # Imported here: it takes longer than all the other readers.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"list of URLs {path} is not a readable Parquet file: {error}") from error
    if "url" not in table.column_names:
        raise SourceError(f"{path} has no column url, but {', '.join(table.column_names) or 'none'}")
    rows = (row for batch in table.to_batches(BATCH_ROWS) for row in batch.to_pylist())
    for number, row in enumerate(rows, start=1):
        yield f"{path}:{number}", row


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text, few of which are held at a time."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except OSError as error:
        raise SourceError(f"list of URLs {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        try:
            path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise SourceError(f"list of URLs {path} is not UTF-8 text, at byte {error.start}") from error


_READERS = {".txt": _txt_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
