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
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from preprocessing.crawl.fetch import DEFAULT_USER_AGENT, FetchConfig, Fetched
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.safety import host_refusal
from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason, Rejected
from preprocessing.sources.metadata import item_from_row
from storage.errors import ConfigError, SourceError
from storage.tables import BATCH_ROWS

logger = logging.getLogger(__name__)

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands (file:line) and its columns."""


@dataclass(frozen=True)
class UrlSource:
    """The photographs at the URLs that the file at `path` lists."""

    path: Path
    fetch: FetchConfig
    kind: ClassVar[str] = "urls"
    # What was learned of the hosts, for as long as this object lives.
    _memory: Memory = field(default_factory=Memory, repr=False, compare=False)
    # URLs as the list has them, by refs that must differ: records hold no passwords, and nothing but Unicode text.
    _listed: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

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
        if not self.fetch.reject_synthetic:
            rules.add("reject_synthetic")
        return {"kind": self.kind, "fetch": self.fetch.model_dump(mode="json", include=rules)}

    def items(self) -> list[Item]:
        """Every URL once, in the list's order."""
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
        return list(known.values())

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes] | Rejection]:
        """The photographs as they arrive, in any order."""
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(self.arriving(items, Path(folder))) as batches,
        ):
            for batch in batches:
                for outcome in batch:
                    if isinstance(outcome, Rejection):
                        yield outcome
                    else:
                        item, fetched = outcome
                        yield item, fetched.body.path.read_bytes()

    def arriving(
        self, items: Sequence[Item], folder: Path
    ) -> Generator[list[tuple[Item, Fetched] | Rejection], None, None]:
        """What became of the items, in batches of a second at most, the bodies as files of `folder`.

        Spellings of one address are fetched once, and share a file. ConfigError where a host is public, and the user
        agent does not say who asks.
        """
        wanted: dict[WebAddress, list[Item]] = {}
        spelled: dict[tuple[str, tuple[str, str] | None], WebAddress] = {}
        rejections: list[tuple[Item, Fetched] | Rejection] = []
        for item in items:
            try:
                address = web_address(self._listed.get(item.ref, item.ref))
            except Rejected as rejected:
                rejections.append(Rejection(item.ref, rejected.reason, detail=rejected.detail))
                continue
            address = spelled.setdefault((address.key, address.credentials), address)
            wanted.setdefault(address, []).append(item)
        self._check_contact(wanted)
        if rejections:
            yield rejections
        with closing(arriving(list(wanted), self.fetch, self._memory, folder)) as batches:
            for batch in batches:
                yield [
                    outcome for address, answer in batch for outcome in _outcomes(wanted.pop(address), answer)
                ]

    def _check_contact(self, addresses: Iterable[WebAddress]) -> None:
        if self.fetch.user_agent != DEFAULT_USER_AGENT:
            return
        public = next((address.host for address in addresses if host_refusal(address.host) is None), None)
        if public is not None:
            raise ConfigError(
                f"fetch.user_agent names nobody, and {public} is a public host, whose operator must be able to reach "
                f"you: --fetch.user-agent 'NAME/VERSION (+https://YOUR-PAGE; YOU@YOUR-DOMAIN)'"
            )


def _outcomes(
    items: Sequence[Item], answer: Fetched | Rejected
) -> Iterator[tuple[Item, Fetched] | Rejection]:
    """The outcome of each item of one address."""
    if isinstance(answer, Rejected):
        for item in items:
            yield Rejection(item.ref, answer.reason, detail=answer.detail)
        return
    sha256 = answer.body.sha256
    promised = [item.expected_sha256 in (None, sha256) for item in items]
    if not any(promised):
        answer.body.path.unlink()
    for item, is_promised in zip(items, promised, strict=True):
        if is_promised:
            yield item, answer
        else:
            detail = f"expected {item.expected_sha256}"
            yield Rejection(item.ref, Reason.CHECKSUM_MISMATCH, sha256, detail=detail)


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
