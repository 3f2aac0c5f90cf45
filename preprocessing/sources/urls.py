"""A list of URLs, fetched over HTTP: a file of this machine, of the web, of S3 or of Hugging Face.

Tables have a column `url`, and may have license, license_url, author, title, page and sha256, by these names or others;
other columns are ignored. Not here: how a list is read (`preprocessing.sources.lists`), how a URL is fetched
(`preprocessing.crawl`), and searching for photographs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, field_validator

from preprocessing.crawl.fetch import FetchConfig
from preprocessing.records import Item
from preprocessing.sources.access import Access
from preprocessing.sources.lists import check_list, opened_list
from preprocessing.sources.metadata import KEYS, item_from_row
from preprocessing.sources.web import Web
from storage.config import Config
from storage.errors import SourceError

logger = logging.getLogger(__name__)

COLUMNS = ("url", *KEYS)


class UrlsConfig(Config):
    """Lists of URLs."""

    columns: dict[str, str] = Field(
        default={}, description="The list's own names of columns, such as `--sources.urls.columns.url link`."
    )

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        columns = {name.replace("-", "_"): value for name, value in columns.items()}
        if unknown := sorted(columns.keys() - set(COLUMNS)):
            raise ValueError(f"{unknown[0]} is none of {', '.join(COLUMNS)}")
        return columns


@dataclass(frozen=True)
class UrlSource(Web):
    """The photographs at the URLs that the list at `place` has, a path or a URL."""

    place: str
    config: UrlsConfig
    access: Access
    kind: ClassVar[str] = "urls"

    @classmethod
    def open(
        cls, place: str, fetch: FetchConfig, config: UrlsConfig | None = None, access: Access | None = None
    ) -> UrlSource:
        """The source of the list at `place`; SourceError where there is none, or of an unknown format."""
        return cls(fetch, check_list(place), config or UrlsConfig(), access or Access(fetch))

    def __getstate__(self) -> dict[str, Any]:
        """Without what listing alone needs: where photographs are fetched, nothing is listed."""
        return {**vars(self), "access": Access(self.fetch)}

    def description(self) -> dict[str, Any]:
        """The kind, and the rules by which photographs are refused."""
        return {"kind": self.kind, "fetch": self.web_rules()}

    def items(self, limit: int | None = None) -> list[Item]:
        """Every URL once, in the list's order, or the first so many."""
        known: dict[str, Item] = {}
        num_repeated = 0
        with opened_list(self.place, self.config.columns, self.access) as listed:
            for where, row in listed.rows():
                url = _url(row, where)
                item = item_from_row(_ref(url), row, where)
                if item.ref != url:
                    self._listed[item.ref] = url
                first = known.setdefault(item.ref, item)
                if first != item:
                    place = next(place for place, row in listed.rows() if _ref(_url(row, place)) == item.ref)
                    raise SourceError(f"{where} and {place} say different things about {item.ref}")
                num_repeated += first is not item
        if num_repeated:
            logger.warning("%s lists %d URLs more than once; each is taken once", self.place, num_repeated)
        return list(known.values())[:limit]


def _ref(url: str) -> str:
    """A URL as records hold it: as it was given, but for user and password, and what is no Unicode text."""
    scheme, slashes, rest = url.partition("//")
    authority = re.match(r"[^/?#]*", rest)
    assert authority is not None
    if slashes and "@" in authority[0]:
        url = scheme + slashes + authority[0].rpartition("@")[2] + rest[authority.end() :]
    return url.encode("utf-8", "backslashreplace").decode()


def _url(row: Mapping[str, Any], where: str) -> str:
    url = row.get("url")
    if not isinstance(url, str) or not url.strip():
        raise SourceError(f"{where} lacks its url")
    return url.strip()
