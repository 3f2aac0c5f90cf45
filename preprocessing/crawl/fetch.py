"""Polite HTTP: one photograph of the web in a file, with what was said about its use, or why it cannot be had.

Few requests at once to a host, robots.txt and every opt-out honoured, bodies bounded while they arrive, and only
failures that may pass are tried again, ever later. The limits hold within one process. Nothing that a list or a
server says raises anything but `Rejected`.
Not here: the order of many addresses (`preprocessing.crawl.queues`), and lists of them (`preprocessing.sources.urls`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import aiohttp
from pydantic import Field

from preprocessing.crawl.connect import Resolver
from preprocessing.crawl.hosts import FAILURES, Host, HostPace, Memory, Passing
from preprocessing.crawl.readers import BOT, product_tokens, read_headers, read_photograph
from preprocessing.crawl.retry import may_pass, retry_after_s
from preprocessing.crawl.robots import Robots
from preprocessing.crawl.robots_txt import MAX_BYTES as MAX_ROBOTS_BYTES
from preprocessing.crawl.safety import Network, networks
from preprocessing.crawl.signals import Signal, Signals, SignalsConfig, policy
from preprocessing.crawl.spool import Spooled, spooled
from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.reject import Reason, Rejected
from storage.config import Config
from storage.errors import PipelineError

logger = logging.getLogger(__name__)

DEFAULT_USER_AGENT = f"{BOT}/{version('likeness')} (+https://example.org/your-contact)"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OF_HOST = frozenset({429, 503})
"""Statuses that a server says of itself rather than of one address."""
_BLOCK_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 64 * 1024
_MAX_HEADERS = 1024


class FetchConfig(Config):
    """How photographs are fetched from the web."""

    user_agent: str = Field(
        default=DEFAULT_USER_AGENT,
        min_length=1,
        pattern=r"^[ -~]+$",
        description="Names the bot and your contact to the servers; must be set where a host is public.",
    )
    timeout_s: float = Field(default=30.0, gt=0, le=3600, description="Longest time for one attempt.")
    max_bytes: int = Field(default=64 * 2**20, ge=1, description="Largest body; the rest is not read.")
    max_redirects: int = Field(
        default=5, ge=0, le=20, description="Redirects followed, each to http or https."
    )
    retries: int = Field(
        default=3, ge=0, le=20, description="Further attempts after 408, 425, 429, 5xx, time-outs and cuts."
    )
    backoff_s: float = Field(
        default=1.0, ge=0, le=600, description="Wait before the second attempt; then doubled."
    )
    max_backoff_s: float = Field(
        default=60.0, ge=0, le=3600, description="Longest wait of our own between attempts."
    )
    max_wait_s: float = Field(
        default=120.0,
        ge=0,
        le=86400,
        description="Longest Retry-After that is waited for; a host that asks for more is put off until then.",
    )
    max_concurrency: int = Field(
        default=256, ge=1, le=1024, description="Requests at once, all hosts together."
    )
    per_host_concurrency: int = Field(default=2, ge=1, le=64, description="Requests at once to one host.")
    per_host_delay_s: float = Field(
        default=0.0, ge=0, le=600, description="Least time between the starts of two requests to one host."
    )
    respect_robots: bool = Field(default=True, description="Ask robots.txt before fetching from a host.")
    respect_opt_out: bool = Field(
        default=True,
        description="Reject what a host, a header or the file itself keeps from machine learning.",
    )
    reject_synthetic: bool = Field(
        default=True, description="Reject pictures that say of themselves that a model drew them."
    )
    allow_networks: tuple[Network, ...] = Field(
        default=(), description="Networks that are not public and may be fetched from, such as 127.0.0.0/8."
    )

    @property
    def signals(self) -> SignalsConfig:
        """Which signals refuse a photograph."""
        honoured = set(Signal)
        if not self.respect_robots:
            honoured -= {Signal.ROBOTS}
        if not self.respect_opt_out:
            honoured &= {Signal.ROBOTS, Signal.SYNTHETIC}
        if not self.reject_synthetic:
            honoured -= {Signal.SYNTHETIC}
        return SignalsConfig(honoured=tuple(signal for signal in Signal if signal in honoured))


@dataclass(frozen=True, slots=True)
class Fetched:
    """A photograph on disk, and what was said about it."""

    body: Spooled
    signals: Signals


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response that was read: to a redirect, a text or a photograph."""

    location: str | None = None
    text: bytes | None = None
    photograph: Fetched | None = None


