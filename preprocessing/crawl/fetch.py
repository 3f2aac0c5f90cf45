"""Polite HTTP: one photograph of the web in a file, with what was said about its use, or why it cannot be had.

Few requests at once to a host, robots.txt and every opt-out honoured, bodies bounded while they arrive, and only
failures that may pass are tried again, ever later. The limits hold within one process. Nothing that a list or a
server says raises anything but `Rejected`.
Not here: the order of many addresses (`preprocessing.crawl.queues`), and lists of them (`preprocessing.sources.urls`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from types import TracebackType
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from pydantic import Field

from preprocessing.crawl.codings import Unread, decoded
from preprocessing.crawl.connect import Resolver
from preprocessing.crawl.hosts import FAILURES, Host, HostPace, Memory, Passing, Turn
from preprocessing.crawl.published import published
from preprocessing.crawl.readers import BOT, product_tokens, read_headers, read_photograph
from preprocessing.crawl.retry import may_pass, retry_after_s
from preprocessing.crawl.robots import Robots
from preprocessing.crawl.robots_txt import MAX_BYTES as MAX_ROBOTS_BYTES
from preprocessing.crawl.safety import Network, networks
from preprocessing.crawl.signals import NOTHING, Place, Signal, Signals, SignalsConfig, policy
from preprocessing.crawl.spool import Spooled, spooled
from preprocessing.crawl.urls import WebAddress, host_of, web_address
from preprocessing.reject import Reason, Rejected
from storage.config import Config
from storage.errors import PipelineError
from storage.wording import numbered

logger = logging.getLogger(__name__)

DEFAULT_USER_AGENT = f"{BOT}/{version('likeness')} (+https://example.org/your-contact)"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OF_HOST = frozenset({403, 429, 503})
"""Statuses that a server says of itself rather than of one address."""
_MAYBE_BUSY = 403
"""With Retry-After it says that a limit was met, as of GitHub; without, that the answer is no."""
_CARRIED = re.compile(r"[ -~]+")
"""What a header of a request may hold."""
_MAX_HEADER_BYTES = 64 * 1024
_MAX_HEADERS = 2048


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
    doubtful_days: float = Field(
        default=7.0,
        ge=0,
        le=3650,
        description="Days after which refusals are asked again that may be of one day: 403, robots.txt, opt-outs, a "
        "page or part of a picture with status 200.",
    )
    max_concurrency: int = Field(
        default=256, ge=1, le=1024, description="Requests at once, all hosts together."
    )
    per_host_concurrency: int = Field(default=2, ge=1, le=64, description="Requests at once to one host.")
    per_host_delay_s: float = Field(
        default=0.0, ge=0, le=600, description="Least time between the starts of two requests to one host."
    )
    opt_outs: SignalsConfig = Field(
        SignalsConfig(),
        description="What of all that is said refuses a photograph, where opt-outs are respected.",
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
        honoured = set(self.opt_outs.honoured)
        if not self.respect_robots:
            honoured -= {Signal.ROBOTS}
        if not self.respect_opt_out:
            honoured &= {Signal.ROBOTS, Signal.SYNTHETIC}
        if not self.reject_synthetic:
            honoured -= {Signal.SYNTHETIC}
        in_order = tuple(signal for signal in Signal if signal in honoured)
        return self.opt_outs.model_copy(update={"honoured": in_order})


Refusal = Callable[[WebAddress], Rejected | None]
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The answer that an earlier visit got: a server that has no other need not send its photograph again."""

    place: str
    """The address that gave it, redirects followed: what it said of its version holds there alone."""
    headers: Headers
    signals: Signals


@dataclass(frozen=True, slots=True)
class Wanted:
    """An address to be asked, and what is known of it."""

    address: WebAddress
    known: Known | None = None
    promised: frozenset[str] | None = None
    """sha256 of the photographs that are wanted from it, None where any is."""
    number: int = 0
    """What whoever wants it knows it by."""


