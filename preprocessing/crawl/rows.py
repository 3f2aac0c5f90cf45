"""The rows of the ledger: what is on record of one address, and where it lies.

Not here: where rows are kept (`preprocessing.crawl.ledger`), and what one means today (`preprocessing.crawl.standing`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa

from storage.digest import bytes_digest

KEPT, REFUSED, GONE = "kept", "refused", "gone"
PARTITIONS = 16
FOLDER = "ledger"
"""Of a store, where all of it lies."""


class Entry(NamedTuple):
    """What is on record of one address.

    `state` is kept, refused or gone; `outcome` is final, doubtful or passing, and None where a photograph is whole.
    `status` to `headers` are of the last answer, `sha256` and `num_bytes` of the last photograph. Times are ISO 8601 in
    UTC, and sort as texts. `signals`, `headers` and `rule` are JSON; `rule` is what it was asked under.
    """

    url: str
    host: str
    state: str
    outcome: str | None = None
    reason: str | None = None
    detail: str | None = None
    attempts: int = 0
    sha256: str | None = None
    num_bytes: int | None = None
    status: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    place: str | None = None
    address: str | None = None
    robots: str | None = None
    first_asked_at: str = ""
    asked_at: str = ""
    seconds: float = 0.0
    rule: str | None = None
    signals: str | None = None
    headers: str | None = None


_INTEGERS = {"attempts", "num_bytes", "status"}
LEDGER_SCHEMA = pa.schema(
    [
        pa.field(
            name,
            pa.int64() if name in _INTEGERS else pa.float64() if name == "seconds" else pa.string(),
        )
        for name in Entry._fields
    ]
)


@lru_cache(maxsize=65536)
def partition_of(host: str) -> int:
    """The partition that a host's addresses lie in, here and everywhere."""
    return int(bytes_digest(host.encode())[:8], 16) % PARTITIONS


def timestamp(at: datetime) -> str:
    """A time as the ledger has it."""
    return (at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat(timespec="microseconds")


def holds_over(entry: Entry, other: Entry) -> bool:
    """Whether of two rows for one address the first holds."""
    return (entry.state == GONE, entry.asked_at) > (other.state == GONE, other.asked_at)
