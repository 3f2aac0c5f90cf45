"""What a store holds, mended where it was damaged: from copies, chunks, tars, tables, folders of photographs.

    repaired = repair(Store("./store"), "faces", IMAGE_SCHEMA, dry=True)

Whatever is put into a damaged file's place has the sha256 on record of it. What only makes something quicker is deleted
instead, and made again by whoever needs it. What is left is named, with what would mend it. Not here: versions
(`storage.datasets.repair`), building again (`flows.rebuild`).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.checks import Digests, run_checks, sentence
from storage.datasets.dataset import (
    Dataset,
    all_versions,
    builds_of,
    dataset_names,
    lacks_manifest,
    latest,
    open_dataset,
)
from storage.datasets.parts import digest_of
from storage.datasets.records import Latest
from storage.datasets.repair import Mender, mend_manifest, mend_version
from storage.datasets.verify import checks_of_version
from storage.digest import bytes_digest, file_digest
from storage.errors import NotFoundError, PipelineError
from storage.layout import NOT_OURS
from storage.local import listed, passed_over
from storage.runs import CheckpointState, Run, find_run, list_runs
from storage.shards import PackedRecord, index_json, index_name, index_of, open_index
from storage.store import Store, original_key
from storage.tables import Stored
from storage.verify import checks_of_run, checks_of_store

logger = logging.getLogger(__name__)

HINTS = {
    NOT_OURS: "move it away",
    "belongs there": "move it away",
    "neither a file nor a folder": "move it away",
    "leads out of the store": "put the file itself in its place",
    "is a link to": "delete it, and repair again",
    "Permission denied": "let this user read it",
    "/tombstones/": "bring it back from a copy: without it what was forgotten may return",
    "/forgets/": "bring it back from a copy: it says what was forgotten",
    "/withdrawn.json": "bring it back from a copy: it says what its version was",
    "/import.json": "likeness import-network makes it again",
    "/imports/": "likeness import-network makes it again",
    "/champion.json": "bring it back from a copy, or likeness promote RUN makes another",
    "/decisions/": "it says only why a run was promoted or not: delete it, or restore it from a backup",
    "/rechecks/": "delete it, and likeness recheck looks again",
    "/exports/": "delete it, and export again",
    "/run.json": "nothing else holds what a run was asked for: restore it from a backup",
    "/result.json": "likeness train --resume RUN writes it again as training goes on",
    "/metrics/": "delete it, and likeness evaluate measures again",
    "/audit/": "delete it, and likeness audit looks again",
    "/checkpoints/": "likeness train --resume goes on from the newest intact checkpoint",
    "/builds/": "it says only when and where its version was built: delete it, or restore it from a backup",
    "/ledger/": "delete it, and those addresses are asked again",
    "/originals/": "put the photograph back where its build read it, or build again from its source",
    "/datasets/": "likeness rebuild NAME@VERSION builds it again",
}
"""What helps where nothing in the store does, by what the problem has in it."""
MADE_AGAIN = "made again by the next build"


@dataclass(frozen=True)
class Repaired:
    """What was mended, or would be, each with what it was made of; and each problem that is left."""

    mended: dict[str, str]
    left: list[str]
    versions: list[Dataset]
    """Those with problems that are left, which may be built again."""

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"mended": self.mended, "left": self.left}


def repair(store: Store, reference: str | None, schema: pa.Schema, *, dry: bool) -> Repaired:
    """Mend a dataset's version, a run, or for None all of a store; `dry`: only say what would be.

    `schema` has the columns that images may have.
    """
    mender = Mender(store, dry)
    versions, runs = _asked(store, reference)
    for version in versions:
        with _going_on():
            mend_version(mender, version, schema)
        with _going_on():
            _mend_originals(mender, version)
    for run in runs:
        for folder in listed(run.checkpoints_dir, "[0-9]*", passed_over):
            with _going_on():
                _mend_checkpoint(mender, run, folder)
    if reference is None:
        for name in dataset_names(store, passed_over):
            with _going_on():
                _mend_name(mender, name)
        with _going_on():
            _mend_chunks(mender)
    with Digests(store) as digests:
        if reference is None:
            problems = run_checks(checks_of_store(store, digests)).problems
        else:
            whole = [version for version in versions if _has_manifest(version)]
            of_versions = (check for version in whole for check in checks_of_version(version, digests))
            problems = [*run_checks(of_versions).problems]
            problems += run_checks(check for run in runs for check in checks_of_run(run, digests)).problems
        problems += [f"{v.folder / 'manifest.json'} is missing" for v in versions if not _has_manifest(v)]
    left = [problem for problem in dict.fromkeys(problems) if not (dry and _is_of(problem, mender))]
    broken = [version for version in versions if any(str(version.folder) in problem for problem in left)]
    mended = {str(path): how for path, how in mender.mended.items()}
    return Repaired(mended, [f"{problem}: {_hint(problem)}" for problem in left], broken)


@contextmanager
def _going_on() -> Iterator[None]:
    """Mend something: where that cannot be done the rest is, and what is left is named at the end."""
    try:
        yield
    except PipelineError:
        pass
    except OSError as error:
        logger.warning("%s", sentence(error))


def mended_manifests(store: Store, *, dry: bool) -> dict[str, str]:
    """Mend manifests alone, which say what else versions have."""
    mender = Mender(store, dry)
    for version in versions_of(store):
        with _going_on():
            mend_manifest(mender, version)
    return {str(path): how for path, how in mender.mended.items()}


def versions_of(store: Store, name: str | None = None) -> list[Dataset]:
    """All versions of a name, or of all, and those that lack their manifest, which records of builds name.

    Not what a build that was killed has left, and not what was withdrawn.
    """
    found = {(dataset.name, dataset.version) for dataset in all_versions(store, passed_over)}
    for folder in listed(store.path("datasets"), "*/*", passed_over):
        version = Dataset(store, folder.parent.name, folder.name)
        if re.fullmatch("[0-9a-f]{16}", folder.name) and lacks_manifest(version):
            found.add((version.name, version.version))
    return [Dataset(store, *one) for one in sorted(found) if name in (None, one[0])]


def _asked(store: Store, reference: str | None) -> tuple[list[Dataset], list[Run]]:
    if reference is None:
        return versions_of(store), list_runs(store, passed_over)
    try:
        return [], [find_run(store, reference)]
    except NotFoundError:
        name, _, version = reference.partition("@")
        known = versions_of(store, name)
        if version and (found := [dataset for dataset in known if dataset.version.startswith(version)]):
            return found, []
        if known and not version:
            return known, []
        return [open_dataset(store, reference)], []


def _is_of(problem: str, mender: Mender) -> bool:
    return any(str(path) in problem or str(path.with_suffix("")) in problem for path in mender.mended)


def _has_manifest(dataset: Dataset) -> bool:
    return (dataset.folder / "manifest.json").is_file()


def _hint(problem: str) -> str:
    return next((hint for part, hint in HINTS.items() if part in problem), "likeness build makes it again")


def _mend_originals(mender: Mender, dataset: Dataset) -> None:
    """Photographs, where the folder that their build read still has them."""
    folders = [
        Path(source.removeprefix("folder:")) for source in _sources(dataset) if source.startswith("folder:")
    ]
    wanted: dict[str, list[str]] = {}
    try:
        for table in (dataset.table("images"), dataset.table("rejections")):
            for row in table.read(["photo_sha256", "ref"]).to_pylist():
                if row["photo_sha256"] is not None:
                    wanted.setdefault(row["photo_sha256"], []).append(row["ref"])
    except (PipelineError, OSError):
        return
    for sha256, refs in wanted.items():
        path = mender.store.file(original_key(sha256))
        if path.is_file() and file_digest(path) == sha256:
            continue
        for source in (folder / ref for folder in folders for ref in dict.fromkeys(refs)):
            if source.is_file() and bytes_digest(data := source.read_bytes()) == sha256:
                mender.put(path, data, str(source))
                break


def _sources(dataset: Dataset) -> Iterator[str]:
    try:
        yield from (str(build.config.get("source")) for build in builds_of(dataset.store, dataset.name))
    except PipelineError:
        return


def _mend_checkpoint(mender: Mender, run: Run, folder: Path) -> None:
    """A checkpoint's files, where MLflow was sent the same ones."""
    copies = listed(run.store.path("mlartifacts"), f"*/*/artifacts/checkpoints/{folder.name}", passed_over)
    state = _state(folder)
    for copy in copies if state is None else ():
        kept = _state(copy)
        if kept is not None and kept.run_id == run.id:
            mender.put(folder / "state.json", (copy / "state.json").read_bytes(), str(copy / "state.json"))
            state = kept
            break
    for name, sha256 in state.sha256.items() if state is not None else ():
        path = folder / name
        if path.is_file() and file_digest(path) == sha256:
            continue
        for other in (copy / name for copy in copies):
            if other.is_file() and file_digest(other) == sha256:
                mender.put(path, other.read_bytes(), str(other))
                break


