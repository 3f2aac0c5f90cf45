"""Locks in a bucket: who works there now, of all machines.

    with leased(bucket, "build", shared=True, wait=True) as is_mine: ...

Whoever wants a lock puts an object of its own, then looks who else has one. Of two that do so at once each sees the
other, so that not both have it. An object that was not renewed for `ALIVE_S` is of a process that is gone. Its age is
told by the bucket's clock alone.

    leases/NAME/shared-3f2a...     or exclusive-3f2a...
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from storage.bucket import Bucket, Listed
from storage.errors import PipelineError, ServiceError

FOLDER = "leases"
ALIVE_S = 120
"""How long a lease counts after it was renewed."""
RENEW_S = 20
PAUSE_S = 0.5
SHARED, EXCLUSIVE = "shared", "exclusive"


@contextmanager
def leased(bucket: Bucket, name: str, *, shared: bool, wait: bool) -> Iterator[bool]:
    """Be the only process, or with `shared` one of those, that does what `name` says; without `wait` maybe not.

    ServiceError where it could not be renewed, so that another may have taken it.
    """
    kind = SHARED if shared else EXCLUSIVE
    while True:
        key = f"{FOLDER}/{name}/{kind}-{secrets.token_hex(8)}"
        bucket.put(key, b"")
        try:
            if not _others(bucket, name, key, shared):
                with _renewed(bucket, key):
                    yield True
                return
            if not wait:
                yield False
                return
        finally:
            with suppress(ServiceError):  # it ends by its age too, and what is told is why the block ended
                bucket.hasty.delete([key])
        time.sleep(PAUSE_S * (1 + random.random()))


def _others(bucket: Bucket, name: str, key: str, shared: bool) -> list[Listed]:
    """Leases of others that stand in the way; those of processes that are gone are taken away."""
    entries = list(bucket.entries(f"{FOLDER}/{name}"))
    now_us = next(entry.modified_us for entry in entries if entry.key == key)
    dead = [entry.key for entry in entries if now_us - entry.modified_us > ALIVE_S * 1e6]
    bucket.delete(dead)
    return [
        entry
        for entry in entries
        if entry.key not in (key, *dead) and not (shared and f"/{SHARED}-" in entry.key)
    ]


@contextmanager
def _renewed(bucket: Bucket, key: str) -> Iterator[None]:
    """Renew a lease until the block ends."""
    ended = Event()
    renewed = time.monotonic()

    def renew() -> None:
        nonlocal renewed
        while not ended.wait(RENEW_S):
            began = time.monotonic()
            try:
                bucket.hasty.put(key, b"")
            except PipelineError:  # it is tried again, and asked below whether it was in time
                continue
            renewed = began

    thread = Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
        if time.monotonic() - renewed > ALIVE_S:
            raise ServiceError(
                f"{bucket.name(key)} could not be renewed in time, and another may have worked there"
            )
    finally:
        ended.set()
        thread.join()
