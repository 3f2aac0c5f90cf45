"""A version taken to a bucket: its pieces by what they hold, then the manifest, then what its name means there.

    push(Store("./store"), Remote("s3://bucket/faces"), "faces")

Each piece is read and checked before it goes, and lies there once for all versions that have it. What has its name and
size there already is not sent again. An upload that is broken off leaves nothing that a reader would find, since the
manifest goes last. Of those who push at once, the one that was asked for last gives the latest version. To a folder a
version is pulled (`storage.datasets.pull`).
"""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from storage.datasets.attribution import FILE
from storage.datasets.content import Piece, content_of
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.elsewhere import AT_ONCE, POINTER_LIMIT, Copied, Report, quiet
from storage.datasets.records import BuildRecord, Latest
from storage.datasets.verify import photographs
from storage.digest import bytes_digest
from storage.environment import run_facts
from storage.errors import ConfigError, IntegrityError, ServiceError
from storage.remote import Remote
from storage.shards import index_name
from storage.store import Store, original_key

TRIES = 8
"""How often a pointer is written that others write too."""


def push(
    store: Store, remote: Remote, reference: str, *, originals: bool = False, report: Report = quiet
) -> Copied:
    """Copy the version that NAME or NAME@V means, and make it what the name means there; errors as of `pull`."""
    if not remote.lists:
        raise ConfigError(f"{remote.url} is a web server, which is read alone: push to a folder or a bucket")
    clock, asked_at = time.perf_counter(), datetime.now(UTC)
    dataset = open_dataset(store, reference)
    content = content_of(dataset.manifest, dataset.reference, partial(_record, dataset))
    done = Copied(dataset, remote.url)
    photos = photographs(
        dataset.table("images").read(["photo_sha256"]),
        dataset.table("rejections").read(["photo_sha256", "reason"]),
    ).to_pylist()
    with store.in_use(), ThreadPoolExecutor(AT_ONCE) as pool:
        pieces = content.pieces
        done.count(pool.map(partial(_send_piece, dataset, remote), pieces), report, len(pieces))
        if originals:
            done.count(pool.map(partial(_send_original, store, remote), photos), report, len(photos))
            done.absent = sum(not store.exists(original_key(sha256)) for sha256 in photos)
        for name, data in content.records.items():
            remote.put(f"{dataset.key}/{name}", data)
        if (dataset.folder / FILE).is_file():
            remote.put(f"{dataset.key}/{FILE}", dataset.folder / FILE)
        remote.put(f"{dataset.key}/manifest.json", dataset.manifest_bytes)
    builds = f"datasets/{dataset.name}/builds"
    for build in dataset.builds():
        remote.replace(f"{builds}/{build.build_id}.json", build.as_bytes(), None)
    record = _record_of(done, asked_at, time.perf_counter() - clock)
    done.is_latest = _point(remote, dataset, record, builds)
    return done


def look(store: Store, remote: Remote | None, reference: str) -> Copied:
    """What a push to a store, or for None to one that is still empty, would send, but for photographs."""
    dataset = open_dataset(store, reference)
    content = content_of(dataset.manifest, dataset.reference, partial(_record, dataset))
    done = Copied(dataset, "" if remote is None else remote.url)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done.count(pool.map(partial(_size_of_missing, dataset, remote), content.pieces))
    return done


def _size_of_missing(dataset: Dataset, remote: Remote | None, piece: Piece) -> int | None:
    size = dataset.file(piece.name).stat().st_size
    there = None if remote is None else remote.size(_place(dataset, piece))
    return None if there == size else size


def _place(dataset: Dataset, piece: Piece) -> str:
    return piece.key or f"{dataset.key}/{piece.name}"


def _record(dataset: Dataset, name: str, sha256: str) -> bytes:
    """A file of the version, checked."""
    path = dataset.file(name)
    data = path.read_bytes()
    if bytes_digest(data) != sha256:
        raise IntegrityError(f"{path} no longer has the sha256 of its version's manifest")
    return data


def _send_piece(dataset: Dataset, remote: Remote, piece: Piece) -> int | None:
    """Send a piece, with its index where it is a shard, and say how many bytes went; None where it is there."""
    path = dataset.file(piece.name)
    if not piece.is_at(path):
        raise IntegrityError(f"{path} is not what the manifest of {dataset.reference} says")
    if piece.index_sha256:
        name = index_name(piece.name)
        _send(remote, f"{dataset.key}/{name}", _record(dataset, name, piece.index_sha256))
    return _send(remote, _place(dataset, piece), path)


def _send_original(store: Store, remote: Remote, sha256: str) -> int | None:
    key = original_key(sha256)
    return _send(remote, key, store.original(sha256)) if store.exists(key) else None


def _send(remote: Remote, key: str, data: bytes | Path) -> int | None:
    size = data.stat().st_size if isinstance(data, Path) else len(data)
    if remote.size(key) == size:
        return None
    remote.put(key, data)
    return size


def _record_of(done: Copied, asked_at: datetime, seconds: float) -> BuildRecord:
    """What is written down there of the push."""
    dataset = done.dataset
    return BuildRecord.new(
        build_id=f"{asked_at:%Y%m%d-%H%M%S}-{dataset.name}-{secrets.token_hex(2)}",
        kind="push",
        dataset=dataset.name,
        version=dataset.version,
        manifest_sha256=dataset.manifest_sha256,
        started_at=asked_at.isoformat(timespec="microseconds"),
        finished_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        seconds=round(seconds, 3),
        stages={"push": {"copied": done.copied, "bytes": done.num_bytes, "here": done.here}},
        facts=run_facts(),
    )


def _point(remote: Remote, dataset: Dataset, record: BuildRecord, builds: str) -> bool:
    """Have the name mean the version there, unless a later push or build gave another meanwhile: whether it does."""
    key = f"datasets/{dataset.name}/latest.json"
    ours = Latest.new(version=dataset.version, build_id=record.build_id, asked_at=record.started_at)
    for _ in range(TRIES):
        tag = remote.tag(key)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        try:
            there = (
                None if tag is None else Latest.of_bytes(remote.read(key, POINTER_LIMIT), remote.name(key))
            )
        except IntegrityError:  # damaged: it is written anew
            there = None
        if there is not None and there.version == dataset.version:
            return True
        if there is not None and record.started_at < (there.asked_at or "") <= now:
            return False
        remote.put(f"{builds}/{record.build_id}.json", record.as_bytes())
        if remote.replace(key, ours.as_bytes(), tag):
            return True
    raise ServiceError(f"{remote.name(key)} is written by others all the time: push again")
