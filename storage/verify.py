"""Whether runs, checkpoints, and all that a store holds are what they were: every hash on record, checked.

    what, checked = verify(Store("./store"), "20261123-101500-faces-smoke-3f2a")

Not here: how a version is checked (`storage.datasets.verify`), drawn files (`flows.verify_file`), and mending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from storage.agreement import (
    problems_of_build,
    problems_of_champion,
    problems_of_decision,
    problems_of_exported,
    problems_of_name,
    problems_of_packed,
    problems_of_state,
)
from storage.checks import Check, Checked, Digests, guarded, run_checks, sound
from storage.datasets.dataset import (
    Dataset,
    all_versions,
    dataset_names,
    open_dataset,
    open_recorded,
)
from storage.datasets.parts import digest_of
from storage.datasets.verify import checks_of_version
from storage.digest import bytes_digest
from storage.errors import NotFoundError, WithdrawnError
from storage.exports.check import checks_of_export, record_of, version_of
from storage.exports.records import ExportRecord
from storage.imports import Import
from storage.layout import misplaced
from storage.lineage.origin import check_pixels, is_whole, read_provenance
from storage.local import here, listed, passed_over, real_path
from storage.records import json_object
from storage.runs import CheckpointState, Run, find_run, list_runs, recorded_metrics
from storage.shards import check_shard, open_index
from storage.store import Store
from storage.tables import Stored
from storage.tombstones import FOLDER as TOMBSTONES
from storage.tombstones import Tombstones, rows_of
from storage.withdrawals import (
    CERTIFICATE,
    FILE,
    FOLDER,
    INTENT,
    Intent,
    Withdrawal,
    key_of,
    problems_of,
    problems_of_certificate,
    withdrawals,
    withdrawn,
)

Checks = Callable[[Digests], Iterator[Check]]


def verify(store: Store, reference: str | None, *, fast: bool = False) -> tuple[dict[str, str], Checked]:
    """Check a dataset, run, checkpoint's folder or export, or for None all of a store: what it is, and what was found.

    A `fast` check does not hash files again that have the size and the time that they had when they were hashed last.
    """
    with nullcontext(store) if fast else store.unseen() as seen:
        what, checks = _asked(seen, reference)
        with Digests(seen, fast=fast) as digests:
            checked = run_checks(checks(digests))
    return what, replace(checked, problems=[told(store, seen, problem) for problem in checked.problems])


def told(store: Store, seen: Store, problem: str) -> str:
    """A problem as the owner of a store in a bucket is told it, by what is there."""
    return problem if store.mirror is None else problem.replace(f"{seen.root}", str(store))


def _asked(store: Store, reference: str | None) -> tuple[dict[str, str], Checks]:
    if reference is None:
        return {"store": str(store)}, partial(checks_of_store, store)
    folder = real_path(Path(reference))
    if (folder / "state.json").is_file():
        return {"checkpoint": reference}, partial(checks_of_checkpoint, Run(folder.parent.parent), folder)
    if exported := record_of(Path(reference)):
        return {"export": reference}, partial(_checks_of_export, store, Path(reference), exported)
    run = None
    try:
        run = find_run(store, reference)
    except NotFoundError:
        name, _, beginning = reference.partition("@")
        for withdrawal in withdrawals(store, name, beginning) if beginning else ():
            return {"withdrawn dataset": withdrawal.reference}, partial(
                checks_of_withdrawal, store, withdrawal
            )
        dataset = open_dataset(store, reference)
        return {"dataset": dataset.reference}, partial(_checks_of_dataset, dataset)
    return {"run": run.id}, partial(checks_of_run, run)


def _checks_of_dataset(dataset: Dataset, digests: Digests) -> Iterator[Check]:
    """All of a version, and what is on record of its name."""
    yield from checks_of_version(dataset, digests)
    yield from _of_name(dataset.store, dataset.name)


def checks_of_withdrawal(store: Store, withdrawal: Withdrawal, _: Digests) -> Iterator[Check]:
    """What is left of a version that was withdrawn, and the certificate of that."""
    path = store.file(f"datasets/{withdrawal.dataset}/{withdrawal.version}/{FILE}")
    yield Check("withdrawal", partial(problems_of, store, path))
    certificate = store.file(key_of(withdrawal.forget, CERTIFICATE))
    if certificate.is_file():  # that it is not is a problem of the withdrawal
        yield Check("certificate", partial(problems_of_certificate, store, certificate), str(certificate))


def checks_of_run(run: Run, digests: Digests) -> Iterator[Check]:
    """All of a run."""
    yield Check("run", partial(_run_problems, run))
    if run.result_path.exists():
        yield sound("record", lambda: run.result)
    for path in listed(run.folder, "audit/*.json", passed_over):
        yield sound("record", partial(_json, path))
    for path in listed(run.grids_dir, "[0-9]*.png", passed_over):
        yield Check("grid", partial(_grid_problems, path))
    for folder in run.checkpoints(passed_over):
        yield from checks_of_checkpoint(run, folder, digests)


def checks_of_checkpoint(run: Run, folder: Path, digests: Digests) -> Iterator[Check]:
    """A checkpoint, and what was measured of it."""
    yield Check("checkpoint", partial(_checkpoint_problems, run, folder, digests))
    yield sound("record", partial(recorded_metrics, run, folder))


def _checks_of_export(store: Store, path: Path, record: ExportRecord, digests: Digests) -> Iterator[Check]:
    """All of an export, and the manifest of the version that it was made of, where that is here."""
    yield from checks_of_export(path, record)
    yield sound("version", lambda: version_of(store, record, path))


def checks_of_store(store: Store, digests: Digests) -> Iterator[Check]:
    """All of a store, each thing once; what cannot be looked through is a problem, and the rest is looked at.

    A folder that may not be listed is passed over, and named by the check of the layout.
    """
    seen = set()
    for checks in (_of_datasets, _of_runs, _of_models, _of_packed, _of_aligned, _of_photographs):
        for check in guarded(checks(store, digests)):
            if (check.kind, check.name) not in seen:
                yield check
            if check.name:
                seen.add((check.kind, check.name))
    yield Check("layout", partial(misplaced, store))


def _of_datasets(store: Store, digests: Digests) -> Iterator[Check]:
    for dataset in all_versions(store, passed_over):
        yield from checks_of_version(dataset, digests)
    for path in withdrawn(store, refused=passed_over):
        yield Check("withdrawal", partial(problems_of, store, path))
    for path in listed(store.path(FOLDER), f"*/{CERTIFICATE}", passed_over):
        yield Check("certificate", partial(problems_of_certificate, store, path), str(path))
    for path in listed(store.path(FOLDER), f"*/{INTENT}", passed_over):
        yield Check("request to forget", partial(_intent_problems, path))
    for key in store.keys(TOMBSTONES):
        if key.endswith(".jsonl"):
            yield sound("tombstone", partial(rows_of, store, key))
    if store.path(TOMBSTONES).is_dir():
        yield sound("tombstone key", lambda: Tombstones(store).check())
    for name in dataset_names(store, passed_over):
        yield from _of_name(store, name)
        for key in store.keys(f"datasets/{name}/rechecks"):
            yield sound("recheck", partial(_json, store.path(key)))
    for key in store.keys("exports"):
        yield Check("export", partial(problems_of_exported, store, store.path(key)))


def _of_name(store: Store, name: str) -> Iterator[Check]:
    yield Check("name", partial(problems_of_name, store, name))
    for key in store.keys(f"datasets/{name}/builds"):
        yield Check("build", partial(problems_of_build, store, name, store.path(key)))


def _of_runs(store: Store, digests: Digests) -> Iterator[Check]:
    for run in list_runs(store, passed_over):
        yield from guarded(checks_of_run(run, digests))
    for key in store.keys("promotions"):
        if key.endswith("/champion.json"):
            yield Check("champion", partial(problems_of_champion, store, store.path(key)))
        elif key.endswith(".json"):
            yield Check("decision", partial(problems_of_decision, store.path(key)))


def _of_models(store: Store, digests: Digests) -> Iterator[Check]:
    for path in listed(store.path("imports"), "*/import.json", passed_over):
        yield Check("import", partial(_import_problems, Import(path.parent), digests))


def _of_packed(store: Store, digests: Digests) -> Iterator[Check]:
    for key in store.keys("chunks/shard"):
        if key.endswith(".index.json"):
            yield Check("chunk", partial(_shard_problems, store.path(key), digests))
        elif key.endswith(".json"):
            yield Check("chunk", partial(problems_of_packed, store.path(key)))
    for key in store.keys("chunks/table"):
        yield Check("chunk", partial(_part_problems, store.path(key)))


def _of_aligned(store: Store, digests: Digests) -> Iterator[Check]:
    for key in store.keys("chunks/align"):
        if "/gathered/" in key:
            yield sound("gathered table", partial(_table, store.path(key)))
        elif key.endswith(".parquet"):
            yield Check("chunk", partial(_align_problems, store.path(key)))
    for key in store.keys("chunks/crawl"):
        yield sound("chunk", partial(_table, store.path(key)))


def _of_photographs(store: Store, digests: Digests) -> Iterator[Check]:
    for prefix, kind in (("ledger", "segment"), ("originals", "original")):
        for path in map(store.path, store.keys(prefix)):
            if len(path.stem) == 64:
                problems = partial(digests.problems, path, path.stem, "the sha256 of its name")
                yield Check(kind, problems, path.stem)


def _run_problems(run: Run) -> Iterator[str]:
    dataset = run.record.dataset
    try:
        open_recorded(run.store, dataset, f"run {run.id}").manifest  # noqa: B018
    except WithdrawnError:  # which its own check is of
        [withdrawal] = withdrawals(run.store, dataset.name, dataset.version)
        if withdrawal.manifest_sha256 != dataset.manifest_sha256:
            yield f"{withdrawal.reference} was withdrawn, and is not the version that run {run.id} was trained on"


def _checkpoint_problems(run: Run, folder: Path, digests: Digests) -> Iterator[str]:
    state = CheckpointState.read(folder / "state.json")
    for name, sha256 in state.sha256.items():
        yield from digests.problems(folder / name, sha256)
    yield from problems_of_state(run, folder)


def _grid_problems(path: Path) -> Iterator[str]:
    """Of a grid that a training drew, which says its pixels' hash, but for those of first versions."""
    metadata = read_provenance(here(path))
    if metadata is None or not is_whole(path):
        yield f"{path} is no whole picture that says where it is from: it was cut short, or is another"
    else:
        check_pixels(path, metadata)


