"""Seconds of one training step on a CPU at each resolution of a preset, with other numbers of threads.

    python benchmarks/training_threads.py --preset smoke --threads 1 2

Each thread count runs in a process of its own, with spinning and with passive waiting, since OpenMP reads that once.
Add --beside-a-busy-core to run a busy loop beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace


def measure(preset: str, threads: int, repeats: int) -> None:
    """Print the median seconds of a step at each resolution of the preset."""
    import torch

    from training.config import TrainConfig
    from training.engine.state import Training
    from training.schedule import stage_at, value_at

    torch.set_num_threads(threads)
    config = TrainConfig.model_validate({"preset": preset})
    training = Training.begin(config, torch.device("cpu"))
    stage, resolution, lod = stage_at(config, 0), config.resolution, 0.0
    cells = []
    while resolution >= config.start_resolution:
        stage = replace(
            stage, resolution=resolution, lod=lod, batch_size=value_at(config.batch_size, resolution)
        )
        reals = torch.randint(256, (stage.batch_size, 3, resolution, resolution), dtype=torch.uint8)
        seconds = []
        for _ in range(repeats + 2):
            start = time.perf_counter()
            training.step(stage, reals)
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds[2:])
        cells.append(f"{resolution}px {median:.3f} s a step, {1000 * median / stage.batch_size:.2f} s/kimg")
        resolution, lod = resolution // 2, lod + 1
    print("   ".join(reversed(cells)))


def main() -> None:
    """Run every combination in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beside-a-busy-core", action="store_true")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        return measure(given.preset, given.measure, given.repeats)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if given.beside_a_busy_core else []
    try:
        for threads in given.threads:
            for policy in ("ACTIVE", "PASSIVE"):
                command = [
                    sys.executable,
                    __file__,
                    "--preset",
                    given.preset,
                    "--repeats",
                    str(given.repeats),
                ]
                environment = {**os.environ, "OMP_WAIT_POLICY": policy, "PYTHONPATH": os.getcwd()}
                print(f"{threads} threads, {policy:<7}  ", end="", flush=True)
                subprocess.run([*command, "--measure", str(threads)], env=environment, check=True)
    finally:
        for process in busy:
            process.kill()


if __name__ == "__main__":
    main()
