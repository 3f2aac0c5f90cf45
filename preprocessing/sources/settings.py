"""The settings of all sources that have some, each beside what it configures."""

from pydantic import Field

from preprocessing.sources.commons import CommonsConfig
from preprocessing.sources.congress import CongressConfig
from preprocessing.sources.europeana import EuropeanaConfig
from preprocessing.sources.flickr import FlickrConfig
from preprocessing.sources.loc import LocConfig
from preprocessing.sources.nasa import NasaConfig
from preprocessing.sources.openverse import OpenverseConfig
from preprocessing.sources.smithsonian import SmithsonianConfig
from preprocessing.sources.urls import UrlsConfig
from preprocessing.sources.wikidata import WikidataConfig
from storage.config import Config


class SourcesConfig(Config):
    """How the sources that have settings are asked; only those of the source that is named count."""

    urls: UrlsConfig = Field(UrlsConfig(), description="Lists of URLs.")
    congress: CongressConfig = Field(CongressConfig(), description="Portraits of members of Congress.")
    commons: CommonsConfig = Field(CommonsConfig(), description="Wikimedia Commons.")
    wikidata: WikidataConfig = Field(WikidataConfig(), description="Portraits of people on Wikidata.")
    flickr: FlickrConfig = Field(FlickrConfig(), description="Flickr.")
    openverse: OpenverseConfig = Field(OpenverseConfig(), description="Openverse.")
    nasa: NasaConfig = Field(NasaConfig(), description="NASA's image library.")
    europeana: EuropeanaConfig = Field(EuropeanaConfig(), description="Europeana.")
    loc: LocConfig = Field(LocConfig(), description="Library of Congress.")
    smithsonian: SmithsonianConfig = Field(SmithsonianConfig(), description="Smithsonian Open Access.")
