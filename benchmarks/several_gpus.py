"""Images a second of one training run on several GPUs, against one of them: the step alone, as training runs it.

    torchrun --nproc-per-node 2 benchmarks/several_gpus.py

The step is that of `benchmarks/training_step.py`, R1 in each, bfloat16 and compiled. One GPU first, the others idle;
then all of them, each with as many images as the one had; then all with the batch of the one shared out, which is the
same training, sooner. An empty TORCHINDUCTOR_CACHE_DIR makes it minutes longer.
"""

from __future__ import annotations

import argparse
import gc
import time

import torch

from training.config import TrainConfig
from training.engine.ranks import Ranks, joined
from training.engine.state import Training
from training.schedule import stage_at


def images_per_second(
    resolution: int, batch: int, seconds: float, ranks: Ranks, device: torch.device
) -> float:
    """The median of three measurements of about so many seconds each, of the whole batch of all ranks."""
    config = TrainConfig.model_validate(
        {"preset": "paper1024", "resolution": resolution, "start_resolution": resolution,
         "batch_size": {resolution: batch}}
    )  # fmt: skip
    training = Training.begin(config, device, ranks)
    stage = stage_at(config, 0)
    shape = (batch // ranks.world, 3, resolution, resolution)
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)

    def taken(num_steps: int) -> float:
        torch.cuda.synchronize()
        ranks.any(False)  # all begin together
        begun = time.perf_counter()
        for _ in range(num_steps):
            training.step(stage, pixels)
            ranks.any(False)  # as the loop asks whether any is to stop
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    taken(3)
    guess = 0.055 * resolution / 256 * batch / 32 / ranks.world
    num_steps = max(3, round(seconds / guess))  # alike on every rank
    step = sorted(taken(num_steps) / num_steps for _ in range(3))[1]
    training.check_health()
    return batch / step


def main() -> None:
    """Print a row for one GPU, and two for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="of one GPU")
    parser.add_argument("--seconds", type=float, default=3.0, help="a measurement, about, of three")
    given = parser.parse_args()
    with joined("cuda") as (ranks, device):
        if ranks.is_first:
            print(f"torch {torch.__version__}, {ranks.world} x {torch.cuda.get_device_name(device)}")
            print("px    GPUs  batch | images/s  s/kimg  of one GPU's", flush=True)
        one = 0.0
        for group, batch in (
            (Ranks(), given.batch),
            (ranks, given.batch * ranks.world),
            (ranks, given.batch),
        ):
            if group is ranks or ranks.is_first:
                found = images_per_second(given.resolution, batch, given.seconds, group, device)
                one = one or found
                if ranks.is_first:
                    print(
                        f"{given.resolution:<5} {group.world:<5} {batch:<5} | {found:8.0f}  {1000 / found:6.3f}  "
                        f"{found / one:12.2f}",
                        flush=True,
                    )
            gc.collect()
            torch.cuda.empty_cache()
            ranks.any(False)  # the others wait, idle, while one is measured


if __name__ == "__main__":
    main()
