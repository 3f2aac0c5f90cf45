"""Dask workers for a build: a running cluster by its address, or a local one of worker processes.

with open_workers(None, 2) as workers:
    list(workers.map(work, jobs))
"""

from __future__ import annotations

import logging
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from typing import Any, TypeVar

from dask import config as dask_config
from dask.system import CPU_COUNT
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed, get_worker

from storage.code import code_digest
from storage.errors import ConfigError, ServiceError
from storage.wording import numbered

Job = TypeVar("Job")
Result = TypeVar("Result")

WORK = ("flows.stages.align", "flows.stages.shard")
"""The modules whose functions workers run, and whose results are kept under their code."""
JOBS_AHEAD = 2
"""Jobs that wait at the scheduler for each worker, so that none is idle and few are held in memory."""

LOCAL = {
    "distributed.worker.daemon": False,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
}
"""Settings of a cluster here: Dask looks at its processes up to a hundred times a second else, which takes a twentieth
of a worker's time, and 3% of a core in the driver."""
MOST_A_CORE = 16
"""Worker processes that are begun for each core at most: each takes memory, and the machine stands still with many."""
LOOK_S = 2.0
"""How often is looked which workers came and went."""
POLL_S = 0.02
FIRST_S = 120.0
"""How long the first worker is waited for: a cluster that grows by its work has none before."""
OTHER_CODE = "Dask worker {} has other code or library versions than this build: make them the same"

log = logging.getLogger(__name__)
logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what fails in a worker is raised here too


class DaskWorkers:
    """Workers that are the processes of a Dask cluster, and may come and go."""

    def __init__(
        self,
        client: Client,
        codes: Mapping[str, str] | None = None,
        refill: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._refill = refill
        """Has a cluster start workers in place of those that are gone; None where that is for others to do."""
        self._codes = codes
        """What each module's code must be in a worker; None where workers are of this very process."""
        self._known = self._names()

    @property
    def num(self) -> int:
        """How many workers the cluster has now."""
        return len(self._names())

    def _names(self) -> set[str]:
        return set(self._client.scheduler_info(n_workers=-1)["workers"])

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """`work(job)` of every job, as each finishes; jobs are made as workers ask for them.

        A job whose worker dies is done again by another, and newcomers are given jobs too. The first exception cancels
        what has not begun and is raised; ServiceError where a job keeps killing its workers.
        """
        waiting = iter(jobs)
        running: dict[str, tuple[Future, Job]] = {}
        do = work if self._codes is None else partial(with_same_code, work, self._codes)

        def submitted(num: int) -> list[Future]:
            futures = []
            for job in islice(waiting, max(num, 0)):
                future = self._client.submit(do, job, pure=False)
                running[future.key] = future, job
                futures.append(future)
            return futures

        looked = time.monotonic()
        first = submitted((1 + JOBS_AHEAD) * max(self.num, 1))
        completed = as_completed(first, loop=self._client.loop, with_results=True)
        try:
            while running:
                if time.monotonic() - looked > LOOK_S:
                    looked = time.monotonic()
                    completed.update(submitted((1 + JOBS_AHEAD) * self._look() - len(running)))
                if not completed.has_ready():
                    time.sleep(POLL_S)
                    continue
                future, result = next(completed)
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

    def _look(self) -> int:
        """Say which workers came and went, and how many there are."""
        names = self._names()
        for gone in sorted(self._known - names):
            log.warning(
                "Dask worker %s is gone: what it worked on is done again, by %s",
                gone,
                numbered(len(names), "other"),
            )
        for come in sorted(names - self._known):
            log.info("Dask worker %s came", come)
        self._known = names
        if self._refill is not None:
            self._refill()
        return len(names)


def with_same_code(work: Callable[[Job], Result], codes: Mapping[str, str], job: Job) -> Result:
    """Do a job in a worker, if its code is that of the build: one that came later may have another."""
    if codes != {entry: _own_code(entry) for entry in codes}:
        raise ServiceError(OTHER_CODE.format(get_worker().address))
    return work(job)


@cache
def _own_code(entry: str) -> str:
    return code_digest(entry)


def _name_of(work: Callable[..., Any]) -> str:
    return str(getattr(getattr(work, "func", work), "__name__", work))


@contextmanager
def open_workers(address: str | None, num_workers: int | None) -> Iterator[DaskWorkers]:
    """The workers of the scheduler at `address`, or of a LocalCluster with a one-thread process a worker.

    ServiceError names an address where no scheduler answers, or whose workers lack this project or run other code:
    a chunk sent to such a worker would never come back. ConfigError for far more processes than there are cores.
    """
    if address is not None:
        try:
            client = Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ServiceError(f"no Dask scheduler answers at {address}: {error}") from error
        with client:
            _check_workers(client, address)
            yield DaskWorkers(client, {entry: code_digest(entry) for entry in WORK})
        return
    most = MOST_A_CORE * CPU_COUNT
    if num_workers is not None and num_workers > most:
        raise ConfigError(
            f"{num_workers} workers are too many processes for {numbered(CPU_COUNT, 'core')}: give {most} at most"
        )
    with (
        _environment_kept(),
        dask_config.set(LOCAL),
        LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",  # it has no password, and a fixed port may be held by another build
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        # A worker that lost its scheduler, as on a machine that stood still, ends for good, and its nanny with it.
        yield DaskWorkers(client, refill=partial(cluster.scale, len(cluster.workers)))


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
    wanted = client.submit(int, pure=False)  # so that a cluster that grows by its work begins to
    try:
        client.wait_for_workers(1, timeout=FIRST_S)
    except TimeoutError:
        raise ServiceError(
            f"the Dask scheduler at {address} has no worker, and none came in {FIRST_S:g} s"
        ) from None
    finally:
        wanted.cancel()
    for entry in WORK:
        codes = client.run(code_digest, entry, on_error="return")  # one that has just left answers nothing
        if lacking := [code for code in codes.values() if isinstance(code, ImportError)]:
            raise ServiceError(
                f"a Dask worker of {address} lacks this project, or has another version of it: {lacking[0]}"
            )
        wanted_code = code_digest(entry)
        if others := sorted(w for w, code in codes.items() if isinstance(code, str) and code != wanted_code):
            raise ServiceError(OTHER_CODE.format(others[0]))
