"""flows.operations.cluster: chunks survive their workers, and errors come back as they were raised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from dask import config as dask_config
from distributed import Client, LocalCluster, get_worker

from flows.operations.cluster import DaskWorkers, open_workers
from served import free_port, wait_for
from storage.errors import ConfigError, IntegrityError, ServiceError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskWorkers]:
    """A local cluster of two processes."""
    with open_workers(None, 2) as workers:
        yield workers


def process_of(chunk: int) -> tuple[int, int]:
    """The chunk and the process that worked on it."""
    return chunk, os.getpid()


def killed_once(chunk: int, folder: Path) -> int:
    """Kill the worker the first time that chunk 1 comes by."""
    mark = folder / "killed"
    if chunk == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return chunk


def refused(chunk: int) -> int:
    """Fail as a stage does."""
    raise IntegrityError(f"chunk {chunk} is damaged")


def test_nobody_else_is_listened_to(workers: DaskWorkers) -> None:
    """A local cluster, its dashboard too, can be reached from this machine alone."""
    here = psutil.Process()
    connections = []
    for process in (here, *here.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # one of an earlier test, which ends now
            connections += process.net_connections("inet")
    listening = {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_every_chunk_is_done_once(workers: DaskWorkers) -> None:
    """All chunks come back, from both workers and not from this process."""
    results = list(workers.map(process_of, range(20)))
    assert sorted(chunk for chunk, _ in results) == list(range(20))
    assert len({process for _, process in results} - {os.getpid()}) == 2


def test_chunks_survive_a_killed_worker(workers: DaskWorkers, tmp_path: Path) -> None:
    """A worker that is killed comes back, and no chunk is lost."""
    results = list(workers.map(partial(killed_once, folder=tmp_path), [0, 1, 2]))
    assert (tmp_path / "killed").exists()
    assert sorted(results) == [0, 1, 2]


def scheduler_lost(chunk: int, folder: Path) -> int:
    """End this worker and its nanny, as a worker does that lost its scheduler, the first time that chunk 1 comes by."""
    mark = folder / "gone"
    if chunk == 1 and not mark.exists():
        mark.touch()
        worker = get_worker()
        worker.loop.add_callback(worker.close)
        time.sleep(5)
    return chunk


def test_a_cluster_that_lost_all_its_workers_has_new_ones(tmp_path: Path) -> None:
    """Workers that end and are not started again by their nannies are replaced: a build does not wait for ever."""
    with dask_config.set({"distributed.deploy.lost-worker-timeout": "1s"}), open_workers(None, 1) as workers:
        assert sorted(workers.map(partial(scheduler_lost, folder=tmp_path), range(6))) == list(range(6))
    assert (tmp_path / "gone").exists()


def test_jobs_are_made_as_workers_ask_for_them(workers: DaskWorkers) -> None:
    """Of many jobs only a few a worker are made before the first result is taken."""
    made: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(200):
            made.append(number)
            yield number

    results = workers.map(process_of, jobs())
    next(results)
    assert len(made) <= 10 * 2
    assert len(list(results)) == 199


def test_errors_come_back_as_they_were_raised(workers: DaskWorkers) -> None:
    """A chunk's own error ends the map, with its sentence."""
    with pytest.raises(IntegrityError, match="chunk 0 is damaged"):
        list(workers.map(refused, [0]))


def test_a_cluster_leaves_no_trace_in_the_environment() -> None:
    """What a local cluster sets for its workers does not reach the processes that are started after it."""
    before = dict(os.environ)
    with open_workers(None, 1):
        pass
    assert dict(os.environ) == before


def test_more_processes_than_a_machine_can_hold_are_refused() -> None:
    """A slip of the hand does not have thousands of processes started: one sentence says how many there may be."""
    with (
        pytest.raises(
            ConfigError, match=r"100000 workers are too many processes for \d+ cores?: give \d+ at most"
        ),
        open_workers(None, 100_000),
    ):
        pass


def test_an_address_without_a_scheduler_is_named() -> None:
    """A scheduler that does not answer is one sentence with its address."""
    with pytest.raises(ServiceError, match=r"tcp://127\.0\.0\.1:9"), open_workers("tcp://127.0.0.1:9", None):
        pass


