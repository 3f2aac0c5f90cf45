"""A list of URLs, fetched over HTTP: txt (a URL a line, # for comments), csv, jsonl or parquet.

Tables have a column `url`, and may have license, license_url, author, title, page and sha256; other columns are
ignored. Not here: how a URL is fetched (`preprocessing.crawl`), and searching for photographs.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from preprocessing.crawl.fetch import DEFAULT_USER_AGENT, FetchConfig, fetch_all
from preprocessing.crawl.hosts import Memory
from preprocessing.records import Item, Rejection
from preprocessing.reject import Rejected
from preprocessing.sources.metadata import checked, item_from_row
from storage.errors import SourceError

logger = logging.getLogger(__name__)

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands (file:line) and its columns."""


@dataclass(frozen=True)
class UrlSource:
    """The photographs at the URLs that the file at `path` lists."""

    path: Path
    fetch: FetchConfig
    kind: ClassVar[str] = "urls"
    cached: ClassVar[bool] = True
    parallel: ClassVar[bool] = False
    # What was learned of the hosts, for as long as this object lives.
    _memory: Memory = field(default_factory=Memory, repr=False, compare=False)

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
        return cls(file, fetch)

    def description(self) -> dict[str, Any]:
        """The kind, and the rules by which photographs are refused."""
        rules = {"max_bytes", "max_redirects", "respect_robots", "respect_opt_out"}
        return {"kind": self.kind, "fetch": self.fetch.model_dump(mode="json", include=rules)}

    def items(self) -> list[Item]:
        """Every URL once, in the list's order."""
        known: dict[str, tuple[Item, str]] = {}
        num_repeated = 0
        for where, row in _READERS[self.path.suffix.lower()](self.path):
            item = item_from_row(_url(row, where), row, where)
            first, first_where = known.setdefault(item.ref, (item, where))
            if first != item:
                raise SourceError(f"{where} and {first_where} say different things about {item.ref}")
            num_repeated += first is not item
        if num_repeated:
            logger.warning("%s lists %d URLs more than once; each is taken once", self.path, num_repeated)
        return [item for item, _ in known.values()]

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes] | Rejection]:
        """Fetch the items, many at once, and hold their bytes until all have arrived."""
        if self.fetch.user_agent == DEFAULT_USER_AGENT:
            logger.warning("fetch.user_agent names no contact; servers may refuse it, so put yours in")
        urls = [item.ref for item in items]
        # A thread of its own, since the caller's may be running an event loop already.
        with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
            outcomes = pool.submit(asyncio.run, fetch_all(urls, self.fetch, self._memory)).result()
        for item, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                yield Rejection(item.ref, outcome.reason, detail=outcome.detail)
            else:
                yield checked(item, outcome)


def _url(row: Mapping[str, Any], where: str) -> str:
    url = row.get("url")
    if not isinstance(url, str) or not url.strip():
        raise SourceError(f"{where} lacks its url")
    return url.strip()


def _txt_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip() and not line.strip().startswith("#"):
            yield f"{path}:{number}", {"url": line}


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
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
    for number, line in enumerate(_text(path).split("\n"), start=1):
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
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}:{number}", row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"list of URLs {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"list of URLs {path} is not UTF-8 text, at byte {error.start}") from error


_READERS = {".txt": _txt_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
