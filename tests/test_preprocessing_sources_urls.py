"""Lists of URLs, and fetching them from a real server on this machine."""

from __future__ import annotations

import asyncio
import csv
import json
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from flows.stages.listing import listing
from preprocessing.config import BuildConfig
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.records import Item, Rejection
from preprocessing.reject import TRANSIENT, Reason
from preprocessing.sources import open_source
from storage.digest import bytes_digest
from storage.errors import SourceError

QUICK = FetchConfig(
    user_agent="likeness-test",
    timeout_s=5,
    retries=2,
    backoff_s=0.01,
    max_bytes=100_000,
    allow_networks=("127.0.0.0/8",),
)
BODY = b"\xff\xd8 a photograph \xff\xd9"
LARGE = BODY.ljust(100_001)
TDMREP = "/.well-known/tdmrep.json"


class Server:
    """An HTTP server in a thread of its own that counts what it is asked."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.times: list[float] = []
        self.now = self.most_at_once = 0
        self.robots = (404, "")
        self.tdmrep = (404, "")
        self.headers: list[dict[str, str]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.base = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(120)

    async def _start(self) -> str:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return "http://{}:{}".format(*self._runner.addresses[0])

    def stop(self) -> None:
        """End the server and its thread."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(120)
        self._loop.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests[request.path] += 1
        self.times.append(time.monotonic())
        self.headers.append(dict(request.headers))
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            return await self._answer(request)
        finally:
            self.now -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, again = request.path, self.requests[request.path] > 1
        if path == TDMREP:
            return web.Response(status=self.tdmrep[0], text=self.tdmrep[1])
        if path == "/robots.txt":
            return web.Response(status=self.robots[0], text=self.robots[1])
        if path.startswith("/status/"):
            return web.Response(status=int(path.removeprefix("/status/")))
        if path == "/busy-once":
            return web.Response(body=BODY) if again else web.Response(status=503)
        if path == "/wait-once":
            return (
                web.Response(body=BODY) if again else web.Response(status=429, headers={"Retry-After": "1"})
            )
        if path == "/slow":
            await asyncio.sleep(5)
        if path == "/work":
            await asyncio.sleep(0.2)
        if path == "/cut":
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(BODY)
            assert request.transport is not None
            request.transport.close()
            return response
        if path == "/endless":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(BODY)
            for _ in range(1000):
                await response.write(b"x" * 10_000)
            return response
        if path == "/large":
            return web.Response(body=LARGE)
        if path == "/noai":
            return web.Response(body=BODY, headers={"X-Robots-Tag": "noindex, NoAI"})
        if path == "/others":
            return web.Response(body=BODY, headers={"X-Robots-Tag": "otherbot: noai"})
        if path == "/us":
            return web.Response(body=BODY, headers={"X-Robots-Tag": "likeness: noimageai"})
        if path.startswith("/to/"):
            return web.Response(status=302, headers={"Location": request.query["target"]})
        if path == "/circle":
            return web.Response(status=301, headers={"Location": "/circle"})
        return web.Response(body=BODY)


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server."""
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def fetch(tmp_path: Path, server: Server) -> Callable[..., list[bytes | Rejection]]:
    """Fetches paths of the server, or whole URLs, through a list and a source."""

    def fetched(*urls: str, config: FetchConfig = QUICK) -> list[bytes | Rejection]:
        path = tmp_path / "urls.txt"
        path.write_text("\n".join(url if ":" in url.split("?")[0] else server.base + url for url in urls))
        source = open_source(f"urls:{path}", config)
        items = source.items()
        outcomes: dict[str, bytes | Rejection] = {}
        for outcome in source.read(items):
            if isinstance(outcome, Rejection):
                outcomes[outcome.ref] = outcome
            else:
                outcomes[outcome[0].ref] = outcome[1]
        return [outcomes[item.ref] for item in items]

    return fetched


Fetch = Callable[..., list[bytes | Rejection]]


def reason(outcome: bytes | Rejection) -> tuple[Reason, str | None]:
    """Reason and detail of a rejection."""
    assert isinstance(outcome, Rejection), f"fetched {outcome!r}"
    return outcome.reason, outcome.detail


def test_good_urls_give_their_bytes(fetch: Fetch, server: Server) -> None:
    """Each body arrives as it is, with one request each, one robots.txt and tdmrep.json, and the bot's name."""
    assert fetch("/a", "/b?x=1", "/c") == [BODY] * 3
    assert server.requests == {"/robots.txt": 1, TDMREP: 1, "/a": 1, "/b": 1, "/c": 1}
    assert {headers["User-Agent"] for headers in server.headers} == {"likeness-test"}


