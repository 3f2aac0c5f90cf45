"""What was removed from a store for good, so that it never returns through another door.

    tombstones = Tombstones(store)
    tombstones.bury([("url", "https://example.org/a.jpg"), ("author", "A. Author")], why="asked by the person shown")
    tombstones.has("author", "a.  author")

A tombstone names nobody: addresses, hosts, authors, and the sha256 and MD5 of photographs are kept as HMAC-SHA256 under
the store's own key. A PDQ is kept as it is, since it is compared by distance: it says what a picture looks like, as far
as 256 bits can. The form of the files is in `docs/forgetting.md`. Not here: who asks (`preprocessing.crawl`).
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, get_args

from storage.digest import bytes_digest
from storage.errors import FormatError, IntegrityError
from storage.local import listed
from storage.records import check_format, json_object
from storage.store import Store
from storage.withdrawals import CERTIFICATE, Certificate
from storage.withdrawals import FOLDER as FORGETS

logger = logging.getLogger(__name__)

Kind = Literal["url", "host", "author", "ref", "sha256", "md5", "pdq", "photo_pdq", "crop_pdq"]
"""`ref` is what a source calls a photograph that has no address. `pdq` refuses whatever looks so; `photo_pdq` does when
a photograph first comes in, and `crop_pdq` is of a face's crop."""
KINDS: tuple[Kind, ...] = get_args(Kind)
KEYED: tuple[Kind, ...] = ("url", "host", "author", "ref", "sha256", "md5")
"""Kinds that are kept as digests under a key: they name somebody, or a file that somebody may have."""
FORMAT = 2
"""Format 1 kept sha256 and MD5 as they are."""
FOLDER = "tombstones"
KEY = "tombstones/key"
_DIGITS = {"sha256": 64, "md5": 32, "pdq": 64, "photo_pdq": 64, "crop_pdq": 64}
"""Of the kinds that are hashes."""


