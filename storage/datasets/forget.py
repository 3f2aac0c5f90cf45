"""Photographs taken out of a store: their bytes, their crops, and every line that says whose they are.

    withdraw(dataset, withdrawal)                              a version becomes the record of its withdrawal
    erase_photographs(store, Gone.of(photos, refs))            originals, crops, packed shards

Everything can be done again, whatever was done before: of a kill in between what is left goes the next time. A file
that holds other photographs too is written anew without these. Not here: in which order (`flows.forget`), the ledger
(`preprocessing.crawl.ledger`), and how photographs are found (`preprocessing.forgetting`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.datasets.dataset import Dataset
from storage.errors import IntegrityError
from storage.exports.records import exports_of
from storage.lineage.ancestry import Learner, learned_from
from storage.local import PARTIAL, delete, delete_files, here, listed, sync, whole_file, write_whole
from storage.records import json_object
from storage.runs import Run, list_runs
from storage.store import Store, original_key
from storage.tables import Stored
from storage.withdrawals import FILE, Before, Export, NearCopies, Touched, Withdrawal

ALIGNED, DERIVED = "chunks/align", ("chunks/shard", "chunks/table")
"""Where aligned chunks lie, which a photograph may be taken out of; and what is made anew of chunks without it."""
SPACES = ("embedding", "pixels")
"""Of an audit's pairs: by what a crop is the nearest."""
KNOWN = "cache/digests.txt"


@dataclass(frozen=True)
class Gone:
    """What goes: photographs by their sha256, and refs of items, whether or not these ever had bytes."""

    photos: pa.Array
    refs: pa.Array

    @classmethod
    def of(cls, photos: Iterable[str], refs: Iterable[str]) -> Gone:
        """As columns."""
        return cls(pa.array(sorted(photos), pa.string()), pa.array(sorted(refs), pa.string()))

    def mask(self, table: pa.Table) -> pa.ChunkedArray | pa.Array:
        """Which rows of a table are of it."""
        mask = pa.array(np.zeros(table.num_rows, bool))
        for name, wanted in (("photo_sha256", self.photos), ("ref", self.refs)):
            if name in table.column_names:
                mask = pc.or_(mask, pc.is_in(table[name], value_set=wanted))
        return mask

    def is_in(self, path: Path) -> bool:
        """Whether a table has such rows; one that cannot be read may have."""
        try:
            stored = Stored(path, [])
            names = [name for name in ("photo_sha256", "ref") if name in stored.schema.names]
            return bool(pc.any(self.mask(stored.read(names))).as_py())
        except IntegrityError:
            return True


def withdraw(dataset: Dataset, withdrawal: Withdrawal) -> None:
    """Put the record in the place of all that a version's folder holds."""
    folder = dataset.folder
    write_whole(folder / FILE, withdrawal.as_bytes())
    delete(folder / "manifest.json")  # from here on it is withdrawn
    sync(folder)
    for path in folder.iterdir():
        if path.name != FILE:
            delete(path)


def erase_photographs(store: Store, gone: Gone) -> None:
    """Take originals, crops, packed shards and parts of tables away."""
    _erase_aligned(store, gone)
    for prefix in DERIVED:
        _erase_derived(store, prefix, gone)
    delete_files(store.path(original_key(sha256)) for sha256 in gone.photos.to_pylist())


def _erase_aligned(store: Store, gone: Gone) -> None:
    """Write chunks without these photographs' rows; crops become zeros, so that all others stay where they are."""
    for path in map(store.path, list(store.keys(ALIGNED))):
        if path.suffix != ".parquet" or not gone.is_in(path):
            continue
        if path.parent.name == "gathered":  # it is made again
            delete(path)
            continue
        blob = path.with_suffix(".images")
        try:
            table = Stored(path, ["photo_sha256", "offset", "size"]).read()
        except IntegrityError:  # it is no use to anybody, and may hold anything
            delete_files([path, blob])
            continue
        mask = gone.mask(table)
        mine, left = table.filter(mask), table.filter(pc.invert(mask))
        if left.num_rows:
            _blank(blob, mine)
            with whole_file(path) as partial:
                pq.write_table(left, partial, compression="zstd")
        else:
            delete_files([path, blob])
    left = {store.path(key) for key in store.keys(ALIGNED)}
    blobs = (path for path in left if path.suffix == ".images")
    # of a chunk that was never finished, or is gone
    delete_files(blob for blob in blobs if blob.with_suffix(".parquet") not in left)


def _blank(blob: Path, rows: pa.Table) -> None:
    """Write zeros in the place of crops."""
    if not here(blob).is_file():
        return
    data = bytearray(blob.read_bytes())
    for offset, size in zip(rows["offset"].to_pylist(), rows["size"].to_pylist(), strict=True):
        if offset is not None:
            data[offset : offset + size] = bytes(size)
    write_whole(blob, bytes(data))


def _erase_derived(store: Store, prefix: str, gone: Gone) -> None:
    """Delete packed shards, or parts of tables, that hold any of it, and what lies beside them.

    A tar without a table beside it does not say what it holds, and goes too; records of what is gone go with it.
    """
    files: dict[str, list[Path]] = {}
    for path in map(store.path, store.keys(prefix)):
        files.setdefault(path.name.partition(".")[0], []).append(path)
    for paths in files.values():
        tables = [path for path in paths if path.suffix == ".parquet"]
        has_tar = any(path.suffix == ".tar" for path in paths)
        if any(map(gone.is_in, tables)) if tables else has_tar:
            delete_files(paths)
    left = {store.path(key) for key in store.keys(prefix)}
    for path in left:
        if path.suffix == ".json" and not path.name.endswith(".index.json"):
            sha256 = json_object(here(path).read_bytes(), path).get("sha256")
            if path.with_name(f"{sha256}.tar") not in left:
                delete(path)


