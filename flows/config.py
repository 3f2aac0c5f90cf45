"""What a build is, and where work runs: two models, so that only the first can change a byte of a dataset.

`BuildConfig` is the Prefect form, the command line and the record; `RunOptions` never enters a version.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from preprocessing.align import AlignConfig
from preprocessing.curate import CurateConfig
from preprocessing.decode import DecodeConfig
from preprocessing.detect import DetectConfig
from preprocessing.encode import EncodeConfig
from preprocessing.faces import FacesConfig
from preprocessing.fetch import FetchConfig
from preprocessing.scores import ScoreConfig
from storage.config import Config, OneOf
from storage.datasets.dataset import NAME_PATTERN
from storage.shards import ShardConfig


class BuildConfig(Config):
    """Photographs in, a dataset version out."""

    source: str = Field(
        "sample:", description="folder:PATH, urls:FILE (txt, csv, jsonl, parquet), or sample: (offline demo)."
    )
    name: str = Field("faces", pattern=f"^{NAME_PATTERN}$", description="The dataset's name in the store.")
    resolution: Annotated[int, OneOf(32, 64, 128, 256, 512, 1024)] = Field(
        256, description="Side of every image, px: 32, 64, 128, 256, 512 or 1024."
    )
    limit: int | None = Field(None, ge=1, description="Take only the first N photographs of the source.")
    fetch: FetchConfig = Field(FetchConfig(), description="How photographs are fetched from the web.")
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
        return self.curate.resolved(
            self.resolution,
            detect.min_quad_px,
            measures_filter_score=self.scores.filter_model is not None,
            measures_embedding=self.scores.embedding,
        )

    def resolved(self) -> dict[str, Any]:
        """The whole config as it will run, every None that has a meaning replaced by it."""
        faces = self.faces.resolved()
        update = {"detect": faces.detect, "curate": self.curation}
        return self.model_copy(update=update).model_dump(mode="json")


class StoreOptions(Config):
    """Where everything is kept; nothing here or below changes a result."""

    store: Path = Field(Path("./store"), description="Folder that holds photographs, datasets and runs.")


class RunOptions(StoreOptions):
    """Where work runs."""

    workers: int | None = Field(
        None,
        ge=1,
        description="Processes that build, or threads that decode for training; unset: one a core, at most 4 threads.",
    )


class BuildOptions(RunOptions):
    """Where a build runs."""

    scheduler: str | None = Field(
        None, description="Address of a running Dask scheduler; unset starts local worker processes."
    )
    chunk_size: int = Field(64, ge=1, le=10_000, description="Photographs in one unit of work and of retry.")
    refetch: bool = Field(False, description="Fetch again the URLs that an earlier build has fetched.")


class TrainOptions(RunOptions):
    """Where training runs."""

    tracking_uri: str | None = Field(
        None, description="MLflow tracking server; unset: a SQLite file in the store; none: no tracking."
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes of this machine that train the run together, each on a GPU of its own.",
    )


class BuildAndTrainOptions(BuildOptions, TrainOptions):
    """Where a build and the training after it run."""
