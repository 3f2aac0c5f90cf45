"""Dask workers for a build: a running cluster by its address, or a local one of worker processes.

with open_workers(None, 2) as workers:
    list(workers.map(work, jobs))
"""

from __future__ import annotations

import logging
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from dask import config as dask_config
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed

from storage.code import code_digest
from storage.errors import ServiceError

Job = TypeVar("Job")
Result = TypeVar("Result")

WORK = ("flows.stages.align", "flows.stages.shard")
"""The modules whose functions workers run, and whose results are kept under their code."""
JOBS_AHEAD = 2
"""Jobs that wait at the scheduler for each worker, so that none is idle and few are held in memory."""

logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what fails in a worker is raised here too


class DaskWorkers:
    """Workers that are the processes of a Dask cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def num(self) -> int:
        """How many workers the cluster has now."""
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """`work(job)` of every job, as each finishes; jobs are made as workers ask for them.

        A job whose worker dies is done again by another. The first exception cancels what has not begun and is raised;
        ServiceError where a job keeps killing its workers.
        """
        waiting = iter(jobs)
        running: dict[str, tuple[Future, Job]] = {}

        def submitted(num: int) -> list[Future]:
            futures = []
            for job in islice(waiting, num):
                future = self._client.submit(work, job, pure=False)
                running[future.key] = future, job
                futures.append(future)
            return futures

        first = submitted((1 + JOBS_AHEAD) * max(self.num, 1))
        completed = as_completed(first, loop=self._client.loop, with_results=True)
        try:
            for future, result in completed:
                del running[future.key]
                completed.update(submitted(1))
                yield result
        except KilledWorker as error:
            _, job = running[error.task]
            raise ServiceError(
                f"Dask workers died again and again at {_name_of(work)} of {textwrap.shorten(str(job), 300)}: give "
                f"them more memory, or make chunks smaller (--chunk-size)"
            ) from error
        finally:
            self._client.cancel([future for future, _ in running.values()])


def _name_of(work: Callable[..., Any]) -> str:
    return str(getattr(getattr(work, "func", work), "__name__", work))


@contextmanager
def open_workers(address: str | None, num_workers: int | None) -> Iterator[DaskWorkers]:
    """The workers of the scheduler at `address`, or of a LocalCluster with a one-thread process a worker.

    ServiceError names an address where no scheduler answers, or whose workers lack this project or run other code:
    a chunk sent to such a worker would never come back.
    """
    if address is not None:
        try:
            client = Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ServiceError(f"no Dask scheduler answers at {address}: {error}") from error
        with client:
            _check_workers(client, address)
            yield DaskWorkers(client)
        return
    with (
        _environment_kept(),
        # any free port, since a fixed one may be held by another build
        dask_config.set({"distributed.worker.daemon": False}),
        LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",  # it has no password
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield DaskWorkers(client)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Undo what a LocalCluster leaves in this process's environment.

    It sets MALLOC_TRIM_THRESHOLD_ and thread counts for its workers and lets them stay; a training process that
    inherits them gives its memory back to the system all the time, and takes three times as long.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _check_workers(client: Client, address: str) -> None:
    if not client.scheduler_info()["workers"]:
        raise ServiceError(f"the Dask scheduler at {address} has no worker")
    for entry in WORK:
        try:
            codes = client.run(code_digest, entry)
        except ImportError as error:
            raise ServiceError(
                f"a Dask worker of {address} lacks this project, or has another version of it: {error}"
            ) from error
        if others := sorted(worker for worker, code in codes.items() if code != code_digest(entry)):
            raise ServiceError(
                f"Dask worker {others[0]} has other code or library versions than this build: make them the same"
            )
