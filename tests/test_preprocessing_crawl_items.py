"""Crawls over the ledger, against servers on this machine: what is asked again, what is kept, and what a kill costs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from raw_web import PICTURE, Request, reply, serving

from preprocessing.crawl.crawler import INCOMING
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.crawl.items import ITEM_COLUMNS, Asking, addressed_items, fetch_items
from preprocessing.crawl.ledger import Ledger
from preprocessing.crawl.rows import PARTITIONS, Entry, timestamp
from preprocessing.crawl.signals import Signal, Signals, SignalsConfig, policy
from preprocessing.crawl.urls import web_address
from preprocessing.sources.urls import UrlSource
from storage.digest import bytes_digest
from storage.store import Store
from storage.tables import Row, table_of

QUICK: dict[str, Any] = {
    "user_agent": "test/1 (+mailto:test@example.org)",
    "timeout_s": 5,
    "retries": 0,
    "backoff_s": 0.01,
    "allow_networks": ("127.0.0.0/8",),
}
RULES = ("/robots.txt", "/.well-known/tdmrep.json")
SHA256 = bytes_digest(PICTURE)


class Crawl:
    """Crawls of one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "store")

    def __call__(
        self, *rows: str | Row, retry: tuple[str, ...] = (), refetch: bool = False, **config: Any
    ) -> dict[str, str | None]:
        """What became of URLs: the reason of each rejection, None of a photograph."""
        listed = [{"url": row} if isinstance(row, str) else row for row in rows]
        path = self.folder / "urls.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in listed))
        source = UrlSource.open(str(path), FetchConfig(**QUICK | config))
        schema = pa.schema([pa.field(name, pa.string()) for name in ITEM_COLUMNS])
        table = table_of((asdict(item) for item in source.items()), schema)
        items, bad = addressed_items(table, source.address)
        assert not bad.num_rows
        asking = Asking(frozenset(retry), refetch)
        counts: Counter[str] = Counter()

        def count(found: Counter[str], _: str) -> None:
            counts.update(found)

        fetched = fetch_items(items, source.address, source.fetch, self.store, asking, count)
        found, self.num_known = fetched.outcomes, fetched.num_known
        outcomes = {row["ref"]: row["reason"] for row in found.to_pylist()}
        assert counts == Counter(reason or "photos" for reason in outcomes.values())
        for row in found.to_pylist():
            assert row["reason"] or bytes_digest(self.store.original(row["sha256"])) == row["sha256"]
        assert list(self.store.path(INCOMING).glob("*")) == []
        return outcomes

    def entry(self, url: str) -> Entry:
        """The row of a URL."""
        with Ledger(self.store).read() as held:
            return held.get([web_address(url)])[url]

    def age(self, days: float) -> None:
        """Have all rows been asked for some days earlier."""
        with Ledger(self.store).held(range(PARTITIONS)) as held:
            at = timestamp(datetime.now(UTC) - timedelta(days=days))
            held.put([entry._replace(asked_at=at) for entry in held.each()])


@pytest.fixture
def crawl(tmp_path: Path) -> Crawl:
    """Crawls of a new store."""
    return Crawl(tmp_path)


def site(answers: dict[str, bytes]) -> Callable[[Request], bytes]:
    """A host that answers targets by a table, which may change, and has no rules but those in it."""
    return lambda request: answers.get(request.target, reply(status=404))


def test_a_row_holds_the_evidence(crawl: Crawl) -> None:
    """Status, headers, address, robots line, signals, times and hash of a photograph are on record."""
    robots = reply(b"User-agent: *\nAllow: /\nDisallow: /x\n")
    answers = {
        "/robots.txt": robots,
        "/to": reply(status=302, Location="/a"),
        "/a": reply(
            PICTURE, ETag='"1"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT", X_Robots_Tag="nofollow"
        ),
    }
    with serving(site(answers)) as web:
        assert crawl(web.url("/to")) == {web.url("/to"): None}
    row = crawl.entry(web.url("/to"))
    assert (row.state, row.outcome, row.reason, row.sha256) == ("kept", None, None, SHA256)
    assert (row.status, row.etag, row.attempts, row.num_bytes) == (200, '"1"', 2, len(PICTURE))
    assert (row.place, row.address, row.robots) == (web.url("/a"), "127.0.0.1", "line 2: Allow: /")
    assert ["X-Robots-Tag", "nofollow"] in json.loads(row.headers or "")
    assert "nofollow" in (row.signals or "")
    assert row.first_asked_at == row.asked_at > "2026"
    assert row.host == f"127.0.0.1:{web.port}"


