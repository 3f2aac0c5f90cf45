"""Whether records that have no hash on record agree: with their place, with themselves, and with what they name.

    for problem in problems_of_build(store, "faces", store.path("datasets/faces/builds/ID.json")): ...

Such are records of builds, `latest.json`, champions and the decisions on them, records of exports and of packed shards.
Each check is a comparison of two things that are here. Not here: withdrawals and certificates (`storage.withdrawals`),
and what has a hash on record (`storage.datasets.verify`, `storage.verify`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from storage.datasets.dataset import Dataset, lacks_manifest
from storage.datasets.parts import digest_of
from storage.datasets.records import BuildRecord, Latest, Manifest
from storage.digest import json_digest
from storage.errors import NotFoundError, PipelineError
from storage.exports.records import Exported
from storage.local import here
from storage.promotions import Alias, Candidate, Decision
from storage.runs import CheckpointState, Run
from storage.shards import PackedRecord, index_name, open_index
from storage.store import Store
from storage.tables import Stored
from storage.withdrawals import FILE as WITHDRAWN

GENERATOR = "generator_ema.safetensors"
"""A candidate's weights, which images are drawn with."""


def problems_of_name(store: Store, name: str) -> Iterator[str]:
    """Of the version that a name alone means: it is there, and the build that is said to have given it did."""
    path = store.path(f"datasets/{name}/latest.json")
    if not path.exists():
        yield f"{path} is missing: it is written again as soon as {name} is opened"
        return
    latest = Latest.read(path)
    folder = store.path(Dataset(store, name, latest.version).key)
    if not ((folder / "manifest.json").is_file() or (folder / WITHDRAWN).is_file()):
        yield f"{path} names a version that is not there"
    if latest.build_id is None:
        return
    record = store.spot(f"datasets/{name}/builds/{latest.build_id}.json")
    try:
        build = BuildRecord.read(record)
    except NotFoundError:
        yield f"{path} names build {latest.build_id}, and {record} is not there"
    except PipelineError:  # it is named by its own check
        return
    else:
        if (build.version, build.started_at) != (latest.version, latest.asked_at or build.started_at):
            yield f"{path} is not what {record} says: another version, or another time"


def problems_of_build(store: Store, name: str, path: Path) -> Iterator[str]:
    """Of a record of a build: its place, its settings, and its version, whose manifest is written before it."""
    build = BuildRecord.read(path)
    dataset = Dataset(store, name, build.version)
    if lacks_manifest(dataset):
        yield f"{dataset.folder / 'manifest.json'} is missing"
    if (build.build_id, build.dataset or name) != (path.stem, name):
        yield f"{path} is of build {build.build_id} of {build.dataset or name}"
    if not (build.manifest_sha256 or build.version).startswith(build.version):
        yield f"{path} names version {build.version}, and the manifest of another one"
    if build.config and not is_digest(build.config_sha256, build.config):
        yield f"{path} is damaged: its config is not the one that its config_sha256 is of"
    with suppress(PipelineError):  # a manifest that cannot be read is named by its version's check
        if dataset.manifest_sha256 != (build.manifest_sha256 or dataset.manifest_sha256):
            yield f"{path} names another manifest than {dataset.folder} has"
        for what in _differences(build, dataset.manifest):
            yield f"{path} says another {what} than {dataset.folder / 'manifest.json'}"


def _differences(build: BuildRecord, manifest: Manifest) -> Iterator[str]:
    """In what a build's record and its version's manifest differ, of that which both say."""
    said: dict[str, Any] = {"resolution": manifest.resolution}
    said |= {name: manifest.config[name] for name in ("curate", "shard") if name in manifest.config}
    for name, value in said.items():
        if not _agree(build.config.get(name, value), value):
            yield name
    counts = {"images": manifest.counts.images, "shards": len(manifest.shards)}
    for name, value in counts.items():
        if build.stages.get("shard", {}).get(name, value) != value:
            yield f"number of {name}"


