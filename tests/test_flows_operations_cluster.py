"""flows.operations.cluster: chunks survive their workers, and errors come back as they were raised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest
from distributed import Client, LocalCluster

from flows.operations.cluster import DaskWorkers, open_workers
from storage.errors import IntegrityError, ServiceError

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
    listening = {
        connection.laddr.ip
        for process in (here, *here.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
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


def test_jobs_are_made_as_workers_ask_for_them(workers: DaskWorkers) -> None:
    """Of many jobs only a few a worker are made before the first result is taken."""
    made: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    results = workers.map(process_of, jobs())
    next(results)
    assert len(made) <= 10 * workers.num
    assert len(list(results)) == 999


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
            client.wait_for_workers(number + 1, timeout=60)
            if number == 0:
                with open_workers(cluster.scheduler_address, None) as workers:
                    assert workers.num == 1
        with (
            pytest.raises(ServiceError, match=r"Dask worker tcp://\S+ has other code or library versions"),
            open_workers(cluster.scheduler_address, None),
        ):
            pass


def test_a_scheduler_without_workers_is_named() -> None:
    """A running scheduler that nobody works for is refused before anything waits for it."""
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        pytest.raises(ServiceError, match="has no worker"),
        open_workers(cluster.scheduler_address, None),
    ):
        pass