def test_a_row_holds_what_redirects_said(crawl: Crawl) -> None:
    """Of a photograph that redirects led to, what was looked at on the way is on record: address, line and headers."""
    robots = reply(b"User-agent: *\nAllow: /\nContent-Usage: search=n\n")
    answers = {
        "127.0.0.1/robots.txt": robots,
        "127.0.0.1/first": reply(status=302, X_Robots_Tag="nofollow"),
        "127.0.0.2/second?x=%2f": reply(status=307, Location="/a"),
        "127.0.0.2/a": reply(PICTURE, ETag='"1"'),
    }
    with serving(
        lambda request: answers.get(request.host + request.target, reply(status=404)),
        "127.0.0.1",
        "127.0.0.2",
    ) as web:
        second = web.url("/second?x=%2f", "127.0.0.2")
        onward = f"Location: http://u:secret@{second.removeprefix('http://')}\r\n\r\n".encode()
        answers["127.0.0.1/first"] = answers["127.0.0.1/first"].replace(b"\r\n\r\n", b"\r\n" + onward)
        first = f"http://me:secret@127.0.0.1:{web.port}/first"
        for again in (False, True):
            assert set(crawl(first, refetch=again).values()) == {None}
            text = crawl.entry(web.url("/first")).signals or ""
            signals = Signals.model_validate_json(text)
            assert "secret" not in text
            assert [hop.url for hop in signals.hops] == [web.url("/first"), second]
            said = {(one.signal.value, one.text, one.line) for one in signals.hops[0].evidence}
            assert said == {
                ("robots.txt", "Allow: /", 2),
                ("content-usage", "Content-Usage: search=n", 3),
                ("x-robots-tag", "nofollow", None),
            }
            assert Signal.TDM_RESERVATION in signals.hops[0].looked_at
            assert (signals.hops[1].evidence, signals.evidence) == ((), ())
            assert Signal.X_ROBOTS_TAG in signals.hops[1].looked_at
            assert Signal.SYNTHETIC in signals.looked_at
            answers["127.0.0.2/a"] = reply(status=304)
    lax, strict = SignalsConfig(), SignalsConfig(x_robots_tag=("nofollow",))
    assert policy(signals, lax).is_allowed
    assert policy(signals, strict).rule == "x-robots-tag: nofollow"


def test_what_redirects_said_outlives_a_refusal(crawl: Crawl) -> None:
    """Where a later crawl gets less far, what was said on the way to the photograph that is had is not lost."""
    answers = {
        "/to": reply(status=302, Location="/a", X_Robots_Tag="nofollow"),
        "/a": reply(PICTURE),
    }
    with serving(site(answers)) as web:
        assert set(crawl(web.url("/to")).values()) == {None}
        answers["/a"] = reply(status=404)
        assert set(crawl(web.url("/to"), refetch=True).values()) == {"http_status"}
        assert len(Signals.model_validate_json(crawl.entry(web.url("/to")).signals or "").hops) == 1
        answers["/to"] = reply(status=404)
        assert set(crawl(web.url("/to"), refetch=True).values()) == {"http_status"}
        assert len(Signals.model_validate_json(crawl.entry(web.url("/to")).signals or "").hops) == 1


