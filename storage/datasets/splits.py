"""How a version's images are split, into what is trained on and what is held out, so that nothing crosses.

    splits = Splits.parse("train=0.9,val=0.05,test=0.05")
    names = splits.assigned(photo_sha256s, groups)

Each photograph has a split of its own, by a keyed hash of its sha256, in every dataset and whatever else is in it. A
group of photographs, which must stay together, has the last of its photographs' splits, as they are listed: test before
val, val before train. So the splits follow from the set alone, and stay as it grows: an image moves only where its
group merges with another, and never back. The larger a group, the likelier it is held out. Not here: which photographs
are a group (`preprocessing.curation.kin`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import AfterValidator, ValidationError

from storage.errors import IntegrityError
from storage.records import Part, problem_of
from storage.tables import arrow, leaders, numbers, rows_holding, where

COLUMN = "split"
KEY = b"likeness splits"
"""Of the hash, so that a split has nothing to do with where an image lies; another key is another assignment."""
NAME = "[a-z][a-z0-9_]*"
BLOCK_ROWS = 256
"""Rows that are compared at once; changes no result."""
COLUMNS = ("key", "photo_sha256", "pdq", "pdq_quality", "embedding", COLUMN)
"""What is looked at to see whether a pair crosses."""


@dataclass(frozen=True)
class Splits:
    """Names of splits, and the share of photographs that each is to have."""

    shares: Mapping[str, Decimal]

    @classmethod
    def parse(cls, text: str) -> Splits:
        """Of text such as `train=0.9,val=0.05,test=0.05`; ValueError says what is wrong with it."""
        shares = {}
        for part in text.split(","):
            name, _, share = part.strip().partition("=")
            if not re.fullmatch(NAME, name) or name in shares:
                raise ValueError(
                    f"{part.strip()!r} is no NAME=SHARE of its own, as in train=0.9,val=0.05,test=0.05"
                )
            try:
                shares[name] = Decimal(share)
                is_share = 0 < shares[name] < 1
            except InvalidOperation:
                is_share = False
            if not is_share:
                raise ValueError(f"{share!r} is no share for split {name}: give a number between 0 and 1")
        if sum(shares.values()) != 1:
            raise ValueError(f"the shares of {', '.join(shares)} add up to {sum(shares.values())}, not to 1")
        return cls(shares)

    def __str__(self) -> str:
        return ",".join(f"{name}={share.normalize():f}" for name, share in self.shares.items())

    def assigned(self, photos: pa.Array | pa.ChunkedArray, groups: NDArray[np.int64]) -> pa.Array:
        """The split of each image, by the sha256 of its photograph and the number of its group."""
        own = self._own(photos)
        last = np.zeros(groups.max(initial=-1) + 1, np.int64)
        np.maximum.at(last, groups, own)
        return pa.array(list(self.shares), pa.string()).take(arrow(last[groups]))

    def _own(self, photos: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """The number of the split that each photograph would have by itself."""
        limits, total = [], Decimal(0)
        for share in reversed(list(self.shares.values())):
            total += share
            limits.append(int(total * 2**64))
        digests = (hashlib.sha256(KEY + sha256.encode()).digest()[:8] for sha256 in photos.to_pylist())
        drawn = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
        return len(limits) - 1 - np.searchsorted(np.array(limits[:-1], np.uint64), drawn, side="right")


SplitsText = Annotated[str, AfterValidator(lambda text: str(Splits.parse(text)))]
"""A setting that says what is split, in its one form."""


class Kinship(Part):
    """How near images are that must not be in two splits, as the manifest has it."""

    of: SplitsText
    """The splits and their shares."""
    pdq_max_distance: int
    min_pdq_quality: int
    identity_max_distance: float | None = None
    """None where no embeddings were measured."""

    @classmethod
    def recorded(cls, config: Mapping[str, Any], where: object) -> Kinship | None:
        """As a manifest's config has it, if it has any; IntegrityError where that is damaged."""
        try:
            return cls.model_validate(config["splits"]) if "splits" in config else None
        except ValidationError as error:
            raise IntegrityError(f"{where} is damaged: splits: {problem_of(error)}") from error


def crossings(images: pa.Table, kinship: Kinship) -> Iterator[str]:
    """Every way in which a version's images, of which it has COLUMNS, are split otherwise than they must be."""
    splits = Splits.parse(kinship.of)
    place = rows_holding(pa.array(list(splits.shares), pa.string()), images[COLUMN])
    if (place < 0).any():
        yield f"image {images['key'][int(np.argmin(place))]} is in none of the splits {', '.join(splits.shares)}"
        return
    first = leaders(images["photo_sha256"])
    for row in np.flatnonzero(place != place[first]).tolist():
        yield _crossing(images, row, int(first[row]), "are of one photograph")
    told = set()
    pairs = (
        (_near_hashes(images, place, kinship), "look the same"),
        (_near_faces(images, place, kinship.identity_max_distance), "are of one person"),
    )
    for found, why in pairs:
        for one, other in found:
            if one not in told:  # a line an image is enough
                told.add(one)
                yield _crossing(images, one, other, why)


def _crossing(images: pa.Table, one: int, other: int, why: str) -> str:
    keys, splits = images["key"], images[COLUMN]
    return (
        f"images {keys[one]} ({splits[one]}) and {keys[other]} ({splits[other]}) {why}, and are in two splits"
    )


def _near_hashes(images: pa.Table, place: NDArray[Any], kinship: Kinship) -> Iterator[tuple[int, int]]:
    """Pairs of two splits whose hashes are near."""
    hashed = where(pc.greater_equal(images["pdq_quality"], kinship.min_pdq_quality))
    texts = images["pdq"].take(arrow(hashed)).to_pylist()
    bits = np.frombuffer(bytes.fromhex("".join(texts)), np.uint64).reshape(len(hashed), -1)
    for rows, others in _across(place[hashed]):
        apart = np.zeros((len(rows), len(others)), np.uint16)
        for word in range(bits.shape[1]):
            apart += np.bitwise_count(bits[rows, word, None] ^ bits[others, word])
        for one, other in np.argwhere(apart <= kinship.pdq_max_distance).tolist():
            yield int(hashed[rows[one]]), int(hashed[others[other]])


def _near_faces(
    images: pa.Table, place: NDArray[Any], max_distance: float | None
) -> Iterator[tuple[int, int]]:
    """Pairs of two splits whose embeddings are near."""
    if max_distance is None:
        return
    column = images["embedding"].combine_chunks()
    if column.null_count:
        raise IntegrityError("images were split by identity, and some have no embedding")
    vectors = numbers(column.flatten()).reshape(images.num_rows, -1)
    squares = (vectors**2).sum(axis=1)
    margin = 1e-6
    for rows, others in _across(place):
        apart = squares[rows, None] + squares[others] - 2 * vectors[rows] @ vectors[others].T
        for one, other in np.argwhere(apart <= max_distance**2 + margin).tolist():
            exact = np.sqrt(((vectors[rows[one]] - vectors[others[other]]) ** 2).sum())
            if exact <= max_distance:
                yield int(rows[one]), int(others[other])


def _across(place: NDArray[Any]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Blocks of rows of one split, and all rows of those that come after it, the largest last."""
    counts = np.bincount(place) if len(place) else np.zeros(0, np.int64)
    for number, split in enumerate(order := np.argsort(counts, kind="stable")):
        rows, others = np.flatnonzero(place == split), np.flatnonzero(np.isin(place, order[number + 1 :]))
        for start in range(0, len(rows) if len(others) else 0, BLOCK_ROWS):
            yield rows[start : start + BLOCK_ROWS], others
