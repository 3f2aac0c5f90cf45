"""How often hosts are asked: silent, dead and rude ones, and those that ask for time between requests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from crawling import QUICK, RULES, Crawl, crawl, site, steady
from raw_web import PICTURE, Request, reply, serving

from preprocessing.crawl import connect as connect_module
from preprocessing.crawl.fetch import FetchConfig, Wanted
from preprocessing.crawl.hosts import Host, HostPace, Memory, Passing, PutOff
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.urls import web_address
from preprocessing.reject import TRANSIENT, Reason, Rejected

__all__ = ["crawl"]  # a fixture


def test_silent_hosts_cost_the_time_of_one(crawl: Crawl) -> None:
    """Every address of a good host is asked before the first attempt at any silent host is over, and so are those."""
    silent = [f"127.0.1.{number}" for number in range(1, 9)]
    with serving(
        lambda request: None if request.host in silent else reply(PICTURE), "127.0.0.1", *silent
    ) as web:
        urls = [web.url("/a.jpg", host) for host in silent] + [web.url(f"/{n}.jpg") for n in range(64)]
        rules = {"respect_robots": False, "respect_opt_out": False}
        found = crawl(*urls, timeout_s=5, retries=1, max_concurrency=16, **rules)
    asked = [request.host for request in web.requests]
    assert sorted(asked[:72]) == sorted(["127.0.0.1"] * 64 + silent)
    assert sorted(asked[72:]) == silent
    assert sum(answer == PICTURE for answer in found.values()) == 64
    assert {answer.reason for answer in found.values() if isinstance(answer, Rejected)} == {Reason.TIMED_OUT}


@pytest.mark.parametrize("data", [b"", reply(status=503), reply(status=500), b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_dead_host_is_soon_left_alone(crawl: Crawl, data: bytes) -> None:
    """Twelve addresses of a host that fails get no more than 20 requests, and all are asked again another day."""
    with serving(steady(data)) as web:
        found = crawl(*(web.url(f"/{number}.jpg") for number in range(12)), retries=3)
    assert len(web.requests) <= 20, web.counts()
    assert len(found) == 12
    assert {answer.reason for answer in found.values() if isinstance(answer, Rejected)} < TRANSIENT


def test_a_host_that_fails_now_and_then_is_not_given_up(crawl: Crawl) -> None:
    """Where every address works the third time, every photograph is had."""
    asked: Counter[str] = Counter()

    def answer(request: Request) -> bytes:
        asked[request.target] += 1
        return reply(PICTURE) if asked[request.target] == 3 else reply(status=502)

    with serving(site(answer)) as web:
        found = crawl(*(web.url(f"/{number}.jpg") for number in range(12)))
    assert set(map(type, found.values())) == {bytes}


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_host_that_asks_for_an_hour_gets_it(crawl: Crawl, status: int) -> None:
    """Three addresses of it cost at most four requests, and each rejection says until when."""
    memory = Memory()
    with serving(steady(reply(status=status, Retry_After="3600"))) as web:
        found = crawl(*(web.url(f"/{number}.jpg") for number in range(3)), memory=memory)
        assert len(web.requests) <= 4, web.counts()
        more = crawl(web.url("/more.jpg"), memory=memory)
        assert len(web.requests) <= 4, "it was asked again within the hour"
    for answer in (found | more).values():
        assert isinstance(answer, Rejected)
        assert answer.reason is Reason.SERVER_ERROR
        assert "asks to be left alone until 20" in (answer.detail or "")


def test_an_answer_under_way_does_not_undo_a_wish_to_be_left_alone() -> None:
    """Addresses of a host that was put off are rejected at once, not kept for an hour, whatever arrives meanwhile."""
    host = Host("h.example", asyncio.Semaphore(2), HostPace(0.0), 8)
    host.put_off(Passing(Reason.SERVER_ERROR, "429", 3600.0, is_of_host=True))
    host.answered()
    with pytest.raises(PutOff, match="asks to be left alone until 20"):
        host.check()
    host.pace.paused_until_s = time.monotonic()
    host.answered()
    host.pause(60)
    host.check()


@pytest.mark.parametrize("status", [403, 429, 503])
def test_no_request_comes_before_retry_after_is_over(crawl: Crawl, status: int) -> None:
    """An answer that asks for a second keeps all requests to its host back, those for other addresses too."""
    times: list[float] = []

    def answer(_: Request) -> bytes:
        times.append(time.monotonic())
        return reply(status=status, Retry_After="1") if len(times) == 1 else reply(PICTURE)

    with serving(site(answer)) as web:
        found = crawl(
            *(web.url(f"/{number}") for number in range(4)), per_host_concurrency=1, max_backoff_s=0
        )
    assert set(found.values()) == {PICTURE}
    assert times[1] - times[0] >= 1.0


def test_a_host_that_is_known_keeps_its_delay(crawl: Crawl) -> None:
    """What an earlier crawl knew of a host makes no request of this one come sooner than its settings say."""
    times: list[float] = []

    def answer(_: Request) -> bytes:
        times.append(time.monotonic())
        return reply(PICTURE)

    with serving(site(answer)) as web:
        memory = Memory(paces={f"127.0.0.1:{web.port}": HostPace(0.0)})
        crawl(*(web.url(f"/{number}") for number in range(3)), memory=memory, per_host_delay_s=0.5)
    assert len(times) == 3
    assert times[-1] - times[0] >= 0.6  # the first may be late on a busy machine


def test_a_delay_is_kept_while_all_requests_are_under_way(crawl: Crawl) -> None:
    """Requests to a host that wait for a slot of all hosts leave as far apart as the host wants."""
    times: list[float] = []

    def answer(request: Request) -> bytes:
        if request.host == "127.0.0.2":
            time.sleep(1.5)
        else:
            times.append(time.monotonic())
        return reply(PICTURE)

    with serving(answer, "127.0.0.1", "127.0.0.2") as web:
        urls = [web.url("/slow", "127.0.0.2"), *(web.url(f"/{number}") for number in range(2))]
        crawl(*urls, max_concurrency=1, per_host_delay_s=1, respect_robots=False, respect_opt_out=False)
    assert times[1] - times[0] >= 0.8, times


def test_a_crawl_delay_is_kept_from_robots_txt_on_while_others_are_busy(crawl: Crawl) -> None:
    """Of hosts that want half a second between requests, none gets two sooner, the one after robots.txt among them."""
    slow, fast = [f"127.0.4.{number}" for number in range(1, 9)], ["127.0.5.1", "127.0.5.2"]
    times: dict[str, list[float]] = {}

    def answer(request: Request) -> bytes:
        times.setdefault(request.host, []).append(time.monotonic())
        if request.target == "/robots.txt" and request.host in slow:
            return reply(b"User-agent: *\nCrawl-delay: 0.5\n")
        return reply(status=404) if request.target in RULES else reply(PICTURE)

    with serving(answer, *slow, *fast) as web:
        urls = [
            web.url(f"/{n}", host) for n in range(150) for host in (*slow, *fast) if n < 3 or host in fast
        ]
        found = crawl(*urls, per_host_concurrency=4)
    assert set(found.values()) == {PICTURE}
    gaps = sorted(b - a for host in slow for a, b in itertools.pairwise(times[host]))
    assert len(gaps) == len(slow) * 4
    assert gaps[0] >= 0.3, gaps  # the first of two may be read late on a busy machine


def test_a_delay_is_from_request_to_request_whatever_a_connection_takes(
    crawl: Crawl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that leaves late, since it had to wait for its connection, is not followed too soon by the next."""
    times: list[float] = []
    resolve = connect_module.Resolver.resolve
    waits_s = iter([1.6, 0.0, 0.0])

    async def slow(*args: Any, **more: Any) -> Any:
        await asyncio.sleep(next(waits_s))
        return await resolve(*args, **more)

    def answer(_: Request) -> bytes:
        times.append(time.monotonic())
        return reply(PICTURE)

    with serving(answer) as web:
        monkeypatch.setattr(connect_module.Resolver, "resolve", slow)
        crawl(
            *(web.url(f"/{number}", "localhost") for number in range(3)),
            per_host_delay_s=2,
            respect_robots=False,
            respect_opt_out=False,
        )
    assert len(times) == 3
    assert min(b - a for a, b in itertools.pairwise(times)) >= 1.5, times


