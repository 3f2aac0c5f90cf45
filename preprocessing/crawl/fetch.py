"""Polite HTTP: the bytes of a list of URLs, or why each cannot be had.

Few requests at once to a host, robots.txt and opt-out headers honoured, bodies bounded while they arrive, and
only failures that may pass are tried again, ever later. The limits hold within one process. Not here: lists of
URLs (`preprocessing.sources.urls`), what robots.txt means (`preprocessing.crawl.robots`), and any look at the bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from types import TracebackType

import aiohttp
import tenacity
from pydantic import Field
from yarl import URL

from preprocessing.crawl.hosts import Host, HostPace, Memory, Passing
from preprocessing.crawl.robots import BOT, MAX_ROBOTS_BYTES, Robots, opt_out
from preprocessing.reject import Reason, Rejected
from storage.config import Config

DEFAULT_USER_AGENT = f"{BOT}/{version('likeness')} (+https://example.org/your-contact)"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})
_BLOCK_BYTES = 64 * 1024


class FetchConfig(Config):
    """How photographs are fetched from the web."""

    user_agent: str = Field(
        default=DEFAULT_USER_AGENT,
        min_length=1,
        pattern=r"^[ -~]+$",
        description="Names the bot and a contact to the servers: put yours in.",
    )
    timeout_s: float = Field(default=30.0, gt=0, le=3600, description="Longest time for one attempt.")
    max_bytes: int = Field(default=64 * 2**20, ge=1, description="Largest body; the rest is not read.")
    max_redirects: int = Field(
        default=5, ge=0, le=20, description="Redirects followed, each to http or https."
    )
    retries: int = Field(
        default=3, ge=0, le=20, description="Further attempts after 429, 5xx, time-outs and cuts."
    )
    backoff_s: float = Field(
        default=1.0, ge=0, le=600, description="Wait before the second attempt; then doubled."
    )
    max_backoff_s: float = Field(
        default=60.0, ge=0, le=3600, description="Longest wait between attempts, whatever Retry-After asks."
    )
    max_concurrency: int = Field(
        default=64, ge=1, le=1024, description="Requests at once, all hosts together."
    )
    per_host_concurrency: int = Field(default=2, ge=1, le=64, description="Requests at once to one host.")
    per_host_delay_s: float = Field(
        default=0.0, ge=0, le=600, description="Least time between the starts of two requests to one host."
    )
    respect_robots: bool = Field(default=True, description="Ask robots.txt before fetching from a host.")
    respect_opt_out: bool = Field(
        default=True, description="Reject what X-Robots-Tag marks noai or noimageai."
    )


@dataclass(frozen=True)
class _Answer:
    """A response whose body was read, or that redirects to `location`."""

    status: int
    body: bytes
    location: str | None


class Fetcher:
    """Fetches URLs under one config; use as `async with`, from one event loop.

    `memory` is what earlier fetchers learned of the hosts, and is added to.
    """

    def __init__(self, config: FetchConfig, memory: Memory) -> None:
        self._config = config
        self._memory = memory
        self._robots = Robots(memory, self._robots_text)
        self._hosts: dict[str, Host] = {}
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        self._session = aiohttp.ClientSession(
            # The semaphores bound the connections: waiting for one must not use up an attempt's time.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            # Image bytes gain nothing from compression, and identity keeps the bound on their size exact.
            headers={"User-Agent": self._config.user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def fetch(self, url: str) -> bytes:
        """The body at `url`, redirects followed; raises `Rejected`."""
        target = _http_url(url)
        for _ in range(self._config.max_redirects + 1):
            if self._config.respect_robots:
                delay_s = await self._robots.ask(target)
                pace = self._host(target).pace
                pace.delay_s = max(pace.delay_s, delay_s)
            answer = await self._get(target)
            if answer.location is None:
                return answer.body
            target = _http_url(answer.location, target)
        raise Rejected(Reason.HTTP_STATUS, f"more than {self._config.max_redirects} redirects")

    async def _robots_text(self, origin: URL) -> str:
        """The text of robots.txt; empty where there is none, which allows everything (RFC 9309, section 2.3.1)."""
        target = origin / "robots.txt"
        try:
            for _ in range(self._config.max_redirects + 1):
                answer = await self._get(target, is_robots=True)
                if answer.location is None:
                    return answer.body.decode("utf-8", "replace")
                target = _http_url(answer.location, target)
        except Passing as failure:
            # An unreachable robots.txt forbids everything for now.
            raise Passing(failure.reason, f"robots.txt: {failure.detail}") from failure
        except Rejected:
            return ""
        return ""

    async def _get(self, url: URL, is_robots: bool = False) -> _Answer:
        """One URL, tried again where that may help; raises `Rejected`."""
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Passing),
            stop=tenacity.stop_after_attempt(self._config.retries + 1),
            wait=self._wait_s,
            reraise=True,
        )
        answer: _Answer = await attempts(self._attempt, url, is_robots)
        return answer

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.wait_s if isinstance(failure, Passing) else 0.0
        doubled = self._config.backoff_s * 2.0 ** (state.attempt_number - 1)
        return min(max(asked, doubled), self._config.max_backoff_s)

    async def _attempt(self, url: URL, is_robots: bool) -> _Answer:
        assert self._session is not None
        host = self._host(url)
        async with host.turn(), self._slots:
            try:
                async with self._session.get(url, allow_redirects=False) as response:
                    return await self._answer(response, is_robots)
            except Passing as failure:
                host.pause(min(failure.wait_s, self._config.max_backoff_s))
                raise
            except TimeoutError:
                raise Passing(Reason.TIMED_OUT, f"after {self._config.timeout_s:g} s") from None
            except (aiohttp.InvalidURL, UnicodeError):  # the latter from a host name that DNS cannot hold
                raise Rejected(Reason.BAD_URL) from None
            except (aiohttp.ClientError, OSError) as error:
                # The type alone: messages carry addresses.
                raise Passing(Reason.CONNECTION_FAILED, type(error).__name__) from error

    async def _answer(self, response: aiohttp.ClientResponse, is_robots: bool) -> _Answer:
        status = response.status
        if status in _REDIRECTS and (location := response.headers.get("Location")):
            return _Answer(status, b"", location)
        if status in _PASSING or status >= 500:
            raise Passing(Reason.SERVER_ERROR, str(status), _retry_after_s(response.headers))
        if status != 200:
            raise Rejected(Reason.HTTP_STATUS, str(status))
        if is_robots:
            return _Answer(status, await _body(response, MAX_ROBOTS_BYTES, truncate=True), None)
        if self._config.respect_opt_out and (mark := opt_out(response.headers.getall("X-Robots-Tag", []))):
            raise Rejected(Reason.OPTED_OUT, mark)
        return _Answer(status, await _body(response, self._config.max_bytes), None)

    def _host(self, url: URL) -> Host:
        name = str(url.host)
        if name not in self._hosts:
            slots = asyncio.Semaphore(self._config.per_host_concurrency)
            pace = self._memory.paces.setdefault(name, HostPace(self._config.per_host_delay_s))
            self._hosts[name] = Host(slots, pace)
        return self._hosts[name]


async def fetch_all(urls: Sequence[str], config: FetchConfig, memory: Memory) -> list[bytes | Rejected]:
    """The body of each URL or its rejection, in the order of `urls`."""

    async def outcome(fetcher: Fetcher, url: str) -> bytes | Rejected:
        try:
            return await fetcher.fetch(url)
        except Rejected as rejected:
            return rejected

    async with Fetcher(config, memory) as fetcher:
        return await asyncio.gather(*(outcome(fetcher, url) for url in urls))


def _http_url(text: str, base: URL | None = None) -> URL:
    """`text` as a URL, relative to `base` if given; `Rejected` unless it is http or https with a host."""
    where = "" if base is None else "redirect to "
    try:
        url = URL(text) if base is None else base.join(URL(text))
        if url.scheme in ("http", "https") and url.host and url.port:
            return url.with_fragment(None)
    except ValueError:
        raise Rejected(Reason.BAD_URL, f"{where}an invalid URL") from None
    raise Rejected(Reason.BAD_URL, f"{where}{url.scheme or 'no scheme'}, not http or https")


async def _body(response: aiohttp.ClientResponse, max_bytes: int, truncate: bool = False) -> bytes:
    """The body, never more than `max_bytes` of it in memory."""
    if not truncate and (response.content_length or 0) > max_bytes:
        raise Rejected(Reason.TOO_MANY_BYTES, f"more than {max_bytes}")
    body = bytearray()
    async for block in response.content.iter_chunked(_BLOCK_BYTES):
        body += block
        if len(body) > max_bytes:
            if truncate:
                return bytes(body[:max_bytes])
            raise Rejected(Reason.TOO_MANY_BYTES, f"more than {max_bytes}")
    return bytes(body)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, given as a number or a date; 0 where it is absent or unreadable."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max((then - datetime.now(UTC)).total_seconds(), 0.0)
