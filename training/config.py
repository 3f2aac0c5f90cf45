"""What a training run is: one frozen config and the presets it starts from.

Nothing here builds networks or reads files. The fields' defaults are the `smoke` preset's values; any other
preset is laid under the fields that were given.
"""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, field_validator, model_validator

from storage.config import Config, OneOf
from storage.errors import ConfigError
from training.metric_names import MEASURES, MetricName, MetricNames

PresetName = Literal[
    "smoke", "face128", "paper256", "paper1024",
    "table1_a", "table1_b", "table1_c", "table1_d", "table1_e", "table1_f",
]  # fmt: skip
Positive = Annotated[int, Field(ge=1)]
PositiveRate = Annotated[float, Field(gt=0, le=1)]

# The paper's settings (Appendix C); batch sizes are totals over its 8 GPUs.
_PAPER: dict[str, Any] = {
    "z_dim": 512,
    "w_dim": 512,
    "mapping_layers": 8,
    "channel_base": 8192,
    "max_channels": 512,
    "mixing_probability": 0.9,
    "start_resolution": 8,
    "stable_kimg": 600.0,
    "fade_kimg": 600.0,
    "total_kimg": 25_000.0,
    "batch_size": {"4": 512, "8": 256, "16": 128, "32": 64, "64": 32},
    "learning_rate": {"4": 0.001, "128": 0.0015, "256": 0.002, "512": 0.003},
    "ema_half_life_kimg": 10.0,
    "w_avg_beta": 0.995,
    "x_flips": True,
    "snapshot_kimg": 250.0,
    "tick_kimg": 10.0,
    "keep_checkpoints": 5,
    "num_cpu_threads": 8,
    "precision": "bf16",
}

# What the official code does beside, or otherwise than, the paper says: `docs/faithful.md` has each piece.
_OFFICIAL: dict[str, Any] = {
    **_PAPER,
    "adam_restarts_after_fade": True,
    "w_avg_updates": "both",
    "metrics_mirror_reals": True,
}

# Table 1, each row as what it lacks of the next one. The rates are those for FFHQ.
_TABLE1_F: dict[str, Any] = {**_OFFICIAL, "resolution": 1024}
_TABLE1_E: dict[str, Any] = {**_TABLE1_F, "mixing_probability": 0.0}
_TABLE1_D: dict[str, Any] = {**_TABLE1_E, "noise": False}
_TABLE1_C: dict[str, Any] = {**_TABLE1_D, "synthesis_input": "w", "input_gain": math.sqrt(2) / 4}
_TABLE1_B: dict[str, Any] = {**_TABLE1_C, "generator": "traditional", "truncation_psi": 1.0}
_TABLE1_A: dict[str, Any] = {
    **_TABLE1_B,
    "resampling": "nearest",
    "start_resolution": 4,
    "total_kimg": 12_000.0,
    "loss": "wgan_gp",
    "r1_gamma": 0.0,
}

STEP_RESOLUTIONS = tuple(str(4 << level) for level in range(9))
"""From which on settings by resolution may hold, in pixels."""

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"batch_size": {"4": 16}, "learning_rate": {"4": 0.005}},
    "face128": {
        **_PAPER,
        "resolution": 128,
        "stable_kimg": 100.0,
        "fade_kimg": 100.0,
        "total_kimg": 3_000.0,
        "batch_size": {"4": 32},
        "learning_rate": {"4": 0.002},
        "r1_gamma": 1.0,
        "snapshot_kimg": 50.0,
        "tick_kimg": 2.0,
    },
    "paper256": {**_OFFICIAL, "resolution": 256},
    "paper1024": {**_OFFICIAL, "resolution": 1024},
    "table1_a": _TABLE1_A,
    "table1_b": _TABLE1_B,
    "table1_c": _TABLE1_C,
    "table1_d": _TABLE1_D,
    "table1_e": _TABLE1_E,
    "table1_f": _TABLE1_F,
}


def preset_for(resolution: int) -> PresetName:
    """The preset for images of a side in pixels on a GPU; `smoke` where none is for that side."""
    fitting: tuple[PresetName, ...] = ("face128", "paper256", "paper1024")
    return next((name for name in fitting if PRESETS[name]["resolution"] == resolution), "smoke")


CHANGEABLE = frozenset({
    "total_kimg", "snapshot_kimg", "tick_kimg", "keep_checkpoints", "metrics", "metrics_kimg", "metrics_images",
    "keep_best", "metrics_mirror_reals", "max_skipped_steps", "device", "compile",
    "images_per_pass",
})  # fmt: skip
"""Fields that a run may go on with another value of: how far and where it trains, and what it writes down."""


