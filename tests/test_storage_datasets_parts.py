"""storage.datasets.parts: a digest says what a column's part holds, and nothing of a table is read that is another."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from storage.datasets.parts import Checked, Parts, column_digest, part_key, put_part
from storage.digest import bytes_digest
from storage.errors import IntegrityError
from storage.store import Store
from storage.tables import PART_ROWS, write_table

POINTS = pa.list_(pa.list_(pa.float64()))
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), ["a", None, "", "bc", "é"]),
    "number": (pa.float64(), [0.5, None, 0.0, -0.0, 1e300]),
    "count": (pa.int32(), [1, None, 0, -1, 7]),
    "points": (POINTS, [[[1.0, 2.0], [3.0]], None, [], [[]], [None, [4.0, None]]]),
}
SCHEMA = pa.schema([pa.field(name, kind) for name, (kind, _) in COLUMNS.items()])
NUM_ROWS = 2 * PART_ROWS + 500


def digest(kind: pa.DataType, values: list[Any]) -> str:
    """Of a column in one piece."""
    return column_digest(pa.chunked_array([pa.array(values, kind)]))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_digest_is_of_values(name: str, tmp_path: Path) -> None:
    """However a column lies in memory, or what file it went through, its digest is the same."""
    kind, values = COLUMNS[name]
    padded = pa.array([*values[::-1], *values, *values[:2]], kind)
    pieces = [pa.array(values[:1], kind), pa.array([], kind), pa.array(values[1:], kind)]
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"column": pa.array(values, kind)}), path, compression="gzip", data_page_size=1)
    forms = [
        pa.chunked_array([padded.slice(len(values), len(values))]),
        pa.chunked_array(pieces),
        pq.read_table(path)["column"],
        pa.chunked_array([pa.array(values, pa.large_string() if name == "text" else kind)]),
    ]
    assert {column_digest(form) for form in forms} == {digest(kind, values)}


def reference(kind: str, values: list[Any], depth: int = 0) -> bytes:
    """What a digest is taken of, written plainly; `depth` is that of lists."""
    there = [value is not None for value in values]
    data = f"{'list' if depth else kind} {len(values)} {there.count(False)}\n".encode()
    if not all(there):
        data += bytes(there)
    values = [value for value in values if value is not None]
    if not depth and kind != "text":
        code = {"double": "d", "int32": "i"}[kind]
        return data + struct.pack(f"<{len(values)}{code}", *values)
    inner = [value if depth else value.encode() for value in values]
    data += struct.pack(f"<{len(values)}q", *map(len, inner))
    if depth:
        return data + reference(kind, [value for part in inner for value in part], depth - 1)
    return data + b"".join(inner)


def test_digests_are_what_they_were() -> None:
    """A digest is the sha256 of a plain form, and these are what they were: manifests hold such."""
    kinds = {"text": ("text", 0), "number": ("double", 0), "count": ("int32", 0), "points": ("double", 2)}
    found = {name: digest(*column) for name, column in COLUMNS.items()}
    for name, (kind, depth) in kinds.items():
        assert found[name] == bytes_digest(reference(kind, COLUMNS[name][1], depth)), name
    assert {name: sha256[:16] for name, sha256 in found.items()} == {
        "text": "71fc829cd085b450",
        "number": "a50e06ab6a358468",
        "count": "862d4ddc476aba1a",
        "points": "b10c84d30dac5f09",
    }


def test_other_values_have_other_digests() -> None:
    """Values that are missing, empty, moved, cut elsewhere or of another kind are told apart."""
    columns: list[tuple[pa.DataType, list[Any]]] = [
        (pa.string(), ["ab", "c"]), (pa.string(), ["a", "bc"]), (pa.string(), ["c", "ab"]),
        (pa.string(), ["abc", ""]), (pa.string(), ["abc", None]), (pa.string(), ["abc"]), (pa.string(), []),
        (pa.int32(), [1, 0]), (pa.int32(), [1, None]), (pa.int32(), [0, 1]), (pa.int64(), [1, 0]),
        (pa.float64(), [1, 0]), (pa.float64(), []),
        (POINTS, [[[1.0, 2.0]]]), (POINTS, [[[1.0], [2.0]]]), (POINTS, [[[2.0, 1.0]]]), (POINTS, [[[1.0]], [[2.0]]]),
        (POINTS, [[]]), (POINTS, [None]), (POINTS, [[[]]]), (POINTS, [[None]]), (POINTS, [[[None]]]),
    ]  # fmt: skip
    assert len({digest(*column) for column in columns}) == len(columns)


@pytest.fixture
def table() -> pa.Table:
    """Rows for three parts."""
    columns = {
        name: pa.array([values[row % 5] for row in range(NUM_ROWS)], kind)
        for name, (kind, values) in COLUMNS.items()
    }
    return pa.table(columns, schema=SCHEMA)


class Written:
    """A table in a store, in parts of PART_ROWS."""

    def __init__(self, root: Path, table: pa.Table) -> None:
        self.store = Store(root)
        pieces = [table.slice(start, PART_ROWS) for start in range(0, table.num_rows, PART_ROWS)]
        facts = [put_part(self.store, "table", number, piece) for number, piece in enumerate(pieces)]
        self.files = {str(part.file): self.store.path(part_key(part.sha256)) for part in facts}
        listed = Parts.new(rows=table.num_rows, parts=[part.as_json() for part in facts])
        self.parts = Parts.of_bytes(listed.as_bytes(), "parts")

    def opened(self, *columns: str) -> Checked:
        """As a version opens it."""
        return Checked(self.store.path("table"), self.parts, columns, self.files.__getitem__)

    def replace(self, number: int, part: pa.Table) -> Path:
        """Another file in place of a part's, as good as that was."""
        path = list(self.files.values())[number]
        write_table(path, part)
        return path