def test_nothing_is_asked_twice(crawl: Crawl) -> None:
    """A second crawl of photographs and final refusals makes no request, nor does one by other settings."""
    answers = {"/a": reply(PICTURE), "/b": reply(PICTURE), "/gone": reply(status=451)}
    with serving(site(answers)) as web:
        urls = [web.url(target) for target in ("/a", "/b#x", "/gone", "/none")]
        first = crawl(*urls)
        assert list(first.values()) == [None, None, "http_status", "http_status"]
        assert crawl.num_known == 0
        num_requests = len(web.requests)
        assert crawl(*urls) == first
        assert crawl.num_known == 4
        others: dict[str, Any] = {
            "max_redirects": 2,
            "timeout_s": 9,
            "respect_opt_out": False,
            "user_agent": "other/2 (+a@b.c)",
        }
        assert crawl(*urls, **others) == first
        assert len(web.requests) == num_requests


@pytest.mark.parametrize("target", [*RULES, "/a"])
def test_the_next_crawl_leaves_a_host_alone_too(crawl: Crawl, target: str) -> None:
    """One answer of a host is enough to hold every later request back until its time, whatever was asked for."""
    answers = {target: reply(status=503, Retry_After="3600"), "/b": reply(PICTURE)}
    with serving(site(answers)) as web:
        assert list(crawl(web.url("/a")).values()) == ["server_error"]
        num_requests = len(web.requests)
        again: tuple[dict[str, Any], ...] = ({}, {"retry": ("server_error",)}, {"refetch": True})
        for more in again:
            assert list(crawl(web.url("/a"), web.url("/b"), **more).values()) == ["server_error"] * 2
        assert len(web.requests) == num_requests


def test_the_next_crawl_waits_for_what_is_left_of_a_short_rest(crawl: Crawl) -> None:
    """Where a crawl has no attempts left, the time that its host asked for holds for the one after it."""
    times: list[float] = []

    def answer(request: Request) -> bytes:
        if request.target in RULES:
            return reply(status=404)
        times.append(time.monotonic())
        return reply(status=503, Retry_After="2") if len(times) == 1 else reply(PICTURE)

    with serving(answer) as web:
        assert list(crawl(web.url("/a")).values()) == ["server_error"]
        assert list(crawl(web.url("/b")).values()) == [None]
    assert times[1] - times[0] >= 1.9


def test_photographs_are_judged_by_the_settings_of_today(crawl: Crawl) -> None:
    """What was kept by lax settings is refused by strict ones, without a request for it, and kept again by lax ones."""
    answers = {"/a": reply(PICTURE, X_Robots_Tag="noai")}
    with serving(site(answers)) as web:
        url = web.url("/a")
        assert crawl(url, respect_opt_out=False) == {url: None}
        assert crawl(url) == {url: "opted_out"}
        assert crawl(url, max_bytes=3, respect_opt_out=False) == {url: "too_many_bytes"}
        assert crawl(url, respect_opt_out=False) == {url: None}
        assert web.counts()["/a"] <= 2  # tdmrep.json was not asked for at first