def erase_texts(store: Store, gone: Gone, texts: Iterable[str]) -> None:
    """Take some photographs out of what rechecks found and services answered: `texts` name whose they are."""
    photos, refs = set(gone.photos.to_pylist()), set(gone.refs.to_pylist())
    for path in listed(store.path("datasets"), "*/rechecks/*.json"):
        record = json_object(path.read_bytes(), path)
        kept = [
            one for one in record["withdrawn"] if one["photo_sha256"] not in photos and one["ref"] not in refs
        ]
        if len(kept) < len(record["withdrawn"]):
            record["withdrawn"] = kept
            write_whole(path, (json.dumps(record, indent=2) + "\n").encode())
    needles = [
        json.dumps(text, ensure_ascii=False)[1:-1].casefold() for text in {*texts, *refs} if text.strip()
    ]
    for path in listed(store.path("lineage"), "*.jsonl"):  # what failed may have named it
        lines = path.read_bytes().splitlines(keepends=True)
        others = [line for line in lines if not _mentions(line, needles)]
        if len(others) < len(lines):
            write_whole(path, b"".join(others))
    for path in map(store.path, list(store.keys("answers"))):
        if path.parent.name == "lists":  # copies of lists, which are loaded again
            delete(path)
        elif _mentions(path.read_bytes(), needles):
            # its name says when it was asked, which counts for the service's limit
            write_whole(path, json.dumps({"request": "", "asked_at": "", "body": None}).encode())


def _mentions(data: bytes, needles: Sequence[str]) -> bool:
    """Whether JSON holds one of some texts; what is none may."""
    try:
        text = json.dumps(json.loads(data), ensure_ascii=False).casefold()
    except ValueError:
        return True
    return any(needle in text for needle in needles)


def erase_leftovers(store: Store) -> None:
    """Take away what may hold something of anybody, and is made again or never was whole.

    That is what was computed of images, and what was left by processes that were killed: no build works now.
    """
    shutil.rmtree(store.path("cache/features"), ignore_errors=True)
    if store.exists(KNOWN):
        lines = os.fsdecode(store.get(KNOWN)).splitlines(keepends=True)
        there = [line for line in lines if store.path(line.rstrip("\n").split(" ", 3)[-1]).is_file()]
        store.put_derived(KNOWN, os.fsencode("".join(there)))
    left = [*store.path("incoming").glob("*")]
    for folder in store.root.glob("*"):
        if folder.name != "runs":  # where a training may be writing
            left += folder.rglob(f"*{PARTIAL}")
    for path in left:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def copies_of(store: Store, versions: Sequence[Before]) -> list[Export]:
    """The exports on record that were made of some versions."""
    by_manifest = {version.manifest_sha256: version.reference for version in versions}
    return [
        Export(
            dataset=by_manifest[export.dataset.manifest_sha256],
            layout=export.layout,
            name=PurePath(export.out).name,
            sha256=export.sha256,
        )
        for export in exports_of(store)
        if export.dataset.manifest_sha256 in by_manifest
    ]


def runs_of(store: Store, versions: Sequence[Before]) -> list[tuple[Run, Before]]:
    """The runs that were trained on some versions."""
    by_manifest = {version.manifest_sha256: version for version in versions}
    return [
        (learner.run, by_manifest[learner.manifest_sha256])
        for learner in learned_from(store, by_manifest)
        if learner.through is None
    ]


def touched(store: Store, versions: Sequence[Before]) -> list[Touched]:
    """What the runs left that learned from some versions, and how near audits found them to what was forgotten."""
    by_manifest = {version.manifest_sha256: version for version in versions}
    keys = _keys(versions)
    return [
        _touched(learner, by_manifest[learner.manifest_sha256], keys)
        for learner in learned_from(store, by_manifest)
    ]


def _touched(learner: Learner, version: Before, keys: Collection[str]) -> Touched:
    run = learner.run
    near = [copies for path in _audits(run) for copies in _near_copies(path, keys)]
    return Touched(
        run_id=run.id,
        dataset=version.reference,
        through=learner.through,
        checkpoints=[path.name for path in run.checkpoints()],
        grids=len(listed(run.grids_dir, "*.png")),
        audited=any(True for _ in _audits(run)),
        near_copies=near,
    )


def _audits(run: Run) -> Iterator[Path]:
    yield from listed(run.folder, "audit/*.json")


def _near_copies(path: Path, keys: Collection[str]) -> Iterator[NearCopies]:
    record = json_object(path.read_bytes(), path)
    for pair in record["pairs"]:
        for space in SPACES:
            if pair[space]["key"] in keys:
                yield NearCopies(
                    checkpoint=path.stem,
                    space=space,
                    seed=pair["seed"],
                    distance=pair[space]["distance"],
                    threshold=record["spaces"][space]["threshold"],
                    is_near_copy=pair[space]["is_near_copy"],
                )


def erase_audits(store: Store, versions: Sequence[Before]) -> None:
    """Take what was forgotten out of runs' audits: whose it is, and the sheet that shows it."""
    keys = _keys(versions)
    for path in (path for run in list_runs(store) for path in _audits(run)):
        record = json_object(path.read_bytes(), path)
        pairs = [pair[space] for pair in record["pairs"] for space in SPACES if pair[space]["key"] in keys]
        if pairs:
            for one in pairs:
                one["source"] = None
            delete(path.with_suffix(".png"))
            write_whole(path, (json.dumps(record, indent=2) + "\n").encode())


def _keys(versions: Sequence[Before]) -> set[str]:
    """As audits name images."""
    return {sha256[:16] for version in versions for sha256 in version.images}
