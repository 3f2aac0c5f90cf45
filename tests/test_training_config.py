"""Training configs: presets, their overlay, and what a web form sees of them."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from training.config import PRESETS, TrainConfig


@pytest.mark.parametrize("preset", PRESETS)
def test_config_survives_json(preset: str) -> None:
    """A resolved config read back from its JSON is the same config, with the same digest."""
    config = TrainConfig.model_validate({"preset": preset, "seed": 3})
    again = TrainConfig.model_validate_json(json.dumps(config.model_dump(mode="json")))
    assert again == config
    assert again.digest() == config.digest()


def test_given_fields_win_over_the_preset() -> None:
    """A given field replaces the preset's, the rest of the preset stays, and other presets do not leak in."""
    config = TrainConfig.model_validate({"preset": "face128", "total_kimg": 10})
    assert config.total_kimg == 10
    assert config.resolution == 128
    assert config.z_dim == 512


def test_nested_fields_merge_key_by_key() -> None:
    """One entry given of a table by resolution leaves the preset's other entries in place."""
    config = TrainConfig.model_validate({"preset": "paper256", "batch_size": {64: 16}})
    assert config.batch_size == {"4": 512, "8": 256, "16": 128, "32": 64, "64": 16}
    assert TrainConfig.model_validate({"batch_size": {16: 8}}).batch_size == {"4": 16, "16": 8}


def test_presets_apply_to_keyword_arguments_too() -> None:
    """TrainConfig(preset=...) resolves like a validated dictionary."""
    assert TrainConfig(preset="paper1024") == TrainConfig.model_validate({"preset": "paper1024"})


def test_paper_presets_hold_the_papers_settings() -> None:
    """paper1024 is the paper's training, and paper256 the same at 256."""
    config = TrainConfig(preset="paper1024")
    assert (config.z_dim, config.w_dim, config.mapping_layers) == (512, 512, 8)
    assert (config.channel_base, config.max_channels) == (8192, 512)
    assert (config.start_resolution, config.stable_kimg, config.fade_kimg) == (8, 600, 600)
    assert (config.total_kimg, config.r1_gamma, config.mixing_probability) == (25_000, 10, 0.9)
    assert (config.adam_beta1, config.adam_beta2) == (0, 0.99)
    assert (config.ema_half_life_kimg, config.w_avg_beta, config.x_flips) == (10, 0.995, True)
    assert (config.truncation_psi, config.truncation_cutoff) == (0.7, 8)
    assert (config.r1_interval, config.precision) == (1, "bf16")
    other = TrainConfig(preset="paper256").model_dump(exclude={"preset", "resolution"})
    assert other == config.model_dump(exclude={"preset", "resolution"})


def test_face128_holds_what_drew_the_faces_of_the_results() -> None:
    """face128 has the paper's widths at 128 px, a shorter schedule, the batch, rate and gamma of docs/results.md."""
    config = TrainConfig(preset="face128")
    assert (config.resolution, config.start_resolution, config.channel_base) == (128, 8, 8192)
    assert (config.stable_kimg, config.fade_kimg, config.r1_gamma, config.r1_interval) == (100, 100, 1, 1)
    assert (config.batch_size, config.learning_rate) == ({"4": 32}, {"4": 0.002})
    assert config.augment == "none"


def test_what_is_for_small_data_is_off_by_default() -> None:
    """Flips, augmentation and path length regularization are asked for; the paper's presets flip, as on FFHQ."""
    config = TrainConfig()
    assert (config.x_flips, config.augment, config.path_length_weight) == (False, "none", 0)
    assert all(TrainConfig(preset=name).x_flips for name in PRESETS if name != "smoke")


def test_a_strength_without_augmentation_is_refused() -> None:
    """augment_p would be of nothing, and stand in the statistics."""
    with pytest.raises(
        ValidationError, match=r"augment_p 0\.5 is of an augmentation: choose augment fixed or ada"
    ):
        TrainConfig(augment_p=0.5)
    assert TrainConfig(augment="fixed", augment_p=0.5).augment_p == 0.5


def test_table_1_goes_step_by_step() -> None:
    """Each configuration of table 1 differs from the next in what the paper adds, and the last is paper1024."""
    rows = [
        TrainConfig.model_validate({"preset": f"table1_{row}"}).model_dump(exclude={"preset"})
        for row in "abcdef"
    ]
    rows.append(TrainConfig(preset="paper1024").model_dump(exclude={"preset"}))
    steps = [
        {name: (one[name], other[name]) for name in one if one[name] != other[name]}
        for one, other in pairwise(rows)
    ]
    assert steps == [
        {
            "resampling": ("nearest", "bilinear"),
            "start_resolution": (4, 8),
            "total_kimg": (12_000, 25_000),
            "loss": ("wgan_gp", "logistic"),
            "r1_gamma": (0, 10),
        },
        {"generator": ("traditional", "style"), "truncation_psi": (1, 0.7)},
        {"synthesis_input": ("w", "const"), "input_gain": (math.sqrt(2) / 4, math.sqrt(2))},
        {"noise": (False, True)},
        {"mixing_probability": (0, 0.9)},
        {},
    ]


def test_presets_of_the_paper_take_the_official_choice() -> None:
    """Where the official code does more than the paper says, its presets do too; face128 and smoke stay as measured."""
    for name in PRESETS:
        config = TrainConfig.model_validate({"preset": name})
        is_official = name.startswith(("paper", "table1"))
        found = config.adam_restarts_after_fade, config.w_avg_updates == "both", config.metrics_mirror_reals
        assert found == (is_official,) * 3, name


def test_unknown_preset_lists_the_valid_ones() -> None:
    """The error for an unknown preset names every preset there is."""
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate({"preset": "huge"})
    assert all(name in str(caught.value) for name in PRESETS)


def test_schema_hides_defaults_a_preset_governs() -> None:
    """A form is shown no default that would override a preset, and is shown the others."""
    properties = TrainConfig.model_json_schema()["properties"]
    governed = set().union(*PRESETS.values())
    assert governed
    assert all("default" not in properties[name] for name in governed)
    assert properties["preset"]["default"] == "smoke"
    assert properties["seed"]["default"] == 0
    assert all(field.get("description") for field in properties.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resolution": 48}, "is not one of 8, 16"),
        ({"resolution": 8, "start_resolution": 16}, "start_resolution 16 is above resolution 8"),
        ({"batch_size": {"4": 6}}, "must be a multiple of 4"),
        ({"stable_kimg": 0, "fade_kimg": 0}, "would never grow"),
        ({"path_length_weight": 2, "generator": "traditional"}, "the traditional generator has no w"),
        ({"r1_through_augmentation": True}, "is of an augmentation: choose augment fixed or ada"),
        ({"gamma": 1}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], message: str) -> None:
    """A setting out of bounds, or at odds with another, is refused by name."""
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(fields)
