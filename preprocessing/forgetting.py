"""Which photographs a request to forget means: in every version, in the ledger, and among all that was ever aligned.

    found = find(Store("./store"), Asked(author=("A. Author",)))

Named are photographs by address, author, licence, hash or picture. Those of the same bytes go with them, under whatever
address, and those of which a crop looks the same. Faces that an embedding takes for the same person are only suggested:
a person says whether they are. Not here: what is done about them (`flows.forget`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.asked import Asked, Wanted, address_of, distinct, spellings, texts_of
from preprocessing.crawl.blocklist import MIN_QUALITY, alike, hashes, pdq_of
from preprocessing.crawl.ledger import Ledger
from preprocessing.crawl.rows import FOLDER
from preprocessing.crawl.segments import LEGACY
from preprocessing.crawl.urls import WebAddress, web_address
from storage.bundled.photographs import num_learned
from storage.datasets.dataset import COLUMNS_OF, Dataset, all_versions
from storage.errors import IntegrityError, NotFoundError
from storage.gathered import Gathered
from storage.layout import check_listed
from storage.lineage.ancestry import learned_from
from storage.local import listed
from storage.store import Store, original_key
from storage.tables import Stored, arrow, filled
from storage.tombstones import plain_name

MAX_SUGGESTIONS = 20
NAMED, SAME_BYTES, ALIKE, FETCHED = "named", "same bytes", "looks alike", "was at that address"
"""Why a photograph is meant."""
FACE_SCHEMA = pa.schema(
    [
        pa.field("photo_sha256", pa.string()),
        pa.field("image_sha256", pa.string()),
        pa.field("pdq", pa.string()),
        pa.field("pdq_quality", pa.int32()),
    ]
)


_EMPTY = pa.Table.from_batches([], FACE_SCHEMA)
_COLUMNS = ("ref", "page", "author", "license", "license_url", "photo_sha256", "image_sha256")
IDENTITY_DISTANCE = 0.6
"""Embeddings no further apart may be one person's; dlib's own."""


@dataclass(frozen=True)
class Held:
    """What a version has of what is meant."""

    dataset: Dataset
    photographs: int
    images: tuple[str, ...]
    """The sha256 of their images."""
    rejections: int


@dataclass
class Found:
    """What is meant."""

    asked: Asked
    photos: dict[str, str] = field(default_factory=dict)
    """The sha256 of each photograph, and why it is meant."""
    addresses: dict[str, WebAddress] = field(default_factory=dict)
    """By the form that the ledger has of each."""
    asked_for: set[str] = field(default_factory=set)
    """Those of them that the ledger has a row of."""
    refs: set[str] = field(default_factory=set)
    """Addresses as sources spell them."""
    nameless: set[str] = field(default_factory=set)
    """Names in a folder, or what is no address, of items that never had bytes."""
    texts: set[str] = field(default_factory=set)
    """Pages and titles."""
    authors: set[str] = field(default_factory=set)
    """As they are written, of whom no other photograph is on record."""
    held: list[Held] = field(default_factory=list)
    crop_pdqs: set[str] = field(default_factory=set)
    photo_pdqs: set[str] = field(default_factory=set)
    suggestions: list[dict[str, Any]] = field(default_factory=list)
    """Images that may show the same person, nearest first."""
    bundled: int = 0
    """How many of the photographs that the generator in the box learned from are meant, in the store or not."""

    @property
    def is_nothing(self) -> bool:
        """Whether nothing of it is on record."""
        return not (self.photos or self.held or self.asked_for)

    def runs(self) -> list[str]:
        """The ids of runs that were trained on a version that has some of it, or began with weights of such a run."""
        manifests = {held.dataset.manifest_sha256 for held in self.held}
        stores = {held.dataset.store for held in self.held}
        return [learner.run.id for store in stores for learner in learned_from(store, manifests)]

    def as_json(self) -> dict[str, Any]:
        """For scripts: what would change."""
        return {
            "photographs": self.photos,
            "refs": sorted(self.refs | self.nameless),
            "addresses": sorted(self.addresses),
            "authors": sorted(self.authors),
            "versions": [
                {
                    "reference": held.dataset.reference,
                    "photographs": held.photographs,
                    "images": len(held.images),
                    "rejections": held.rejections,
                }
                for held in self.held
            ],
            "runs": self.runs(),
            "bundled": self.bundled,
            "suggestions": self.suggestions,
        }

    def mask(self, rows: pa.Table) -> pa.ChunkedArray:
        """Of which rows of a version, by `ref` and `photo_sha256`, it is."""
        refs, photos = rows["ref"], rows["photo_sha256"]
        by_name = pc.and_(photos.is_null(), pc.is_in(refs, value_set=texts_of(self.nameless)))
        by_place = pc.is_in(refs, value_set=texts_of(self.refs))
        return pc.or_(pc.is_in(photos, value_set=texts_of(self.photos)), pc.or_(by_name, by_place))


def find(store: Store, asked: Asked) -> Found:
    """Everything that is meant; ConfigError for what can name nothing, NotFoundError for a file that is not there.

    IntegrityError where a version cannot be read, which might hold some of it.
    """
    check_listed(store)
    found, wanted = Found(asked), Wanted.of(store, asked)
    versions = list(all_versions(store))
    for version in versions:
        for name in COLUMNS_OF:
            _take(version.table(name), wanted.mask, NAMED, found)
    for sha256 in wanted.whole_digests:
        if store.exists(original_key(sha256)):
            found.photos.setdefault(sha256, NAMED)
    found.addresses |= wanted.addresses
    found.photo_pdqs |= wanted.photo_pdqs
    _spread(store, versions, found)
    if asked.similar and not asked.is_of_licences:
        faces = pa.concat_tables([_EMPTY, *_faces(store, versions)])
        found.crop_pdqs |= wanted.crop_pdqs | _pdqs(faces, found)
        looks = hashes(found.crop_pdqs)
        for sha256 in faces["photo_sha256"].take(arrow(alike(faces, looks))).unique().to_pylist():
            found.photos.setdefault(sha256, ALIKE)
        _spread(store, versions, found)
        found.crop_pdqs |= _pdqs(faces, found)
        for sha256 in found.photos:
            with suppress(NotFoundError, IntegrityError):  # it goes all the same
                if (look := pdq_of(store.original(sha256))) is not None:
                    found.photo_pdqs.add(look.astype(">u8").tobytes().hex())
        found.suggestions = _suggested(versions, found)
    _describe(versions, found)
    found.bundled = num_learned([*found.photos, *wanted.digests])
    return found


def _take(stored: Stored, mask: Callable[[pa.Table], pa.ChunkedArray], why: str, found: Found) -> None:
    """Add the rows of a table of which `mask` says that they are meant."""
    rows = stored.read([name for name in _COLUMNS if name in stored.schema.names])
    rows = rows.filter(mask(rows))
    for ref, sha256 in zip(rows["ref"].to_pylist(), rows["photo_sha256"].to_pylist(), strict=True):
        if address := address_of(ref):
            found.refs.add(ref)
            found.addresses[address.key] = address
        elif sha256 is None:
            found.nameless.add(ref)
        if sha256 is not None:
            found.photos.setdefault(sha256, why)


def _spread(store: Store, versions: Sequence[Dataset], found: Found) -> None:
    """Add what has the bytes, or the address, of what is meant, until there is no more of it.

    An address that redirected to one, or by way of it, is that of the same photograph.
    """
    size = -1
    followed: set[str] = set()
    while size != (size := len(found.photos) + len(found.addresses) + len(found.refs)):
        for version in versions:
            for name in COLUMNS_OF:
                _take(version.table(name), found.mask, SAME_BYTES, found)
        if is_kept(store):
            with Ledger(store).read() as held:
                new = [address for key, address in found.addresses.items() if key not in followed]
                followed |= found.addresses.keys()
                led = {url: web_address(url) for url in held.led_through(new)}
                found.addresses |= led
                found.refs |= _refs_of(versions, led)
                for entry in held.get(found.addresses.values()).values():
                    found.asked_for.add(entry.url)
                    if entry.sha256 is not None:
                        found.photos.setdefault(entry.sha256, FETCHED)
                for url in held.addresses_of(found.photos):
                    found.addresses.setdefault(url, web_address(url))


def _refs_of(versions: Sequence[Dataset], addresses: dict[str, WebAddress]) -> set[str]:
    """How versions spell some addresses."""
    tables = [version.table(name) for version in versions for name in COLUMNS_OF] if addresses else []
    return {ref for stored in tables for ref in spellings(stored.read(["ref"])["ref"], addresses)}


def is_kept(store: Store) -> bool:
    """Whether anything of a crawl is on record."""
    return any(store.path(folder).is_dir() for folder in (FOLDER, LEGACY))


def _describe(versions: Sequence[Dataset], found: Found) -> None:
    """Note what each version has of it, and which names and texts stand for nothing else."""
    authors: set[str] = set()
    staying: set[str] = set()
    for version in versions:
        images: list[str] = []
        photographs: set[str] = set()
        rejections = 0
        for name in COLUMNS_OF:
            stored = version.table(name)
            columns = ["ref", "photo_sha256", "author", "page", "title"]
            rows = stored.read([*columns, *(["image_sha256"] if name == "images" else [])])
            mask = found.mask(rows)
            mine = rows.filter(mask)
            authors |= set(distinct(mine["author"]))
            staying |= {plain_name(one) for one in distinct(rows.filter(pc.invert(mask))["author"])}
            for column in ("page", "title"):
                found.texts |= set(distinct(mine[column]))
            photographs |= set(mine["ref"].to_pylist())
            if name == "images":
                images += mine["image_sha256"].to_pylist()
            else:
                rejections += mine.num_rows
        if photographs:
            found.held.append(Held(version, len(photographs), tuple(images), rejections))
    found.authors = {author for author in authors if plain_name(author) not in staying}


def _faces(store: Store, versions: Sequence[Dataset]) -> Iterator[pa.Table]:
    """The looks of every face that is on record: of those in versions, and of all that was ever aligned."""
    for version in versions:
        stored = version.table("images")
        if set(FACE_SCHEMA.names) <= set(stored.schema.names):
            yield stored.read(FACE_SCHEMA.names).cast(FACE_SCHEMA)
    for folder in listed(store.path("chunks/align"), "*"):
        chunks = Gathered(store, f"chunks/align/{folder.name}", FACE_SCHEMA, "photo_sha256", "image_sha256")
        for table in chunks.each(FACE_SCHEMA.names):
            yield table.filter(table["pdq"].is_valid()).cast(FACE_SCHEMA)


def _pdqs(faces: pa.Table, found: Found) -> set[str]:
    """The looks of the faces of what is meant, as far as they say something."""
    mine = faces.filter(pc.is_in(faces["photo_sha256"], value_set=texts_of(found.photos)))
    is_good = filled(pc.greater_equal(mine["pdq_quality"], MIN_QUALITY), False)
    return set(mine["pdq"].filter(is_good).to_pylist())


def _suggested(versions: Sequence[Dataset], found: Found) -> list[dict[str, Any]]:
    """Images whose embedding lies near one of what is meant; none where embeddings were not measured."""
    columns = ["key", "ref", "photo_sha256", "embedding"]
    mine, others = [], []
    for version in versions:
        stored = version.table("images")
        if "embedding" not in stored.schema.names:
            continue
        rows = stored.read(columns)
        rows = rows.filter(rows["embedding"].is_valid())
        is_mine = found.mask(rows)
        mine += rows.filter(is_mine)["embedding"].to_pylist()
        others.append(rows.filter(pc.invert(is_mine)))
    if not mine:
        return []
    known = np.unique(np.array(mine, np.float64), axis=0)
    near: dict[str, dict[str, Any]] = {}
    for rows in others:
        vectors = np.array(rows["embedding"].to_pylist(), np.float64).reshape(rows.num_rows, known.shape[1])
        distances = np.full(len(vectors), np.inf)
        for one in known:
            distances = np.minimum(distances, np.linalg.norm(vectors - one, axis=1))
        for row in np.flatnonzero(distances <= IDENTITY_DISTANCE).tolist():
            [brief] = rows.select(["key", "ref"]).slice(row, 1).to_pylist()
            near.setdefault(brief["key"], {**brief, "distance": round(float(distances[row]), 4)})
    return sorted(near.values(), key=lambda one: (one["distance"], one["key"]))[:MAX_SUGGESTIONS]
