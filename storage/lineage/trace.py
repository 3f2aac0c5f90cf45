"""Lineage read from files alone: what made this, and where did that photograph go.

No server is asked. A grid, and all else that is drawn or exported, says its own origin (`storage.lineage.origin`); a
checkpoint and a run say theirs in their JSON, a dataset version in its manifest and tables; originals lie in the store
under their sha256.

    for line in trace(store, "grid.png").lines(): ...
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.bundled.generator import (
    BUNDLED,
    BUNDLED_SHA256,
    PHOTOGRAPHS,
    SHA256,
    bundled_file,
    check_reserved,
)
from storage.datasets.dataset import (
    IMAGE_COLUMNS,
    Dataset,
    all_versions,
    dataset_names,
    open_dataset,
    open_recorded,
)
from storage.datasets.lookup import Kind, find_rows
from storage.datasets.records import BuildRecord, VersionName
from storage.digest import file_digest
from storage.errors import FormatError, IntegrityError, NotFoundError, PipelineError
from storage.imports import IMPORTED, Import, find_import, known_import
from storage.lineage.origin import Origin, check_pixels, read_provenance
from storage.runs import CheckpointState, Run, find_run, list_runs, stored_run
from storage.store import Store, original_key
from storage.tables import BATCH_ROWS, Row, arrow
from storage.wording import numbered

logger = logging.getLogger(__name__)

MIN_DIGITS = 8
UNREADABLE = (IntegrityError, FormatError)
"""What is wrong with a record or a version that is passed over with a warning, where others are looked through too."""
DRAWS = "generator_ema.safetensors"
"""The file of a checkpoint that pictures are drawn with; they are what they are whatever became of the others."""


@dataclass(frozen=True)
class Step:
    """One link of a chain: what it is and the facts on record about it."""

    kind: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Images(Sequence[Row]):
    """The images of a version, each a row with its places on disk that is made as it is asked for."""

    dataset: Dataset
    columns: pa.Table

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Images: ...

    def __getitem__(self, index: int | slice) -> Row | Images:
        if isinstance(index, slice):
            return Images(self.dataset, self.columns.take(arrow(np.arange(len(self))[index])))
        [row] = self.columns.slice(range(len(self))[index], 1).to_pylist()
        return _located(self.dataset, row)

    def __iter__(self) -> Iterator[Row]:
        for batch in self.columns.to_batches(BATCH_ROWS):
            yield from (_located(self.dataset, row) for row in batch.to_pylist())


@dataclass(frozen=True)
class Chain:
    """From what was asked about, step by step, to photographs; `images` are the dataset rows it comes down to."""

    steps: list[Step]
    images: Sequence[Row] = ()
    rejections: list[Row] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The whole chain, every image included."""
        return {
            "chain": [{"kind": step.kind, **step.facts} for step in self.steps],
            "images": [_brief(row) for row in self.images],
            "rejections": self.rejections,
        }

    def lines(self, limit: int) -> Iterator[str]:
        """The chain for people: the steps, then at most `limit` images with their sources."""
        for step in self.steps:
            yield step.kind
            for name, value in step.facts.items():
                yield from _fact(name, value)
        for row in self.images[:limit]:
            brief = _brief(row)
            yield f"image {brief.pop('key')}"
            for name, value in brief.items():
                yield from _fact(name, value)
        if len(self.images) > limit:
            yield f"and {numbered(len(self.images) - limit, 'image')} more (--limit, or --json for all)"
        for row in self.rejections:
            yield f"rejected: {row['reason']}"
            for name, value in row.items():
                if name != "reason" and value is not None:
                    yield f"  {name}: {value}"


def _fact(name: str, value: Any) -> Iterator[str]:
    """A fact for people: one line, or a line for each entry of what has several."""
    if isinstance(value, Mapping) and value:
        yield f"  {name}:"
        for entry, of_it in value.items():
            yield f"    {entry}: {of_it}"
    elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        yield f"  {name}:"
        for part in value:
            yield "    " + ", ".join(f"{entry} {of_it}" for entry, of_it in part.items())
    else:
        yield f"  {name}: {'not said' if value is None else value}"


