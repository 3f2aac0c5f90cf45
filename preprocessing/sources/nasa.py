"""NASA's image library: photographs of a search, under NASA's guideline in the place of a licence.

    nasa:astronaut portrait

Its pictures are not under copyright in the United States unless they say so. Of a recognisable person the guideline
says that commercial use may infringe rights of privacy and publicity, and to ask for consent: `said` flags that. A
search ends at 10,000 results, so one with more is cut into years.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import Field

from preprocessing.crawl.ask import Limits
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.service import Quota, Service, ServiceSource
from storage.config import Config
from storage.errors import ConfigError, SourceError

logger = logging.getLogger(__name__)

LIMITS = Limits(interval_s=1.0)
"""None are published: a request a second."""
PER_PAGE = 100
MOST = 10_000
FIRST_YEAR = 1920
GUIDELINE = "https://www.nasa.gov/nasa-brand-center/images-and-media/"
FLAG = "commercial: person-consent-needed"
_SIZES = ("orig", "large", "medium", "small")
_FILE = re.compile(r"~(?:orig|large|medium|small|thumb)\.(?:jpe?g|png|tiff?)$", re.IGNORECASE)

_TIFF = re.compile(r"\.tiff?$", re.IGNORECASE)


class NasaConfig(Config):
    """Photographs of NASA's image library."""

    base_url: str = Field(default="https://images-api.nasa.gov", description="Of the API.")
    center: str | None = Field(
        default=None, pattern=r"^[A-Z0-9]{2,8}$", description="NASA's centre, such as JSC; unset: all."
    )
    year_from: int | None = Field(default=None, ge=1800, le=2100, description="First year.")
    year_to: int | None = Field(default=None, ge=1800, le=2100, description="Last year.")


@dataclass(frozen=True)
class NasaSource(ServiceSource):
    """The photographs of a search."""

    config: NasaConfig
    kind: ClassVar[str] = "nasa"

    @classmethod
    def open(cls, argument: str, config: NasaConfig, access: Access) -> NasaSource:
        """The source; ConfigError where nothing is looked for."""
        if not argument.strip():
            raise ConfigError("source nasa: lacks what to look for: nasa:WORDS")
        return cls.of(argument, config, access)

    def listed(self) -> Generator[Item, None, None]:
        """Photographs in the order of the search, or of the years that it is cut into."""
        config = self.config
        with Service(self.access, LIMITS) as nasa:
            first = self._page(nasa, config.year_from, config.year_to, 1)
            if _total(first) <= MOST:
                yield from self._pages(nasa, config.year_from, config.year_to, first)
                return
            last_year = config.year_to or date.today().year
            for year in range(config.year_from or FIRST_YEAR, last_year + 1):
                first = self._page(nasa, year, year, 1)
                if _total(first) > MOST:
                    logger.warning("nasa gives %d of %d photographs of %d", MOST, _total(first), year)
                yield from self._pages(nasa, year, year, first)

    def quota(self, photographs: int) -> Quota:
        """A request a page."""
        num = -(-photographs // PER_PAGE)
        return Quota(photographs, num, max(num - 1, 0) * LIMITS.interval_s, "a request a second, of our own")

    def _pages(
        self, nasa: Service, year_from: int | None, year_to: int | None, first: Mapping[str, Any]
    ) -> Iterator[Item]:
        num_pages = -(-min(_total(first), MOST) // PER_PAGE)
        for number in range(1, num_pages + 1):
            page = first if number == 1 else self._page(nasa, year_from, year_to, number)
            for found in page.get("items", ()):
                if (item := _item(found)) is not None:
                    yield item

    def _page(
        self, nasa: Service, year_from: int | None, year_to: int | None, number: int
    ) -> Mapping[str, Any]:
        asked: dict[str, str | int] = {"q": self.argument, "media_type": "image"}
        given = {"center": self.config.center, "year_start": year_from, "year_end": year_to}
        asked |= {name: value for name, value in given.items() if value is not None}
        body = nasa.get(f"{self.config.base_url}/search", {**asked, "page": number, "page_size": PER_PAGE})
        collection = body.get("collection") if isinstance(body, dict) else None
        if not isinstance(collection, dict):
            raise SourceError("nasa answers without a collection")
        return collection


def _total(page: Mapping[str, Any]) -> int:
    return int((page.get("metadata") or {}).get("total_hits") or 0)


def _item(found: Mapping[str, Any]) -> Item | None:
    """The photograph, at the largest size that is named; one that names only its preview is where that one's are."""
    data: Mapping[str, Any] = next(iter(found.get("data") or ()), {})
    links = [str(link.get("href")) for link in found.get("links") or () if isinstance(link, dict)]
    links = [link for link in links if _FILE.search(link)]
    if not links or not data.get("nasa_id"):
        return None
    named = (link for size in _SIZES for link in links if f"~{size}." in link and not _TIFF.search(link))
    url = next(named, None) or _FILE.sub("~large.jpg", links[0])
    center = data.get("center")
    said = {"license": GUIDELINE, "flag": FLAG, "nasa_id": data["nasa_id"], "center": center}
    return Item(
        url.replace("http://images-assets.nasa.gov/", "https://images-assets.nasa.gov/"),
        page=f"https://images.nasa.gov/details/{quote(str(data['nasa_id']), safe='')}",
        author=data.get("photographer")
        or data.get("secondary_creator")
        or (f"NASA/{center}" if center else "NASA"),
        license="US-Gov (NASA)",
        license_url=GUIDELINE,
        title=data.get("title") or None,
        said=json.dumps({name: value for name, value in said.items() if value}, ensure_ascii=False),
    )