@dataclass(slots=True)
class Visit:
    """One address, asked once: what was answered and said, and the photograph on disk, or why it cannot be had.

    It fills while it is under way. `status`, `headers`, `place` and `ip` are of the last answer; without one they are
    None or empty. Where nothing changed since an earlier visit, `is_unchanged`, there is no body.
    """

    wanted: Wanted
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    attempts: int = 0
    """Requests made for it, without those for its host's rules."""
    status: int | None = None
    headers: Headers = ()
    place: str | None = None
    ip: str | None = None
    signals: Signals = NOTHING
    body: Spooled | None = None
    is_unchanged: bool = False
    rejected: Rejected | None = None
    seconds: float = 0.0

    @property
    def address(self) -> WebAddress:
        """What was asked for."""
        return self.wanted.address


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response that was read; to a photograph neither a redirect nor a text."""

    location: str | None = None
    text: bytes | None = None


def nothing_blocked(_: WebAddress) -> None:
    """Where no address has a tombstone."""


class Fetcher:
    """Fetches addresses under one config into files of `folder`; use as `async with`, from one event loop.

    `memory` is what earlier fetchers learned of the hosts, and is added to. `refusal` says of an address, of redirects
    too, why it must not be asked.
    """

    def __init__(
        self, config: FetchConfig, memory: Memory, folder: Path, refusal: Refusal = nothing_blocked
    ) -> None:
        self._config = config
        self._refusal = refusal
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
            auto_decompress=False,  # see `preprocessing.crawl.codings`
            response_class=_Response,
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

    async def fetch(self, wanted: Wanted) -> Visit:
        """What came of asking an address, redirects followed; PipelineError is the disk's."""
        visit = Visit(wanted)
        start_s = time.perf_counter()
        try:
            await self._visit(visit)
        except Rejected as rejected:
            visit.rejected = rejected
        except PipelineError:  # the disk's
            raise
        except Exception as error:  # of one address, which must not end the crawl of all others
            logger.warning("an unexpected error at %s", wanted.address.origin, exc_info=error)
            visit.rejected = Rejected(Reason.UNEXPECTED_ERROR, type(error).__name__)
        visit.seconds = time.perf_counter() - start_s
        return visit

    async def _visit(self, visit: Visit) -> None:
        address = visit.address
        for _ in range(self._config.max_redirects + 1):
            if blocked := self._refusal(address):
                raise blocked
            # Before robots.txt is asked, which is on the same host.
            await self._resolver.addresses(address.host)
            await self._ask_host(address, visit)
            answer = await self._get(address, visit)
            if answer.location is None:
                return
            target = _redirected(address, answer.location)
            visit.signals = visit.signals.redirected(address.recorded)
            address = target
        raise Rejected(Reason.HTTP_STATUS, f"more than {numbered(self._config.max_redirects, 'redirect')}")

    async def page(self, address: WebAddress) -> bytes:
        """The text at an address, its first part, redirects followed; raises `Rejected` where it cannot be had."""
        for _ in range(self._config.max_redirects + 1):
            await self._resolver.addresses(address.host)
            await self._ask_host(address, Visit(Wanted(address)))
            answer = await self._get(address, None)
            if answer.location is None:
                return answer.text or b""
            address = _redirected(address, answer.location)
        raise Rejected(Reason.HTTP_STATUS, f"more than {self._config.max_redirects} redirects")

    async def _ask_host(self, address: WebAddress, visit: Visit) -> None:
        """Note what the origin says of an address; `Rejected` where that refuses it."""
        host = self._host(address)
        host.check()
        if self._config.respect_robots:
            signals, delay_s = await self._robots.robots(address)
            visit.signals += signals
            host.asks_for(delay_s)
            self._judge(visit.signals)
        if self._config.respect_opt_out:
            visit.signals += await self._robots.tdmrep(address)

    def _judge(self, signals: Signals) -> None:
        if rejected := refused(signals, self._policy):
            raise rejected

    async def _text(self, address: WebAddress) -> bytes | None:
        """A text that an origin has for crawlers; None where there is none (RFC 9309, section 2.3.1)."""
        # tdmrep.json is rare, and refuses nothing where it cannot be had: it must not be lost to one bad moment.
        retries = self._config.retries if address.target == "/robots.txt" else min(self._config.retries, 1)
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

    async def _get(self, address: WebAddress, visit: Visit | None, retries: int | None = None) -> _Answer:
        """One address, tried again where that may help; a photograph where it is for a `visit`, a text otherwise."""
        retries = self._config.retries if retries is None else retries
        host = self._host(address)
        said = visit.signals if visit else NOTHING
        attempt = num_stale = 0
        while True:
            await self._resolver.addresses(address.host)
            if visit:
                visit.signals = said  # without what an answer said that was cut short
            try:
                answer = await self._attempt(host, address, visit)
            except Passing as failure:
                if failure.is_stale and num_stale < self._config.per_host_concurrency:
                    num_stale += 1  # its other connections may be as old
                    continue
                host.failed(failure)
                if failure.wait_s:  # it holds for the next crawl too, however this one ends
                    self._memory.wishes.append(host.wish(failure))
                if failure.wait_s > self._config.max_wait_s:
                    raise host.put_off(failure) from None
                wait_s = max(failure.wait_s, self._own_wait_s(attempt))
                if failure.is_of_host or failure.wait_s or host.is_failing:
                    host.pause(wait_s)
                if attempt >= retries or host.is_failing:
                    raise
                await asyncio.sleep(wait_s)
                attempt += 1
            else:
                host.answered()
                return answer

    def _own_wait_s(self, attempt: int) -> float:
        doubled = min(self._config.backoff_s * 2.0**attempt, self._config.max_backoff_s)
        return doubled * random.uniform(0.5, 1.0)  # or all that failed at once would come back at once

    async def _attempt(self, host: Host, address: WebAddress, visit: Visit | None) -> _Answer:
        assert self._session is not None
        headers: dict[str, str] = {}
        if address.credentials:
            pair = ":".join(address.credentials).encode("utf-8", "surrogateescape")
            headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        if visit and visit.wanted.known:
            headers |= _conditions(visit.wanted.known, address)
        async with host.turn(self._slots) as turn:
            if visit:
                visit.attempts += 1
            _turn.set(turn)
            try:
                async with self._session.get(
                    address.wire, headers=headers, allow_redirects=False
                ) as response:
                    if visit:
                        _note(response, address, visit)
                    answer = await self._answer(response, visit)
                if visit and visit.body:
                    host.sent(visit.body.num_bytes)
                return answer
            except TimeoutError:
                raise Passing(Reason.TIMED_OUT, f"after {self._config.timeout_s:g} s") from None
            except (aiohttp.InvalidURL, UnicodeError):  # the latter from a host name that DNS cannot hold
                raise Rejected(Reason.BAD_URL) from None
            except Unread as error:  # the server would do it again
                host.answered()
                reason = Reason.NOT_AN_IMAGE if visit else Reason.SERVER_ERROR
                raise Rejected(reason, str(error)) from None
            except aiohttp.ClientConnectorCertificateError as error:  # it does not mend itself
                host.answered()
                raise Rejected(Reason.CONNECTION_FAILED, type(error).__name__) from error
            except (aiohttp.ClientError, OSError) as error:
                # The type alone: messages carry addresses.
                is_stale = turn.is_reused and not turn.is_answered
                raise Passing(Reason.CONNECTION_FAILED, type(error).__name__, is_stale=is_stale) from error
            except Rejected as rejected:
                if not isinstance(rejected, Passing):
                    host.answered()
                raise

    async def _answer(self, response: aiohttp.ClientResponse, visit: Visit | None) -> _Answer:
        status, headers = response.status, response.headers
        if status in _REDIRECTS and (location := headers.get("Location")):
            if visit:  # what is said of the address that a list names holds wherever it leads
                visit.signals += read_headers(visit.headers, self._agents)
                self._judge(visit.signals)
            return _Answer(location=location)
        if may_pass(status) or status == _MAYBE_BUSY:
            asked = [
                retry_after_s(value, datetime.now(UTC)) or 0.0 for value in headers.getall("Retry-After", [])
            ]
            wait_s = max(asked, default=0.0)
            if wait_s or status != _MAYBE_BUSY:
                is_of_host = status in _OF_HOST
                raise Passing(Reason.SERVER_ERROR, str(status), wait_s, is_of_host)
        if visit and status == 304 and visit.wanted.known and visit.wanted.known.place == visit.place:
            self._keep(visit, visit.wanted.known)
            return _Answer()
        if status != 200:
            raise Rejected(Reason.HTTP_STATUS, str(status))
        if visit is None:
            return _Answer(text=await _text_of(response))
        visit.signals += read_headers(visit.headers, self._agents)
        self._judge(visit.signals)
        if (response.content_length or 0) > self._config.max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"more than {self._config.max_bytes}")

        def look(data: bytes) -> None:
            visit.signals += read_photograph(data)
            self._judge(visit.signals)

        visit.body = await spooled(_body(response), self._config.max_bytes, self._folder, look)
        return _Answer()

    def _keep(self, visit: Visit, known: Known) -> None:
        """Note that a photograph is the one that is known, of which this answer says what is new (RFC 9111, 4.3.4)."""
        new = {name.lower() for name, _ in visit.headers}
        visit.headers = (*(pair for pair in known.headers if pair[0].lower() not in new), *visit.headers)
        visit.signals += read_headers(visit.headers, self._agents) + known.signals.of(Place.FILE)
        visit.is_unchanged = True
        self._judge(visit.signals)

    def _host(self, address: WebAddress) -> Host:
        name = host_of(address)
        if name not in self._hosts:
            config = self._config
            rule = published(address.host)
            slots = asyncio.Semaphore(min(config.per_host_concurrency, rule.at_once))
            pace = self._memory.paces.setdefault(name, HostPace(config.per_host_delay_s))
            pace.delay_s = max(pace.delay_s, config.per_host_delay_s)
            pace.delay_s = max(pace.delay_s, rule.delay_s)
            if pace.paused_until_s - time.monotonic() <= config.max_wait_s:
                pace.put_off = None  # what is left of its wish is waited for
            max_failures = min(config.per_host_concurrency * (config.retries + 1), FAILURES)
            self._hosts[name] = Host(name, slots, pace, max_failures, rule.bytes_per_s)
        return self._hosts[name]


