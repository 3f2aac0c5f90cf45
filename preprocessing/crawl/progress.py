"""How far a crawl is with each host, in one line: what was asked, kept and refused, and until when it is left alone.

Not here: what came of each in the end (`preprocessing.crawl.summary`).
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from preprocessing.crawl.hosts import HostPace
from preprocessing.crawl.retry import resumes_at
from preprocessing.crawl.summary import OfHost
from storage.wording import numbered

TOLD_S = 1.0
"""Least time between two lines."""
_SHOWN = 3
_SHORT_S = 2.0
"""A shorter wait is none that anybody would want to know of."""


def hosts_line(hosts: Mapping[str, OfHost], paces: Mapping[str, HostPace]) -> str:
    """The hosts that are waited for, the longest first, then those with the most addresses; empty where there are none.

    `paces` are of all hosts that are known, asked or not.
    """
    now_s = time.monotonic()
    waits_s = {name: pace.paused_until_s - now_s for name, pace in list(paces.items())}
    waiting = [name for name, left_s in waits_s.items() if left_s > _SHORT_S]
    shown = heapq.nlargest(_SHOWN, waiting, key=lambda name: waits_s[name])
    others = (name for name in hosts if waits_s.get(name, 0.0) <= _SHORT_S)
    shown += heapq.nlargest(_SHOWN - len(shown), others, key=lambda name: hosts[name].addresses)
    parts = [_host(name, hosts.get(name), max(waits_s.get(name, 0.0), 0.0)) for name in shown]
    if left := len({*hosts, *waiting}) - len(shown):
        parts.append(f"{numbered(left, 'host')} more")
    return "; ".join(parts)


def _host(name: str, of: OfHost | None, wait_s: float) -> str:
    said = []
    if wait_s > _SHORT_S:
        until = resumes_at(datetime.now(UTC), wait_s)
        said.append(f"left alone until {until.strftime('%Y-%m-%dT%H:%M:%SZ')}")
    if of:
        said += [f"{of.addresses} asked", f"{of.kept} kept", f"{of.refused} refused"]
    return f"{name} {', '.join(said)}"


def of_several(tables: Iterable[Iterable[Mapping[str, object]]]) -> dict[str, OfHost]:
    """The hosts of several processes, each of which asks others."""
    found = (OfHost(**row) for rows in tables for row in rows)  # type: ignore[arg-type]
    return {of.host: of for of in found}