def test_lasting_failures_are_asked_for_once(fetch: Fetch, server: Server) -> None:
    """404, 410 and 403 are final: one request, and the status as detail."""
    outcomes = fetch("/status/404", "/status/410", "/status/403", "/status/204")
    assert [reason(outcome) for outcome in outcomes] == [
        (Reason.HTTP_STATUS, status) for status in ("404", "410", "403", "204")
    ]
    assert server.requests["/status/404"] == 1


def test_passing_failures_are_tried_again(fetch: Fetch, server: Server) -> None:
    """A server busy once gives the photograph; one that stays so is asked three times, then is a passing reason."""
    good, bad, limited = fetch("/busy-once", "/status/503", "/status/429")
    assert good == BODY
    assert reason(bad) == (Reason.SERVER_ERROR, "503")
    assert reason(limited) == (Reason.SERVER_ERROR, "429")
    assert Reason.SERVER_ERROR in TRANSIENT
    assert (server.requests["/busy-once"], server.requests["/status/503"]) == (2, 3)


def test_retry_after_is_waited_for_in_full_or_the_host_is_put_off(fetch: Fetch, server: Server) -> None:
    """A wish to wait a second is granted whatever our own longest wait; one beyond max_wait_s ends the host for now."""
    began = time.monotonic()
    assert fetch("/wait-once", config=QUICK.model_copy(update={"max_backoff_s": 0.1})) == [BODY]
    assert time.monotonic() - began >= 1.0
    server.requests.clear()
    (put_off,) = fetch("/wait-once", config=QUICK.model_copy(update={"max_wait_s": 0.5}))
    assert reason(put_off)[0] is Reason.SERVER_ERROR
    assert (reason(put_off)[1] or "").startswith("429, asks to be left alone until 2")
    assert server.requests["/wait-once"] == 1


def test_time_outs_and_cut_connections_have_their_reasons(fetch: Fetch, server: Server) -> None:
    """Slow answers, bodies that end early, and ports where nobody listens are told apart, and tried again."""
    config = QUICK.model_copy(update={"timeout_s": 1.0, "retries": 1})
    slow, cut = fetch("/slow", "/cut", config=config)
    assert reason(slow) == (Reason.TIMED_OUT, "after 1 s")
    assert reason(cut)[0] is Reason.CONNECTION_FAILED
    assert (server.requests["/slow"], server.requests["/cut"]) == (2, 2)
    closed = QUICK.model_copy(update={"respect_robots": False, "retries": 0})
    assert reason(fetch("http://127.0.0.1:9/a", config=closed)[0])[0] is Reason.CONNECTION_FAILED
    (unreachable,) = fetch("http://127.0.0.1:9/a", config=QUICK.model_copy(update={"retries": 0}))
    assert reason(unreachable) == (Reason.CONNECTION_FAILED, "robots.txt: ClientConnectorError")


def test_large_bodies_are_not_read(fetch: Fetch) -> None:
    """More than max_bytes is refused, by its header or, where there is none, while it streams."""
    for outcome in fetch("/large", "/endless"):
        assert reason(outcome) == (Reason.TOO_MANY_BYTES, "more than 100000")
    assert fetch("/large", config=QUICK.model_copy(update={"max_bytes": 100_001})) == [LARGE]


