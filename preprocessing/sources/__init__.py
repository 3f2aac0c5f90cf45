"""Where photographs come from: one protocol, and one function from what a user types to a source.

    folder:PATH             a local folder              urls:LIST     a list of addresses to fetch
    sample:                 the embedded demo           congress:     portraits of members of Congress
    commons:CATEGORY        Wikimedia Commons           wikidata:     portraits of people
    flickr:, openverse:     searches                    nasa:, smithsonian:, europeana:, loc:    collections
    import:PATH             aligned faces, as other programs keep them

A package adds another kind by an entry point of the group `likeness.sources`: its name is the kind, and what it names
is called with the argument and an `Access`, and gives a `Source`. Not here: faces, and any store of what was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol, runtime_checkable

from preprocessing.crawl.fetch import FetchConfig
from preprocessing.crawl.urls import WebAddress
from preprocessing.records import Item, Rejection
from preprocessing.sources.access import Access
from preprocessing.sources.commons import CommonsSource
from preprocessing.sources.congress import CongressSource
from preprocessing.sources.europeana import EuropeanaSource
from preprocessing.sources.flickr import FlickrSource
from preprocessing.sources.folder import FolderSource
from preprocessing.sources.imported import ImportedSource
from preprocessing.sources.loc import LocSource
from preprocessing.sources.nasa import NasaSource
from preprocessing.sources.openverse import OpenverseSource
from preprocessing.sources.sample import SampleSource
from preprocessing.sources.service import Quota
from preprocessing.sources.settings import SourcesConfig
from preprocessing.sources.smithsonian import SmithsonianSource
from preprocessing.sources.urls import UrlSource
from preprocessing.sources.wikidata import WikidataSource
from storage.errors import ConfigError

KINDS = (
    "folder:PATH",
    "urls:LIST",
    "congress:",
    "commons:Category:NAME",
    "commons:WORDS",
    "wikidata:PROPERTY=ITEM",
    "flickr:WORDS",
    "openverse:WORDS",
    "nasa:WORDS",
    "smithsonian:WORDS",
    "europeana:WORDS",
    "loc:WORDS",
    "import:PATH",
    "sample:",
    "sample:N",
)
GROUP = "likeness.sources"
"""The entry points by which other packages add kinds."""


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


@runtime_checkable
class AskingSource(WebSource, Protocol):
    """A source that asks a service for its list, and knows beforehand how long that takes."""

    def quota(self, photographs: int) -> Quota:
        """What listing so many photographs asks of the service, about."""
        ...


def open_source(
    spec: str,
    fetch: FetchConfig,
    sources: SourcesConfig | None = None,
    access: Access | None = None,
) -> Source:
    """The source that `spec` names, such as `folder:photos`; ConfigError or SourceError where it names none.

    `fetch` counts, whatever the `access` has.
    """
    kind, colon, argument = spec.partition(":")
    access, sources = replace(access or Access(), fetch=fetch), sources or SourcesConfig()
    match kind if colon else "":
        case "sample":
            return SampleSource.parse(argument)
        case "folder" | "urls" if not argument:
            raise ConfigError(f"source {spec!r} lacks its path: {kind}:PATH")
        case "folder":
            return FolderSource.open(argument, reject_synthetic=fetch.reject_synthetic)
        case "urls":
            return UrlSource.open(argument, fetch, sources.urls, access)
        case "import":
            return ImportedSource.open(argument, reject_synthetic=fetch.reject_synthetic)
        case "congress":
            return CongressSource.open(argument, sources.congress, access)
        case "commons":
            return CommonsSource.open(argument, sources.commons, access)
        case "wikidata":
            return WikidataSource.open(argument, sources.wikidata, sources.commons, access)
        case "flickr":
            return FlickrSource.open(argument, sources.flickr, access)
        case "openverse":
            return OpenverseSource.open(argument, sources.openverse, access)
        case "nasa":
            return NasaSource.open(argument, sources.nasa, access)
        case "europeana":
            return EuropeanaSource.open(argument, sources.europeana, access)
        case "loc":
            return LocSource.open(argument, sources.loc, access)
        case "smithsonian":
            return SmithsonianSource.open(argument, sources.smithsonian, access)
    added = entry_points(group=GROUP)
    if colon and kind in added.names:
        return _added(added[kind], argument, access)
    names = [*KINDS, *(f"{name}:" for name in sorted(added.names))]
    raise ConfigError(f"source {spec!r} is none of {', '.join(names)}")


def _added(entry: EntryPoint, argument: str, access: Access) -> Source:
    """The source of a plug-in."""
    try:
        source: Source = entry.load()(argument, access)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"source {entry.name}: is of {entry.value}, which cannot be loaded: {error}"
        ) from error
    return source
