"""A dataset's site for the people in it and those who use it: static files, which need no server and no other host.

    OUT/index.html       search and gallery, and how to ask for removal; licences, statistics, lineage, what changed
    OUT/pages/00000.js   what is said of PER_PAGE images, as a script, since a page from disk may load nothing else
    OUT/pages/00000.jpg  their small pictures, in rows of COLUMNS

A page of a gallery of 100,000 images loads two files. A search reads page after page and shows what it finds at once.
The same version and settings give the same bytes. Not here: what a version holds (`storage.datasets.dataset`).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field, field_validator

from flows.pages.rendered import rendered
from preprocessing.crawl.signals import Signals
from preprocessing.crawl.summary import entries_of
from preprocessing.crawl.urls import web_address
from preprocessing.reject import Reason, Rejected
from storage.config import Config
from storage.datasets.dataset import Dataset, all_versions, builds_of
from storage.datasets.diff import UNSAID, diff
from storage.errors import ConfigError, FormatError, IntegrityError
from storage.lineage.trace import trace
from storage.lineage.tree import tree
from storage.local import whole_folder
from storage.shards import Entry, read_entry
from storage.tables import Row, counted
from storage.wording import numbered, plural

PER_PAGE, COLUMNS = 200, 20
SIDE_PX = 128
JPEG_QUALITY = 80
THREADS = 4
CHANGES_SHOWN = 20
COLUMNS_SHOWN = ("key", "photo_sha256", "ref", "page", "author", "license", "license_url", "title", "shard")


class SiteConfig(Config):
    """What a site says beside what the version holds."""

    contact: str = Field(
        min_length=3,
        max_length=500,
        description="Whom to ask for removal: a mail address, or the address of a page.",
    )
    title: str | None = Field(
        None, max_length=200, description="The site's title; unset: the dataset's name."
    )
    pictures: bool = Field(True, description="Show the images; without, only what is on record of them.")

    @field_validator("contact")
    @classmethod
    def _can_be_followed(cls, contact: str) -> str:
        if not re.fullmatch(r"https?://\S+|[^\s@<>\"']+@[^\s@<>\"']+", contact):
            raise ValueError(f"{contact!r} is neither a mail address nor the address of a page (https://...)")
        return contact

    @property
    def address(self) -> str:
        """What a link to it leads to."""
        return self.contact if self.contact.startswith("http") else f"mailto:{self.contact}"


@dataclass(frozen=True)
class Site:
    """A site that was written: its first page, and what is in it."""

    index: Path
    num_images: int
    num_pages: int
    num_bytes: int

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "index": str(self.index),
            "images": self.num_images,
            "pages": self.num_pages,
            "bytes": self.num_bytes,
        }


def write_site(dataset: Dataset, out: Path, config: SiteConfig) -> Site:
    """Write the site of a version into a new folder.

    ConfigError where there is something at `out`; IntegrityError where bytes of the version are not what they were.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already: choose another --out, or remove it")
    evidence = _evidence(dataset)
    with whole_folder(out) as folder:
        (folder / "pages").mkdir()
        firsts = []
        with ThreadPoolExecutor(THREADS) as pool:
            sheets = _Sheets(dataset, pool)
            for number, rows in enumerate(_pages(dataset)):
                firsts.append(rows[0]["key"])
                said = [_said(row, evidence.get(row["ref"])) for row in rows]
                (folder / "pages" / f"{number:05d}.js").write_text(
                    f"page({number}, {_script(said)});\n", encoding="utf-8"
                )
                if config.pictures:
                    (folder / "pages" / f"{number:05d}.jpg").write_bytes(sheets.sheet(rows))
        (folder / "index.html").write_text(_index(dataset, config, firsts), encoding="utf-8")
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return Site(out / "index.html", dataset.num_images, len(firsts), sum(sizes))


def _pages(dataset: Dataset) -> Iterator[list[Row]]:
    """The rows of each page's images."""
    images = dataset.table("images")
    rows = images.read([*COLUMNS_SHOWN, *({"split"} & set(images.schema.names))])
    for start in range(0, rows.num_rows, PER_PAGE):
        yield rows.slice(start, PER_PAGE).to_pylist()


def _said(row: Row, evidence: Row | None) -> Row:
    """What the site says of an image: facts that are there, under short names that `site.js` has too."""
    said = {name: row.get(name) for name in (*COLUMNS_SHOWN[:-1], "split")} | (evidence or {})
    return {name: value for name, value in said.items() if value not in (None, "", [])}


def _evidence(dataset: Dataset) -> dict[str, Row]:
    """What was found of opt-outs where each photograph was fetched, by the reference that its source has for it."""
    by_address = {}
    for entry in entries_of(dataset):
        signals = Signals.model_validate_json(entry.signals) if entry.signals else Signals()
        by_address[entry.url] = {
            "asked_at": entry.asked_at,
            "looked_at": [signal.value for signal in signals.looked_at],
            "evidence": list(_statements(signals)),
        }
    found = {}
    for ref in dataset.table("images").read(["ref"])["ref"].unique().to_pylist() if by_address else ():
        try:
            found[ref] = by_address[web_address(ref).key]
        except (Rejected, KeyError):  # no address, or one that the ledger has lost
            continue
    return found


