"""Photographs and images by what people call them: their digests, addresses, titles, authors, licences, file names.

    for reading in readings(store, "A. Pencil", products): ...

Every version of every dataset is asked, by its lookup. Not here: names of datasets, runs and files
(`storage.lineage.trace`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.bundled.generator import BUNDLED
from storage.bundled.photographs import num_of_these
from storage.datasets.dataset import SOURCE_COLUMNS, Dataset, TableName, all_versions
from storage.datasets.lookup import COLUMNS, NONE, Kind, find_numbers
from storage.digest import bytes_digest, json_digest
from storage.errors import PipelineError
from storage.lineage.chain import Chain, Product, Rows, Step, located
from storage.lineage.products import UNREADABLE, Products, warn_of
from storage.store import Store

MIN_DIGITS = 8
TEXTS: tuple[Kind, ...] = ("ref", "page", "title", "name", "author", "license", "license_url")
DIGESTS: dict[str, Kind] = {"photograph": "photo", "image": "image"}
READ_AS: dict[Kind, str] = {
    "photo": "photograph",
    "image": "image",
    "ref": "photograph",
    "name": "file-name",
    "page": "page",
    "title": "title",
    "author": "author",
    "license": "license",
    "license_url": "license",
}
"""What a reference is then said to be; several photographs may have one page, title, name, author or licence."""

Found = tuple[Dataset, TableName, NDArray[np.int64]]


@dataclass(frozen=True)
class Reading:
    """One thing that a reference may mean: its kind, its whole name, and what is traced then."""

    kind: str
    name: str
    chain: Callable[[], Chain]
    choices: Sequence[str] = ()
    """What is meant by it, where that is several things of which only one was asked for."""
    rows: str = ""
    """What tells its rows from others'."""


@dataclass(frozen=True)
class Asked:
    """All versions asked for one reference: what was found, and the versions that could not be read."""

    readings: list[Reading]
    unreadable: list[PipelineError | OSError]


def readings(store: Store, reference: str, products: Products) -> Asked:
    """All photographs, images, and groups of these that a text or the first digits of a sha256 name."""
    is_digest = re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},64}}", reference) is not None
    kinds = (*TEXTS, *DIGESTS.values()) if is_digest else TEXTS
    found: dict[Kind, list[Found]] = {kind: [] for kind in kinds}
    unreadable: list[PipelineError | OSError] = []
    for dataset in all_versions(store, warn_of):
        try:
            for kind, table, numbers in _in_version(dataset, dict.fromkeys(kinds, reference)):
                found[kind].append((dataset, table, numbers))
        except UNREADABLE as error:
            unreadable.append(error)
    if found["ref"]:
        found["name"] = []  # the ref is the whole name
    for kind in ("ref", "name"):  # a photograph is its bytes, wherever and under whatever name they are
        found[kind] = _of_same_bytes(store, found[kind])
    made = []
    for kind, parts in found.items():
        made += [_reading(kind, name, mine, products) for name, mine in _by_value(kind, reference, parts)]
    return Asked(made, unreadable)


def of_photographs(store: Store, kind: str, name: str, photos: Sequence[str], products: Products) -> Chain:
    """The chain of photographs by their sha256, as one group; a version that cannot be read is left out."""
    rows: dict[tuple[Dataset, TableName], NDArray[np.int64]] = {}
    for photo in photos:
        for dataset in all_versions(store, warn_of):
            try:
                for _, table, numbers in _in_version(dataset, {"photo": photo}):
                    rows[dataset, table] = np.union1d(rows.get((dataset, table), NONE), numbers)
            except UNREADABLE as error:
                warn_of(error)
    return of_rows(kind, name, [(*place, numbers) for place, numbers in rows.items()], products)


def of_rows(kind: str, name: str, parts: Sequence[Found], products: Products) -> Chain:
    """The chain of some rows: of a photograph, an image, or a group of photographs."""
    images = Rows("images", [(dataset, numbers) for dataset, table, numbers in parts if table == "images"])
    rejections = Rows(
        "rejections", [(dataset, numbers) for dataset, table, numbers in parts if table != "images"]
    )
    steps, made = [], []
    for dataset in dict.fromkeys(dataset for dataset, _, _ in parts):
        facts: dict[str, Any] = {"reference": dataset.reference}
        facts |= {of.table: sum(len(n) for d, n in of.parts if d == dataset) for of in (images, rejections)}
        steps.append(
            Step("dataset", facts | {"training_runs": [run.id for run in products.runs_of(dataset)]})
        )
        if facts["images"]:
            made.append(Product("dataset", dataset.reference, facts, products.of_version(dataset)))
    if num_learned := num_of_these(_column(images, "photo_sha256")):
        made.append(Product("bundled generator", BUNDLED, {"photographs": num_learned}))
    return Chain(steps, images, rejections, made, Step(kind, _subject(kind, name, images, rejections)))


