"""The one Dask client of a build: a running cluster by its address, or a local one of worker processes."""

from __future__ import annotations

import logging
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from dask import config as dask_config
from distributed import Client, KilledWorker, LocalCluster, as_completed

from preprocessing.faces import algorithm_digest
from storage.errors import ServiceError

Result = TypeVar("Result")

logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what fails in a worker is raised here too


@contextmanager
def open_client(address: str | None, num_workers: int | None) -> Iterator[Client]:
    """A client of the scheduler at `address`, or of a LocalCluster with a one-thread process a worker.

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
            yield client
        return
    with (
        _environment_kept(),
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
    try:
        codes = client.run(algorithm_digest)
    except ImportError as error:
        raise ServiceError(f"a Dask worker of {address} lacks this project: {error}") from error
    if others := sorted(worker for worker, code in codes.items() if code != algorithm_digest()):
        raise ServiceError(
            f"Dask worker {others[0]} has other code or library versions than this build: make them the same"
        )


def map_chunks(
    client: Client, function: Callable[..., Result], chunks: Sequence[Any], *arguments: Any
) -> Iterator[Result]:
    """Yield `function(chunk, *arguments)` for every chunk, as they finish, in any order.

    A chunk whose worker dies is done again by another. The first exception cancels what has not begun and is raised;
    ServiceError where a chunk keeps killing its workers.
    """
    futures = [client.submit(function, chunk, *arguments, pure=False) for chunk in chunks]
    chunk_of = dict(zip((future.key for future in futures), chunks, strict=True))
    try:
        for _, result in as_completed(futures, loop=client.loop, with_results=True):
            yield result
    except KilledWorker as error:
        chunk = textwrap.shorten(str(chunk_of.get(error.task)), 300)
        raise ServiceError(
            f"Dask workers died again and again at {function.__name__} of {chunk}: give them more memory, or make "
            f"chunks smaller (--chunk-size)"
        ) from error
    finally:
        client.cancel(futures)
