"""Lists of photographs as files: txt (a URL a line, # for comments), csv, tsv, jsonl or parquet, with gzip or without.

    photos.csv.gz                                      a file of this machine
    https://example.org/photos.parquet                 one of the web, fetched by the rules that photographs are
    s3://bucket/photos.jsonl.gz                        one of S3, by the environment's credentials
    hf://datasets/OWNER/NAME/data/train.parquet        one of Hugging Face's, with @REVISION behind NAME or without

A remote list is kept in the store for a day. Not here: what a row means (`preprocessing.sources.metadata`).
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from preprocessing.crawl.ask import Limits
from preprocessing.crawl.crawler import check_contact
from preprocessing.crawl.urls import web_address
from preprocessing.reject import Rejected
from preprocessing.sources.access import Access
from preprocessing.sources.metadata import KEYS, once
from preprocessing.sources.rests import asker
from storage.digest import bytes_digest
from storage.errors import SourceError
from storage.local import whole_file
from storage.tables import BATCH_ROWS
from storage.wording import without_user

KEPT_S = 24 * 3600.0
"""How long a remote list stands for the one that it was fetched from."""
LIMITS = Limits(interval_s=1.0, timeout_s=60.0)
ALSO = {"url": ("image_url", "img_url"), "license": ("licence",), "license_url": ("licence_url",)}
"""Names that columns have too, as Hugging Face's lists often do; in any case, URL for url among them."""
_GZIP = b"\x1f\x8b"
_REMOTE = re.compile(r"(https?|s3|hf)://", re.IGNORECASE)
_HUGGING_FACE = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", re.IGNORECASE)

Row = tuple[int, Mapping[str, Any] | str]
"""The number of its line and its columns, by our names; or why it is no row."""


@dataclass(frozen=True)
class List:
    """A list: its file, what errors call it, and the names that it has for our columns."""

    path: Path
    name: str
    columns: Mapping[str, str]

    def rows(self) -> Iterator[Row]:
        """Every row; SourceError where the list is none."""
        return _READERS[suffix_of(self.name)](self)

    def named(self, there: Sequence[str], where: str, *, is_table: bool) -> dict[str, str]:
        """The list's name of each of our columns that it has; a table has every column that a setting names."""
        found = {}
        lowered = {name.lower(): name for name in reversed(there)}
        for key in ("url", *KEYS):
            if key in self.columns:
                names = [self.columns[key]] if self.columns[key] in there else []
            else:
                names = [name for name in (key, *ALSO.get(key, ())) if name in there]
                names += [lowered[name] for name in (key, *ALSO.get(key, ())) if name in lowered]
            if names:
                if there.count(names[0]) > 1:
                    raise SourceError(
                        f"{where} has several columns {names[0]}: which of them is meant is not said"
                    )
                found[key] = names[0]
            elif key == "url" or (is_table and key in self.columns):
                raise SourceError(
                    f"{where} has no column {self.columns.get(key, key)}, but {', '.join(there) or 'none'}: "
                    f"--sources.urls.columns.{key.replace('_', '-')} NAME names it"
                )
        return found


def check_list(place: str) -> str:
    """The place of a list as it is opened, an absolute path where it is local; SourceError where it is none.

    Records hold it as it stands, so that a user and a password in it are refused.
    """
    if _REMOTE.match(place) and place != without_user(place):
        raise SourceError(
            f"list of URLs {without_user(place)} is given with a user: records hold its address, so give one without"
        )
    place = place if _REMOTE.match(place) else os.path.abspath(Path(place).expanduser())
    if not _REMOTE.match(place) and not Path(place).is_file():
        state = "is not a file" if Path(place).exists() else "does not exist"
        raise SourceError(f"list of URLs {place} {state}")
    if suffix_of(place) not in _READERS:
        raise SourceError(f"list of URLs {place} is none of {', '.join(_READERS)}, with .gz or without")
    if place.lower().startswith("hf:") and not _HUGGING_FACE.fullmatch(place):
        raise SourceError(f"list of URLs {place} is not hf://datasets/OWNER/NAME/FILE")
    return place


@contextmanager
def opened_list(place: str, columns: Mapping[str, str], access: Access) -> Iterator[List]:
    """The list at a place, fetched if it is remote; SourceError where it cannot be had."""
    if not _REMOTE.match(place):
        yield List(Path(place), place, columns)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = f"{bytes_digest(place.encode())}{suffix_of(place)}"
        path = Path(folder) / file if access.store is None else access.store.path(f"answers/lists/{file}")
        is_kept = path.is_file() and time.time() - path.stat().st_mtime < KEPT_S
        if access.is_fresh or not is_kept:
            with whole_file(path, durable=False) as partial:
                _fetch(place, partial, access)
        yield List(path, place, columns)