def test_a_worker_with_other_code_is_refused(tmp_path: Path) -> None:
    """A worker that has this code is taken; one that has another version of a library is named and refused."""
    (tmp_path / "pillow-99.dist-info").mkdir()
    (tmp_path / "pillow-99.dist-info" / "METADATA").write_text("Name: pillow\nVersion: 99\n")
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--no-dashboard"]
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        ExitStack() as running,
    ):
        for number, path in enumerate([[ROOT], [tmp_path, ROOT]]):
            process = subprocess.Popen(
                [*command, "--local-directory", tmp_path, cluster.scheduler_address],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
                stderr=subprocess.DEVNULL,
            )
            running.callback(process.wait)
            running.callback(process.terminate)
            client.wait_for_workers(number + 1, timeout=240)
            if number == 0:
                with open_workers(cluster.scheduler_address, None) as workers:
                    assert workers.num == 1
        with (
            pytest.raises(ServiceError, match=r"Dask worker tcp://\S+ has other code or library versions"),
            open_workers(cluster.scheduler_address, None),
        ):
            pass


def test_a_scheduler_without_workers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A running scheduler that nobody works for, nor begins to, is named before anything is sent to it."""
    monkeypatch.setattr("flows.operations.cluster.FIRST_S", 0.5)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        pytest.raises(ServiceError, match="has no worker"),
        open_workers(cluster.scheduler_address, None),
    ):
        pass


def test_a_cluster_that_grows_by_its_work_begins_to() -> None:
    """An adaptive cluster without a worker starts some for a build, and they get more jobs than the first could."""
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0") as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="200ms")
        with open_workers(cluster.scheduler_address, None) as workers:
            results = list(workers.map(process_of, range(40)))
    assert sorted(chunk for chunk, _ in results) == list(range(40))


def test_a_newcomer_with_other_code_ends_the_build(workers: DaskWorkers) -> None:
    """A job that comes to a worker whose code is not the build's is not done, and the worker is named."""
    strict = DaskWorkers(workers._client, {"flows.stages.align": "0" * 64})
    with pytest.raises(ServiceError, match=r"Dask worker tcp://\S+ has other code"):
        list(strict.map(process_of, [0]))


@pytest.mark.services
def test_a_build_minds_no_worker_that_comes_or_goes(tmp_path: Path) -> None:
    """Of two workers of a real scheduler one is killed in mid-build, and one comes: the version is that of one process.

    The log says both.
    """
    build = [
        sys.executable,
        "-m",
        "flows.cli",
        "build",
        "--source",
        "sample:80",
        "--name",
        "faces",
        "--resolution=32",
    ]
    build += ["--curate.pdq-max-distance=none", "--chunk-size=2"]

    def versions(store: str) -> list[str]:
        return [path.parent.name for path in (tmp_path / store).glob("datasets/faces/*/manifest.json")]

    subprocess.run([*build, "--store", tmp_path / "alone", "--workers=1"], check=True, capture_output=True)
    address = f"tcp://127.0.0.1:{free_port()}"
    dask = [sys.executable, "-m"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    place = ["--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"]
    with ExitStack() as running:

        def start(*words: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([*dask, *words], **quiet)  # type: ignore[call-overload]
            running.callback(process.wait)
            running.callback(process.kill)
            return process

        one = ["distributed.cli.dask_worker", "--no-nanny", "--no-dashboard", "--nthreads=1", address]
        start("distributed.cli.dask_scheduler", *place)
        first, _ = start(*one), start(*one)
        with Client(address, timeout=120, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        log = tmp_path / "log.txt"
        with log.open("wb") as file:
            building = subprocess.Popen(
                [*build, "--store", tmp_path / "many", "--scheduler", address], stdout=file, stderr=file
            )
            running.callback(building.kill)
            wait_for("chunk", lambda: list(tmp_path.glob("many/chunks/align/*/*.parquet")), 200, log)
            first.kill()
            wait_for(
                "word of it", lambda: "is gone" in log.read_text() or building.poll() is not None, 100, log
            )
            start(*one)
            assert building.wait(400) == 0, log.read_text()
    assert "is gone: what it worked on is done again, by 1 other" in log.read_text()
    assert versions("many") == versions("alone")