def _statements(signals: Signals) -> Iterator[str]:
    """What was said of a photograph, and by the redirects that led to it."""
    places = [(f", {hop.url}", hop.evidence) for hop in signals.hops]
    for where, evidence in (*places, ("", signals.evidence)):
        yield from (f"{one.signal.value} ({one.place.value}{where}): {one.text}" for one in evidence)


class _Sheets:
    """Draws the small pictures of each page, in one, a few at a time."""

    def __init__(self, dataset: Dataset, pool: ThreadPoolExecutor) -> None:
        self.dataset = dataset
        self.pool = pool
        self.shards = {shard.file: shard for shard in dataset.manifest.shards}

    def sheet(self, rows: Sequence[Row]) -> bytes:
        """A JPEG of the images of these rows."""
        entries = self._entries({row["shard"] for row in rows})
        sheet = Image.new("RGB", (COLUMNS * SIDE_PX, -(-len(rows) // COLUMNS) * SIDE_PX), "#888")

        def small(row: Row) -> Image.Image:
            data = read_entry(self.dataset.file(row["shard"]), entries[row["key"]])
            image = Image.open(io.BytesIO(data)).convert("RGB")
            return image.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS, reducing_gap=2.0)

        for number, picture in enumerate(self.pool.map(small, rows)):
            down, across = divmod(number, COLUMNS)
            sheet.paste(picture, (across * SIDE_PX, down * SIDE_PX))
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()

    def _entries(self, files: Iterable[str]) -> dict[str, Entry]:
        """Where the images of some shards lie, by their keys."""
        indexes = [self.dataset.index(self.shards[file]).entries for file in files]
        return {
            entry.name.partition(".")[0]: entry
            for entries in indexes
            for entry in entries
            if not entry.name.endswith(".json")
        }


def _index(dataset: Dataset, config: SiteConfig, firsts: Sequence[str]) -> str:
    images = dataset.table("images").read(["license", "author", "photo_sha256"])
    counts = dataset.manifest.counts
    facts = {
        "name": dataset.name,
        "version": dataset.version,
        "images": dataset.num_images,
        "perPage": PER_PAGE,
        "columns": COLUMNS,
        "side": SIDE_PX,
        "firsts": list(firsts),
        "pictures": config.pictures,
        "contact": config.address,
    }
    previous = _previous(dataset)
    return rendered(
        "site/index.html",
        dataset=dataset,
        config=config,
        title=config.title or dataset.name,
        facts=_script(facts),
        totals=[
            (dataset.num_images, plural(dataset.num_images, "image")),
            (photographs := len(images["photo_sha256"].unique()), plural(photographs, "photograph")),
            (authors := len(images["author"].drop_null().unique()), plural(authors, "author")),
            (dataset.resolution, "pixels a side"),
        ],
        licenses=_descending({name or UNSAID: count for name, count in counted(images["license"]).items()}),
        rejected=[(_meaning(name), count) for name, count in _descending(counts.rejected)],
        lineage="\n".join(tree(trace(dataset.store, dataset.reference, "dataset"), 0)),
        previous=previous and previous.reference,
        changes=_changes(previous, dataset) if previous else [],
    )


def _changes(previous: Dataset, dataset: Dataset) -> list[str]:
    """What differs from the version before, a line each; names and addresses of those who are gone stay out."""
    difference = diff(previous, dataset, 0)
    images, photographs = difference.images, difference.photographs
    lines = []
    for noun, sets in (("image", images), ("photograph", photographs)):
        lines.append(f"{numbered(sets.added.num_rows, noun)} added, {sets.removed.num_rows:,} removed")
    lines += [f"{num:,} removed, which are {reason}" for reason, num in difference.went_to.items()]
    lines += [f"{name} corrected of {num:,}" for name, (num, _) in difference.facts.items()]
    lines += [f"{numbered(num, 'image')} moved from split {move}" for move, num in difference.moved.items()]
    lines += [
        f"setting {name}: {_shown(old)} became {_shown(new)}"
        for name, (old, new) in difference.settings.items()
    ]
    return lines[:CHANGES_SHOWN]


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:100]


def _previous(dataset: Dataset) -> Dataset | None:
    """The version that the name had before this one was first built; None where it had none, or that is gone."""
    there = {one.version for one in all_versions(dataset.store) if one.name == dataset.name}
    before = None
    try:
        for build in builds_of(dataset.store, dataset.name):
            if build.version == dataset.version:
                break
            if build.version in there:
                before = build.version
    except (IntegrityError, FormatError):  # none can be read, which was warned of
        return None
    return None if before is None else Dataset(dataset.store, dataset.name, before)


def _meaning(reason: str) -> str:
    known = {each.value: each.meaning for each in Reason}
    return f"{reason}: {known[reason]}" if reason in known else reason


def _descending(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _script(value: Any) -> str:
    """JSON that may stand in a script of a page, whatever strangers wrote in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
