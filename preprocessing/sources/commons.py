"""Wikimedia Commons: photographs of a category, or of a search.

    commons:Category:Portraits of scientists
    commons:portrait photograph haswbstatement:P275=Q20007257

Licence and author are those of the file's page (`extmetadata`), which decide over structured data. A file that is not
free, such as a logo under fair use, is all rights reserved.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from preprocessing.crawl.ask import Answer, Limits
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.service import Params, Quota, Service, ServiceSource
from storage.config import Config, OneOf
from storage.errors import ConfigError, SourceError

logger = logging.getLogger(__name__)

LIMITS = Limits(interval_s=0.3, slow_s=1.0, rest_s=5.0)
"""One at a time and 200 a minute with a user agent that says who asks; after a second's work, five seconds' rest
(Wikimedia's robot policy and API rate limits)."""
BATCH = 50
"""Files whose details one answer holds."""
WIDTHS = (0, 20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)
"""Widths that Wikimedia keeps; others are refused."""
MOST_FOUND = 10_000
"""Files of a search beyond which Commons does not answer."""
MAX_CONTINUATIONS = 100
"""Answers after which a batch that does not end is taken as it is."""
_DETAILS = {
    "prop": "imageinfo",
    "iiprop": "url|size|sha1|mime|mediatype|extmetadata",
    "iiextmetadatafilter": "LicenseShortName|LicenseUrl|Artist|Attribution|Credit|ObjectName|NonFree|Restrictions",
}
_BUSY = frozenset({"maxlag", "ratelimited", "readonly"})
MAX_TITLES_CHARS = 4000
"""Of the titles in one request, which an address must hold."""


class CommonsConfig(Config):
    """Files of Wikimedia Commons."""

    base_url: str = Field(default="https://commons.wikimedia.org", description="Of the wiki.")
    width_px: Annotated[int, OneOf(*WIDTHS)] = Field(
        default=1280, description="Width that is fetched, one that Wikimedia keeps; 0 fetches originals."
    )


@dataclass(frozen=True)
class CommonsSource(ServiceSource):
    """The files of a category or a search."""

    config: CommonsConfig
    kind: ClassVar[str] = "commons"
    delay_s: ClassVar[float] = 0.1

    @classmethod
    def open(cls, argument: str, config: CommonsConfig, access: Access) -> CommonsSource:
        """The source; ConfigError where nothing is looked for."""
        if not argument.strip():
            raise ConfigError(
                "source commons: lacks what to look for: commons:Category:NAME or commons:WORDS"
            )
        return cls.of(argument, config, access)

    def listed(self) -> Generator[Item, None, None]:
        """Files in the order of the category, or of the search."""
        asked: dict[str, str | int]
        if self.argument.startswith("Category:"):
            asked = {"generator": "categorymembers", "gcmtitle": self.argument, "gcmtype": "file"}
            asked["gcmlimit"] = BATCH
        else:
            asked = {
                "generator": "search",
                "gsrsearch": f"{self.argument} filetype:bitmap",
                "gsrnamespace": 6,
            }
            asked["gsrlimit"] = BATCH
        with Wiki(self.access, LIMITS) as wiki:
            yield from files(wiki, self.config, asked)

    def quota(self, photographs: int) -> Quota:
        """One request a batch."""
        return commons_quota(photographs)


def commons_quota(photographs: int) -> Quota:
    """What the details of so many files ask of Commons."""
    num = -(-photographs // BATCH)
    return Quota(
        photographs, num, max(num - 1, 0) * LIMITS.interval_s, "200 requests a minute, one at a time"
    )


class Wiki(Service):
    """An action API of MediaWiki."""

    def passes(self, answer: Answer) -> str | None:
        """A wiki that lags or is read-only says so in JSON."""
        if (why := super().passes(answer)) is not None:
            return why
        error = _error(json.loads(answer.body)) if answer.status == 200 else None
        return error["code"] if error and error.get("code") in _BUSY else None

    def check(self, body: Any, request: str) -> None:
        """Raise for any other error."""
        if error := _error(body):
            raise SourceError(
                f"{request} is answered with an error: {error.get('info') or error.get('code')}"
            )


def files(wiki: Wiki, config: CommonsConfig, asked: Params) -> Iterator[Item]:
    """The photographs among the files that a generator, or titles, name; batch by batch, until there are no more."""
    url = f"{config.base_url}/w/api.php"
    common: dict[str, str | int] = {"action": "query", "format": "json", "formatversion": 2, "maxlag": 5}
    if config.width_px:
        common["iiurlwidth"] = config.width_px
    more: dict[str, str | int] = {}
    pages: dict[Any, dict[str, Any]] = {}
    places: set[tuple[tuple[str, str | int], ...]] = set()
    num_answers = 0
    while True:
        body = wiki.get(url, {**common, **_DETAILS, **asked, **more})
        for page in body.get("query", {}).get("pages", ()):
            known = pages.setdefault(page.get("pageid", page.get("title")), {})
            known |= page | ({"imageinfo": known["imageinfo"]} if "imageinfo" in known else {})
        num_answers += 1
        more = body.get("continue", {})
        if more and (place := tuple(sorted(more.items()))) in places:
            raise SourceError(f"{url} goes on where it was: {dict(place)}")
        places.add(tuple(sorted(more.items())))
        if body.get("batchcomplete") or not more or num_answers >= MAX_CONTINUATIONS:
            for page in sorted(
                pages.values(), key=lambda page: (page.get("index", 0), page.get("title", ""))
            ):
                if (item := _item(page, config)) is not None:
                    yield item
            pages, num_answers = {}, 0
        if not more:
            return
        if int(more.get("gsroffset", 0)) >= MOST_FOUND:
            logger.warning("Commons gives no more than %d files of a search", MOST_FOUND)
            return


def files_of(wiki: Wiki, config: CommonsConfig, titles: Iterable[str]) -> Iterator[Item]:
    """The photographs of these titles, such as File:Ada.jpg, as many a request as one may hold."""
    batch: list[str] = []
    for title in titles:
        if batch and (len(batch) == BATCH or len("|".join(batch)) + len(title) > MAX_TITLES_CHARS):
            yield from files(wiki, config, {"titles": "|".join(batch), "redirects": 1})
            batch = []
        batch.append(title)
    if batch:
        yield from files(wiki, config, {"titles": "|".join(batch), "redirects": 1})


def _item(page: Mapping[str, Any], config: CommonsConfig) -> Item | None:
    """The photograph on a page; None where there is none: a drawing, a document, a film, a page that is gone."""
    info = next(iter(page.get("imageinfo") or ()), None)
    if not info or info.get("mediatype") != "BITMAP" or not info.get("url"):
        return None
    facts = {name: str(fact.get("value", "")) for name, fact in (info.get("extmetadata") or {}).items()}
    said = {"title": page.get("title"), "sha1": info.get("sha1"), "width": info.get("width")}
    said |= {name.lower(): facts.get(name) for name in ("Credit", "Restrictions")}
    is_free = facts.get("NonFree", "").lower() != "true"
    return Item(
        (config.width_px and info.get("thumburl")) or info["url"],
        page=info.get("descriptionurl"),
        author=facts.get("Attribution") or facts.get("Artist") or None,
        license=(facts.get("LicenseShortName") or None) if is_free else "All rights reserved",
        license_url=(facts.get("LicenseUrl") or None) if is_free else None,
        title=facts.get("ObjectName") or page.get("title"),
        said=json.dumps({name: value for name, value in said.items() if value}, ensure_ascii=False),
    )


def _error(body: Any) -> dict[str, Any] | None:
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else None
