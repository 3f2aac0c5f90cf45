"""Commands that change a store, killed at random moments: what is left of each, and whether every version verifies.

    python benchmarks/kills_of_commands.py forget gc export --kills 25

Each round takes a copy of one small store, begins the command in a process of its own, kills that by SIGKILL at a
random one of the moments at which it touches a file, looks at the store, and lets the same command end. Not here:
builds that fetch (`benchmarks/kills.py`).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from flows.build import build, run_with
from flows.cli.main import main as cli
from flows.forget import forget, go_on, unfinished
from flows.options import BuildOptions
from flows.recurate import recurate, recuration
from preprocessing.asked import Asked
from preprocessing.config import BuildConfig
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.forgetting import find
from preprocessing.sources import open_source
from storage.datasets.collect import find_garbage
from storage.digest import file_digest
from storage.local import PARTIAL
from storage.store import Store
from storage.verify import verify

PHOTOGRAPHS = 24
VERSIONS = ({"pdq_max_distance": None}, {"pdq_max_distance": 2}, {"faces": "all", "pdq_max_distance": None})
Work = Callable[[Path, str], None]
"""Is done in the folder of a round, with the workers of a scheduler."""
CLUSTER = """
from distributed import LocalCluster
with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", host="127.0.0.1",
                  dashboard_address=None, memory_limit=0) as cluster:
    print(cluster.scheduler_address, flush=True)
    import sys; sys.stdin.read()
