"""What bad hosts cost a crawl of good ones, how often they are asked, and the memory of large bodies; on loopback.

    python benchmarks/hosts.py

Servers are those of tests/raw_web.py: silent ones among 256 addresses of a good one, dead ones, one that asks for an
hour, and twenty that give bodies of 19 MiB from a process of their own.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from raw_web import PICTURE, Answer, Request, reply, serving

from preprocessing.crawl.fetch import FetchConfig, Visit, Wanted
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.urls import web_address

LARGE_HOSTS = [f"127.0.6.{number}" for number in range(1, 21)]


def crawled(urls: list[str], **config: Any) -> Iterator[Visit]:
    """The visits of one crawl; bodies are deleted."""
    settings = FetchConfig(user_agent="benchmark/1", allow_networks=("127.0.0.0/8",), **config)
    with tempfile.TemporaryDirectory() as folder:
        wanted = (Wanted(web_address(url)) for url in urls)
        for batch in arriving(wanted, settings, Memory(), Path(folder)):
            for visit in batch:
                if visit.body:
                    visit.body.path.unlink()
                yield visit


def site(data: bytes | None) -> Answer:
    """A host without rules that gives the same answer at every other address."""
    return lambda request: data if request.target.endswith(".jpg") else reply(status=404)


def print_silent(num_silent: int) -> None:
    """Seconds until the last address of the good host is asked, and until all is over."""
    silent = [f"127.0.1.{number}" for number in range(1, num_silent + 1)]
    asked: list[float] = []

    def answer(request: Request) -> bytes | None:
        if request.host in silent:
            return None
        asked.append(time.monotonic())
        return site(reply(PICTURE))(request)

    with serving(answer, "127.0.0.1", *silent) as web:
        bad = [web.url(f"/{number}.jpg", host) for host in silent for number in range(3)]
        good = [web.url(f"/{number}.jpg") for number in range(256)]
        start = time.monotonic()
        outcomes = list(crawled([*bad, *good], timeout_s=6, retries=2))
        whole_s = time.monotonic() - start
    had = sum(visit.body is not None for visit in outcomes)
    print(
        f"{num_silent} silent hosts: last good address after {asked[-1] - start:.1f} s, all after {whole_s:.1f} s"
    )
    assert had == 256


def print_requests(name: str, data: bytes | None, num_urls: int) -> None:
    """How many requests a bad host gets, its rules among them."""
    with serving(site(data)) as web:
        urls = [web.url(f"/{number}.jpg") for number in range(num_urls)]
        assert len(list(crawled(urls, timeout_s=1, backoff_s=0.01))) == num_urls
    print(f"{name}: {len(web.requests)} requests for {num_urls} URLs")


def serve_large(pipe: Connection) -> None:
    """Give large bodies until told to end."""
    with serving(site(reply(PICTURE.ljust(19 * 2**20))), *LARGE_HOSTS) as web:
        pipe.send(web.port)
        pipe.recv()


def print_memory() -> None:
    """How much the process grows by 40 bodies of 19 MiB at once."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve_large, args=(there,))
    server.start()
    port = here.recv()
    urls = [f"http://{host}:{port}/{number}.jpg" for host in LARGE_HOSTS for number in range(2)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    had = sum(visit.body is not None for visit in crawled(urls, timeout_s=300))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    here.send(None)
    server.join()
    print(f"{had} bodies of 19 MiB: {grown} MiB more")


if __name__ == "__main__":
    print_memory()
    print_silent(4)
    print_silent(100)
    print_requests("503", reply(status=503), 12)
    print_requests("connections dropped", b"", 12)
    print_requests("silent", None, 12)
    print_requests("429, Retry-After: 3600", reply(status=429, Retry_After="3600"), 3)
