"""A service that lists photographs, asked in JSON at the rate that it publishes, and what sources of that kind share.

Answers are kept in the store, by their request and time and without any key, and stand for a day: a listing that was
cut short goes on where it was, and a second build of the day asks nothing. So is the time from which a service wants to
be asked again.
Not here: what each service is asked, which its own file says.
"""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlencode, urlsplit

from preprocessing.crawl.ask import Answer, Asker, Limits
from preprocessing.crawl.crawler import check_contact
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.crawl.urls import web_address
from preprocessing.records import Item
from preprocessing.reject import Rejected
from preprocessing.sources.access import Access
from preprocessing.sources.rests import asker
from preprocessing.sources.web import Web
from storage.config import Config
from storage.digest import json_digest
from storage.errors import IntegrityError, SourceError
from storage.records import StoredRecord
from storage.wording import numbered

logger = logging.getLogger(__name__)

DAY = KEPT = timedelta(days=1)
"""How long an answer stands for the service."""
STAMP = "%Y%m%d-%H%M%S"
"""How answers are named: by when they were asked."""
TOLD = 100
"""Photographs after which it is told how many there are."""
UNREAD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading an answer of another shape raises: a service's shape is its own to change."""
_SHOWN = 200

Params = Mapping[str, str | int]


class AnswerRecord(StoredRecord):
    """What a service answered, to which request, and when."""

    request: str
    """The address, without a key."""
    asked_at: str
    body: Any
    """The JSON as it came."""


@dataclass(frozen=True)
class Quota:
    """What listing so many photographs asks of a service, about, where nothing is kept and nothing asked twice."""

    photographs: int
    requests: int
    seconds: float
    rule: str
    """The limit that makes it take so long, in words."""


