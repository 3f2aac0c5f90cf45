"""What must not come into a dataset: tombstones of the store, and lists of hashes as organisations share them.

    blocklist = open_blocklist(store, BlockConfig(sha256=("removed.txt",)))
    blocklist.refusal_of_item(item, address)          before anything is asked
    blocklist.refusal_of_photograph(sha256, read)     before it is put into the store

Each kind has a reason of its own, which is counted, unless a tombstone refuses: what has one leaves no row and no count
in a version (`is_forgotten`), so that it is as if the source had never had it. A list is a text with a hash a line, or
CSV with hashes in its first column; what follows a # is a comment. Not here: how tombstones are kept
(`storage.tombstones`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from preprocessing.crawl.looks import Looks
from preprocessing.crawl.urls import WebAddress
from preprocessing.records import Item
from preprocessing.reject import BLOCKED, Reason, Rejected
from storage.config import Config
from storage.errors import SourceError
from storage.store import Store
from storage.tables import arrow, filled, texts, where
from storage.tombstones import Tombstones

FORGOTTEN = "tombstone"
"""The detail of a refusal by a tombstone."""
HASH_PX = 128
PDQ_BITS = 256
TOMBSTONE_BITS = 31
"""By which a photograph's PDQ hash may differ from that of a tombstone, and be taken for the same picture."""
CROP_BITS = 36
"""The same of a face's crop; as of near-duplicates, or what was rejected as one would take its place."""
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


Hashes = NDArray[np.uint64]
"""PDQ hashes, a row of four numbers for each."""


@dataclass(frozen=True)
class Blocklist:
    """Tombstones and lists together."""

    tombstones: Tombstones
    sha256: frozenset[str]
    md5: frozenset[str]
    pdq: Hashes
    """Of the lists."""
    buried: Hashes
    """Of the tombstones, that every photograph is compared with."""
    buried_looks: Hashes
    """Of those that new photographs are compared with: the others were when the tombstones were made."""
    pdq_max_distance: int
    looks: dict[str, Looks] = field(default_factory=dict, repr=False, compare=False)
    """The hashes of photographs that are known, and of those that were read since: who opens it keeps them."""

    @property
    def looks_at_bytes(self) -> bool:
        """Whether the sha256 of a photograph that the store has is not enough to judge it."""
        has_md5 = bool(self.md5 or self.tombstones.digests["md5"])
        return has_md5 or len(self.pdq) + len(self.buried) > 0

    @property
    def names_items(self) -> bool:
        """Whether any item may be refused before it is asked for."""
        return any(self.tombstones.digests[kind] for kind in ("url", "host", "author", "ref"))

    def refusal_of_address(self, address: WebAddress) -> Rejected | None:
        """Why an address must not be asked; redirects lead to such too."""
        if self.tombstones.has("url", address.buried_as):
            return Rejected(Reason.BLOCKED_URL, FORGOTTEN)
        if self.tombstones.has("host", address.host):
            return Rejected(Reason.BLOCKED_HOST, FORGOTTEN)
        return None

    def refusal_of_item(self, item: Item, address: WebAddress | None) -> Rejected | None:
        """Why a photograph must not be asked for; `address` is where it is, None where it is a file."""
        if address is not None and (refused := self.refusal_of_address(address)):
            return refused
        if address is None and self.tombstones.has("ref", item.ref):
            return Rejected(Reason.BLOCKED_URL, FORGOTTEN)
        if item.author and self.tombstones.has("author", item.author):
            return Rejected(Reason.BLOCKED_AUTHOR, FORGOTTEN)
        return None

    def refusal_of_photograph(
        self, sha256: str, read: Callable[[], bytes], *, is_new: bool = True
    ) -> Rejected | None:
        """Why a photograph must not be kept; it is read only where its sha256 is not enough.

        One that is not new was in the store before, and is not compared with what only new ones are.
        """
        if self.tombstones.has("sha256", sha256):
            return Rejected(Reason.BLOCKED_SHA256, FORGOTTEN)
        if sha256 in self.sha256:
            return Rejected(Reason.BLOCKED_SHA256)
        if not (self.looks_at_bytes or (is_new and len(self.buried_looks))):
            return None
        buried = np.concatenate([self.buried, self.buried_looks]) if is_new else self.buried
        looks = self._looks(sha256, read, len(buried) + len(self.pdq) > 0)
        if looks.md5 and self.tombstones.has("md5", looks.md5):
            return Rejected(Reason.BLOCKED_MD5, FORGOTTEN)
        if looks.md5 in self.md5:
            return Rejected(Reason.BLOCKED_MD5)
        if looks.pdq:
            found = _hashes_of([looks.pdq.hex()])[0]
            if bits_apart(found, buried) <= TOMBSTONE_BITS:
                return Rejected(Reason.BLOCKED_PDQ, FORGOTTEN)
            if (nearest := bits_apart(found, self.pdq)) <= self.pdq_max_distance:
                return Rejected(Reason.BLOCKED_PDQ, f"{nearest} bits from one of a list")
        return None

    def _looks(self, sha256: str, read: Callable[[], bytes], by_pdq: bool) -> Looks:
        """The hashes of a photograph that are needed, which is read where one of them is not known."""
        md5, pdq = self.looks.get(sha256, Looks())
        lacks_md5 = md5 is None and bool(self.md5 or self.tombstones.digests["md5"])
        lacks_pdq = pdq is None and by_pdq
        if lacks_md5 or lacks_pdq:
            data = read()
            if lacks_md5:
                md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if lacks_pdq:
                found = pdq_of(data)
                pdq = b"" if found is None else found.astype(">u8").tobytes()
            self.looks[sha256] = Looks(md5, pdq)
        return Looks(md5, pdq)


