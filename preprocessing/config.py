"""What a build is: one model, which is the Prefect form, the command line and the record.

    config = BuildConfig(source="folder:photos", resolution=256)

Not here: where a build runs (`flows.options`), which never changes a byte of a dataset.
"""

from operator import attrgetter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from preprocessing.crawl.blocklist import BlockConfig
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.curation.choose import columns_to_judge
from preprocessing.curation.review import read_verdicts
from preprocessing.curation.settings import PRESETS, CurateConfig
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
from storage.datasets.splits import Kinship, SplitsText
from storage.errors import ConfigError, NotFoundError
from storage.shards import ShardConfig

SAME_PICTURE_BITS: int = PRESETS["lenient"]["pdq_max_distance"]
"""What splits take for one picture where curation keeps near-duplicates."""


class BuildConfig(Config):
    """Photographs in, a dataset version out."""

    source: str = Field(
        "sample:",
        description="folder:PATH, urls:LIST (txt, csv, tsv, jsonl, parquet), congress:, commons:, wikidata:, flickr:, "
        "openverse:, nasa:, smithsonian:, europeana:, loc: (docs/sources.md), import:PATH (aligned faces), or sample: "
        "(offline demo).",
    )
    name: str = Field("faces", pattern=f"^{NAME_PATTERN}$", description="The dataset's name in the store.")
    resolution: Annotated[int, OneOf(32, 64, 128, 256, 512, 1024)] = Field(
        256, description="Side of every image, px: 32, 64, 128, 256, 512 or 1024."
    )
    limit: int | None = Field(None, ge=1, description="Take only the first N photographs of the source.")
    sources: SourcesConfig = Field(SourcesConfig(), description="How services are asked for photographs.")
    strict: bool = Field(
        False,
        description="End where a row of a folder's metadata, or of a list, cannot be understood, and reject no row.",
    )
    licenses: LicensesConfig = Field(
        LicensesConfig(), description="Which licences photographs of the web may have."
    )
    fetch: FetchConfig = Field(FetchConfig(), description="How photographs are fetched from the web.")
    block: BlockConfig = Field(BlockConfig(), description="Which photographs must not come in.")
    decode: DecodeConfig = Field(DecodeConfig(), description="What a photograph may be.")
    detect: DetectConfig = Field(DetectConfig(), description="How faces are found.")
    aligned: bool = Field(
        False,
        description="Photographs are aligned faces of the resolution already, and kept as they are: none is looked "
        "for, nothing is measured, and curate.preset is none.",
    )
    align_mode: Literal["fast", "exact"] = Field(
        "fast", description="exact: FFHQ's crop bit for bit; fast: the same to within 50 dB, and much faster."
    )
    scores: ScoreConfig = Field(ScoreConfig(), description="What is measured of each face.")
    encode: EncodeConfig = Field(EncodeConfig(), description="How crops are stored.")
    curate: CurateConfig = Field(default_factory=CurateConfig, description="Which faces are kept.")
    shard: ShardConfig = Field(ShardConfig(), description="How images are grouped into tars.")
    splits: SplitsText | None = Field(
        None,
        description="Splits and their shares, such as train=0.9,val=0.05,test=0.05. Images of one photograph, picture "
        "or, with scores.embedding, person stay together, in the last of the splits that they would have.",
    )
    split_identity_distance: float = Field(
        0.45,
        gt=0,
        le=2,
        description="With splits and scores.embedding: faces no further apart are one person. From "
        "0.5 on chains of strangers join.",
    )

    @property
    def faces(self) -> FacesConfig:
        """What the alignment of one photograph depends on."""
        align = AlignConfig(output_px=self.resolution, mode=self.align_mode)
        return FacesConfig(
            decode=self.decode, detect=self.detect, align=align, scores=self.scores, encode=self.encode
        )

    def faces_identity(self) -> dict[str, Any]:
        """What determines the faces of a photograph, and their bytes, as JSON."""
        if self.aligned:
            return {
                "aligned": True,
                "encode": self.encode.model_dump(mode="json"),
                "side_px": self.resolution,
            }
        return self.faces.identity()

    @model_validator(mode="after")
    def _measures_nothing_of_aligned(self) -> Self:
        if self.aligned and self.curate.preset != "none":
            raise ValueError(
                f"aligned faces are not measured, so that curate.preset cannot be {self.curate.preset}: it is none"
            )
        return self

    @property
    def curation(self) -> CurateConfig:
        """The rules as they will run; ConfigError where one needs faces or scores that this build will not have."""
        detect = self.detect.resolved(self.resolution)
        assert detect.min_quad_px is not None
        measured = [
            score.name
            for score in SCORES
            if score.measured_by and attrgetter(score.measured_by)(self) and not self.aligned
        ]
        return self.curate.resolved(self.resolution, detect.min_quad_px, measured)

    def curation_identity(self) -> dict[str, Any]:
        """What of the rules determines a dataset: verdicts of people by what they say, not by their file's path."""
        identity = self.curation.model_dump(mode="json")
        if identity.pop("reviews") is not None:
            identity["reviews_sha256"] = read_verdicts(self.curate.reviews).digest
        return identity

    @property
    def kinship(self) -> Kinship | None:
        """What splits keep together; None where there are no splits."""
        if self.splits is None:
            return None
        distance = self.curate.pdq_max_distance
        return Kinship(
            of=self.splits,
            pdq_max_distance=SAME_PICTURE_BITS if distance is None else distance,
            min_pdq_quality=self.curate.min_pdq_quality,
            identity_max_distance=self.split_identity_distance if self.scores.embedding else None,
        )

    def columns_to_judge(self) -> list[str]:
        """The columns of a face that curation and splits look at."""
        columns = columns_to_judge(self.curation)
        embeds = self.splits is not None and self.scores.embedding and "embedding" not in columns
        return [*columns, *(["embedding"] if embeds else [])]

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
