"""What was made of a version, a run or a checkpoint: exports, runs, checkpoints, what they drew, and further runs.

    Products(store).of_version(dataset)

Read from the records of runs, and from what the files in a run's folder say of themselves. Not here: what something
was made of (`storage.lineage.trace`).
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

from pydantic import ValidationError

from storage.checks import sentence
from storage.datasets.dataset import Dataset
from storage.errors import FormatError, IntegrityError, PipelineError
from storage.exports.records import Exported
from storage.lineage.chain import Product
from storage.lineage.origin import Origin, read_provenance
from storage.local import listed
from storage.promotions import decisions
from storage.runs import Run, list_runs
from storage.store import Store

logger = logging.getLogger(__name__)

UNREADABLE = (IntegrityError, FormatError, OSError)
"""What is wrong with a record or a version that is passed over with a warning, where others are looked through too."""
DRAWN = (".png", ".jpg", ".mp4", ".safetensors", ".onnx", ".npz")
"""How files end that a trained generator draws, or is written as."""


class Products:
    """What was made of things of a store; each record is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of_version(self, dataset: Dataset) -> list[Product]:
        """The runs that were trained on a version, with all that they led to, and where it was exported to."""
        return self.of_manifest(dataset.manifest_sha256)

    def of_manifest(self, manifest_sha256: str) -> list[Product]:
        """As `of_version`, of a version that may be there no more."""
        runs = [self.run(run) for run in self._by_version.get(manifest_sha256, [])]
        exports = [
            Product("export", one.out, {"format": one.layout, "created_at": one.created_at})
            for one in self._exports
            if one.dataset.manifest_sha256 == manifest_sha256
        ]
        return [*runs, *exports]

    @cached_property
    def _exports(self) -> list[Exported]:
        found = []
        for path in listed(self._store.path("exports"), "*/*.json", warn_of):
            try:
                found.append(Exported.read(path))
            except UNREADABLE as error:
                warn_of(error)
        return found

    def runs_of(self, dataset: Dataset) -> list[Run]:
        """The runs that were trained on a version, oldest first."""
        return self._by_version.get(dataset.manifest_sha256, [])

    def run(self, run: Run, above: frozenset[str] = frozenset()) -> Product:
        """A run as a product; `above` are the ids of runs that it was made of."""
        facts = {"preset": run.record.config.get("preset"), "created_at": run.record.created_at}
        return Product("training run", run.id, facts, self.of_run(run, above))

    def of_run(self, run: Run, above: frozenset[str] = frozenset()) -> list[Product]:
        """The checkpoints of a run, those that are no longer kept among them where what they drew is."""
        drawn = self._drawn(run)
        kept = {path.name for path in run.checkpoints(warn_of)}
        begun = self._begun.get(run.id, {})
        found = []
        decided = {checkpoint for run_id, checkpoint in self._decided if run_id == run.id}
        for name in sorted(kept | drawn.keys() | begun.keys() | decided):
            facts = {} if name in kept else {"kept": False}
            found.append(Product("checkpoint", name, facts, self._of(run, name, above)))
        return found

    def of_checkpoint(self, run: Run, name: str) -> list[Product]:
        """What a checkpoint drew, as far as it lies in the run's folder, and the runs that began with it."""
        return self._of(run, name, frozenset())

    def _of(self, run: Run, name: str, above: frozenset[str]) -> list[Product]:
        above |= {run.id}
        begun = [other for other in self._begun.get(run.id, {}).get(name, []) if other.id not in above]
        decided = self._decided.get((run.id, name), [])
        return [*self._drawn(run).get(name, []), *decided, *(self.run(other, above) for other in begun)]

    @cached_property
    def _decided(self) -> dict[tuple[str, str], list[Product]]:
        """The decisions on candidates, by run and checkpoint."""
        found: dict[tuple[str, str], list[Product]] = defaultdict(list)
        try:
            for one in decisions(self._store):
                said = f"{one.outcome}, {one.answer.answer} by a person" if one.answer else one.outcome
                facts = {"outcome": said, "decided_at": one.decided_at, "why": one.why}
                found[one.candidate.run_id, one.candidate.checkpoint].append(
                    Product("decision", one.decision, facts)
                )
        except UNREADABLE as error:
            warn_of(error)
        return found

    @cached_property
    def _readable(self) -> list[Run]:
        found = []
        for run in list_runs(self._store, warn_of):
            try:
                run.record  # noqa: B018
                found.append(run)
            except UNREADABLE as error:
                warn_of(error)
        return found

    @cached_property
    def _by_version(self) -> dict[str, list[Run]]:
        found = defaultdict(list)
        for run in self._readable:
            found[run.record.dataset.manifest_sha256].append(run)
        return found

    @cached_property
    def _begun(self) -> dict[str, dict[str, list[Run]]]:
        """The runs that began with weights of a run, by its id and the checkpoint's name."""
        found: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
        for run in self._readable:
            source = run.record.init_from
            if source is not None and source.run_id is not None and source.checkpoint is not None:
                found[source.run_id][source.checkpoint].append(run)
        return found

    def _drawn(self, run: Run) -> dict[str, list[Product]]:
        if run.folder not in self._drawn_by:
            by_checkpoint = defaultdict(list)
            for checkpoint, product in drawn_in(run):
                by_checkpoint[checkpoint].append(product)
            self._drawn_by[run.folder] = by_checkpoint
        return self._drawn_by[run.folder]

    @cached_property
    def _drawn_by(self) -> dict[Path, dict[str, list[Product]]]:
        return {}


def drawn_in(run: Run) -> Iterator[tuple[str, Product]]:
    """What a run's folder holds that was drawn or exported, and by which checkpoint."""
    walked = os.walk(run.folder, onerror=warn_of)
    for path in sorted(Path(place, name) for place, _, files in walked for name in files):
        if path.suffix not in DRAWN or path.is_relative_to(run.checkpoints_dir) or path.name.startswith("."):
            continue
        where = {"file": str(path)}
        name = path.relative_to(run.folder).as_posix()
        if path.parent == run.grids_dir:
            yield path.stem, Product("grid", name, where)
            continue
        try:
            origin = Origin.model_validate(read_provenance(path) or {})
        except (PipelineError, OSError, ValidationError) as error:
            logger.info("%s is passed over: %s", path, error)
            continue
        if origin.run_id == run.id and origin.checkpoint is not None:
            kind = "audit" if path.parent.name == "audit" else origin.kind
            yield origin.checkpoint, Product(kind, name, where)


def warn_of(error: Exception) -> None:
    """Say what is passed over, since it cannot be read, once a process."""
    _warn(sentence(error))


@cache
def _warn(message: str) -> None:
    logger.warning("%s", message)
