"""How far a crawl is with each host: in one short line, also while all of them are waited for."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_web import PICTURE, Request, reply, serving

from flows.stages.crawl import crawl
from flows.stages.work import Context, Inline, Progress
from preprocessing.config import BuildConfig
from preprocessing.crawl import items, progress, queues
from preprocessing.crawl.hosts import HostPace
from preprocessing.crawl.progress import hosts_line
from preprocessing.crawl.summary import OfHost
from storage.gathered import Gathered
from storage.store import Store

HOSTS = ["127.0.4.1", "127.0.4.2"]


def test_a_line_has_few_hosts() -> None:
    """Those that are waited for come first, then those that were asked most; the others are counted."""
    hosts = {f"h{number}": OfHost(f"h{number}", number, kept=number - 1, refused=1) for number in range(1, 9)}
    paces = {"h1": HostPace(0.0, paused_until_s=time.monotonic() + 60), "new": HostPace(0.0)}
    assert hosts_line({}, {"new": HostPace(0.0)}) == ""
    line = hosts_line(hosts, paces)
    moment = r"left alone until 2\d\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    expected = (
        rf"h1 {moment}, 1 asked, 0 kept, 1 refused; "
        r"h8 8 asked, 7 kept, 1 refused; h7 7 asked, 6 kept, 1 refused; 5 hosts more"
    )
    assert re.fullmatch(expected, line), line
    paces["late"] = HostPace(0.0, paused_until_s=time.monotonic() + 1e30)
    assert hosts_line({}, paces).startswith("late left alone until 9999-12-31T")


def test_progress_says_which_hosts_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a host wants to be left alone, and nothing comes, reports go on, and say until when."""
    for module, name, value in (
        (queues, "SILENT_S", 0.05),
        (progress, "_SHORT_S", 0.1),
        (items, "TOLD_S", 0.0),
    ):
        monkeypatch.setattr(module, name, value)
    answers: Iterator[bytes] = iter([reply(status=429, Retry_After="1")])

    def answer(request: Request) -> bytes:
        if not request.target.endswith(".jpg"):
            return reply(status=404)
        return next(answers, reply(PICTURE)) if request.host == HOSTS[1] else reply(PICTURE)

    said: list[str] = []
    with serving(answer, *HOSTS) as web:
        listed = tmp_path / "urls.jsonl"
        rows = [{"url": web.url(f"/{n}.jpg", host), "license": "CC0-1.0"} for n in range(2) for host in HOSTS]
        listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
        fetch = {"user_agent": "test/1", "allow_networks": ["127.0.0.0/8"], "retries": 2}
        config = BuildConfig.model_validate({"source": f"urls:{listed}", "fetch": fetch})

        def report(now: Progress) -> None:
            said.append(now.about)

        context = Context(Store(tmp_path / "store"), Inline(), 64, refetch=False, gathered=Gathered)
        assert len(crawl(context, report, config).photos) == 4
        good, busy = (f"{host}:{web.port}" for host in HOSTS)
    waited = (
        rf"{busy} left alone until 2[^,;]*(, 1 asked, 1 kept, 0 refused)?; {good} 2 asked, 2 kept, 0 refused"
    )
    assert any(re.fullmatch(waited, line) for line in said), said
    assert {f"{busy} 2 asked, 2 kept, 0 refused", f"{good} 2 asked, 2 kept, 0 refused"} == set(
        said[-1].split("; ")
    )
