"""A service that answers in JSON, asked one request at a time, as slowly as it publishes that it may be.

    with Asker(FetchConfig(user_agent="..."), Limits(interval_s=0.3)) as asker:
        answer = asker.ask(web_address("https://commons.wikimedia.org/w/api.php?..."))

Connections go to judged addresses alone, as those of the fetcher do; `Retry-After` is waited for in full, or the
service is left alone; failures that may pass are tried again, ever later. What governs a service are its terms, so
its robots.txt, which is for crawlers of pages, is not asked. Redirects are not followed, since a key may be on the way,
but to files, which `download` writes to disk.
Not here: photographs (`preprocessing.crawl.fetch`), and what an answer means (`preprocessing.sources`).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from preprocessing.crawl.connect import Resolver
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.crawl.hosts import FAILURES, Host, HostPace, Passing, PutOff
from preprocessing.crawl.retry import may_pass, retry_after_s
from preprocessing.crawl.safety import networks
from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.reject import Reason, Rejected

MAX_BYTES = 64 * 2**20
"""Of one answer."""
MAX_FILE_BYTES = 64 * 2**30
"""Of one file."""
RETRIES = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BLOCK_BYTES = 64 * 1024

Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """How a service may be asked: one request at a time, `interval_s` between the starts of two.

    After a request that took longer than `slow_s` it is left alone for `rest_s`, and after any for `rest_share` times
    as long as it took. `timeout_s` is how long it may take to answer. `per_day` is how often it may be asked in a day,
    which whoever knows of earlier ones holds to.
    """

    interval_s: float
    slow_s: float = math.inf
    rest_s: float = 0.0
    rest_share: float = 0.0
    timeout_s: float = 60.0
    per_day: int | None = None

    def sped_up(self, factor: float) -> Limits:
        """The same on a clock that runs so many times as fast."""
        return replace(
            self,
            interval_s=self.interval_s / factor,
            slow_s=self.slow_s / factor,
            rest_s=self.rest_s / factor,
        )


@dataclass(frozen=True)
class Answer:
    """What a service said; a status of 400 and more is an answer too, where it will not pass by itself."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str | None:
        """A header's value, by any case."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)


Passes = Callable[[Answer], str | None]
"""Why an answer is none and may be another one later, as a busy service's page; None where it is one."""


def to_nobody(_: PutOff) -> None:
    """Where no later run is to know when a service wants to be asked again."""