def _drop_preset_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults a preset governs from the JSON schema.

    A web form submits every default it is shown, and would so set the smoke values under another preset.
    """
    governed = set().union(*PRESETS.values())
    for name in governed & schema["properties"].keys():
        schema["properties"][name].pop("default", None)


class TrainConfig(Config):
    """Everything that determines a training run, apart from the dataset.

    `model_fields_set` has the fields that were given, not those of their preset.
    """

    model_config = ConfigDict(json_schema_extra=_drop_preset_defaults)

    preset: PresetName = Field("smoke", description="Named settings; every field given beside it wins.")
    generator: Literal["style", "traditional"] = Field(
        "style", description="The style-based generator, or the traditional one it is compared with."
    )
    resampling: Literal["bilinear", "nearest"] = Field(
        "bilinear",
        description="How both networks scale features by 2: with a binomial filter, or as Progressive GAN without.",
    )
    synthesis_input: Literal["const", "w", "latent"] = Field(
        "const",
        description="What the style-based generator draws on: a learned constant, or w or z through a layer.",
    )
    input_gain: float = Field(
        math.sqrt(2),
        gt=0,
        le=10,
        description="Gain of the input layer of the traditional generator, or of one without a constant.",
    )
    noise: bool = Field(True, description="Add noise in every layer of the style-based generator.")
    resolution: Annotated[int, OneOf(8, 16, 32, 64, 128, 256, 512, 1024)] = Field(
        32, description="Side of the generated images, in pixels; the dataset is area-resampled to it."
    )
    z_dim: int = Field(64, ge=1, le=4096, description="Width of the latent code z.")
    w_dim: int = Field(64, ge=1, le=4096, description="Width of the intermediate latent code w.")
    mapping_layers: int = Field(4, ge=1, le=32, description="Fully connected layers from z to w.")
    channel_base: int = Field(
        256, ge=8, le=65536, description="Channels at resolution r are 2 * channel_base / r, up to a limit."
    )
    max_channels: int = Field(64, ge=1, le=4096, description="The limit on channels at any resolution.")
    label_column: str | None = Field(
        None,
        pattern="^[a-z0-9_]+$",
        description="A column of the dataset's images that both networks are conditioned on, such as license.",
    )
    label_values: tuple[str, ...] = Field(
        (), max_length=1000, description="The values of label_column, in order; unset: those of the dataset."
    )
    label_sampling: Literal["natural", "balanced"] = Field(
        "natural",
        description="How often images of a label are shown: as many as there are, or all labels alike.",
    )
    freeze_d: int = Field(
        0,
        ge=0,
        le=8,
        description="How many of the discriminator's highest resolutions stay as they were (Freeze-D), in a run that "
        "begins with other networks.",
    )
    mixing_probability: float = Field(
        0.9, ge=0, le=1, description="Share of training images made from two latent codes."
    )
    start_resolution: Annotated[int, OneOf(4, 8, 16, 32, 64, 128, 256, 512, 1024)] = Field(
        8, description="Resolution training starts at, in pixels."
    )
    stable_kimg: float = Field(
        2.0, ge=0, description="Thousands of images at a resolution before the next one fades in."
    )
    fade_kimg: float = Field(1.0, ge=0, description="Thousands of images over which a resolution fades in.")
    total_kimg: float = Field(
        10.0, gt=0, le=1e6, description="Thousands of real images shown in the whole run."
    )
    batch_size: dict[str, Positive] = Field(
        PRESETS["smoke"]["batch_size"],
        description="Images a step: {resolution: images}, each holding from its resolution up to the next; "
        "entries given are merged over the preset's, and a number alone holds at all resolutions.",
    )
    learning_rate: dict[str, PositiveRate] = Field(
        PRESETS["smoke"]["learning_rate"],
        description="Adam's step size: {resolution: rate}, each holding from its resolution up to the next; "
        "entries given are merged over the preset's, and a number alone holds at all resolutions.",
    )
    adam_beta1: float = Field(0.0, ge=0, lt=1, description="Adam's decay of the gradient's mean.")
    adam_beta2: float = Field(0.99, ge=0, lt=1, description="Adam's decay of the gradient's square.")
    adam_restarts_after_fade: bool = Field(
        False,
        description="Begin Adam's moments afresh where a fade ends too, and not only where a resolution begins.",
    )
    loss: Literal["logistic", "wgan_gp", "r3"] = Field(
        "logistic",
        description="The non-saturating logistic loss with R1, WGAN-GP with Progressive GAN's weights, or R3GAN's "
        "relativistic pairing loss with R1 and R2.",
    )
    r1_gamma: float = Field(
        10.0,
        ge=0,
        description="Weight of the R1 gradient penalty of the logistic loss, or of both R1 and R2 with loss r3.",
    )
    r1_interval: int = Field(
        1,
        ge=1,
        le=1000,
        description="Steps from one R1 penalty to the next, which weighs as many times as much: 1 as the paper's, "
        "more is StyleGAN2's lazy regularization.",
    )
    r1_through_augmentation: bool = Field(
        False,
        description="Take R1 by the image before its augmentation, and not by the one that the discriminator sees.",
    )
    path_length_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of StyleGAN2's path length regularization of the generator, which uses 2; 0 is none.",
    )
    path_length_interval: int = Field(
        4,
        ge=1,
        le=1000,
        description="Steps from one path length penalty to the next, which is taken of half a batch and weighs as many "
        "times as much.",
    )
    images_per_pass: dict[str, Annotated[int, Field(ge=4, multiple_of=4)]] = Field(
        {},
        description="Most images that a process computes with at once: {resolution: images}, as batch_size, or one "
        "number. A larger batch takes several passes: less memory and the same training. Unset: the whole batch.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Type of the features on a GPU; weights, statistics, styles and logits are float32 in both.",
    )
    compile: bool = Field(
        True, description="Compile the step on a GPU: minutes at the first start, then several times as fast."
    )
    max_skipped_steps: int = Field(
        20,
        ge=1,
        description="Steps in a row with gradients that are not finite, all skipped, that end training.",
    )
    ema_half_life_kimg: float = Field(
        0.5, ge=0, description="Half-life of the averaged generator, in thousands of images; 0 averages none."
    )
    w_avg_beta: float = Field(0.98, ge=0, lt=1, description="Decay of the running mean of w at each move.")
    w_avg_updates: Literal["generator", "both"] = Field(
        "generator", description="In which phases of a step the running mean of w moves."
    )
    augment: Literal["none", "fixed", "ada"] = Field(
        "none",
        description="Augmentation of what the discriminator sees, for small datasets: none, of fixed strength, or "
        "adaptive (ADA): stronger while the discriminator is too sure of real images.",
    )
    augment_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability of each transform: all along if fixed, at the start if adaptive.",
    )
    ada_target: float = Field(
        0.6, gt=-1, lt=1, description="Mean sign of the real images' logits that adaptive augmentation holds."
    )
    ada_kimg: float = Field(
        500.0,
        gt=0,
        description="Thousands of images over which adaptive augmentation could rise from 0 to 1.",
    )
    x_flips: bool = Field(
        False, description="Show each image mirrored half the time; the paper does, on FFHQ."
    )
    truncation_psi: float = Field(
        0.7, ge=0, le=2, description="Truncation of the sample grids: 0 is the mean face, 1 is none."
    )
    truncation_cutoff: int = Field(8, ge=0, le=18, description="How many first layers truncation acts on.")
    snapshot_kimg: float = Field(
        2.5, gt=0, description="Thousands of images between checkpoints with their sample grid."
    )
    tick_kimg: float = Field(0.25, gt=0, description="Thousands of images between lines of statistics.")
    keep_checkpoints: int = Field(3, ge=1, le=10_000, description="How many newest checkpoints are kept.")
    metrics: MetricNames = Field(
        (), description="Metrics measured during training, by the names of `likeness evaluate --list`."
    )
    metrics_kimg: float = Field(
        100.0, gt=0, description="Thousands of images from one measurement to the next; each is a snapshot."
    )
    metrics_images: int = Field(
        5_000, ge=2, description="Generated samples a measurement; published figures are of 50,000."
    )
    metrics_mirror_reals: bool = Field(
        False, description="Mirror real images at random for metrics too, where x_flips does for training."
    )
    keep_best: MetricName | None = Field(
        None, description="One of `metrics`: the checkpoint best by it is kept beside the newest."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weights, latents, noise and data order.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto",
        description="Where training runs; auto takes an NVIDIA or AMD GPU if there is one, mps is Apple's.",
    )
    num_cpu_threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="Threads that compute, on a CPU. Part of the config since sums split over other threads "
        "round otherwise: on one kind of CPU, a run is the same to the bit whatever the number of cores.",
    )

    @property
    def draws_from_w(self) -> bool:
        """Whether w and noise alone make an image: not where z enters the synthesis too."""
        return self.generator == "style" and self.synthesis_input != "latent"

    @model_validator(mode="wrap")
    @classmethod
    def _lay_over_preset(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Lay the given fields over the preset's."""
        if not isinstance(data, Mapping):
            return handler(data)
        preset = data.get("preset", "smoke")
        if not isinstance(preset, str) or preset not in PRESETS:
            return handler(data)  # the field's own check lists the valid names
        config = handler(_merged(PRESETS[preset], data))
        config.model_fields_set.intersection_update(data)
        return config

    @field_validator("batch_size", "learning_rate", "images_per_pass", mode="before")
    @classmethod
    def _holds_everywhere(cls, steps: Any) -> Any:
        """A number alone holds from the lowest resolution up."""
        return steps if isinstance(steps, Mapping) else {STEP_RESOLUTIONS[0]: steps}

    @field_validator("batch_size", "learning_rate", "images_per_pass")
    @classmethod
    def _is_by_resolution(cls, steps: dict[str, Any]) -> dict[str, Any]:
        """Sort the steps by resolution, so that equal settings are equal bytes."""
        if wrong := [key for key in steps if key not in STEP_RESOLUTIONS]:
            raise ValueError(f"{wrong[0]!r} is no resolution: choose of {', '.join(STEP_RESOLUTIONS)}")
        return dict(sorted(steps.items(), key=lambda step: int(step[0])))

    @field_validator("batch_size")
    @classmethod
    def _divides_into_groups(cls, batch_size: dict[str, int]) -> dict[str, int]:
        """The discriminator compares images in groups of 4 (or one smaller group)."""
        for resolution, images in batch_size.items():
            if images > 4 and images % 4:
                raise ValueError(
                    f"batch_size at {resolution} is {images}: must be a multiple of 4, or below 4"
                )
        return batch_size

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainConfig":
        """Check the fields that constrain each other."""
        if self.start_resolution > self.resolution:
            raise ValueError(
                f"start_resolution {self.start_resolution} is above resolution {self.resolution}"
            )
        for name, steps in (("batch_size", self.batch_size), ("learning_rate", self.learning_rate)):
            if not steps or min(map(int, steps)) > self.start_resolution:
                raise ValueError(f"{name} has no entry for start_resolution {self.start_resolution} or below")
        if self.keep_best is not None and self.keep_best not in self.metrics:
            raise ValueError(f"keep_best {self.keep_best} is not among the metrics measured during training")
        if not self.draws_from_w and any(MEASURES[name].space == "w" for name in self.metrics):
            raise ValueError("this generator's images are not made from w alone: leave metrics of W out")
        if self.augment == "none" and self.augment_p > 0:
            raise ValueError(
                f"augment_p {self.augment_p:g} is of an augmentation: choose augment fixed or ada"
            )
        if self.augment == "ada" and self.loss == "wgan_gp":
            raise ValueError(
                "augment ada follows the sign of logits, and a critic's (loss wgan_gp) has no meaning: "
                "choose augment none or fixed"
            )
        if self.label_column is None and (self.label_values or self.label_sampling == "balanced"):
            raise ValueError("label_values and label_sampling are of a label_column, and none is named")
        if self.label_column is not None and self.generator == "traditional":
            raise ValueError("label_column: the traditional generator takes no labels")
        if self.freeze_d and self.resolution >> self.freeze_d < 4:
            raise ValueError(
                f"freeze_d {self.freeze_d} is all of a discriminator of {self.resolution} px, or more"
            )
        if self.r1_through_augmentation and self.augment == "none":
            raise ValueError("r1_through_augmentation is of an augmentation: choose augment fixed or ada")
        if self.start_resolution < self.resolution and self.stable_kimg + self.fade_kimg == 0:
            raise ValueError("stable_kimg and fade_kimg are both 0: the network would never grow")
        if self.path_length_weight > 0 and self.generator == "traditional":
            raise ValueError(
                f"path_length_weight {self.path_length_weight:g}: the traditional generator has no w"
            )
        return self


