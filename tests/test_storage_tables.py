"""storage.tables: columns give what a loop over rows gives, and what is written in parts is the whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.tables import (
    Stored,
    arrow,
    column_of,
    counted,
    distinct_rows,
    fitted,
    groups,
    leaders,
    resized,
    rows_holding,
    table_of,
    write_table,
)

SCHEMA = pa.schema([pa.field("name", pa.string()), pa.field("points", pa.list_(pa.float64()))])

texts = st.lists(st.sampled_from(["", "a", "b", "ba", "é", "Z"]), max_size=30)


def chunked(values: Sequence[str | None]) -> pa.ChunkedArray:
    """A column in pieces, an empty one among them."""
    cut = len(values) // 3
    return pa.chunked_array([values[:cut], [], values[cut:]], pa.string())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "é", "y", "z"])), max_size=30))
def test_leaders_are_the_first_of_their_value(pairs: list[tuple[str, str]]) -> None:
    """Each row is led by the first row that holds its value; with another column, by that column's least."""
    values, by = [value for value, _ in pairs], [other for _, other in pairs]
    assert leaders(chunked(values)).tolist() == [values.index(value) for value in values]
    least = {
        value: min((other, row) for row, (mine, other) in enumerate(pairs) if mine == value)
        for value in values
    }
    assert leaders(chunked(values), chunked(by)).tolist() == [least[value][1] for value in values]


@given(texts, texts)
def test_rows_are_found_by_what_they_hold(held: list[str], asked: list[str]) -> None:
    """A value leads to the first row that holds it, and to -1 where none does."""
    expected = [held.index(value) if value in held else -1 for value in asked]
    assert rows_holding(chunked(held), chunked(asked)).tolist() == expected


@given(texts)
def test_values_are_counted(values: list[str]) -> None:
    """As often as they are there, in the order of their first rows."""
    expected = {value: values.count(value) for value in values}
    assert list(counted(chunked(values)).items()) == list(expected.items())


@pytest.mark.parametrize("sizes", [[], [0], [3], [4], [1, 0, 5, 9], [25]])
def test_tables_are_resized(sizes: list[int]) -> None:
    """Rows of tables of any sizes come in tables of other sizes, in their order, with the columns of a schema."""
    rows = [{"name": f"row {number}", "points": [number / 3] * (number % 4)} for number in range(sum(sizes))]
    limits = np.cumsum([0, *sizes])
    parts = [table_of(rows[start:stop], SCHEMA) for start, stop in pairwise(limits)]
    wanted = [4] * (len(rows) // 4) + [len(rows) % 4]
    found = list(resized((part.select(["points", "name"]) for part in parts), SCHEMA, wanted))
    assert [part.num_rows for part in found] == wanted
    assert [row for part in found for row in part.to_pylist()] == rows
    assert all(part.schema.equals(SCHEMA) for part in found)


def test_a_written_table_is_read_back(tmp_path: Path) -> None:
    """All rows, and whole parts of them."""
    rows = [{"name": f"row {number}", "points": [number / 3] * (number % 4)} for number in range(9)]
    write_table(tmp_path / "table.parquet", table_of(rows, SCHEMA))
    stored = Stored(tmp_path / "table.parquet", SCHEMA.names)
    assert stored.rows() == stored.part(0).to_pylist() == rows


@pytest.mark.parametrize(
    "rows",
    [[], [0], [8], [0, 1, 2, 3], [3, 4, 5, 6, 7], [0, 1, 2, 4, 8], list(range(9)), [0] * 9, [0, 0, 2, 3]],
)
def test_rows_are_taken_by_their_numbers(tmp_path: Path, rows: list[int]) -> None:
    """Some, those of whole parts, all of them, and one several times; of all columns, or some, in the order asked."""
    table = table_of([{"name": f"row {row}", "points": [row / 3] * (row % 4)} for row in range(9)], SCHEMA)
    pq.write_table(table, tmp_path / "table.parquet", row_group_size=4)
    stored = Stored(tmp_path / "table.parquet", SCHEMA.names)
    for columns in (None, ["points", "name"]):
        expected = (table if columns is None else table.select(columns)).take(arrow(np.array(rows, np.int64)))
        assert stored.take(np.array(rows, np.int64), columns).equals(expected)


def test_a_table_of_other_columns_is_refused() -> None:
    """A column more or less is an error, as a row with an unknown column is."""
    table = table_of([{"name": "a"}], SCHEMA)
    assert table.to_pylist() == [{"name": "a", "points": None}]
    with pytest.raises(ValueError, match="is none of"):
        fitted(table.drop_columns(["points"]), SCHEMA)
    with pytest.raises(ValueError, match="is none of"):
        fitted(table.append_column("more", arrow(np.array([1]))), SCHEMA)


@given(st.lists(st.integers(0, 2**40), max_size=50))
def test_each_row_number_once(rows: list[int]) -> None:
    """The different numbers, in order."""
    assert distinct_rows(np.array(rows, np.int64)).tolist() == sorted(set(rows))


KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), st.text()),
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-(2**7), 2**7 - 1)),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats(allow_nan=False) | st.integers(-100, 100)),
    (pa.list_(pa.float64()), st.lists(st.floats(allow_nan=False))),
    (pa.list_(pa.string()), st.lists(st.none() | st.text())),
    (pa.list_(pa.list_(pa.int32())), st.lists(st.none() | st.lists(st.integers(0, 9)))),
]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=[str(kind) for kind, _ in KINDS])
@given(data=st.data())
def test_plain_values_are_a_column(
    kind: pa.DataType, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    """Values of every kind that tables have, some missing, are what pyarrow makes of them."""
    plain = data.draw(st.lists(st.none() | values, max_size=20))
    made = column_of(plain, kind)
    made.validate(full=True)
    assert made.equals(pa.array(plain, kind))
    assert made.to_pylist() == plain


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, pa.string()),
        ("\ud800", pa.string()),
        ("1", pa.int32()),
        (1.5, pa.int64()),
        (2**31, pa.int32()),
        ("1.5", pa.float64()),
        (["a"], pa.list_(pa.float64())),
        (7, pa.list_(pa.float64())),
        (b"a", pa.binary()),
    ],
)
def test_a_value_of_another_kind_is_none(value: Any, kind: pa.DataType) -> None:
    """What a column's kind does not hold is an error, and no other value."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        column_of([value], kind)


@given(st.lists(st.tuples(*[st.none() | st.sampled_from(["", "a", "b"])] * 3), max_size=30))
def test_rows_that_are_alike_are_one_group(rows: list[tuple[str | None, ...]]) -> None:
    """Groups come in the order of their first rows, and a row that lacks a text is like others that lack it."""
    table = pa.table([chunked([row[number] for row in rows]) for number in range(3)], names=["a", "b", "c"])
    first, group = groups(table)
    distinct = list(dict.fromkeys(rows))
    assert first.tolist() == [rows.index(row) for row in distinct]
    assert group.tolist() == [distinct.index(row) for row in rows]
