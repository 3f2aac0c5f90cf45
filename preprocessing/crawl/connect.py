"""Connections to judged addresses alone: names are resolved here, and every address is judged before it is used.

A name is resolved once for some minutes, in threads of its own and outside of any attempt's time; that it has no
address is remembered too. The connection goes to an address that was judged, and the socket is made only after its
own address was judged once more, so that neither a redirect nor a second answer of the resolver leads anywhere else.
Not here: which addresses those are (`preprocessing.crawl.safety`).
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from preprocessing.crawl.safety import IPNetwork, address_of, host_refusal, refusal
from preprocessing.reject import Reason, Rejected

KEPT_S = 300.0
"""How long the addresses of a name are used."""
NOT_FOUND_KEPT_S = 60.0
"""How long a name without an address is not asked for again."""
_THREADS = 512
"""Names that are looked up at once: one of a resolver that does not answer takes ten seconds of a thread."""
_TRIES = 2
"""Of a resolver that says that it failed for now."""
_LONG_S = 2.0
"""A failure that took so long is not tried again."""


class AddressRefused(OSError):
    """Raised where a socket is asked for; an OSError, since that is what its callers expect of sockets."""


@dataclass(frozen=True)
class _Known:
    until_s: float
    addresses: tuple[str, ...]
    failure: tuple[Reason, str] | None


class Resolver(AbstractResolver):
    """The judged addresses of names; `allowed` are networks that are not public and may be connected to."""

    def __init__(self, allowed: Sequence[IPNetwork], timeout_s: float) -> None:
        self._allowed = tuple(allowed)
        self._timeout_s = timeout_s
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Lock] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolve")

    def connector(self) -> aiohttp.TCPConnector:
        """A connector that resolves here; others bound how many connections there are."""
        return aiohttp.TCPConnector(
            limit=0, resolver=self, use_dns_cache=False, socket_factory=self._judged_socket
        )

    async def addresses(self, host: str) -> tuple[str, ...]:
        """The addresses to connect to for a host; `Rejected` where it has none, or none that may be used."""
        known = self._known.get(host)
        if known is None or known.until_s < time.monotonic():
            async with self._asking.setdefault(host, asyncio.Lock()):
                known = self._known.get(host)  # another may have asked meanwhile
                if known is None or known.until_s < time.monotonic():
                    known = self._known[host] = await self._judged(host)
        if known.failure:
            raise Rejected(*known.failure)
        return known.addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """What aiohttp asks for; OSError where `addresses` rejects."""
        try:
            addresses = await self.addresses(host)
        except Rejected as rejected:
            raise AddressRefused(str(rejected)) from None
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _judged(self, host: str) -> _Known:
        if why := host_refusal(host, self._allowed):
            return _Known(math.inf, (), (Reason.ADDRESS_REFUSED, why))
        if address_of(host) is not None:
            return _Known(math.inf, (host,), None)
        try:
            found = await self._found(host)
        except TimeoutError:
            return _not_found("no answer about its name")
        except (OSError, UnicodeError) as error:
            code = error.errno if isinstance(error, socket.gaierror) else None
            return _not_found("its name is not found" if code in _NOWHERE else "its name cannot be resolved")
        judged = [
            (address, refusal(ip_address(address.partition("%")[0]), self._allowed)) for address in found
        ]
        good = tuple(address for address, why in judged if why is None)
        why = next((why for _, why in judged if why), None)
        failure = None if good else (Reason.ADDRESS_REFUSED, f"its name leads to {why or 'no address'}")
        return _Known(time.monotonic() + KEPT_S, good, failure)

    async def _found(self, host: str) -> list[str]:
        """What a name resolves to; the time that it may take begins when there is a thread for it."""
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def look() -> list[str]:
            loop.call_soon_threadsafe(begun.set)
            return _looked_up(host)

        looking = loop.run_in_executor(self._threads, look)
        try:
            await begun.wait()
        except BaseException:
            looking.cancel()
            raise
        return await asyncio.wait_for(looking, self._timeout_s)

    def _judged_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, place = info
        if why := refusal(ip_address(str(place[0]).partition("%")[0]), self._allowed):
            raise AddressRefused(why)
        return socket.socket(family, kind, protocol)


_NOWHERE = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


def _not_found(why: str) -> _Known:
    return _Known(time.monotonic() + NOT_FOUND_KEPT_S, (), (Reason.CONNECTION_FAILED, why))


def _looked_up(host: str) -> list[str]:
    """The addresses of a name, in the resolver's order, each once."""
    for tries in range(1, _TRIES + 1):
        start_s = time.monotonic()
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            return list(dict.fromkeys(str(place[0]) for *_, place in found))
        except socket.gaierror as error:
            is_long = time.monotonic() - start_s > _LONG_S
            if error.errno != socket.EAI_AGAIN or tries == _TRIES or is_long:
                raise
    raise AssertionError
