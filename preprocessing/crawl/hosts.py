"""What is known of each host while it is asked: when it may be asked next, and how often it failed in a row.

A host that fails again and again is asked ever less, and then not at all; one that asks to be left alone for longer
than a crawl waits is put off. Both hold for every URL of it.
Not here: requests (`preprocessing.crawl.fetch`), and what robots.txt says (`preprocessing.crawl.robots`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from preprocessing.crawl.retry import resumes_at
from preprocessing.crawl.robots_txt import RobotsTxt
from preprocessing.reject import Reason, Rejected

FAILURES = 12
"""Failures in a row after which a host's URLs get one attempt each, where its settings do not say fewer."""
SINGLE_ATTEMPTS = 4
"""Further failures in a row after which it is not asked any more."""

ORIGIN_KEPT_S = 24 * 3600.0
"""How long what an origin says holds (RFC 9309, section 2.4)."""


class Passing(Rejected):
    """A failure that may be gone on the next attempt; `wait_s` is what the server asked for.

    `is_of_host` is whether the server said it of itself, so that all of its URLs wait; `is_stale` is whether it only
    means that a connection was closed which had been open since an earlier request (RFC 9112, section 9.3.1).
    """

    def __init__(
        self,
        reason: Reason,
        detail: str | None = None,
        wait_s: float = 0.0,
        is_of_host: bool = False,
        is_stale: bool = False,
    ) -> None:
        super().__init__(reason, detail)
        self.wait_s = wait_s
        self.is_of_host = is_of_host
        self.is_stale = is_stale


class PutOff(Rejected):
    """Why the URLs of a host are rejected that asked to be left alone `until` a time."""

    def __init__(self, reason: Reason, detail: str | None, host: str, until: datetime) -> None:
        super().__init__(reason, detail)
        self.host = host
        self.until = until


@dataclass
class HostPace:
    """When a host may be asked next, on the monotonic clock, and how often it failed in a row.

    `delay_s` lies between two requests, the last of which left at `last_s`. None leaves before `next_start_s`, when
    what it sent is within its bytes a second. `put_off` is what its URLs are rejected with while it is paused for
    longer than a crawl waits.
    """

    delay_s: float
    last_s: float = -math.inf
    next_start_s: float = 0.0
    num_failures: int = 0
    last_failure: Rejected | None = None
    paused_until_s: float = 0.0
    put_off: PutOff | None = None


@dataclass
class Origin:
    """What an origin says for all of its addresses: robots.txt, and tdmrep.json where it was asked for."""

    robots: RobotsTxt
    body: bytes
    """The file that `robots` was read from."""
    read_s: float
    tdmrep: bytes | None = None
    is_tdmrep_read: bool = True
    delay_s: float | None = None
    """What it wants between two requests, where that was worked out."""

    @property
    def is_old(self) -> bool:
        """Whether it is to be read again."""
        return time.monotonic() - self.read_s >= ORIGIN_KEPT_S


@dataclass
class Memory:
    """What is known of hosts and origins, and outlives a crawl; times are on the monotonic clock."""

    origins: dict[str, Origin] = field(default_factory=dict)
    robots_failures: dict[str, tuple[float, Rejected]] = field(default_factory=dict)
    paces: dict[str, HostPace] = field(default_factory=dict)
    news: deque[str] = field(default_factory=deque)
    """Origins that said something since somebody took their names from here."""
    wishes: deque[PutOff] = field(default_factory=deque)
    """Hosts that asked to be left alone since somebody took them from here, whether a crawl waits for it or not."""


