"""A build that is killed again and again while it fetches: what is asked twice, and whether it ends as one left alone.

    python benchmarks/kills.py 50

Each round is the command `likeness build` of a list of the sample's photographs, killed by SIGKILL with all of its
processes at a random moment, and begun again. The server is a process of its own, and takes a while to answer.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from raw_web import Request, reply, serving

from preprocessing.crawl.fetch import FetchConfig
from preprocessing.crawl.ledger import Ledger
from preprocessing.sources import open_source
from storage.store import Store

HOSTS = [f"127.0.9.{number}" for number in range(1, 9)]
NUM_PHOTOGRAPHS = 12
ANSWER_S = 0.01


def serve(pipe: Connection) -> None:
    """Give photographs until told to end; say at any time what was asked for."""
    source = open_source(f"sample:{NUM_PHOTOGRAPHS}", FetchConfig())
    photographs = [data for _, data in source.read(source.items())]  # type: ignore[misc]

    def answer(request: Request) -> bytes:
        if not request.target.endswith(".jpg"):
            return reply(status=404)
        time.sleep(ANSWER_S)  # of all, one after the other
        number = int(request.target[1:].partition(".")[0])
        return reply(status=404) if number % 20 == 19 else reply(photographs[number % NUM_PHOTOGRAPHS])

    with serving(answer, *HOSTS) as web:
        pipe.send(web.port)
        while pipe.recv():
            pipe.send([web.url(request.target, request.host) for request in web.requests])


def main(num_kills: int) -> None:
    """Kill, begin again, and compare."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    port = here.recv()
    num_urls = 60 * num_kills

    def asked() -> list[str]:
        here.send(True)
        return here.recv()

    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "urls.jsonl")
        urls = [f"http://{HOSTS[n % len(HOSTS)]}:{port}/{n}.jpg" for n in range(num_urls)]
        listed.write_text("".join(json.dumps({"url": url, "license": "CC0-1.0"}) + "\n" for url in urls))

        def command(store: str) -> list[str]:
            settings = ["--name", "killed", "--resolution", "32", "--workers", "1", "--json"]
            fetch = ["--fetch.user-agent", "benchmark/1", "--fetch.allow-networks", "127.0.0.0/8"]
            place = ["--source", f"urls:{listed}", "--store", f"{folder}/{store}"]
            return [sys.executable, "-m", "flows.cli", "build", *place, *settings, *fetch]

        dice = random.Random(0)
        num_killed = on_record_again = 0
        costs = []
        for _ in range(num_kills):
            before = asked()
            with Ledger(Store(f"{folder}/killed")).read() as held:
                on_record = {entry.url for entry in held.each()}
            process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, start_new_session=True)
            while process.poll() is None and len(asked()) == len(before):
                time.sleep(0.05)
            time.sleep(dice.uniform(0, 1.5))
            if process.poll() is not None:
                break
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            num_killed += 1
            now = [url for url in asked()[len(before) :] if url.endswith(".jpg")]
            on_record_again += len(on_record & set(now))
            costs.append(len(set(now) & set(before)))
        whole = json.loads(subprocess.run(command("killed"), stdout=subprocess.PIPE, check=True).stdout)
        requests = Counter(asked())
        alone = json.loads(subprocess.run(command("alone"), stdout=subprocess.PIPE, check=True).stdout)
        left = list(Path(folder, "killed", "incoming").iterdir())
    here.send(False)
    again = sum(count - 1 for url, count in requests.items() if url.endswith(".jpg"))
    rules = sum(count for url, count in requests.items() if not url.endswith(".jpg"))
    is_same = whole["version"] == alone["version"]
    print(
        f"{num_killed} kills, {num_urls} addresses of {len(HOSTS)} hosts, at most {1 / ANSWER_S:.0f} a second"
    )
    print(
        f"  asked again: {again} in all, {again / max(num_killed, 1):.1f} a kill, {max(costs, default=0)} at most"
    )
    print(
        f"  on record before: {on_record_again}; requests for rules: {rules}; left in incoming: {len(left)}"
    )
    print(f"  version {whole['version']}, of a crawl left alone {alone['version']}: {is_same}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
