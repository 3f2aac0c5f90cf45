"""Crawls of servers on this machine, for tests: quick, and of hosts with or without rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from raw_web import Answer, Web, reply, serving

from preprocessing.crawl.fetch import FetchConfig, Wanted
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.urls import web_address
from preprocessing.records import Rejection
from preprocessing.reject import Rejected
from preprocessing.sources.urls import UrlSource

LOCAL = ("127.0.0.0/8",)
QUICK: dict[str, Any] = {
    "user_agent": "test/1 (+mailto:test@example.org)",
    "timeout_s": 5,
    "retries": 2,
    "backoff_s": 0.01,
    "allow_networks": LOCAL,
}
RULES = ("/robots.txt", "/.well-known/tdmrep.json")
Crawl = Callable[..., dict[str, bytes | Rejected]]


@pytest.fixture
def crawl(tmp_path: Path) -> Crawl:
    """Fetches URLs as one crawl: the body of each, or its rejection."""

    def crawled(*urls: str, memory: Memory | None = None, **config: Any) -> dict[str, bytes | Rejected]:
        settings = FetchConfig(**QUICK | config)
        listed = {web_address(url): url for url in urls}
        found: dict[str, bytes | Rejected] = {}
        for batch in arriving(map(Wanted, listed), settings, memory or Memory(), tmp_path):
            for visit in batch:
                if visit.body:
                    found[listed[visit.address]] = visit.body.path.read_bytes()
                    visit.body.path.unlink()
                else:
                    assert visit.rejected is not None
                    found[listed[visit.address]] = visit.rejected
        assert list(tmp_path.iterdir()) == []  # nothing of what was refused
        return found

    return crawled


@pytest.fixture(scope="module")
def anything() -> Iterator[tuple[Web, dict[str, bytes]]]:
    """A server that answers with what is put into its table, by target; without rules where there is none."""
    table: dict[str, bytes] = {}
    with serving(lambda request: table.get(request.target, reply(status=404))) as web:
        yield web, table


def site(photograph: Answer) -> Answer:
    """A host without rules, whose other addresses are answered by `photograph`."""
    return lambda request: reply(status=404) if request.target in RULES else photograph(request)


def steady(data: bytes | None) -> Answer:
    """The same answer to all but the rules."""
    return site(lambda _: data)


def read(tmp_path: Path, *urls: str, **config: Any) -> list[tuple[Any, bytes] | Rejection]:
    """What the source of a list gives."""
    path = tmp_path / "urls.jsonl"
    path.write_text("".join(json.dumps({"url": url}) + "\n" for url in urls))
    source = UrlSource.open(str(path), FetchConfig(**QUICK | config))
    return list(source.read(source.items()))
