"""Whose photographs a version is made of, as a text to hand on with it: title, author, page and licence of each.

    datasets/NAME/VERSION/ATTRIBUTION.txt

It is made of the version's table alone, and says that changes were made, as licences that ask for attribution want.
Not here: whether a licence permits anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.datasets.dataset import SOURCE_COLUMNS, Dataset
from storage.local import whole_file
from storage.tables import BATCH_ROWS, arrow, groups, leaders
from storage.wording import plain

FILE = "ATTRIBUTION.txt"
UNSAID = "not said"
CHANGES = (
    "Each image of this dataset is a face that was cut out of a photograph below, turned upright, resampled and "
    "encoded anew."
)


def write_attribution(dataset: Dataset) -> Path:
    """Write the text into the version's folder, beside what the manifest names, and return its path."""
    path = dataset.folder / FILE
    with (
        whole_file(path, durable=False) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in attribution(dataset))
    return path


def attribution(dataset: Dataset) -> Iterator[str]:
    """The lines: how many photographs each licence has, then the photographs by licence and author."""
    photos = dataset.table("images").read(SOURCE_COLUMNS)
    photos = photos.take(arrow(np.unique(leaders(photos["ref"]))))
    keys = ("license", "license_url", "author", "ref")
    photos = photos.take(pc.sort_indices(photos, [(name, "ascending") for name in keys]))
    yield dataset.reference
    yield ""
    yield CHANGES
    yield ""
    yield f"photographs: {photos.num_rows}"
    for row in _counts(photos):
        yield f"  {row['ref_count']} under {_licence(row)}"
    licence = author = None
    for row in _rows(photos):
        if licence != (licence := _licence(row)):
            yield from ("", "", licence)
            author = None
        if author != (author := _plain(row["author"])):
            yield from ("", f"  {author}")
        yield f"    {_plain(row['title'])}, {_plain(row['page'] or row['ref'])}"


def _counts(photos: pa.Table) -> list[dict[str, object]]:
    """The licences with the numbers of their photographs, which are ordered by them; the most frequent first."""
    pairs = photos.select(["license", "license_url"])
    first, group = groups(pairs)
    counts = np.bincount(group, minlength=len(first))
    order = np.argsort(-counts, kind="stable")
    rows = pairs.take(arrow(first[order])).append_column("ref_count", arrow(counts[order]))
    return list(rows.to_pylist())


def _rows(photos: pa.Table) -> Iterator[dict[str, object]]:
    for start in range(0, photos.num_rows, BATCH_ROWS):
        yield from photos.slice(start, BATCH_ROWS).to_pylist()


def _licence(row: dict[str, object]) -> str:
    url = row["license_url"]
    return _plain(row["license"]) + (f" <{_plain(url)}>" if url else "")


def _plain(text: object) -> str:
    """A text of the web in one line."""
    return plain(text or "") or UNSAID
