"""The one Dask client of a build: a running cluster by its address, or a local one of worker processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from dask import config as dask_config
from distributed import Client, KilledWorker, LocalCluster, as_completed

from storage.errors import ServiceError

Result = TypeVar("Result")

logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what fails in a worker is raised here too


@contextmanager
def open_client(address: str | None, num_workers: int | None) -> Iterator[Client]:
    """A client of the scheduler at `address`, or of a LocalCluster with a one-thread process a worker.

    ServiceError names an address where no scheduler answers.
    """
    if address is not None:
        try:
            client = Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ServiceError(f"no Dask scheduler answers at {address}: {error}") from error
        with client:
            yield client
        return
    with (
        # any free port: a fixed one may be held by another build
        dask_config.set({"distributed.worker.daemon": False}),
        LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def map_chunks(
    client: Client,
    function: Callable[..., Result],
    chunks: Sequence[Any],
    *arguments: Any,
    one_process: bool = False,
) -> Iterator[Result]:
    """Yield `function(chunk, *arguments)` for every chunk, as they finish, in any order.

    With `one_process` all chunks run on one worker, for work whose limits hold within a process. The first
    exception cancels what has not begun and is raised; ServiceError where chunks keep killing their worker.
    """
    # by name, not address: a worker that dies comes back under its name
    names = sorted(worker["name"] for worker in client.scheduler_info()["workers"].values())
    workers = names[:1] if one_process else None
    futures = [client.submit(function, chunk, *arguments, pure=False, workers=workers) for chunk in chunks]
    try:
        for _, result in as_completed(futures, loop=client.loop, with_results=True):
            yield result
    except KilledWorker as error:
        raise ServiceError(f"a Dask worker died again and again at {function.__name__}: {error}") from error
    finally:
        client.cancel(futures)
