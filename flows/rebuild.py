"""A version built again, from what it was made of: the same to the byte, or which of its inputs is another.

    rebuilt = rebuild(Store("./store"), "faces", "71485f1fada17d95", options, run_with(report))

The build is that of the version's record, in a store of its own that shares photographs and chunks with the real one,
so that neither names nor records change. Its photographs come from the version's tables, or from its source where these
are damaged. Not here: what needs no build to be mended (`storage.repair`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.build import Run, build_from, check_build
from flows.options import BuildOptions
from flows.recurate import crawled
from flows.stages.crawl import Crawled, crawl
from flows.stages.screen import screened
from flows.stages.work import Context, Report
from preprocessing.config import BuildConfig
from storage.datasets.dataset import Dataset, builds_of
from storage.datasets.records import BuildRecord
from storage.environment import run_facts
from storage.errors import FormatError, IntegrityError, NotFoundError, PipelineError
from storage.local import link_whole, make_way, partial_beside
from storage.store import Store

SHARED = ("originals", "chunks", "ledger", "tombstones")
"""What a build takes from the store."""
PAGES = (".html", ".jpg", ".webp", ".css", "ATTRIBUTION.txt")
"""How files end that are for people, and have the time of their build in them: one that is there stays."""
MOST = 5
"""Photographs that are named of many."""


@dataclass(frozen=True)
class Rebuilt:
    """A version, the one that its inputs give now, and why these differ, if they do."""

    asked: Dataset
    version: str
    differences: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether the version was built again to the byte."""
        return self.version == self.asked.version

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "version": self.asked.version,
            "rebuilt": self.version,
            "same": self.is_same,
            "differences": list(self.differences),
        }


def rebuild(dataset: Dataset, options: BuildOptions, run: Run) -> Rebuilt:
    """Build a version again by its record; one that is the same takes the place of what is damaged or gone of it.

    NotFoundError where no record says how it was built.
    """
    store = dataset.store
    record = _record_of(dataset)
    config = BuildConfig.recorded(record.config, f"the record of build {record.build_id}")
    known = _tables(dataset, config)
    if known is None:
        check_build(config, store)
    scratch = Store(partial_beside(store.root / "rebuild"))
    try:
        _share(store, scratch)

        def found(context: Context, report: Report, config: BuildConfig) -> Crawled:
            photos = known if known is not None else crawl(context, report, config, ())
            return screened(photos, context, config, by_ledger=known is not None)

        given = options.model_copy(update={"store": scratch.root})
        made = build_from(found, config, given, run).dataset
        if made.version == dataset.version:
            _adopt(made, dataset)
            return Rebuilt(dataset, made.version)
        return Rebuilt(dataset, made.version, tuple(_differences(dataset, made, record)))
    finally:
        shutil.rmtree(scratch.root, ignore_errors=True)


def _record_of(dataset: Dataset) -> BuildRecord:
    try:
        records = [one for one in builds_of(dataset.store, dataset.name) if one.version == dataset.version]
    except (IntegrityError, FormatError):
        records = []
    records = [record for record in records if record.config]
    if not records:
        raise NotFoundError(f"no record of a build says how {dataset.reference} was built")
    return records[-1]


def _tables(dataset: Dataset, config: BuildConfig) -> Crawled | None:
    """What the crawl of a version gave, where its tables hold and all of its photographs are there."""
    try:
        return crawled(dataset, config.licenses)
    except (PipelineError, OSError):
        return None


def _share(store: Store, scratch: Store) -> None:
    """Links to all that a build may take: what it writes beside them is the scratch store's alone."""
    for name in SHARED:
        for place, _, files in os.walk(store.path(name)):
            folder = scratch.root / Path(place).relative_to(store.root)
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                if Path(place, file).is_file():
                    link_whole(Path(place, file), folder / file, durable=False)


def _adopt(made: Dataset, dataset: Dataset) -> None:
    """Put a version's files, and the chunks that they are, in the places that they have in the real store."""
    for name in ("chunks/shard", "chunks/table", made.key):
        for path in sorted(made.store.path(name).rglob("*"), key=lambda path: path.name == "manifest.json"):
            target = dataset.store.spot(path.relative_to(made.store.root).as_posix())
            if path.is_file() and not (target.is_file() and path.name.endswith(PAGES)):
                make_way(target)
                link_whole(path, target, durable=False)


def _differences(dataset: Dataset, made: Dataset, record: BuildRecord) -> Iterator[str]:
    """Which inputs are others than they were: settings, photographs, code, libraries."""
    try:
        before, now = dataset.manifest, made.manifest
    except PipelineError as error:
        yield f"what it was made of is not known: {error}"
        yield from _of_code(record)
        return
    yield from _settings({"source": before.source, **before.config}, {"source": now.source, **now.config})
    try:
        photos, other = _photographs(dataset), _photographs(made)
    except PipelineError as error:
        yield f"its photographs are not known: {error}"
    else:
        yield from _listed("photographs are gone", sorted(photos.keys() - other.keys()))
        yield from _listed("photographs are new", sorted(other.keys() - photos.keys()))
        shared = photos.keys() & other.keys()
        yield from _listed("photographs have other bytes", sorted(r for r in shared if photos[r] != other[r]))
    yield from _of_code(record)


def _settings(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _settings(old, new, f"{path}{name}.")
        elif old != new:
            yield f"setting {path}{name} was {old!r} and is {new!r}"


def _photographs(dataset: Dataset) -> dict[str, str | None]:
    """The sha256 of each photograph by what its source calls it."""
    found: dict[str, str | None] = {}
    for table in (dataset.table("images"), dataset.table("rejections")):
        for row in table.read(["ref", "photo_sha256"]).to_pylist():
            found[row["ref"]] = row["photo_sha256"] or found.get(row["ref"])
    return found


def _listed(what: str, refs: list[str]) -> Iterator[str]:
    if refs:
        more = f" and {len(refs) - MOST} more" if len(refs) > MOST else ""
        yield f"{len(refs)} {what}: {', '.join(refs[:MOST])}{more}"


def _of_code(record: BuildRecord) -> Iterator[str]:
    """The code and the libraries, which may give other bytes of the same photographs."""
    then, now = record.facts, run_facts()
    for name in sorted(then.packages.keys() | now.packages.keys()):
        old, new = then.packages.get(name), now.packages.get(name)
        if old != new:
            yield f"library {name} was {old or 'not there'} and is {new or 'not there'}"
    if then.code_commit != now.code_commit:
        yield f"the code was of commit {then.code_commit or 'unknown'} and is of {now.code_commit or 'unknown'}"
    if then.code_dirty or now.code_dirty:
        yield "the code had changes that no commit holds, then or now"