def _agree(one: Any, other: Any) -> bool:
    """Whether two values are the same; of two objects, those that both have."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(one[name] == other[name] for name in one.keys() & other.keys())
    return bool(one == other)


def problems_of_champion(store: Store, path: Path) -> Iterator[str]:
    """Of a name's alias: its champion's weights are there, and each of its moves was decided."""
    alias = Alias.read(path)
    if alias.name != path.parent.name:
        yield f"{path} is of {alias.name}"
    if alias.champion is not None:
        yield from _problems_of_candidate(store, path, alias.champion)
    for move in alias.moves:
        if move.decision is None:
            continue
        record = store.spot(f"promotions/{path.parent.name}/decisions/{move.decision}.json")
        with suppress(PipelineError):  # one that cannot be read is named by its own check
            if not record.is_file():
                yield f"{record}, which {path} names, is missing"
            elif not (decision := Decision.read(record)).is_positive or decision.candidate != move.to:
                yield f"{path} has a champion that {record} did not decide for"


def _problems_of_candidate(store: Store, path: Path, champion: Candidate) -> Iterator[str]:
    folder = Run(store.path(f"runs/{champion.run_id}")).checkpoints_dir / champion.checkpoint
    if not (folder / "state.json").is_file():
        yield f"{folder}, which {path} names, is no checkpoint that is there"
        return
    with suppress(PipelineError):
        weights = CheckpointState.read(folder / "state.json").sha256
        if weights.get(GENERATOR, champion.generator_sha256) != champion.generator_sha256:
            yield f"{path} names other weights than {folder} has"


def problems_of_state(run: Run, folder: Path) -> Iterator[str]:
    """Of a checkpoint's state: its run, its dataset, its number, and its settings, which are the run's at some time."""
    state, record = CheckpointState.read(folder / "state.json"), run.record
    dataset = state.dataset and (state.dataset.reference, state.dataset.manifest_sha256)
    if (state.run_id, dataset) != (record.run_id, (record.dataset.reference, record.dataset.manifest_sha256)):
        yield f"{folder / 'state.json'} is of another run, or of another dataset, than {run.folder / 'run.json'}"
    if folder.name.isdecimal() and int(folder.name) != state.num_images:
        yield f"{folder / 'state.json'} is of {state.num_images} images, and its folder of {int(folder.name)}"
    said = state.as_json()  # what `training.checkpoint.State` says beside
    sha256 = said.get("config_sha256")
    if "config" in said and not is_digest(sha256, said["config"]):
        yield f"{folder / 'state.json'} is damaged: its config is not the one that its config_sha256 is of"
    elif sha256 not in (None, record.config_sha256, *(change.config_sha256 for change in record.changes)):
        yield f"{folder / 'state.json'} has settings that {run.folder / 'run.json'} never had"


def problems_of_decision(path: Path) -> Iterator[str]:
    """Of a decision on a candidate: its place, and its settings."""
    decision = Decision.read(path)
    if (decision.decision, decision.name) != (path.stem, path.parents[1].name):
        yield f"{path} is of decision {decision.decision} on {decision.name}"
    if not is_digest(decision.config_sha256, decision.config):
        yield f"{path} is damaged: its config is not the one that its config_sha256 is of"


def problems_of_exported(store: Store, path: Path) -> Iterator[str]:
    """Of the record of an export: its place, and its version, if that is here."""
    exported = Exported.read(path)
    if store.path(exported.key) != path:
        yield f"{path} is of another export, which would lie at {store.path(exported.key)}"
    dataset = Dataset(store, exported.dataset.name, exported.dataset.version)
    if not exported.dataset.manifest_sha256.startswith(dataset.version):
        yield f"{path} names version {dataset.version}, and the manifest of another one"
    with suppress(PipelineError):
        found = (dataset.manifest_sha256, dataset.manifest.resolution)
        if found != (exported.dataset.manifest_sha256, exported.resolution):
            yield f"{path} is of another version than {dataset.folder} has"


def problems_of_packed(path: Path) -> Iterator[str]:
    """Of the record of a packed shard: its index, and the rows beside it, as far as they are there."""
    record = PackedRecord.read(path)
    table = path.with_name(f"{record.sha256}.parquet")
    if here(table).is_file() and digest_of(Stored(table, [])) != record.rows_sha256:
        yield f"{table} no longer holds the rows that {path} names: delete it, and build again"
    index_path = path.with_name(index_name(f"{record.sha256}.tar"))
    if not here(index_path).is_file():
        return
    with suppress(PipelineError):  # an index that cannot be read is named by its own check
        if open_index(index_path, None).sha256 != record.sha256:
            yield f"{index_path} is of another tar than {path} names: delete it, and build again"
            return
        try:
            open_index(index_path, record.index_sha256)
        except PipelineError:
            yield f"{index_path} is not the index that {path} names: delete it, and build again"


def is_digest(sha256: Any, config: Any) -> bool:
    """Whether a config is the one that a digest is of, if there is one; what is no number has none."""
    try:
        return sha256 in (None, json_digest(config))
    except ValueError:
        return False
