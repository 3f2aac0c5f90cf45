"""The stage `crawl` in processes of its own: killed again and again, by several workers, and by what lists say."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from raw_web import PICTURE, Request, Web, reply, serving

from flows.operations.cluster import open_workers
from flows.stages.crawl import Crawled, crawl
from flows.stages.screen import screened
from flows.stages.work import Context, Inline, Progress
from preprocessing.config import BuildConfig
from preprocessing.crawl.blocklist import BlockConfig
from preprocessing.crawl.ledger import Ledger
from preprocessing.crawl.signals import SignalsConfig
from preprocessing.crawl.urls import web_address
from storage.digest import bytes_digest
from storage.gathered import Gathered
from storage.store import Store, original_key
from storage.tombstones import Tombstones

ROOT = Path(__file__).resolve().parent.parent
HOSTS = [f"127.0.4.{number}" for number in range(1, 5)]
SCRIPT = """
import json, sys
from flows.stages.crawl import crawl
from flows.stages.work import Context, Inline
from preprocessing.config import BuildConfig
from storage.gathered import Gathered
from storage.store import Store
context = Context(Store(sys.argv[1]), Inline(), 64, refetch=False, gathered=Gathered)
crawl(context, lambda _: None, BuildConfig.model_validate(json.loads(sys.argv[2])))
"""


def config_of(listed: Path, **fetch: Any) -> BuildConfig:
    """A build of a list from this machine."""
    quick = {"user_agent": "test/1", "allow_networks": ["127.0.0.0/8"], "retries": 0}
    return BuildConfig.model_validate({"source": f"urls:{listed}", "fetch": quick | fetch})


def list_of(path: Path, web: Web, num: int, hosts: list[str]) -> Path:
    """A list of so many photographs, on hosts in turn."""
    urls = [web.url(f"/{number}.jpg", hosts[number % len(hosts)]) for number in range(num)]
    path.write_text("".join(json.dumps({"url": url, "license": "CC0-1.0"}) + "\n" for url in urls))
    return path


def outcomes(crawled: Crawled) -> list[Any]:
    """All that a version depends on: of ranks, the order."""
    photos = crawled.photos.drop_columns(["rank"])
    order = crawled.photos.sort_by("rank")["ref"]
    return [table.to_pylist() for table in (crawled.items, photos, crawled.rejections, order)]


def silent(_: Progress) -> None:
    """A report to nobody."""


def answer(request: Request) -> bytes:
    """Photographs that differ, a page that is missing now and then, and no rules; an answer takes some time."""
    if not request.target.endswith(".jpg"):
        return reply(status=404)
    time.sleep(0.005)
    number = int(request.target[1:].partition(".")[0])
    return (
        reply(status=404) if number % 10 == 9 else reply(PICTURE[:-2] + request.target.encode() + b"\xff\xd9")
    )


def test_a_kill_costs_what_was_under_way(tmp_path: Path) -> None:
    """Killed again and again, a crawl asks for nothing that is on record, and ends as one that was not."""
    until = 0

    def answered(request: Request) -> bytes | None:
        return answer(request) if len(web.requests) <= until else None  # silent until the kill

    with serving(answered, *HOSTS) as web:
        config = config_of(list_of(tmp_path / "urls.jsonl", web, 240, HOSTS))
        store = Store(tmp_path / "killed")
        command = [sys.executable, "-c", SCRIPT, str(store.root), config.model_dump_json()]
        for seed in range(4):
            before, on_record = len(web.requests), set()
            if seed:
                with Ledger(store).read() as held:
                    on_record = {entry.url for entry in held.each()}
            until = before + random.Random(seed).randint(40, 70)
            process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
            while len(web.requests) < until and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            asked = {web.url(one.target, one.host) for one in web.requests[before:]}
            assert not asked & on_record, "an address on record was asked again"
        until = 10_000
        crawled = crawl(Context(store, Inline(), 64, refetch=False, gathered=Gathered), silent, config)
        counts = web.counts()
        again = sum(counts[f"/{number}.jpg"] - 1 for number in range(240))
        assert 0 < again < 4 * 70
        assert sum(counts[target] for target in counts if ".jpg" not in target) <= 2 * len(HOSTS) * 5
        other = Store(tmp_path / "whole")
        whole = crawl(Context(other, Inline(), 64, refetch=False, gathered=Gathered), silent, config)
    assert outcomes(crawled) == outcomes(whole)
    assert len(crawled.photos) == 216
    assert list(store.path("incoming").iterdir()) == []
    assert all(store.exists(original_key(sha256)) for sha256 in crawled.photos["sha256"].to_pylist())


def test_workers_share_the_hosts(tmp_path: Path) -> None:
    """Several processes fetch, each host is asked by one, and the outcome is that of one process."""
    with (
        serving(answer, *HOSTS) as web,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        config = config_of(list_of(tmp_path / "urls.jsonl", web, 60, HOSTS))
        with open_workers(cluster.scheduler_address, None) as workers:
            context = Context(Store(tmp_path / "shared"), workers, 64, refetch=False, gathered=Gathered)
            shared = crawl(context, silent, config, num_workers=3)
            rules = sum(count for target, count in web.counts().items() if ".jpg" not in target)
            assert rules == 2 * len(HOSTS)
            num_requests = len(web.requests)
            assert crawl(context, silent, config, num_workers=2).reused == 60
            assert len(web.requests) == num_requests
        alone = crawl(
            Context(Store(tmp_path / "alone"), Inline(), 64, refetch=False, gathered=Gathered), silent, config
        )
    assert outcomes(shared) == outcomes(alone)


def here(store: Store) -> Context:
    """Work in this process."""
    return Context(store, Inline(), 64, refetch=False, gathered=Gathered)


def reasons_of(crawled: Crawled) -> dict[str, str]:
    """The reason of each rejection, by the number of its photograph."""
    rows = crawled.rejections.to_pylist()
    return {row["ref"].rpartition("/")[2].removesuffix(".jpg"): row["reason"] for row in rows}


def test_what_is_buried_never_returns(tmp_path: Path) -> None:
    """Tombstones of address, host, author and hash refuse before a request, behind a redirect, and of what is kept; no
    item, no rejection and no count is left of it."""
    bodies = {f"/{number}.jpg": PICTURE[:-2] + bytes([number]) + b"\xff\xd9" for number in range(6)}
    answers = {target: reply(body) for target, body in bodies.items()}
    with serving(lambda request: answers.get(request.target, reply(status=404)), *HOSTS[:2]) as web:
        answers["/5.jpg"] = reply(status=302, Location=web.url("/0.jpg", HOSTS[0]))
        rows = [
            {"url": web.url(f"/{n}.jpg", HOSTS[0]), "license": "CC-BY-4.0", "author": f"No {n}"}
            for n in range(6)
        ]
        rows.append({"url": web.url("/1.jpg", HOSTS[1]), "license": "CC0-1.0"})
        listed = tmp_path / "urls.jsonl"
        listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config, store = config_of(listed), Store(tmp_path / "store")
        assert len(screened(crawl(here(store), silent, config), here(store), config).photos) == 7
        removed = tmp_path / "removed.txt"
        removed.write_text(hashlib.md5(bodies["/3.jpg"]).hexdigest() + "\n")
        config = config.model_copy(update={"block": BlockConfig(md5=(removed,))})
        for other in (store, Store(tmp_path / "other")):
            Tombstones(other).bury(
                [
                    ("url", web_address(rows[0]["url"]).key),
                    ("host", HOSTS[1]),
                    ("author", "no  2"),
                    ("sha256", bytes_digest(bodies["/4.jpg"])),
                ]
            )
            web.requests.clear()
            found = screened(crawl(here(other), silent, config), here(other), config)
            first, second = HOSTS[:2]
            listed_now = {(web_address(ref).host, ref[-5]) for ref in found.items["ref"].to_pylist()}
            # the store's own photograph of 5 came through a redirect that leads to a tombstone now
            came_before = {(first, "5")} if other is store else set()
            assert listed_now == {(first, "1"), (first, "3")} | came_before, "a tombstone leaves a trace"
            assert reasons_of(found) == {"3": "blocked_md5"}
            asked = {(request.host, request.target) for request in web.requests}
            assert not asked & {
                (first, "/0.jpg"),
                (first, "/2.jpg"),
                (second, "/1.jpg"),
                (second, "/robots.txt"),
            }
        kept = {path.name for path in other.path("originals").rglob("*") if path.is_file()}
        assert kept == {bytes_digest(bodies["/1.jpg"])}


def test_lists_of_hashes_read_each_photograph_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without new photographs reads none of them for lists of MD5 and PDQ, and refuses by them all the same."""
    bodies = {f"/{number}.jpg": PICTURE[:-2] + bytes([number]) + b"\xff\xd9" for number in range(3)}
    with serving(lambda request: reply(bodies.get(request.target, b""), 200)) as web:
        config = config_of(list_of(tmp_path / "urls.jsonl", web, 3, ["127.0.0.1"]), respect_robots=False)
        store, lists = Store(tmp_path / "store"), {kind: tmp_path / kind for kind in ("md5", "pdq")}
        lists["pdq"].write_text("0" * 64)
        lists["md5"].write_text(hashlib.md5(bodies["/1.jpg"]).hexdigest())
        assert len(screened(crawl(here(store), silent, config), here(store), config).photos) == 3
        block = BlockConfig.model_validate({kind: (path,) for kind, path in lists.items()})
        config = config.model_copy(update={"block": block})
        read: list[str] = []
        original = Store.original
        monkeypatch.setattr(Store, "original", lambda store, sha: read.append(sha) or original(store, sha))
        for num_read in (3, 3):
            found = screened(crawl(here(store), silent, config), here(store), config)
            assert len(read) == num_read
            assert reasons_of(found) == {"1": "blocked_md5"}