def test_refusals_are_judged_anew_by_the_new_rule(crawl: Crawl) -> None:
    """An opt-out that is not honoured any more is asked again, one that still is is not, by any other setting."""
    answers = {
        "/a": reply(PICTURE, X_Robots_Tag="noai"),
        "/robots.txt": reply(b"User-agent: *\nDisallow: /b\n"),
    }
    with serving(site(answers | {"/b": reply(PICTURE)})) as web:
        urls = [web.url("/a"), web.url("/b")]
        assert list(crawl(*urls).values()) == ["opted_out", "robots_disallowed"]
        assert list(crawl(*urls, max_bytes=10**6).values()) == ["opted_out", "robots_disallowed"]
        assert list(crawl(*urls, respect_robots=False).values()) == ["opted_out", None]
        assert web.counts()["/a"] == 1
        assert list(crawl(*urls, respect_opt_out=False).values()) == [None, "robots_disallowed"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(status=403), "http_status"),
        (reply(b"<!DOCTYPE html><title>Are you human?"), "not_an_image"),
        (reply(PICTURE, X_Robots_Tag="noai"), "opted_out"),
        (reply(PICTURE[:-2]), None),
        (reply(b""), None),
    ],
)
def test_doubtful_outcomes_are_asked_again_after_days(
    crawl: Crawl, answer: bytes, reason: str | None
) -> None:
    """403, pages, opt-outs and half pictures hold for some days, and no longer; the user agent asks at once."""
    answers = {"/a": answer}
    with serving(site(answers)) as web:
        url = web.url("/a")
        assert crawl(url) == {url: reason}
        assert crawl.entry(url).outcome == "doubtful"
        assert crawl(url) == {url: reason}
        assert web.counts()["/a"] == 1
        if reason:
            crawl(url, user_agent="other/2 (+a@b.c)")
            assert web.counts()["/a"] == 2
        answers["/a"] = reply(PICTURE)
        crawl.age(days=6)
        assert crawl(url, user_agent="other/2 (+a@b.c)") == {url: reason}
        crawl.age(days=8)
        assert crawl(url, user_agent="other/2 (+a@b.c)") == {url: None}
        assert crawl.entry(url).sha256 == SHA256
        assert crawl.entry(url).attempts == len([r for r in web.requests if r.target == "/a"])


def test_passing_failures_are_asked_by_the_next_crawl(crawl: Crawl) -> None:
    """A 500 and a missing password hold for one crawl."""
    answers = {"/a": reply(status=500), "/b": reply(status=401)}
    with serving(site(answers)) as web:
        urls = [web.url("/a"), web.url("/b")]
        assert list(crawl(*urls).values()) == ["server_error", "http_status"]
        answers.update({"/a": reply(PICTURE), "/b": reply(PICTURE)})
        assert list(crawl(*urls).values()) == [None, None]


def test_retry_asks_again_for_a_reason(crawl: Crawl) -> None:
    """Refusals of a reason that is named are asked again, others are not, and a tombstone is never."""
    answers = {"/a": reply(status=403), "/b": reply(status=410), "/c": reply(b"<html>")}
    with serving(site(answers)) as web:
        urls = [web.url(target) for target in ("/a", "/b", "/c", "/d")]
        crawl(*urls)
        answers.update(dict.fromkeys(("/a", "/b", "/c", "/d"), reply(PICTURE)))
        found = crawl(*urls, retry=("http_status",))
        assert list(found.values()) == [None, "http_status", "not_an_image", None]
        assert crawl.entry(urls[1]).state == "gone"
        assert list(crawl(*urls, refetch=True).values()) == [None, "http_status", None, None]
        assert web.counts()["/b"] == 1


def test_refetch_is_conditional(crawl: Crawl) -> None:
    """A server that says 304 sends no photograph again; new bytes replace the old; 410 is a tombstone."""
    asked: list[dict[str, str]] = []
    tag = {"/a": '"1"', "/b": '"1"'}
    bodies = {"/a": PICTURE, "/b": PICTURE}

    def answer(request: Request) -> bytes:
        if request.target in RULES or request.target not in tag:
            return reply(status=404)
        if tag[request.target] == "gone":
            return reply(status=410)
        if request.headers.get("if-none-match") == tag[request.target]:
            asked.append(request.headers)
            return reply(status=304, ETag=tag[request.target], X_Robots_Tag="nosnippet")
        return reply(bodies[request.target], ETag=tag[request.target], X_Kept="yes")

    with serving(answer) as web:
        urls = [web.url("/a"), web.url("/b")]
        crawl(*urls)
        assert set(crawl(*urls, refetch=True).values()) == {None}
        assert len(asked) == 2
        headers = dict(json.loads(crawl.entry(urls[0]).headers or ""))
        assert (headers["X-Kept"], headers["X-Robots-Tag"]) == ("yes", "nosnippet")
        tag.update({"/a": '"2"', "/b": "gone"})
        bodies["/a"] = PICTURE + b"new\xff\xd9"
        assert list(crawl(*urls, refetch=True).values()) == [None, "http_status"]
        assert crawl.entry(urls[0]).sha256 == bytes_digest(bodies["/a"])
        tag["/b"] = '"3"'
        assert list(crawl(*urls, refetch=True).values()) == [None, "http_status"]