def trace(store: Store, reference: str) -> Chain:
    """The chain of a drawn or exported file, checkpoint, run, dataset, image key, or photograph (file, ref, URL).

    A run is also `bundled`, the generator in the box. NotFoundError where the reference names none of these;
    IntegrityError where a link's recorded hash does not hold.
    """
    if reference == BUNDLED:
        check_reserved(store)
        return _of_bundled(store)
    path, run = Path(reference), None
    if path.exists() and (dataset := _around(store, path.resolve())):
        return _of_dataset(dataset)
    if path.is_file() and (metadata := read_provenance(path)):
        return _of_grid(store, path, metadata)
    if path.suffix == ".safetensors":
        path = path.parent
    if path.is_file():
        return _of_digest(store, file_digest(path), reference)
    if (path / "state.json").is_file():
        return _of_checkpoint(store, path.resolve())
    if imported := known_import(store, str(path)):
        return _of_import(imported)
    with suppress(NotFoundError):
        run = find_run(store, reference)
    if run is not None:
        return _of_run(store, run)
    if re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},64}}", reference):
        return _of_digest(store, reference, reference)
    if reference.split("@")[0] in {dataset.name for dataset in all_versions(store)}:
        return _of_dataset(open_dataset(store, reference))
    return _of_photo(store, reference, {"ref": reference})


def bundled_facts() -> dict[str, Any]:
    """Its file and sha256, the run, checkpoint and dataset version that it says it comes from, and their licence."""
    path = bundled_file()
    says = read_provenance(path) or {}
    origin = {key: says[key] for key in sorted(says.keys() - {"config", "kind", "lod", "precision"})}
    return {"file": str(path), "sha256": SHA256, **origin, **PHOTOGRAPHS}


def _of_grid(store: Store, path: Path, metadata: dict[str, Any]) -> Chain:
    sha256 = file_digest(path)
    if sha256 == SHA256:
        return _of_bundled(store)
    origin = Origin.of(metadata, path)
    check_pixels(path, metadata)
    facts = {key: value for key, value in metadata.items() if key != "kind"}
    step = Step(origin.kind, {"file": str(path), "sha256": sha256, **facts})
    if BUNDLED_SHA256 in metadata:
        below = _of_bundled(store)
        if metadata[BUNDLED_SHA256] != SHA256:
            raise IntegrityError(
                f"{path} was drawn from other weights than the generator in the box holds now"
            )
        return Chain([step, *below.steps], below.images)
    if IMPORTED in metadata:
        imported = find_import(store, str(metadata[IMPORTED]))
        if imported.record.generator_sha256 != origin.generator_sha256:
            raise IntegrityError(f"{path} was drawn from other weights than {imported.folder} holds now")
        return Chain([step, *_of_import(imported, only=DRAWS).steps])
    if origin.run_id is None or origin.checkpoint is None:
        raise IntegrityError(f"{path} does not say by which run and checkpoint it was drawn")
    run = stored_run(store, origin.run_id)
    checkpoint = run.checkpoints_dir / origin.checkpoint
    if checkpoint.is_dir():
        if origin.generator_sha256 is None:
            raise IntegrityError(f"{path} does not say by which weights it was drawn")
        below = _of_checkpoint(store, checkpoint, only=DRAWS)
        if below.steps[0].facts["sha256"].get(DRAWS) != origin.generator_sha256:
            raise IntegrityError(f"{path} was drawn from other weights than {checkpoint} holds now")
    else:
        below = _of_run(store, run)
    return Chain([step, *below.steps], below.images)


def _of_bundled(store: Store) -> Chain:
    """The generator in the box, and the dataset behind it where the store has that."""
    facts = bundled_facts()
    try:
        name, _, version = facts["dataset"].partition("@")
        named = VersionName(name=name, version=version, manifest_sha256=facts["dataset_manifest_sha256"])
        below = _of_dataset(open_recorded(store, named, "the generator in the box"))
    except NotFoundError:
        return Chain([Step("bundled generator", {**facts, "photographs": "not in this store"})])
    return Chain([Step("bundled generator", facts), *below.steps], below.images)


def _of_import(imported: Import, only: str | None = None) -> Chain:
    """Somebody else's networks: what they were trained on is not in this store."""
    imported.check(only)
    return Chain([Step("imported network", {"folder": str(imported.folder), **imported.record.facts()})])


def _of_checkpoint(store: Store, folder: Path, only: str | None = None) -> Chain:
    """All of its files as they were written, or the only one that matters."""
    state = CheckpointState.read(folder / "state.json")
    for name, sha256 in state.sha256.items():
        if only not in (None, name):
            continue
        if not (folder / name).is_file() or file_digest(folder / name) != sha256:
            raise IntegrityError(f"{folder / name} is missing or no longer has its recorded sha256")
    facts = {"folder": str(folder), "num_images": state.num_images, "sha256": state.sha256}
    below = _of_run(store, find_run(store, str(folder.parent.parent)))
    return Chain([Step("checkpoint", facts), *below.steps], below.images)