def _state(folder: Path) -> CheckpointState | None:
    try:
        return CheckpointState.read(folder / "state.json")
    except PipelineError:
        return None


def _mend_name(mender: Mender, name: str) -> None:
    """Which version a name means, by its builds."""
    path = mender.store.path(f"datasets/{name}/latest.json")
    with suppress(PipelineError):
        if _has_manifest(Dataset(mender.store, name, Latest.read(path).version)):
            return
    try:
        builds = builds_of(mender.store, name)
    except PipelineError:
        return  # they are named by themselves
    if any(_has_manifest(Dataset(mender.store, name, build.version)) for build in builds):
        mender.drop(path, "the records of its builds")
        if not mender.dry:
            latest(mender.store, name)


def _mend_chunks(mender: Mender) -> None:
    """Crops of aligned chunks, from tars, and packed shards, from versions; what cannot be mended is dropped."""
    store = mender.store
    for path in _no_files(store.path("chunks")):
        with _going_on():
            mender.drop(path, MADE_AGAIN)
    for mend, folder in ((_mend_aligned, "align"), (_mend_part, "table"), (_mend_packed, "shard")):
        for path in [store.path(key) for key in store.keys(f"chunks/{folder}")]:
            with _going_on():
                mend(mender, path)


def _no_files(chunks: Path) -> list[Path]:
    """Empty folders that stand in the place of files, and links that lead to nothing."""
    found = []
    for place, folders, files in os.walk(chunks):
        empty = [name for name in folders if Path(name).suffix and not any(Path(place, name).iterdir())]
        links = [name for name in files if not os.path.exists(os.path.join(place, name))]
        found += [Path(place, name) for name in (*empty, *links)]
    return found


