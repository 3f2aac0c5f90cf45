"""Portraits of people on Wikidata (P18), whose files are on Wikimedia Commons with their licences.

    wikidata:P106=Q82955             politicians
    wikidata:P106=Q82955,P27=Q183    politicians of Germany

People are asked for by ten years of birth, since one query for all would take too long; those without a date of birth
are not found. P18 depicts the person usually: statues and graves occur.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from urllib.parse import unquote

from pydantic import Field

from preprocessing.crawl.ask import Limits
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.commons import LIMITS as COMMONS_LIMITS
from preprocessing.sources.commons import CommonsConfig, Wiki, commons_quota, files_of
from preprocessing.sources.service import Quota, Service, ServiceSource, polite
from storage.config import Config
from storage.errors import ConfigError, SourceError

LIMITS = Limits(interval_s=1.0, rest_share=1.0, timeout_s=65.0)
"""A client has 60 s of processing a minute: it rests as long as an answer took."""
_CONDITIONS = re.compile(r"P[1-9][0-9]{0,9}=Q[1-9][0-9]{0,11}(?:,P[1-9][0-9]{0,9}=Q[1-9][0-9]{0,11})*")
_ENTITY = re.compile(r"Q[1-9][0-9]*$")


class WikidataConfig(Config):
    """Portraits of people on Wikidata."""

    base_url: str = Field(default="https://query.wikidata.org", description="Of the query service.")
    born_from: int = Field(default=1900, ge=0, le=2100, description="First year of birth.")
    born_to: int = Field(default=2009, ge=0, le=2100, description="Last year of birth.")
    years: int = Field(
        default=10, ge=1, le=100, description="Years of birth of one query; fewer where one takes too long."
    )


@dataclass(frozen=True)
class WikidataSource(ServiceSource):
    """The portraits of people of whom statements hold."""

    config: WikidataConfig
    commons: CommonsConfig
    kind: ClassVar[str] = "wikidata"
    delay_s: ClassVar[float] = 0.1

    @classmethod
    def open(
        cls, argument: str, config: WikidataConfig, commons: CommonsConfig, access: Access
    ) -> WikidataSource:
        """The source; ConfigError for statements that are none."""
        if not _CONDITIONS.fullmatch(argument):
            raise ConfigError(
                f"source wikidata:{argument} is not wikidata:PROPERTY=ITEM, such as P106=Q82955 for politicians"
            )
        fetch = polite(access.fetch, cls.at_once, cls.delay_s / access.speed)
        return cls(fetch, argument, config, access, commons)

    def listed(self) -> Generator[Item, None, None]:
        """Portraits by years of birth, then by person."""
        with Service(self.access, LIMITS) as query, Wiki(self.access, COMMONS_LIMITS) as wiki:
            for start in range(self.config.born_from, self.config.born_to + 1, self.config.years):
                end = min(start + self.config.years, self.config.born_to + 1)
                people: dict[str, str] = {}
                for person, name in self._portraits(query, start, end):
                    people.setdefault(f"File:{name.replace('_', ' ')}", person)
                for item in files_of(wiki, self.commons, people):
                    said = json.loads(item.said or "{}")
                    said["person"] = people.get(said.get("title", ""))
                    item = replace(item, said=json.dumps(said, ensure_ascii=False))
                    yield item

    def quota(self, photographs: int) -> Quota:
        """A query a slice of years, and the details of the files."""
        num = -(-(self.config.born_to + 1 - self.config.born_from) // self.config.years)
        of_files = commons_quota(photographs)
        return Quota(
            photographs,
            num + of_files.requests,
            num * 2 * LIMITS.timeout_s + of_files.seconds,
            "60 s of queries a minute",
        )

    def description(self) -> dict[str, Any]:
        """As of any service, and how wide the files are."""
        files = self.commons.model_dump(mode="json", exclude_defaults=True)
        return super().description() | ({"commons": files} if files else {})

    def _portraits(self, query: Service, start: int, end: int) -> list[tuple[str, str]]:
        """People of some years and the names of their files, by person: a query has no order of its own."""
        statements = " ".join(
            f"?person wdt:{statement.replace('=', ' wd:')} ." for statement in self.argument.split(",")
        )
        sparql = (
            f"SELECT ?person ?image WHERE {{ {statements} ?person wdt:P31 wd:Q5 ; wdt:P18 ?image ; wdt:P569 ?born . "
            f'FILTER(?born >= "{start:04}-01-01T00:00:00Z"^^xsd:dateTime && '
            f'?born < "{end:04}-01-01T00:00:00Z"^^xsd:dateTime) }}'
        )
        url = f"{self.config.base_url}/sparql"
        body = query.get(url, {"format": "json", "query": sparql})
        try:
            rows = [(row["person"]["value"], row["image"]["value"]) for row in body["results"]["bindings"]]
        except (KeyError, TypeError):
            raise SourceError(f"{url} answers without results") from None
        found = set()
        for person, image in rows:
            entity = _ENTITY.search(person)
            if entity and "/Special:FilePath/" in image:
                found.add((entity[0], unquote(image.partition("/Special:FilePath/")[2])))
        return sorted(found, key=lambda pair: (int(pair[0][1:]), pair[1]))
