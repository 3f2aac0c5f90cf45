"""What Prefect and Dask cost: the start of all servers, a build and a training beside the plain commands, and memory.

    python benchmarks/orchestration.py [--parts start jobs build training memory] [--photos 100] [--runs 100]
        [--team] [--minutes 1]

All runs in a temporary folder, on servers of its own (`likeness services`, with `--team` those of a team). Seconds
are of CPU, since the clock says little on a machine that does other work: those of the flow run's process, of Prefect's
servers and of the worker. The load average stands beside them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.operations.cluster import open_workers

ROOT = Path(__file__).resolve().parent.parent
PORTS = {"--port": 24200, "--mlflow-port": 25000, "--files-port": 24300, "--s3-port": 28333}
API = f"http://127.0.0.1:{PORTS['--port']}/api"
TINY = {"preset": "smoke", "resolution": 16, "device": "cpu", "total_kimg": 100000.0}
PREFECT = ("prefect server", "prefect worker")


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", default=["jobs", "start", "build", "training", "memory"])
    parser.add_argument("--photos", type=int, default=100, help="of the sample, that a build aligns")
    parser.add_argument("--runs", type=int, default=100, help="flow runs over which memory is watched")
    parser.add_argument("--minutes", type=float, default=1.0, help="of a training, and of idleness")
    parser.add_argument("--team", action="store_true")
    arguments = parser.parse_args()
    if "jobs" in arguments.parts:
        jobs(2000)
    if arguments.parts == ["jobs"]:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with services(folder, arguments.team) as servers:
            if "build" in arguments.parts:
                build(folder, servers, arguments.photos)
            if "training" in arguments.parts:
                training(folder, servers, arguments.minutes)
            if "memory" in arguments.parts:
                memory(folder, servers, arguments.runs)


def said(line: str) -> None:
    """A line, with how busy the machine was."""
    print(f"{line}   [load {os.getloadavg()[0]:.1f}]", flush=True)


def nothing(job: int) -> int:
    """A chunk without work."""
    return job


def jobs(num: int) -> None:
    """What Dask costs a chunk, in the build's process and in all."""
    with open_workers(None, 1) as workers:
        list(workers.map(nothing, range(50)))
        here, all_ = time.process_time(), tree_s(psutil.Process())
        list(workers.map(nothing, range(num)))
        mine, whole = time.process_time() - here, tree_s(psutil.Process()) - all_
    said(f"dask: {1000 * mine / num:.2f} ms CPU a chunk in the driver, {1000 * whole / num:.2f} in all")


@dataclass(frozen=True)
class Servers:
    """`likeness services`, and what of it is Prefect's."""

    process: psutil.Process

    def prefect(self) -> list[psutil.Process]:
        """Prefect's server, its services and its workers, without the flow runs of these."""
        return [
            child for child in self.process.children(recursive=True)
            if any(words in " ".join(_line(child)) for words in PREFECT)
        ]  # fmt: skip

    def seconds(self) -> float:
        """CPU that Prefect's part has taken so far."""
        return sum(own_s(process) for process in self.prefect())

    def megabytes(self) -> dict[str, float]:
        """Memory of each."""
        return {" ".join(_line(process)[3:6]): megabytes(process) for process in self.prefect()}


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def megabytes(process: psutil.Process) -> float:
    """Memory that a process holds."""
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0


def own_s(process: psutil.Process) -> float:
    """CPU seconds of one process."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def tree_s(process: psutil.Process) -> float:
    """CPU seconds of a process and those below it that live."""
    return own_s(process) + sum(own_s(child) for child in process.children(recursive=True))


@contextmanager
def services(folder: Path, team: bool) -> Iterator[Servers]:
    """All servers, from nothing until `likeness doctor` finds nothing wrong."""
    shutil.copy(ROOT / "prefect.yaml", folder)
    flags = [text for name, port in PORTS.items() for text in (name, str(port))]
    command = [sys.executable, "-m", "flows.cli", "services", "--store", "store", *flags]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    clock = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [*command, *(["--team"] if team else [])], cwd=folder, env=environment, stdout=log, stderr=log
        )
    servers = Servers(psutil.Process(process.pid))
    try:
        while subprocess.run(
            [sys.executable, "-m", "flows.cli", "doctor", "--store", "store"], check=False, cwd=folder,
            env=environment | {"PREFECT_API_URL": API}, capture_output=True,
        ).returncode:  # fmt: skip
            assert process.poll() is None, (folder / "log.txt").read_text()[-2000:]
            time.sleep(0.5)
        said(
            f"start: {time.monotonic() - clock:.0f} s to all green, {tree_s(servers.process):.0f} s CPU in all"
        )
        yield servers
    except BaseException:
        print((folder / "log.txt").read_text()[-5000:], file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def asked(path: str, body: Any = None, method: str | None = None) -> Any:
    """What the API answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{API}{path}", data, {"Content-Type": "application/json"}, method=method
    )
    for attempt in itertools.count(1):  # a busy server answers 503, as its clients expect
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            if error.code != 503 or attempt == 30:
                raise
            time.sleep(2)


def begun(name: str, parameters: dict[str, Any]) -> str:
    """A flow run of a deployment."""
    deployment = asked(f"/deployments/name/{name}/{name}")["id"]
    run = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return str(asked(f"/deployments/{deployment}/create_flow_run", run)["id"])


