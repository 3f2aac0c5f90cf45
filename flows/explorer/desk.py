"""One thread that draws, and the order of its work: what is wanted most first, and nothing that nobody waits for.

Each request has a slot, such as the big picture of one page. A newer request of a slot takes the place of one that
still waits there. What is wanted more stops what is being drawn, as a preview does, since a hand is moving. What was
overtaken has no result.
Not here: what is drawn (`training.drawing.views`).

    pixels = await desk.ask(("page", "preview"), Urgency.PREVIEW, lambda is_overtaken: stage.picture(...))
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from threading import Event
from typing import Any

from training.drawing.views import Overtaken

Work = Callable[[Callable[[], bool]], Any]
"""Is told by what to know whether it is overtaken, and raises Overtaken then."""


class Urgency(IntEnum):
    """What is drawn first."""

    PREVIEW = 0
    PICTURE = 1
    ASIDE = 2
    """Small pictures beside the big one, and films."""


@dataclass
class _Request:
    slot: Hashable
    urgency: Urgency
    work: Work
    result: asyncio.Future[Any]
    overtaken: Event = field(default_factory=Event)


class Desk:
    """Lives in one event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._waiting: dict[Hashable, _Request] = {}
        self._running: _Request | None = None
        self._task: asyncio.Task[None] | None = None

    async def ask(self, slot: Hashable, urgency: Urgency, work: Work) -> Any:
        """The result of the work, or None where something newer has taken its place."""
        request = _Request(slot, urgency, work, asyncio.get_running_loop().create_future())
        if older := self._waiting.pop(slot, None):
            older.result.set_result(None)
        running = self._running
        if running and (running.slot == slot or urgency < running.urgency):
            running.overtaken.set()
        self._waiting[slot] = request
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._draw())
        try:
            return await request.result
        finally:
            request.overtaken.set()  # the page went away, or it has been drawn
            if self._waiting.get(slot) is request:
                del self._waiting[slot]

    async def _draw(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            request = min(self._waiting.values(), key=lambda one: one.urgency)
            del self._waiting[request.slot]
            self._running = request
            try:
                result = await loop.run_in_executor(self._pool, request.work, request.overtaken.is_set)
            except Overtaken:
                result = None
            except Exception as error:
                if not request.result.done():
                    request.result.set_exception(error)
                continue
            finally:
                self._running = None
            if not request.result.done():
                request.result.set_result(result)

    def close(self) -> None:
        """Stop what is being drawn, and wait for that."""
        if self._running:
            self._running.overtaken.set()
        self._pool.shutdown(cancel_futures=True)
