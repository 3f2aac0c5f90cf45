"""Europeana: pictures of European collections, by a search.

    europeana:portrait photograph

A key is needed: EUROPEANA_API_KEY. Many of its pictures are drawings and prints, and each has rights of its own.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from preprocessing.crawl.ask import Limits
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.service import Quota, Service, ServiceSource
from storage.config import Config
from storage.errors import ConfigError, SourceError

LIMITS = Limits(interval_s=3.0)
"""No number is published, and limits of personal keys were lowered: as slowly as others ask."""
PER_PAGE = 100
KEY = "EUROPEANA_API_KEY"
_OPEN = frozenset({"CC0", "PDM", "CC-BY", "CC-BY-SA"})
"""Families that Europeana calls open."""


class EuropeanaConfig(Config):
    """Pictures of Europeana."""

    base_url: str = Field(default="https://api.europeana.eu", description="Of the API.")


@dataclass(frozen=True)
class EuropeanaSource(ServiceSource):
    """The pictures of a search."""

    config: EuropeanaConfig
    kind: ClassVar[str] = "europeana"

    @classmethod
    def open(cls, argument: str, config: EuropeanaConfig, access: Access) -> EuropeanaSource:
        """The source; ConfigError where nothing is looked for."""
        if not argument.strip():
            raise ConfigError("source europeana: lacks what to look for: europeana:WORDS")
        return cls.of(argument, config, access)

    def listed(self) -> Generator[Item, None, None]:
        """Pictures in the order of the search, by its cursor, which has no end before the search has."""
        key = self.access.secret(KEY)
        if not key:
            raise ConfigError(f"source europeana: needs a key of Europeana: set {KEY}")
        asked: dict[str, str | int] = {
            "query": self.argument,
            "qf": "TYPE:IMAGE",
            "media": "true",
            "profile": "rich",
            "rows": PER_PAGE,
        }
        if self.access.licenses.families <= _OPEN | {"US-Gov"}:
            asked["reusability"] = "open"
        cursor, cursors = "*", {"*"}
        with Service(self.access, LIMITS, headers={"X-Api-Key": key}) as service:
            while cursor:
                body = service.get(
                    f"{self.config.base_url}/record/v2/search.json", {**asked, "cursor": cursor}
                )
                if body.get("success") is False or not isinstance(body.get("items"), list):
                    raise SourceError(f"europeana answers without items: {body.get('error') or 'no reason'}")
                for found in body["items"]:
                    if (item := _item(found)) is not None:
                        yield item
                cursor = str(body.get("nextCursor") or "")
                if cursor in cursors:
                    raise SourceError(f"europeana goes on where it was: {cursor}")
                cursors.add(cursor)

    def quota(self, photographs: int) -> Quota:
        """A request a page."""
        num = -(-photographs // PER_PAGE)
        return Quota(photographs, num, max(num - 1, 0) * LIMITS.interval_s, "a request in 3 s, of our own")


def _item(found: Mapping[str, Any]) -> Item | None:
    url = _first(found, "edmIsShownBy")
    if url is None:
        return None
    provider = _first(found, "dataProvider")
    said = {"id": found.get("id"), "provider": provider, "country": _first(found, "country")}
    return Item(
        url,
        page=_first(found, "edmIsShownAt") or found.get("guid"),
        author=_first(found, "dcCreator"),
        license_url=_first(found, "rights"),
        title=_first(found, "title"),
        said=json.dumps({name: value for name, value in said.items() if value}, ensure_ascii=False),
    )


def _first(found: Mapping[str, Any], name: str) -> str | None:
    """The first of a field's values, most of which are lists."""
    value = found.get(name)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) and value else None
