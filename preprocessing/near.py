"""Which photographs of a store a picture is a copy of, however it was resized or encoded again: by its faces.

    for match in near(Store("./store"), Path("found-on-the-web.jpg"), max_bits=36): ...

Each face of the picture is aligned as a version's faces were, and the PDQ hash of its crop is compared with those in
the version's table. Not here: copies among the photographs of a build (`preprocessing.curation.duplicates`), and what
became of the photographs (`storage.lineage.trace`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocessing.config import recorded_config
from preprocessing.curation.settings import CurateConfig
from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.records import Face
from storage.datasets.dataset import Dataset, all_versions
from storage.digest import bytes_digest
from storage.errors import ConfigError, FormatError, IntegrityError, NotFoundError
from storage.lineage.products import warn_of
from storage.local import file_bytes
from storage.store import Store
from storage.tables import Stored

logger = logging.getLogger(__name__)

HASH_BYTES = 32


@dataclass(frozen=True, order=True)
class Match:
    """A photograph that has a face like one of the picture: the nearest one's distance, of 256 bits."""

    bits: int
    photo_sha256: str


def near(store: Store, picture: Path, max_bits: int) -> list[Match]:
    """The photographs whose faces differ from those of a picture in at most `max_bits`, nearest first.

    NotFoundError where the picture shows no face that could be compared, or no photograph is so near.
    """
    try:
        data = file_bytes(picture)
    except OSError as error:
        raise ConfigError(f"{picture} cannot be read: {error.strerror}") from error
    faces: dict[FacesConfig, NDArray[np.uint8]] = {}
    nearest: dict[str, int] = {}
    for dataset in all_versions(store, warn_of):
        try:
            config = for_copies(recorded_config(dataset).faces)
            if config not in faces:
                faces[config] = _hashes(str(picture), data, config)
            for match in _in_version(dataset, faces[config], max_bits):
                nearest[match.photo_sha256] = min(match.bits, nearest.get(match.photo_sha256, match.bits))
        except (ConfigError, FormatError, IntegrityError, NotFoundError) as error:
            logger.warning("%s is passed over: %s", dataset.reference, error)
    if not any(len(hashes) for hashes in faces.values()):
        raise NotFoundError(f"{picture} shows no face that could be compared with those in {store}")
    if not nearest:
        raise NotFoundError(
            f"no photograph in {store} has a face within {max_bits} bits of those in {picture}"
        )
    return sorted(Match(bits, photo) for photo, bits in nearest.items())


def for_copies(config: FacesConfig) -> FacesConfig:
    """The config for a copy, which may be smaller than a photograph must be; without what a hash does not need."""
    detect = config.detect.model_copy(update={"min_quad_px": 1})
    scores = config.scores.model_copy(update={"embedding": False, "filter_model": None})
    return config.model_copy(update={"detect": detect, "scores": scores})


def _hashes(ref: str, data: bytes, config: FacesConfig) -> NDArray[np.uint8]:
    """The hashes (n, 32) of a picture's faces, those that show too little left out."""
    faces = [face for face in faces_in_photo(ref, bytes_digest(data), data, config) if isinstance(face, Face)]
    enough = [face for face in faces if face.scores.pdq_quality >= _MIN_QUALITY]
    return np.frombuffer(bytes.fromhex("".join(face.scores.pdq for face in enough)), np.uint8).reshape(
        -1, HASH_BYTES
    )


def _in_version(dataset: Dataset, hashes: NDArray[np.uint8], max_bits: int) -> Iterator[Match]:
    table: Stored = dataset.table("images")
    if not len(hashes) or "pdq" not in table.schema.names:
        return
    held = table.read(["pdq"])["pdq"]
    try:
        known = np.frombuffer(bytes.fromhex("".join(held.to_pylist())), np.uint8).reshape(-1, HASH_BYTES)
    except (TypeError, ValueError) as error:
        raise IntegrityError(f"{table.path} has a pdq that is no hash") from error
    bits = np.min([np.bitwise_count(known ^ one).sum(axis=1) for one in hashes], axis=0)
    rows = np.flatnonzero(bits <= max_bits)
    photos = table.take(rows, ["photo_sha256"])["photo_sha256"].to_pylist()
    yield from (Match(int(bits[row]), photo) for row, photo in zip(rows, photos, strict=True))


_MIN_QUALITY: int = CurateConfig().min_pdq_quality