class Fetcher:
    """Fetches addresses under one config into files of `folder`; use as `async with`, from one event loop.

    `memory` is what earlier fetchers learned of the hosts, and is added to.
    """

    def __init__(self, config: FetchConfig, memory: Memory, folder: Path) -> None:
        self._config = config
        self._memory = memory
        self._folder = folder
        self._agents = product_tokens(config.user_agent)
        self._policy = config.signals
        self._robots = Robots(memory, self._agents, self._text)
        self._resolver = Resolver(networks(config.allow_networks), config.timeout_s)
        self._hosts: dict[str, Host] = {}
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        self._session = aiohttp.ClientSession(
            # The semaphores bound the connections: waiting for one must not use up an attempt's time.
            connector=self._resolver.connector(),
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            # Image bytes gain nothing from compression, and identity keeps the bound on their size exact.
            headers={"User-Agent": self._config.user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
        )
        # Where a connection is closed, aiohttp asks again by itself and at once, and a dead host twice as often.
        self._session._retry_connection = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        await self._resolver.close()

    async def fetch(self, address: WebAddress) -> Fetched | Rejected:
        """The photograph at an address, redirects followed, or why it cannot be had; PipelineError is the disk's."""
        try:
            return await self._fetched(address)
        except Rejected as rejected:
            return rejected
        except PipelineError:  # the disk's
            raise
        except Exception as error:  # of one address, which must not end the crawl of all others
            logger.warning("an unexpected error at %s", address.origin, exc_info=error)
            return Rejected(Reason.UNEXPECTED_ERROR, type(error).__name__)

    async def _fetched(self, address: WebAddress) -> Fetched:
        for _ in range(self._config.max_redirects + 1):
            # Before robots.txt is asked, which is on the same host.
            await self._resolver.addresses(address.host)
            said = await self._said_of(address)
            answer = await self._get(address, said)
            if answer.photograph:
                return answer.photograph
            assert answer.location is not None
            address = _redirected(address, answer.location)
        raise Rejected(Reason.HTTP_STATUS, f"more than {self._config.max_redirects} redirects")

    async def _said_of(self, address: WebAddress) -> Signals:
        """What the origin says of an address; `Rejected` where that refuses it."""
        self._host(address).check()
        said = Signals()
        if self._config.respect_robots:
            said, delay_s = await self._robots.robots(address)
            pace = self._host(address).pace
            pace.delay_s = max(pace.delay_s, delay_s)
            self._judge(said)
        if self._config.respect_opt_out:
            said += await self._robots.tdmrep(address)
        return said

    def _judge(self, signals: Signals) -> None:
        if rejected := refused(signals, self._policy):
            raise rejected

    async def _text(self, address: WebAddress) -> bytes | None:
        """A text that an origin has for crawlers; None where there is none (RFC 9309, section 2.3.1)."""
        retries = None if address.target == "/robots.txt" else 0
        for _ in range(self._config.max_redirects + 1):
            try:
                answer = await self._get(address, None, retries)
            except Rejected as rejected:
                if rejected.reason is Reason.HTTP_STATUS:
                    return None
                raise
            if answer.location is None:
                return answer.text
            try:
                address = _redirected(address, answer.location)
            except Rejected:
                return None
        return None

    async def _get(self, address: WebAddress, said: Signals | None, retries: int | None = None) -> _Answer:
        """One address, tried again where that may help; a photograph where `said` is given, a text otherwise."""
        retries = self._config.retries if retries is None else retries
        host = self._host(address)
        for attempt in itertools.count():
            await self._resolver.addresses(address.host)
            try:
                answer = await self._attempt(host, address, said)
            except Passing as failure:
                host.failed(failure)
                if failure.wait_s > self._config.max_wait_s:
                    raise host.put_off(failure) from None
                wait_s = max(failure.wait_s, self._own_wait_s(attempt))
                if failure.is_of_host or failure.wait_s or host.is_failing:
                    host.pause(wait_s)
                if attempt >= retries or host.is_failing:
                    raise
                await asyncio.sleep(wait_s)
            else:
                host.answered()
                return answer
        raise AssertionError

    def _own_wait_s(self, attempt: int) -> float:
        doubled = min(self._config.backoff_s * 2.0**attempt, self._config.max_backoff_s)
        return doubled * random.uniform(0.5, 1.0)  # or all that failed at once would come back at once

    async def _attempt(self, host: Host, address: WebAddress, said: Signals | None) -> _Answer:
        assert self._session is not None
        headers = {}
        if address.credentials:
            pair = ":".join(address.credentials).encode("utf-8", "surrogateescape")
            headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        async with host.turn(self._slots):
            try:
                async with self._session.get(
                    address.wire, headers=headers, allow_redirects=False
                ) as response:
                    return await self._answer(response, said)
            except TimeoutError:
                raise Passing(Reason.TIMED_OUT, f"after {self._config.timeout_s:g} s") from None
            except (aiohttp.InvalidURL, UnicodeError):  # the latter from a host name that DNS cannot hold
                raise Rejected(Reason.BAD_URL) from None
            except aiohttp.ClientConnectorCertificateError as error:  # it does not mend itself
                host.answered()
                raise Rejected(Reason.CONNECTION_FAILED, type(error).__name__) from error
            except (aiohttp.ClientError, OSError) as error:
                # The type alone: messages carry addresses.
                raise Passing(Reason.CONNECTION_FAILED, type(error).__name__) from error
            except Rejected as rejected:
                if not isinstance(rejected, Passing):
                    host.answered()
                raise

    async def _answer(self, response: aiohttp.ClientResponse, said: Signals | None) -> _Answer:
        status, headers = response.status, response.headers
        if status in _REDIRECTS and (location := headers.get("Location")):
            return _Answer(location=location)
        if may_pass(status):
            asked = [
                retry_after_s(value, datetime.now(UTC)) or 0.0 for value in headers.getall("Retry-After", [])
            ]
            is_of_host = status in _OF_HOST
            raise Passing(Reason.SERVER_ERROR, str(status), max(asked, default=0.0), is_of_host)
        if status != 200:
            raise Rejected(Reason.HTTP_STATUS, str(status))
        if said is None:
            return _Answer(text=await _text_of(response))
        said += read_headers(headers.items(), self._agents)
        self._judge(said)
        if (response.content_length or 0) > self._config.max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"more than {self._config.max_bytes}")
        all_said = said

        def look(data: bytes) -> None:
            nonlocal all_said
            all_said += read_photograph(data)
            self._judge(all_said)

        body = await spooled(_blocks(response), self._config.max_bytes, self._folder, look)
        return _Answer(photograph=Fetched(body, all_said))

    def _host(self, address: WebAddress) -> Host:
        name = host_of(address)
        if name not in self._hosts:
            config = self._config
            slots = asyncio.Semaphore(config.per_host_concurrency)
            pace = self._memory.paces.setdefault(name, HostPace(config.per_host_delay_s))
            max_failures = min(config.per_host_concurrency * (config.retries + 1), FAILURES)
            self._hosts[name] = Host(slots, pace, max_failures)
        return self._hosts[name]


