"""SQLite files that keep what they were told, all of it or nothing; one that is damaged is made anew.

Not here: what they hold (`preprocessing.crawl.ledger`, `preprocessing.crawl.looks`).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import PipelineError
from storage.records import check_format

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of all of them."""
_BUSY_S = 60.0


def opened(path: Path, tables: str) -> sqlite3.Connection:
    """A file with these tables, made where it is not there; what it holds can be made again."""
    try:
        return _connected(path, tables)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise PipelineError(f"{path} cannot be opened: {error}") from error
        logger.warning("%s is damaged (%s): it is made again", path, error)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _connected(path, tables)


def _connected(path: Path, tables: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = OFF")  # a file that is new has nothing to lose
    db.execute("PRAGMA journal_mode = WAL")
    [(found,)] = db.execute("PRAGMA user_version")
    if found:
        check_format(found, FORMAT, path)
    else:
        with transaction(db):  # another process may be making them too
            [(found,)] = db.execute("PRAGMA user_version")
            if not found:
                for statement in tables.split(";")[:-1]:
                    db.execute(statement)
    # A file is whole whatever happens to the machine; what was written last is there when its disk is synced next.
    db.execute("PRAGMA synchronous = NORMAL")
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of what is written in the block, or nothing; PipelineError where the disk does not take it."""
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
    except sqlite3.OperationalError as error:
        [(_, _, path)] = db.execute("PRAGMA database_list")
        raise PipelineError(f"{path} cannot be written to: {error}") from error
