"""What a version is made of, file by file, and how each is held to the version's manifest.

    content = content_of(manifest, "faces@1f0c2d3e4a5b6978", read_list)
    all(piece.is_at(folder / piece.name) for piece in content.pieces)

A manifest that comes from elsewhere may say anything: names that no version has are refused here, and each piece says
how many bytes it may take. Not here: copying (`storage.datasets.pull`, `storage.datasets.push`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.datasets.dataset import COLUMNS_OF, SHARDS_LIST, TableName, shards_list
from storage.datasets.parts import Checked, PartFacts, Parts, digest_of, part_key
from storage.datasets.records import Manifest, TableFacts
from storage.digest import file_digest, rows_digest
from storage.errors import IntegrityError
from storage.tables import Stored

RECORD_LIMIT = 64 << 20
"""Bytes of a manifest, or of a list of parts: of some millions of images."""
ROW_LIMIT = 64 << 10
"""Bytes that a row of a table may take, unpacked."""
TABLE_LIMIT = 1 << 20
"""Bytes that a table may take beside its rows."""
_NAMES = re.compile(
    r"shards/\w[\w.-]*\.tar|(images|rejections)(\.parquet|\.parts\.json|(\.parquet)?/\w[\w.-]*\.parquet)",
    re.ASCII,
)
"""What files of a version may be called that its manifest names, in any format."""


@dataclass(frozen=True)
class Piece:
    """A file of a version, by its `name` in the version's folder."""

    name: str
    limit: int
    """Bytes that it may have."""
    key: str | None
    """Where a store keeps it by what it holds, for all versions that have it."""
    sha256: str | None
    """Of its bytes; None where it is what it holds that counts."""
    holds: Callable[[Path], bool]
    """Whether a file is this one."""
    size: int | None = None
    """In bytes, where that is on record."""
    index_sha256: str | None = None
    """Of a shard: that of the index beside it."""

    def is_at(self, path: Path) -> bool:
        """Whether a file is there, and is this one."""
        try:
            return path.is_file() and path.stat().st_size <= self.limit and self.holds(path)
        except (IntegrityError, pa.ArrowException, TypeError):  # a kind of column that no table of ours has
            return False


@dataclass(frozen=True)
class Content:
    """All that a version's manifest names: its records, and its pieces, tables before shards."""

    records: dict[str, bytes]
    tables: list[Piece]
    shards: list[Piece]

    @property
    def pieces(self) -> list[Piece]:
        """All of them."""
        return [*self.tables, *self.shards]


def content_of(manifest: Manifest, of: str, read_list: Callable[[str, str], bytes]) -> Content:
    """The files of a version; `of` is what errors call it.

    `read_list` gives the bytes of a list of parts by its name and sha256. IntegrityError for a name that is none of a
    version's, or that two files have.
    """
    records: dict[str, bytes] = {}
    tables: list[Piece] = []
    for name in COLUMNS_OF:
        facts = manifest.table(name)
        parts = None
        if facts.parts is not None:
            _check_names([facts.parts], of)
            data = records[facts.parts] = read_list(facts.parts, str(facts.parts_sha256))
            parts = Parts.of_bytes(data, f"{of}/{facts.parts}")
        tables.extend(_tables(name, facts, parts))
    shards = [
        Piece(
            shard.file,
            shard.size,
            f"chunks/shard/{shard.sha256}.tar",
            shard.sha256,
            partial(_has_digest, shard.sha256),
            shard.size,
            shard.index_sha256,
        )
        for shard in manifest.shards
    ]
    _check_names([*records, *(piece.name for piece in (*tables, *shards))], of)
    if manifest.format > 2:
        records[SHARDS_LIST] = shards_list(manifest)
    return Content(records, tables, shards)


def _check_names(names: list[str], of: str) -> None:
    for name, count in Counter(names).items():
        if not _NAMES.fullmatch(name) or ".." in name or len(name) > 200:
            raise IntegrityError(f"the manifest of {of} names a file {name!r}, which is none of a version's")
        if count > 1:
            raise IntegrityError(f"the manifest of {of} names the file {name!r} {count} times")


def _tables(name: TableName, facts: TableFacts, parts: Parts | None) -> Iterator[Piece]:
    if facts.file is not None:
        limit = TABLE_LIMIT + facts.rows * ROW_LIMIT
        yield Piece(facts.file, limit, None, None, partial(_holds_table, name, facts, parts, limit))
        return
    for part in parts.each() if parts is not None else ():
        limit = TABLE_LIMIT + part.rows * ROW_LIMIT
        yield Piece(str(part.file), limit, part_key(part.sha256), None, partial(_holds_part, part, limit))


def _has_digest(sha256: str, path: Path) -> bool:
    return file_digest(path) == sha256


def _holds_part(part: PartFacts, limit: int, path: Path) -> bool:
    stored = Stored(path, list(part.columns))
    return stored.num_rows == part.rows and _fits(stored, limit) and digest_of(stored) == part.sha256


def _holds_table(name: TableName, facts: TableFacts, parts: Parts | None, limit: int, path: Path) -> bool:
    """Whether a table of one file, as before format 3, has the rows that were published."""
    stored = Stored(path, COLUMNS_OF[name])
    if stored.num_rows != facts.rows or not _fits(stored, limit):
        return False
    if parts is None:
        return rows_digest(stored.each_row()) == facts.sha256
    for _ in Checked(path, parts, COLUMNS_OF[name]).each_part():
        pass
    return True


def _fits(stored: Stored, limit: int) -> bool:
    """Whether a table says of itself that it may be unpacked."""
    metadata: Any = stored.file.metadata
    sizes = (metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return bool(sum(sizes) <= limit)