def test_robots_txt_is_obeyed(fetch: Fetch, server: Server) -> None:
    """What it disallows for all, or for this bot, is not asked for; with respect_robots off it is not read."""
    server.robots = (200, "User-agent: *\nDisallow: /private/*.jpg$\n")
    allowed, refused = fetch("/public.jpg", "/private/a.jpg")
    assert allowed == BODY
    disallowed = (Reason.ROBOTS_DISALLOWED, "Disallow: /private/*.jpg$, line 2 of robots.txt")
    assert reason(refused) == disallowed
    assert server.requests == {"/robots.txt": 1, TDMREP: 1, "/public.jpg": 1}
    server.robots = (200, "User-agent: *\nAllow: /\n\nUser-agent: likeness\nDisallow: /\n")
    assert reason(fetch("/public.jpg")[0])[0] is Reason.ROBOTS_DISALLOWED
    assert fetch("/private/a.jpg", config=QUICK.model_copy(update={"respect_robots": False})) == [BODY]
    assert server.requests["/robots.txt"] == 2


def test_robots_txt_that_is_broken_forbids_for_now(fetch: Fetch, server: Server) -> None:
    """401 allows everything; 500 is a passing failure for every URL, found out once."""
    server.robots = (401, "")
    assert fetch("/a") == [BODY]
    server.robots = (500, "")
    server.requests.clear()
    outcomes = fetch("/a", "/b", "/c")
    assert [reason(outcome) for outcome in outcomes] == [(Reason.SERVER_ERROR, "robots.txt: 500")] * 3
    assert server.requests == {"/robots.txt": 3}


def test_robots_txt_is_asked_for_once_a_source(tmp_path: Path, server: Server) -> None:
    """Reading a source in several calls asks for robots.txt once, and its Crawl-delay holds between them."""
    server.robots = (200, "User-agent: *\nCrawl-delay: 0.2\n")
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(f"{server.base}/{number}" for number in range(4)))
    source = open_source(f"urls:{path}", QUICK)
    start = time.monotonic()
    for item in source.items():
        assert list(source.read([item])) == [(item, BODY)]
    assert server.requests["/robots.txt"] == 1
    assert time.monotonic() - start >= 4 * 0.2


def test_opt_outs_are_honoured(fetch: Fetch) -> None:
    """X-Robots-Tag noai and noimageai reject, for all bots and for this one, unless told otherwise."""
    for_all, for_others, for_us = fetch("/noai", "/others", "/us")
    assert reason(for_all) == (Reason.OPTED_OUT, "x-robots-tag: noai")
    assert for_others == BODY
    assert reason(for_us) == (Reason.OPTED_OUT, "x-robots-tag: noimageai")
    assert fetch("/noai", config=QUICK.model_copy(update={"respect_opt_out": False})) == [BODY]


def test_redirects_lead_to_http_only(fetch: Fetch, server: Server) -> None:
    """A redirect is followed, robots.txt asked anew; to a file, in circles or to nonsense it is rejected."""
    good, file, circle, nonsense = fetch(
        "/to/?target=/end", "/to/1?target=file:///etc/passwd", "/circle", "/to/2?target=http%3A%2F%2F%5B"
    )
    assert good == BODY
    assert reason(file) == (Reason.BAD_URL, "redirect to file, not http or https")
    assert reason(circle) == (Reason.HTTP_STATUS, "more than 5 redirects")
    assert reason(nonsense)[0] is Reason.BAD_URL
    assert server.requests["/circle"] == 6
    server.robots = (200, "User-agent: *\nDisallow: /end\n")
    assert reason(fetch("/to/?target=/end")[0])[0] is Reason.ROBOTS_DISALLOWED


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/a.jpg", "http://", "https:///a.jpg", "http://[", "http://a..b/x.jpg"],
)
def test_urls_that_are_not_http_are_rejected(fetch: Fetch, url: str) -> None:
    """Other schemes and malformed addresses are rejections, and nothing is opened."""
    assert reason(fetch(url)[0])[0] is Reason.BAD_URL


def test_a_host_is_asked_for_little_at_once(fetch: Fetch, server: Server) -> None:
    """However many URLs there are, at most per_host_concurrency requests run at one host."""
    assert fetch(*(f"/work?{number}" for number in range(12))) == [BODY] * 12
    assert server.most_at_once == 2
    server.most_at_once = 0
    fetch(
        *(f"/work?{number}" for number in range(12)),
        config=QUICK.model_copy(update={"per_host_concurrency": 5}),
    )
    assert 2 < server.most_at_once <= 5