def _of_same_bytes(store: Store, parts: list[Found]) -> list[Found]:
    """The rows, and all others of the photograph that they are of, where they are of one."""
    photos = _values(parts, "photo_sha256")
    if len(photos) != 1 or photos[0] is None:
        return parts
    rows = {(dataset, table): numbers for dataset, table, numbers in parts}
    for dataset in all_versions(store, warn_of):
        try:
            for _, table, numbers in _in_version(dataset, {"photo": photos[0]}):
                rows[dataset, table] = np.union1d(rows.get((dataset, table), NONE), numbers)
        except UNREADABLE:  # is told already
            continue
    return [(dataset, table, numbers) for (dataset, table), numbers in rows.items()]


def _in_version(
    dataset: Dataset, asked: Mapping[Kind, str]
) -> Iterator[tuple[Kind, TableName, NDArray[np.int64]]]:
    tables: tuple[TableName, ...] = ("images", "rejections")
    found = [(table, find_numbers(dataset, table, asked)) for table in tables]
    for table, by_kind in found:
        for kind, numbers in by_kind.items():
            if len(numbers):
                yield kind, table, numbers


def _reading(kind: Kind, name: str, parts: list[Found], products: Products) -> Reading:
    read_as = READ_AS[kind]
    choices: list[str] = []
    if kind == "name":
        if len(_values(parts, "photo_sha256")) == 1:
            read_as = "photograph"
        else:
            choices = [str(ref) for ref in _values(parts, "ref")]
    rows = [[dataset.key, table, bytes_digest(numbers.tobytes())] for dataset, table, numbers in parts]
    return Reading(read_as, name, lambda: of_rows(read_as, name, parts, products), choices, json_digest(rows))


def _by_value(kind: Kind, reference: str, parts: Sequence[Found]) -> Iterator[tuple[str, list[Found]]]:
    """Rows by what they hold, where a beginning was asked for: a digest's first digits may be of several."""
    if kind not in DIGESTS.values():
        if parts:
            yield reference, list(parts)
        return
    by_value: dict[str, list[Found]] = {}
    for dataset, table, numbers in parts:
        held = dataset.table(table).take(numbers, [COLUMNS[kind]])[COLUMNS[kind]].to_pylist()
        for value in dict.fromkeys(held):
            mine = numbers[[row for row, other in enumerate(held) if other == value]]
            by_value.setdefault(value, []).append((dataset, table, mine))
    yield from by_value.items()


def _values(parts: Sequence[Found], column: str) -> list[str | None]:
    """The different values that rows have in a column."""
    columns = (dataset.table(table).take(numbers, [column])[column] for dataset, table, numbers in parts)
    values: list[str | None] = _joined(columns).unique().to_pylist()
    return values


def _subject(kind: str, name: str, images: Rows, rejections: Rows) -> dict[str, Any]:
    """The facts on record about what was asked for."""
    rows = images if len(images) else rejections
    row = rows.first
    assert row is not None, "what is traced was found"
    if kind in DIGESTS:
        dataset = rows.parts[0][0]
        facts = {column: row.get(column) for column in SOURCE_COLUMNS}
        facts = {"photo_sha256": row["photo_sha256"], **facts}
        if kind == "image":
            columns = ("key", "image_sha256", "face_index")
            return {column: row[column] for column in columns} | facts | {"original": row["original"]}
        original = row["photo_sha256"] and located(dataset, {"shard": "", **row})["original"]
        return facts | {"original": original}
    photos = [_column(rows, "photo_sha256") for rows in (images, rejections)]
    num_photos = pc.count_distinct(_joined(photos)).as_py()
    num_images = pc.count_distinct(_column(images, "image_sha256")).as_py()
    return {"name": name, "photographs": num_photos, "images": num_images, "rejections": len(rejections)}


def _column(rows: Rows, column: str) -> pa.ChunkedArray:
    return _joined(
        dataset.table(rows.table).take(numbers, [column])[column] for dataset, numbers in rows.parts
    )


def _joined(columns: Iterable[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
