"""What was removed from a store for good, so that it never returns through another door.

    tombstones = Tombstones(store)
    tombstones.bury([("url", "https://example.org/a.jpg"), ("author", "A. Author")], why="asked by the person shown")
    tombstones.has("author", "a.  author")

A tombstone names nobody: addresses, hosts and authors are kept as HMAC-SHA256 under the store's own key, photographs by
their sha256, MD5 or PDQ. The form of the files is in `docs/crawling.md`. Not here: who asks (`preprocessing.crawl`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, get_args

from storage.digest import bytes_digest
from storage.errors import IntegrityError
from storage.records import check_format
from storage.store import Store

Kind = Literal["url", "host", "author", "sha256", "md5", "pdq"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KEYED: tuple[Kind, ...] = ("url", "host", "author")
"""Kinds that are kept as digests under a key: they name somebody."""
FORMAT = 1
FOLDER = "tombstones"
KEY = "tombstones/key"
_DIGITS = {"sha256": 64, "md5": 32, "pdq": 64, "url": 64, "host": 64, "author": 64}


class Tombstones:
    """The tombstones of a store, as they are when first asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def bury(self, what: Iterable[tuple[Kind, str]], why: str | None = None) -> None:
        """Add tombstones, as one file that never changes: of a URL its canonical form, of a photograph its hash."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            {"kind": kind, "digest": self.digest(kind, text), "at": at, "why": why} for kind, text in what
        ]
        lines = [json.dumps(row) for row in ({"format": FORMAT}, *rows)]
        data = ("\n".join(lines) + "\n").encode()
        self.store.put(f"{FOLDER}/{bytes_digest(data)}.jsonl", data)
        self.__dict__.pop("digests", None)

    def has(self, kind: Kind, text: str) -> bool:
        """Whether there is a tombstone of a URL, host, author or hash."""
        return bool(self.digests[kind]) and self.digest(kind, text) in self.digests[kind]

    @cached_property
    def digests(self) -> dict[Kind, frozenset[str]]:
        """All tombstones by kind; IntegrityError where a file is damaged, or its store's key is gone."""
        found: dict[Kind, set[str]] = {kind: set() for kind in KINDS}
        for name in self.store.keys(FOLDER):
            if not name.endswith(".jsonl"):
                continue
            path = self.store.path(name)
            data = self.store.get(name)
            if bytes_digest(data) != path.stem:
                raise IntegrityError(
                    f"{path} no longer has the sha256 of its name: bring it back from a copy"
                )
            head, *rows = (json.loads(line) for line in data.decode().splitlines())
            check_format(head.get("format", 1), FORMAT, path)
            for row in rows:
                if row.get("kind") in found:  # those of a later version are not ours to know
                    found[row["kind"]].add(row["digest"])
        if any(found[kind] for kind in KEYED) and not self.store.exists(KEY):
            raise IntegrityError(f"{self.store.path(KEY)} is gone, and tombstones cannot be read without it")
        return {kind: frozenset(digests) for kind, digests in found.items()}

    def digest(self, kind: Kind, text: str) -> str:
        """What stands on a tombstone."""
        if kind not in KEYED:
            digest = text.strip().lower()
            if len(digest) != _DIGITS[kind] or not set(digest) <= set("0123456789abcdef"):
                raise ValueError(f"{text!r} is no {kind}")
            return digest
        plain = plain_name(text) if kind == "author" else text.lower() if kind == "host" else text
        return hmac.new(self._key, f"{kind}\0{plain}".encode(), hashlib.sha256).hexdigest()

    @cached_property
    def _key(self) -> bytes:
        """The store's own, made with the first tombstone; only its owner may read it."""
        path = self.store.path(KEY)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = path.with_name(f".{secrets.token_hex(8)}.partial")
            made.touch(mode=0o600)
            made.write_text(secrets.token_hex(32))
            try:
                os.link(made, path)  # where another process was first, its key counts
            except FileExistsError:
                pass
            finally:
                made.unlink()
        return bytes.fromhex(path.read_text())


def plain_name(text: str) -> str:
    """One form of a person's name, whatever its case, spaces and forms of letters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
