"""The images of a version on their way into an export: each row with its bytes, checked, and encoded where it must be.

    job = Job(open_dataset(store, "faces"), 256)
    for row, data in job.each(stored): ...

Where a format takes it, the stored file is handed on as it is. Where it does not, or a smaller side is asked for, the
pixels are encoded anew as PNG, without loss. Not here: any one format.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from storage.datasets.attribution import UNSAID
from storage.datasets.dataset import SOURCE_COLUMNS, Dataset
from storage.errors import ConfigError, IntegrityError
from storage.shards import Entry, read_entry
from storage.tables import Row, counted

PNG_LEVEL = 1
"""zlib's effort: more takes several times as long for a tenth of the size."""
AHEAD = 4
"""Images that are worked on before they are asked for, a thread."""
NOT_EXPORTED = ("shard", "offset", "size", "embedding")
"""Columns of an image that mean nothing elsewhere; and what a person could be recognised by."""
SUFFIXES = {b"\x89PNG": "png", b"RIFF": "webp", b"\xff\xd8\xff": "jpg"}
ORIGIN = ("ref", "photo_sha256", "face_index", "photo_width_px", "photo_height_px", "quad_px", "said")
"""Columns that lead from an image to the photograph it was cut from."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """What is exported: a version, the side of its images in pixels, and the column that labels them, if any does."""

    dataset: Dataset
    resolution: int
    label: str | None = None

    def check(self) -> None:
        """Raise ConfigError for a side, or a column, that the version does not have."""
        side = self.dataset.resolution
        if self.resolution > side or side % self.resolution:
            sides = [
                side >> halved for halved in range(12) if side % (1 << halved) == 0 and side >> halved >= 4
            ]
            raise ConfigError(
                f"resolution {self.resolution} is none that {self.dataset.reference} can be exported at: "
                f"{', '.join(map(str, sides))}"
            )
        if self.label is not None:
            self.labels  # noqa: B018

    @cached_property
    def labels(self) -> dict[Any, int] | None:
        """The number of each value of the label's column, by sorted values; None where nothing labels."""
        if self.label is None:
            return None
        table = self.dataset.table("images")
        names = [name for name in table.schema.names if str(table.schema.field(name).type) in _LABELLING]
        if self.label not in names:
            raise ConfigError(f"label {self.label!r} is no column to label by: {', '.join(sorted(names))}")
        values = counted(table.read([self.label])[self.label])
        return {value: number for number, value in enumerate(sorted(values, key=lambda v: (v is None, v)))}

    def rows(self) -> Iterator[Row]:
        """Every image's row, ordered by key."""
        return self.dataset.table("images").each_row()

    def stored(self, row: Row) -> bytes:
        """An image's bytes as they are stored, checked against the sha256 of its row."""
        if row["shard"] not in self._shards:
            raise IntegrityError(f"image {row['key']} is in {row['shard']}, which the manifest does not name")
        entry = Entry(row["key"], row["offset"], row["size"], row["image_sha256"])
        return read_entry(self.dataset.file(row["shard"]), entry)

    @cached_property
    def _shards(self) -> frozenset[str]:
        return frozenset(shard.file for shard in self.dataset.manifest.shards)

    def each(self, made: Callable[[Row, bytes], Result]) -> Iterator[Result]:
        """What `made` makes of each image's row and stored bytes, in order; it runs in threads."""
        threads = os.cpu_count() or 1

        def work(row: Row) -> Result:
            return made(row, self.stored(row))

        waiting: deque[Any] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="export") as pool:
            try:
                for row in self.rows():
                    waiting.append(pool.submit(work, row))
                    if len(waiting) > threads * AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def as_png(self, data: bytes) -> tuple[bytes, Image.Image]:
        """A stored image as a PNG, the same file where it is one, and its pixels as RGB."""
        image = self._image(data)
        if self.resolution == self.dataset.resolution and suffix_of(data) == "png" and image.mode == "RGB":
            return data, image
        rgb = image.convert("RGB")
        if self.resolution != self.dataset.resolution:
            rgb = rgb.reduce(self.dataset.resolution // self.resolution)
        buffer = io.BytesIO()
        rgb.save(buffer, "PNG", compress_level=PNG_LEVEL)
        return buffer.getvalue(), rgb

    def as_file(self, data: bytes, taken: Collection[str] = ("png", "webp", "jpg")) -> tuple[bytes, str]:
        """A stored image and its suffix: the same file where its format is among those `taken`, else a PNG."""
        suffix = suffix_of(data)
        if self.resolution == self.dataset.resolution and suffix in taken:
            return data, suffix
        return self.as_png(data)[0], "png"

    def _image(self, data: bytes) -> Image.Image:
        side = self.dataset.resolution
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except (UnidentifiedImageError, OSError) as error:
            raise IntegrityError(
                f"an image of {self.dataset.reference} cannot be decoded: {error}"
            ) from error
        if image.size != (side, side):
            raise IntegrityError(
                f"an image of {self.dataset.reference} is {image.width}x{image.height}, and not {side}x{side}"
            )
        return image


_LABELLING = ("string", "large_string", "int32", "int64", "bool")


def suffix_of(data: bytes) -> str:
    """The suffix of an image file, by its first bytes."""
    return next((suffix for start, suffix in SUFFIXES.items() if data.startswith(start)), "bin")


def facts_of(row: Row) -> Row:
    """What is handed on of an image, in all formats that take any facts."""
    return {name: value for name, value in row.items() if name not in NOT_EXPORTED}


def address_of(row: Row) -> str | None:
    """Where a person finds the photograph: its page, or else its reference, where that is an address."""
    ref = row.get("ref") or ""
    return row.get("page") or (ref if ref.startswith(("https://", "http://")) else None)


def licences_of(dataset: Dataset) -> list[Row]:
    """Each licence with its link and number of images, the most frequent first."""
    counts = dataset.table("images").read(SOURCE_COLUMNS).group_by(["license", "license_url"])
    rows: list[Row] = counts.aggregate([("ref", "count")]).to_pylist()
    return sorted(rows, key=lambda row: (-row["ref_count"], row["license"] or "", row["license_url"] or ""))


def licences_text(dataset: Dataset) -> str:
    """The licences, a line each, and what they are of."""
    lines = [
        f"{row['ref_count']}  {row['license'] or UNSAID}  {row['license_url'] or ''}".rstrip()
        for row in licences_of(dataset)
    ]
    head = [
        dataset.reference,
        "",
        "Each image is under the licence of the photograph that it was cut from, which its row names. Images, licence,",
        "and where the licence's text stands:",
        "",
    ]
    return "".join(f"{' '.join(line.splitlines())}\n" for line in [*head, *lines])
