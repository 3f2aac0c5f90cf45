"""The commands ledger and recheck: what was asked, a WARC file that others read, and what was withdrawn since."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from raw_web import PICTURE, Request, Web, reply, serving
from warcio.archiveiterator import ArchiveIterator

from commands import likeness
from flows.stages.crawl import crawl
from flows.stages.work import Context, Inline, Progress
from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from preprocessing.config import BuildConfig
from preprocessing.crawl.summary import summary_of
from storage.datasets.dataset import Dataset
from storage.datasets.manifest import publish, record_build
from storage.digest import bytes_digest
from storage.gathered import Gathered
from storage.store import Store
from storage.tables import table_of

BODIES = {f"/{number}.jpg": PICTURE[:-2] + bytes([number]) + b"\xff\xd9" for number in range(9)}


class Site:
    """A host of photographs with pages, which answers 304 where nothing has changed."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}

    def __call__(self, request: Request) -> bytes:
        """As `serving` asks."""
        if request.target in self.answers:
            return self.answers[request.target]
        if request.target in BODIES:
            tag = f'"{request.target}"'
            if request.headers.get("if-none-match") == tag:
                return reply(status=304, ETag=tag)
            return reply(BODIES[request.target], ETag=tag, X_Robots_Tag="nofollow")
        if request.target.startswith("/page"):
            return reply(b'<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC BY</a>')
        return reply(status=404)


def published(folder: Path, web: Web) -> Dataset:
    """A version whose images are the photographs that a crawl kept, without any face in them."""
    rows = [
        {"url": web.url(target), "license": "CC-BY-4.0", "author": "A", "page": web.url(f"/page{target[1]}")}
        for target in [*BODIES, "/none.jpg"]
    ]
    listed = folder / "urls.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fetch = {"user_agent": "test/1", "allow_networks": ["127.0.0.0/8"], "retries": 0}
    config = BuildConfig.model_validate({"source": f"urls:{listed}", "name": "web", "fetch": fetch})
    store = Store(folder / "store")
    context = Context(store, Inline(), 64, refetch=False, gathered=Gathered)

    def silent(_: Progress) -> None:
        """To nobody."""

    crawled = crawl(context, silent, config)
    items = {row["ref"]: row for row in crawled.items.to_pylist()}
    images = [
        {**items[row["ref"]], "key": row["sha256"], "photo_sha256": row["sha256"]}
        for row in crawled.photos.to_pylist()
    ]
    images.sort(key=lambda row: str(row["key"]))
    rejections = [{**items[row["ref"]], **row} for row in crawled.rejections.to_pylist()]
    dataset = publish(
        store,
        "web",
        settings={"resolution": 32, "source": crawled.source, "config": {}},
        images=iter(
            [table_of(({**dict.fromkeys(IMAGE_SCHEMA.names), **row} for row in images), IMAGE_SCHEMA)]
        ),
        image_schema=IMAGE_SCHEMA,
        rejections=iter([table_of(rejections, REJECTION_SCHEMA)]),
        rejection_schema=REJECTION_SCHEMA,
        shards=[],
        num_photos=crawled.items.num_rows,
    )
    record_build(dataset, {"config": config.resolved()}, datetime.now(UTC))
    return dataset


Command = Callable[..., Any]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs `likeness COMMAND web --json` of the store, and gives what it printed."""

    def run(*arguments: object) -> Any:
        status, out, err = likeness(capsys, *arguments, "--store", tmp_path / "store", "--json")
        assert status == 0, err
        return json.loads(out)

    return run


def test_the_ledger_says_what_was_asked(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Addresses, requests, bytes and refusals are counted by host, by reason and by class."""
    site = Site()
    site.answers = {"/7.jpg": reply(status=403), "/8.jpg": reply(PICTURE, X_Robots_Tag="noai")}
    with serving(site) as web:
        published(tmp_path, web)
    found = command("ledger", "web")
    assert (found["addresses"], found["requests"]) == (10, 10)
    assert sorted((row["reason"], row["class"], row["addresses"]) for row in found["refused"]) == [
        ("http_status", "doubtful", 1),
        ("http_status", "final", 1),
        ("opted_out", "doubtful", 1),
    ]
    [host] = found["hosts"]
    assert (host["kept"], host["refused"], host["signals"]) == (7, 3, 1)
    assert host["num_bytes"] == sum(len(BODIES[f"/{number}.jpg"]) for number in range(7))
    _, out, _ = likeness(capsys, "ledger", "web", "--store", tmp_path / "store")
    assert "10 addresses of 1 host, asked by 10 requests" in out
    assert host["host"] in out


def test_the_ledger_of_a_folder_says_that_nobody_was_asked() -> None:
    """A version of files has no addresses, and the ledger says so in place of a row of zeros."""
    assert list(summary_of([]).lines(20)) == ["no photograph of it came from the web: nobody was asked"]


