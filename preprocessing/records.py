"""The frozen records that every stage passes on; one row of a chunk or of the manifest each.

Not here: behaviour. Stages make these, storage writes them, nothing changes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from preprocessing.reject import Reason


@dataclass(frozen=True, slots=True)
class Item:
    """One photograph as its source lists it, before its bytes are read.

    `ref` is what the source calls it: a URL, or a POSIX path relative to the source's root. It is unique
    within a source. Missing metadata is None, never invented. `expected_sha256` is what the source claims
    of the bytes; a photograph that differs is rejected.
    """

    ref: str
    page: str | None = None
    author: str | None = None
    license: str | None = None
    license_url: str | None = None
    title: str | None = None
    expected_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Photo:
    """An item whose bytes were read: `sha256` and `num_bytes` are of the original file, untouched."""

    item: Item
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Face:
    """One aligned face of one photograph.

    `face_index` numbers a photograph's faces from 0, largest quad first. `box_px` is the detector's rectangle
    (left, top, right, bottom) and `landmarks_px` the 68 points (x, y), both in pixels of the upright
    photograph; `quad_px` is the crop's four corners (top-left, bottom-left, bottom-right, top-right) there and
    `quad_side_px` its side before resampling. `image` is the encoded crop and `image_sha256` its digest.
    """

    photo_sha256: str
    face_index: int
    photo_width_px: int
    photo_height_px: int
    box_px: tuple[float, float, float, float]
    detector_score: float
    landmarks_px: tuple[tuple[float, float], ...]
    quad_px: tuple[tuple[float, float], ...]
    quad_side_px: float
    image_sha256: str
    image: bytes


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one photograph, or one face of it, is not in the dataset.

    `detail` is deterministic (no times, addresses or absolute paths); `duplicate_of` names the sha256 kept in
    its place. `photo_sha256` is None when the bytes never arrived.
    """

    ref: str
    reason: Reason
    photo_sha256: str | None = None
    face_index: int | None = None
    detail: str | None = None
    duplicate_of: str | None = None