def _import_problems(imported: Import, digests: Digests) -> Iterator[str]:
    for name, sha256 in imported.record.sha256.items():
        yield from digests.problems(imported.folder / name, sha256)


def _shard_problems(index_path: Path, digests: Digests) -> Iterator[str]:
    index = open_index(index_path, None)
    path = index_path.with_name(index_path.name.removesuffix(".index.json") + ".tar")
    if not here(path).is_file() or digests.of(path) != index.sha256:
        yield from check_shard(path, index.sha256, index.entries)


def _part_problems(path: Path) -> Iterator[str]:
    if digest_of(Stored(path, [])) != path.stem:
        yield f"{path} no longer holds the rows that it is named by: delete it, and build again"


def _align_problems(path: Path) -> Iterator[str]:
    columns = ["image_sha256", "offset", "size"]
    table: pa.Table = Stored(path, columns).read(columns)
    blob = path.with_suffix(".images")
    with here(blob).open("rb") as stream:
        for row in table.filter(table["image_sha256"].is_valid()).to_pylist():
            stream.seek(row["offset"])
            if bytes_digest(stream.read(row["size"])) != row["image_sha256"]:
                yield f"{blob} no longer holds image {row['image_sha256']}: delete it and {path.name}, and build again"
                return


def _intent_problems(path: Path) -> Iterator[str]:
    Intent.read(path)
    yield f"{path} is not done: ask likeness forget for the same again"


def _table(path: Path) -> object:
    """A table that can be read, or that a build has just put another in the place of."""
    return Stored(path, []).read() if here(path).exists() else None


def _json(path: Path) -> object:
    return json_object(path.read_bytes(), path)