def host_of(address: WebAddress) -> str:
    """The server that an address is on, whose limits hold for it: http and https together, other ports apart."""
    return f"{address.host}:{address.port}" if address.port not in (80, 443) else address.host


def refused(signals: Signals, config: SignalsConfig) -> Rejected | None:
    """The rejection that a policy asks for, with the words that refuse and where they stand."""
    if not signals.evidence:
        return None
    verdict = policy(signals, config)
    if verdict.is_allowed or verdict.reason is None:
        return None
    evidence = verdict.evidence
    where = f", line {evidence.line} of {evidence.place}" if evidence and evidence.line else ""
    text = evidence.text if evidence and evidence.signal is Signal.ROBOTS else verdict.rule
    return Rejected(Reason(verdict.reason), text + where)


def _redirected(address: WebAddress, location: str) -> WebAddress:
    """Where a redirect leads; credentials stay with the origin that they were given for."""
    target = web_address(location, address)
    if target.origin == address.origin:
        return target if target.credentials else replace(target, credentials=address.credentials)
    return replace(target, credentials=None)


async def _blocks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async for block in response.content.iter_chunked(_BLOCK_BYTES):
        yield block


async def _text_of(response: aiohttp.ClientResponse) -> bytes:
    """The first part of a text, as long as it may be."""
    body = bytearray()
    async for block in response.content.iter_chunked(_BLOCK_BYTES):
        body += block
        if len(body) >= MAX_ROBOTS_BYTES:
            break
    return bytes(body[:MAX_ROBOTS_BYTES])
