"""Why a photograph or a face did not make it: one enum, counted per stage and written to the manifest.

An unexpected exception is not a rejection: it is a bug, and stops the build. Only at an address of the web is it one,
which is counted: what a stranger's server says must not stop the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from storage.errors import IntegrityError


class Reason(StrEnum):
    """The value is what users read in tables, JSON and Parquet.

    A value that is none of these is a reason of another version of likeness, and stays what it is:
    `Reason("too_blue")` is a reason that is not known.
    """

    # crawl: what the source says refuses it, before anything is fetched
    NO_LICENSE = "no_license"
    UNKNOWN_LICENSE = "unknown_license"
    LICENSE_NOT_ALLOWED = "license_not_allowed"
    NO_AUTHOR = "no_author"
    # crawl: the bytes never arrived, or are not the ones promised
    UNREADABLE_FILE = "unreadable_file"
    BAD_METADATA = "bad_metadata"
    BAD_URL = "bad_url"
    HTTP_STATUS = "http_status"
    SERVER_ERROR = "server_error"
    TIMED_OUT = "timed_out"
    CONNECTION_FAILED = "connection_failed"
    UNEXPECTED_ERROR = "unexpected_error"
    ADDRESS_REFUSED = "address_refused"
    TOO_MANY_BYTES = "too_many_bytes"
    ROBOTS_DISALLOWED = "robots_disallowed"
    OPTED_OUT = "opted_out"
    SYNTHETIC = "synthetic"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    BLOCKED_URL = "blocked_url"
    BLOCKED_HOST = "blocked_host"
    BLOCKED_AUTHOR = "blocked_author"
    BLOCKED_SHA256 = "blocked_sha256"
    BLOCKED_MD5 = "blocked_md5"
    BLOCKED_PDQ = "blocked_pdq"
    # decode
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    BROKEN_IMAGE = "broken_image"
    UNSUPPORTED_IMAGE = "unsupported_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    # align
    NO_FACE = "no_face"
    BAD_GEOMETRY = "bad_geometry"
    # curate
    REFUSED_BY_REVIEW = "refused_by_review"
    QUAD_TOO_SMALL = "quad_too_small"
    LOW_DETECTOR_SCORE = "low_detector_score"
    FEATURES_OUT_OF_FRAME = "features_out_of_frame"
    PADDING = "padding"
    BAD_LANDMARKS = "bad_landmarks"
    POSE = "pose"
    BLURRED = "blurred"
    EXPOSURE = "exposure"
    GREY = "grey"
    FILTERED = "filtered"
    NOT_SINGLE = "not_single"
    NOT_LARGEST = "not_largest"
    TOO_MANY_FACES = "too_many_faces"
    DUPLICATE_PHOTO = "duplicate_photo"
    DUPLICATE_IMAGE = "duplicate_image"
    NEAR_DUPLICATE = "near_duplicate"
    TOO_MANY_OF_IDENTITY = "too_many_of_identity"

    @classmethod
    def _missing_(cls, value: object) -> Reason:
        if not (isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,63}", value)):
            raise IntegrityError(f"{value!r} is no reason of a rejection")
        other = str.__new__(cls, value)
        other._name_, other._value_ = value.upper(), value
        return other

    @property
    def meaning(self) -> str:
        """In one sentence, for whoever reads a report."""
        return MEANING.get(self, "A reason of another version of likeness, which this one cannot explain.")


LICENSING = frozenset(
    {Reason.NO_LICENSE, Reason.UNKNOWN_LICENSE, Reason.LICENSE_NOT_ALLOWED, Reason.NO_AUTHOR}
)
"""Reasons for which a photograph was not asked for."""

BLOCKED = frozenset(
    {
        Reason.BLOCKED_URL,
        Reason.BLOCKED_HOST,
        Reason.BLOCKED_AUTHOR,
        Reason.BLOCKED_SHA256,
        Reason.BLOCKED_MD5,
        Reason.BLOCKED_PDQ,
    }
)
"""Reasons of tombstones, and of lists of hashes."""

CRAWL = (
    LICENSING
    | BLOCKED
    | frozenset(
        {
            Reason.UNREADABLE_FILE,
            Reason.BAD_METADATA,
            Reason.BAD_URL,
            Reason.HTTP_STATUS,
            Reason.SERVER_ERROR,
            Reason.TIMED_OUT,
            Reason.CONNECTION_FAILED,
            Reason.UNEXPECTED_ERROR,
            Reason.ADDRESS_REFUSED,
            Reason.TOO_MANY_BYTES,
            Reason.ROBOTS_DISALLOWED,
            Reason.OPTED_OUT,
            Reason.SYNTHETIC,
            Reason.CHECKSUM_MISMATCH,
        }
    )
)
"""Reasons for which a photograph never entered the store."""

TRANSIENT = frozenset(
    {
        Reason.TIMED_OUT,
        Reason.CONNECTION_FAILED,
        Reason.SERVER_ERROR,
        Reason.UNEXPECTED_ERROR,
        Reason.ADDRESS_REFUSED,
    }
)
"""Reasons that may not hold on the next attempt: a new build of the same source tries these photographs again."""


MEANING: dict[Reason, str] = {
    Reason.NO_LICENSE: "The source says no licence: --licenses.assume ID declares one for all that say none.",
    Reason.UNKNOWN_LICENSE: "The source's licence is in no vocabulary that is read.",
    Reason.LICENSE_NOT_ALLOWED: "The licence is not among those of --licenses.allow.",
    Reason.NO_AUTHOR: "The licence asks for an author, and none is said: --licenses.assume-author NAME declares one.",
    Reason.UNREADABLE_FILE: "The file or folder could not be read from the disk.",
    Reason.BAD_METADATA: "A row about a photograph cannot be understood, or contradicts another; it is not used.",
    Reason.BAD_URL: "The address is not one that can be fetched, or leads somewhere it must not.",
    Reason.HTTP_STATUS: "The server answered that it will not give this photograph.",
    Reason.SERVER_ERROR: "The server failed while answering; the next build asks again.",
    Reason.TIMED_OUT: "The server took too long; the next build asks again.",
    Reason.CONNECTION_FAILED: "The server could not be reached; the next build asks again.",
    Reason.UNEXPECTED_ERROR: "The crawler itself failed at this address; the next build asks again.",
    Reason.ADDRESS_REFUSED: "The address leads into a network that is not public and was not allowed.",
    Reason.TOO_MANY_BYTES: "The file is larger than the fetch settings allow.",
    Reason.ROBOTS_DISALLOWED: "The host's robots.txt asks crawlers to stay away from this address.",
    Reason.OPTED_OUT: "The host, or the file itself, asks not to be used for machine learning.",
    Reason.SYNTHETIC: "The file says of itself that a model drew it: it is no photograph.",
    Reason.CHECKSUM_MISMATCH: "The bytes are not the ones that the source's list promises.",
    Reason.BLOCKED_URL: "A photograph of this address was removed for good.",
    Reason.BLOCKED_HOST: "Photographs of this host were removed for good.",
    Reason.BLOCKED_AUTHOR: "Photographs of this author were removed for good.",
    Reason.BLOCKED_SHA256: "The sha256 of the file is on a list, or the photograph was removed for good.",
    Reason.BLOCKED_MD5: "The MD5 of the file is on a list, or the photograph was removed for good.",
    Reason.BLOCKED_PDQ: "The picture looks like one of a list, or like one that was removed for good.",
    Reason.EMPTY_FILE: "The file holds no bytes.",
    Reason.NOT_AN_IMAGE: "The file is in none of the image formats that are read.",
    Reason.BROKEN_IMAGE: "The file begins as an image, but its pixels cannot be read.",
    Reason.UNSUPPORTED_IMAGE: "The image is whole, but of a kind that no photograph to be shown is of.",
    Reason.TOO_MANY_PIXELS: "The image is larger than the decode settings allow, or too small when reduced to them.",
    Reason.NO_FACE: "The detector found no face in the photograph.",
    Reason.BAD_GEOMETRY: "The landmarks are not those of a face that can be cropped.",
    Reason.REFUSED_BY_REVIEW: "A person who looked at the crop refused it.",
    Reason.QUAD_TOO_SMALL: "The crop spans fewer pixels of its photograph than the smallest that is kept.",
    Reason.LOW_DETECTOR_SCORE: "The detector is not sure enough that this is a face.",
    Reason.FEATURES_OUT_OF_FRAME: "An eye or the mouth lies at the edge of the crop or of the photograph, or beyond.",
    Reason.PADDING: "Too much of the crop lies outside of the photograph and was made up from its border.",
    Reason.BAD_LANDMARKS: "The landmarks do not fit a face well enough for the crop to be trusted.",
    Reason.POSE: "The head is turned, nodded or tilted too far.",
    Reason.BLURRED: "The crop has too little fine detail.",
    Reason.EXPOSURE: "The crop is too dark, too bright, or too much of it is black or white.",
    Reason.GREY: "The crop has no colour, or too little.",
    Reason.FILTERED: "The configured model scores the crop too low.",
    Reason.NOT_SINGLE: "The photograph has several faces, and only photographs of one are wanted.",
    Reason.NOT_LARGEST: "The photograph has a larger face, and only the largest is wanted.",
    Reason.TOO_MANY_FACES: "The photograph has more faces than are kept of one; the largest were.",
    Reason.DUPLICATE_PHOTO: "Another file of the source has the same bytes and stands for both.",
    Reason.DUPLICATE_IMAGE: "Another crop has the same bytes and stands for both.",
    Reason.NEAR_DUPLICATE: "Another crop shows the same picture, and is the better copy.",
    Reason.TOO_MANY_OF_IDENTITY: "There are enough faces of this person, and the better ones are kept.",
}
"""What each reason of this version means."""


def in_order(reasons: Iterable[Reason]) -> list[Reason]:
    """Reasons in the order of the pipeline, then those of other versions by name; each once."""
    there = set(reasons)
    return [*(reason for reason in Reason if reason in there), *sorted(there - set(Reason))]


class Rejected(Exception):
    """Raised where one photograph or face fails, caught where its record is made; `detail` as in Rejection."""

    def __init__(self, reason: Reason, detail: str | None = None) -> None:
        super().__init__(reason.value if detail is None else f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
