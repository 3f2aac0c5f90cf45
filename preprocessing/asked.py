"""A request to forget photographs: what it asks for, and which rows of a version it names.

    wanted = Wanted.of(store, Asked(author=("A. Author",)))
    table.filter(wanted.mask(table))

Not here: what goes with what is named (`preprocessing.forgetting`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from preprocessing.crawl.blocklist import MIN_QUALITY, pdq_of
from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.recheck import last_recheck
from preprocessing.records import Face
from preprocessing.reject import Rejected
from preprocessing.sources.licenses import license_of
from storage.config import Config
from storage.digest import bytes_digest
from storage.errors import ConfigError, NotFoundError
from storage.local import file_bytes
from storage.store import Store
from storage.tables import arrow, groups
from storage.tombstones import plain_name

MIN_DIGITS = 8
SELECTORS = ("url", "author", "license", "hash", "image", "from_recheck")
"""What photographs may be named by."""


class Asked(Config):
    """What is to be forgotten."""

    url: tuple[str, ...] = Field(
        (), description="Photographs by their address, by that of their page, or by their name in a folder."
    )
    author: tuple[str, ...] = Field((), description="All photographs of an author, and any that come later.")
    license: tuple[str, ...] = Field((), description="All photographs under a licence, as CC-BY-NC-4.0.")
    hash: tuple[str, ...] = Field(
        (), description="Photographs by their sha256, or by that of one of their images, or its first digits."
    )
    image: tuple[Path, ...] = Field(
        (), description="The photograph in a file, a copy of it, or a crop from a dataset."
    )
    from_recheck: tuple[str, ...] = Field(
        (), description="What the last recheck of a dataset found withdrawn: NAME."
    )
    similar: bool = Field(
        True, description="Forget copies too that look the same; else only those of the same bytes."
    )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return not any(getattr(self, name) for name in SELECTORS)

    @property
    def is_of_licences(self) -> bool:
        """Whether licences alone are asked for: then what looks the same, and has another licence, stays."""
        return bool(self.license) and not any(getattr(self, name) for name in SELECTORS if name != "license")

    def counts(self) -> dict[str, int]:
        """How much of each kind was asked for."""
        return {name: len(getattr(self, name)) for name in SELECTORS if getattr(self, name)}


@dataclass(frozen=True)
class Wanted:
    """A request, as rows are compared with it."""

    texts: frozenset[str]
    """Addresses and names as they were given."""
    addresses: dict[str, WebAddress]
    authors: frozenset[str]
    licenses: frozenset[str]
    digests: frozenset[str]
    photo_pdqs: frozenset[str]
    crop_pdqs: frozenset[str]

    @classmethod
    def of(cls, store: Store, asked: Asked) -> Wanted:
        """Read what it refers to; ConfigError for what can name nothing, NotFoundError for a file that is not there."""
        refs, digests = set(asked.url), {_digits(text) for text in asked.hash}
        for name in asked.from_recheck:
            for row in _withdrawn(store, name):
                refs.add(row["ref"])
                digests.add(row["photo_sha256"])
        photo_pdqs: set[str] = set()
        crop_pdqs: set[str] = set()
        for path in asked.image:
            data = _read(path)
            digests.add(bytes_digest(data))
            if asked.similar:
                whole, crops = _looks(data)
                photo_pdqs |= whole
                crop_pdqs |= crops | whole  # it may be a crop itself
        addresses = {address.key: address for text in refs if (address := address_of(text))}
        return cls(
            frozenset(refs),
            addresses,
            frozenset(plain_name(text) for text in asked.author),
            frozenset(_licenses(text, None)[0] for text in asked.license),
            frozenset(digests),
            frozenset(photo_pdqs),
            frozenset(crop_pdqs),
        )

    @property
    def whole_digests(self) -> list[str]:
        """Those that are no beginnings."""
        return [digest for digest in self.digests if len(digest) == 64]

    def mask(self, rows: pa.Table) -> pa.ChunkedArray:
        """Which rows of a version are named."""
        masks = [pa.chunked_array([pa.array(np.zeros(rows.num_rows, bool))], pa.bool_())]
        for name in ("ref", "page") if self.texts else ():
            places = self._places(rows[name])
            masks.append(pc.is_in(rows[name], value_set=texts_of(places)))
        if self.authors:
            same = [one for one in distinct(rows["author"]) if plain_name(one) in self.authors]
            masks.append(pc.is_in(rows["author"], value_set=texts_of(same)))
        if self.licenses:
            masks.append(self._licensed(rows))
        for name in ("photo_sha256", "image_sha256"):
            for digits in self.digests if name in rows.column_names else ():
                masks.append(pc.fill_null(pc.starts_with(rows[name], digits), False))
        whole = masks[0]
        for mask in masks[1:]:
            whole = pc.or_(whole, pc.fill_null(mask, False))
        return whole

    def _places(self, column: pa.ChunkedArray) -> set[str]:
        """The texts of a column that are named, or are other spellings of an address that is."""
        return {*self.texts, *spellings(column, self.addresses)}

    def _licensed(self, rows: pa.Table) -> pa.ChunkedArray:
        mask = pa.chunked_array([pa.array(np.zeros(rows.num_rows, bool))], pa.bool_())
        pairs = rows.select(["license", "license_url"])
        for pair in pairs.take(arrow(groups(pairs)[0])).to_pylist():
            if not self.licenses.isdisjoint(_licenses(pair["license"], pair["license_url"])):
                same = [
                    rows[name].is_null()
                    if pair[name] is None
                    else pc.fill_null(pc.equal(rows[name], pair[name]), False)
                    for name in ("license", "license_url")
                ]
                mask = pc.or_(mask, pc.and_(*same))
        return mask


def spellings(column: pa.ChunkedArray, addresses: Mapping[str, WebAddress]) -> set[str]:
    """The texts of a column that are spellings of some addresses, which are given by their one form."""
    found = set()
    for host in {address.host for address in addresses.values()}:
        there = column.filter(pc.fill_null(pc.match_substring(column, host, ignore_case=True), False))
        for text in distinct(there):
            if (address := address_of(text)) and address.key in addresses:
                found.add(text)
    return found


def address_of(text: str) -> WebAddress | None:
    """The address that a text is, or None."""
    try:
        return web_address(text)
    except Rejected:
        return None


def _licenses(name: str | None, url: str | None) -> tuple[str, ...]:
    """A licence, and the family that it is a version of, where it is known; and else what was said."""
    known = license_of(name, url)
    return (known.id, known.family) if known else (" ".join((name or url or "").casefold().split()),)


def _digits(text: str) -> str:
    digits = text.strip().lower()
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},64}}", digits):
        raise ConfigError(
            f"--hash {text!r} is no sha256, nor at least {MIN_DIGITS} of its first hexadecimal digits"
        )
    return digits


def _read(path: Path) -> bytes:
    try:
        return file_bytes(path.expanduser())
    except OSError as error:
        raise NotFoundError(f"--image {path} cannot be read: {error.strerror}") from error


def _looks(data: bytes) -> tuple[set[str], set[str]]:
    """The PDQ hashes of a picture as a whole, and of the crops of its faces; none of what cannot be read."""
    from preprocessing.faces import FacesConfig, faces_in_photo
    from preprocessing.near import for_copies

    whole = pdq_of(data)
    crops = set()
    for face in faces_in_photo("", bytes_digest(data), data, for_copies(FacesConfig())):
        if isinstance(face, Face) and face.scores.pdq_quality >= MIN_QUALITY:
            crops.add(face.scores.pdq)
    return ({whole.astype(">u8").tobytes().hex()} if whole is not None else set()), crops


def _withdrawn(store: Store, name: str) -> list[dict[str, Any]]:
    """What the last recheck of a dataset found withdrawn."""
    record = last_recheck(store, name)
    if record is None:
        raise NotFoundError(f"no recheck of {name!r} is on record in {store}: likeness recheck {name}")
    return [one.model_dump() for one in record.withdrawn]


def texts_of(texts: Iterable[str]) -> pa.Array:
    """Texts as a column, each once."""
    return pa.array(sorted(texts), pa.string())


def distinct(column: pa.ChunkedArray) -> list[str]:
    """The texts of a column, each once."""
    texts: list[str] = column.unique().drop_null().to_pylist()
    return texts