def changed(config: TrainConfig, asked: TrainConfig, of: str) -> TrainConfig:
    """A run's config with the fields that were given in `asked`; ConfigError for one that it cannot go on with.

    A field given as it is already changes nothing, so that a run goes on by the command that began it.
    """
    given = {name: getattr(asked, name) for name in asked.model_fields_set}
    different = {name: value for name, value in given.items() if value != getattr(config, name)}
    if fixed := sorted(different.keys() - CHANGEABLE):
        is_at, asked_for = (_short(getattr(source, fixed[0])) for source in (config, asked))
        raise ConfigError(
            f"{of} was begun with {fixed[0]} {is_at} and cannot go on with {asked_for}: "
            f"{', '.join(sorted(CHANGEABLE))} may change, and other options are left out"
        )
    return TrainConfig.model_validate({**config.model_dump(mode="json"), **different})


def _short(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _merged(base: Mapping[Any, Any], over: Mapping[Any, Any]) -> dict[str, Any]:
    """`over` laid over `base`, dictionaries merged key by key; keys become strings, as in JSON."""
    result = {str(key): value for key, value in base.items()}
    for key, value in over.items():
        name = str(key)
        if isinstance(value, Mapping):
            below = result.get(name)
            value = _merged(below if isinstance(below, Mapping) else {}, value)
        result[name] = value
    return result
