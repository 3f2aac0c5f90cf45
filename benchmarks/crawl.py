"""What the crawl costs beside a bare aiohttp loop, whether it keeps its pace, and what a million addresses take.

    python benchmarks/crawl.py speed        3,000 JPEGs of 30 KB: images a second, CPU an image, each way in turn
    python benchmarks/crawl.py pace         50 hosts at one request a second each
    python benchmarks/crawl.py gap          30 hosts that want 0.5 s between requests, beside 5 busy ones
    python benchmarks/crawl.py many         100,000 small JPEGs: images a second, and the most memory
    python benchmarks/crawl.py million      1,000,000 addresses listed, partitioned and resumed, half of them known

The server is a process of its own, and answers from memory over connections that stay open. A crawl is everything that
a build does with an address: robots.txt, tdmrep.json, signals of header and file, hashes, the store, the ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import numpy as np
import pyarrow as pa
from aiohttp import web
from PIL import Image

from flows.stages.listing import listing
from preprocessing.config import BuildConfig
from preprocessing.crawl import items as items_module
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.crawl.items import ITEM_COLUMNS, Asking, addressed_items, fetch_items
from preprocessing.crawl.ledger import Ledger
from preprocessing.crawl.rows import KEPT, PARTITIONS, Entry, timestamp
from preprocessing.crawl.standing import Rule
from preprocessing.crawl.urls import host_of, web_address
from preprocessing.sources import WebSource, open_source
from storage.store import Store
from storage.tables import table_of

NUM_IMAGES = 3000
IMAGE_BYTES = 30_000
MANY, SMALL_BYTES = 100_000, 3_000
SPEED_HOSTS = [f"127.0.7.{number}" for number in range(1, 17)]
LINE = 600
"""Photographs a second of a line that is slower than any server: 144 Mbit/s."""
SERVERS = {
    "fast": "a server of a few lines, as fast as it can",
    "ordinary": "aiohttp's server",
    "line": f"a line of {LINE} photographs a second",
    "closing": "a server of a few lines that closes every connection, as servers of HTTP/1.0 do",
}
PACE_HOSTS = [f"127.0.8.{number}" for number in range(1, 51)]
PACE_S = 20
GAP_S, NUM_GAPS, NUM_BUSY = 0.5, 12, 3000
SLOW_HOSTS = [f"127.0.9.{number}" for number in range(1, 31)]
BUSY_HOSTS = [f"127.0.10.{number}" for number in range(1, 6)]
MILLION = 1_000_000
SIGNALS = '{"looked_at":["robots.txt","x-robots-tag","tdm-reservation","c2pa-training","synthetic"]}'


class Server(asyncio.Protocol):
    """Answers GET by GET."""

    jpeg = b""
    interval_s = 0.0
    """Between two photographs, of all connections together: how fast the line is."""
    next_s = 0.0
    asked: ClassVar[dict[str, list[float]]] = {}
    """When hosts that want a wait between requests were asked, by the server's clock."""
    closes = False
    """Whether each connection ends with its answer."""
    says_so = b""
    """What it says of that."""

    def body_of(self, target: bytes) -> bytes:
        """A photograph, which is like no other."""
        return self.jpeg[:-2] + target + b"\xff\xd9"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.waiting = b""
        self.host = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        self.waiting += data
        while b"\r\n\r\n" in self.waiting:
            head, _, self.waiting = self.waiting.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1]
            if self.host in SLOW_HOSTS:
                self.asked.setdefault(self.host, []).append(time.monotonic())
            if target.endswith(b".jpg"):  # each photograph is another
                body = self.body_of(target)
                fields = b'Content-Type: image/jpeg\r\nETag: "1"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
                fields += self.says_so
                data = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)
                Server.next_s = max(Server.next_s + self.interval_s, time.monotonic())
                if self.interval_s:
                    asyncio.get_running_loop().call_at(Server.next_s, self.transport.write, data)
                else:
                    self.transport.write(data)
            elif target == b"/robots.txt":
                body = b"User-agent: *\nDisallow: /private/\n"
                body += b"Crawl-delay: %.1f\n" % GAP_S if self.host in SLOW_HOSTS else b""
                self.transport.write(
                    b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (self.says_so, len(body), body)
                )
            else:
                self.transport.write(b"HTTP/1.1 404 Not Found\r\n%bContent-Length: 0\r\n\r\n" % self.says_so)
            if self.closes:
                self.transport.close()


