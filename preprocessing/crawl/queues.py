"""Many addresses, each host's in a queue of its own, and what became of them as they finish: no host waits for another.

A host has as many lanes as requests may run at it, and lanes take turns, an address each. So silent hosts cost the time
of one, and a crawl holds tasks for its lanes and not for its addresses.
Not here: one address (`preprocessing.crawl.fetch`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path

from preprocessing.crawl.fetch import FetchConfig, Fetcher, Refusal, Visit, Wanted, nothing_blocked
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.urls import host_of

BATCH_S = 0.1
"""How long what has finished may wait for company."""
SILENT_S = 2.0
"""After how long without any an empty batch says that the crawl goes on."""
_WAITING_LANES = 4
"""Lanes that may be under way for each request that may: most of them wait for their host."""

Queue = deque[Wanted]


def arriving(
    wanted: Iterable[Wanted],
    config: FetchConfig,
    memory: Memory,
    folder: Path,
    refusal: Refusal = nothing_blocked,
) -> Generator[list[Visit], None, None]:
    """What came of all addresses in batches, in the order in which they finish, none held for more than a moment.

    A batch is empty where nothing has finished for a while, as when all hosts are waited for.

    Bodies are files of `folder`. The requests run in a thread of their own, since the caller's may be running an event
    loop already, and end with the iterator.
    """
    lanes = _lanes(wanted, config.per_host_concurrency)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fetch")
    thread.start()
    try:
        finished: asyncio.Queue[Visit | None] = asyncio.Queue()
        ended = asyncio.Event()
        crawl = asyncio.run_coroutine_threadsafe(
            _crawl(lanes, Fetcher(config, memory, folder, refusal), config, finished, ended), loop
        )
        try:
            while (
                batch := asyncio.run_coroutine_threadsafe(_batch(finished, ended), loop).result()
            ) is not None:
                yield batch
            crawl.result()
        finally:
            crawl.cancel()
            asyncio.run_coroutine_threadsafe(ended.wait(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _lanes(wanted: Iterable[Wanted], per_host: int) -> deque[Queue]:
    """The queues of the hosts, in the order in which hosts are listed; each as often as its host has lanes."""
    queues: dict[str, Queue] = {}
    for one in wanted:
        queues.setdefault(host_of(one.address), deque()).append(one)
    return deque(queue for lane in range(per_host) for queue in queues.values() if len(queue) > lane)


async def _crawl(
    lanes: deque[Queue],
    fetcher: Fetcher,
    config: FetchConfig,
    finished: asyncio.Queue[Visit | None],
    ended: asyncio.Event,
) -> None:
    async def work() -> None:
        while lanes:
            queue = lanes.popleft()
            if not queue:
                continue
            finished.put_nowait(await fetcher.fetch(queue.popleft()))
            if queue:
                lanes.append(queue)

    try:
        async with fetcher, asyncio.TaskGroup() as tasks:
            for _ in range(min(len(lanes), _WAITING_LANES * config.max_concurrency)):
                tasks.create_task(work())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
    finally:
        finished.put_nowait(None)
        ended.set()


async def _batch(finished: asyncio.Queue[Visit | None], ended: asyncio.Event) -> list[Visit] | None:
    """What has finished within a moment of the first; None at the end."""
    try:
        async with asyncio.timeout(SILENT_S):
            first = await finished.get()
    except TimeoutError:
        return []
    if first is None:
        return None
    batch = [first]
    try:
        async with asyncio.timeout(BATCH_S):
            await ended.wait()
    except TimeoutError:
        pass
    while not finished.empty():
        visit = finished.get_nowait()
        if visit is None:
            finished.put_nowait(None)  # for the next call
            break
        batch.append(visit)
    return batch
