"""What is drawn with a trained generator: a config for each kind of picture, film and file.

They are the options of `likeness generate`, `figure`, `video`, `project`, `directions`, `edit` and
`export`, and import no torch, so that a
command line knows them at once. Not here: any drawing (the modules beside this one).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from storage.config import Config, also, comma_separated

MAX_SEEDS = 10_000
MAX_PSI = 2.0
SEED_LIMIT = 2**63

LayersName = Literal["coarse", "middle", "fine", "all"]
NoiseMode = Literal["const", "input", "own"]
ExportPrecision = Literal["fp32", "fp16"]


def expanded_seeds(value: Any) -> Any:
    """The seeds of a text such as "0-15,20", both ends included; what is no text stays as it is."""
    seeds: list[Any] = []
    parts = comma_separated(value)
    for part in parts if isinstance(parts, list) else ():
        if not isinstance(part, str):
            seeds.append(part)
            continue
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise ValueError(f"{part!r} is neither a number nor a range such as 0-15")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part} runs backwards")
        if last >= SEED_LIMIT or len(seeds) + last - first >= MAX_SEEDS:
            raise ValueError(f"at most {MAX_SEEDS} seeds below 2^63")
        seeds.extend(range(first, last + 1))
    return seeds or value


Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]
Seeds = Annotated[
    tuple[Seed, ...], Field(min_length=1, max_length=MAX_SEEDS), BeforeValidator(expanded_seeds)
]
"""Given as numbers, or as text such as "0-15,20"."""
LayerNumbers = Annotated[
    tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=1), BeforeValidator(expanded_seeds)
]
"""Given as numbers, or as text such as "0-3,6"."""
Psi = Annotated[float, Field(ge=-MAX_PSI, le=MAX_PSI, allow_inf_nan=False)]
Psis = Annotated[tuple[Psi, ...], Field(min_length=1), BeforeValidator(comma_separated)]
"""Given as numbers, or as text such as "1,0.7,-0.5"."""


class GenerateConfig(Config):
    """Which images are drawn, and whether as one grid."""

    seeds: Seeds = Field(tuple(range(16)), description="Seeds, such as 0-15 or 1,5,7.")
    truncation_psi: Psis = Field(
        (0.7,),
        description="0 is the mean face, 1 is no truncation; of several, as 1,0.7,0.5, each gets a column (with "
        "separate, a file).",
    )
    separate: bool = Field(False, description="Write one PNG a seed, not a grid.")


class TruncationConfig(Config):
    """Figure 8: which seeds at which truncations."""

    seeds: Seeds = Field(tuple(range(4)), description="Seeds, a row each, such as 0-3 or 1,5,7.")
    psis: Psis = Field((1.0, 0.7, 0.5, 0.0, -0.5), description="Truncations, a column each.")
    cutoff: int | None = Field(None, ge=0, description="How many first layers it acts on; unset: all.")
    noise_seed: Seed | None = Field(
        None, description="The seed whose noise all images share; unset: each has its own seed's."
    )


class MixingConfig(Config):
    """Figure 3: whose styles are mixed, and in which layers."""

    rows: Seeds = Field(tuple(range(3)), description="Seeds of sources A, down the left.")
    columns: Seeds = Field(tuple(range(3, 9)), description="Seeds of sources B, along the top.")
    layers: LayersName = Field(
        "all",
        description="Styles taken from B: coarse are those of 4-8 px, middle of 16-32, fine of 64 and above; all: a "
        "block of rows for each.",
    )
    psi: Psi = Field(1.0, description="Truncation: 0 is the mean face, 1 is none.")
    noise_seed: Seed = Field(0, description="The seed whose noise all images share.")


class NoiseConfig(Config):
    """Figures 4 and 5: which image, under how many realisations of noise."""

    seed: Seed = Field(0, description="The image's seed.")
    num_crops: int = Field(
        2, ge=1, le=16, description="Enlarged realisations to show.", **also("num_crops", "crops")
    )
    num_realisations: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Realisations that the deviation is taken over.",
        **also("num_realisations", "realisations"),
    )
    psi: Psi = Field(1.0, description="Truncation: 0 is the mean face, 1 is none.")


class VideoConfig(Config):
    """Through which seeds the walk goes, and how long it takes."""

    seeds: Seeds = Field(tuple(range(8)), description="Seeds, such as 0-7 or 1,5,7.")
    seconds: float = Field(10.0, gt=0, le=3600, description="Length of the whole loop.")
    fps: int = Field(30, ge=1, le=240, description="Frames a second.")
    psi: Psi = Field(0.7, description="Truncation: 0 is the mean face, 1 is none.")
    noise_seed: Seed = Field(0, description="The seed whose noise all images share.")

    @property
    def num_frames(self) -> int:
        """Of the whole loop."""
        return round(self.seconds * self.fps)

    @field_validator("seeds")
    @classmethod
    def _walks(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(seeds) < 2:
            raise ValueError("a walk needs two seeds or more")
        return seeds

    @model_validator(mode="after")
    def _lasts(self) -> VideoConfig:
        if self.num_frames < 1:
            raise ValueError(f"seconds {self.seconds:g} at fps {self.fps} is less than one frame")
        return self


class ProjectConfig(Config):
    """How a picture's w is searched for."""

    space: Literal["w", "w+"] = Field("w", description="One w for all layers, or a w for each (w+).")
    steps: int = Field(500, ge=1, le=100_000, description="Steps of gradient descent.")
    learning_rate: float = Field(
        0.1, gt=0, le=10, description="Adam's largest step, in standard deviations of w."
    )
    exploration: float = Field(
        0.5, ge=0, le=10, description="Noise added to w at the start, in standard deviations of w."
    )
    distance: Literal["auto", "lpips", "features", "pixels"] = Field(
        "auto",
        description="lpips: LPIPS of VGG16, from torch's hub folder; features: EfficientNet-Lite0's and pixels; "
        "pixels: squared differences at every scale; auto: the first of these that is installed.",
    )
    noise: Literal["fixed", "optimised"] = Field(
        "fixed",
        description="optimised: the noise maps are searched for too, and kept from holding the picture themselves.",
    )
    seed: Seed = Field(0, description="Seed of the noise and of the search.")


