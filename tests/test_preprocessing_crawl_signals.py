"""Opt-outs: what is said, where it stands, and whether a photograph is kept; by cases and by properties."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preprocessing.crawl.readers import (
    product_tokens,
    read_headers,
    read_photograph,
    read_robots_answer,
    read_source,
    read_tdmrep,
    unreachable_robots,
)
from preprocessing.crawl.signals import Evidence, Place, Signal, Signals, SignalsConfig, policy

DATA = Path(__file__).parent / "data"
CASES = [json.loads(line) for line in (DATA / "cases" / "signals.jsonl").read_text().splitlines()]
US = ("likeness",)
ALL = SignalsConfig()


def picture(packet: bytes) -> bytes:
    """A JPEG with an XMP packet."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", xmp=packet)
    return file.getvalue()


def signals_of(case: dict[str, Any]) -> Signals:
    """What a case says, read."""
    agents = product_tokens(case["agent"])
    match case["where"]:
        case "header":
            return read_headers([(case["name"], case["value"])], agents)
        case "robots.txt":
            return read_robots_answer(case.get("status", 200), case.get("text", ""), case["path"], agents)
        case "/.well-known/tdmrep.json":
            return read_tdmrep(case["text"], case["path"])
        case "xmp":
            return read_photograph(picture(case["text"].encode()))
        case "file":
            return read_photograph((DATA / "marked" / case["file"]).read_bytes())
        case "source":
            return read_source(case["no_cv"])
    raise AssertionError(f"no such place: {case['where']}")


def name_of(case: dict[str, Any]) -> str:
    """A case in a few words."""
    said = case.get("name") or case.get("file") or case.get("path") or ""
    return f"{case['where']} {said} {case['why']}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_photographs_are_kept_or_refused(case: dict[str, Any]) -> None:
    """Each case is kept or refused as it says, by the rule and the line that it names; and its record is JSON."""
    read = signals_of(case)
    verdict = policy(read, SignalsConfig(**case.get("config", {})))
    assert verdict.is_allowed == case["keep"], f"{verdict}: {case['why']}"
    assert (verdict.reason is None) == case["keep"]
    assert verdict.rule == case.get("rule", verdict.rule)
    if not case["keep"]:
        assert verdict.evidence is not None
        assert verdict.evidence.text
    for key in ("line", "group"):
        if key in case:
            assert getattr(verdict.evidence, key) == case[key]
    assert Signals.model_validate_json(read.model_dump_json()) == read


def test_evidence_is_the_line_that_decided() -> None:
    """A refusal by robots.txt names line, group, the words, and the name under which it was asked."""
    text = b"User-agent: *\nAllow: /\n\nUser-agent: Acmebot\nUser-agent: b\nDisallow: /img/  # ours\n"
    read = read_robots_answer(200, text, "/img/a.jpg", product_tokens("acmebot/2.0 (+https://acme.example)"))
    verdict = policy(read, ALL)
    assert verdict.rule == "robots.txt: disallow"
    assert verdict.reason == "robots_disallowed"
    assert verdict.evidence == Evidence(
        signal=Signal.ROBOTS,
        place=Place.ROBOTS_TXT,
        text="Disallow: /img/  # ours",
        says=("disallow",),
        line=6,
        group="Acmebot, b",
        agent="acmebot",
    )
    allowed = policy(read_robots_answer(200, text, "/a.jpg", US), ALL)
    assert allowed.rule == "robots.txt: allow"
    assert allowed.evidence is not None
    assert allowed.evidence.line == 2


def test_each_reason_is_its_signals() -> None:
    """robots.txt, an opt-out and a synthetic picture are different reasons."""
    synthetic = read_photograph((DATA / "marked" / "synthetic.jpg").read_bytes())
    reasons = [
        policy(read, ALL).reason for read in (unreachable_robots("timed out"), read_source(True), synthetic)
    ]
    assert reasons == ["robots_disallowed", "opted_out", "synthetic"]


def test_a_stricter_policy_needs_no_second_look() -> None:
    """Evidence that today's policy keeps a photograph by refuses it under a stricter one, after years in a file."""
    headers = [("X-Robots-Tag", "noindex"), ("Content-Usage", "search=n"), ("X-Robots-Tag", "otherbot: noai")]
    stored = read_headers(headers, US).model_dump_json()
    read = Signals.model_validate_json(stored)
    assert policy(read, ALL).is_allowed
    assert policy(read, SignalsConfig(x_robots_tag=("noindex",))).rule == "x-robots-tag: noindex"
    assert policy(read, SignalsConfig(content_usage=("search",))).rule == "content-usage: search=n"


def test_what_nobody_looked_at_is_said() -> None:
    """A verdict names the honoured signals that were not read; reading a silent file leaves none of its own."""
    assert policy(Signals(), ALL).unread == tuple(Signal)
    read = read_headers([], US) + read_photograph(picture(b"")) + read_source(False)
    assert policy(read, ALL).unread == (Signal.ROBOTS,)
    assert policy(read, SignalsConfig(honoured=(Signal.NO_CV,))).unread == ()


def test_a_header_replaces_the_hosts_file() -> None:
    """A TDM reservation of one answer goes before that of the whole host, unless it says nothing."""
    reserved = read_tdmrep('[{"location": "/", "tdm-reservation": 1}]', "/a.jpg")
    free = read_tdmrep('[{"location": "/", "tdm-reservation": 0}]', "/a.jpg")
    assert not policy(reserved, ALL).is_allowed
    assert policy(reserved + read_headers([("tdm-reservation", "0")], US), ALL).is_allowed
    assert not policy(free + read_headers([("tdm-reservation", "1")], US), ALL).is_allowed
    assert not policy(reserved + read_headers([("tdm-reservation", "what?")], US), ALL).is_allowed