def _mend_part(mender: Mender, path: Path) -> None:
    if not _has_rows(path, path.stem):
        mender.drop(path, MADE_AGAIN)


def _mend_packed(mender: Mender, path: Path) -> None:
    if path.name.endswith(".index.json"):
        _mend_shard(mender, path)
    elif path.suffix == ".json":
        try:
            record = PackedRecord.read(path)
        except PipelineError:
            mender.drop(path, MADE_AGAIN)
            return
        table = path.with_name(f"{record.sha256}.parquet")
        if table.is_file() and not _has_rows(table, record.rows_sha256):
            mender.drop(table, MADE_AGAIN)
        _mend_packed_index(mender, path, record)


def _mend_packed_index(mender: Mender, path: Path, record: PackedRecord) -> None:
    """The index that a record names, from its tar; where the tar does not give it, the record is dropped."""
    tar = path.with_name(f"{record.sha256}.tar")
    index = path.with_name(index_name(tar.name))
    if not index.is_file() or file_digest(index) == record.index_sha256:
        return
    if tar.is_file() and file_digest(tar) == record.sha256:
        data = index_json(index_of(tar, record.sha256))
        if bytes_digest(data) == record.index_sha256:
            mender.put(index, data, str(tar))
            return
    mender.drop(path, MADE_AGAIN)


def _has_rows(path: Path, sha256: str) -> bool:
    try:
        return digest_of(Stored(path, [])) == sha256
    except PipelineError:
        return False


def _mend_shard(mender: Mender, index: Path) -> None:
    tar = index.with_name(index.name.removesuffix(".index.json") + ".tar")
    try:
        sha256 = open_index(index, None).sha256
    except PipelineError:
        sha256 = ""
    if tar.is_file() and file_digest(tar) == sha256:
        return
    for version in all_versions(mender.store, passed_over):
        try:
            shards = version.manifest.shards
        except PipelineError:
            continue
        for shard in shards:
            is_it = shard.sha256 == sha256 or (
                not sha256 and tar.is_file() and file_digest(tar) == shard.sha256
            )
            path = version.shard_path(shard)
            if is_it and path.is_file() and file_digest(path) == shard.sha256:
                mender.put(tar, path, str(path))
                mender.put(index, path.with_name(index_name(path.name)), str(path))
                return
    for path in (tar, index, tar.with_suffix(".parquet")):
        if path.is_file():
            mender.drop(path, MADE_AGAIN)


def _mend_aligned(mender: Mender, path: Path) -> None:
    if path.suffix != ".parquet":
        return
    if path.parent.name == "gathered":
        if not _opens(path):
            mender.drop(path, MADE_AGAIN)
        return
    blob = path.with_suffix(".images")
    columns = ["image_sha256", "offset", "size"]
    try:
        table = Stored(path, columns).read(columns)
        data = bytearray(blob.read_bytes())
    except (PipelineError, OSError):
        mender.drop(path, MADE_AGAIN)
        if blob.is_file():
            mender.drop(blob, MADE_AGAIN)
        return
    is_whole = True
    for row in table.filter(table["image_sha256"].is_valid()).to_pylist():
        place = slice(row["offset"], row["offset"] + row["size"])
        if bytes_digest(bytes(data[place])) == row["image_sha256"]:
            continue
        is_whole = False
        image = mender.image(row["image_sha256"])
        if image is None:
            for file in (path, blob):
                mender.drop(file, MADE_AGAIN)
            return
        data[len(data) :] = bytes(max(place.stop - len(data), 0))
        data[place] = image
    if not is_whole:
        mender.put(blob, bytes(data), "the tars of versions")


def _opens(path: Path) -> bool:
    try:
        Stored(path, []).read()
    except PipelineError:
        return False
    return True
