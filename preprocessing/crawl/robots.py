"""What a host asks of crawlers, in robots.txt (RFC 9309) and in X-Robots-Tag, read and obeyed.

Not here: the requests (`preprocessing.crawl.fetch`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache

from protego import Protego
from yarl import URL

from preprocessing.crawl.hosts import Memory, Passing
from preprocessing.reject import Reason, Rejected

BOT = "likeness"
"""The name that robots.txt and X-Robots-Tag address."""
OPT_OUTS = frozenset({"noai", "noimageai"})

MAX_ROBOTS_BYTES = 512 * 1024  # RFC 9309, section 2.5
_MAX_CRAWL_DELAY_S = 30.0


def opt_out(values: Sequence[str]) -> str | None:
    """The directive among the X-Robots-Tag values that forbids use, whether for all bots or for this one."""
    for value in values:
        bot, colon, rest = value.partition(":")
        if colon and "," not in bot:
            if bot.strip().lower() not in (BOT, "*"):
                continue
            value = rest
        for directive in value.lower().split(","):
            if directive.strip() in OPT_OUTS:
                return directive.strip()
    return None


class Robots:
    """The robots.txt of each origin, read once by `read`, which gives its text or raises `Rejected`."""

    def __init__(self, memory: Memory, read: Callable[[URL], Awaitable[str]]) -> None:
        self._memory = memory
        self._read = read
        self._locks: dict[str, asyncio.Lock] = {}

    async def ask(self, url: URL) -> float:
        """The seconds that the host wants between requests; `Rejected` where it wants none for this URL."""
        origin = str(url.origin())
        async with self._locks.setdefault(origin, asyncio.Lock()):
            if origin in self._memory.robots_failures:  # once is enough for every URL of a host that is down
                failure = self._memory.robots_failures[origin]
                raise Rejected(failure.reason, failure.detail)
            if origin not in self._memory.robots:
                try:
                    self._memory.robots[origin] = await self._read(url.origin())
                except Passing as failure:
                    self._memory.robots_failures[origin] = failure
                    raise
        rules = _rules(self._memory.robots[origin])
        if not rules.can_fetch(str(url), BOT):
            raise Rejected(Reason.ROBOTS_DISALLOWED)
        return min(rules.crawl_delay(BOT) or 0.0, _MAX_CRAWL_DELAY_S)


@lru_cache(maxsize=1024)
def _rules(text: str) -> Protego:
    return Protego.parse(text)
