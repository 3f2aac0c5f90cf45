"""Where a set is cut into parts: by the first bits of its keys, so that the cut follows from the set alone.

    for leaf in leaves(keys, most=128):
        part = keys[leaf.start : leaf.stop]

A leaf is the shortest prefix under which at most `most` keys lie, as in a binary trie: of keys that are digests, leaves
hold between half of `most` and all of it, whatever was added or taken away before, and one key more or less changes one
leaf. A cut by count would move all keys that come later. Not here: what is packed (`storage.shards`,
`storage.datasets.parts`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

BITS = 64
"""Of a key."""
DIGITS = BITS // 4
"""Of a digest, that its key is made of."""
Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part: the bits that its keys begin with, as digits, and which keys these are."""

    prefix: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """What files are called by: in the order of their keys."""
        return self.prefix or "all"


def leaves(keys: Keys, most: int) -> list[Leaf]:
    """The parts of ascending keys, in order, none of them empty; of no keys none.

    More than `most` equal keys are one part all the same.
    """
    found = []
    waiting = [Leaf("", 0, len(keys))] if len(keys) else []
    while waiting:
        leaf = waiting.pop()
        if leaf.stop - leaf.start <= most or len(leaf.prefix) == BITS:
            found.append(leaf)
            continue
        half = np.uint64(int((leaf.prefix + "1").ljust(BITS, "0"), 2))
        middle = leaf.start + int(keys[leaf.start : leaf.stop].searchsorted(half))
        parts = Leaf(f"{leaf.prefix}1", middle, leaf.stop), Leaf(f"{leaf.prefix}0", leaf.start, middle)
        waiting += [part for part in parts if part.start < part.stop]
    return found


def keys_of(digests: pa.Array | pa.ChunkedArray) -> Keys:
    """The keys of hexadecimal digests, their first bits; ValueError for what is none."""
    text = "".join(pc.utf8_slice_codeunits(digests, 0, DIGITS).to_pylist())
    return np.frombuffer(bytes.fromhex(text), ">u8", count=len(digests)).astype(np.uint64)