def test_the_delay_between_requests_is_kept(fetch: Fetch, server: Server) -> None:
    """With per_host_delay_s, or Crawl-delay in robots.txt, requests start that far apart."""
    fetch("/a", "/b", "/c", config=QUICK.model_copy(update={"per_host_delay_s": 0.5}))
    gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert len(gaps) == 4
    assert min(gaps) > 0.25, gaps
    server.times.clear()
    server.robots = (200, "User-agent: *\nCrawl-delay: 0.5\n")
    fetch("/a", "/b", "/c")
    gaps = [after - before for before, after in zip(server.times[1:], server.times[2:], strict=False)]
    assert min(gaps) > 0.25, gaps


def test_fetching_works_inside_a_running_loop(tmp_path: Path, server: Server) -> None:
    """A caller that itself runs an event loop can read a source."""
    path = tmp_path / "urls.txt"
    path.write_text(f"{server.base}/a")
    source = open_source(f"urls:{path}", QUICK)

    async def inside() -> list[object]:
        return list(source.read(source.items()))

    assert len(asyncio.run(inside())) == 1


def test_a_promised_checksum_is_kept(tmp_path: Path, server: Server) -> None:
    """A body that is not the promised one is rejected with its own digest on record."""
    path = tmp_path / "urls.jsonl"
    rows = [
        {"url": f"{server.base}/a", "sha256": bytes_digest(BODY)},
        {"url": f"{server.base}/b", "sha256": "0" * 64},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    source = open_source(f"urls:{path}", QUICK)
    good, bad = sorted(source.read(source.items()), key=lambda outcome: isinstance(outcome, Rejection))
    assert isinstance(good, tuple)
    assert isinstance(bad, Rejection)
    assert (bad.reason, bad.photo_sha256) == (Reason.CHECKSUM_MISMATCH, bytes_digest(BODY))


ROWS = [
    {"url": "https://a.org/1.jpg", "license": "CC-BY-4.0", "license_url": "https://l", "author": "Å. Ö, jr."},
    {"url": "https://a.org/2.jpg", "title": 'A "title"', "page": "https://p", "sha256": "ab" * 32},
]
ITEMS = [
    Item("https://a.org/1.jpg", license="CC-BY-4.0", license_url="https://l", author="Å. Ö, jr."),
    Item("https://a.org/2.jpg", title='A "title"', page="https://p", expected_sha256="ab" * 32),
]
COLUMNS = ["url", "license", "license_url", "author", "title", "page", "sha256"]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_every_table_format_gives_the_same_items(tmp_path: Path, format: str) -> None:
    """csv, jsonl and parquet carry the same metadata; what is missing is None; pickling keeps the source."""
    path = tmp_path / f"list.{format}"
    if format == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(ROWS)
    elif format == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    else:
        columns = {name: [row.get(name) for row in ROWS] for name in COLUMNS}
        pq.write_table(pa.table(columns | {"width": [1, 2]}), path)
    source = pickle.loads(pickle.dumps(open_source(f"urls:{path}", QUICK)))
    assert source.items() == ITEMS
    assert str(tmp_path) not in json.dumps(source.description())


def test_text_lists_have_comments_and_repeats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Blank lines and comments are skipped, a URL listed twice is taken once, and the repeats are counted."""
    path = tmp_path / "list.txt"
    path.write_text("# mine\nhttps://a/1#x\n\n  https://a/2 \nhttps://a/1#x\n# end\n")
    assert open_source(f"urls:{path}", QUICK).items() == [Item("https://a/1#x"), Item("https://a/2")]
    assert "lists 1 URL more than once" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "link,author\nx,y\n", r"a\.csv:1 has no column url, but link, author"),
        ("a.csv", "", r"a\.csv:1 has no column url"),
        ("a.csv", "url,author\n,B\n", r"a\.csv:2 lacks its url"),
        ("a.tsv", 'url\tauthor\nhttps://a\t"A\nhttps://b\t"B\n', r"a\.tsv:\d is not CSV"),
        ("a.jsonl", '{"url": \n', r"a\.jsonl:1 is not JSON"),
        ("a.jsonl", '{"link": "https://a"}\n', r"a\.jsonl:1 has no column url, but link: --sources"),
        ("a.jsonl", "[]\n", r"a\.jsonl:1 is not a JSON object"),
        ("a.jsonl", '{"url": "https://a", "sha256": "xyz"}\n', r"a\.jsonl:1 sha256 'xyz'"),
        ("a.parquet", "no parquet", r"a\.parquet is not a readable Parquet file"),
        ("a.xlsx", "", r"a\.xlsx is none of \.txt, \.csv, \.tsv, \.jsonl, \.parquet"),
    ],
)
def test_bad_lists_name_their_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    """A list of which nothing can be read is one error that names file and line."""
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=message):
        open_source(f"urls:{tmp_path / name}", QUICK).items()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_table_says_each_thing_once(tmp_path: Path, suffix: str) -> None:
    """Two columns of one name are an error, since licences may differ; others may stand there as often as they like."""
    values = ["https://a", "CC0-1.0", "CC-BY-ND-4.0", "x", "y"]
    for names in (["url", "license", "license", "n", "n"], ["url", "license", "note", "n", "n"]):
        path = tmp_path / f"{names[2]}.{suffix}"
        if suffix == "parquet":
            pq.write_table(pa.table([[value] for value in values], names=names), path)
        else:
            between = " , " if suffix == "csv" else "\t"
            path.write_text(between.join(names) + "\n" + between.strip(" ").join(values) + "\n")
        source = open_source(f"urls:{path}", QUICK)
        if "note" in names:
            assert [item.license for item in source.items()] == ["CC0-1.0"]
        else:
            with pytest.raises(SourceError, match="several columns license"):
                source.items()


WRONG = {
    "{": "is not JSON",
    "[]": "is not a JSON object",
    '{"link": "https://b"}': "has no column url, but link",
    '{"\\ud800": 1}': "has no column url, but \\ud800",
    '{"url": "https://b", "license": "CC0-1.0", "license": "CC-BY-ND-4.0"}': "is not JSON: a name stands",
    '{"url": null}': "lacks its url",
    '{"url": " "}': "lacks its url",
    '{"url": "https://b", "author": 7}': "author is 7, not text",
    '{"url": "https://b", "author": "\\ud800"}': "author '\\ud800' is not Unicode text",
    '{"url": "https://b", "sha256": "xyz"}': "sha256 'xyz'",
    '{"url": "https://a", "author": "B"}': "says other things about https://a than a line before",
}


def test_a_line_that_cannot_be_understood_is_rejected(tmp_path: Path) -> None:
    """Each is counted under its own number and says why; the others are taken, and a strict build takes none."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(['{"url": "https://a", "author": "A"}', *WRONG]))
    config = BuildConfig(source=f"urls:{path}")
    source = open_source(config.source, QUICK)
    listed, rejections = listing(source, config)
    refs = [f"a.jsonl:{number}" for number in range(2, len(WRONG) + 2)]
    assert listed["ref"].to_pylist() == ["https://a", *refs]
    assert rejections["ref"].to_pylist()[1:] == refs  # the first of all says no licence
    assert set(rejections["reason"].to_pylist()[1:]) == {"bad_metadata"}
    for detail, why in zip(rejections["detail"].to_pylist()[1:], WRONG.values(), strict=True):
        assert detail.startswith(why), detail
    again = pickle.loads(pickle.dumps(source))
    assert {one.reason for one in again.read(source.items()[1:])} == {Reason.BAD_METADATA}
    with pytest.raises(SourceError, match=r"/a\.jsonl:2 is not JSON.*without --strict"):
        listing(source, config.model_copy(update={"strict": True}))


def test_missing_and_binary_lists_are_told(tmp_path: Path) -> None:
    """A list that is not there, is a folder or is no text is an error that names it."""
    with pytest.raises(SourceError, match=r"none\.txt does not exist"):
        open_source(f"urls:{tmp_path / 'none.txt'}", QUICK)
    with pytest.raises(SourceError, match="is not a file"):
        open_source(f"urls:{tmp_path}", QUICK)
    (tmp_path / "a.txt").write_bytes(b"https://a\n\xff\xfe")
    with pytest.raises(SourceError, match="is not UTF-8 text, at byte 10"):
        open_source(f"urls:{tmp_path / 'a.txt'}", QUICK).items()