Method = Literal["sefa", "pca"]
Block = Literal["all", "coarse", "middle", "fine"]
METHODS: tuple[Method, ...] = ("sefa", "pca")
BLOCKS: tuple[Block, ...] = ("all", "coarse", "middle", "fine")
Strength = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Strengths = Annotated[
    tuple[Strength, ...], Field(min_length=1, max_length=64), BeforeValidator(comma_separated)
]


class DirectionsConfig(Config):
    """Which directions are looked for, and on which picture they are shown."""

    methods: Annotated[tuple[Method, ...], Field(min_length=1), BeforeValidator(comma_separated)] = Field(
        METHODS, description="sefa: what the layers' styles change most; pca: how w varies most (GANSpace)."
    )
    blocks: Annotated[tuple[Block, ...], Field(min_length=1), BeforeValidator(comma_separated)] = Field(
        BLOCKS,
        description="Layers that they act on: coarse are those of 4-8 px, middle of 16-32, fine of 64 and above.",
    )
    num_directions: int = Field(4, ge=1, le=4096, description="How many of each method and block.")
    seed: Seed = Field(0, description="The seed whose picture the figure moves.")
    strengths: Strengths = Field(
        (-2.0, -1.0, 0.0, 1.0, 2.0), description="Standard deviations of w along a direction, a column each."
    )
    psi: Psi = Field(0.7, description="Truncation: 0 is the mean face, 1 is none.")


class EditConfig(Config):
    """What is edited, along which direction, and how far; or between which two projections."""

    seeds: Seeds | None = Field(None, description="Seeds, a row each, such as 0-3 or 1,5,7.")
    projected: Annotated[tuple[Path, ...], BeforeValidator(comma_separated)] = Field(
        (), description="Files of w that `likeness project` wrote, a row each; of two, what lies between."
    )
    direction: str | None = Field(
        None, description="Such as sefa.coarse.0 or pca.all.2: see `likeness directions`."
    )
    strengths: Strengths = Field(
        (-2.0, -1.0, 0.0, 1.0, 2.0), description="Standard deviations of w along it, a column each."
    )
    layers: LayerNumbers | None = Field(
        None, description="Layers to move, such as 0-3 or 4,6; unset: those of the direction's block."
    )
    between: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="Instead of a direction: pictures from one source to the other, both among them.",
    )
    psi: Psi = Field(0.7, description="Truncation of seeds: 0 is the mean face, 1 is none.")
    noise_seed: Seed | None = Field(
        None, description="The seed whose noise all pictures share; unset: each has its own."
    )

    @model_validator(mode="after")
    def _edits_one_thing(self) -> EditConfig:
        if not self.projected and not self.seeds:
            raise ValueError("whose pictures are edited is not said: give seeds, or projected")
        if self.projected and self.seeds:
            raise ValueError("seeds and projected were both given: leave one of them out")
        if self.direction is None and self.between is None:
            raise ValueError("what the edit is, is not said: give a direction, or between")
        if self.direction is not None and self.between is not None:
            raise ValueError("a direction and between were both given: leave one of them out")
        if self.between is not None and len(self.projected or self.seeds or ()) != 2:
            raise ValueError("between needs two projections, or two seeds")
        return self


class ExportConfig(Config):
    """Which kind of file the generator becomes."""

    format: Literal["safetensors", "onnx"] = Field("safetensors", description="For torch, or for the rest.")
    precision: ExportPrecision = Field(
        "fp32", description="Of the weights in a safetensors file; fp16 halves it, and is read as fp32."
    )
    noise: NoiseMode = Field(
        "const",
        description="In ONNX: the noise of noise_seed, inputs of their own, or the fixed noise that an import brought.",
    )
    noise_seed: Seed = Field(0, description="In ONNX: the seed whose noise all images have.")

    @model_validator(mode="after")
    def _halves_safetensors_alone(self) -> ExportConfig:
        if self.format == "onnx" and self.precision != "fp32":
            raise ValueError(f"precision {self.precision} is for safetensors: an ONNX file is fp32")
        return self