def test_a_stricter_policy_asks_nobody(tmp_path: Path) -> None:
    """What was said at the time refuses photographs later, by a policy that honours more, without a request."""
    answers = {
        "/0.jpg": reply(PICTURE, X_Robots_Tag="noindex"),
        "/1.jpg": reply(PICTURE, X_Robots_Tag="max-image-preview:large"),
    }
    with serving(lambda request: answers.get(request.target, reply(status=404))) as web:
        config = config_of(list_of(tmp_path / "urls.jsonl", web, 2, ["127.0.0.1"]))
        store = Store(tmp_path / "store")
        crawled = crawl(here(store), silent, config)
        assert len(crawled.photos) == 2
        num_requests = len(web.requests)
        opt_outs = SignalsConfig(x_robots_tag=("noai", "noindex"))
        config = config.model_copy(update={"fetch": config.fetch.model_copy(update={"opt_outs": opt_outs})})
        again = screened(crawled, here(store), config, by_ledger=True)
        assert reasons_of(again) == {"0": "opted_out"}
        assert [row["detail"] for row in again.rejections.to_pylist()] == ["x-robots-tag: noindex"]
        assert outcomes(crawl(here(store), silent, config))[1:] == outcomes(again)[1:]
        assert len(web.requests) == num_requests


def test_a_list_of_nothing_that_can_be_asked(tmp_path: Path) -> None:
    """Where no address is one, or no licence is allowed, all are rejected and nobody is asked."""
    listed = tmp_path / "urls.jsonl"
    listed.write_text(json.dumps({"url": "http://127.0.0.1:1/a.jpg"}) + "\n")
    store = Store(tmp_path / "store")
    crawled = crawl(here(store), silent, config_of(listed))
    assert reasons_of(crawled) == {"a": "no_license"}
    listed.write_text(json.dumps({"url": "ftp://a.example/a.jpg", "license": "CC0-1.0"}) + "\n")
    assert reasons_of(crawl(here(store), silent, config_of(listed))) == {"a": "bad_url"}