def test_others_read_the_warc_file(tmp_path: Path, command: Command) -> None:
    """warcio reads every answer with its headers, body and digests, and copies and 304s as revisits; twice the same."""
    site = Site()
    site.answers = {"/1.jpg": reply(BODIES["/0.jpg"], ETag='"copy"'), "/8.jpg": reply(status=403)}
    with serving(site) as web:
        published(tmp_path, web)
        command("recheck", "web")
    path = tmp_path / "web.warc.gz"
    num = command("ledger", "web", "--warc", path)["warc"]["records"]
    first = path.read_bytes()
    command("ledger", "web", "--warc", path)
    assert path.read_bytes() == first
    kinds: dict[str, list[Any]] = {}
    with path.open("rb") as file:
        for record in ArchiveIterator(file, check_digests="raise"):
            body = record.content_stream().read()
            kinds.setdefault(record.rec_type, []).append((record.rec_headers, record.http_headers, body))
    assert sum(map(len, kinds.values())) == num
    bodies = {fields["WARC-Target-URI"]: body for fields, _, body in kinds["response"]}
    for target in ("/0.jpg", "/2.jpg", "/7.jpg"):
        assert bodies[web.url(target)] == BODIES[target]
    statuses = {fields["WARC-Target-URI"]: http.get_statuscode() for fields, http, _ in kinds["response"]}
    assert statuses[web.url("/8.jpg")] == "403"
    assert statuses[web.url("/none.jpg")] == "404"
    profiles = sorted(fields["WARC-Profile"].rpartition("/")[2] for fields, _, _ in kinds["revisit"])
    assert profiles == ["identical-payload-digest"] + ["server-not-modified"] * 7
    [fields] = [fields for fields, _, _ in kinds["revisit"] if "identical" in fields["WARC-Profile"]]
    assert fields["WARC-Target-URI"] == web.url("/1.jpg")
    assert fields["WARC-Refers-To-Target-URI"] == web.url("/0.jpg")
    assert all(fields["WARC-IP-Address"] == "127.0.0.1" for fields, _, _ in kinds["response"])
    assert "looked_at" in kinds["metadata"][0][2].decode()


def test_a_recheck_says_what_was_withdrawn(tmp_path: Path, command: Command) -> None:
    """Photographs that are gone, opted out, closed by robots.txt, or under another licence are told, by signal."""
    site = Site()
    with serving(site) as web:
        dataset = published(tmp_path, web)
        num_requests = len(web.requests)
        before = command("recheck", "web")
        assert (before["photographs"], before["holds"], before["withdrawn"]) == (9, 9, [])
        asked = [request for request in web.requests[num_requests:] if request.target in BODIES]
        assert len(asked) == 9
        assert all("if-none-match" in request.headers for request in asked)
        other = b'<a href="https://creativecommons.org/licenses/by-nc/2.0/">CC BY-NC</a>'
        site.answers = {
            "/robots.txt": reply(b"User-agent: *\nDisallow: /0.jpg\n"),
            "/1.jpg": reply(status=304, X_Robots_Tag="noai"),
            "/2.jpg": reply(status=410),
            "/3.jpg": reply(status=500),
            "/4.jpg": reply(PICTURE),
            "/page5": reply(other),
            "/page6": reply(status=404),
            "/page7": reply(b"no licence at all"),
        }
        found = command("recheck", "web")
    assert (found["holds"], found["unreachable"], found["changed"]) == (3, 1, 1)
    assert {row["ref"].rpartition("/")[2]: row["signal"] for row in found["withdrawn"]} == {
        "0.jpg": "robots.txt",
        "1.jpg": "x-robots-tag",
        "2.jpg": "gone",
        "5.jpg": "license",
        "6.jpg": "page",
    }
    assert found["by_signal"] == dict.fromkeys(["robots.txt", "x-robots-tag", "gone", "license", "page"], 1)
    gone = bytes_digest(BODIES["/2.jpg"])
    assert [row["images"] for row in found["withdrawn"] if row["signal"] == "gone"] == [[gone]]
    records = sorted(dataset.store.path("datasets/web/rechecks").iterdir())
    assert [json.loads(path.read_bytes())["holds"] for path in records] == [9, 3]
    assert dataset.store.original(gone) == BODIES["/2.jpg"], "nothing is removed"


def test_a_recheck_takes_settings_of_fetching_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anything else that is set is an error, and a dry run asks nobody."""
    with serving(Site()) as web:
        published(tmp_path, web)
        num_requests = len(web.requests)
        place = ("--store", tmp_path / "store")
        status, _, err = likeness(capsys, "recheck", "web", "--limit", 3, *place)
        assert (status, "not --limit" in err) == (1, True)
        status, out, _ = likeness(capsys, "recheck", "web", "--fetch.user-agent", "me/2", "--dry-run", *place)
        assert json.loads(out)["fetch"]["user_agent"] == "me/2"
        assert len(web.requests) == num_requests
