"""A list of URLs, fetched over HTTP: a file of this machine, of the web, of S3 or of Hugging Face.

Tables have a column `url`, and may have license, license_url, author, title, page and sha256, by these names or others;
other columns are ignored. A line that cannot be understood is an item of its own that is rejected, so that it is
counted and named. Not here: how a list is read (`preprocessing.sources.lists`), how a URL is fetched
(`preprocessing.crawl`), and searching for photographs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, ClassVar

from pydantic import Field, field_validator

from preprocessing.crawl.fetch import FetchConfig
from preprocessing.crawl.urls import WebAddress
from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason, Rejected
from preprocessing.sources.access import Access
from preprocessing.sources.lists import check_list, opened_list
from preprocessing.sources.metadata import KEYS, item_from_row
from preprocessing.sources.web import Web
from storage.config import Config
from storage.errors import SourceError
from storage.wording import numbered

logger = logging.getLogger(__name__)

COLUMNS = ("url", *KEYS)
_LONGEST_DETAIL = 500


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
    # By ref, which is the list's name and the line's number.
    _wrong: dict[str, Rejection] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

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
        """Every URL once, in the list's order, or the first so many; then the lines that cannot be understood.

        SourceError where no line can.
        """
        known: dict[str, Item] = {}
        num_repeated = 0
        self._wrong.clear()
        name = re.split(r"[?#]", self.place, maxsplit=1)[0] if "://" in self.place else self.place
        with opened_list(self.place, self.config.columns, self.access) as listed:
            for number, row in listed.rows():
                try:
                    if isinstance(row, str):
                        raise SourceError(row)
                    url = _url(row)
                    item = item_from_row(_ref(url), row, "")
                    first = known.setdefault(item.ref, item)
                    if first != item:
                        raise SourceError(f"says other things about {item.ref} than a line before")
                except SourceError as error:
                    ref = _recordable(f"{PurePath(name).name}:{number}")
                    why = _recordable(str(error).lstrip(": "))[:_LONGEST_DETAIL]
                    self._wrong[ref] = Rejection(ref, Reason.BAD_METADATA, detail=why)
                    continue
                if item.ref != url:
                    self._listed[item.ref] = url
                num_repeated += first is not item
        if self._wrong and not known:
            raise SourceError(f"list of URLs {self.place} has no line that is one: {self.problems[0]}")
        if self._wrong:
            found = numbered(len(self._wrong), "line")
            logger.warning("%s of %s cannot be understood: %s", found, self.place, self.problems[0])
        if num_repeated:
            logger.warning(
                "%s lists %s more than once; each is taken once", self.place, numbered(num_repeated, "URL")
            )
        return [*list(known.values())[:limit], *map(Item, self._wrong)]

    @property
    def problems(self) -> list[str]:
        """What was found wrong with lines when items were listed, a sentence each."""
        return [f"{wrong.ref} {wrong.detail}" for wrong in self._wrong.values()]

    def refused(self, item: Item) -> Rejection | None:
        """Why an item that stands for a line is none; None of an address."""
        return self._wrong.get(item.ref)

    def address(self, item: Item) -> WebAddress:
        """As of `Web`; `Rejected` of a line that has none."""
        if wrong := self._wrong.get(item.ref):
            raise Rejected(wrong.reason, wrong.detail)
        return super().address(item)


def _ref(url: str) -> str:
    """A URL as records hold it: as it was given, but for user and password, and what is no Unicode text."""
    if "@" not in url and url.isascii():
        return url
    scheme, slashes, rest = url.partition("//")
    authority = re.match(r"[^/?#]*", rest)
    assert authority is not None
    if slashes and "@" in authority[0]:
        url = scheme + slashes + authority[0].rpartition("@")[2] + rest[authority.end() :]
    return _recordable(url)


def _recordable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _url(row: Mapping[str, Any]) -> str:
    url = row.get("url")
    if not isinstance(url, str) or not url.strip():
        raise SourceError("lacks its url")
    return url.strip()