"""
"""Workers in a process of their own, since one that has threads does not fork well."""
UNFINISHED = (
    "ask likeness forget for the same again",
    "withdrawn.json names, is missing",
    "likeness forget goes on with it",
)
"""How problems end that say what is still to be done: the request, its certificate, a version that is withdrawn."""
TOUCHED = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.utime"}
"""Audit events of what changes a file, or may."""


def forgetting(folder: Path, scheduler: str) -> None:
    """What `likeness forget --url 0003.jpg --yes` does, which goes on with what was begun."""
    store, asked = Store(folder / "store"), Asked(url=("0003.jpg",))
    options, run = BuildOptions(store=store.root, scheduler=scheduler), run_with(lambda _: None)
    if intent := unfinished(store, asked):
        go_on(store, intent, options, run)
    elif not (found := find(store, asked)).is_nothing:
        forget(store, found, options, run)


def collecting(folder: Path, scheduler: str) -> None:
    """`likeness gc`."""
    words = ["gc", "--keep", "1", "--grace-h", "0", "--delete", "--store"]
    cli([*words, str(folder / "store")])


def exporting(folder: Path, scheduler: str) -> None:
    """`likeness export-dataset`, which refuses to write over what is there."""
    if not (folder / "out").exists():
        words = ["export-dataset", "faces", "--format", "ffhq", "--out", str(folder / "out"), "--store"]
        cli([*words, str(folder / "store")])


COMMANDS: dict[str, Work] = {"forget": forgetting, "gc": collecting, "export": exporting}


def main(names: list[str], num_kills: int) -> None:
    """Make the store, and kill each command so many times."""
    with tempfile.TemporaryDirectory() as place:
        template = made(Path(place))
        words = [sys.executable, "-c", CLUSTER]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as cluster:
            assert cluster.stdout is not None
            scheduler = cluster.stdout.readline().strip()
            for name in names:
                tried(name, template, Path(place), num_kills, scheduler)
            cluster.communicate()


def made(place: Path) -> Path:
    """A folder with a store of several versions of one name, of photographs in a folder beside it."""
    folder = place / "template"
    photos = folder / "photos"
    photos.mkdir(parents=True)
    source = open_source(f"sample:{PHOTOGRAPHS}", FetchConfig())
    for number, (_, data) in enumerate(source.read(source.items())):  # type: ignore[misc]
        (photos / f"{number:04d}.jpg").write_bytes(data)
    store = Store(folder / "store")
    given = {
        "source": f"folder:{photos}", "name": "faces", "resolution": 64, "detect": {"min_quad_px": 64},
        "shard": {"images_per_shard": 4}, "curate": VERSIONS[0],
    }  # fmt: skip
    options = BuildOptions(store=store.root, workers=1)
    build(BuildConfig.model_validate(given), options, run_with(lambda _: None))
    for curate in VERSIONS[1:]:
        asked = recuration(store, "faces", BuildConfig.model_validate({"curate": curate}))
        recurate(*asked, options, run_with(lambda _: None))
    return folder


def tried(name: str, template: Path, place: Path, num_kills: int, scheduler: str) -> None:
    """Kill one command again and again, and print what came of it."""
    work, dice, counts = COMMANDS[name], random.Random(0), Counter[str]()
    alone = Path(shutil.copytree(template, place / "alone"))
    moments = done(work, alone, scheduler)
    before, wanted = contents(template), contents(alone)
    for _ in range(num_kills):
        folder = Path(shutil.copytree(template, place / "round"))
        store = Store(folder / "store")
        counts["killed"] += done(work, folder, scheduler, dice.randint(1, moments)) == 0
        lost = left(folder)
        counts["between the first change and the last"] += contents(folder) not in (before, wanted)
        counts["files left by the kill"] += len(lost)
        problems = [p for p in verify(store, None)[1].problems if not p.endswith(UNFINISHED)]
        in_chunks = [problem for problem in problems if "/chunks/align/" in problem]
        counts["with crops that are half erased, which a build makes again"] += bool(in_chunks)
        counts["with anything else that does not verify"] += len(problems) > len(in_chunks)
        done(work, folder, scheduler)
        counts["files left when the same command has ended"] += len(left(folder))
        counts["that ended otherwise than one left alone"] += contents(folder) != wanted
        counts["then with something that does not verify"] += bool(verify(store, None)[1].problems)
        done(collecting, folder, scheduler)
        counts["files left after gc"] += len(left(folder))
        shutil.rmtree(folder)
        for line in [*problems, *map(str, lost)]:
            print(f"  {line}")
    shutil.rmtree(alone)
    print(f"{name}, {num_kills} rounds, {moments} moments")
    for what, num in counts.items():
        print(f"  {num:3d} {what}", flush=True)


def done(work: Work, folder: Path, scheduler: str, after: int = 0) -> int:
    """Do something in a process of its own, which is killed at the moment of a number: how many it had, 0 if killed."""
    here, there = os.pipe()
    if (child := os.fork()) == 0:
        moments = 0

        def counted(event: str, given: tuple[object, ...]) -> None:
            nonlocal moments
            is_read = event == "open" and not int(str(given[2])) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if event in TOUCHED and not is_read and str(given[0]).startswith(str(folder)):
                moments += 1
                if moments == after:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(counted)
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            with suppress(SystemExit):  # the way in which commands end
                work(folder, scheduler)
            os.write(there, str(moments).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(there)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(here) as pipe:
        said = pipe.read()
    assert status in (0, -signal.SIGKILL), f"{work.__name__} ended with {status}"
    return int(said or 0)


def left(folder: Path) -> list[Path]:
    """What is being written by nobody any more, and folders of versions that are none."""
    found = [path for path in folder.rglob("*") if path.name.endswith(PARTIAL)]
    garbage = find_garbage(Store(folder / "store"), keep=10**6, grace_s=0).leftovers
    return list(dict.fromkeys([*found, *garbage]))


def contents(folder: Path) -> dict[str, str]:
    """What is in a round's folder, but for times and what says them."""
    return dict(_contents(folder))


def _contents(folder: Path) -> Iterator[tuple[str, str]]:
    timed = (
        "latest.json",
        "withdrawn.json",
        "index.html",
        "ATTRIBUTION.txt",
        "digests.txt",
        ".lock",
        PARTIAL,
    )
    skipped = (
        "/gathered/",
        "/builds/",
        "/report/",
        "/forgets/",
        "/lineage/",
        "/exports/",
        "/cache/",
        "/tombstones/",
    )
    for path in sorted(folder.rglob("*")):
        name = f"/{path.relative_to(folder).as_posix()}"
        if path.is_file() and not name.endswith(timed) and not any(part in name for part in skipped):
            yield name, file_digest(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("commands", nargs="+", choices=list(COMMANDS))
    parser.add_argument("--kills", type=int, default=25)
    given = parser.parse_args()
    main(given.commands, given.kills)
