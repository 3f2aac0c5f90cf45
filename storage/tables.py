"""Rows as Parquet: written whole, read back as the same rows, whatever library version packed the file.

Not here: what the columns mean. A table's identity is `rows_digest`, never the file's bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import IntegrityError
from storage.store import Store

Row = dict[str, Any]


def put_table(store: Store, key: str, rows: Iterable[Row], schema: pa.Schema) -> None:
    """Write rows under `key`; a row with a column that the schema does not know is an error."""
    rows = list(rows)
    for row in rows:
        if unknown := row.keys() - set(schema.names):
            raise ValueError(f"{key}: the schema has no column {', '.join(sorted(unknown))}")
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    store.put(key, buffer.getvalue())


def get_table(store: Store, key: str, schema: pa.Schema) -> list[Row]:
    """Read rows back; IntegrityError where the file cannot be read or has other columns."""
    try:
        table = pq.read_table(store.path(key))
        rows: list[Row] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"{store.path(key)} cannot be read as Parquet: {error}") from error
    if table.schema.names != schema.names:
        raise IntegrityError(f"{store.path(key)} has other columns than were written")
    return rows