class Service:
    """One service; use as `with`, which ends its connections.

    `hidden` are parameters, and `headers` headers, that go out with each request and stand in no record and no error.
    """

    def __init__(
        self,
        access: Access,
        limits: Limits,
        *,
        hidden: Params | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._access = access
        self._hidden = dict(hidden or {})
        self._headers = dict(headers or {})
        self._limits = limits.sped_up(access.speed)
        self._asker: Asker | None = None
        self._asked_at: list[datetime] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asker is not None:
            self._asker.__exit__(kind, error, trace)
            self._asker = None

    def get(self, url: str, params: Params | None = None) -> Any:
        """The JSON that answers a request, asked for or kept; SourceError where there is none to be had."""
        request = f"{url}?{urlencode(params, quote_via=quote)}" if params else url
        folder = f"answers/{urlsplit(url).hostname}/{json_digest(request)}"
        if (kept := self._kept(folder)) is not None:
            return kept
        self._check_day(url)
        hidden = urlencode(self._hidden, quote_via=quote)
        sent = f"{request}{'&' if '?' in request else '?'}{hidden}" if hidden else request
        body = self._asked(sent, request, None)
        if self._access.store is not None:
            now = datetime.now(UTC)
            record = AnswerRecord.new(request=request, asked_at=now.isoformat(timespec="seconds"), body=body)
            key = f"{folder}/{now.strftime(STAMP)}.json"
            self._access.store.put(key, record.as_bytes(), durable=False)
        return body

    def post(self, url: str, form: Mapping[str, str]) -> Any:
        """The JSON that answers a form, which no record keeps."""
        return self._asked(url, url, form)

    def _asked(self, sent: str, request: str, form: Mapping[str, str] | None) -> Any:
        request = request if len(request) <= _SHOWN else f"{request[:_SHOWN]}..."
        try:
            address = web_address(sent)
            check_contact(self._access.fetch, [address])
            if self._asker is None:
                self._asker = asker(self._access, self._limits, address.host).__enter__()
            answer = self._asker.ask(address, self._headers, form, self.passes)
        except Rejected as rejected:
            raise SourceError(
                f"{request} is not answered: {rejected.detail or rejected.reason}; answers so far are kept for a day"
            ) from None
        body = _json(answer)
        if answer.status != 200 or body is None:
            said = answer.body[:_SHOWN].decode("utf-8", "replace")
            for value in (*self._hidden.values(), *self._headers.values()):
                said = said.replace(str(value), "...")
            raise SourceError(f"{request} is answered with status {answer.status}: {' '.join(said.split())}")
        self.check(body, request)
        return body

    def _check_day(self, url: str) -> None:
        """Raise SourceError where a service was asked as often within a day as it lets; note one request more."""
        if self._limits.per_day is None:
            return
        now, host = datetime.now(UTC), urlsplit(url).hostname
        if self._asked_at is None:
            store = self._access.store
            names = [Path(key).stem for key in store.keys(f"answers/{host}")] if store is not None else []
            self._asked_at = sorted(datetime.strptime(name, STAMP).replace(tzinfo=UTC) for name in names)
        self._asked_at = [asked_at for asked_at in self._asked_at if now - asked_at < DAY]
        if len(self._asked_at) >= self._limits.per_day:
            until = (self._asked_at[-self._limits.per_day] + DAY).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise SourceError(
                f"{host} may be asked {self._limits.per_day} times a day, and was: it goes on from {until}, with the "
                f"answers so far"
            )
        self._asked_at.append(now)

    def passes(self, answer: Answer) -> str | None:
        """Why an answer is none and may be another one later: a page in the place of JSON, as of a busy service."""
        if answer.status == 200 and _json(answer) is None:
            return "a page in the place of JSON"
        return None

    def check(self, body: Any, request: str) -> None:
        """Raise SourceError where the JSON says an error."""

    def _kept(self, folder: str) -> Any:
        store = self._access.store
        keys = list(store.keys(folder)) if store is not None and not self._access.is_fresh else []
        if store is None or not keys:
            return None
        try:
            record = AnswerRecord.read(store.path(keys[-1]))
            is_old = datetime.now(UTC) - datetime.fromisoformat(record.asked_at) > KEPT
        except (IntegrityError, ValueError, TypeError):
            return None
        return None if is_old else record.body


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class ServiceSource(Web):
    """Photographs that a service lists; a source says its limits, and turns answers into items.

    `argument` is what follows the kind in its name, and says what is looked for.
    """

    argument: str
    config: Config
    access: Access
    kind: ClassVar[str]
    at_once: ClassVar[int] = 2
    """Requests for photographs at once to one host, where the service or its host says a number."""
    delay_s: ClassVar[float] = 0.0
    """Least time between the starts of two of them."""

    @classmethod
    def of(cls, argument: str, config: Config, access: Access) -> Self:
        """The source, with settings of fetching that its service's photographs are fetched by."""
        return cls(polite(access.fetch, cls.at_once, cls.delay_s / access.speed), argument, config, access)

    def __getstate__(self) -> dict[str, Any]:
        """Without what listing alone needs: where photographs are fetched, nothing is listed."""
        return {**vars(self), "access": Access(self.fetch)}

    def description(self) -> dict[str, Any]:
        """The kind, what is looked for, the settings, and the rules by which photographs are refused."""
        settings = self.config.model_dump(mode="json", exclude_defaults=True)
        return {
            "kind": self.kind,
            "argument": self.argument,
            "settings": settings,
            "fetch": self.web_rules(),
        }

    def items(self, limit: int | None = None) -> list[Item]:
        """Every photograph that the service lists, or the first so many; each is listed once."""
        known: dict[str, Item] = {}
        num_repeated = 0
        try:
            with closing(self.listed()) as listed:
                for item in listed:
                    item = _of_text(item)
                    num_repeated += item.ref in known
                    known.setdefault(item.ref, item)
                    if len(known) % TOLD == 0:
                        self.access.listed(len(known))
                    if len(known) == limit:
                        break
        except UNREAD as error:
            why = f"{type(error).__name__}: {error}"[:_SHOWN]
            raise SourceError(f"{self.kind} answers in a shape that is not known: {why}") from error
        if num_repeated:
            logger.info("%s lists %s more than once", self.kind, numbered(num_repeated, "photograph"))
        return list(known.values())

    @abstractmethod
    def listed(self) -> Generator[Item, None, None]:
        """The photographs as the service gives them; requests are made as they are asked for."""

    @abstractmethod
    def quota(self, photographs: int) -> Quota:
        """What listing so many photographs asks of the service."""


def _of_text(item: Item) -> Item:
    """The item with Unicode text alone: JSON holds numbers, lists and lone surrogates in the place of names."""
    values = {name: getattr(item, name) for name in Item.__dataclass_fields__}
    changed = {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else str(value)
        for name, value in values.items()
        if value is not None and not (isinstance(value, str) and value.isascii())
    }
    return replace(item, **changed) if changed else item


def polite(fetch: FetchConfig, at_once: int, delay_s: float) -> FetchConfig:
    """Settings of fetching with no more requests at once, and no less time between them."""
    return fetch.model_copy(
        update={
            "per_host_concurrency": min(fetch.per_host_concurrency, at_once),
            "per_host_delay_s": max(fetch.per_host_delay_s, delay_s),
        }
    )
