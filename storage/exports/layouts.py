"""The formats that versions are exported in and imported from, by name; and which of them a folder or a ZIP has.

    LAYOUTS["ffhq"].what

Not here: any one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from storage.errors import ConfigError, FormatError, IntegrityError, SourceError
from storage.exports import croissant, ffhq, folder, huggingface, stylegan
from storage.exports.archive import Archive, Described, digest_of, open_archive
from storage.exports.pictures import Job
from storage.exports.records import RECORD, ExportRecord
from storage.exports.sinks import Sink

LayoutName = Literal["ffhq", "stylegan", "folder", "huggingface", "croissant"]


@dataclass(frozen=True)
class Layout:
    """A format, both ways."""

    name: LayoutName
    write: Callable[[Job, Sink], None]
    is_one: Callable[[Archive], bool]
    read: Callable[[Archive], Iterator[Described]]
    is_zip: bool = False
    is_png: bool = False
    """Whether WebP becomes PNG; JPEG does too, but in Croissant."""
    has_labels: bool = False


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("ffhq", ffhq.write, ffhq.is_one, ffhq.read, is_png=True),
        Layout(
            "stylegan",
            stylegan.write,
            stylegan.is_one,
            stylegan.read,
            is_zip=True,
            is_png=True,
            has_labels=True,
        ),
        Layout("croissant", croissant.write, croissant.is_one, croissant.read, is_png=True),
        Layout("huggingface", huggingface.write, huggingface.is_one, huggingface.read),
        Layout("folder", folder.write, folder.is_one, folder.read),
    )
}
"""In the order in which they are looked for: what any folder of images is comes last."""
assert set(LAYOUTS) == set(get_args(LayoutName))
KNOWN_BY = (RECORD, ffhq.METADATA, stylegan.LABELS, croissant.CARD, folder.METADATA, huggingface.CARD)
"""Files that a folder may be known by, the first that it has."""


@dataclass(frozen=True)
class Opened:
    """A folder or a ZIP whose layout is known."""

    archive: Archive
    layout: Layout

    @property
    def record(self) -> ExportRecord | None:
        """What it says of itself, where it is an export of ours; else, or where that is damaged, None."""
        try:
            place = open_archive(self.archive.path)
            return (
                ExportRecord.of_bytes(place.read(RECORD, 1 << 20), RECORD) if RECORD in place.files else None
            )
        except (IntegrityError, FormatError, SourceError):
            return None

    def sha256(self) -> str | None:
        """Of the whole ZIP, or of the file that a folder is known by; None of a folder with none such."""
        place = open_archive(self.archive.path)
        try:
            return digest_of(place, iter(KNOWN_BY))
        except StopIteration:
            return None


def opened(path: Path, name: str | None = None) -> Opened:
    """The folder or ZIP at `path`, in the layout of a name, or in whichever it is; ConfigError where it is in none."""
    if name is not None and name not in LAYOUTS:
        raise ConfigError(f"format {name!r} is none of {', '.join(LAYOUTS)}")
    archive = open_archive(path)
    for layout in LAYOUTS.values():
        if name in (None, layout.name) and layout.is_one(archive):
            return Opened(huggingface.Shards(archive) if layout.name == "huggingface" else archive, layout)
    raise ConfigError(
        f"{path} holds no {name or 'images'}"
        + (
            f": leave --format out, or choose one of {', '.join(LAYOUTS)}"
            if name
            else " in any format that is read"
        )
    )
