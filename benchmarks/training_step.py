"""Seconds per thousand images of one whole training step on a GPU, as training runs it: every row in one call.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --resolutions 256 --profile

A step is both phases with style mixing, both Adam steps, the averaged generator and the statistics, at the paper's
widths and full resolution, on random images that are on the device. Plain rows are the same functions uncompiled, with
float32 features and TF32 products. Reading images is not in it, nor is compiling: the last column is the seconds of
the first step, compiling with it; of further R1 intervals, what they need compiled beyond the first.
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from training.config import TrainConfig
from training.device import resolve_device
from training.schedule import stage_at
from training.state import Training

HEADER = (
    "px    batch  R1 every  features  compiled | s/kimg  images/s  TFLOP/kimg  TFLOP/s  peak GB  first step s"
)


def begin(resolution: int, batch: int, interval: int, *, fast: bool) -> Training:
    """Training at one resolution with the paper's widths."""
    config = TrainConfig.model_validate(
        {
            "preset": "paper1024",
            "resolution": resolution,
            "start_resolution": resolution,
            "batch_size": {resolution: batch},
            "r1_interval": interval,
            "precision": "bf16" if fast else "fp32",
            "compile": fast,
        }
    )
    return Training.begin(config, resolve_device("cuda"))


def images(training: Training) -> Tensor:
    """Random pixels of the size and number that a step takes."""
    stage = stage_at(training.config, 0)
    shape = (stage.batch_size, 3, stage.resolution, stage.resolution)
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=training.device)
    return pixels.contiguous(memory_format=torch.channels_last)


class CountFlops(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and products."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        result = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def tflop_a_kimg(resolution: int, interval: int) -> float:
    """Floating-point operations of the step per thousand images, in 10^12."""
    training = begin(resolution, 4, interval, fast=False)
    pixels = images(training)
    with CountFlops() as counter:
        for _ in range(interval):
            training.step(stage_at(training.config, 0), pixels)
    return counter.total / interval / 4 * 1000 / 1e12


def row(training: Training, interval: int, tflop: float, seconds: float) -> str:
    """Measure one row three times, for about so many seconds each; the median."""
    torch.cuda.reset_peak_memory_stats()
    training.config = training.config.model_copy(update={"r1_interval": interval})
    stage, pixels = stage_at(training.config, 0), images(training)

    def timed(num_steps: int) -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(num_steps):
            training.step(stage, pixels)
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    first = timed(1)
    warm = timed(interval + 2) / (interval + 2)
    num_steps = interval * max(1, round(seconds / (warm * interval)))
    step = sorted(timed(num_steps) / num_steps for _ in range(3))[1]
    training.check_health()
    s_per_kimg = step / stage.batch_size * 1000
    is_fast = training.config.compile
    return (
        f"{stage.resolution:<5} {stage.batch_size:<6} {interval:<9} {training.config.precision:<9} "
        f"{'yes' if is_fast else 'no':<8} | {s_per_kimg:6.3f}  {1000 / s_per_kimg:8.0f}  {tflop:10.0f}  "
        f"{tflop / s_per_kimg:7.0f}  {torch.cuda.max_memory_allocated() / 2**30:7.1f}  {first:12.1f}"
    )


def profile(resolution: int, batch: int, folder: Path) -> None:
    """Write the time of each kernel of a fast step to a file, and print the largest."""
    training = begin(resolution, batch, 1, fast=True)
    stage, pixels = stage_at(training.config, 0), images(training)
    for _ in range(3):
        training.step(stage, pixels)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        training.step(stage, pixels)
        torch.cuda.synchronize()
    table = profiler.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=-1, max_name_column_width=120
    )
    (folder / f"kernels_{resolution}_{batch}.txt").write_text(table)
    print("\n".join(table.splitlines()[:25]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--r1-intervals", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=2.0, help="a measurement, of three")
    parser.add_argument("--profile", type=Path, help="folder for a table of kernels at each resolution")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n{HEADER}", flush=True)
    for resolution in given.resolutions:
        tflop = {interval: tflop_a_kimg(resolution, interval) for interval in given.r1_intervals}
        for batch, fast in [(given.batches[0], False), *((batch, True) for batch in given.batches)]:
            training = begin(resolution, batch, given.r1_intervals[0], fast=fast)
            for interval in given.r1_intervals:
                # Further intervals share the compiled step that has R1; only its weight is not theirs.
                print(row(training, interval, tflop[interval], given.seconds), flush=True)
            del training
            gc.collect()
            torch.cuda.empty_cache()
        if given.profile:
            profile(resolution, given.batches[0], given.profile)


if __name__ == "__main__":
    main()