def suffix_of(place: str) -> str:
    """The suffix that says a list's format, without that of gzip."""
    if _REMOTE.match(place):
        place = re.split(r"[?#]", place, maxsplit=1)[0]
    return Path(place.lower().removesuffix(".gz")).suffix


def web_place(place: str) -> str:
    """The URL of a remote list: one of Hugging Face's by its own name."""
    match = _HUGGING_FACE.fullmatch(place)
    if match is None:
        return place
    name, revision, file = match.groups()
    return f"https://huggingface.co/datasets/{name}/resolve/{revision or 'main'}/{file}"


def _fetch(place: str, path: Path, access: Access) -> None:
    if place.lower().startswith("s3:"):
        return _fetch_s3(place, path)
    token = access.secret("HF_TOKEN") if _HUGGING_FACE.fullmatch(place) else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    place = web_place(place)
    try:
        address = web_address(place)
        check_contact(access.fetch, [address])
        with asker(access, LIMITS, address.host) as service:
            answer = service.download(address, path, headers)
    except Rejected as rejected:
        raise SourceError(f"list of URLs {place} cannot be fetched: {rejected}") from None
    if answer.status != 200:
        raise SourceError(f"list of URLs {place} cannot be fetched: status {answer.status}")


def _fetch_s3(place: str, path: Path) -> None:
    # Imported here: few lists lie there.
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    bucket, _, key = place[len("s3://") :].partition("/")
    try:
        with path.open("wb") as file:
            for block in obstore.get(from_url(f"s3://{bucket}"), key).stream():
                file.write(block)
    except (BaseError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise SourceError(f"list of URLs {place} cannot be fetched: {why}") from None


def _txt_rows(of: List) -> Iterator[Row]:
    for number, line in enumerate(_lines(of), start=1):
        if line.strip() and not line.strip().startswith("#"):
            yield number, {"url": line}


def _csv_rows(of: List, delimiter: str = ",") -> Iterator[Row]:
    # Strict, since a lone quote would swallow the lines up to the next one.
    reader = csv.DictReader(_lines(of), delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        names = of.named(reader.fieldnames, f"{of.name}:1", is_table=True)
        for row in reader:
            yield reader.line_num, {key: row[name] for key, name in names.items()}
    except csv.Error as error:
        raise SourceError(f"{of.name}:{reader.line_num} is not CSV: {error}") from error


def _tsv_rows(of: List) -> Iterator[Row]:
    return _csv_rows(of, "\t")


def _jsonl_rows(of: List) -> Iterator[Row]:
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for number, line in enumerate(_lines(of), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=once)
        except (ValueError, RecursionError) as error:
            yield number, f"is not JSON: {error}"
            continue
        if not isinstance(row, dict):
            yield number, "is not a JSON object"
            continue
        there = tuple(row)
        if there not in known:
            try:
                known[there] = of.named(there, "", is_table=False)
            except SourceError as error:
                yield number, str(error).strip()
                continue
        yield number, {key: row[name] for key, name in known[there].items()}


def _parquet_rows(of: List) -> Iterator[Row]:
    # Imported here: it takes longer than all the other readers.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(of.path) as file:
            names = of.named(file.schema_arrow.names, of.name, is_table=True)
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(names.values()))):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {key: row[name] for key, name in names.items()}
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"list of URLs {of.name} is not a readable Parquet file: {error}") from error


def _lines(of: List) -> Iterator[str]:
    """The lines of a text, few of which are held at a time."""
    try:
        with _text(of.path) as file:
            yield from file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"list of URLs {of.name} is not whole: {error}") from error
    except OSError as error:
        raise SourceError(f"list of URLs {of.name} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"list of URLs {of.name} is not UTF-8 text, at byte {_first_bad_byte(of.path)}"
        ) from error


def _text(path: Path) -> IO[str]:
    """The file as text; gzip is known by its first bytes, since servers take it off or leave it on."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP
    return gzip.open(path, "rt", encoding="utf-8-sig") if is_gzip else path.open(encoding="utf-8-sig")


def _first_bad_byte(path: Path) -> int:
    try:
        with path.open("rb") as file:
            data = file.read()
        (gzip.decompress(data) if data.startswith(_GZIP) else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return error.start
    return 0


_READERS: dict[str, Callable[[List], Iterator[Row]]] = {
    ".txt": _txt_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}
