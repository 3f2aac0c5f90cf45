"""What a training run will take: hours, GPU memory, disk and, given a price, cost, before anything starts.

Each kind of stage that is still to come (`kinds_of`) takes its images times the seconds an image takes there. Those are
measured on the machine at hand (`training.engine.probe`), or taken from a table of one GPU. Compiling is not in them.
Not here: any training.

    estimate(config, {kind: of_table(config, kind.stage) for kind in kinds_of(config)})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from training.config import TrainConfig
from training.networks import build_discriminator, build_generator, channels_at, level_of
from training.schedule import Stage, stage_at, value_at

TABLE_GPU = "NVIDIA H100 80GB HBM3"
STEP_MS = 3.2
"""What a step takes there however few its images are."""
TABLE: dict[int, tuple[float, float]] = {
    4: (0.15, 0.01), 8: (0.15, 0.01), 16: (0.31, 0.01), 32: (0.32, 0.02), 64: (0.56, 0.04), 128: (0.97, 0.075),
    256: (1.34, 0.075), 512: (2.28, 0.16), 1024: (3.96, 0.35),
}  # fmt: skip
"""Milliseconds and GiB an image there by resolution, at the paper's widths, bf16, compiled, R1 in every step.

From 64 px on by `docs/results.md` (batches of 32 and 64; 64 and 128 px before convolutions of our own), below by the
training runs in `docs/log.md`, of 2026-11-25 and 26; memory below 64 px is a guess.
"""
FULL_BASE, FULL_MAX = 8192, 512
"""The widths of the table's networks."""
GRID_BYTES_A_PIXEL = 2.0
"""Of a PNG of faces."""


@dataclass(frozen=True)
class Kind:
    """Steps that are alike: of one resolution, held or fading in."""

    stage: Stage
    """One of them."""
    kimg: float
    """Images that are still to be shown in such steps, in thousands."""


@dataclass(frozen=True)
class Rate:
    """What steps of one kind take."""

    seconds_per_kimg: float
    memory_bytes: int | None
    """At most, of a GPU; None where nothing counts it."""


def kinds_of(config: TrainConfig, num_images: int = 0) -> list[Kind]:
    """The kinds of step still to come after `num_images` images, in order, with how many images each shows."""
    total = 1000 * config.total_kimg
    phase = 1000 * (config.stable_kimg + config.fade_kimg)
    last = level_of(config.resolution) - level_of(config.start_resolution)
    borders = {float(num_images), total}
    for index in range(last):
        borders |= {index * phase + 1000 * config.stable_kimg, (index + 1) * phase}
    inside = sorted(border for border in borders if num_images <= border <= total)
    found: dict[tuple[int, bool], Kind] = {}
    for begin, end in pairwise(inside):
        stage = stage_at(config, int((begin + end) / 2))
        key = stage.resolution, stage.lod % 1 > 0
        before = found.get(key)
        found[key] = Kind(stage, (end - begin) / 1000 + (before.kimg if before else 0.0))
    return list(found.values())


def of_table(config: TrainConfig, stage: Stage, processes: int = 1) -> Rate:
    """What the table says of such steps: the paper's widths, and others by how many multiplications they need."""
    image_ms, image_gib = TABLE[stage.resolution]
    num = stage.batch_size // processes
    at_once = min(num, value_at(config.images_per_pass, stage.resolution, num))
    share = _multiplications(config, stage.resolution) / _multiplications(None, stage.resolution)
    seconds = (STEP_MS * num / at_once + image_ms * share * num) / 1000
    memory = image_gib * share**0.5 * at_once * 2**30 + 16 * num_parameters(config)
    return Rate(seconds / stage.batch_size * 1000, int(memory))


def _multiplications(config: TrainConfig | None, resolution: int) -> float:
    """Of the discriminator's convolutions up to a resolution, to which the generator's are alike."""
    base, most = (config.channel_base, config.max_channels) if config else (FULL_BASE, FULL_MAX)
    widths = [channels_at(level, base, most) for level in range(level_of(resolution) + 1)]
    sizes = [(4 << level) ** 2 for level in range(len(widths))]
    return float(sum(size * width**2 for size, width in zip(sizes, widths, strict=True)))


def num_parameters(config: TrainConfig) -> int:
    """Of both networks."""
    with torch.device("meta"):
        networks = build_generator(config), build_discriminator(config)
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def disk_bytes(config: TrainConfig, num_images: int = 0) -> int:
    """What a run's folder comes to: the checkpoints that are kept at a time, and all sample grids."""
    with torch.device("meta"):
        averaged = sum(p.numel() for p in build_generator(config).parameters())
    # Weights and Adam's two moments of both networks, and the averaged generator.
    checkpoint = 4 * (3 * num_parameters(config) + averaged)
    kept = config.keep_checkpoints + (config.keep_best is not None) + 1  # one more while it is written
    left_kimg = max(config.total_kimg - num_images / 1000, 0.0)
    grids = left_kimg // config.snapshot_kimg + 1
    tiles = 32 if config.resolution <= 256 else 8
    return int(kept * checkpoint + grids * tiles * config.resolution**2 * GRID_BYTES_A_PIXEL)


def estimate(
    config: TrainConfig,
    rates: Mapping[Kind, Rate],
    *,
    processes: int = 1,
    num_images: int = 0,
    price: float | None = None,
) -> dict[str, Any]:
    """What training by these rates comes to; `price` is that of one GPU, or machine, an hour."""
    levels = [
        {
            "resolution": kind.stage.resolution,
            "fades": kind.stage.lod % 1 > 0,
            "batch_size": kind.stage.batch_size,
            "kimg": round(kind.kimg, 3),
            "seconds_per_kimg": rate.seconds_per_kimg,
            "hours": kind.kimg * rate.seconds_per_kimg / 3600,
            "memory_bytes": rate.memory_bytes,
        }
        for kind, rate in rates.items()
    ]
    hours = sum(kind.kimg * rate.seconds_per_kimg / 3600 for kind, rate in rates.items())
    memories = [rate.memory_bytes for rate in rates.values() if rate.memory_bytes is not None]
    return {
        "levels": levels,
        "kimg": sum(kind.kimg for kind in rates),
        "hours": hours,
        "memory_bytes": max(memories, default=None),
        "disk_bytes": disk_bytes(config, num_images),
        "cost": None if price is None else hours * processes * price,
    }
