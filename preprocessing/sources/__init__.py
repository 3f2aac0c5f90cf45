"""Where photographs come from: one protocol, and one function from what a user types to a source.

`folder:PATH` is a local folder, `urls:FILE` a list of addresses to fetch, `sample:` the embedded demo. Not here:
faces, and any store of what was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from preprocessing.crawl.fetch import FetchConfig
from preprocessing.crawl.urls import WebAddress
from preprocessing.records import Item, Rejection
from preprocessing.sources.folder import FolderSource
from preprocessing.sources.sample import SampleSource
from preprocessing.sources.urls import UrlSource
from storage.errors import ConfigError

KINDS = ("folder:PATH", "urls:FILE", "sample:", "sample:N")


class Source(Protocol):
    """A collection of photographs; cheap to make and to pickle, since each worker gets its own."""

    kind: ClassVar[str]

    def description(self) -> dict[str, Any]:
        """What determines the photographs, as JSON and without absolute paths: for the manifest."""
        ...

    def items(self, limit: int | None = None) -> list[Item]:
        """Every photograph, or the first so many, its metadata included; no bytes are read.

        The order depends on nothing else. Where listing costs requests, no more are made than `limit` needs.
        """
        ...

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes] | Rejection]:
        """The bytes of each item or why they cannot be had; in order, but where they come over a network."""
        ...


@runtime_checkable
class WebSource(Source, Protocol):
    """A source whose photographs come over a network, from addresses that the ledger knows them by.

    Bytes once fetched are kept, and not asked for again.
    """

    fetch: FetchConfig

    def address(self, item: Item) -> WebAddress:
        """Where the photograph of an item is to be had; raises `Rejected` where that is no address."""
        ...


def open_source(spec: str, fetch: FetchConfig) -> Source:
    """The source that `spec` names, such as `folder:photos`; ConfigError or SourceError where it names none."""
    kind, colon, argument = spec.partition(":")
    if not colon or kind not in ("folder", "urls", "sample"):
        raise ConfigError(f"source {spec!r} is none of {', '.join(KINDS)}")
    if kind == "sample":
        return SampleSource.parse(argument)
    if not argument:
        raise ConfigError(f"source {spec!r} lacks its path: {kind}:PATH")
    return FolderSource.open(argument) if kind == "folder" else UrlSource.open(argument, fetch)
