"""Lineage read from files alone, both ways: what something was made of, and what was made of it.

No server is asked. A grid, and all else that is drawn or exported, says its own origin (`storage.lineage.origin`); a
checkpoint and a run say theirs in their JSON, a dataset version in its manifest and tables; originals lie in the store
under their sha256.

    chain = trace(store, "grid.png")

A reference may mean several things, such as an author and a title; then all are listed, and `kind` says which. Not
here: photographs by what their rows say (`storage.lineage.rows`), and what was made of things
(`storage.lineage.products`), and how people read it
(`storage.lineage.tree`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from storage.bundled.generator import (
    BUNDLED,
    BUNDLED_SHA256,
    PHOTOGRAPHS,
    SHA256,
    bundled_file,
    check_reserved,
)
from storage.bundled.photographs import photographs, photographs_held
from storage.datasets.dataset import (
    VERSION_DIGITS,
    Dataset,
    all_versions,
    dataset_names,
    open_dataset,
    open_recorded,
)
from storage.datasets.records import BuildRecord, ShardFacts, VersionName
from storage.datasets.splits import COLUMN
from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError, NotFoundError, WithdrawnError
from storage.exports.check import record_of, version_of
from storage.exports.records import ExportRecord
from storage.imports import IMPORTED, Import, find_import, known_import
from storage.lineage.chain import Chain, Product, Rows, Step
from storage.lineage.origin import Origin, check_pixels, read_provenance
from storage.lineage.products import UNREADABLE, Products, warn_of
from storage.lineage.rows import MIN_DIGITS, Reading, readings
from storage.local import listed
from storage.promotions import Decision, named_champion
from storage.runs import CheckpointState, Run, find_run, stored_run
from storage.store import Store
from storage.tables import arrow, counted, where
from storage.withdrawals import CERTIFICATE, Withdrawal, key_of, successor_of, withdrawals
from storage.wording import numbered

KINDS = (
    "file", "photograph", "image", "page", "title", "author", "license", "file-name", "dataset", "shard", "build",
    "run", "checkpoint", "import", "decision",
)  # fmt: skip
"""What a reference may be said to be."""
DRAWS = "generator_ema.safetensors"
"""The file of a checkpoint that pictures are drawn with; they are what they are whatever became of the others."""
MOST_CHOICES = 5
NAME = r"[\w.-]{1,200}"
"""What runs, builds and imports may be called."""


def trace(store: Store, reference: str, kind: str | None = None) -> Chain:
    """What a reference was made of, and what was made of it; `kind`, one of KINDS, says what the reference is.

    A file or folder that is there is that. ConfigError, which lists them, where a reference means several things;
    NotFoundError where it names nothing; IntegrityError where a link's recorded hash does not hold.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"{kind!r} is none of {', '.join(KINDS)}")
    return Tracer(store).traced(reference, kind)


def bundled_facts() -> dict[str, Any]:
    """Its file and sha256, the run, checkpoint and dataset version that it says it comes from, and their licence."""
    path = bundled_file()
    says = read_provenance(path) or {}
    origin = {key: says[key] for key in sorted(says.keys() - {"config", "kind", "lod", "precision"})}
    return {"file": str(path), "sha256": SHA256, **origin, **PHOTOGRAPHS}


