"""Rows as Parquet: written whole, read back as the same rows, whatever library version packed the file.

Not here: what the columns mean. A table's identity is `rows_digest`, never the file's bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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


def get_table(store: Store, key: str, columns: Sequence[str] | None = None) -> list[Row]:
    """Read rows back, all columns or the ones named."""
    rows: list[Row] = pq.read_table(store.path(key), columns=columns).to_pylist()
    return rows
