"""flows.cluster: chunks survive their workers, and errors come back as they were raised."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from flows.cluster import map_chunks, open_client
from storage.errors import IntegrityError, ServiceError


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A local cluster of two processes."""
    with open_client(None, 2) as client:
        yield client


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


def test_every_chunk_is_done_once(client: Client) -> None:
    """All chunks come back, from both workers and not from this process."""
    results = list(map_chunks(client, process_of, list(range(20))))
    assert sorted(chunk for chunk, _ in results) == list(range(20))
    assert len({process for _, process in results} - {os.getpid()}) == 2


def test_chunks_survive_a_killed_worker(client: Client, tmp_path: Path) -> None:
    """A worker that is killed comes back, and no chunk is lost."""
    results = list(map_chunks(client, killed_once, [0, 1, 2], tmp_path))
    assert (tmp_path / "killed").exists()
    assert sorted(results) == [0, 1, 2]


def test_errors_come_back_as_they_were_raised(client: Client) -> None:
    """A chunk's own error ends the map, with its sentence."""
    with pytest.raises(IntegrityError, match="chunk 0 is damaged"):
        list(map_chunks(client, refused, [0]))


def test_a_cluster_leaves_no_trace_in_the_environment() -> None:
    """What a local cluster sets for its workers does not reach the processes that are started after it."""
    before = dict(os.environ)
    with open_client(None, 1):
        pass
    assert dict(os.environ) == before


def test_an_address_without_a_scheduler_is_named() -> None:
    """A scheduler that does not answer is one sentence with its address."""
    with pytest.raises(ServiceError, match=r"tcp://127\.0\.0\.1:9"), open_client("tcp://127.0.0.1:9", None):
        pass


def test_a_scheduler_without_workers_is_named() -> None:
    """A running scheduler that nobody works for is refused before anything waits for it."""
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        pytest.raises(ServiceError, match="has no worker"),
        open_client(cluster.scheduler_address, None),
    ):
        pass