def test_a_redirect_speaks_for_what_it_leads_to() -> None:
    """What a redirect says refuses, and its own reservation is not undone by a header behind it."""
    reserved = read_tdmrep('[{"location": "/", "tdm-reservation": 1}]', "/a.jpg")
    free = read_headers([("tdm-reservation", "0")], US)
    assert policy(reserved + free, ALL).is_allowed
    read = Signals(looked_at=reserved.looked_at, evidence=reserved.evidence).redirected("http://a.example/")
    read += free
    verdict = policy(read, ALL)
    assert (verdict.is_allowed, verdict.rule) == (False, "tdm-reservation: 1")
    assert verdict.unread == policy(free, ALL).unread
    assert policy(Signals().redirected("http://a.example/") + free, ALL).is_allowed
    assert Signals.model_validate_json(read.model_dump_json(exclude_defaults=True)) == read
    assert read.of(Place.FILE).hops == ()
    assert read.of(Place.HEADER).hops == read.hops


def test_one_of_several_headers_is_enough() -> None:
    """A field that comes several times refuses where any of its values does."""
    headers = [("X-Robots-Tag", "otherbot: noindex"), ("x-robots-tag", "noai"), ("X-Robots-Tag", "all")]
    verdict = policy(read_headers(headers, US), ALL)
    assert verdict.rule == "x-robots-tag: noai"
    assert verdict.evidence is not None
    assert (verdict.evidence.name, verdict.evidence.text) == ("x-robots-tag", "noai")
    preferences = read_headers([("Content-Usage", "train-ai=y"), ("Content-Usage", "train-ai=n")], US)
    assert not policy(preferences, ALL).is_allowed


@pytest.mark.parametrize(
    ("user_agent", "tokens"),
    [
        ("likeness/0.1 (+https://h.example)", ("likeness",)),
        ("AcmeBot/1.0 (https://acme.example; me@acme.example) aiohttp/3.14", ("acmebot", "likeness")),
        ("acme-bot", ("acme-bot", "likeness")),
        ("Mozilla/5.0 (compatible; AcmeBot/2.1; +https://acme.example)", ("acmebot", "likeness")),
        ("Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", ("likeness",)),
        ("", ("likeness",)),
        ("()", ("likeness",)),
    ],
)
def test_a_crawler_is_addressed_by_its_own_name_and_ours(user_agent: str, tokens: tuple[str, ...]) -> None:
    """The names asked for are the User-Agent's product and the project's."""
    assert product_tokens(user_agent) == tokens


DIRECTIVES = st.sampled_from(
    ["noindex", "nofollow", "max-snippet:3", "max-image-preview:large", "all", "foo"]
)
BOTS = st.sampled_from(["", "otherbot: ", "googlebot:", "likenessbot : "])


@given(st.lists(DIRECTIVES), st.lists(DIRECTIVES), st.sampled_from(["", "likeness: ", "*:", "LIKENESS/2 :"]))
def test_an_opt_out_is_found_wherever_it_stands(before: list[str], after: list[str], to: str) -> None:
    """An opt-out among any directives refuses, said to all or to this bot; said to another, it does not."""
    value = ", ".join([*before, f"{to}noai", *after])
    assert not policy(read_headers([("X-Robots-Tag", value)], US), ALL).is_allowed, value
    others = ", ".join(["otherbot: noai", *(one for one in after if one != "foo")])
    assert policy(read_headers([("X-Robots-Tag", others)], US), ALL).is_allowed, others


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["X-Robots-Tag", "Content-Usage", "Content-Signal", "tdm-reservation"]), st.text()
        )
    ),
    st.text(),
)
def test_no_header_raises(headers: list[tuple[str, str]], user_agent: str) -> None:
    """Whatever headers hold, they are read, judged, and stored as JSON."""
    read = read_headers(headers, product_tokens(user_agent))
    assert len(read.evidence) == len(headers)
    policy(read, ALL)
    assert Signals.model_validate_json(read.model_dump_json()) == read


@given(st.binary() | st.text(), st.text().map("/".__add__), st.integers(100, 999), st.text())
def test_no_file_of_a_host_raises(body: bytes | str, target: str, status: int, user_agent: str) -> None:
    """Whatever robots.txt and tdmrep.json hold, they are read, judged, and stored as JSON."""
    read = read_robots_answer(status, body, target, product_tokens(user_agent)) + read_tdmrep(body, target)
    policy(read, ALL)
    assert Signals.model_validate_json(read.model_dump_json()) == read


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["location", "tdm-reservation", "x"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_no_json_raises(value: object) -> None:
    """Whatever JSON stands for a tdmrep.json, it is read, judged, and stored."""
    read = read_tdmrep(json.dumps(value), "/a.jpg")
    policy(read, ALL)
    assert Signals.model_validate_json(read.model_dump_json()) == read


def test_no_depth_of_json_raises() -> None:
    """A tdmrep.json nested as deeply as can just be read is read, and what is deeper says nothing."""
    for depth in range(50, 1100, 50):
        nested = "[" * depth + "1" + "]" * depth
        read = read_tdmrep(
            f'[{{"location": "/", "tdm-reservation": {nested}, "tdm-policy": {nested}}}]', "/a.jpg"
        )
        assert policy(read, ALL).is_allowed, depth
