"""The fetcher against servers on this machine that are hostile: addresses, names, bodies, headers, certificates."""

from __future__ import annotations

import gzip
import json
import resource
import socket
import ssl
import subprocess
import time
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from crawling import QUICK, RULES, Crawl, anything, crawl, read, site, steady
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_web import PICTURE, Request, Web, reply, serving

from preprocessing.crawl import connect as connect_module
from preprocessing.crawl import fetch as fetch_module
from preprocessing.crawl.fetch import FetchConfig, Wanted
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.readers import read_headers
from preprocessing.crawl.retry import DOUBTFUL, outcome_of
from preprocessing.crawl.urls import web_address
from preprocessing.records import Rejection
from preprocessing.reject import Reason, Rejected
from preprocessing.sources.urls import UrlSource
from storage.digest import bytes_digest
from storage.errors import ConfigError, PipelineError

__all__ = ["anything", "crawl"]  # fixtures


def test_addresses_of_version_6_are_asked(crawl: Crawl) -> None:
    """A host that is an IPv6 address is asked for its rules and its photograph, under its name in brackets."""
    try:
        with serving(steady(reply(PICTURE)), "::1") as web:
            url = web.url("/a", "[::1]")
            assert crawl(url, allow_networks=("::1/128",)) == {url: PICTURE}
            assert {request.headers["host"] for request in web.requests} == {f"[::1]:{web.port}"}
    except OSError:
        pytest.skip("this machine has no ::1")


def test_urls_go_out_as_they_were_given(crawl: Crawl) -> None:
    """Percent-encoding in a list and in a Location reaches the server byte for byte."""
    signed = "/a%2Fb.jpg?X-Signature=ab%2Fcd%3D%27&e="
    with serving(
        site(lambda request: reply(status=302, Location=signed) if "to" in request.target else reply(PICTURE))
    ) as web:
        assert crawl(web.url("/to?x=%2f%41"), web.url(signed)) == {
            web.url("/to?x=%2f%41"): PICTURE,
            web.url(signed): PICTURE,
        }
    assert web.counts()[signed] == 2
    assert web.counts()["/to?x=%2f%41"] == 1


def test_one_address_is_fetched_once_however_it_is_spelled(tmp_path: Path) -> None:
    """Fragments, the case of scheme, and needless escapes make no request, and each line has its outcome."""
    with serving(steady(reply(PICTURE))) as web:
        at = f"127.0.0.1:{web.port}/a-b.jpg"
        urls = [f"http://{at}", f"HTTP://{at}#x", f"http://{at}#y", f"http://{at.replace('-', '%2D')}"]
        outcomes = read(tmp_path, *urls)
    assert [outcome[1] for outcome in outcomes if isinstance(outcome, tuple)] == [PICTURE] * 4
    assert len(web.requests) == len(RULES) + 1


def test_credentials_stay_with_their_host_and_out_of_records(tmp_path: Path) -> None:
    """User and password of a list go to the photograph's own origin, and neither on nor into any record."""
    with serving(steady(reply(PICTURE))) as other:
        onward = {"/here": "/there", "/there": other.url("/elsewhere")}
        with serving(site(lambda request: reply(status=302, Location=onward[request.target]))) as web:
            (outcome,) = read(tmp_path, f"http://user:s%65cret@127.0.0.1:{web.port}/here")
    assert isinstance(outcome, tuple)
    assert outcome[0].ref == web.url("/here")
    sent = {request.target: request.headers.get("authorization") for request in web.requests + other.requests}
    ours = f"Basic {b64encode(b'user:secret').decode()}"
    assert sent == {"/here": ours, "/there": ours, "/elsewhere": None} | dict.fromkeys(RULES)


REFUSED = [
    "127.0.0.1",
    "2130706433",
    "0x7f.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "localhost",
    "10.0.0.1",
    "[fe80::1]",
]


@pytest.mark.parametrize("host", REFUSED)
def test_nothing_is_asked_of_this_machine_by_default(crawl: Crawl, host: str) -> None:
    """An address that is not public has its own rejection and no connection, as a redirect and for robots.txt too."""
    with serving(steady(reply(PICTURE))) as inside:
        target = f"http://{host}:{inside.port}/a.jpg"
        found = crawl(target, allow_networks=())
        assert [answer.reason for answer in found.values() if isinstance(answer, Rejected)] == [
            Reason.ADDRESS_REFUSED
        ]
        with serving(steady(reply(status=302, Location=target)), "127.9.9.9") as web:
            found = crawl(web.url("/", "127.9.9.9"), allow_networks=("127.9.9.9",))
            assert [getattr(answer, "reason", None) for answer in found.values()] == [Reason.ADDRESS_REFUSED]
        with serving(lambda _: reply(status=301, Location=target), "127.9.9.9") as web:
            crawl(web.url("/", "127.9.9.9"), allow_networks=("127.9.9.9",))
        assert inside.num_connections == 0


