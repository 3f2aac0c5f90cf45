"""How training grows: a pure function of the number of real images shown so far.

It holds no state, so a resumed run meets the same schedule as one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from training.config import TrainConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """The settings of one training step."""

    lod: float
    """Level of detail: 0 at full resolution, 1 at half of it; a fraction is a fade (Progressive GAN, fig. 2)."""
    resolution: int
    """Side of the images trained on, in pixels."""
    batch_size: int
    learning_rate: float


def stage_at(config: TrainConfig, num_images: int) -> Stage:
    """The stage after `num_images` real images.

    Each resolution is held for `stable_kimg`; the next then fades in over `fade_kimg`.
    """
    levels = math.log2(config.resolution) - math.log2(config.start_resolution)
    phase_kimg = config.stable_kimg + config.fade_kimg
    lod = 0.0
    if levels > 0:
        phase, kimg = divmod(num_images / 1000, phase_kimg)
        faded = max(kimg - config.stable_kimg, 0.0) / config.fade_kimg if config.fade_kimg else 0.0
        lod = max(levels - phase - faded, 0.0)
    resolution = config.resolution >> math.floor(lod)
    return Stage(
        lod=lod,
        resolution=resolution,
        batch_size=value_at(config.batch_size, resolution),
        learning_rate=value_at(config.learning_rate, resolution),
    )


def stages_from(config: TrainConfig, num_images: int) -> list[Stage]:
    """A stage of each kind that is still to come after `num_images` real images, as `recorded_lod` tells them apart."""
    step = 1000 * (config.stable_kimg + config.fade_kimg)
    last = round(math.log2(config.resolution) - math.log2(config.start_resolution))
    starts = {num_images}
    for phase in range(last):
        for boundary in (phase * step + 1000 * config.stable_kimg, (phase + 1) * step):
            # A fade shows from the image after its boundary on, and kimg need not be whole images.
            starts |= {math.floor(boundary) + more for more in range(3)}
    kinds: dict[tuple[int, bool], Stage] = {}
    for start in sorted(s for s in starts if s == num_images or num_images < s < 1000 * config.total_kimg):
        stage = stage_at(config, start)
        kinds.setdefault((stage.resolution, recorded_lod(config, stage.lod) % 1 > 0), stage)
    return list(kinds.values())


def recorded_lod(config: TrainConfig, lod: float) -> float:
    """The level of detail that a compiled step is recorded at.

    A resolution below the last, held after it has faded in, keeps the step that it faded in by, with nothing of the
    level below showing: a little more work, and nothing to compile.
    """
    highest = math.log2(config.resolution) - math.log2(config.start_resolution)
    was_faded_in = config.fade_kimg > 0 and 0 < lod < highest
    return lod + 0.5 if was_faded_in and lod % 1 == 0 else lod


def value_at(steps: Mapping[str, T], resolution: int, otherwise: T | None = None) -> T:
    """The value of the largest key, a resolution in pixels, not above `resolution`; `otherwise` where there is none."""
    below = [int(key) for key in steps if int(key) <= resolution]
    if not below and otherwise is not None:
        return otherwise
    return steps[str(max(below))]


def ema_beta(batch_size: int, half_life_kimg: float) -> float:
    """Decay of the averaged generator over one step of `batch_size` images; 0 follows the generator."""
    return 0.5 ** (batch_size / (half_life_kimg * 1000)) if half_life_kimg > 0 else 0.0
