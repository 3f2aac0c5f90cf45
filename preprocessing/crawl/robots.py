"""What an origin says for all of its addresses, in robots.txt and in tdmrep.json, asked once a day.

Not here: the requests (`preprocessing.crawl.fetch`), and what the words mean (`preprocessing.crawl.signals`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from preprocessing.crawl.hosts import Memory, Origin
from preprocessing.crawl.readers import TDMREP_PATH, read_robots, read_tdmrep
from preprocessing.crawl.robots_txt import DECIDING, RobotsTxt, deciding, parse_robots
from preprocessing.crawl.signals import Signals
from preprocessing.crawl.urls import WebAddress
from preprocessing.reject import Rejected

FAILURE_KEPT_S = 3600.0
"""How long an origin whose robots.txt could not be had is not asked again."""
MAX_CRAWL_DELAY_S = 30.0


class Robots:
    """The robots.txt and tdmrep.json of each origin.

    `read` gives the bytes of an address, None where there is none, or raises `Rejected` where it cannot be had.
    `agents` are the names that the crawler is asked under.
    """

    def __init__(
        self, memory: Memory, agents: Sequence[str], read: Callable[[WebAddress], Awaitable[bytes | None]]
    ) -> None:
        self._memory = memory
        self._agents = tuple(agents)
        self._read = read
        self._locks: dict[str, asyncio.Lock] = {}

    async def robots(self, address: WebAddress) -> tuple[Signals, float]:
        """What robots.txt says of an address, and the seconds that the origin wants between requests."""
        known = self._memory.origins.get(address.origin)
        if known is None or known.is_old:
            async with self._lock(address):
                known = await self._known(address)
        if known.delay_s is None:
            asked = max(known.robots.delay_s(agent) or 0.0 for agent in self._agents)
            known.delay_s = min(asked, MAX_CRAWL_DELAY_S)
        return read_robots(known.robots, address.target, self._agents), known.delay_s

    async def tdmrep(self, address: WebAddress) -> Signals:
        """What tdmrep.json says of an address; it is not asked for where robots.txt closes it to us.

        One that cannot be had says nothing, and was not looked at.
        """
        known = self._memory.origins.get(address.origin)
        if known is None or known.tdmrep is None:
            async with self._lock(address):
                known = await self._with_tdmrep(address)
        assert known.tdmrep is not None
        return read_tdmrep(known.tdmrep, address.target) if known.is_tdmrep_read else Signals()

    async def _with_tdmrep(self, address: WebAddress) -> Origin:
        known = self._memory.origins.get(address.origin) or Origin(RobotsTxt(()), b"", time.monotonic())
        self._memory.origins[address.origin] = known
        if known.tdmrep is None:
            at = replace(address, target=TDMREP_PATH, credentials=None)
            try:
                known.tdmrep = b"" if self._is_closed(known, at) else await self._read(at) or b""
            except Rejected:
                known.tdmrep, known.is_tdmrep_read = b"", False
            self._memory.news.append(address.origin)
        return known

    async def _known(self, address: WebAddress) -> Origin:
        origin, now_s = address.origin, time.monotonic()
        known = self._memory.origins.get(origin)
        if known is not None and not known.is_old:
            return known
        failed_s, failure = self._memory.robots_failures.get(origin, (-FAILURE_KEPT_S, None))
        if failure is not None and now_s - failed_s < FAILURE_KEPT_S:  # once is enough for every URL of it
            raise Rejected(failure.reason, failure.detail)
        try:
            body = await self._read(replace(address, target="/robots.txt", credentials=None))
        except Rejected as rejected:
            # What cannot be reached forbids everything for now (RFC 9309, section 2.3.1.4).
            failure = Rejected(rejected.reason, f"robots.txt: {rejected.detail}")
            self._memory.robots_failures[origin] = (time.monotonic(), failure)
            raise failure from None
        body = body or b""
        known = self._memory.origins[origin] = Origin(parse_robots(body), body, time.monotonic())
        self._memory.news.append(origin)
        return known

    def _is_closed(self, known: Origin, at: WebAddress) -> bool:
        rules = (deciding(known.robots.rules(agent, *DECIDING), at.target) for agent in self._agents)
        return any(rule is not None and rule.kind == "disallow" for rule in rules)

    def _lock(self, address: WebAddress) -> asyncio.Lock:
        return self._locks.setdefault(address.origin, asyncio.Lock())
