"""Portraits of members of the United States Congress: public domain, without a key.

    congress:              who sits now, some 540 people
    congress:historical    who sat before
    congress:all           both

The project unitedstates/images collects the portraits of the Government Publishing Office, which assures that they
are in the public domain. Not every member has one: a 404 is normal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from preprocessing.crawl.ask import Limits
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.service import Quota, Service, ServiceSource
from storage.config import Config
from storage.errors import ConfigError, SourceError

PERIODS = {
    "": ("current",),
    "current": ("current",),
    "historical": ("historical",),
    "all": ("current", "historical"),
}
LIMITS = Limits(interval_s=1.0)
AUTHOR = "United States Government Publishing Office"
_ID = re.compile(r"[A-Z][0-9]{6}")


class CongressConfig(Config):
    """Portraits of members of Congress."""

    base_url: str = Field(
        default="https://unitedstates.github.io", description="Where lists and portraits are."
    )
    size: Literal["original", "450x550", "225x275"] = Field(
        default="original", description="original is mostly 675x825."
    )


@dataclass(frozen=True)
class CongressSource(ServiceSource):
    """The portraits of a period."""

    config: CongressConfig
    kind: ClassVar[str] = "congress"
    at_once: ClassVar[int] = 1

    @classmethod
    def open(cls, argument: str, config: CongressConfig, access: Access) -> CongressSource:
        """The source; ConfigError for a period that is none."""
        if argument not in PERIODS:
            raise ConfigError(
                f"source congress:{argument} is none of {', '.join(f'congress:{p}' for p in PERIODS)}"
            )
        return cls.of(argument, config, access)

    def listed(self) -> Generator[Item, None, None]:
        """Members by period, in the order of their list."""
        with Service(self.access, LIMITS) as service:
            for period in PERIODS[self.argument]:
                url = f"{self.config.base_url}/congress-legislators/legislators-{period}.json"
                members = service.get(url)
                if not isinstance(members, list):
                    raise SourceError(f"{url} is no list of members")
                for member in members:
                    if (item := self._item(member)) is not None:
                        yield item

    def quota(self, photographs: int) -> Quota:
        """One list a period."""
        num = len(PERIODS[self.argument])
        return Quota(photographs, num, (num - 1) * LIMITS.interval_s, "one request at a time")

    def _item(self, member: Any) -> Item | None:
        try:
            bioguide, name = member["id"]["bioguide"], member["name"]
            title = name.get("official_full") or f"{name['first']} {name['last']}"
        except (KeyError, TypeError, AttributeError):
            return None
        if not (isinstance(bioguide, str) and _ID.fullmatch(bioguide)):
            return None
        return Item(
            f"{self.config.base_url}/images/congress/{self.config.size}/{bioguide}.jpg",
            page=f"https://bioguide.congress.gov/search/bio/{bioguide}",
            author=AUTHOR,
            license="PDM-1.0",
            title=str(title),
            said=json.dumps(
                {"license": "https://github.com/unitedstates/images#readme", "bioguide": bioguide}
            ),
        )
