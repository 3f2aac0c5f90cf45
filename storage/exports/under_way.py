"""Exports that are being written, and what is left of those that were killed: files that a reader never asks for.

    with under_way(store, out) as partial:      where to write what becomes `out`
        ...
    left_over(store)                            what lies beside the targets of exports that were killed

An export lies outside the store, so that the store alone knows where a killed one was. Its note is locked by whoever
writes, and counts on this machine alone. Not here: how an export is written (`storage.exports.write`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.local import PARTIAL, delete, listed, partial_beside
from storage.store import Store

FOLDER = "cache/exports"
YOUNG_S = 60
_NAME = re.compile(rf"\.[0-9a-f]{{16}}{re.escape(PARTIAL)}")
"""What alone is deleted, whatever a note says."""


@contextmanager
def under_way(store: Store, out: Path) -> Iterator[Path]:
    """A new name beside `out`, which is on record while the block runs."""
    partial = partial_beside(out.absolute())
    note = store.spot(f"{FOLDER}/{partial.name[1:17]}.json")
    note.parent.mkdir(parents=True, exist_ok=True)
    with note.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"partial": str(partial)}).encode())
        file.flush()
        try:
            yield partial
        finally:
            note.unlink(missing_ok=True)


def left_over(store: Store) -> list[Path]:
    """What exports of this store that were killed have left beside their targets."""
    return [path for _, path in _killed(store) if path is not None and os.path.lexists(path)]


def delete_left_over(store: Store) -> list[Path]:
    """Delete it, and say what it was; what cannot be deleted stays on record."""
    deleted = []
    for note, path in _killed(store):
        with suppress(OSError):
            if path is not None and os.path.lexists(path):
                delete(path)
                deleted.append(path)
            note.unlink(missing_ok=True)
    return deleted


def _killed(store: Store) -> Iterator[tuple[Path, Path | None]]:
    """The notes that nobody holds, and what each names; None where it names nothing that is ours."""
    for note in listed(store.path(FOLDER), "*.json"):
        try:
            with note.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_new = time.time() - os.fstat(file.fileno()).st_mtime < YOUNG_S
                if not (data := file.read()) and is_new:  # it is yet to be held
                    continue
                path = Path(json.loads(data)["partial"])
        except OSError:  # it is held, or gone
            continue
        except (ValueError, KeyError, TypeError):
            yield note, None
        else:
            yield note, path if path.is_absolute() and _NAME.fullmatch(path.name) else None
