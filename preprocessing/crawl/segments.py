"""Segments of the ledger: rows as tables that are named by their content and never change.

Not here: which rows are written, and when (`preprocessing.crawl.ledger`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessing.crawl.retry import outcome_of
from preprocessing.crawl.rows import KEPT, LEDGER_SCHEMA, REFUSED, Entry, timestamp
from preprocessing.crawl.urls import host_of, web_address
from preprocessing.reject import Reason, Rejected
from storage.digest import file_digest
from storage.errors import IntegrityError
from storage.tables import FORMAT_KEY, Stored, column_of, filled, texts

SEGMENT_ROWS = 100_000
"""At most in one segment, so that few rows are held at a time."""
LEGACY = "chunks/crawl"
"""Where likeness 0.1 kept what it had fetched: a table a second, which is read as segments are."""


def segment_of(entries: Sequence[Entry]) -> bytes:
    """Rows as a table; the same rows are the same bytes."""
    columns = [
        column_of(column, field.type)
        for column, field in zip(zip(*entries, strict=True), LEDGER_SCHEMA, strict=True)
    ]
    schema = LEDGER_SCHEMA.with_metadata({FORMAT_KEY: b"1"})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def is_small(path: Path) -> bool:
    """Whether a segment has much less than it may; one that is not there, or damaged, has not."""
    try:
        return pq.read_metadata(path).num_rows < SEGMENT_ROWS // 2 and file_digest(path) == path.stem
    except (OSError, pa.ArrowException):
        return False


def urls_of(paths: Sequence[Path]) -> list[str]:
    """The addresses that some segments have rows of, each once and in order."""
    found: set[str] = set()
    for path in paths:
        found.update(Stored(path, ["url"]).read(["url"])["url"].to_pylist())
    return sorted(found)


def entries_of(path: Path) -> Iterator[Entry]:
    """The rows of a segment; IntegrityError where it is not what its name says."""
    if file_digest(path) != path.stem:
        raise IntegrityError(
            f"{path} no longer has the sha256 of its name: delete it, and its addresses are asked again"
        )
    for row in Stored(path, ["url", "host", "state", "asked_at"]).each_row():
        yield Entry(**{name: row[name] for name in Entry._fields if name in row})


def legacy_entries(path: Path) -> Iterator[Entry]:
    """The rows of a table of likeness 0.1, as the ledger has them; what it does not say stays None."""
    for row in Stored(path, ["ref", "sha256", "num_bytes", "reason", "detail", "fetched_at"]).each_row():
        try:
            address = web_address(row["ref"])
        except Rejected:
            continue
        reason, detail, at = row["reason"], row["detail"], row["fetched_at"]
        at = timestamp(datetime.fromisoformat(at)) if at else ""
        refused = outcome_of(Rejected(Reason(reason), detail)) if reason else None
        yield Entry(
            address.key,
            host_of(address),
            state=REFUSED if reason else KEPT,
            outcome=refused,
            reason=reason,
            detail=detail,
            attempts=1,
            sha256=row["sha256"],
            num_bytes=row["num_bytes"],
            first_asked_at=at,
            asked_at=at,
            signals=row.get("signals"),
        )


def led_through(path: Path, keys: Collection[str], hosts: Collection[str]) -> set[str]:
    """The addresses in a segment whose redirects led through or to one of `keys`, which are addresses on `hosts`."""
    stored = Stored(path, ["url"])
    names = [name for name in ("place", "signals") if name in stored.schema.names]
    rows = stored.read(["url", *names])
    mask = pa.chunked_array([column_of([False] * rows.num_rows, pa.bool_())])
    for name in names:
        for host in hosts:
            mask = pc.or_(mask, filled(pc.match_substring(rows[name], host), False))
    return {
        row["url"]
        for row in rows.filter(mask).to_pylist()
        if is_led_through(row.get("place"), row.get("signals"), keys)
    }


def is_led_through(place: str | None, signals: str | None, keys: Collection[str]) -> bool:
    """Whether the redirects of a row led through or to one of some addresses, by what the row says of them."""
    hops = json.loads(signals).get("hops", []) if signals else []
    return any(key_of(text) in keys for text in (place, *(hop["url"] for hop in hops)) if text)


def key_of(text: str) -> str | None:
    """The one form of an address; None of what is none."""
    try:
        return web_address(text).key
    except Rejected:
        return None


def erased(table: pa.Table, urls: Collection[str], sha256s: Collection[str]) -> pa.ChunkedArray:
    """Of which rows of a segment the address, that which a redirect led to, or the photograph is among some."""
    mask = pc.is_in(table["sha256"], value_set=texts(*sorted(sha256s)))
    for name in ("url", "place"):
        if name in table.column_names:
            mask = pc.or_(mask, pc.is_in(table[name], value_set=texts(*sorted(urls))))
    return mask
