"""The text that names whose photographs a version is made of."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from storage.datasets.attribution import CHANGES, write_attribution
from storage.datasets.manifest import publish
from storage.store import Store


def image(key: int, ref: str, **said: str) -> dict[str, Any]:
    """The row of an image."""
    row: dict[str, Any] = dict.fromkeys(IMAGE_SCHEMA.names)
    return row | {"key": f"{key:016x}", "ref": ref, "photo_sha256": "0" * 64} | said


def test_every_photograph_is_named_once(tmp_path: Any) -> None:
    """Photographs stand by licence and author, once however many faces they gave, and no text breaks its line."""
    by = {"license": "CC-BY-4.0", "license_url": "https://creativecommons.org/licenses/by/4.0/"}
    rows = [
        image(1, "https://h/b", author="Bob", title="Two\nlines\u2028", page="https://p/b", **by),
        image(2, "https://h/a", author="Ann", title="One", page="https://p/a", **by),
        image(3, "https://h/a", author="Ann", title="One", page="https://p/a", **by),
        image(4, "own.jpg"),
    ]
    dataset = publish(
        Store(tmp_path), "faces", settings={"resolution": 32, "source": {}}, shards=[], num_photos=3,
        images=[pa.Table.from_pylist(rows, IMAGE_SCHEMA)], image_schema=IMAGE_SCHEMA,
        rejections=[], rejection_schema=REJECTION_SCHEMA,
    )  # fmt: skip
    path = write_attribution(dataset)
    assert path == dataset.folder / "ATTRIBUTION.txt"
    assert (
        path.read_text()
        == f"""{dataset.reference}

{CHANGES}

photographs: 3
  2 under CC-BY-4.0 <https://creativecommons.org/licenses/by/4.0/>
  1 under not said


CC-BY-4.0 <https://creativecommons.org/licenses/by/4.0/>

  Ann
    One, https://p/a

  Bob
    Two lines, https://p/b


not said

  not said
    not said, own.jpg
"""
    )