class Tracer:
    """Follows references through one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.products = Products(store)
        self._begun: set[str] = set()

    def traced(self, reference: str, kind: str | None) -> Chain:
        """As `trace`."""
        path = Path(reference)
        if (
            kind in (None, "file")
            and reference != BUNDLED
            and os.path.exists(path)  # False for what no path can be, such as a long title
            and (chain := self._of_path(path))
        ):
            return chain
        named = [reading for reading in self._named(reference) if kind in (None, reading.kind)]
        asked = readings(self.store, reference, self.products)
        found = [*named, *(reading for reading in asked.readings if kind in (None, reading.kind))]
        if not found:
            if asked.unreadable:
                raise asked.unreadable[0]
            raise self._unknown(reference, kind)
        if kind is None:  # the same rows by another of their texts
            found = list(
                {reading.rows or (reading.kind, reading.name): reading for reading in found[::-1]}.values()
            )[::-1]
        if len(found) > 1 or (found[0].choices and kind is None):
            raise ConfigError(f"{reference!r} means several things in {self.store}: {_listed(found)}")
        if not named:
            for problem in asked.unreadable:
                warn_of(problem)
        return found[0].chain()

    def _unknown(self, reference: str, kind: str | None) -> NotFoundError:
        names = ", ".join(dataset_names(self.store)) or "none"
        what = (
            f"no {kind}" if kind else "no file, photograph, image, dataset, build, run, checkpoint or shard"
        )
        near = "; --near looks for its faces" if os.path.isfile(reference) else ""
        return NotFoundError(f"{reference!r} names {what} in {self.store} (datasets there: {names}){near}")

    # ---------------------------------------------------------------------------------------------- what is meant

    def _of_path(self, path: Path) -> Chain | None:
        """Of a file or a folder; None where it is something by its bytes or its name alone."""
        if dataset := self._around(path.resolve()):
            shard = next(
                (s for s in dataset.manifest.shards if dataset.folder / s.file == path.resolve()), None
            )
            return self._of_dataset(dataset) if shard is None else self._of_shard(shard, [dataset])
        if exported := record_of(path):
            return self._of_export(path, exported)
        if path.is_file() and (metadata := read_provenance(path)):
            return self._of_drawn(path, metadata)
        if path.suffix == ".safetensors":
            path = path.parent
        if path.is_file():
            if path.resolve().is_relative_to(self.store.path("datasets")) and path.parent.name == "builds":
                return self._of_build(path.resolve())
            return self._of_bytes(path)
        if (path / "state.json").is_file():
            return self._of_checkpoint(path.resolve())
        if imported := known_import(self.store, str(path)):
            return self._of_import(imported)
        return self._of_run(find_run(self.store, str(path))) if (path / "run.json").is_file() else None

    def _of_bytes(self, path: Path) -> Chain | None:
        """Of a file by its sha256: a photograph, an image or a shard."""
        sha256 = file_digest(path)
        shards = self._shards(sha256)
        asked = readings(self.store, sha256, self.products)
        found = [*asked.readings, *shards]
        if not found and asked.unreadable:
            raise asked.unreadable[0]
        for problem in asked.unreadable:
            warn_of(problem)
        return found[0].chain() if found else None

    def _named(self, reference: str) -> Iterator[Reading]:
        """All that has a name, which the reference is."""
        if reference == BUNDLED:
            check_reserved(self.store)
            yield Reading("run", BUNDLED, self._of_bundled)
            return
        run_id, _, checkpoint = reference.partition("/")
        if re.fullmatch(NAME, run_id) and self.store.exists(f"runs/{run_id}/run.json"):
            run = stored_run(self.store, run_id)
            if checkpoint:
                folder = run.checkpoint(checkpoint.removeprefix("checkpoints/").rstrip("/"))
                yield Reading("checkpoint", reference, lambda: self._of_checkpoint(folder))
            else:
                yield Reading("run", run_id, lambda: self._of_run(run))
        if re.fullmatch(NAME, reference) and (imported := known_import(self.store, reference)):
            yield Reading("import", reference, lambda: self._of_import(imported))
        if re.fullmatch(NAME, reference):
            for path in listed(self.store.path("datasets"), f"*/builds/{reference}.json", warn_of):
                yield Reading("build", reference, lambda path=path: self._of_build(path))  # type: ignore[misc]
            for path in listed(self.store.path("promotions"), f"*/decisions/{reference}.json", warn_of):
                yield Reading("decision", reference, lambda path=path: self._of_decision(path))  # type: ignore[misc]
        if champion := named_champion(self.store, reference):
            run = stored_run(self.store, champion.run_id)
            folder = run.checkpoint(champion.checkpoint)
            yield Reading("checkpoint", reference, lambda: self._of_checkpoint(folder))
            return
        versions = list(all_versions(self.store, warn_of))
        name, _, beginning = reference.rpartition("@")
        if re.fullmatch(NAME, name or "*") or re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},64}}", reference):
            for withdrawal in withdrawals(self.store, name or "*", beginning[:VERSION_DIGITS], warn_of):
                yield Reading(
                    "dataset",
                    withdrawal.reference,
                    lambda of=withdrawal: self._of_withdrawn(of),  # type: ignore[misc]
                )
                if name:
                    return
        if reference.partition("@")[0] in {dataset.name for dataset in versions} and "/" not in reference:
            dataset = open_dataset(self.store, reference)
            yield Reading("dataset", dataset.reference, lambda: self._of_dataset(dataset))
        elif re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},64}}", reference):
            for version in versions:
                if version.manifest_sha256.startswith(reference):
                    yield Reading("dataset", version.reference, lambda of=version: self._of_dataset(of))  # type: ignore[misc]
        yield from self._shards(reference)

    def _shards(self, reference: str) -> Iterator[Reading]:
        """Shards by their sha256's first digits, file names, or NAME@VERSION/FILE; one of several versions is one."""
        is_digest = re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},64}}", reference) is not None
        of, _, file = reference.rpartition("/")
        if not (is_digest or file.endswith(".tar")):
            return
        found: dict[str, tuple[ShardFacts, list[Dataset]]] = {}
        for dataset in all_versions(self.store, warn_of):
            try:
                shards = dataset.manifest.shards
            except UNREADABLE as error:
                warn_of(error)
                continue
            for shard in shards:
                above = of.removesuffix("/shards")
                by_name = shard.file.rpartition("/")[2] == file and (
                    above in ("", "shards", dataset.name)
                    or ("@" in above and dataset.reference.startswith(above))
                )
                if by_name or (is_digest and shard.sha256.startswith(reference)):
                    found.setdefault(shard.sha256, (shard, []))[1].append(dataset)
        for shard, datasets in found.values():
            name = f"{datasets[0].reference}/{shard.file}"
            yield Reading("shard", name, lambda of=(shard, datasets): self._of_shard(*of))  # type: ignore[misc]

    # --------------------------------------------------------------------------------------------- what it was made of

    def _of_drawn(self, path: Path, metadata: dict[str, Any]) -> Chain:
        sha256 = file_digest(path)
        if sha256 == SHA256:
            return self._of_bundled()
        origin = Origin.of(metadata, path)
        check_pixels(path, metadata)
        facts = {key: value for key, value in metadata.items() if key != "kind"}
        step = Step(origin.kind, {"file": str(path), "sha256": sha256, **facts})
        if BUNDLED_SHA256 in metadata:
            below = self._of_bundled()
            if metadata[BUNDLED_SHA256] != SHA256:
                raise IntegrityError(
                    f"{path} was drawn from other weights than the generator in the box holds now"
                )
            return _above(step, below)
        if IMPORTED in metadata:
            imported = find_import(self.store, str(metadata[IMPORTED]))
            if imported.record.generator_sha256 != origin.generator_sha256:
                raise IntegrityError(f"{path} was drawn from other weights than {imported.folder} holds now")
            return _above(step, self._of_import(imported, only=DRAWS))
        if origin.run_id is None or origin.checkpoint is None:
            raise IntegrityError(f"{path} does not say by which run and checkpoint it was drawn")
        run = stored_run(self.store, origin.run_id)
        checkpoint = run.checkpoints_dir / origin.checkpoint
        if checkpoint.is_dir():
            if origin.generator_sha256 is None:
                raise IntegrityError(f"{path} does not say by which weights it was drawn")
            below = self._of_checkpoint(checkpoint, only=DRAWS)
            if below.steps[0].facts["sha256"].get(DRAWS) != origin.generator_sha256:
                raise IntegrityError(f"{path} was drawn from other weights than {checkpoint} holds now")
        else:
            below = self._of_run(run)
        return _above(step, below)

    def _of_bundled(self) -> Chain:
        """The generator in the box, and the dataset behind it where the store has that, or photographs of it."""
        facts = bundled_facts()
        try:
            name, _, version = facts["dataset"].partition("@")
            named = VersionName(name=name, version=version, manifest_sha256=facts["dataset_manifest_sha256"])
            below = self._of_dataset(open_recorded(self.store, named, "the generator in the box"))
        except NotFoundError:
            held = photographs_held(self.store)
            if held is None:
                return Chain([Step("bundled generator", {**facts, "photographs": "not in this store"})])
            facts["photographs"] = (
                f"{held.num_photographs} of {len(photographs())} are here, in another version"
            )
            images = Rows("images", [(held.dataset, held.rows)])
            below = replace(self._of_dataset(held.dataset), images=images)
        return _above(Step("bundled generator", facts), below)

    def _of_import(self, imported: Import, only: str | None = None) -> Chain:
        """Somebody else's networks: what they were trained on is not in this store."""
        imported.check(only)
        return Chain([Step("imported network", {"folder": str(imported.folder), **imported.record.facts()})])

    def _of_checkpoint(self, folder: Path, only: str | None = None) -> Chain:
        """All of its files as they were written, or the only one that matters."""
        state = CheckpointState.read(folder / "state.json")
        for name, sha256 in state.sha256.items():
            if only not in (None, name):
                continue
            if not (folder / name).is_file() or file_digest(folder / name) != sha256:
                raise IntegrityError(f"{folder / name} is missing or no longer has its recorded sha256")
        facts = {"folder": str(folder), "num_images": state.num_images, "sha256": state.sha256}
        run = find_run(self.store, str(folder.parent.parent))
        made = self.products.of_checkpoint(run, folder.name)
        return _above(Step("checkpoint", facts), self._of_run(run), made)

    def _of_run(self, run: Run) -> Chain:
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
            **({"why": record.why} if record.why else {}),
            "code_commit": record.facts.code_commit,
            "lock_sha256": record.facts.lock_sha256,
            "checkpoints": [path.name for path in run.checkpoints(warn_of)],
        }
        try:
            below = self._of_dataset(open_recorded(run.store, dataset, f"run {run.id}"))
        except WithdrawnError:
            [withdrawal] = withdrawals(run.store, dataset.name, dataset.version)
            below = self._of_withdrawn(withdrawal)
        made = self.products.of_run(run)
        return _above(Step("training run", facts), replace(below, begun_with=self._begun_with(run)), made)

    def _of_decision(self, path: Path) -> Chain:
        """A decision on a candidate, its reasons, and the candidate."""
        record = Decision.read(path)
        candidate, champion = record.candidate, record.champion
        facts = {
            "id": record.decision,
            "outcome": record.outcome,
            **({"answer": record.answer.as_json()} if record.answer else {}),
            "decided_at": record.decided_at,
            "compared_with": f"{champion.run_id}/{champion.checkpoint}" if champion else "nobody",
            "why": record.why,
            **{one.name: f"{one.verdict}: {one.says}" for one in record.criteria},
            "config_sha256": record.config_sha256,
        }
        run = stored_run(self.store, candidate.run_id)
        folder = run.checkpoints_dir / candidate.checkpoint
        is_kept = (folder / "state.json").is_file()
        below = self._of_checkpoint(folder, only=DRAWS) if is_kept else self._of_run(run)
        return _above(Step("decision", facts), below)

    def _begun_with(self, run: Run) -> Chain | None:
        """What the first weights of a run come from; what is on record of it where it is not here any more."""
        source = run.record.init_from
        if source is None:
            return None
        try:
            if source.imported is not None:
                return self._of_import(find_import(self.store, source.imported))
            if (
                source.run_id is not None and not {source.run_id, run.id} <= self._begun
            ):  # records may go round
                self._begun |= {source.run_id, run.id}
                other = stored_run(self.store, source.run_id)
                folder = other.checkpoints_dir / str(source.checkpoint)
                is_kept = (folder / "state.json").is_file()
                return self._of_checkpoint(folder, only=DRAWS) if is_kept else self._of_run(other)
        except (NotFoundError, *UNREADABLE) as error:
            warn_of(error)
        return Chain([Step("first weights", source.as_json())])

    def _of_dataset(self, dataset: Dataset) -> Chain:
        manifest = dataset.manifest
        names = ["photo_sha256", "license", *([] if dataset.split is None else [COLUMN])]
        columns = dataset.table("images").read(names)
        rows = np.arange(columns.num_rows)
        if dataset.split is not None:
            rows = where(pc.equal(columns[COLUMN], dataset.split))
            columns = columns.take(arrow(rows))
        builds = [
            {
                "build_id": build.build_id,
                "kind": build.kind,
                "started_at": build.started_at,
                "config_sha256": build.config_sha256,
                "code_commit": build.facts.code_commit,
            }
            for build in _builds_of(dataset)
        ]
        licenses = Counter({name or "not said": num for name, num in counted(columns["license"]).items()})
        facts = {
            "reference": dataset.reference,
            **({} if dataset.split is None else {"split": dataset.split}),
            "folder": str(dataset.folder),
            "manifest_sha256": dataset.manifest_sha256,
            "images": columns.num_rows,
            "photographs": pc.count_distinct(columns["photo_sha256"]).as_py(),
            "resolution": dataset.resolution,
            "shards": len(manifest.shards),
            "licenses": dict(licenses.most_common()),
            "rejected": manifest.counts.rejected,
            "builds": builds,
            "training_runs": [run.id for run in self.products.runs_of(dataset)],
        }
        if manifest.source.get("kind") == "import":
            facts["imported"] = manifest.source
        images = Rows("images", [(dataset, rows)])
        return Chain([Step("dataset", facts)], images, made=self.products.of_version(dataset))

    def _of_withdrawn(self, withdrawal: Withdrawal) -> Chain:
        """A version of which photographs were forgotten: what became of it, and what was made of it before."""
        successor = successor_of(self.store, withdrawal)
        facts = {
            "reference": withdrawal.reference,
            "manifest_sha256": withdrawal.manifest_sha256,
            "withdrawn": withdrawal.withdrawn_at[:10],
            "since": f"{numbered(withdrawal.photographs, 'photograph')} of it had to be forgotten",
            "what is left of it": f"{withdrawal.dataset}@{successor}" if successor else "nothing",
            "certificate": str(self.store.path(key_of(withdrawal.forget, CERTIFICATE))),
        }
        made = self.products.of_manifest(withdrawal.manifest_sha256)
        return Chain([Step("withdrawn dataset", facts)], made=made)

    def _of_export(self, path: Path, record: ExportRecord) -> Chain:
        """A version in another format, and the version where the store has it."""
        facts = {
            "file": str(path),
            "format": record.layout,
            "resolution": record.resolution,
            "images": record.images,
            "dataset": record.dataset.reference,
            "dataset_manifest_sha256": record.dataset.manifest_sha256,
        }
        dataset = version_of(self.store, record, path)
        if dataset is None:
            return Chain([Step("export", {**facts, "photographs": "not in this store"})])
        return replace(_above(Step("export", facts), self._of_dataset(dataset)), made=())

    def _of_build(self, path: Path) -> Chain:
        """A build, its settings, and the version that it gave."""
        record = BuildRecord.read(path)
        facts = {
            "id": record.build_id,
            "started_at": record.started_at,
            "seconds": record.seconds,
            "source": record.config.get("source"),
            "config_sha256": record.config_sha256,
            "code_commit": record.facts.code_commit,
            "host": record.facts.host,
        }
        step = Step("build", facts)
        dataset = Dataset(self.store, path.parents[1].name, record.version)
        if not self.store.exists(f"{dataset.key}/manifest.json"):
            gone = Product("dataset", dataset.reference, {"kept": False})
            return Chain([step], made=[gone])
        below = self._of_dataset(dataset)
        version = below.steps[0].facts
        facts = {"images": version["images"], "photographs": version["photographs"]}
        return Chain([step], below.images, made=[Product("dataset", dataset.reference, facts, below.made)])

    def _of_shard(self, shard: ShardFacts, datasets: list[Dataset]) -> Chain:
        """A shard, the images in it, and the versions that have it."""
        dataset = datasets[0]
        columns = dataset.table("images").read(["shard"])
        numbers = where(pc.equal(columns["shard"], shard.file))
        facts = {
            "file": dataset.where(shard.file),
            "sha256": shard.sha256,
            "size": shard.size,
            "images": shard.images,
        }
        made = [
            Product("dataset", of.reference, {"images": shard.images}, self.products.of_version(of))
            for of in datasets
        ]
        return Chain([Step("shard", facts)], Rows("images", [(dataset, numbers)]), made=made)

    def _around(self, path: Path) -> Dataset | None:
        """The dataset version whose folder is at or above `path`."""
        for folder in (path, *path.parents):
            if folder.parent.parent == self.store.path("datasets") and (folder / "manifest.json").is_file():
                return Dataset(self.store, folder.parent.name, folder.name)
        return None


def _above(step: Step, below: Chain, made: Sequence[Product] = ()) -> Chain:
    """The chain of what was made of that of another chain."""
    return Chain([step, *below.steps], below.images, made=made, begun_with=below.begun_with)


def _listed(found: list[Reading]) -> str:
    """What a reference may mean, and how one says which."""
    parts = []
    for reading in found:
        if reading.choices:
            more = len(reading.choices) - MOST_CHOICES
            refs = ", ".join(reading.choices[:MOST_CHOICES]) + (f" and {more} more" if more > 0 else "")
            parts.append(f"the {reading.kind} of {numbered(len(reading.choices), 'photograph')}: {refs}")
        else:
            parts.append(f"the {reading.kind} {reading.name}")
    kinds = list(dict.fromkeys(reading.kind for reading in found))
    which = (
        f"--as {' or --as '.join(kinds)} says which"
        if len(kinds) > 1 or found[0].choices
        else "name one in full"
    )
    return f"{'; '.join(parts)} ({which})"


def _builds_of(dataset: Dataset) -> list[BuildRecord]:
    try:
        return dataset.builds()
    except UNREADABLE as error:  # as every one was, each told
        warn_of(error)
        return []
