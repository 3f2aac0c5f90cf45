"""The Library of Congress: photographs of a search.

    loc:harris ewing portrait

A photograph's rights stand on its own page, so each costs a request. "No known restrictions on publication." is the
family NKC, which `--licenses.allow commercial` has and the default does not. Most photographs are grey.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from preprocessing.crawl.ask import Limits
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.service import Quota, Service, ServiceSource
from storage.config import Config
from storage.errors import ConfigError, SourceError

logger = logging.getLogger(__name__)

LIMITS = Limits(interval_s=1.0)
"""80 searches a minute, and 10 items in 10 s: who asks more is shut out for an hour."""
PER_PAGE = 100
MOST = 100_000
"""Results beyond which a search is not answered."""


class LocConfig(Config):
    """Photographs of the Library of Congress."""

    base_url: str = Field(default="https://www.loc.gov", description="Of the site.")
    dates: str | None = Field(
        default=None, pattern=r"^[0-9]{4}/[0-9]{4}$", description="Years, such as 1910/1919; unset: all."
    )


@dataclass(frozen=True)
class LocSource(ServiceSource):
    """The photographs of a search."""

    config: LocConfig
    kind: ClassVar[str] = "loc"
    at_once: ClassVar[int] = 1
    delay_s: ClassVar[float] = 0.25

    @classmethod
    def open(cls, argument: str, config: LocConfig, access: Access) -> LocSource:
        """The source; ConfigError where nothing is looked for."""
        if not argument.strip():
            raise ConfigError("source loc: lacks what to look for: loc:WORDS")
        return cls.of(argument, config, access)

    def listed(self) -> Generator[Item, None, None]:
        """Photographs in the order of the search."""
        asked: dict[str, str | int] = {
            "q": self.argument,
            "fo": "json",
            "c": PER_PAGE,
            "fa": "online-format:image|access-restricted:false",
            "at": "results,pagination",
        }
        if self.config.dates:
            asked["dates"] = self.config.dates
        with Service(self.access, LIMITS) as service:
            for number in range(1, MOST // PER_PAGE + 1):
                body = service.get(f"{self.config.base_url}/photos/", {**asked, "sp": number})
                if not isinstance(body.get("results"), list):
                    raise SourceError("loc answers without results")
                for result in body["results"]:
                    path = urlsplit(str(result.get("id") or "")).path
                    if path.startswith("/item/"):
                        url = f"{self.config.base_url}{path}"
                        about = service.get(url, {"fo": "json", "at": "item,resources"})
                        if (item := _item(about.get("item") or {}, url)) is not None:
                            yield item
                if not (body.get("pagination") or {}).get("next"):
                    return
        logger.warning("loc gives no more than %d photographs of a search", MOST)

    def quota(self, photographs: int) -> Quota:
        """A request a page, and one a photograph."""
        num = -(-photographs // PER_PAGE) + photographs
        return Quota(photographs, num, max(num - 1, 0) * LIMITS.interval_s, "10 items in 10 s")


def _item(about: Mapping[str, Any], url: str) -> Item | None:
    """The photograph of an item's page; None where none may be seen."""
    images = [image for image in about.get("image_url") or () if isinstance(image, str)]
    if not images or about.get("access_restricted"):
        return None
    rights = _text(about.get("rights_information")) or _text(about.get("rights"))
    said = {"rights": _text(about.get("rights")), "rights_advisory": _text(about.get("rights_advisory"))}
    image = images[-1].partition("#")[0]  # sizes ascend
    return Item(
        f"https:{image}" if image.startswith("//") else image,
        page=url,
        author=_text(about.get("contributor_names")),
        license=rights,
        title=_text(about.get("title")),
        said=json.dumps({name: value for name, value in said.items() if value}, ensure_ascii=False),
    )


def _text(value: Any) -> str | None:
    """A text, or the first of several."""
    value = value[0] if isinstance(value, list) and value else value
    return value.strip() or None if isinstance(value, str) else None
