"""Which answers and refusals may be others later, and when to ask again: `Retry-After` (RFC 9110, section 10.2.3).

Not here: our own back-off, which holds where the header is absent or nonsense.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from preprocessing.reject import BLOCKED, TRANSIENT, Reason, Rejected

NEVER = datetime.max.replace(tzinfo=UTC)
"""The time that stands for all later ones."""

FINAL, DOUBTFUL, PASSING = "final", "doubtful", "passing"
"""The classes of refusals.

final       404, 410, 451, tombstones and lists of hashes: not asked again; 410 makes a tombstone, which nothing wakes
doubtful    what a server may say to one crawler on one day: 403, robots.txt, opt-outs, a page in a picture's place
passing     the server or the network failed, or a password was missing
"""
_FINAL_STATUSES = frozenset({"404", "410", "451"})
_CERTIFICATE = "CertificateError"

_SECONDS = re.compile(r"[0-9]+(?:[ \t]*,[ \t]*[0-9]+)*")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(
    r"(?:[a-z]{3,9},?[ ]+)?"
    r"(?P<day>[0-9]{1,2})[ -](?P<month>[a-z]{3})[a-z]*[ -](?P<year>[0-9]{4}|[0-9]{2})[ ]+"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
    r"(?:[ ]*(?:gmt|utc|ut|z|(?P<zone>[ecmp][sd]t)|(?P<sign>[+-])(?P<zone_h>[0-9]{2}):?(?P<zone_m>[0-9]{2})))?"
)
_ZONES_H = {"est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7}
"""Names of zones that old mail programs write (RFC 5322, section 4.3)."""
_ASCTIME = re.compile(
    r"(?:[a-z]{3,9},?[ ]+)?(?P<month>[a-z]{3})[ ]+(?P<day>[0-9]{1,2})[ ]+"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})[ ]+(?P<year>[0-9]{4})"
)
_LONGEST_DATE = 64
_FURTHEST_ZONE = timedelta(hours=14)


def outcome_of(rejected: Rejected) -> str:
    """The class of a refusal."""
    detail = rejected.detail or ""
    if rejected.reason in BLOCKED or (rejected.reason is Reason.HTTP_STATUS and detail in _FINAL_STATUSES):
        return FINAL
    if rejected.reason is Reason.HTTP_STATUS and detail == "401":  # a list may have a password since
        return PASSING
    if rejected.reason in TRANSIENT and _CERTIFICATE not in detail:
        return PASSING
    return DOUBTFUL


def may_pass(status: int) -> bool:
    """Whether an HTTP status says that the server failed, or was too busy or too early, rather than that it refuses."""
    return status >= 500 or status in (408, 425, 429)


def retry_after_s(value: str, now: datetime) -> float | None:
    """The seconds from `now` that a header asks for, 0 where its time has passed, None where it is nonsense.

    Never raises; a number too large for any clock is infinite. Seconds are plain digits, and of several that a proxy
    joined the largest holds; a date is any of the three forms of RFC 9110, section 5.6.7.
    """
    value = value.strip(" \t")
    if _SECONDS.fullmatch(value):
        return max(map(float, value.split(",")))
    then = _http_date(value, now)
    return None if then is None else max((then - now).total_seconds(), 0.0)


def resumes_at(now: datetime, wait_s: float) -> datetime:
    """`now` plus a wait, `NEVER` where that is beyond the calendar; never raises."""
    try:
        return now + timedelta(seconds=wait_s)
    except OverflowError:
        return NEVER


def _http_date(value: str, now: datetime) -> datetime | None:
    text = value.lower()
    match = (_DATE.fullmatch(text) or _ASCTIME.fullmatch(text)) if len(text) <= _LONGEST_DATE else None
    if match is None or match["month"] not in _MONTHS:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        # RFC 9110, section 5.6.7: what would be more than 50 years ahead is in the past.
        year += now.year // 100 * 100
        year -= 100 if year > now.year + 50 else 0
    part = match.groupdict()
    zone = timedelta(hours=int(part.get("zone_h") or 0), minutes=int(part.get("zone_m") or 0))
    if zone > _FURTHEST_ZONE:
        return None
    zone = timedelta(hours=_ZONES_H.get(part.get("zone") or "", 0)) or (
        -zone if part.get("sign") == "-" else zone
    )
    leap_s = 1 if match["second"] == "60" else 0
    try:
        then = datetime(
            year,
            _MONTHS.index(match["month"]) + 1,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            int(match["second"]) - leap_s,
            tzinfo=UTC,
        )
        return then + timedelta(seconds=leap_s) - zone
    except (ValueError, OverflowError):  # no such day, or beyond the calendar
        return None
