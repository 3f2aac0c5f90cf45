"""Smithsonian Open Access: photographs that are CC0, of one unit or of all.

    smithsonian:portrait      words; those of the National Portrait Gallery by default

A key of api.data.gov is SMITHSONIAN_API_KEY; without one its DEMO_KEY is used, which may ask 30 times an hour and is
enough for some thousand photographs. A search of more than a page is cut by the records' hashes, not followed into
its depth.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from preprocessing.crawl.ask import Limits
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.service import Quota, Service, ServiceSource
from storage.config import Config
from storage.errors import SourceError

logger = logging.getLogger(__name__)

KEYED = Limits(interval_s=5.0)
"""1,000 requests an hour."""
DEMO = Limits(interval_s=120.0, per_day=50)
"""30 requests an hour, and 50 a day an address."""
PER_PAGE = 1000
KEY = "SMITHSONIAN_API_KEY"
_DEEPEST = 4
_HEX = "0123456789abcdef"
_CREATORS = ("photographer", "artist", "creator", "maker", "author")


class SmithsonianConfig(Config):
    """Photographs of the Smithsonian."""

    base_url: str = Field(default="https://api.si.edu", description="Of the API.")
    unit: str = Field(
        default="NPG", pattern=r"^(all|[A-Z0-9_-]{2,20})$", description="Museum, by its code, or all."
    )
    object_type: str = Field(
        default="Photographs", pattern=r'^[^"\\]{1,60}$', description="Kind of object, or all."
    )


@dataclass(frozen=True)
class SmithsonianSource(ServiceSource):
    """The photographs of a search."""

    config: SmithsonianConfig
    kind: ClassVar[str] = "smithsonian"

    @classmethod
    def open(cls, argument: str, config: SmithsonianConfig, access: Access) -> SmithsonianSource:
        """The source; without words, all of a unit."""
        return cls.of(argument, config, access)

    def listed(self) -> Generator[Item, None, None]:
        """Photographs in the order of the search, or of the records' hashes where it is cut."""
        key = self.access.secret(KEY)
        with Service(self.access, KEYED if key else DEMO, hidden={"api_key": key or "DEMO_KEY"}) as service:
            yield from self._part(service, "")

    def quota(self, photographs: int) -> Quota:
        """A request, and one for each part, of which there are sixteen or more where a search is cut."""
        num = 1 + len(_HEX) + photographs // PER_PAGE
        is_keyed = bool(self.access.secret(KEY))
        limits, rule = (
            (KEYED, "1,000 requests an hour") if is_keyed else (DEMO, "30 requests an hour without a key")
        )
        return Quota(photographs, num, (num - 1) * limits.interval_s, rule)

    def _part(self, service: Service, digits: str) -> Iterator[Item]:
        """The photographs of records whose hash begins with some digits."""
        words = ["online_media_type:Images", "media_usage:CC0"]
        if self.config.unit != "all":
            words.append(f"unit_code:{self.config.unit}")
        if self.config.object_type != "all":
            words.append(f'object_type:"{self.config.object_type}"')
        if self.argument.strip():
            words.append(f"({self.argument.strip()})")
        if digits:
            words.append(f"hash:{digits}*")
        body = service.get(
            f"{self.config.base_url}/openaccess/api/v1.0/search",
            {"q": " AND ".join(words), "start": 0, "rows": PER_PAGE},
        )
        response = body.get("response") if isinstance(body, dict) else None
        if not isinstance(response, dict):
            raise SourceError("smithsonian answers without a response")
        total = int(response.get("rowCount") or 0)
        if total > PER_PAGE and len(digits) < _DEEPEST:
            for digit in _HEX:
                yield from self._part(service, digits + digit)
            return
        if total > PER_PAGE:
            logger.warning("%d records of one hash are more than are listed", total)
        for row in response.get("rows", ()):
            yield from _items(row)


def _items(row: Mapping[str, Any]) -> Iterator[Item]:
    """The pictures of a record that are CC0; many records have none, though they were found by that."""
    content = row.get("content") or {}
    about = content.get("descriptiveNonRepeating") or {}
    names = (content.get("freetext") or {}).get("name") or ()
    author = next(
        (
            str(name.get("content"))
            for word in _CREATORS
            for name in names
            if isinstance(name, dict) and name.get("content") and word in str(name.get("label", "")).lower()
        ),
        None,
    )
    for media in (about.get("online_media") or {}).get("media") or ():
        access = (media.get("usage") or {}).get("access")
        if media.get("type") != "Images" or access != "CC0" or not media.get("content"):
            continue
        said = {
            "license": access,
            "id": row.get("id"),
            "idsId": media.get("idsId"),
            "unit": about.get("unit_code"),
        }
        yield Item(
            str(media["content"]),
            page=about.get("record_link") or about.get("guid"),
            author=author,
            license="CC0-1.0",
            title=(about.get("title") or {}).get("content") or row.get("title"),
            said=json.dumps({name: value for name, value in said.items() if value}, ensure_ascii=False),
        )
