"""Flickr: photographs of a search under the licences that are allowed, by slices of their upload time, as FFHQ's were.

    flickr:portrait        words in title, description or tags

Flickr gives the first 4,000 results of a query and then repeats them, so a query of more is cut in two by time, and
where time cannot be cut any more by licence. Photographs tagged no_cv are listed, counted and not asked for. Licences
are matched by the table that Flickr itself gives, since ids are added. A key is needed: FLICKR_API_KEY.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import Field

from preprocessing.crawl.ask import Answer, Limits
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.licenses import license_of
from preprocessing.sources.service import Params, Quota, Service, ServiceSource
from storage.config import Config
from storage.errors import ConfigError, SourceError

logger = logging.getLogger(__name__)

LIMITS = Limits(interval_s=1.0)
"""3,600 queries an hour a key."""
PER_PAGE = 500
SLICE = 3000
"""Results of a query that are asked for; the first 4,000 are all there are."""
MOST = 4000
SHORTEST_S = 300
"""Seconds of the shortest slice of upload time."""
KEY = "FLICKR_API_KEY"
_SIZES = ("url_k", "url_h", "url_l", "url_c", "url_o")
"""From 2048 px down, the largest that its owner lets be seen; the original where there is no other."""
_PASSING = frozenset({105, 201})
"""Codes of a service that is not available for now."""
_NO_CV = frozenset({"no_cv", "nocv"})
"""As its owner writes it, and as Flickr spells tags."""


class FlickrConfig(Config):
    """Photographs of Flickr."""

    base_url: str = Field(default="https://api.flickr.com", description="Of the API.")
    tags: str | None = Field(default=None, description="Tags of which a photograph has one, with commas.")
    uploaded_from: date = Field(default=date(2004, 2, 10), description="First day of upload.")
    uploaded_to: date | None = Field(default=None, description="Last day of upload; unset: yesterday.")


@dataclass(frozen=True)
class FlickrSource(ServiceSource):
    """The photographs of a search."""

    config: FlickrConfig
    kind: ClassVar[str] = "flickr"

    @classmethod
    def open(cls, argument: str, config: FlickrConfig, access: Access) -> FlickrSource:
        """The source; ConfigError where nothing is looked for."""
        if not (argument.strip() or config.tags):
            raise ConfigError("source flickr: lacks what to look for: flickr:WORDS, or --sources.flickr.tags")
        return cls.of(argument, config, access)

    def listed(self) -> Generator[Item, None, None]:
        """Photographs by the time of their upload."""
        key = self.access.secret(KEY)
        if not key:
            raise ConfigError(f"source flickr: needs a key of Flickr: set {KEY}")
        start = _seconds(self.config.uploaded_from)
        last = self.config.uploaded_to
        end = _seconds(last) + 86400 if last else int(time.time()) // 86400 * 86400
        with _Flickr(self.access, LIMITS, hidden={"api_key": key}) as flickr:
            table = self._table(flickr)
            allowed = ",".join(sorted(table, key=int))
            if not allowed:
                raise ConfigError("flickr has no licence that --licenses.allow has")
            yield from self._slice(flickr, table, allowed, start, end)

    def quota(self, photographs: int) -> Quota:
        """The table of licences, a request a page, and one in five for cutting slices."""
        num = 2 + -(-photographs * 5 // (4 * PER_PAGE))
        return Quota(photographs, num, (num - 1) * LIMITS.interval_s, "3,600 queries an hour a key")

    def _table(self, flickr: Service) -> dict[str, tuple[str, str | None]]:
        """The licences that are allowed by their ids, as Flickr has them now."""
        body = flickr.get(f"{self.config.base_url}/services/rest", _method("flickr.photos.licenses.getInfo"))
        table: dict[str, tuple[str, str | None]] = {}
        for entry in body.get("licenses", {}).get("license", ()):
            name, url = entry.get("name"), entry.get("url") or None
            found = license_of(name, url)
            if found is None:
                logger.info("Flickr's licence %s (%s) is not known", entry.get("id"), name)
            elif found.family in self.access.licenses.families:
                table[str(entry["id"])] = (found.id, url)
        return table

    def _slice(
        self,
        flickr: Service,
        table: Mapping[str, tuple[str, str | None]],
        licenses: str,
        start: int,
        end: int,
    ) -> Iterator[Item]:
        """The photographs that were uploaded from `start` until before `end`."""
        first = self._page(flickr, licenses, start, end, 1)
        total = int(first.get("total") or 0)
        if total > SLICE and end - start > SHORTEST_S:
            num = min(-(-total // (SLICE // 2)), (end - start) // SHORTEST_S, 64)
            cuts = [start + (end - start) * part // max(num, 2) for part in range(max(num, 2) + 1)]
            for since, until in pairwise(cuts):
                yield from self._slice(flickr, table, licenses, since, until)
            return
        if total > SLICE and "," in licenses:
            for one in licenses.split(","):
                yield from self._slice(flickr, table, one, start, end)
            return
        if total > MOST:
            logger.warning("of %d photographs of five minutes Flickr gives %d", total, MOST)
        num_pages = min(-(-total // PER_PAGE), MOST // PER_PAGE)
        for number in range(1, num_pages + 1):
            page = first if number == 1 else self._page(flickr, licenses, start, end, number)
            for photo in page.get("photo", ()):
                if (item := _item(photo, table)) is not None:
                    yield item

    def _page(self, flickr: Service, licenses: str, start: int, end: int, number: int) -> dict[str, Any]:
        asked: dict[str, str | int] = {
            "license": licenses,
            "media": "photos",
            "content_type": 1,
            "safe_search": 1,
            "sort": "date-posted-asc",
            "min_upload_date": start,
            "max_upload_date": end - 1,
            "per_page": PER_PAGE,
            "page": number,
            "extras": f"license,owner_name,path_alias,date_upload,o_dims,tags,{','.join(_SIZES)}",
        }
        if self.argument.strip():
            asked["text"] = self.argument
        if self.config.tags:
            asked["tags"] = self.config.tags
        body = flickr.get(
            f"{self.config.base_url}/services/rest", {**_method("flickr.photos.search"), **asked}
        )
        page = body.get("photos")
        if not isinstance(page, dict):
            raise SourceError("flickr.photos.search answers without photographs")
        return page


class _Flickr(Service):
    def passes(self, answer: Answer) -> str | None:
        if (why := super().passes(answer)) is not None:
            return why
        body = json.loads(answer.body) if answer.status == 200 else {}
        is_busy = isinstance(body, dict) and body.get("stat") == "fail" and body.get("code") in _PASSING
        return f"code {body['code']}" if is_busy else None

    def check(self, body: Any, request: str) -> None:
        if not isinstance(body, dict) or body.get("stat") != "ok":
            said = body.get("message") if isinstance(body, dict) else None
            raise SourceError(f"{request.partition('?')[0]} is answered with an error: {said or 'no stat'}")


def _method(name: str) -> Params:
    return {"method": name, "format": "json", "nojsoncallback": 1}


def _item(photo: Mapping[str, Any], table: Mapping[str, tuple[str, str | None]]) -> Item | None:
    """The photograph; None where its owner lets no size be seen."""
    url = next((photo[size] for size in _SIZES if photo.get(size)), None)
    owner, number = photo.get("pathalias") or photo.get("path_alias") or photo.get("owner"), photo.get("id")
    if not url or not number:
        return None
    code = str(photo.get("license"))
    name, license_url = table.get(code, (f"Flickr's licence {code}", None))
    tags = str(photo.get("tags") or "").split()
    title = photo.get("title")
    said = {"license": code, "owner": photo.get("owner"), "uploaded": photo.get("dateupload")}
    return Item(
        url,
        page=f"https://www.flickr.com/photos/{owner}/{number}",
        author=photo.get("ownername") or None,
        license=name,
        license_url=license_url,
        title=title if isinstance(title, str) else None,
        said=json.dumps({name: value for name, value in said.items() if value}, ensure_ascii=False),
        opt_out=next((f"tag {tag}" for tag in tags if tag.lower() in _NO_CV), None),
    )


def _seconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
