"""Seconds per thousand images of one whole training step on a GPU, as training runs it: every row in one call.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --resolutions 256 --profile kernels
    python benchmarks/training_step.py --resolutions 128 --peer style-based-gan-pytorch

A step is both phases with style mixing, both Adam steps, the averaged generator and the statistics, at the paper's
widths and full resolution, on random images that are on the device. Plain rows are the same functions uncompiled, with
float32 features and TF32 products. Reading images is not in it, nor is compiling: the last column is the seconds of
the first step, compiling with it; of further R1 intervals, what they need compiled beyond the first. Compiled phases
are kept in TORCHINDUCTOR_CACHE_DIR, so for the seconds of a first start let that be an empty folder.

The peer is a checkout of rosinality/style-based-gan-pytorch: its networks, and the step that its train.py takes with
`--loss r1 --mixing`, in float32 with TF32 products and channels as it has them. It is not part of this project.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from training.config import TrainConfig
from training.device import resolve_device
from training.engine.state import Training
from training.schedule import stage_at

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

    step, first = timed(lambda: training.step(stage, pixels), interval, seconds)
    training.check_health()
    s_per_kimg = step / stage.batch_size * 1000
    name = f"{training.config.precision:<9} {'yes' if training.config.compile else 'no':<8}"
    return (
        f"{stage.resolution:<5} {stage.batch_size:<6} {interval:<9} {name} | {s_per_kimg:6.3f}  "
        f"{1000 / s_per_kimg:8.0f}  {tflop:10.0f}  {tflop / s_per_kimg:7.0f}  "
        f"{torch.cuda.max_memory_allocated() / 2**30:7.1f}  {first:12.1f}"
    )


def timed(step: Callable[[], None], interval: int, seconds: float) -> tuple[float, float]:
    """Seconds of a step, the median of three means over whole intervals, and of the very first one."""

    def taken(num_steps: int) -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(num_steps):
            step()
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    first = taken(1)
    warm = taken(interval + 2) / (interval + 2)
    num_steps = interval * max(1, round(seconds / (warm * interval)))
    return sorted(taken(num_steps) / num_steps for _ in range(3))[1], first


# --------------------------------------------------------------------------------------------------------------
# The peer


def peer_row(folder: Path, resolution: int, batch: int, seconds: float) -> str:
    """One row of the peer's step, R1 in each."""
    spec = importlib.util.spec_from_file_location("peer_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    generator, discriminator = model.StyledGenerator(512).cuda(), model.Discriminator().cuda()
    level = int(math.log2(resolution)) - 2
    if level >= len(generator.generator.progression):
        return f"{resolution:<5} the peer ends at {4 << (len(generator.generator.progression) - 1)} px"
    torch.cuda.reset_peak_memory_stats()
    step = peer_step(
        generator, discriminator, level, torch.rand(batch, 3, resolution, resolution).cuda() * 2 - 1
    )
    s_per_kimg = timed(step, 1, seconds)[0] / batch * 1000
    return (
        f"{resolution:<5} {batch:<6} {1:<9} {'peer':<9} {'no':<8} | {s_per_kimg:6.3f}  {1000 / s_per_kimg:8.0f}  "
        f"{'-':>10}  {'-':>7}  {torch.cuda.max_memory_allocated() / 2**30:7.1f}"
    )


def peer_step(
    generator: nn.Module, discriminator: nn.Module, level: int, reals: Tensor
) -> Callable[[], None]:
    """Both networks' steps and the averaging, as the peer's train.py orders them."""
    averaged = copy.deepcopy(generator)
    slow = {"params": generator.style.parameters(), "lr": 1e-5}
    of_generator = torch.optim.Adam(generator.generator.parameters(), lr=1e-3, betas=(0.0, 0.99))
    of_generator.add_param_group(slow)
    of_discriminator = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.0, 0.99))
    images = reals.clone().requires_grad_()

    def fakes() -> Tensor:
        z = torch.randn(2 if random.random() < 0.9 else 1, len(reals), 512, device=reals.device)
        return generator(list(z), step=level, alpha=1)

    def step() -> None:
        generator.requires_grad_(False)
        discriminator.requires_grad_(True)
        discriminator.zero_grad()
        scores = discriminator(images, step=level, alpha=1)
        F.softplus(-scores).mean().backward(retain_graph=True)
        (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
        (5 * slope.flatten(1).norm(2, dim=1).square().mean()).backward()
        F.softplus(discriminator(fakes(), step=level, alpha=1)).mean().backward()
        of_discriminator.step()
        generator.requires_grad_(True)
        discriminator.requires_grad_(False)
        generator.zero_grad()
        F.softplus(-discriminator(fakes(), step=level, alpha=1)).mean().backward()
        of_generator.step()
        with torch.no_grad():
            for kept, new in zip(averaged.parameters(), generator.parameters(), strict=True):
                kept.mul_(0.999).add_(new, alpha=0.001)

    return step


# --------------------------------------------------------------------------------------------------------------


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
    parser.add_argument(
        "--no-plain", action="store_true", help="leave out the plain rows, which take longest"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="a measurement, of three")
    parser.add_argument("--profile", type=Path, help="folder for a table of kernels at each resolution")
    parser.add_argument("--peer", type=Path, help="checkout of the peer, for a row at each resolution")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n{HEADER}", flush=True)
    for resolution in given.resolutions:
        tflop = {interval: tflop_a_kimg(resolution, interval) for interval in given.r1_intervals}
        rows = [(batch, True) for batch in given.batches]
        for batch, fast in rows if given.no_plain else [(given.batches[0], False), *rows]:
            training = begin(resolution, batch, given.r1_intervals[0], fast=fast)
            for interval in given.r1_intervals:
                # Further intervals share the compiled step that has R1; only its weight is not theirs.
                print(row(training, interval, tflop[interval], given.seconds), flush=True)
            del training
            gc.collect()
            torch.cuda.empty_cache()
        if given.peer:
            print(peer_row(given.peer, resolution, given.batches[0], given.seconds), flush=True)
        if given.profile:
            profile(resolution, given.batches[0], given.profile)


if __name__ == "__main__":
    main()