def test_a_name_that_leads_inside_is_refused_and_rebinding_fails(
    crawl: Crawl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name's addresses only judged ones are connected to, and a second answer of the resolver changes nothing."""
    answers = {
        "inside.example": ["127.0.0.1"],
        "both.example": ["127.0.0.1", "127.9.9.9"],
        "other.example": [],
    }
    asked: list[str] = []

    def getaddrinfo(host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        if not answers.get(host):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port or 0)) for one in answers[host]]

    def answer(request: Request) -> bytes:
        answers["both.example"] = ["127.0.0.1"]
        return reply(PICTURE)

    with serving(site(answer), "127.0.0.1", "127.9.9.9") as web:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        urls = [
            web.url(f"/{n}.jpg", f"{name}.example") for name in ("inside", "both", "other") for n in range(3)
        ]
        found = crawl(*urls, allow_networks=("127.9.9.9",))
    reasons = [getattr(answer, "reason", None) for answer in (found[url] for url in urls)]
    assert reasons == [Reason.ADDRESS_REFUSED] * 3 + [None] * 3 + [Reason.CONNECTION_FAILED] * 3
    assert {request.host for request in web.requests} == {"127.9.9.9"}
    assert sorted(asked) == sorted(answers), "a name is resolved once, whether it is found or not"


def test_names_that_nobody_answers_for_take_no_time_of_others(
    crawl: Crawl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that waits for a thread, since a resolver is silent about others, is looked up in its own time."""

    def getaddrinfo(host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
        if host.startswith("silent"):
            time.sleep(1.5)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port or 0))]

    monkeypatch.setattr(connect_module, "_THREADS", 1)
    monkeypatch.setattr(connect_module, "_LONG_S", 1.0)
    with serving(steady(reply(PICTURE))) as web:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        silent = [web.url("/a", f"silent{number}.example") for number in range(3)]
        good = web.url("/a", "good.example")
        found = crawl(*silent, good, timeout_s=3)
    assert found.pop(good) == PICTURE
    assert {str(one) for one in found.values()} == {"connection_failed: its name cannot be resolved"}


def test_a_bad_certificate_is_final(crawl: Crawl, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A host whose certificate nobody vouches for is connected to once."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout key.pem -out cert.pem"
    try:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl command to make a certificate with")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    handshakes: list[int] = []
    tls.sni_callback = lambda *_: handshakes.append(1)
    with serving(steady(reply(PICTURE)), tls=tls) as web:
        found = crawl(web.url("/a.jpg").replace("http:", "https:"), retries=3)
    (answer,) = found.values()
    assert isinstance(answer, Rejected)
    assert answer.detail == "robots.txt: ClientConnectorCertificateError"
    assert len(handshakes) == 1
    assert web.requests == []


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "HTML with status 200"),
        (b'\xef\xbb\xbf \n<?xml version="1.0"?><html>', "HTML with status 200"),
        (b'{"error": "quota"}', "JSON with status 200"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "no image format with status 200"),
    ],
)
def test_what_is_no_picture_is_told_by_its_first_bytes(crawl: Crawl, body: bytes, detail: str) -> None:
    """A page in a picture's place is rejected for what it is, before the rest of it is read."""
    endless = reply(body + b" " * 10**6).replace(b"Content-Length: 1", b"Content-Length: 9")
    with serving(site(lambda request: reply(body) if request.target == "/small" else endless)) as web:
        found = crawl(web.url("/small"), web.url("/large"), timeout_s=20)
    assert [(answer.reason, answer.detail) for answer in found.values() if isinstance(answer, Rejected)] == [
        (Reason.NOT_AN_IMAGE, detail)
    ] * 2


def test_large_bodies_do_not_stay_in_memory(crawl: Crawl, tmp_path: Path) -> None:
    """Twenty bodies of 19 MiB at once grow the process by less than four of them."""
    body = PICTURE.ljust(19 * 2**20)
    data, sha256 = reply(body), bytes_digest(body)
    hosts = [f"127.0.2.{number}" for number in range(1, 11)]
    with serving(steady(data), *hosts) as web:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        urls = [Wanted(web_address(web.url(f"/{n}", host))) for host in hosts for n in range(2)]
        num_bytes = 0
        for batch in arriving(urls, FetchConfig(**QUICK | {"timeout_s": 120}), Memory(), tmp_path):
            for visit in batch:
                assert visit.body, visit.rejected
                assert visit.body.sha256 == sha256
                num_bytes += visit.body.num_bytes
                visit.body.path.unlink()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert num_bytes == 20 * 19 * 2**20
    assert grown < 4 * 19, f"{grown:.0f} MiB"


def test_headers_may_be_long(crawl: Crawl) -> None:
    """A field of 60,000 bytes, as some put into cookies and policies, is no error."""
    with serving(steady(reply(PICTURE, Content_Security_Policy="x" * 60_000))) as web:
        assert crawl(web.url("/a")) == {web.url("/a"): PICTURE}


def chunked(body: bytes, start: bytes = b"", ext: bytes = b"", end: bytes = b"0\r\n\r\n") -> bytes:
    """An answer in chunks of seven bytes."""
    chunks = [body[at : at + 7] for at in range(0, len(body), 7)]
    lines = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), ext, chunk) for chunk in chunks)
    return start + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n" + lines + end


