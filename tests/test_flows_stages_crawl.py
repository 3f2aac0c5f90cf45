"""The stage `crawl` in processes of its own: killed again and again, by several workers, and by what lists say."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from distributed import LocalCluster
from raw_web import PICTURE, Request, Web, reply, serving

from flows.operations.cluster import open_workers
from flows.stages.crawl import Crawled, crawl
from flows.stages.work import Context, Inline, Progress
from preprocessing.config import BuildConfig
from preprocessing.crawl.ledger import Ledger
from storage.gathered import Gathered
from storage.store import Store, original_key

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
    """All that a version depends on."""
    return [table.to_pylist() for table in (crawled.items, crawled.photos, crawled.rejections)]


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
    with serving(answer, *HOSTS) as web:
        config = config_of(list_of(tmp_path / "urls.jsonl", web, 240, HOSTS))
        store = Store(tmp_path / "killed")
        command = [sys.executable, "-c", SCRIPT, str(store.root), config.model_dump_json()]
        for seed in range(4):
            before, on_record = len(web.requests), set()
            if seed:
                with Ledger(store).read() as held:
                    on_record = {entry.url for entry in held.each()}
            process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
            until = before + random.Random(seed).randint(40, 70)
            while len(web.requests) < until and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            asked = {web.url(one.target, one.host) for one in web.requests[before:]}
            assert not asked & on_record, "an address on record was asked again"
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
