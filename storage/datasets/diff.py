"""What differs between two versions: images, photographs, facts, settings, and what can be counted, side by side.

    difference = diff(open_dataset(store, "faces@3f2a"), open_dataset(store, "faces"))

An image goes by its sha256, a photograph by its own. Tables are read a column at a time and stay columns: of 100,000
images none becomes a Python object but those that are listed. Not here: why a face was kept (`preprocessing.explain`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.datasets.dataset import SOURCE_COLUMNS, Dataset
from storage.tables import Row, arrow, counted, filled, leaders, numbers, rows_holding, where
from storage.wording import numbered

PLACES = ("key", "shard", "offset", "size", "image_sha256", "photo_sha256")
"""Columns that say where an image lies, or which one it is."""
NO_SCORES = (*PLACES, "face_index", "photo_num_bytes", "photo_width_px", "photo_height_px")
"""Columns whose median says nothing."""
COLUMNS_AT_ONCE = 8
"""Held of both versions; changes no result."""
UNSAID = "not said"
SPLIT = "split"
Rows = NDArray[np.int64]
Pair = tuple[Any, Any]
"""What the first version has, and what the second."""


@dataclass(frozen=True, eq=False)
class Sets:
    """The images or photographs that one version has and the other lacks, as columns, and how many both have."""

    added: pa.Table
    removed: pa.Table
    num_common: int

    def as_json(self, limit: int) -> dict[str, Any]:
        """How many, and the first of them."""
        return {
            "added": self.added.num_rows,
            "removed": self.removed.num_rows,
            "in_both": self.num_common,
            "added_first": self.added.slice(0, limit).to_pylist(),
            "removed_first": self.removed.slice(0, limit).to_pylist(),
        }


@dataclass(frozen=True)
class Difference:
    """What two versions differ in."""

    first: Dataset
    second: Dataset
    images: Sets
    photographs: Sets
    came_from: dict[str, int]
    """What the photographs that were added were in the first version, by reason of rejection, or `new`."""
    went_to: dict[str, int]
    """What those that were removed are in the second, likewise, or `gone`."""
    facts: dict[str, tuple[int, list[Row]]]
    """Of the photographs and images in both, how many have another value in a column, and the first of them."""
    moved: dict[str, int]
    """How many images in both went from one split to another."""
    settings: dict[str, Pair]
    statistics: dict[str, dict[str, Pair]]

    @property
    def is_none(self) -> bool:
        """Whether both are one version, under whatever names."""
        return self.first.manifest_sha256 == self.second.manifest_sha256

    def as_json(self, limit: int) -> dict[str, Any]:
        """For scripts: every count, and the first `limit` of what is listed."""
        return {
            "first": self.first.reference,
            "second": self.second.reference,
            "same": self.is_none,
            "images": self.images.as_json(limit),
            "photographs": {
                **self.photographs.as_json(limit),
                "came_from": self.came_from,
                "went_to": self.went_to,
            },
            "changed_facts": {
                name: {"changed": num, "first": rows} for name, (num, rows) in self.facts.items()
            },
            "moved_between_splits": self.moved,
            "settings": {name: list(pair) for name, pair in self.settings.items()},
            "statistics": {
                group: {name: list(pair) for name, pair in pairs.items()}
                for group, pairs in self.statistics.items()
            },
        }

    def lines(self, limit: int) -> Iterator[str]:
        """For people."""
        yield f"{self.first.reference} -> {self.second.reference}"
        if self.is_none:
            yield "  the same version: nothing differs"
            return
        for noun, sets in (("image", self.images), ("photograph", self.photographs)):
            yield (
                f"  {numbered(sets.added.num_rows, noun)} added, {sets.removed.num_rows:,} removed, "
                f"{sets.num_common:,} in both"
            )
        for what, came in (("added, which were", self.came_from), ("removed, which are", self.went_to)):
            for reason, num in came.items():
                yield f"    {num:,} {what} {reason}"
        for sign, table in (("+", self.images.added), ("-", self.images.removed)):
            for row in table.slice(0, limit).to_pylist():
                yield f"  {sign} {row['key']}  {row['ref']}"
            if table.num_rows > limit:
                yield f"  {sign} and {table.num_rows - limit:,} more (--limit)"
        for name, (num, rows) in self.facts.items():
            yield f"  {name}: changed of {num:,}"
            for row in rows:
                yield f"    {row['of']}: {_shown(row['first'])} -> {_shown(row['second'])}"
        for move, num in self.moved.items():
            yield f"  {numbered(num, 'image')} moved from split {move}"
        for name, (old, new) in self.settings.items():
            yield f"  setting {name}: {_set(old)} -> {_set(new)}"
        for group, pairs in self.statistics.items():
            yield f"  {group}"
            for name, (old, new) in pairs.items():
                yield f"    {name}: {_number(old)} -> {_number(new)}{'' if old == new else '  *'}"


def diff(first: Dataset, second: Dataset, limit: int = 10) -> Difference:
    """What differs, from the first to the second; of changed facts the first `limit` are held.

    IntegrityError as of `Dataset.table`.
    """
    versions = (first, second)
    ids = [one.table("images").read(["key", "image_sha256", "photo_sha256", "ref"]) for one in versions]
    photos = [np.unique(leaders(table["photo_sha256"])) for table in ids]
    images, in_both = _compared(ids[0], ids[1], "image_sha256")
    of_each = [table.take(arrow(rows)) for table, rows in zip(ids, photos, strict=True)]
    photographs, both = _compared(of_each[0], of_each[1], "photo_sha256")
    by_photo = (photos[0][both[0]], photos[1][both[1]])
    facts = _changed(versions, SOURCE_COLUMNS, by_photo, ids[0]["ref"], limit)
    others = [name for name in _columns(first, second) if name not in (*PLACES, *SOURCE_COLUMNS, SPLIT)]
    facts |= _changed(versions, others, in_both, ids[0]["key"], limit)
    return Difference(
        first,
        second,
        images,
        photographs,
        came_from=_fate(photographs.added, first, "new"),
        went_to=_fate(photographs.removed, second, "gone"),
        facts=facts,
        moved=_moved(versions, in_both),
        settings=_settings(first, second),
        statistics=_statistics(first, second),
    )


def _compared(first: pa.Table, second: pa.Table, by: str) -> tuple[Sets, tuple[Rows, Rows]]:
    """What only one of two tables has, and the rows, in both, of what both have."""
    place = rows_holding(first[by], second[by])
    is_left = np.ones(first.num_rows, bool)
    is_left[place[place >= 0]] = False
    added = second.take(arrow(np.flatnonzero(place < 0)))
    removed = first.take(arrow(np.flatnonzero(is_left)))
    rows = np.flatnonzero(place >= 0)
    return Sets(added, removed, len(rows)), (place[rows].astype(np.int64), rows)


def _columns(first: Dataset, second: Dataset) -> list[str]:
    """The columns of text and numbers that the images of both have."""
    there = second.table("images").schema.names
    return [
        field.name
        for field in first.table("images").schema
        if field.name in there and not pa.types.is_nested(field.type)
    ]


def _changed(
    versions: Pair, names: Sequence[str], rows: tuple[Rows, Rows], of: pa.ChunkedArray, limit: int
) -> dict[str, tuple[int, list[Row]]]:
    """The columns that differ between some rows of the first and of the second; `of` is what to call those."""
    found = {}
    for name, old, new in _columns_of_both(versions, names, rows):
        differs = pc.fill_null(pc.not_equal(old, new), pc.xor(old.is_null(), new.is_null()))
        if len(places := where(differs)):
            some = arrow(places[:limit])
            values = (of.take(arrow(rows[0])).take(some), old.take(some), new.take(some))
            found[name] = (len(places), pa.table(values, ["of", "first", "second"]).to_pylist())
    return found


def _columns_of_both(
    versions: Pair, names: Sequence[str], rows: tuple[Rows, Rows]
) -> Iterator[tuple[str, pa.ChunkedArray, pa.ChunkedArray]]:
    """Some columns of some rows of both; a few are read at once, since each part of a table is a file to open."""
    for start in range(0, len(names), COLUMNS_AT_ONCE):
        some = names[start : start + COLUMNS_AT_ONCE]
        old, new = (one.table("images").read(some) for one in versions)
        for name in some:
            yield name, old[name].take(arrow(rows[0])), new[name].take(arrow(rows[1]))


def _fate(photographs: pa.Table, other: Dataset, otherwise: str) -> dict[str, int]:
    """What the version that lacks them says of photographs: for each reason how many; the first reason of each."""
    refused = other.table("rejections").read(["reason", "photo_sha256"])
    place = rows_holding(refused["photo_sha256"], photographs["photo_sha256"])
    counts = counted(refused["reason"].take(arrow(place[place >= 0].astype(np.int64))))
    counts = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    unknown = int((place < 0).sum())
    return {**counts, **({otherwise: unknown} if unknown else {})}


def _moved(versions: Pair, rows: tuple[Rows, Rows]) -> dict[str, int]:
    if SPLIT not in _columns(*versions):
        return {}
    old, new = (
        filled(one.table("images").read([SPLIT])[SPLIT], UNSAID).take(arrow(mine))
        for one, mine in zip(versions, rows, strict=True)
    )
    moves = pc.binary_join_element_wise(old, new, " to ").filter(pc.not_equal(old, new))
    return dict(sorted(counted(moves).items()))


def _settings(first: Dataset, second: Dataset) -> dict[str, Pair]:
    """What determined the versions and is not the same, by dotted names; None where one does not have it."""
    each = [
        _flat({"resolution": one.resolution, "source": one.manifest.source, **one.manifest.config})
        for one in (first, second)
    ]
    return _unequal(*each)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, entry in value.items():
        is_group = isinstance(entry, Mapping) and entry
        flat |= _flat(entry, f"{prefix}{name}.") if is_group else {f"{prefix}{name}": entry}
    return flat


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Pair]:
    """Both values of every name, in the order in which they come."""
    return {name: (old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new])}


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Pair]:
    return {name: pair for name, pair in _pairs(old, new).items() if pair[0] != pair[1]}


def _statistics(first: Dataset, second: Dataset) -> dict[str, dict[str, Pair]]:
    """What can be counted of each version, side by side."""
    each = [_counts(one) for one in (first, second)]
    return {group: _pairs(each[0].get(group, {}), each[1].get(group, {})) for group in each[0] | each[1]}


def _counts(dataset: Dataset) -> dict[str, dict[str, float | None]]:
    counts, table = dataset.manifest.counts, dataset.table("images")
    found: dict[str, dict[str, float | None]] = {
        "counts": {
            "photographs": counts.photos,
            "images": counts.images,
            "shards": len(dataset.manifest.shards),
            "bytes": sum(shard.size for shard in dataset.manifest.shards),
        },
        "rejected": dict(counts.rejected),
        "licences": _by_value(table.read(["license"])["license"]),
        "images without": dict(counts.images_missing),
    }
    if SPLIT in table.schema.names:
        found["splits"] = _by_value(table.read([SPLIT])[SPLIT])
    scores = [
        field.name
        for field in table.schema
        if (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
        and field.name not in NO_SCORES
    ]
    columns = table.read(scores)
    found["medians"] = {name: _median(columns[name]) for name in scores}
    return found


def _by_value(column: pa.ChunkedArray) -> dict[str, float | None]:
    counts = counted(filled(column, UNSAID))
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _median(column: pa.ChunkedArray) -> float | None:
    """Of what was measured; None where nothing was."""
    values = numbers(column.drop_null())
    return float(np.median(values)) if len(values) else None


def _shown(value: Any) -> str:
    return UNSAID if value is None else str(value)


def _set(value: Any) -> str:
    return "not set" if value is None else str(value)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
