"""Folders that are needed for a while, beside the images of buckets; what a kill leaves of one goes with the next.

    with scratch_folder(Path("~/.cache/likeness/stores"), "copy-") as folder: ...
    delete_left_over(Path("~/.cache/likeness/stores"))

Not here: folders of a store, which are written whole (`storage.local`).
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

logger = logging.getLogger(__name__)

HELD = ".likeness-scratch"
"""A file in each, which is locked by whoever uses it: nothing else is ever deleted."""

YOUNG_S = 60
"""How long a note that is empty may be one that is just being written."""


@contextmanager
def scratch_folder(beside: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `beside`, which is deleted when the block ends."""
    with TemporaryDirectory(prefix=prefix, dir=beside) as folder, (Path(folder) / HELD).open("xb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(b"in use\n")
        held.flush()
        yield Path(folder)


def delete_left_over(beside: Path) -> list[Path]:
    """Delete the folders that killed processes have left there, and say which these were."""
    deleted = []
    for note in sorted(beside.glob(f"*/{HELD}")):
        with suppress(OSError), note.open("rb") as held:  # it is used, or was just deleted
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stat = os.fstat(held.fileno())
            if not stat.st_size and time.time() - stat.st_mtime < YOUNG_S:
                continue
            for path in note.parent.iterdir():  # the note last, so that a kill leaves what is told by it
                if path != note:
                    _delete(path)
            shutil.rmtree(note.parent)
            deleted.append(note.parent)
            logger.info("%s was left by a process that was killed, and is deleted", note.parent)
    return deleted


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
