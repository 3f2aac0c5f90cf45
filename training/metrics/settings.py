"""What is measured of a checkpoint: the configs of an evaluation, of an audit and of a scorecard.

They are the options of `likeness evaluate` and `likeness audit`, and import no torch, so that a command line knows them
at once. Not here: any measuring (`training.metrics.evaluate`, `training.metrics.audit`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from storage.config import Config, also, comma_separated
from training.metric_names import MEASURES, Measure, MetricName, MetricNames

if TYPE_CHECKING:
    from training.extractors.weights import WeightsPlace


def _by_file(sha256: Any) -> Any:
    """By whole file names: a command line takes the dot of `--weights-sha256.NAME.pth` for one more level."""
    if not isinstance(sha256, Mapping):
        return sha256
    found: dict[str, Any] = {}
    for name, value in sha256.items():
        below = _by_file(value)
        found |= (
            {f"{name}.{rest}": end for rest, end in below.items()} if below is not value else {name: value}
        )
    return found


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
WeightsFolder = Annotated[
    Path | None,
    Field(description="Folder of weights by their published names; unset: torch hub's cache."),
]
WeightsSha256 = Annotated[
    dict[str, Sha256],
    BeforeValidator(_by_file),
    Field(description="sha256 that a weights file must have, by its name, instead of the published one."),
]


OF_FEATURES = ("frechet", "kernel", "precision", "recall")
"""Families of metrics that compare features."""


class EvaluateConfig(Config):
    """Which metrics, and of how many images."""

    metrics: MetricNames = Field((), description="Names of metrics, with commas; --list shows them.")
    num_images: int | None = Field(
        None,
        ge=2,
        description="Generated samples; unset: as many as published figures are of, 50,000 images, 100,000 paths, "
        "200,000 for separability.",
        **also("num_images", "images"),
    )
    num_reals: int | None = Field(
        None, ge=2, description="Real crops, the first so many; unset: all.", **also("num_reals", "reals")
    )
    mirror_reals: bool | None = Field(
        None,
        description="Mirror real crops at random, if the run did in training; unset: as the run's config says "
        "(metrics_mirror_reals).",
    )
    label: str | None = Field(
        None,
        description="Of a run with labels: measure the images of one; unset: of all, as often as the dataset has them.",
    )
    truncation_psi: float = Field(
        1.0, ge=0, le=2, description="Truncation; 1 is none, as for published figures."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="The first image's seed; the others follow it.")
    batch_size: int = Field(32, ge=1, le=4096, description="Images at a time; changes no number.")
    face_crop: bool = Field(
        True, description="Take path lengths on the part that shows the face, as for FFHQ."
    )
    weights: WeightsFolder = None
    weights_sha256: WeightsSha256 = Field({})
    attributes: Path | None = Field(
        None, description="Folder of attribute classifiers, an ONNX file an attribute, for separability."
    )

    @property
    def place(self) -> WeightsPlace:
        """Where weights are."""
        from training.extractors.weights import WeightsPlace  # torch

        return WeightsPlace(self.weights, self.weights_sha256, self.attributes)

    @property
    def measures(self) -> list[Measure]:
        """The metrics asked for, each once."""
        return [MEASURES[name] for name in dict.fromkeys(self.metrics)]

    def num_fakes(self, measure: Measure) -> int:
        """How many samples a metric is of."""
        return self.num_images or measure.published_samples


class AuditConfig(Config):
    """How many pictures are looked at, and what near is measured by."""

    num_images: int = Field(1000, ge=1, description="Generated pictures.", **also("num_images", "images"))
    held_out: str | None = Field(
        None,
        description="Dataset (NAME, NAME@VERSION or NAME:SPLIT) of photographs that were not trained on, to calibrate "
        "by; unset: training crops against the other training crops.",
    )
    num_held_out: int = Field(2000, ge=10, description="At most so many photographs calibrate.")
    percentile: float = Field(
        1.0, gt=0, lt=50, description="Percent of held-out photographs that pass for near-copies."
    )
    num_pairs: int = Field(
        16,
        ge=1,
        le=200,
        description="Closest pairs on record and on the sheet.",
        **also("num_pairs", "pairs"),
    )
    extractor: Literal["efficientnet_lite0", "inception", "vgg16"] = Field(
        "efficientnet_lite0", description="Network of the embedding."
    )
    truncation_psi: float = Field(1.0, ge=0, le=2, description="Truncation; 1 is none.")
    seed: int = Field(0, ge=0, lt=2**31, description="The first picture's seed; the others follow it.")
    batch_size: int = Field(32, ge=1, le=4096, description="Images at a time; changes no number.")
    weights: WeightsFolder = None
    weights_sha256: WeightsSha256 = Field({})


class ScorecardConfig(Config):
    """By what a new generator is compared with the champion, and how much worse it may be."""

    metric: MetricName = Field(
        "fd_efficientnet_lite0",
        description="Which metric of features is the quality: fid, kid and their stand-ins.",
    )
    quality_margin: float = Field(
        0.05,
        ge=0,
        description="By what share of the champion's value the candidate may be worse; an interval that lies on both "
        "sides of it waits for a person.",
    )
    quality_limit: float | None = Field(
        None, description="The worst value that any candidate may have, also the first one; unset: any."
    )
    seed_sets: int = Field(
        3, ge=3, le=100, description="Sets of seeds that the interval is over; both generators draw the same."
    )
    num_images: int = Field(2000, ge=4, description="Generated images a set.", **also("num_images", "images"))
    num_reals: int | None = Field(
        None, ge=2, description="Real crops, the first so many; unset: all.", **also("num_reals", "reals")
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Of the intervals, by Student's t.")
    slices: Annotated[tuple[str, ...], BeforeValidator(comma_separated)] = Field(
        ("yaw_deg", "license"),
        description="Columns of the dataset's images by whose values recall is compared: numbers in thirds; one that "
        "the dataset lacks is not measured.",
    )
    slice_margin: float = Field(
        0.1, ge=0, le=1, description="By how much the recall of a slice may fall below the champion's."
    )
    min_slice: int = Field(100, ge=2, description="Fewer real images are no slice.")
    near_copies_limit: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of generated images that may be near-copies of training crops; of photographs that were "
        "not trained on it is one or two hundredths.",
    )
    audit_images: int = Field(
        1000, ge=1, description="Generated images that near-copies are looked for among."
    )
    held_out: str | None = Field(
        None,
        description="Dataset that near is calibrated by, as of `likeness audit`; unset: the training crops.",
    )
    slowdown_limit: float = Field(
        1.5, ge=1, description="How many times as long as the champion it may take to draw an image."
    )
    licenses: Annotated[tuple[str, ...], BeforeValidator(comma_separated)] = Field(
        (),
        description="Licences that images may have, as the tables have them, such as CC-BY-4.0; unset: any.",
    )
    batch_size: int = Field(
        32, ge=1, le=4096, description="Images at a time; changes no number but the speed."
    )
    seed: int = Field(0, ge=0, lt=2**30, description="The first image's seed; the others follow it.")
    weights: WeightsFolder = None
    weights_sha256: WeightsSha256 = Field({})

    @field_validator("metric")
    @classmethod
    def _is_of_features(cls, metric: str) -> str:
        names = [name for name, measure in MEASURES.items() if measure.family in OF_FEATURES]
        if metric not in names:
            raise ValueError(f"{metric} is no metric of features: choose of {', '.join(names)}")
        return metric

    @property
    def place(self) -> WeightsPlace:
        """Where weights are."""
        from training.extractors.weights import WeightsPlace  # torch

        return WeightsPlace(self.weights, self.weights_sha256)
