"""The names of all metrics: what each one is of, which extractor it reads images with, and which end of it is good.

A name without an extractor in it is the published metric, with the published network. Where those weights cannot be
had, a stand-in measures the same formula with another network, under a name that says so: its numbers compare with
each other and with nothing published. Not here: the formulas (`training.metrics.formulas`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from storage.config import comma_separated

Family = Literal["frechet", "kernel", "precision", "recall", "path", "separability"]
ExtractorName = Literal["inception", "vgg16", "vgg16_lpips", "efficientnet_lite0", "attributes"]
Space = Literal["z", "w"]
Sampling = Literal["full", "end"]

STAND_IN: ExtractorName = "efficientnet_lite0"


@dataclass(frozen=True)
class Measure:
    """One metric: its formula, its extractor, and for paths and planes the latent space."""

    name: str
    family: Family
    extractor: ExtractorName
    about: str
    space: Space | None = None
    sampling: Sampling | None = None

    @property
    def best_is_highest(self) -> bool:
        """Whether more is better."""
        return self.family in ("precision", "recall")

    @property
    def published_samples(self) -> int:
        """How many generated samples the published figures are of."""
        return {"path": 100_000, "separability": 200_000}.get(self.family, 50_000)


def _all() -> list[Measure]:
    measures: list[Measure] = []
    about: dict[Family, str] = {
        "frechet": "Fréchet distance of features",
        "kernel": "unbiased squared MMD of features, cubic kernel",
        "precision": "share of generated images within the reals' neighbourhoods",
        "recall": "share of real images within the generated ones' neighbourhoods",
    }
    for family, text in about.items():
        published = {"frechet": "fid", "kernel": "kid"}.get(family, family)
        stand_in = {"frechet": "fd", "kernel": "kid"}.get(family, family)
        extractor: ExtractorName = "inception" if family in ("frechet", "kernel") else "vgg16"
        measures.append(Measure(published, family, extractor, text))
        measures.append(Measure(f"{stand_in}_{STAND_IN}", family, STAND_IN, text))
    spaces: tuple[Space, ...] = ("z", "w")
    samplings: tuple[Sampling, ...] = ("full", "end")
    for space in spaces:
        for sampling in samplings:
            where = "along" if sampling == "full" else "at the ends of"
            text = f"perceptual path length {where} paths in {space.upper()}"
            end = f"{space}_{sampling}"
            measures.append(Measure(f"ppl_{end}", "path", "vgg16_lpips", text, space, sampling))
            measures.append(Measure(f"ppl_{STAND_IN}_{end}", "path", STAND_IN, text, space, sampling))
    for space in spaces:
        text = f"linear separability of attributes in {space.upper()}"
        measures.append(Measure(f"separability_{space}", "separability", "attributes", text, space))
    return measures


MEASURES: dict[str, Measure] = {measure.name: measure for measure in _all()}


def _known(name: str) -> str:
    if name not in MEASURES:
        raise ValueError(f"{name!r} is none of the metrics {', '.join(MEASURES)}")
    return name


MetricName = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": list(MEASURES)})
]
"""A name in MEASURES, as the field of a config."""
MetricNames = Annotated[tuple[MetricName, ...], BeforeValidator(comma_separated)]
"""Several of them; as text, with commas."""