@dataclass
class Host:
    """The turns of one host."""

    name: str
    slots: asyncio.Semaphore
    pace: HostPace
    max_failures: int
    bytes_per_s: float = math.inf
    order: asyncio.Lock = field(default_factory=asyncio.Lock)

    def turn(self, all_slots: asyncio.Semaphore) -> Turn:
        """A turn to take: `async with` waits for a slot, then for the time of the next request.

        `Rejected` where the host is not to be asked. `all_slots` are those of all hosts together, and none is held
        while waiting.
        """
        return Turn(self, all_slots)

    def check(self) -> None:
        """Raise `Rejected` where the host is not to be asked now."""
        pace = self.pace
        if pace.put_off and pace.paused_until_s > time.monotonic():
            raise PutOff(pace.put_off.reason, pace.put_off.detail, self.name, pace.put_off.until)
        if pace.last_failure and pace.num_failures >= self.max_failures + SINGLE_ATTEMPTS:
            why = f"{pace.last_failure.detail}, as {pace.num_failures} requests in a row"
            raise Rejected(pace.last_failure.reason, why)

    @property
    def is_failing(self) -> bool:
        """Whether its URLs get one attempt each."""
        return self.pace.num_failures >= self.max_failures

    def answered(self) -> None:
        """Note that it does answer; one that wants to be left alone may, to a request that was under way."""
        pace = self.pace
        pace.num_failures, pace.last_failure = 0, None
        if pace.put_off and pace.paused_until_s <= time.monotonic():
            pace.put_off = None

    def asks_for(self, delay_s: float) -> None:
        """Note what it wants between two requests, from now on."""
        if delay_s > self.pace.delay_s:
            self.pace.delay_s, self.pace.last_s = delay_s, time.monotonic()

    def sent(self, num_bytes: int) -> None:
        """Note what it sent: the next request waits until that is within its bytes a second."""
        pace = self.pace
        pace.next_start_s = max(pace.next_start_s, time.monotonic()) + num_bytes / self.bytes_per_s

    def failed(self, failure: Passing) -> None:
        """Note one failure more."""
        self.pace.num_failures += 1
        self.pace.last_failure = failure

    def pause(self, wait_s: float) -> None:
        """Keep every request to the host back: one that was told to wait speaks for all."""
        self.pace.paused_until_s = max(self.pace.paused_until_s, time.monotonic() + wait_s)

    def wish(self, failure: Passing) -> PutOff:
        """What its URLs are rejected with until the time it asked for, which it says."""
        until = resumes_at(datetime.now(UTC), failure.wait_s)
        detail = f"{failure.detail}, asks to be left alone until {until.strftime('%Y-%m-%dT%H:%M:%SZ')}"
        return PutOff(failure.reason, detail, self.name, until)

    def put_off(self, failure: Passing) -> PutOff:
        """Have all of its URLs rejected until the time it asked for, and say until when."""
        self.pause(failure.wait_s)
        self.pace.put_off = self.wish(failure)
        return self.pace.put_off


class Turn:
    """One request's turn at a host, as long as it is entered."""

    __slots__ = ("_all_slots", "_holds_order", "_host", "is_answered", "is_reused")

    def __init__(self, host: Host, all_slots: asyncio.Semaphore) -> None:
        self._host = host
        self._all_slots = all_slots
        self._holds_order = False
        self.is_reused = False
        """Whether the request left on a connection that an earlier one had."""
        self.is_answered = False
        """Whether an answer has begun."""

    async def __aenter__(self) -> Turn:
        host, pace = self._host, self._host.pace
        await host.slots.acquire()
        try:
            # In order until the request may leave: a slot of all hosts may be long in coming, and others wait behind.
            await host.order.acquire()
            self._holds_order = True
            while True:
                await self._wait()
                await self._all_slots.acquire()
                if self._wait_s <= 0:
                    break
                self._all_slots.release()
            try:
                host.check()
            except BaseException:
                self._all_slots.release()
                raise
        except BaseException:
            self._let_others()
            host.slots.release()
            raise
        if not pace.delay_s:
            self.left()
        return self

    def left(self) -> None:
        """Note that the request leaves: what a host wants between two begins now, whatever a connection took."""
        if self._holds_order:
            self._host.pace.last_s = time.monotonic()
            self._let_others()

    async def __aexit__(self, *_: object) -> None:
        self.left()
        self._all_slots.release()
        self._host.slots.release()

    def _let_others(self) -> None:
        if self._holds_order:
            self._holds_order = False
            self._host.order.release()

    @property
    def _wait_s(self) -> float:
        pace = self._host.pace
        return max(pace.last_s + pace.delay_s, pace.next_start_s, pace.paused_until_s) - time.monotonic()

    async def _wait(self) -> None:
        """Until the host may be asked, without any slot of all hosts; `Rejected` where it is not to be."""
        self._host.check()
        while (wait_s := self._wait_s) > 0:
            await asyncio.sleep(wait_s)
            self._host.check()  # a pause may have come meanwhile, or the end
