"""Compile what a run will come to before it gets there, several phases at once, into the cache that training reads.

    python -m training.engine.precompile store/runs/20261123-101500-faces-face128-3f2a --jobs 4

`python -m training` starts this beside itself on a GPU, so that a run need not wait for one phase after another, nor
growing for the compiler. Each process has a GPU's context and the networks in its memory, and runs
nothing there. Not here: how a phase is compiled (`training.engine.gradients`).
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from storage.errors import PipelineError
from storage.runs import Run
from storage.store import Store
from training.config import TrainConfig
from training.device import is_nvidia, resolve_device
from training.engine.ranks import Ranks
from training.engine.state import Training
from training.schedule import Stage, stages_from

log = logging.getLogger(__name__)

CORES_A_JOB = 4
MAX_JOBS = 8
JOB_BYTES = 3 * 2**29
"""Of the GPU's memory, for a context and the networks. Jobs take at most a quarter of what is free."""


def tasks_of(config: TrainConfig, num_images: int) -> list[tuple[Stage, str]]:
    """Each stage to come with each of its phases; the discriminator's last, as training begins with that itself."""
    phases = ["generator", "discriminator"]
    if config.loss != "wgan_gp" and config.r1_interval > 1:
        phases.insert(1, "discriminator_alone")
    if config.path_length_weight > 0:
        phases.insert(1, "path_length")
    return [(stage, phase) for stage in stages_from(config, num_images) for phase in phases]


@cache
def _training(folder: Path, device: torch.device, world: int) -> Training:
    run = Run(folder)
    config = TrainConfig.recorded(run.record.config_now, f"run {run.id}", exact=True)
    torch.set_num_threads(config.num_cpu_threads)  # as training does: the cache asks for it
    return Training.begin(config, device, Ranks(world=world))


def _compile(folder: Path, device: torch.device, world: int, stage: Stage, phase: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    _training(folder, device, world).compile(stage, phase)


def precompile(folder: Path, device: torch.device, world: int, jobs: int) -> None:
    """Compile all that the run in `folder` will need after its newest checkpoint, `jobs` at once, on `world` processes.

    What a phase fails with is raised.
    """
    run = Run(folder)
    config = TrainConfig.recorded(run.record.config_now, f"run {run.id}", exact=True)
    checkpoints = run.checkpoints()
    tasks = tasks_of(config, int(checkpoints[-1].name) if checkpoints else 0)
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=spawning) as pool:
        futures = [pool.submit(_compile, folder, device, world, *task) for task in tasks]
        for future in futures:
            future.result()


def keep_compiled_in(store: Store) -> None:
    """Have this process keep what it compiles beside the runs, so that the next one begins in seconds."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(store.root / "cache" / "compiled"))


@contextmanager
def compiling_ahead(run: Run, config: TrainConfig, ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Within it, a process of low priority compiles ahead of training, on a GPU and with cores to spare; one a machine,
    for all of its ranks.

    What it says is in the run's precompile.log. Where it fails, training compiles by itself.
    """
    jobs = min(MAX_JOBS, len(os.sched_getaffinity(0)) // CORES_A_JOB)
    if is_nvidia(device):
        jobs = min(jobs, torch.cuda.mem_get_info()[0] // 4 // JOB_BYTES)
    if not is_nvidia(device) or not config.compile or jobs < 1 or not ranks.is_first_here:
        yield
        return
    command = [sys.executable, "-m", "training.engine.precompile", str(run.folder), "--device", str(device)]
    command += ["--world", str(ranks.world), "--jobs", str(jobs)]
    with beside(command, run.folder / "precompile.log"):
        yield


@contextmanager
def beside(command: list[str], log_path: Path) -> Iterator[None]:
    """Within it, a process runs beside this one; it and all that it started end at the exit at the latest."""
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(CORES_A_JOB)}
    with log_path.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
        try:
            yield
        finally:
            if process.poll():
                log.warning(
                    "what ran beside training ended with status %d: see %s", process.returncode, log_path
                )
            with suppress(ProcessLookupError):  # all of it has ended
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def end_with_parent() -> None:
    """Have this process, which leads its group, end with all of the group when its parent is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.killpg(0, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int | str:
    """Compile and return the exit status, or what went wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m training.engine.precompile", description="Compile a run's phases."
    )
    parser.add_argument("run_folder", type=Path, help="folder that holds run.json")
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cuda is the first GPU that is visible"
    )
    parser.add_argument("--world", type=int, default=1, help="how many processes the run will have")
    parser.add_argument("--jobs", type=int, default=MAX_JOBS, help="phases compiled at once")
    given = parser.parse_args()
    if os.getpgrp() == os.getpid():  # not where a shell's pipeline has it
        end_with_parent()
    os.nice(10)
    run = Run(given.run_folder.resolve())
    try:
        device = torch.device(given.device)
        resolve_device(device.type)
        keep_compiled_in(run.store)
        precompile(run.folder, device, given.world, given.jobs)
    except PipelineError as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