def ended(run: str) -> str:
    """The state in which a flow run ends."""
    while True:
        state = asked(f"/flow_runs/{run}")["state_type"]
        if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return str(state)
        time.sleep(1)


def build(folder: Path, servers: Servers, photos: int) -> None:
    """A build as a flow run beside the same as a command, each from nothing."""
    config = {"source": f"sample:{photos}", "name": "plain", "resolution": 256}
    config |= {"curate": {"pdq_max_distance": None}}
    command = [sys.executable, "-m", "flows.cli", "build", f"--source=sample:{photos}", "--name=plain"]
    command += ["--resolution=256", "--curate.pdq-max-distance=none", "--workers=1", "--store=plain"]
    before = os.times()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=_environment())
    after = os.times()
    plain = after.children_user + after.children_system - before.children_user - before.children_system
    server = servers.seconds()
    with watched(servers) as seen:
        state = ended(begun("build-dataset", {"config": config, "options": {"workers": 1}}))
    server = servers.seconds() - server
    flow = sum(one.seconds for one in seen.values())
    said(
        f"build of {photos} photographs at 256 px: {plain:.1f} s CPU by the command, {flow:.1f} in the flow run's "
        f"processes ({state}), and {server:.1f} in Prefect's server and workers"
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@dataclass
class Seen:
    """What a process that has ended took, as last seen."""

    seconds: float = 0.0
    megabytes: float = 0.0
    """At most."""


@contextmanager
def watched(servers: Servers) -> Iterator[dict[int, Seen]]:
    """CPU and memory of each process below the workers, looked at ten times a second."""
    seen: defaultdict[int, Seen] = defaultdict(Seen)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            workers = [one for one in servers.prefect() if "worker" in _line(one)]
            for worker in workers:
                try:
                    children = worker.children(recursive=True)
                except psutil.Error:
                    continue
                for child in children:
                    one = seen[child.pid]
                    one.seconds = max(one.seconds, own_s(child))
                    one.megabytes = max(one.megabytes, megabytes(child))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def training(folder: Path, servers: Servers, minutes: float) -> None:
    """What goes to anything but the training process while a flow run trains, and what Prefect takes when idle."""
    idle = servers.seconds()
    time.sleep(60 * minutes)
    idle = servers.seconds() - idle
    config = {"source": "sample:6", "name": "small", "resolution": 32}
    assert ended(begun("build-dataset", {"config": config, "options": {}})) == "COMPLETED"
    time.sleep(60)  # what its event began
    run = begun("train", {"dataset": "small", "config": TINY, "options": {"tracking_uri": "none"}})
    while not [child for child in servers.process.children(recursive=True) if "training" in _line(child)]:
        time.sleep(1)
    time.sleep(30)
    [flow] = [p for p in servers.process.children(recursive=True) if "prefect.engine" in _line(p)]
    before, server = own_s(flow), servers.seconds()
    time.sleep(60 * minutes)
    mine, server = own_s(flow) - before, servers.seconds() - server
    asked(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    ended(run)
    said(
        f"training: {mine / minutes:.2f} s CPU a minute in the flow run's process, {server / minutes:.2f} in Prefect's "
        f"server and workers, where these take {idle / minutes:.2f} idle"
    )


def memory(folder: Path, servers: Servers, runs: int) -> None:
    """Memory of Prefect's server and worker, of a Dask scheduler and its worker, and of drivers, over small builds.

    Each build has a photograph more than the one before, so that each aligns one and publishes a version.
    """
    deployment = asked("/deployments/name/train/train")["id"]
    for automation in asked(f"/automations/related-to/prefect.deployment.{deployment}"):
        asked(f"/automations/{automation['id']}", {"enabled": False}, "PATCH")  # builds alone
    with dask(folder) as (address, processes):
        for number in range(1, runs + 1):
            config = {"source": f"sample:{number}", "name": "memory", "resolution": 32}
            config |= {"curate": {"pdq_max_distance": None}}
            with watched(servers) as seen:
                state = ended(begun("build-dataset", {"config": config, "options": {"scheduler": address}}))
            assert state == "COMPLETED", state
            if number in (1, 2) or number % 10 == 0:
                sizes = servers.megabytes() | {name: megabytes(one) for name, one in processes.items()}
                sizes["driver at most"] = max(one.megabytes for one in seen.values())
                told = ", ".join(f"{name} {size:.0f}" for name, size in sorted(sizes.items()))
                said(f"memory after {number} flow runs, MB: {told}")


@contextmanager
def dask(folder: Path) -> Iterator[tuple[str, dict[str, psutil.Process]]]:
    """A Dask scheduler and its one worker, by the scheduler's address."""
    place = folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_{}", "--scheduler-file", str(place)]
    flags = {
        "scheduler": ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
        "worker": ["--nworkers", "1", "--nthreads", "1", "--no-nanny", "--no-dashboard"],
    }
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, more in flags.items():
            line = [part.format(name) for part in command]
            started[name] = subprocess.Popen(
                [*line, *more], cwd=folder, env=_environment(),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while not place.exists():
                time.sleep(0.5)
        address = json.loads(place.read_text())["address"]
        yield address, {f"Dask {name}": psutil.Process(one.pid) for name, one in started.items()}
    finally:
        for one in reversed(started.values()):
            one.terminate()
            one.wait()


if __name__ == "__main__":
    main()
