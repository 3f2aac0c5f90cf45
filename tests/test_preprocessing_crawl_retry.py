"""Retry-After, by cases and by properties."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessing.crawl.retry import NEVER, resumes_at, retry_after_s

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "cases" / "retry_after.jsonl").read_text().splitlines()
]
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['value']!a}")
def test_headers_are_read(case: dict[str, Any]) -> None:
    """Each header asks for the seconds that its case says, or is nonsense."""
    assert retry_after_s(case["value"], datetime.fromisoformat(case["now"])) == case["at_least_s"], case[
        "why"
    ]


@given(st.integers(min_value=0))
@example(10**400)
def test_any_number_is_waited_for_in_full(seconds: int) -> None:
    """No number is cut short, however long, and none overflows the calendar."""
    asked = retry_after_s(str(seconds), NOW)
    assert asked is not None
    assert asked >= seconds or asked == float(seconds)
    assert NOW <= resumes_at(NOW, asked) <= NEVER


@given(st.datetimes(datetime(1977, 1, 1), datetime(2076, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_any_date_is_read_as_it_was_written(when: datetime, zone_min: int) -> None:
    """A date of any zone and form names the same instant."""
    then = when.replace(microsecond=0, tzinfo=UTC)
    there = then + timedelta(minutes=zone_min)
    zone = f"{'-' if zone_min < 0 else '+'}{abs(zone_min) // 60:02}{abs(zone_min) % 60:02}"
    forms = [
        format_datetime(then, usegmt=True),
        format_datetime(then).replace("+0000", "UTC"),
        format_datetime(there).replace("+0000", zone),
        then.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        then.strftime("%a %b %d %H:%M:%S %Y"),
    ]
    wait_s = max((then - NOW).total_seconds(), 0.0)
    assert [retry_after_s(form, NOW) for form in forms] == [wait_s] * len(forms), forms


def test_names_of_zones_are_read() -> None:
    """A zone that a mail program would name is no reason to come before the time that was asked for."""
    for zone, hours in (("GMT", 0), ("EST", 5), ("EDT", 4), ("PST", 8), ("pdt", 7)):
        assert retry_after_s(f"Thu, 26 Nov 2026 12:00:10 {zone}", NOW) == hours * 3600 + 10, zone


@given(
    st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]\d+"),
    st.datetimes(timezones=st.just(UTC)),
)
def test_no_header_raises(value: str, now: datetime) -> None:
    """Whatever a server writes is a wait or nonsense, at any time of the calendar."""
    asked = retry_after_s(value, now)
    assert asked is None or asked >= 0
    assert now <= resumes_at(now, asked or 0.0) <= NEVER