PLAIN = reply(PICTURE)
ODD = {
    "no words beside the status": PLAIN.replace(b"200 -", b"200", 1),
    "HTTP/1.0 until the connection ends": b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE,
    "told to go on first": b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
    "hints first": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + PLAIN,
    "chunks": chunked(PICTURE),
    "chunks with extensions": chunked(PICTURE, ext=b";a=b"),
    "chunks with trailers": chunked(PICTURE, end=b"0\r\nX-Sum: 1\r\n\r\n"),
    "a field in two lines": PLAIN.replace(b"\r\n", b"\r\nX-A: a\r\n b\r\n", 1),
    "bytes that are no text": PLAIN.replace(b"\r\n", b'\r\nETag: "\xff\xfe"\r\n', 1),
    "1,500 fields": PLAIN.replace(b"\r\n", b"\r\nX-A: b" * 1500 + b"\r\n", 1),
    "gzip": reply(gzip.compress(PICTURE), Content_Encoding="gzip"),
    "deflate": reply(zlib.compress(PICTURE), Content_Encoding="deflate"),
    "deflate without its head": reply(zlib.compress(PICTURE)[2:-4], Content_Encoding="deflate"),
    "gzip by its old name": reply(gzip.compress(PICTURE), Content_Encoding="x-gzip"),
    "gzip in capitals": reply(gzip.compress(PICTURE), Content_Encoding=" X-GZip "),
    "deflate by no name": reply(zlib.compress(PICTURE), Content_Encoding="x-deflate"),
    "gzip in gzip": reply(gzip.compress(gzip.compress(PICTURE)), Content_Encoding="gzip, gzip"),
    "gzip and nothing": reply(gzip.compress(PICTURE), Content_Encoding="identity, gzip"),
    "deflate, then gzip, in two fields": reply(
        gzip.compress(zlib.compress(PICTURE)), Content_Encoding="deflate\r\nContent-Encoding: gzip"
    ),
    "gzip in members": reply(
        gzip.compress(PICTURE[:9]) + gzip.compress(PICTURE[9:]), Content_Encoding="gzip"
    ),
    "gzip with zeros behind": reply(gzip.compress(PICTURE) + b"\0" * 99, Content_Encoding="gzip"),
    "gzip in chunks": chunked(gzip.compress(PICTURE)).replace(
        b"\r\n", b"\r\nContent-Encoding: x-gzip\r\n", 1
    ),
    "what is no coding": reply(PICTURE, Content_Encoding="aws-chunked"),
    "no coding at all": reply(PICTURE, Content_Encoding=""),
    "called a page": reply(PICTURE, Content_Type="text/html"),
}
CUT = {
    "chunks without an end": chunked(PICTURE, end=b""),
    "chunks of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + PICTURE,
    "two fields of 40,000 bytes": PLAIN.replace(b"\r\n", (b"\r\nX-A: " + b"b" * 40_000) * 2 + b"\r\n", 1),
    "gzip that ends early": reply(gzip.compress(PICTURE)[:-9], Content_Encoding="gzip"),
    "gzip without its end": reply(gzip.compress(PICTURE)[:-4], Content_Encoding="x-gzip"),
    "gzip that is none": reply(PICTURE, Content_Encoding="gzip"),
    "gzip once where twice was said": reply(gzip.compress(PICTURE), Content_Encoding="gzip, gzip"),
    "less than was promised": b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + PICTURE,
    "nothing": b"",
    "no HTTP": PICTURE,
}