def is_forgotten(reasons: pa.ChunkedArray, details: pa.ChunkedArray) -> pa.ChunkedArray:
    """Of which rejections, by the columns that say why, a tombstone is the reason."""
    by_list = pc.is_in(reasons, value_set=texts(*sorted(BLOCKED)))
    return pc.and_(by_list, filled(pc.equal(details, texts(FORGOTTEN)[0]), False))


def open_blocklist(store: Store, config: BlockConfig) -> Blocklist:
    """The tombstones of a store and the lists of some settings; SourceError names a line that is no hash."""
    tombstones = Tombstones(store)
    return Blocklist(
        tombstones,
        frozenset(digest for path in config.sha256 for digest in _hashes(path, 64)),
        frozenset(digest for path in config.md5 for digest in _hashes(path, 32)),
        hashes({digest for path in config.pdq for digest in _hashes(path, 64)}),
        hashes(tombstones.digests["pdq"]),
        hashes(tombstones.digests["photo_pdq"]),
        config.pdq_max_distance,
    )


def hashes(digests: Collection[str]) -> Hashes:
    """PDQ hashes of their hexadecimal forms, in the order of these."""
    return np.frombuffer(bytes.fromhex("".join(sorted(digests))), ">u8").astype(np.uint64).reshape(-1, 4)


def bits_apart(one: Hashes, others: Hashes) -> int:
    """How many bits a hash differs from the nearest of others; more than there are where there are none."""
    return min(np.bitwise_count(others ^ one).sum(axis=1).tolist(), default=PDQ_BITS + 1)


def alike(faces: pa.Table, looks: Hashes) -> NDArray[np.int64]:
    """The numbers of faces whose crops look like one of `looks`, by their columns `pdq` and `pdq_quality`."""
    if not len(looks):
        return np.empty(0, np.int64)
    rows = where(filled(pc.greater_equal(faces["pdq_quality"], MIN_QUALITY), False))
    known = faces["pdq"].take(arrow(rows)).combine_chunks()
    found = _hashes_of(known.to_pylist())
    is_near = np.zeros(len(found), bool)
    for look in looks:
        is_near |= np.bitwise_count(found ^ look).sum(axis=1) <= CROP_BITS
    return rows[is_near]


def _hashes_of(texts: Iterable[str]) -> Hashes:
    data = bytes.fromhex("".join(texts))
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 4)


def pdq_of(data: bytes) -> Hashes | None:
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
