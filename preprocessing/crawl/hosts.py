"""What is known of each host while it is asked: when it may be asked next, and what it answered for itself.

Not here: requests (`preprocessing.crawl.fetch`), and what robots.txt says (`preprocessing.crawl.robots`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from preprocessing.reject import Reason, Rejected


class Passing(Rejected):
    """A failure that may be gone on the next attempt; `wait_s` is what the server asked for."""

    def __init__(self, reason: Reason, detail: str | None = None, wait_s: float = 0.0) -> None:
        super().__init__(reason, detail)
        self.wait_s = wait_s


@dataclass
class HostPace:
    """When a host may be asked next: `next_start_s` on the monotonic clock, and the wait after each request."""

    delay_s: float
    next_start_s: float = 0.0


@dataclass
class Memory:
    """What is known of hosts, and outlives a call of `fetch_all`: robots.txt by origin, and each host's pace."""

    robots: dict[str, str] = field(default_factory=dict)
    robots_failures: dict[str, Passing] = field(default_factory=dict)
    paces: dict[str, HostPace] = field(default_factory=dict)


@dataclass
class Host:
    """The turns of one host."""

    slots: asyncio.Semaphore
    pace: HostPace
    order: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a slot, then for the time of the next request."""
        async with self.slots:
            async with self.order:
                while (
                    wait_s := self.pace.next_start_s - time.monotonic()
                ) > 0:  # a pause may come while waiting
                    await asyncio.sleep(wait_s)
                self.pace.next_start_s = time.monotonic() + self.pace.delay_s
            yield

    def pause(self, wait_s: float) -> None:
        """Keep every request to the host back: one that was told to wait speaks for all."""
        self.pace.next_start_s = max(self.pace.next_start_s, time.monotonic() + wait_s)