def test_odd_answers_are_photographs_and_cut_ones_are_not(crawl: Crawl) -> None:
    """Whatever HTTP allows is read; what breaks off or is none is a failure that another build asks again."""
    answers = {f"/{number}": data for number, data in enumerate([*ODD.values(), *CUT.values()])}
    hosts = [f"127.0.3.{number + 1}" for number in range(len(answers))]
    with serving(site(lambda request: answers[request.target]), *hosts) as web:
        urls = [web.url(target, host) for target, host in zip(answers, hosts, strict=True)]
        found = crawl(*urls)
    for name, url in zip([*ODD, *CUT], urls, strict=True):
        if name in ODD:
            assert found[url] == PICTURE, name
        else:
            rejected = found[url]
            assert isinstance(rejected, Rejected), name
            assert rejected.reason is Reason.CONNECTION_FAILED, name


def test_a_coding_that_nobody_asked_for_is_refused_at_once(crawl: Crawl) -> None:
    """A body in a coding that is not read is asked for once, and its rules once; another build asks days later."""
    codings = ("br", "zstd", "gzip, br", "Compress")
    answers = {f"/{name}": reply(PICTURE, Content_Encoding=name) for name in codings}

    def answer(request: Request) -> bytes:
        if request.host == "127.0.0.2" and request.target == "/robots.txt":
            return reply(b"User-agent: *\nAllow: /", Content_Encoding="br")
        return answers.get(request.target.replace("%20", " "), reply(status=404))

    with serving(answer, "127.0.0.1", "127.0.0.2") as web:
        urls = [web.url(target) for target in answers]
        found = crawl(*urls, web.url("/br", "127.0.0.2"), retries=2)
    for url, name in zip(urls, ("br", "zstd", "br", "compress"), strict=True):
        rejected = found[url]
        assert isinstance(rejected, Rejected)
        assert str(rejected) == f"not_an_image: coded as {name}, which nobody asked for"
        assert outcome_of(rejected) == DOUBTFUL
    assert str(found[web.url("/br", "127.0.0.2")]).startswith("server_error: robots.txt: coded as br")
    assert len(web.requests) == len(RULES) + len(urls) + 1


def test_a_bomb_is_left_when_it_is_too_large(crawl: Crawl) -> None:
    """Of bodies that grow as they are decoded no more is decoded than may be had, gzip in gzip too."""
    bomb = gzip.compress(PICTURE.ljust(300 * 2**20), 1)
    answers = {
        "/one": reply(bomb, Content_Encoding="x-gzip"),
        "/two": reply(gzip.compress(bomb), Content_Encoding="gzip, gzip"),
        "/many": reply(gzip.compress(PICTURE) + gzip.compress(b"") * 5000, Content_Encoding="gzip"),
    }
    with serving(site(lambda request: answers[request.target])) as web:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = crawl(*(web.url(target) for target in answers), max_bytes=2**20, timeout_s=60, retries=0)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    reasons = [getattr(found[web.url(target)], "reason", None) for target in answers]
    assert reasons == [Reason.TOO_MANY_BYTES, Reason.TOO_MANY_BYTES, Reason.CONNECTION_FAILED]
    assert grown < 100, f"{grown:.0f} MiB"


def test_rules_may_be_coded(crawl: Crawl) -> None:
    """A robots.txt that comes as gzip, by whatever name, is read."""
    rules = reply(gzip.compress(b"User-agent: *\nDisallow: /"), Content_Encoding="x-gzip")
    with serving(lambda request: rules if request.target == "/robots.txt" else reply(PICTURE)) as web:
        (answer,) = crawl(web.url("/a")).values()
    assert isinstance(answer, Rejected)
    assert answer.reason is Reason.ROBOTS_DISALLOWED


