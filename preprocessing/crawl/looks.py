"""What lists of hashes know photographs by, their MD5 and PDQ: worked out once, and kept beside the ledger.

    with closing(LooksTable(store)) as table:
        known = table.get([sha256])
        table.put({sha256: Looks(md5, pdq)})

What is lost is worked out again. Not here: the lists (`preprocessing.crawl.blocklist`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import NamedTuple

from preprocessing.crawl.database import FORMAT, opened, transaction
from preprocessing.crawl.rows import FOLDER
from storage.store import Store
from storage.tables import BATCH_ROWS

_TABLES = f"""
    CREATE TABLE looks (sha256 PRIMARY KEY, md5, pdq) WITHOUT ROWID;
    PRAGMA user_version = {FORMAT};
"""


class Looks(NamedTuple):
    """The hashes of one photograph; None where nobody needed one so far."""

    md5: str | None = None
    pdq: bytes | None = None
    """Empty of a picture that cannot be read, or shows too little to have one."""


class LooksTable:
    """The hashes of a store's photographs that were worked out; several processes may write at once."""

    def __init__(self, store: Store) -> None:
        path = store.path(f"{FOLDER}/working/looks.sqlite")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = opened(path, _TABLES)
        self._db.execute("PRAGMA synchronous = OFF")

    def close(self) -> None:
        """Leave one file."""
        self._db.close()

    def get(self, sha256s: Collection[str]) -> dict[str, Looks]:
        """What is known of some photographs."""
        asked, found = list(sha256s), {}
        for start in range(0, len(asked), BATCH_ROWS):
            for sha256, md5, pdq in self._db.execute(
                "SELECT sha256, md5, pdq FROM json_each(?) CROSS JOIN looks ON sha256 = value",
                (json.dumps(asked[start : start + BATCH_ROWS]),),
            ):
                found[sha256] = Looks(md5, pdq)
        return found

    def put(self, looks: Mapping[str, Looks]) -> None:
        """Keep what was worked out, beside what was before."""
        if looks:
            with transaction(self._db):
                self._db.executemany(
                    "INSERT INTO looks VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "md5 = coalesce(excluded.md5, md5), pdq = coalesce(excluded.pdq, pdq)",
                    [(sha256, *one) for sha256, one in looks.items()],
                )

    def erase(self, sha256s: Collection[str]) -> None:
        """Forget some photographs, in the file too."""
        self._db.execute("PRAGMA secure_delete = ON")
        with transaction(self._db):
            self._db.executemany("DELETE FROM looks WHERE sha256 = ?", [(sha256,) for sha256 in sha256s])
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