class Asker:
    """Asks one service from a thread of its own; use as `with`.

    `wished` is told, in that thread, until when the service wants to be left alone, each time that it says so; for
    `rest_s` it is left alone from the start.
    """

    def __init__(
        self,
        config: FetchConfig,
        limits: Limits,
        wished: Callable[[PutOff], None] = to_nobody,
        rest_s: float = 0.0,
    ) -> None:
        self._config = config
        self._limits = limits
        self._resolver = Resolver(networks(config.allow_networks), config.timeout_s)
        self._host = Host("the service", asyncio.Semaphore(1), HostPace(limits.interval_s), FAILURES)
        self._host.pause(rest_s)
        self._wished = wished
        self._slots = asyncio.Semaphore(1)
        self._session: aiohttp.ClientSession | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ask", daemon=True)
        self.num_requests = 0

    def __enter__(self) -> Asker:
        self._thread.start()
        self._session = self._run(self._opened())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(
        self,
        address: WebAddress,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        passes: Passes = lambda _: None,
    ) -> Answer:
        """The answer to one request, a POST where there is a `form`; `Rejected` where there is none to be had."""
        return self._run(self._asked(address, dict(headers or {}), form, passes))

    def download(self, address: WebAddress, path: Path, headers: Mapping[str, str] | None = None) -> Answer:
        """The body of an address in a file, redirects followed; `Rejected` where there is none to be had.

        `headers` are for its origin alone.
        """
        asked = dict(headers or {})
        for _ in range(self._config.max_redirects + 1):
            answer = self._run(self._asked(address, asked, None, lambda _: None, path))
            location = answer.header("Location")
            if answer.status not in REDIRECTS or not location:
                return answer
            target = web_address(location, address)
            if target.origin != address.origin:
                asked = {}
            address = target
        raise Rejected(Reason.HTTP_STATUS, f"more than {self._config.max_redirects} redirects")

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _opened(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=self._resolver.connector(),
            headers={"User-Agent": self._config.user_agent, "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        session._retry_connection = False  # aiohttp would ask again at once
        return session

    async def _closed(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    async def _asked(
        self,
        address: WebAddress,
        headers: dict[str, str],
        form: Mapping[str, str] | None,
        passes: Passes,
        path: Path | None = None,
    ) -> Answer:
        host, config = self._host, self._config
        for attempt in itertools.count():
            await self._resolver.addresses(address.host)
            try:
                answer = await self._attempt(address, headers, form, passes, path)
            except Passing as failure:
                host.failed(failure)
                if failure.wait_s:
                    self._wished(host.wish(failure))
                if failure.wait_s > config.max_wait_s:
                    raise host.put_off(failure) from None
                own_s = min(config.backoff_s * 2.0**attempt, config.max_backoff_s) * random.uniform(0.5, 1.0)
                host.pause(max(failure.wait_s, own_s))
                if attempt >= max(RETRIES, config.retries):
                    raise
            else:
                host.answered()
                return answer
        raise AssertionError

    async def _attempt(
        self,
        address: WebAddress,
        headers: dict[str, str],
        form: Mapping[str, str] | None,
        passes: Passes,
        path: Path | None,
    ) -> Answer:
        assert self._session is not None
        async with self._host.turn(self._slots) as turn:
            turn.left()
            start_s = time.monotonic()
            self.num_requests += 1
            method = "GET" if form is None else "POST"
            try:
                async with self._session.request(
                    method,
                    address.wire,
                    headers=headers,
                    data=form,
                    allow_redirects=False,
                    timeout=self._timeout(path),
                ) as response:
                    answer = await (_read(response) if path is None else _written(response, path))
            except TimeoutError:
                raise Passing(Reason.TIMED_OUT, "no answer in time") from None
            except (aiohttp.InvalidURL, UnicodeError):
                raise Rejected(Reason.BAD_URL) from None
            except aiohttp.ClientConnectorCertificateError as error:
                raise Rejected(Reason.CONNECTION_FAILED, type(error).__name__) from None
            except (aiohttp.ClientError, OSError) as error:
                # The type alone: messages carry addresses, and those a key.
                raise Passing(Reason.CONNECTION_FAILED, type(error).__name__) from None
            finally:
                self._rest(time.monotonic() - start_s)
        asked = retry_after_s(answer.header("Retry-After") or "", datetime.now(UTC)) or 0.0
        if may_pass(answer.status):
            raise Passing(Reason.SERVER_ERROR, str(answer.status), asked, is_of_host=True)
        if (why := passes(answer)) is not None:
            raise Passing(Reason.SERVER_ERROR, why, asked, is_of_host=True)
        return answer

    def _timeout(self, path: Path | None) -> aiohttp.ClientTimeout:
        """Of a whole answer, or between two parts of a file, which may be large."""
        longest_s = max(self._config.timeout_s, self._limits.timeout_s)
        if path is None:
            return aiohttp.ClientTimeout(total=longest_s)
        return aiohttp.ClientTimeout(total=None, sock_connect=longest_s, sock_read=longest_s)

    def _rest(self, took_s: float) -> None:
        rest_s = took_s * self._limits.rest_share
        if took_s > self._limits.slow_s:
            rest_s = max(rest_s, self._limits.rest_s)
        if rest_s:
            self._host.pause(rest_s)


async def _read(response: aiohttp.ClientResponse) -> Answer:
    body = bytearray()
    async for block in response.content.iter_chunked(_BLOCK_BYTES):
        body += block
        if len(body) > MAX_BYTES:
            raise Rejected(Reason.TOO_MANY_BYTES, f"more than {MAX_BYTES}")
    return Answer(response.status, dict(response.headers), bytes(body))


async def _written(response: aiohttp.ClientResponse, path: Path) -> Answer:
    if response.status != 200:
        return await _read(response)
    num_bytes = 0
    with path.open("wb") as file:
        async for block in response.content.iter_chunked(_BLOCK_BYTES):
            num_bytes += len(block)
            if num_bytes > MAX_FILE_BYTES:
                raise Rejected(Reason.TOO_MANY_BYTES, f"more than {MAX_FILE_BYTES}")
            file.write(block)
    return Answer(response.status, dict(response.headers), b"")
