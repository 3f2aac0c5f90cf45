"""What a small change costs: the same build again, with newcomers, with a corrected author, and from nothing.

    python benchmarks/incremental.py --photographs 20000 --newcomers 20

Photographs are the sample's scenes, each drawn from its number; near-duplicates are kept, since they are of two people.
Each build is the command `likeness build` in a process of its own: seconds of the clock, its own seconds of CPU without
its workers', the most memory that it held, and what the store's files grew by, a file under several names once. The
version with newcomers is held to that of a build from nothing in another store. Not here: packing alone (`shards.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from preprocessing.sources.sample import scene_bytes
from storage.datasets.dataset import Dataset, open_dataset
from storage.store import Store

COMMAND = (
    "import resource, sys; from flows.cli.main import main\n"
    "try: main(sys.argv[1:])\n"
    "finally:\n"
    "    own = resource.getrusage(resource.RUSAGE_SELF)\n"
    "    print('own', own.ru_utime + own.ru_stime, own.ru_maxrss, file=sys.stderr)"
)
"""The command `likeness`, which says at its end what it took, without its workers."""


@dataclass(frozen=True)
class Measured:
    """A build: its version, and what it took."""

    dataset: Dataset
    seconds: float
    cpu_seconds: float
    peak_mb: float
    new_mb: float
    aligned: int

    def line(self) -> str:
        """For people."""
        return (
            f"{self.seconds:.1f} s, {self.cpu_seconds:.1f} CPU s and {self.peak_mb:.0f} MB in the driver, "
            f"{self.new_mb:.1f} MB more on the disk, {self.aligned} aligned"
        )


def written(folder: Path, number: int) -> None:
    """Scene `number` as a file."""
    (folder / f"{number:06d}.jpg").write_bytes(scene_bytes(number))


def said(folder: Path, num: int, corrected: str | None = None) -> None:
    """The list of authors, that of the first photograph perhaps corrected."""
    rows = [
        {"file": f"{number:06d}.jpg", "author": f"Author {number % 997}", "license": "CC0-1.0"}
        for number in range(num)
    ]  # fmt: skip
    rows[0]["author"] = corrected or rows[0]["author"]
    (folder / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def built(folder: Path, store: Store, settings: list[str]) -> Measured:
    """Build the folder."""
    before = files(store)
    command = [
        sys.executable, "-c", COMMAND, "build", "--source", f"folder:{folder}", "--name", "faces", "--store",
        str(store.root), "--curate.pdq-max-distance", "none", *settings, "--json",
    ]  # fmt: skip
    clock = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - clock
    [(cpu, kb)] = re.findall(r"^own (\S+) (\d+)$", done.stderr, re.M)
    after = files(store)
    num_bytes = sum(after.values()) - sum(before.values())
    dataset = open_dataset(store, "faces")
    align = dataset.builds()[-1].stages["align"]
    aligned = align["faces"] and dataset.builds()[-1].timings["align"]["done"]
    return Measured(dataset, seconds, float(cpu), int(kb) / 1024, num_bytes / 1e6, aligned)


def files(store: Store) -> dict[int, int]:
    """The sizes of a store's files, each once, by what tells them apart under whatever name."""
    stats = [path.stat() for path in store.root.rglob("*") if path.is_file()]
    return {stat.st_ino: stat.st_size for stat in stats}


def shards_of(dataset: Dataset) -> set[str]:
    """What its tars are called."""
    return {shard.file for shard in dataset.manifest.shards}


def main() -> None:
    """Print a line a build."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photographs", type=int, default=20_000)
    parser.add_argument("--newcomers", type=int, default=20)
    parser.add_argument("--resolution", default="128")
    parser.add_argument("--workers", default=str(os.cpu_count()))
    parser.add_argument("settings", nargs="*", help="more of the build's options, after --")
    arguments = parser.parse_args()
    num, more = arguments.photographs, arguments.newcomers
    settings = ["--resolution", arguments.resolution, "--workers", arguments.workers, *arguments.settings]
    with tempfile.TemporaryDirectory() as place:
        folder, store = Path(place, "photographs"), Store(Path(place, "store"))
        folder.mkdir()
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(written, folder), range(num), chunksize=64))
            said(folder, num)
            first = built(folder, store, settings)
            print(f"{num} photographs: {first.line()}, {len(shards_of(first.dataset))} shards", flush=True)
            print(f"the same again: {built(folder, store, settings).line()}", flush=True)
            list(pool.map(partial(written, folder), range(num, num + more)))
        said(folder, num + more)
        then = built(folder, store, settings)
        old, new = shards_of(first.dataset), shards_of(then.dataset)
        expected = len(old) * (1 - (1 - 1 / len(old)) ** more)
        print(
            f"{more} more: {then.line()}; {len(old - new)} shards gone, {expected:.1f} expected", flush=True
        )
        said(folder, num + more, "Somebody Else")
        corrected = built(folder, store, settings)
        assert shards_of(corrected.dataset) == new
        print(f"an author corrected: {corrected.line()}", flush=True)
        said(folder, num + more)
        anew = built(folder, Store(Path(place, "another")), settings)
        assert anew.dataset.version == then.dataset.version, "the version depends on its past"
        print(f"from nothing: {anew.line()}, the same version")


if __name__ == "__main__":
    main()
