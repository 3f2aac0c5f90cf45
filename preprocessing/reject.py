"""Why a photograph or a face did not make it: one enum, counted per stage and written to the manifest.

An unexpected exception is not a rejection: it is a bug, and stops the build.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The value is what users read in tables, JSON and Parquet."""

    # crawl: the bytes never arrived, or are not the ones promised
    UNREADABLE_FILE = "unreadable_file"
    BAD_URL = "bad_url"
    HTTP_STATUS = "http_status"
    SERVER_ERROR = "server_error"
    TIMED_OUT = "timed_out"
    CONNECTION_FAILED = "connection_failed"
    TOO_MANY_BYTES = "too_many_bytes"
    ROBOTS_DISALLOWED = "robots_disallowed"
    OPTED_OUT = "opted_out"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    # decode
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    BROKEN_IMAGE = "broken_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    # align
    NO_FACE = "no_face"
    BAD_GEOMETRY = "bad_geometry"
    # curate
    QUAD_TOO_SMALL = "quad_too_small"
    TOO_MANY_FACES = "too_many_faces"
    DUPLICATE_PHOTO = "duplicate_photo"
    DUPLICATE_IMAGE = "duplicate_image"


TRANSIENT = frozenset({Reason.TIMED_OUT, Reason.CONNECTION_FAILED, Reason.SERVER_ERROR})
"""Reasons that may not hold on the next attempt: a new build of the same source tries these photographs again."""


class Rejected(Exception):
    """Raised where one photograph or face fails, caught where its record is made; `detail` as in Rejection."""

    def __init__(self, reason: Reason, detail: str | None = None) -> None:
        super().__init__(reason.value if detail is None else f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