async def ordinary(request: web.Request) -> web.Response:
    """The same by aiohttp's own server, which takes several times as long."""
    if request.path.endswith(".jpg"):
        headers = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        body = Server.jpeg[:-2] + request.path.encode() + b"\xff\xd9"
        return web.Response(body=body, content_type="image/jpeg", headers=headers)
    is_robots = request.path == "/robots.txt"
    return (
        web.Response(text="User-agent: *\nDisallow: /private/\n") if is_robots else web.Response(status=404)
    )


def serve(pipe: Connection, hosts: list[str], kind: str) -> None:
    """Answer until told to end, and say when slow hosts were asked."""
    Server.interval_s = 1 / LINE if kind == "line" else 0.0
    Server.closes = kind in ("closes", "closing")
    Server.says_so = b"Connection: close\r\n" if kind == "closing" else b""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        port = 0
        answer: Any = web.Server(ordinary) if kind == "ordinary" else Server  # type: ignore[arg-type]
        for host in hosts:
            server = await loop.create_server(answer, host, port)
            port = server.sockets[0].getsockname()[1]
        pipe.send(port)
        await loop.run_in_executor(None, pipe.recv)
        pipe.send(Server.asked)

    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=40)
    num_bytes = SMALL_BYTES if kind == "small" else IMAGE_BYTES
    Server.jpeg = (file.getvalue()[:-2] * 2)[: num_bytes - 2] + b"\xff\xd9"
    asyncio.run(run())


