"""How long steps take here, and how much of a GPU: each kind of step that a run will come to, done for some seconds.

What is trained is thrown away. Compiling, which the first step of a kind begins with, is timed apart and is not lost
where the run's cache is used. Not here: what is made of the measurements (`training.estimate`).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator

import torch

from training.config import TrainConfig
from training.data import RealImages, Shown
from training.device import resolve_device
from training.engine.state import Training
from training.estimate import Kind, Rate
from training.loop import memory_told, next_batch
from training.schedule import Stage

MIN_STEPS = 4
WARM_UP = 2


def device_name(config: TrainConfig) -> str:
    """What the machine at hand trains such a config on."""
    device = resolve_device(config.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


def probe(
    config: TrainConfig,
    kinds: list[Kind],
    images: RealImages,
    *,
    processes: int = 1,
    seconds: float = 60.0,
    on_kind: Callable[[Kind, Rate, float], None] = lambda kind, rate, compiling_s: None,
) -> dict[Kind, Rate]:
    """The rate of each kind of step on this machine; `on_kind` is told each, and how long its first step took.

    Of several processes one is probed, by its share of a batch: what they take to exchange gradients is not in it.
    A kind takes at most some `seconds`, a third of them to warm up, or as long as a few steps do.
    """
    device = resolve_device(config.device)
    torch.set_num_threads(config.num_cpu_threads)
    shares = {key: num // processes for key, num in config.batch_size.items()}
    training = Training.begin(config.model_copy(update={"batch_size": shares}), device)
    rates = {}
    for kind in kinds:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        num = kind.stage.batch_size // processes
        reals = images.stream(0, kind.stage.resolution, batch_size=num, rows=range(num))
        _, compiling_s = _steps(training, kind.stage, reals, num, 1, 0.0)
        _steps(training, kind.stage, reals, num, WARM_UP, seconds / 12)
        least = max(MIN_STEPS, config.r1_interval, config.path_length_interval)
        done, taken_s = _steps(training, kind.stage, reals, num, least, seconds / 4)
        memory = torch.cuda.max_memory_reserved() if device.type == "cuda" else None
        rates[kind] = Rate(taken_s / done / kind.stage.batch_size * 1000, memory)
        on_kind(kind, rates[kind], compiling_s)
    return rates


def _steps(
    training: Training, stage: Stage, reals: Iterator[Shown], num: int, least: int, budget_s: float
) -> tuple[int, float]:
    """Train for so many steps or seconds, whichever is longer: how many they were, and seconds until all have ended."""
    begun, done = time.perf_counter(), 0
    while done < least or time.perf_counter() - begun < budget_s:
        training.enter(stage)
        with memory_told(training, stage):
            training.step(stage, *next_batch(reals, num, training.device))
        done += 1
        if done % MIN_STEPS == 0:
            training.check_health()  # waits for a GPU
    training.check_health()
    return done, time.perf_counter() - begun
