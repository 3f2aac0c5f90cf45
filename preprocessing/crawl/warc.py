"""Rows of the ledger as a WARC file (ISO 28500:2017, WARC 1.1), which other archives read.

    write_warc(Path("faces.warc.gz"), entries, store, "faces@0123456789abcdef")

An answer is a `response`, or where its bytes are those of one before it, or its server said 304, a `revisit`. What was
said of its use is a `metadata` record beside it. Of what was refused there are status and headers alone, since its body
was not kept. Each record is a member of its own in the gzip file, and the same rows are the same bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from preprocessing.crawl.rows import KEPT, Entry, timestamp
from storage.local import whole_file
from storage.store import Store

_OF_TRANSFER = frozenset(
    {"transfer-encoding", "content-encoding", "content-length", "connection", "keep-alive"}
)
"""Headers of how the body came; it lies here without."""
_PROFILES = "http://netpreserve.org/warc/1.1/revisit/"
_PHRASES = {200: "OK", 304: "Not Modified", 403: "Forbidden", 404: "Not Found", 410: "Gone"}

Fields = list[tuple[str, str]]


def write_warc(path: Path, entries: Iterable[Entry], store: Store, reference: str) -> int:
    """Write all rows that have an answer, whole or not at all, and return how many records there are."""
    num = 0
    with whole_file(path) as partial, partial.open("wb") as file:
        for record in _records(entries, store, reference):
            file.write(gzip.compress(record, 6, mtime=0))
            num += 1
    return num


def _records(entries: Iterable[Entry], store: Store, reference: str) -> Iterator[bytes]:
    about = f"software: likeness {version('likeness')}\r\nformat: WARC File Format 1.1\r\nisPartOf: {reference}\r\n"
    entries = iter(entries)
    begin = next(entries, None)
    at = begin.asked_at if begin else timestamp(datetime.now(UTC))
    fields = [("Content-Type", "application/warc-fields"), ("WARC-Date", _date(at))]
    yield _record("warcinfo", "", fields, about.encode(), reference)
    first: dict[str, Entry] = {}
    for entry in chain([begin] if begin else [], entries):
        if entry.status is None or entry.headers is None:
            continue
        is_kept = entry.state == KEPT and entry.sha256 is not None
        if not is_kept:
            yield from _answer(entry, entry.status, b"", entry.asked_at, [("WARC-Truncated", "unspecified")])
            continue
        assert entry.sha256 is not None
        at = entry.first_asked_at if entry.status == 304 else entry.asked_at
        if (known := first.get(entry.sha256)) is not None:
            refers = [
                ("WARC-Refers-To-Target-URI", _target(known)),
                ("WARC-Refers-To-Date", _date(_first_at(known))),
            ]
            yield from _answer(entry, 200, None, at, refers, "identical-payload-digest")
        else:
            first[entry.sha256] = entry
            yield from _answer(entry, 200, store.original(entry.sha256), at, [])
        if entry.status == 304:
            refers = [("WARC-Refers-To-Target-URI", _target(entry)), ("WARC-Refers-To-Date", _date(at))]
            yield from _answer(entry, 304, None, entry.asked_at, refers, "server-not-modified")


def _answer(
    entry: Entry, status: int, body: bytes | None, at: str, more: Fields, profile: str | None = None
) -> Iterator[bytes]:
    """An answer, as a revisit where it has a profile, and what was said beside it."""
    headers = [
        (name, value) for name, value in json.loads(entry.headers or "[]") if name.lower() not in _OF_TRANSFER
    ]
    if body is not None:
        headers.append(("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    block = f"HTTP/1.1 {status} {_PHRASES.get(status, '-')}\r\n{head}\r\n".encode("utf-8", "surrogateescape")
    kind = "response" if profile is None else "revisit"
    fields = [
        ("WARC-Target-URI", _target(entry)),
        ("WARC-Date", _date(at)),
        *([("WARC-IP-Address", entry.address)] if entry.address else []),
        *([("WARC-Profile", _PROFILES + profile)] if profile else []),
        ("Content-Type", "application/http;msgtype=response"),
        *more,
    ]
    if entry.sha256 and entry.state == KEPT:
        digest = base64.b32encode(bytes.fromhex(entry.sha256)).decode()
        fields.append(("WARC-Payload-Digest", f"sha256:{digest}"))
    yield _record(kind, entry.url, fields, block + (body or b""), at)
    if entry.signals and profile != "server-not-modified":
        said = [
            ("WARC-Target-URI", _target(entry)),
            ("WARC-Date", _date(at)),
            ("WARC-Concurrent-To", _id(kind, entry.url, at)),
            ("Content-Type", "application/json"),
        ]
        yield _record("metadata", entry.url, said, entry.signals.encode(), at)


def _record(kind: str, url: str, fields: Fields, block: bytes, at: str) -> bytes:
    digest = base64.b32encode(hashlib.sha1(block, usedforsecurity=False).digest()).decode()
    lines = [
        ("WARC-Type", kind),
        ("WARC-Record-ID", _id(kind, url, at)),
        *fields,
        ("WARC-Block-Digest", f"sha1:{digest}"),
        ("Content-Length", str(len(block))),
    ]
    head = "WARC/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines) + "\r\n"
    return head.encode("utf-8", "backslashreplace") + block + b"\r\n\r\n"


def _id(kind: str, url: str, at: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{kind} {at} {url}')}>"


def _target(entry: Entry) -> str:
    return entry.place or entry.url


def _first_at(entry: Entry) -> str:
    return entry.first_asked_at if entry.status == 304 else entry.asked_at


def _date(at: str) -> str:
    return at.replace("+00:00", "Z")