TEXT = st.text(st.characters(exclude_characters="\r\n\0", codec="latin-1"), max_size=60)
FIELDS = st.sampled_from(
    [
        *("Retry-After", "Location", "X-Robots-Tag", "TDM-Reservation", "Content-Usage", "Content-Signal"),
        *("Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Set-Cookie"),
    ]
)
LINES = st.lists(st.tuples(FIELDS, TEXT), max_size=5)
STATUS = st.sampled_from(
    [200, 200, 200, 204, 206, 301, 302, 304, 308, 400, 401, 403, 404, 410, 429, 451, 500, 503, 999]
)
BODIES = st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: PICTURE + data)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer in the form of HTTP with anything in its places, or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    lines = [f"HTTP/1.1 {draw(STATUS)} {draw(TEXT)}", *(f"{name}: {value}" for name, value in draw(LINES))]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + draw(BODIES)


@given(robots=answers(), tdmrep=answers(), photograph=answers())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_a_server_says_raises(
    anything: tuple[Web, dict[str, bytes]], crawl: Crawl, robots: bytes, tdmrep: bytes, photograph: bytes
) -> None:
    """Whatever stands in headers, bodies, Locations and rules, each address has an outcome, and no error is ours."""
    web, table = anything
    table.clear()
    table |= {"/robots.txt": robots, "/.well-known/tdmrep.json": tdmrep, "/a": photograph}
    found = crawl(web.url("/a"), web.url("/b"), timeout_s=0.5, retries=0, max_wait_s=0, max_redirects=2)
    assert len(found) == 2
    for answer in found.values():
        assert isinstance(answer, bytes) or answer.reason is not Reason.UNEXPECTED_ERROR, answer.detail


@given(
    st.lists(
        st.text(max_size=40)
        | st.text(st.characters(categories=["Cs", "L", "P"]), max_size=20).map("http://127.0.0.1:1/{}".format)
        | st.text("htps:/@[]%0123456789.\\ ab", max_size=30).map("http://{}".format),
        max_size=5,
    )
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_a_list_says_raises(tmp_path: Path, texts: list[str]) -> None:
    """Any text in the place of a URL is rejected at most, and its record is Unicode text."""

    def getaddrinfo(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    path = tmp_path / "urls.jsonl"
    path.write_text("".join(json.dumps({"url": text}) + "\n" for text in texts if text.strip()))
    source = UrlSource.open(str(path), FetchConfig(user_agent="test/1", retries=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        outcomes = list(source.read(source.items()))
    found = {outcome.ref for outcome in outcomes if isinstance(outcome, Rejection)}
    assert found == {item.ref for item in source.items()}
    assert len(found) == len(outcomes)
    for outcome in outcomes:
        assert isinstance(outcome, Rejection)
        assert outcome.reason is not Reason.UNEXPECTED_ERROR
        assert outcome.ref.encode()


def test_an_error_of_ours_costs_one_address(crawl: Crawl, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody thought of rejects its address with the error's type, which is counted, and the others go on."""

    def broken(headers: Any, agents: Any) -> Any:
        if any(value == "b" for _, value in headers):
            raise ZeroDivisionError
        return read_headers(headers, agents)

    monkeypatch.setattr(fetch_module, "read_headers", broken)
    with serving(site(lambda request: reply(PICTURE, X_Which=request.target[1:]))) as web:
        found = crawl(web.url("/a"), web.url("/b"), web.url("/c"))
    assert found[web.url("/a")] == found[web.url("/c")] == PICTURE
    answer = found[web.url("/b")]
    assert isinstance(answer, Rejected)
    assert (answer.reason, answer.detail) == (Reason.UNEXPECTED_ERROR, "ZeroDivisionError")


def test_a_disk_that_takes_nothing_ends_the_crawl(tmp_path: Path) -> None:
    """What this machine cannot do is one error that names the folder, and no photograph's rejection."""
    with serving(steady(reply(PICTURE))) as web:
        addresses = [Wanted(web_address(web.url("/a"))), Wanted(web_address(web.url("/b")))]
        outcomes = arriving(addresses, FetchConfig(**QUICK), Memory(), tmp_path / "gone")
        with pytest.raises(PipelineError, match="gone cannot be written to"):
            [visit.body.path for batch in outcomes for visit in batch if visit.body]


def test_a_public_host_must_know_who_asks(tmp_path: Path) -> None:
    """With the default user agent, which names nobody, a public host is an error and a local one is not."""
    default = FetchConfig().user_agent
    with pytest.raises(ConfigError, match=r"--fetch\.user-agent"):
        read(tmp_path, "http://127.0.0.1:1/a", "http://photos.example/a.jpg", user_agent=default)
    (outcome,) = read(tmp_path, "http://127.0.0.1:1/a", user_agent=default, retries=0)
    assert isinstance(outcome, Rejection)