@pytest.mark.parametrize("size", [1, 700, NUM_ROWS])
def test_a_table_that_is_intact_is_read(tmp_path: Path, table: pa.Table, size: int) -> None:
    """In whatever pieces it lay in memory, its parts are the same files, and all of it is read."""
    pieces = [table.slice(start, size) for start in range(0, table.num_rows, size)]
    written = Written(tmp_path / "a", pa.concat_tables(pieces))
    assert written.parts == Written(tmp_path / "b", table).parts
    checked = written.opened("text")
    assert (checked.num_rows, checked.starts().tolist()) == (NUM_ROWS, [0, PART_ROWS, 2 * PART_ROWS])
    assert checked.read().equals(table)
    assert checked.read(["points", "text"]).equals(table.select(["points", "text"]))
    assert list(checked.each_row()) == checked.rows() == table.to_pylist()


def test_a_part_is_written_once(tmp_path: Path, table: pa.Table) -> None:
    """What is there already is not written again, unless it is damaged; and tables share what they have in common."""
    written = Written(tmp_path, table)
    before = {path: path.stat().st_ino for path in written.files.values()}
    damaged = list(before)[1]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    longer = Written(tmp_path, pa.concat_tables([table.slice(0, 2 * PART_ROWS), table.slice(0, 9)]))
    assert longer.opened().num_rows == 2 * PART_ROWS + 9
    assert {path: path.stat().st_ino == before[path] for path in before} == dict(
        zip(before, (True, False, True), strict=True)
    )
    assert list(longer.files.values())[:2] == list(before)[:2]
    assert written.opened().read().equals(table)


def flipped(table: pa.Table, row: int, column: str, value: Any) -> pa.Table:
    """A table with another value in one place."""
    values = table[column].to_pylist()
    assert values[row] != value
    values[row] = value
    return table.set_column(
        table.column_names.index(column), column, pa.array(values, table.schema.field(column).type)
    )


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [(0, "text", "b"), (PART_ROWS + 2, "number", 1e-300), (NUM_ROWS - 1, "points", [[1.0, 2.5], [3.0]])],
)
def test_only_what_is_read_is_checked(
    tmp_path: Path, table: pa.Table, row: int, column: str, value: Any
) -> None:
    """One value that is another, in a file that is as good as it was, is found where its part and column are read."""
    written = Written(tmp_path, table)
    number = row // PART_ROWS
    path = written.replace(number, flipped(table, row, column, value).slice(number * PART_ROWS, PART_ROWS))
    checked = written.opened()
    reads: list[Callable[[], object]] = [
        checked.read, checked.rows, lambda: list(checked.each_row()), lambda: checked.read([column]),
        lambda: checked.part(number), lambda: list(checked.each_part()),
        lambda: checked.take(pc.indices_nonzero(pa.array([n == row for n in range(NUM_ROWS)])).to_numpy()),
    ]  # fmt: skip
    for read in reads:
        with pytest.raises(IntegrityError, match=rf"{path} .* part {number} of its column {column}"):
            read()
    others = [name for name in table.column_names if name != column]
    assert checked.read(others).equals(table.select(others))
    for other in {0, 1, 2} - {number}:
        assert checked.part(other).equals(table.slice(other * PART_ROWS, PART_ROWS))


@pytest.mark.parametrize("number", [0, 2])
def test_a_part_is_what_it_was(tmp_path: Path, table: pa.Table, number: int) -> None:
    """With a row or a column more or less, as another part, or gone, it is named as soon as it is read."""
    part = table.slice(number * PART_ROWS, PART_ROWS)
    others = [
        part.slice(0, part.num_rows - 1), part.slice(0, 0), pa.concat_tables([part, part.slice(0, 1)]),
        part.drop_columns(["count"]), table.slice(PART_ROWS, PART_ROWS),
    ]  # fmt: skip
    for place, other in enumerate(others):
        written = Written(tmp_path / str(place), table)
        path = written.replace(number, other)
        with pytest.raises(
            IntegrityError, match=str(path) if number or place != 3 else "no longer has the columns"
        ):
            written.opened().read()
    written = Written(tmp_path / "gone", table)
    path = list(written.files.values())[number]
    path.unlink()
    with pytest.raises(IntegrityError, match=str(path)):
        written.opened().read()


def test_a_list_of_parts_is_whole() -> None:
    """A list that does not have all rows, or not all digests, is damaged, in either format."""
    digest = "0" * 64
    good: list[dict[str, Any]] = [
        {"format": 2, "rows": 3, "parts": [{"rows": 3, "columns": {"a": digest}}]},
        {"rows": 3, "part_rows": 2, "columns": {"a": [digest, digest]}},
    ]
    for value in good:
        assert sum(part.rows for part in Parts.of_value(value, "parts").each()) == 3
        for changed in ({"rows": 5}, {"rows": -1}, {"rows": 2}):
            with pytest.raises(IntegrityError, match="parts is damaged"):
                Parts.of_value(value | changed, "parts")