def test_an_opt_out_that_comes_later_is_seen_by_a_refetch(crawl: Crawl) -> None:
    """A 304 that says noai, or a robots.txt that has closed since, refuses what was kept."""
    answers = {"/a": reply(PICTURE, ETag='"1"')}
    with serving(site(answers)) as web:
        url = web.url("/a")
        assert crawl(url) == {url: None}
        answers["/a"] = reply(status=304, X_Robots_Tag="noai")
        assert crawl(url, refetch=True) == {url: "opted_out"}
        answers["/a"] = reply(status=304, X_Robots_Tag="all")
        answers["/robots.txt"] = reply(b"User-agent: *\nDisallow: /\n")
        assert crawl(url, refetch=True) == {url: "robots_disallowed"}
        assert crawl(url, respect_robots=False, respect_opt_out=False) == {url: None}


def test_a_failing_server_takes_nothing_away(crawl: Crawl) -> None:
    """A photograph that was kept stays where a refetch meets a 500, and one that is lost from the store is fetched."""
    answers = {"/a": reply(PICTURE)}
    with serving(site(answers)) as web:
        url = web.url("/a")
        crawl(url)
        answers["/a"] = reply(status=500)
        assert crawl(url, refetch=True) == {url: None}
        answers["/a"] = reply(PICTURE)
        crawl.store.path(f"originals/{SHA256[:2]}/{SHA256}").unlink()
        assert crawl(url) == {url: None}
        assert web.counts()["/a"] == 3


def test_promised_hashes_are_kept(crawl: Crawl) -> None:
    """A photograph that is not the one on a list is refused for that list alone, and asked again when lists agree."""
    with serving(site({"/a": reply(PICTURE)})) as web:
        other = {"url": web.url("/a"), "sha256": "0" * 64}
        assert crawl(other) == {web.url("/a"): "checksum_mismatch"}
        assert crawl(other) == {web.url("/a"): "checksum_mismatch"}
        assert web.counts()["/a"] == 1
        assert crawl({"url": web.url("/a"), "sha256": SHA256}, web.url("/a#x")) == dict.fromkeys(
            [web.url("/a"), web.url("/a#x")]
        )
        assert web.counts()["/a"] == 2


def test_a_host_that_asked_for_an_hour_is_left_alone_by_the_next_crawl(crawl: Crawl) -> None:
    """No request comes before Retry-After is over, though the process that was told has ended."""
    with serving(site({"/a": reply(status=429, Retry_After="3600")})) as web:
        first = crawl(web.url("/a"))
        num_requests = len(web.requests)
        assert crawl(web.url("/a"), web.url("/b")) == first | {web.url("/b"): "server_error"}
        assert len(web.requests) == num_requests


def test_what_a_kill_has_left_is_removed(crawl: Crawl) -> None:
    """Bodies under way when a process was killed are deleted by the next crawl."""
    left = crawl.store.path(f"{INCOMING}/left/7")
    left.parent.mkdir(parents=True)
    left.write_bytes(PICTURE)
    with serving(site({"/a": reply(PICTURE)})) as web:
        crawl(web.url("/a"))
    assert not left.parent.exists()


def test_any_header_can_be_on_record(crawl: Crawl) -> None:
    """Bytes that are no text, in whatever header, are kept with the photograph, and sent to nobody."""
    odd = '"\udcff\u20ac"'
    with serving(site({"/a": reply(PICTURE, ETag=odd, Last_Modified=odd, X_Odd=odd)})) as web:
        assert crawl(web.url("/a")) == {web.url("/a"): None}
        row = crawl.entry(web.url("/a"))
        assert ["X-Odd", odd] in json.loads(row.headers or "")
        assert "\\udcff" in (row.etag or "")
        crawl(web.url("/a"), refetch=True)
        assert "if-none-match" not in web.requests[-1].headers
