"""Progressive growing as a function of the images shown."""

from __future__ import annotations

import math

import pytest

from training.config import PRESETS, TrainConfig
from training.schedule import ema_beta, stage_at, value_at


@pytest.mark.parametrize(
    ("kimg", "lod", "resolution", "batch_size", "learning_rate"),
    [
        (0, 7, 8, 256, 0.001),
        (600, 7, 8, 256, 0.001),
        (900, 6.5, 16, 128, 0.001),
        (1200, 6, 16, 128, 0.001),
        (1800, 6, 16, 128, 0.001),
        (2100, 5.5, 32, 64, 0.001),
        (4 * 1200 - 300, 3.5, 128, 32, 0.0015),
        (5 * 1200, 2, 256, 32, 0.002),
        (7 * 1200, 0, 1024, 32, 0.003),
        (25_000, 0, 1024, 32, 0.003),
    ],
)
def test_paper_schedule_at_known_images(
    kimg: int, lod: float, resolution: int, batch_size: int, learning_rate: float
) -> None:
    """The paper's schedule has its known values at the corners of stable and fade."""
    stage = stage_at(TrainConfig(preset="paper1024"), kimg * 1000)
    assert stage.lod == pytest.approx(lod)
    assert (stage.resolution, stage.batch_size) == (resolution, batch_size)
    assert stage.learning_rate == learning_rate


@pytest.mark.parametrize("preset", PRESETS)
def test_schedule_only_grows(preset: str) -> None:
    """The level of detail never rises, ends at 0, and the resolution is the least that shows it."""
    config = TrainConfig(preset=preset)
    total = int(config.total_kimg * 1000)
    stages = [stage_at(config, n) for n in range(0, total + 1, max(total // 997, 1))]
    lods = [stage.lod for stage in stages]
    assert lods == sorted(lods, reverse=True)
    assert lods[-1] == 0
    assert stages[0].resolution == config.start_resolution
    assert all(stage.resolution == config.resolution / 2 ** math.floor(stage.lod) for stage in stages)


def test_no_growing_when_it_starts_at_full_resolution() -> None:
    """Started at its full resolution, training is at level of detail 0 throughout."""
    config = TrainConfig(resolution=16, start_resolution=16, stable_kimg=0, fade_kimg=0)
    assert stage_at(config, 0).lod == stage_at(config, 10**6).lod == 0


def test_steps_hold_up_to_the_next_resolution() -> None:
    """A table by resolution gives the entry of the largest resolution not above the one asked for."""
    steps = {"4": "a", "32": "b", "128": "c"}
    assert [value_at(steps, r) for r in (4, 16, 32, 64, 128, 1024)] == ["a", "a", "b", "b", "c", "c"]


def test_ema_half_life() -> None:
    """After as many images as the half-life, half of the weight is on what came before, at any batch size."""
    for batch_size in (8, 100, 500):
        assert ema_beta(batch_size, 10) ** (10_000 / batch_size) == pytest.approx(0.5)
    assert ema_beta(8, 0) == 0
