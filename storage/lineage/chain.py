"""What a trace finds: what was asked about, what it was made of step by step, and what was made of it.

Not here: finding it (`storage.lineage.trace`), and how people read it (`storage.lineage.tree`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from storage.datasets.dataset import IMAGE_COLUMNS, SOURCE_COLUMNS, Dataset, TableName
from storage.store import original_key
from storage.tables import BATCH_ROWS, Row

BRIEF = (
    "key",
    "dataset",
    "image_sha256",
    "shard",
    "offset",
    "face_index",
    "photo_sha256",
    "original",
    *SOURCE_COLUMNS,
)
"""What is said of an image in JSON."""


@dataclass(frozen=True)
class Step:
    """One link of a chain: what it is and the facts on record about it."""

    kind: str
    facts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"kind": self.kind, **self.facts}


@dataclass(frozen=True)
class Product:
    """Something that was made: its kind, its name, the facts on record about it, and what was made of it in turn."""

    kind: str
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    made: Sequence[Product] = ()

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        made = [product.as_json() for product in self.made]
        return {"kind": self.kind, "name": self.name, **self.facts, **({"made": made} if made else {})}


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Rows of the table `table` of versions, each read and checked as it is asked for; images with where they lie."""

    table: TableName
    parts: Sequence[tuple[Dataset, NDArray[np.int64]]] = ()

    def __len__(self) -> int:
        return sum(len(numbers) for _, numbers in self.parts)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, int):
            index = range(len(self))[index]
            return next(iter(self[index : index + 1]))
        parts, start = [], 0
        wanted = np.arange(len(self))[index]
        for dataset, numbers in self.parts:
            mine = wanted[(start <= wanted) & (wanted < start + len(numbers))] - start
            if len(mine):
                parts.append((dataset, numbers[mine]))
            start += len(numbers)
        return Rows(self.table, parts)

    def __iter__(self) -> Iterator[Row]:
        columns = IMAGE_COLUMNS if self.table == "images" else None
        for dataset, numbers in self.parts:
            stored = dataset.table(self.table)
            for start in range(0, len(numbers), BATCH_ROWS):
                for row in stored.take(numbers[start : start + BATCH_ROWS], columns).to_pylist():
                    yield located(dataset, row) if columns else {"dataset": dataset.reference, **row}

    @cached_property
    def first(self) -> Row | None:
        """The first of them, or None."""
        return next(iter(self[:1]), None)


@dataclass(frozen=True)
class Chain:
    """From what was asked about, step by step, to photographs, and on to all that was made of it.

    `images` are the rows that it comes down to, or that were made of it; `rejections` those that were not kept.
    """

    steps: list[Step]
    images: Sequence[Row] = ()
    rejections: Sequence[Row] = ()
    made: Sequence[Product] = ()
    subject: Step | None = None
    """What was asked about, where that is not the first step: a photograph, an author and so on."""
    begun_with: Chain | None = None
    """What the first weights of the run among the steps come from, unless they were random."""

    @property
    def asked(self) -> Step:
        """What was asked about."""
        return self.subject or self.steps[0]

    def as_json(self) -> dict[str, Any]:
        """The whole chain, every image included."""
        return {
            "asked": self.asked.as_json(),
            "chain": [step.as_json() for step in self.steps],
            **({"begun_with": self.begun_with.as_json()} if self.begun_with else {}),
            "images": [{column: row[column] for column in BRIEF} for row in self.images],
            "rejections": list(self.rejections),
            "made": [product.as_json() for product in self.made],
        }


def located(dataset: Dataset, row: Row) -> Row:
    """An image's row with where it lies on disk, and its photograph if the store has that."""
    original = original_key(row["photo_sha256"])
    return {
        **row,
        "dataset": dataset.reference,
        "shard": dataset.where(str(row["shard"])),
        "original": f"{dataset.store}/{original}" if dataset.store.exists(original) else None,
    }