class Tombstones:
    """The tombstones of a store, as they are when first asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def bury(
        self, what: Iterable[tuple[Kind, str]], why: str | None = None, at: str | None = None
    ) -> str | None:
        """Add tombstones, as one file that never changes: of a URL its canonical form, of a photograph its hash.

        The same ones of the same time are the same file, whose sha256 this returns; None where there are none.
        """
        at = at or datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            {"kind": kind, "digest": self.digest(kind, text), "at": at, "why": why} for kind, text in what
        ]
        if not rows:
            return None
        head = {"format": FORMAT, "key": self._check_digest}
        lines = [json.dumps(row) for row in (head, *rows)]
        data = ("\n".join(lines) + "\n").encode()
        sha256 = bytes_digest(data)
        self.store.put(f"{FOLDER}/{sha256}.jsonl", data)
        self.__dict__.pop("digests", None)
        return sha256

    def has(self, kind: Kind, text: str) -> bool:
        """Whether there is a tombstone of a URL, host, author or hash."""
        return bool(self.digests[kind]) and self.digest(kind, text) in self.digests[kind]

    def among(self, kind: Kind, texts: Iterable[str]) -> list[str]:
        """Those of some URLs, hosts, authors or hashes that have a tombstone."""
        return [text for text in texts if self.has(kind, text)] if self.digests[kind] else []

    @cached_property
    def digests(self) -> dict[Kind, frozenset[str]]:
        """All tombstones by kind; IntegrityError where a file is damaged or gone, or its store's key is."""
        self._check_none_is_gone()
        found: dict[Kind, set[str]] = {kind: set() for kind in KINDS}
        plain: list[tuple[Kind, str]] = []
        for name in self.store.keys(FOLDER):
            if not name.endswith(".jsonl"):
                continue
            written, under, rows = rows_of(self.store, name)
            if under is not None and self.store.exists(KEY) and under != self._check_digest:
                raise IntegrityError(
                    f"{self.store.path(KEY)} is not the key that {self.store.path(name)} was written under: bring it "
                    "back from a copy"
                )
            for kind, digest in rows:
                if written == 1 and kind in ("sha256", "md5"):
                    plain.append((kind, digest))
                elif kind in found:  # those of a later version are not ours to know
                    found[kind].add(digest)
        if any(found[kind] for kind in KEYED) and not self.store.exists(KEY):
            raise IntegrityError(f"{self.store.path(KEY)} is gone, and tombstones cannot be read without it")
        for kind, digest in plain:
            found[kind].add(self.digest(kind, digest))
        return {kind: frozenset(digests) for kind, digests in found.items()}

    def check(self) -> None:
        """IntegrityError where a file is damaged, or the key is gone, damaged, or another; none is made."""
        if self.store.exists(KEY):
            self._read_key()
        self.digests  # noqa: B018

    def _check_none_is_gone(self) -> None:
        """IntegrityError where a certificate names tombstones that are not there."""
        for path in listed(self.store.path(FORGETS), f"*/{CERTIFICATE}"):
            try:
                sha256 = Certificate.read(path).tombstones_sha256
            except (IntegrityError, FormatError) as error:
                logger.warning("%s", error)
                continue
            if sha256 is not None and not self.store.exists(key := f"{FOLDER}/{sha256}.jsonl"):
                raise IntegrityError(
                    f"{self.store.path(key)} is gone, which {path} names: bring it back from a copy, for what it keeps "
                    f"out would return"
                )

    @property
    def _check_digest(self) -> str:
        """What tells the key from others, which stands in each file."""
        return hmac.digest(self._key, b"key", "sha256").hex()

    def digest(self, kind: Kind, text: str) -> str:
        """What stands on a tombstone."""
        plain = plain_name(text) if kind == "author" else text.lower() if kind == "host" else text
        if kind in _DIGITS:
            plain = text.strip().lower()
            if len(plain) != _DIGITS[kind] or not set(plain) <= set("0123456789abcdef"):
                raise ValueError(f"{text!r} is no {kind}")
        if kind not in KEYED:
            return plain
        return hmac.digest(self._key, f"{kind}\0{plain}".encode(), "sha256").hex()

    @cached_property
    def _key(self) -> bytes:
        """The store's own, made with the first tombstone; only its owner may read it."""
        path = self.store.path(KEY)
        if not self.store.exists(KEY):
            self._check_none_is_gone()
        if not path.is_file() and self.store.mirror is not None:
            self.store.create(KEY, secrets.token_hex(32).encode())
        elif not path.is_file():
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
        return self._read_key()

    def _read_key(self) -> bytes:
        path = self.store.file(KEY)
        try:
            text = path.read_bytes().decode(errors="replace").strip()
        except OSError as error:
            raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise IntegrityError(
                f"{path} is damaged, and tombstones cannot be read without it: bring it back from a copy"
            )
        return bytes.fromhex(text)


def rows_of(store: Store, key: str) -> tuple[int, str | None, list[tuple[Kind, str]]]:
    """A file of tombstones: its format, what tells the key that it was written under, where it says that, and its rows.

    IntegrityError where it is damaged.
    """
    path, data = store.path(key), store.get(key)
    if bytes_digest(data) != path.stem:
        raise IntegrityError(f"{path} no longer has the sha256 of its name: bring it back from a copy")
    head, *rows = [json_object(line, path) for line in data.splitlines()] or [{"format": None}]
    check_format(written := head.get("format", 1), FORMAT, path)
    for row in rows:
        if not isinstance(row.get("kind"), str) or not isinstance(row.get("digest"), str):
            raise IntegrityError(f"{path} is damaged: it has a line that is no tombstone")
    return written, head.get("key"), [(row["kind"], row["digest"]) for row in rows]


def plain_name(text: str) -> str:
    """One form of a person's name, whatever its case, spaces and forms of letters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
