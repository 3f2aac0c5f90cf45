"""What must not come into a dataset: tombstones of the store, and lists of hashes as organisations share them.

    blocklist = open_blocklist(store, BlockConfig(sha256=("removed.txt",)))
    blocklist.refusal_of_item(item, address)          before anything is asked
    blocklist.refusal_of_photograph(sha256, read)     before it is put into the store

Each kind has a reason of its own, which is counted. A list is a text with a hash a line, or CSV with hashes in its
first column; what follows a # is a comment. Not here: how tombstones are kept (`storage.tombstones`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from preprocessing.crawl.urls import WebAddress
from preprocessing.records import Item
from preprocessing.reject import Reason, Rejected
from storage.config import Config
from storage.errors import SourceError
from storage.store import Store
from storage.tombstones import Tombstones

HASH_PX = 128
MIN_QUALITY = 50
"""Of a PDQ hash; those of lesser quality are alike for pictures that are not (ThreatExchange, PDQ)."""


class BlockConfig(Config):
    """Which photographs must not come in, beside those that have a tombstone."""

    sha256: tuple[Path, ...] = Field((), description="Lists of sha256 of files, a hash a line.")
    md5: tuple[Path, ...] = Field((), description="Lists of MD5 of files, a hash a line.")
    pdq: tuple[Path, ...] = Field(
        (),
        description="Lists of PDQ hashes of pictures, a hash a line; every photograph is decoded for them.",
    )
    pdq_max_distance: int = Field(
        31, ge=0, le=128, description="Bits by which a PDQ hash may differ from one of a list."
    )


@dataclass(frozen=True)
class Blocklist:
    """Tombstones and lists together."""

    tombstones: Tombstones
    sha256: frozenset[str]
    md5: frozenset[str]
    pdq: NDArray[np.uint64]
    """A row of four numbers for each hash."""
    pdq_max_distance: int

    @property
    def looks_at_bytes(self) -> bool:
        """Whether a photograph's sha256 is not enough to judge it."""
        return bool(self.md5) or len(self.pdq) > 0

    @property
    def names_items(self) -> bool:
        """Whether any item may be refused before it is asked for."""
        return any(self.tombstones.digests[kind] for kind in ("url", "host", "author"))

    def refusal_of_address(self, address: WebAddress) -> Rejected | None:
        """Why an address must not be asked; redirects lead to such too."""
        if self.tombstones.has("url", address.key):
            return Rejected(Reason.BLOCKED_URL)
        if self.tombstones.has("host", address.host):
            return Rejected(Reason.BLOCKED_HOST)
        return None

    def refusal_of_item(self, item: Item, address: WebAddress | None) -> Rejected | None:
        """Why a photograph must not be asked for; `address` is where it is, None where it is a file."""
        if address is not None and (refused := self.refusal_of_address(address)):
            return refused
        if item.author and self.tombstones.has("author", item.author):
            return Rejected(Reason.BLOCKED_AUTHOR)
        return None

    def refusal_of_photograph(self, sha256: str, read: Callable[[], bytes]) -> Rejected | None:
        """Why a photograph must not be kept; it is read only where its sha256 is not enough."""
        if sha256 in self.sha256:
            return Rejected(Reason.BLOCKED_SHA256)
        if not self.looks_at_bytes:
            return None
        data = read()
        if self.md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() in self.md5:
            return Rejected(Reason.BLOCKED_MD5)
        if len(self.pdq) and (found := pdq_of(data)) is not None:
            distances = np.bitwise_count(self.pdq ^ found).sum(axis=1)
            if (nearest := int(distances.min())) <= self.pdq_max_distance:
                return Rejected(Reason.BLOCKED_PDQ, f"{nearest} bits from one of a list")
        return None


def open_blocklist(store: Store, config: BlockConfig) -> Blocklist:
    """The tombstones of a store and the lists of some settings; SourceError names a line that is no hash."""
    tombstones = Tombstones(store)
    buried = tombstones.digests
    pdq = sorted(buried["pdq"] | {digest for path in config.pdq for digest in _hashes(path, 64)})
    return Blocklist(
        tombstones,
        buried["sha256"] | {digest for path in config.sha256 for digest in _hashes(path, 64)},
        buried["md5"] | {digest for path in config.md5 for digest in _hashes(path, 32)},
        np.frombuffer(bytes.fromhex("".join(pdq)), ">u8").astype(np.uint64).reshape(-1, 4),
        config.pdq_max_distance,
    )


def pdq_of(data: bytes) -> NDArray[np.uint64] | None:
    """The PDQ hash of a whole photograph as four numbers; None where it cannot be read, or shows too little."""
    import cv2
    import pdqhash

    from preprocessing.photo.decode import DecodeConfig, decode

    try:
        pixels = decode(data, DecodeConfig())
    except Rejected:
        return None  # which the stage after this will say
    height, width = pixels.shape[:2]
    scale = min(1.0, 4 * HASH_PX / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    bits, quality = pdqhash.compute(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    if quality < MIN_QUALITY:
        return None
    return np.frombuffer(np.packbits(bits.astype(bool)).tobytes(), ">u8").astype(np.uint64)


def _hashes(path: Path, digits: int) -> Iterator[str]:
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"list of hashes {path} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        digest = line.partition("#")[0].partition(",")[0].strip(" \t\"'").lower()
        if not digest or (number == 1 and not digest.isalnum()) or digest in ("hash", "md5", "sha256", "pdq"):
            continue
        if len(digest) != digits or not set(digest) <= set("0123456789abcdef"):
            raise SourceError(f"{path}:{number} is {digest[:70]!r}, and not {digits} hexadecimal digits")
        yield digest
