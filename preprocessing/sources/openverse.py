"""Openverse: small targeted searches over many collections; the photographs are fetched from where they are.

    openverse:portrait of a firefighter

Its terms are for discovery and not for harvest: without a token a search ends at 240 results, with one at 20 pages. A
token comes by OPENVERSE_CLIENT_ID and OPENVERSE_CLIENT_SECRET, which Openverse gives to who registers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from preprocessing.crawl.ask import Limits
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.service import Quota, Service, ServiceSource
from storage.config import Config, comma_separated
from storage.errors import ConfigError, SourceError

logger = logging.getLogger(__name__)

ANONYMOUS = Limits(interval_s=3.0, per_day=200)
"""20 requests a minute, and 200 a day."""
SIGNED_IN = Limits(interval_s=0.6, per_day=10_000)
"""100 requests a minute, and 10,000 a day."""
ANONYMOUS_PAGE, SIGNED_IN_PAGE = 20, 50
MOST_ANONYMOUS = 240
MOST_PAGES = 20
CLIENT_ID, CLIENT_SECRET = "OPENVERSE_CLIENT_ID", "OPENVERSE_CLIENT_SECRET"
_CODES = {
    "CC0": "cc0",
    "PDM": "pdm",
    "CC-BY": "by",
    "CC-BY-SA": "by-sa",
    "CC-BY-NC": "by-nc",
    "CC-BY-NC-SA": "by-nc-sa",
}
"""Openverse's names of the families that it has."""


class OpenverseConfig(Config):
    """Searches of Openverse."""

    base_url: str = Field(default="https://api.openverse.org", description="Of the API.")
    collections: Annotated[tuple[str, ...], BeforeValidator(comma_separated)] = Field(
        default=(), description="Collections that are searched, such as flickr,wikimedia; unset: all."
    )


@dataclass(frozen=True)
class OpenverseSource(ServiceSource):
    """The photographs of a search."""

    config: OpenverseConfig
    kind: ClassVar[str] = "openverse"

    @classmethod
    def open(cls, argument: str, config: OpenverseConfig, access: Access) -> OpenverseSource:
        """The source; ConfigError where nothing is looked for."""
        if not argument.strip():
            raise ConfigError("source openverse: lacks what to look for: openverse:WORDS")
        return cls.of(argument, config, access)

    def listed(self) -> Generator[Item, None, None]:
        """Photographs in the order of the search, as far as it goes."""
        codes = [_CODES[name] for name in sorted(self.access.licenses.families & _CODES.keys())]
        if not codes:
            raise ConfigError(f"openverse has none of --licenses.allow: it has {', '.join(_CODES)}")
        asked: dict[str, str | int] = {
            "q": self.argument,
            "license": ",".join(codes),
            "category": "photograph",
            "mature": "false",
        }
        if self.config.collections:
            asked["source"] = ",".join(self.config.collections)
        is_signed_in = self._is_signed_in()
        page_size = SIGNED_IN_PAGE if is_signed_in else ANONYMOUS_PAGE
        num_pages = MOST_PAGES if is_signed_in else MOST_ANONYMOUS // ANONYMOUS_PAGE
        with self._service() as openverse:
            for number in range(1, num_pages + 1):
                body = openverse.get(
                    f"{self.config.base_url}/v1/images/", {**asked, "page": number, "page_size": page_size}
                )
                results = body.get("results") if isinstance(body, dict) else None
                if not isinstance(results, list):
                    raise SourceError("openverse answers without results")
                for result in results:
                    if (item := _item(result)) is not None:
                        yield item
                if number >= int(body.get("page_count") or 0):
                    return
        logger.warning("openverse gives no more than %d photographs of a search", num_pages * page_size)

    def quota(self, photographs: int) -> Quota:
        """A request a page."""
        page_size, limits, rule = (
            ANONYMOUS_PAGE,
            ANONYMOUS,
            "20 requests a minute and 200 a day without a token",
        )
        most = MOST_ANONYMOUS
        if self._is_signed_in():
            page_size, limits, rule = SIGNED_IN_PAGE, SIGNED_IN, "100 requests a minute and 10,000 a day"
            most = MOST_PAGES * SIGNED_IN_PAGE
        photographs = min(photographs, most)
        num = -(-photographs // page_size)
        return Quota(photographs, num, max(num - 1, 0) * limits.interval_s, rule)

    def _is_signed_in(self) -> bool:
        return bool(self.access.secret(CLIENT_ID) and self.access.secret(CLIENT_SECRET))

    def _service(self) -> Service:
        if not self._is_signed_in():
            return Service(self.access, ANONYMOUS)
        form = {
            "grant_type": "client_credentials",
            "client_id": self.access.secret(CLIENT_ID) or "",
            "client_secret": self.access.secret(CLIENT_SECRET) or "",
        }
        with Service(self.access, SIGNED_IN) as openverse:
            body = openverse.post(f"{self.config.base_url}/v1/auth_tokens/token/", form)
        token = body.get("access_token") if isinstance(body, dict) else None
        if not isinstance(token, str):
            raise SourceError("openverse gives no token for OPENVERSE_CLIENT_ID")
        return Service(self.access, SIGNED_IN, headers={"Authorization": f"Bearer {token}"})


def _item(result: Mapping[str, Any]) -> Item | None:
    url = result.get("url")
    if not isinstance(url, str):
        return None
    code, version = str(result.get("license") or ""), result.get("license_version")
    name = {"cc0": "CC0", "pdm": "PDM"}.get(code, f"CC {code}" if code else "")
    names = ("id", "source", "provider", "attribution")
    said = {name: result[name] for name in names if result.get(name)}
    return Item(
        url,
        page=result.get("foreign_landing_url"),
        author=result.get("creator") or None,
        license=" ".join([name, *([str(version)] if version else [])]) or None,
        license_url=result.get("license_url") or None,
        title=result.get("title") or None,
        said=json.dumps(said, ensure_ascii=False),
    )
