"""Rows as Parquet: written whole, read back as the same rows, whatever library version packed the file.

Not here: what the columns mean. A table's identity is `rows_digest`, never the file's bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
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


def get_table(store: Store, key: str, columns: Sequence[str]) -> list[Row]:
    """Read rows back, all of their columns; IntegrityError where the file cannot be read or lacks one of `columns`."""
    try:
        table = pq.read_table(store.path(key))
        rows: list[Row] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"{store.path(key)} cannot be read as Parquet: {error}") from error
    if missing := [name for name in columns if name not in table.schema.names]:
        raise IntegrityError(f"{store.path(key)} lacks the columns {', '.join(missing)}")
    return rows
