"""What a web dataset of 256 px costs from addresses to tars, beside img2dataset, on loopback and on the same addresses.

    python benchmarks/against_img2dataset.py PYTHON [NUM]

PYTHON is an interpreter that has img2dataset, which needs an environment of its own. The server is a process of its own
and answers from memory with NUM JPEGs of 256 px, which differ.

img2dataset    asks by urllib in 32 threads of one process, takes sha256 and EXIF, reads and resizes by OpenCV, writes
               JPEGs of quality 95 into tars, and a Parquet table
likeness       `likeness build --aligned`: robots.txt, tdmrep.json, signals of headers and files, the ledger and the
               originals on disk, then decodes, writes PNGs into tars, tables, lookups, a report and the manifest, with
               one worker

Each is a command, with its start; CPU is of it and all of its processes. A run of few photographs shows what starting
takes.
"""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar

import numpy as np
from crawl import Server
from PIL import Image

HOSTS = [f"127.0.5.{number}" for number in range(1, 17)]
SIZE_PX, QUALITY = 256, 80
FEW = 32
IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(url_list=sys.argv[1], output_folder=sys.argv[2], output_format="webdataset", image_size=256,
             processes_count=1, thread_count=32, number_sample_per_shard=1000)
"""


class Pictures(Server):
    """Answers with the picture of a number."""

    pictures: ClassVar[list[bytes]] = []

    def body_of(self, target: bytes) -> bytes:
        """As the server calls it."""
        return self.pictures[int(target[1:-4])]


def serve(pipe: Connection, num: int) -> None:
    """Answer until told to end."""
    dice = np.random.default_rng(0)
    for _ in range(num):
        coarse = Image.fromarray(dice.integers(0, 256, (96, 96, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((SIZE_PX, SIZE_PX)).save(file, "JPEG", quality=QUALITY)
        Pictures.pictures.append(file.getvalue())

    async def run() -> None:
        loop = asyncio.get_running_loop()
        port = 0
        for host in HOSTS:
            server = await loop.create_server(Pictures, host, port)
            port = server.sockets[0].getsockname()[1]
        pipe.send((port, sum(map(len, Pictures.pictures)) / num))
        await loop.run_in_executor(None, pipe.recv)

    asyncio.run(run())


def costs(command: list[str], folder: str) -> tuple[float, float]:
    """The seconds of a command, and of CPU of it and its processes."""

    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    start, start_cpu = time.perf_counter(), cpu_s()
    quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(command, cwd=folder, env=quiet, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return time.perf_counter() - start, cpu_s() - start_cpu


def main(python: str, num: int) -> None:
    """Measure both, with few photographs and with all."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, num), daemon=True)
    server.start()
    port, mean_bytes = here.recv()
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = root
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "theirs.py")
        script.write_text(IMG2DATASET)
        print(f"{num} JPEGs of {SIZE_PX} px, {mean_bytes / 1000:.0f} KB each, of {len(HOSTS)} hosts")
        found: dict[str, list[tuple[float, float]]] = {"img2dataset": [], "likeness": []}
        for count in (FEW, num):
            urls = [f"http://{HOSTS[n % len(HOSTS)]}:{port}/{n}.jpg" for n in range(count)]
            plain, rows = Path(folder, f"{count}.txt"), Path(folder, f"{count}.jsonl")
            plain.write_text("".join(f"{url}\n" for url in urls))
            rows.write_text("".join(json.dumps({"url": url, "license": "CC0-1.0"}) + "\n" for url in urls))
            theirs = [python, str(script), str(plain), f"{folder}/theirs-{count}"]
            ours = [sys.executable, "-m", "flows.cli", "build", "--source", f"urls:{rows}", "--name", "web"]
            ours += [
                "--store",
                f"{folder}/ours-{count}",
                "--resolution",
                str(SIZE_PX),
                "--aligned",
                "--workers",
                "1",
            ]
            ours += ["--curate.preset", "none", "--json", "--fetch.user-agent", "benchmark/1"]
            ours += ["--fetch.allow-networks", "127.0.0.0/8"]
            for name, command in (("img2dataset", theirs), ("likeness", ours)):
                found[name].append(costs(command, folder))
                wall, cpu = found[name][-1]
                print(
                    f"  {name}, {count}: {wall:.1f} s, {cpu:.1f} s of CPU, {1000 * cpu / count:.1f} ms each"
                )
            [stats] = Path(folder, f"theirs-{count}").glob("*_stats.json")
            theirs_num = json.loads(stats.read_text())["successes"]
            assert theirs_num == count, theirs_num
        for name, ((few_wall, few_cpu), (wall, cpu)) in found.items():
            more = num - FEW
            print(
                f"  {name}, without its start: {1000 * (wall - few_wall) / more:.1f} ms, "
                f"{1000 * (cpu - few_cpu) / more:.1f} ms of CPU each"
            )
    here.send(None)
    server.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