@contextmanager
def serving(
    hosts: list[str], kind: str = "fast", asked: dict[str, list[float]] | None = None
) -> Iterator[int]:
    """A server in a process of its own; its port. At its end it says when slow hosts were `asked`."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, hosts, kind), daemon=True
    )
    server.start()
    yield here.recv()
    here.send(None)
    (asked if asked is not None else {}).update(here.recv())
    server.join()


def config_of(**settings: Any) -> FetchConfig:
    """Settings of a crawl of this machine."""
    return FetchConfig(user_agent="benchmark/1", allow_networks=("127.0.0.0/8",), **settings)


def crawled(urls: list[str], config: FetchConfig, folder: Path) -> int:
    """Photographs that a crawl into a new store gives."""
    nothing = dict.fromkeys(ITEM_COLUMNS)
    schema = pa.schema([pa.field(name, pa.string()) for name in ITEM_COLUMNS])
    listed = table_of(({**nothing, "ref": url} for url in urls), schema)
    items, _ = addressed_items(listed, lambda item: web_address(item.ref))
    found = fetch_items(items, lambda item: web_address(item.ref), config, Store(folder), Asking())
    return int(found.outcomes["reason"].null_count)


async def bare(urls: list[str], num_at_once: int, folder: Path | None = None) -> int:
    """Photographs that are fetched, hashed and forgotten, or written to a folder, each to a file of its own."""
    waiting = iter(urls)
    num = 0

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal num
        for url in waiting:
            async with session.get(url) as response:
                data = await response.read()
                digest = hashlib.sha256(data).hexdigest()
                if folder is not None:
                    Path(folder, digest).write_bytes(data)
                num += response.status == 200

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(num_at_once)))
    return num


def print_speed(kind: str, rounds: int = 5) -> None:
    """Images a second and CPU an image of each, in turn; of each its best round."""
    config = config_of()
    num_at_once = len(SPEED_HOSTS) * config.per_host_concurrency
    found: dict[str, list[tuple[float, float]]] = {"bare aiohttp": [], "the same, to files": [], "crawl": []}
    # Stores are kept to the end: where many files were deleted, ext4 is slow to make new ones for half a minute.
    with serving(SPEED_HOSTS, kind) as port, tempfile.TemporaryDirectory() as folder:
        urls = [f"http://{SPEED_HOSTS[n % len(SPEED_HOSTS)]}:{port}/{n}.jpg" for n in range(NUM_IMAGES)]
        for number in range(rounds):
            for name, times in found.items():
                start, start_cpu = time.perf_counter(), time.process_time()
                if name == "crawl":
                    num = crawled(urls, config, Path(folder, str(number)))
                elif name == "bare aiohttp":
                    num = asyncio.run(bare(urls, num_at_once))
                else:
                    files = Path(folder, f"files{number}")
                    files.mkdir()
                    num = asyncio.run(bare(urls, num_at_once, files))
                times.append((time.perf_counter() - start, time.process_time() - start_cpu))
                assert num == NUM_IMAGES
    print(f"{SERVERS[kind]}:")
    for name, times in found.items():
        wall, cpu = (min(column) for column in zip(*times, strict=True))
        print(f"  {name}: {NUM_IMAGES / wall:.0f} images/s, {1000 * cpu / NUM_IMAGES:.2f} ms CPU an image")
    for name in ("bare aiohttp", "the same, to files"):
        ratios = sorted(b[0] / c[0] for b, c in zip(found[name], found["crawl"], strict=True))
        print(f"  crawl's share of the images a second of {name}, by rounds: {[round(r, 2) for r in ratios]}")


def print_pace() -> None:
    """Requests a second where each host is given one a second."""
    config = config_of(per_host_delay_s=1.0, respect_robots=False, respect_opt_out=False)
    with serving(PACE_HOSTS) as port, tempfile.TemporaryDirectory() as folder:
        urls = [f"http://{host}:{port}/{n}.jpg" for n in range(PACE_S + 1) for host in PACE_HOSTS]
        assert crawled(urls, config, Path(folder)) == len(urls)
        with Ledger(Store(folder)).read() as held:
            ended = sorted(
                datetime.fromisoformat(entry.asked_at).timestamp() + entry.seconds for entry in held.each()
            )
    # the first request of each host comes at once
    rate = (len(ended) - len(PACE_HOSTS)) / (ended[-1] - ended[0])
    print(f"{len(PACE_HOSTS)} hosts at 1 request/s: {rate:.1f} requests/s")


def print_gap() -> None:
    """The least time between two requests to a host that wants a wait, while others are busy."""
    for kind in ("fast", "closes"):
        asked: dict[str, list[float]] = {}
        with (
            serving(SLOW_HOSTS + BUSY_HOSTS, kind, asked) as port,
            tempfile.TemporaryDirectory() as folder,
        ):
            urls = [f"http://{host}:{port}/{n}.jpg" for n in range(NUM_BUSY) for host in BUSY_HOSTS]
            urls += [f"http://{host}:{port}/{n}.jpg" for n in range(NUM_GAPS) for host in SLOW_HOSTS]
            assert crawled(urls, config_of(), Path(folder)) == len(urls)
        gaps_s = sorted(b - a for times in asked.values() for a, b in itertools.pairwise(times))
        print(
            f"{kind}: {len(gaps_s)} gaps of {len(asked)} hosts that want {GAP_S} s: {gaps_s[0]:.3f} s at least, "
            f"{gaps_s[len(gaps_s) // 100]:.3f} s in 99 of 100, {gaps_s[len(gaps_s) // 2]:.3f} s in the middle"
        )


def print_many() -> None:
    """Images a second, CPU an image and memory of many requests in one crawl."""
    with serving(SPEED_HOSTS, "small") as port, tempfile.TemporaryDirectory() as folder:
        urls = [f"http://{SPEED_HOSTS[n % len(SPEED_HOSTS)]}:{port}/{n}.jpg" for n in range(MANY)]
        start, start_cpu = time.perf_counter(), time.process_time()
        assert crawled(urls, config_of(), Path(folder)) == MANY
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"{MANY} images: {MANY / wall:.0f}/s, {1000 * cpu / MANY:.2f} ms CPU an image, {peak:.0f} MiB at most"
    )


def print_million() -> None:
    """Seconds and memory of a list of a million, of which the ledger knows half, up to what is to be asked."""
    with tempfile.TemporaryDirectory() as folder:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # whose memory is not ours
            pool.apply(fill, (folder,))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            num_known, num_wanted, seconds, peak = pool.apply(resume, (folder,))
    print(
        f"{MILLION} addresses: {num_known} known, {num_wanted} to ask, {seconds}, {peak / 2**20:.2f} GiB at most"
    )


def fill(folder: str) -> None:
    """Write the list, and put the first half of it on record."""
    with Path(folder, "urls.jsonl").open("w") as file:
        for n in range(MILLION):
            line = {"url": url_of(n), "license": "CC0-1.0", "author": f"Author {n % 5000}"}
            file.write(json.dumps(line) + "\n")
    store = Store(folder)
    photographs = [store.put_original(str(n).encode()) for n in range(1000)]
    rule = Rule.of(config_of()).model_dump_json(exclude_defaults=True)
    headers = json.dumps(
        [["Content-Type", "image/jpeg"], ["ETag", '"0123456789abcdef"'], ["Server", "nginx"]]
    )
    at = timestamp(datetime.now(UTC))
    with Ledger(store).held(range(PARTITIONS)) as held:
        for start in range(0, MILLION // 2, 10_000):
            rows = []
            for n in range(start, start + 10_000):
                address = web_address(url_of(n))
                given: dict[str, Any] = {
                    "sha256": photographs[n % 1000],
                    "num_bytes": 30_000,
                    "status": 200,
                    "headers": headers,
                }
                given |= {"asked_at": at, "first_asked_at": at, "rule": rule, "signals": SIGNALS}
                rows.append(Entry(address.key, host_of(address), KEPT, attempts=1, **given))
            held.put(rows)


def url_of(n: int) -> str:
    """One of a million addresses on some hundreds of hosts."""
    return f"https://photos{n % 997}.example.org/albums/{n // 7}/photo-{n:07d}.jpg?size=large"


def resume(folder: str) -> tuple[int, int, str, float]:
    """How many are known and to ask, the seconds of each step, and the most memory in KiB."""
    seconds = {}
    start = time.perf_counter()

    def note(name: str) -> None:
        seconds[name] = time.perf_counter() - start, time.process_time()

    config = BuildConfig.model_validate(
        {"source": f"urls:{folder}/urls.jsonl", "fetch": {"user_agent": "benchmark/1"}}
    )
    source = open_source(config.source, config.fetch)
    assert isinstance(source, WebSource)
    listed, _ = listing(source, config)
    note("listed")
    items, _ = addressed_items(listed, source.address)
    note("partitioned")
    num_wanted = 0

    def nobody(wanted: list[Any], *_: Any, **__: Any) -> Iterator[Any]:
        nonlocal num_wanted
        num_wanted = len(wanted)
        yield from ()

    items_module.crawl = nobody  # type: ignore[assignment, attr-defined]
    num_known = fetch_items(items, source.address, config.fetch, Store(folder), Asking()).num_known
    note("resumed")
    text = ", ".join(
        f"{name} after {wall:.0f} s ({cpu:.0f} s of CPU)" for name, (wall, cpu) in seconds.items()
    )
    return num_known, num_wanted, text, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    if sys.argv[1] == "speed":
        for kind in SERVERS:
            print_speed(kind)
    else:
        {"pace": print_pace, "gap": print_gap, "many": print_many, "million": print_million}[sys.argv[1]]()
