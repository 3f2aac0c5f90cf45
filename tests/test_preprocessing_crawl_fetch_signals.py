"""What hosts, redirects and files say against use, on the wire: each word counts, and none is lost."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from crawling import QUICK, RULES, Crawl, anything, crawl, read, site, steady
from PIL import Image
from raw_web import PICTURE, Request, Web, reply, serving

from preprocessing.crawl.fetch import FetchConfig, Wanted
from preprocessing.crawl.hosts import ORIGIN_KEPT_S, Memory
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.urls import web_address
from preprocessing.reject import Reason, Rejected

__all__ = ["anything", "crawl"]  # fixtures

DATA = Path(__file__).parent / "data"
CASES = [json.loads(line) for line in (DATA / "cases" / "signals.jsonl").read_text().splitlines()]
CASES = [
    case
    for case in CASES
    if "config" not in case
    and case["where"] != "source"
    and case.get("path") != "/robots.txt"  # which is no picture
    and "delay" not in case.get("text", "").lower()  # which would be waited for
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['where']} {case['why']}")
def test_every_signal_counts_on_the_wire(
    anything: tuple[Web, dict[str, bytes]], tmp_path: Path, case: dict[str, Any]
) -> None:
    """What the cases say of a host, a header or a file decides there too, and nobody's name but ours is asked under."""
    web, table = anything
    table.clear()
    target = case.get("path", "/a.jpg")
    body, headers = PICTURE, {}
    match case["where"]:
        case "header":
            headers = {case["name"]: case["value"]}
        case "robots.txt":
            text = case.get("text", "").encode("utf-8", "surrogateescape")
            table["/robots.txt"] = reply(text, case.get("status", 200))
        case "/.well-known/tdmrep.json":
            table["/.well-known/tdmrep.json"] = reply(case["text"].encode("utf-8", "surrogateescape"))
        case "xmp":
            file = io.BytesIO()
            Image.new("RGB", (8, 8)).save(file, "JPEG", xmp=case["text"].encode())
            body = file.getvalue()
        case "file":
            body = (DATA / "marked" / case["file"]).read_bytes()
    address = web_address(web.url(target))
    if address.target not in table:
        table[address.target] = reply(body, **headers)
    agent = f"{case['agent']}/1.0 (+mailto:test@example.org)"
    (outcome,) = read(tmp_path, web.url(target), user_agent=agent, retries=0)
    assert isinstance(outcome, tuple) == case["keep"], f"{outcome}: {case['why']}"


def test_what_a_redirect_says_holds(crawl: Crawl) -> None:
    """A header beside a Location, and tdmrep.json of the host that redirects, refuse what is behind it, unasked."""
    reserved = reply(b'[{"location": "/old/*", "tdm-reservation": 1}]')

    def answer(request: Request) -> bytes:
        if request.target == "/.well-known/tdmrep.json":
            return reserved if request.host == "127.0.0.2" else reply(status=404)
        if request.target in ("/tagged", "/old/a"):
            tag = "noai" if request.target == "/tagged" else "none"
            return reply(status=301, Location=f"http://127.0.0.3:{web.port}/", X_Robots_Tag=tag)
        return reply(status=404) if request.target == "/robots.txt" else reply(PICTURE)

    with serving(answer, "127.0.0.1", "127.0.0.2", "127.0.0.3") as web:
        urls = [web.url("/tagged"), web.url("/old/a", "127.0.0.2"), web.url("/b", "127.0.0.2")]
        found = crawl(*urls)
    assert [getattr(found[url], "reason", None) for url in urls] == [Reason.OPTED_OUT, Reason.OPTED_OUT, None]
    assert not [request for request in web.requests if request.host == "127.0.0.3"]


def test_what_a_cut_answer_said_is_forgotten(crawl: Crawl, tmp_path: Path) -> None:
    """The evidence is that of the answer which was read whole, and stands there once."""
    whole = reply(PICTURE, X_Robots_Tag="noindex")
    answers = iter([whole[:-9], whole])
    with serving(site(lambda _: next(answers))) as web:
        wanted = [Wanted(web_address(web.url("/a")))]
        visits = [v for batch in arriving(wanted, FetchConfig(**QUICK), Memory(), tmp_path) for v in batch]
    assert [one.text for visit in visits for one in visit.signals.evidence] == ["noindex"]


def test_robots_txt_is_read_again_after_a_day(crawl: Crawl, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a host said yesterday does not hold for ever."""
    memory = Memory()
    with serving(steady(reply(PICTURE))) as web:
        crawl(web.url("/a"), memory=memory)
        crawl(web.url("/b"), memory=memory)
        assert web.counts()["/robots.txt"] == 1
        for known in memory.origins.values():
            known.read_s -= ORIGIN_KEPT_S
        crawl(web.url("/c"), memory=memory)
        assert web.counts()["/robots.txt"] == 2


def test_tdmrep_is_not_lost_to_one_failure(crawl: Crawl) -> None:
    """One that fails at first is asked for once more and refuses; one that always fails refuses nothing."""
    reserved = reply(b'[{"location": "/*", "tdm-reservation": 1}]')
    asked: Counter[str] = Counter()

    def answer(request: Request) -> bytes:
        asked[request.host + request.target] += 1
        if request.target == RULES[0]:
            return reply(status=404)
        if request.target == RULES[1]:
            is_first = asked[request.host + request.target] == 1
            return reply(status=503) if is_first or request.host == "127.0.0.2" else reserved
        return reply(PICTURE)

    with serving(answer, "127.0.0.1", "127.0.0.2") as web:
        found = crawl(web.url("/a"), web.url("/a", "127.0.0.2"))
    refused = found[web.url("/a")]
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.OPTED_OUT
    assert found[web.url("/a", "127.0.0.2")] == PICTURE
    assert asked[f"127.0.0.2{RULES[1]}"] == 2


def test_tdmrep_is_not_asked_for_where_robots_txt_closes_it(crawl: Crawl) -> None:
    """A host that keeps crawlers out of /.well-known is left alone there."""
    rules = {"/robots.txt": reply(b"User-agent: *\nDisallow: /.well-known/\n")}
    with serving(lambda request: rules.get(request.target, reply(PICTURE))) as web:
        assert crawl(web.url("/a")) == {web.url("/a"): PICTURE}
    assert set(web.counts()) == {"/robots.txt", "/a"}
