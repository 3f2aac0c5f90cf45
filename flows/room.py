"""The room on a disk that a build takes: estimated before it begins, and named where it runs out.

An estimate is of photographs that are new to the store, and rather too large: each is kept, and its faces lie in a
chunk and in a shard.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from preprocessing.config import BuildConfig
from preprocessing.sources import Source
from preprocessing.sources.folder import FolderSource
from storage.errors import RoomError
from storage.local import FULL
from storage.store import Store

log = logging.getLogger(__name__)

BYTES_PER_PIXEL = {"png": 1.6, "webp": 1.2, "jpeg": 0.5}
"""Of crops of portraits: lossless WebP took 1.03 of twelve at 256 px."""
FACES_PER_PHOTO = 1.5
COPIES = 2
FETCHED_BYTES = 1_500_000
"""Of a photograph of the web, whose size nobody knows before."""
LOOKED_AT = 10_000
"""Files whose sizes are asked; the others are taken to be alike."""
CLEARLY = 0.5
"""A build that has less than this share of its estimate is not begun."""


def estimated_bytes(config: BuildConfig, source: Source) -> int | None:
    """What a build of photographs that are all new would take; None where their number is not known before."""
    if isinstance(source, FolderSource):
        paths = source.files()[0][: config.limit]
        num = len(paths)
        sizes = [_size(path) for path in islice(paths, LOOKED_AT)]
        originals = sum(sizes) * num / max(len(sizes), 1)
    elif config.limit is not None:
        num, originals = config.limit, config.limit * FETCHED_BYTES
    else:
        return None
    pixels = config.resolution**2 * FACES_PER_PHOTO * COPIES
    return round(originals + num * pixels * BYTES_PER_PIXEL[config.encode.format])


def check_room(config: BuildConfig, store: Store, source: Source) -> None:
    """Warn where a build may need more room than there is; RoomError where the store is new and it is clearly short.

    A store that holds photographs may hold these already.
    """
    needed = estimated_bytes(config, source)
    free = free_bytes(store.root)
    if needed is None or needed < free:
        return
    says = (
        f"a build of {config.source} takes some {_size_of(needed)}, and {_size_of(free)} are free in {store}"
    )
    if free < CLEARLY * needed and not store.path("originals").exists():
        raise RoomError(f"{says}: name a --store with more room, or take fewer with --limit")
    log.warning("%s, unless it holds most of it already", says)


@contextmanager
def room_named(store: Store) -> Iterator[None]:
    """Have what a full disk ends be one sentence; what was done until then is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        what, free = error.filename or store.root, _size_of(free_bytes(store.root))
        raise RoomError(
            f"{what} cannot be written: {error.strerror} ({free} are free): likeness gc says what may go, and the same "
            f"build then goes on from here"
        ) from error


def free_bytes(folder: Path) -> int:
    """The room on the disk of a folder that may not be there yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _size_of(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
