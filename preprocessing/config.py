"""What a build is: one model, which is the Prefect form, the command line and the record.

    config = BuildConfig(source="folder:photos", resolution=256)

Not here: where a build runs (`flows.options`), which never changes a byte of a dataset.
"""

from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import Field

from preprocessing.crawl.blocklist import BlockConfig
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.curation.review import read_verdicts
from preprocessing.curation.settings import CurateConfig
from preprocessing.faces import FacesConfig
from preprocessing.photo.align import AlignConfig
from preprocessing.photo.decode import DecodeConfig
from preprocessing.photo.detect import DetectConfig
from preprocessing.photo.encode import EncodeConfig
from preprocessing.scores.catalogue import SCORES
from preprocessing.scores.score import ScoreConfig
from preprocessing.sources.licenses import LicensesConfig
from preprocessing.sources.settings import SourcesConfig
from storage.config import Config, OneOf
from storage.datasets.dataset import Dataset
from storage.datasets.records import NAME_PATTERN
from storage.errors import ConfigError, NotFoundError
from storage.shards import ShardConfig


class BuildConfig(Config):
    """Photographs in, a dataset version out."""

    source: str = Field(
        "sample:",
        description="folder:PATH, urls:LIST (txt, csv, tsv, jsonl, parquet), congress:, commons:, wikidata:, flickr:, "
        "openverse:, nasa:, smithsonian:, europeana:, loc: (docs/sources.md), or sample: (offline demo).",
    )
    name: str = Field("faces", pattern=f"^{NAME_PATTERN}$", description="The dataset's name in the store.")
    resolution: Annotated[int, OneOf(32, 64, 128, 256, 512, 1024)] = Field(
        256, description="Side of every image, px: 32, 64, 128, 256, 512 or 1024."
    )
    limit: int | None = Field(None, ge=1, description="Take only the first N photographs of the source.")
    sources: SourcesConfig = Field(SourcesConfig(), description="How services are asked for photographs.")
    strict: bool = Field(
        False, description="End where a row of a folder's metadata cannot be understood, and reject no row."
    )
    licenses: LicensesConfig = Field(
        LicensesConfig(), description="Which licences photographs of the web may have."
    )
    fetch: FetchConfig = Field(FetchConfig(), description="How photographs are fetched from the web.")
    block: BlockConfig = Field(BlockConfig(), description="Which photographs must not come in.")
    decode: DecodeConfig = Field(DecodeConfig(), description="What a photograph may be.")
    detect: DetectConfig = Field(DetectConfig(), description="How faces are found.")
    align_mode: Literal["fast", "exact"] = Field(
        "fast", description="exact: FFHQ's crop bit for bit; fast: the same to within 50 dB, and much faster."
    )
    scores: ScoreConfig = Field(ScoreConfig(), description="What is measured of each face.")
    encode: EncodeConfig = Field(EncodeConfig(), description="How crops are stored.")
    curate: CurateConfig = Field(default_factory=CurateConfig, description="Which faces are kept.")
    shard: ShardConfig = Field(ShardConfig(), description="How images are grouped into tars.")

    @property
    def faces(self) -> FacesConfig:
        """What the alignment of one photograph depends on."""
        align = AlignConfig(output_px=self.resolution, mode=self.align_mode)
        return FacesConfig(
            decode=self.decode, detect=self.detect, align=align, scores=self.scores, encode=self.encode
        )

    @property
    def curation(self) -> CurateConfig:
        """The rules as they will run; ConfigError where one needs faces or scores that this build will not have."""
        detect = self.detect.resolved(self.resolution)
        assert detect.min_quad_px is not None
        measured = [
            score.name for score in SCORES if score.measured_by and attrgetter(score.measured_by)(self)
        ]
        return self.curate.resolved(self.resolution, detect.min_quad_px, measured)

    def curation_identity(self) -> dict[str, Any]:
        """What of the rules determines a dataset: verdicts of people by what they say, not by their file's path."""
        identity = self.curation.model_dump(mode="json")
        if identity.pop("reviews") is not None:
            identity["reviews_sha256"] = read_verdicts(self.curate.reviews).digest
        return identity

    def resolved(self) -> dict[str, Any]:
        """The whole config as it will run, every None that has a meaning replaced by it."""
        faces = self.faces.resolved()
        update = {"detect": faces.detect, "curate": self.curation}
        return self.model_copy(update=update).model_dump(mode="json")


def recorded_config(dataset: Dataset) -> BuildConfig:
    """The config of the newest build that gave a version."""
    builds = dataset.builds()
    if not builds:
        raise NotFoundError(
            f"{dataset.reference} has no build record, which would hold its config: build again"
        )
    newest = builds[-1]
    if not newest.config:
        raise ConfigError(f"the record of build {newest.build_id} does not hold its config: build again")
    return BuildConfig.recorded(newest.config, f"the record of build {newest.build_id}")