def refused(signals: Signals, config: SignalsConfig) -> Rejected | None:
    """The rejection that a policy asks for, with the words that refuse and where they stand."""
    if not (signals.evidence or signals.hops):
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


def _conditions(known: Known, address: WebAddress) -> dict[str, str]:
    """Headers by which a server need not send what is known; only to the address that gave it (RFC 9110, 13.1)."""
    if known.place != address.recorded:
        return {}
    said = {name.lower(): value for name, value in known.headers}
    pairs = (("If-None-Match", said.get("etag")), ("If-Modified-Since", said.get("last-modified")))
    return {name: value for name, value in pairs if value and _CARRIED.fullmatch(value)}


def _note(response: aiohttp.ClientResponse, address: WebAddress, visit: Visit) -> None:
    visit.status, visit.place = response.status, address.recorded
    visit.headers = tuple(response.headers.items())
    visit.ip = response.ip if isinstance(response, _Response) else None


_used: WeakSet[ResponseHandler] = WeakSet()
"""Connections that a request went out on."""


class HeadersTooLong(aiohttp.ClientError):
    """Raised of an answer whose headers together are longer than any record should hold."""


_turn: ContextVar[Turn] = ContextVar("turn")
"""That of the request which a task is making."""


class _Response(aiohttp.ClientResponse):
    """A response that remembers the address that gave it, which the connection forgets when it has been read."""

    ip: str | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """As aiohttp calls it when it has sent the request."""
        turn = _turn.get()
        turn.left()
        if (protocol := connection.protocol) is not None:
            turn.is_reused = protocol in _used
            if not turn.is_reused:
                _used.add(protocol)
        if connection.transport is not None and (peer := connection.transport.get_extra_info("peername")):
            self.ip = str(peer[0])
        await super().start(connection)
        turn.is_answered = True
        if len(b"".join(chain.from_iterable(self.raw_headers))) > _MAX_HEADER_BYTES:
            raise HeadersTooLong
        return self


def _body(response: aiohttp.ClientResponse) -> Callable[[], Awaitable[bytes]]:
    """What gives the next block of a body, an empty one at its end."""
    if fields := response.headers.getall("Content-Encoding", None):
        return partial(anext, decoded(response.content.iter_any(), fields), b"")
    return response.content.readany


async def _text_of(response: aiohttp.ClientResponse) -> bytes:
    """The first part of a text, as long as it may be."""
    body = bytearray()
    read = _body(response)
    while block := await read():
        body += block
        if len(body) >= MAX_ROBOTS_BYTES:
            break
    return bytes(body[:MAX_ROBOTS_BYTES])