def test_a_connection_that_was_closed_meanwhile_is_no_failure(tmp_path: Path) -> None:
    """A server that closes connections without a word costs a request more and no wait; a dead one is still left."""
    answers = {"127.0.0.1": reply(PICTURE).replace(b"Connection: close\r\n", b""), "127.0.0.2": b""}
    rules = reply(status=404).replace(b"Connection: close\r\n", b"")
    with serving(
        lambda request: rules if request.target in RULES else answers[request.host], *answers
    ) as web:
        urls = [Wanted(web_address(web.url(f"/{n}", host))) for host in answers for n in range(12)]
        config = FetchConfig(**QUICK | {"retries": 0})
        visits = [v for batch in arriving(urls, config, Memory(), tmp_path) for v in batch]
    counts = Counter(visit.rejected and visit.rejected.reason for visit in visits)
    assert counts == {None: 12, Reason.CONNECTION_FAILED: 12}
    assert sum(request.host == "127.0.0.2" for request in web.requests) <= 20, web.requests


def test_outcomes_come_while_others_are_awaited(tmp_path: Path) -> None:
    """What has arrived is handed on within a second, and closing the iterator ends the requests."""
    with serving(site(lambda request: None if "silent" in request.target else reply(PICTURE))) as web:
        urls = [Wanted(web_address(web.url("/silent"))), Wanted(web_address(web.url("/a")))]
        start = time.monotonic()
        batches = arriving(urls, FetchConfig(**QUICK | {"timeout_s": 600}), Memory(), tmp_path)
        [visit] = next(batches)
        assert visit.address.target == "/a"
        batches.close()
        assert time.monotonic() - start < 300, "closing waited for the silent address"


def test_many_hosts_share_the_requests(crawl: Crawl) -> None:
    """There are never more requests at once than max_concurrency, however many hosts there are."""
    hosts = [f"127.0.3.{number}" for number in range(1, 21)]
    with serving(steady(reply(PICTURE)), *hosts) as web:
        found = crawl(*(web.url("/a", host) for host in hosts), max_concurrency=1)
    assert len(found) == 20
    assert set(found.values()) == {PICTURE}