def _of_run(store: Store, run: Run) -> Chain:
    record = run.record
    dataset = record.dataset
    facts = {
        "id": run.id,
        "folder": str(run.folder),
        "created_at": record.created_at,
        "preset": record.config.get("preset"),
        "config_sha256": record.config_sha256,
        **({"label_column": record.config["label_column"]} if record.config.get("label_column") else {}),
        **({"init_from": record.init_from.as_json()} if record.init_from else {}),
        **({"changes": [change.as_json() for change in record.changes]} if record.changes else {}),
        "code_commit": record.facts.code_commit,
        "lock_sha256": record.facts.lock_sha256,
        "checkpoints": [path.name for path in run.checkpoints()],
    }
    below = _of_dataset(open_recorded(run.store, dataset, f"run {run.id}"))
    return Chain([Step("training run", facts), *below.steps], below.images)


def _of_dataset(dataset: Dataset) -> Chain:
    columns = dataset.table("images").read(IMAGE_COLUMNS)
    builds = [
        {
            "build_id": build.build_id,
            "started_at": build.started_at,
            "config_sha256": build.config_sha256,
            "code_commit": build.facts.code_commit,
        }
        for build in _builds_of(dataset)
    ]
    licenses = Counter(
        {count["values"] or "not said": count["counts"] for count in _counted(columns["license"])}
    )
    facts = {
        "reference": dataset.reference,
        "folder": str(dataset.folder),
        "manifest_sha256": dataset.manifest_sha256,
        "images": columns.num_rows,
        "photographs": pc.count_distinct(columns["photo_sha256"]).as_py(),
        "licenses": dict(licenses.most_common()),
        "builds": builds,
        "training_runs": [run.id for run in _runs_of(dataset)],
    }
    return Chain([Step("dataset", facts)], Images(dataset, columns))


def _of_digest(store: Store, digits: str, reference: str) -> Chain:
    return _of_photo(store, reference, {"photo": digits, "image": digits})


def _of_photo(store: Store, reference: str, asked: Mapping[Kind, str]) -> Chain:
    """Everything on record about a photograph or an image: where it went in every version of every dataset."""
    steps: list[Step] = []
    images: list[Row] = []
    rejections: list[Row] = []
    unreadable: list[PipelineError] = []
    for dataset in all_versions(store):
        try:
            kept = [_located(dataset, row) for row in find_rows(dataset, "images", asked, IMAGE_COLUMNS)]
            refused = [
                {"dataset": dataset.reference, **row} for row in find_rows(dataset, "rejections", asked)
            ]
        except UNREADABLE as error:
            unreadable.append(error)
            continue
        if kept or refused:
            runs = [run.id for run in _runs_of(dataset)]
            facts = {"reference": dataset.reference, "images": len(kept), "rejections": len(refused)}
            steps.append(Step("dataset", facts | {"training_runs": runs}))
        images += kept
        rejections += refused
    if unreadable and not steps:
        raise unreadable[0]
    for problem in unreadable:
        logger.warning("%s", problem)
    if not steps:
        names = ", ".join(dataset_names(store)) or "none"
        raise NotFoundError(
            f"{reference!r} names no grid, checkpoint, run, dataset, image or photograph in {store.root} "
            f"(datasets there: {names})"
        )
    return Chain(steps, images, rejections)


def _counted(column: pa.ChunkedArray) -> list[Row]:
    """Each value of a column, in the order of their first rows, and how often it is there."""
    counts: list[Row] = pc.value_counts(column).to_pylist()
    return counts


def _located(dataset: Dataset, row: Row) -> Row:
    original = dataset.store.path(original_key(row["photo_sha256"]))
    return {
        **row,
        "dataset": dataset.reference,
        "shard": str(dataset.folder / str(row["shard"])),
        "original": str(original) if original.is_file() else None,
    }


def _brief(row: Row) -> Row:
    columns = ("key", "dataset", "image_sha256", "shard", "offset", "face_index", "photo_sha256", "original", "ref",
               "page", "author", "license", "license_url", "title")  # fmt: skip
    return {column: row[column] for column in columns}


def _around(store: Store, path: Path) -> Dataset | None:
    """The dataset version whose folder is at or above `path`."""
    for folder in (path, *path.parents):
        if folder.parent.parent == store.path("datasets") and (folder / "manifest.json").is_file():
            return Dataset(store, folder.parent.name, folder.name)
    return None


def _builds_of(dataset: Dataset) -> list[BuildRecord]:
    try:
        return dataset.builds()
    except UNREADABLE as error:  # as every one was, each told
        logger.info("%s", error)
        return []


def _runs_of(dataset: Dataset) -> list[Run]:
    """The runs that were trained on a version; a record that cannot be read is passed over with a warning."""
    found = []
    for run in list_runs(dataset.store):
        try:
            if run.record.dataset.manifest_sha256 == dataset.manifest_sha256:
                found.append(run)
        except UNREADABLE as error:
            _warn(str(error))
    return found


@cache
def _warn(message: str) -> None:
    """Once a process, however many versions are looked through."""
    logger.warning("%s", message)
