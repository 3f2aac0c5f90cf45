"""The training loop: the one function that puts schedule, images, losses, checkpoints and records together.

It does no mathematics of its own and starts no process; `python -m training` calls it. Everything is counted in
real images shown, and everything random is drawn from (seed, images shown), so that a run that was stopped and
resumed is, on a CPU, bit for bit the run that was not.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from storage.errors import TrainingError
from storage.runs import Run
from training.checkpoint import checkpoint_name, load_checkpoint, prune_checkpoints, save_checkpoint
from training.config import TrainConfig
from training.data import ImageArray, RealImages
from training.generate import grid_metadata, images_from_seeds, write_grid
from training.loss import Losses
from training.networks import (
    Discriminator,
    Generator,
    TraditionalGenerator,
    build_discriminator,
    build_generator,
)
from training.ops import downsample, upsample
from training.schedule import Stage, ema_beta, stage_at
from training.tracking import Tracker

log = logging.getLogger(__name__)

TERMS = ("loss_g", "loss_d", "r1", "real_logit", "fake_logit")


def train(
    run: Run,
    config: TrainConfig,
    images: RealImages,
    device: torch.device,
    tracker: Tracker,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train `run` to its end, from its newest checkpoint if it has one, and return what result.json says.

    When `should_stop` says so, a checkpoint is written after the step in hand, and the result is marked stopped.
    """
    images.check(config.resolution)
    run.result_path.unlink(missing_ok=True)
    training = Training.begin(config, device)
    if checkpoints := run.checkpoints():
        training.load(checkpoints[-1])
        log.info("going on from %s", checkpoints[-1])
    _forget_later_stats(run.stats_path, training.num_images)

    reals: Iterator[ImageArray] | None = None
    stopped = False
    while training.num_images < config.total_kimg * 1000 and not stopped:
        begun = time.perf_counter()
        before = training.num_images
        stage = stage_at(config, before)
        if stage.resolution != training.resolution:
            training.enter(stage.resolution)
            reals = None
        if reals is None:
            reals = images.stream(before, stage.resolution)

        training.step(stage, next_batch(reals, stage, device))
        training.tally.seconds += time.perf_counter() - begun

        finished = training.num_images >= config.total_kimg * 1000
        stopped = not finished and should_stop()
        if finished or _crosses(before, training.num_images, config.tick_kimg):
            _write_tick(run, training, stage, tracker)
        if finished or stopped or _crosses(before, training.num_images, config.snapshot_kimg):
            _write_snapshot(run, training, tracker)
    return _write_result(run, training, stopped)


# --------------------------------------------------------------------------------------------------------------
# State


@dataclass
class Tally:
    """Sums since the last tick."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TERMS, 0.0))


@dataclass
class Training:
    """All that a checkpoint holds, and the step that moves it on."""

    config: TrainConfig
    device: torch.device
    generator: Generator | TraditionalGenerator
    generator_ema: Generator | TraditionalGenerator
    discriminator: Discriminator
    optimizers: dict[str, torch.optim.Adam]
    num_images: int = 0
    resolution: int = 0
    """The resolution of the last step; 0 before the first."""
    seconds: float = 0.0
    """Time spent in steps up to the last tick, over every session of the run."""
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def begin(cls, config: TrainConfig, device: torch.device) -> Training:
        """A run's state before its first image."""
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")  # TF32
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            generator, discriminator = build_generator(config), build_discriminator(config)
        for network in (generator, discriminator):
            network.to(device)
            if device.type == "cuda":
                network.to(memory_format=torch.channels_last)
        averaged = copy.deepcopy(generator).requires_grad_(False)
        betas = (config.adam_beta1, config.adam_beta2)
        optimizers = {
            name: torch.optim.Adam(network.parameters(), betas=betas, eps=1e-8)
            for name, network in (("generator", generator), ("discriminator", discriminator))
        }
        return cls(config, device, generator, averaged, discriminator, optimizers)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks under the names they have in a checkpoint."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_ema": self.generator_ema,
        }

    @property
    def total_seconds(self) -> float:
        """Time spent in steps, over every session of the run."""
        return self.seconds + self.tally.seconds

    def enter(self, resolution: int) -> None:
        """Begin a resolution, as its fade begins: Adam's moments start afresh."""
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        self.resolution = resolution

    def step(self, stage: Stage, reals: Tensor) -> None:
        """One step of both networks on `reals` (N, 3, R, R) in [-1, 1]."""
        rng = step_rng(self.config.seed, self.num_images, self.device)
        losses = Losses(
            self.generator, self.discriminator, self.config.mixing_probability, self.config.r1_gamma
        )
        self._set_lod(stage.lod)

        real_phase = losses.discriminator_phase(reals, rng)
        r1 = losses.r1_phase(real_phase)
        self._descend("discriminator", real_phase.loss + r1, stage.learning_rate)

        fake_phase = losses.generator_phase(len(reals), rng)
        self._descend("generator", fake_phase.loss, stage.learning_rate)
        if isinstance(self.generator, Generator) and fake_phase.w is not None:
            self.generator.update_w_avg(fake_phase.w, self.config.w_avg_beta)
        average_into(self.generator_ema, self.generator, ema_beta(len(reals), self.config.ema_half_life_kimg))

        self.num_images += len(reals)
        logits = (real_phase.real_logits.mean(), real_phase.fake_logits.mean())
        self._count(len(reals), torch.stack([fake_phase.loss, real_phase.loss, r1, *logits]))

    def state(self) -> dict[str, Any]:
        """What state.json says beside the hashes."""
        return {
            "num_images": self.num_images,
            "resolution": self.resolution,
            "seconds": self.seconds,
            "tally": asdict(self.tally),
            "config": self.config.model_dump(mode="json"),
            "config_sha256": self.config.digest(),
        }

    def load(self, folder: Path) -> None:
        """Take up the state of a checkpoint."""
        state = load_checkpoint(folder, self.networks, self.optimizers)
        self.num_images = state["num_images"]
        self.resolution = state["resolution"]
        self.seconds = state["seconds"]
        self.tally = Tally(**state["tally"])

    def show_present_lod(self) -> None:
        """Set the level of detail for pictures: that of the images shown by now."""
        self._set_lod(stage_at(self.config, self.num_images).lod)

    def _set_lod(self, lod: float) -> None:
        for network in (self.generator, self.generator_ema, self.discriminator):
            network.lod = lod

    def _descend(self, name: str, loss: Tensor, learning_rate: float) -> None:
        """One Adam step of one network."""
        optimizer, network = self.optimizers[name], self.networks[name]
        parameters = [p for p in network.parameters() if p.requires_grad]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        # Asking for these gradients alone leaves the other network's untouched; None where lod hides a layer.
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _count(self, num: int, terms: Tensor) -> None:
        """Add a step to the tally; a loss that is not a finite number ends training."""
        values = dict(zip(TERMS, terms.tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise TrainingError(f"training diverged at image {self.num_images}: {shown}")
        self.tally.steps += 1
        self.tally.images += num
        for name, value in values.items():
            self.tally.sums[name] += value


# --------------------------------------------------------------------------------------------------------------
# Parts of a step


def step_rng(seed: int, num_images: int, device: torch.device) -> torch.Generator:
    """The random numbers of the step that begins after `num_images` images."""
    digest = hashlib.sha256(f"{seed}:{num_images}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def next_batch(reals: Iterator[ImageArray], stage: Stage, device: torch.device) -> Tensor:
    """The next real images (N, 3, R, R), faded as far as the networks are."""
    batch = np.stack(list(islice(reals, stage.batch_size)))
    return faded_reals(torch.from_numpy(batch).to(device), stage.lod)


def faded_reals(pixels_N3RR: Tensor, lod: float) -> Tensor:
    """uint8 pixels in [-1, 1], blended with their half-resolution form by the fraction of `lod`."""
    x = pixels_N3RR.float() / 127.5 - 1
    fade = lod - math.floor(lod)
    return torch.lerp(x, upsample(downsample(x)), fade) if fade > 0 else x


@torch.no_grad()
def average_into(averaged: nn.Module, network: nn.Module, beta: float) -> None:
    """averaged = beta * averaged + (1 - beta) * network; buffers are copied."""
    for mean, parameter in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(parameter, 1 - beta)
    for kept, buffer in zip(averaged.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)


# --------------------------------------------------------------------------------------------------------------
# Records


def _crosses(before: int, after: int, interval_kimg: float) -> bool:
    """Whether a multiple of the interval lies in (before, after]."""
    return after // (interval_kimg * 1000) > before // (interval_kimg * 1000)


def _forget_later_stats(path: Path, num_images: int) -> None:
    """Drop the lines a killed session wrote after the checkpoint it is resumed from."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    # The last line may be cut short by a kill; only a whole one ends in a newline.
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["num_images"] <= num_images]
    path.write_text("".join(kept))


def _write_tick(run: Run, training: Training, stage: Stage, tracker: Tracker) -> None:
    """Add a line to stats.jsonl and start a new tally."""
    tally = training.tally
    training.seconds = training.total_seconds
    training.tally = Tally()
    line: dict[str, Any] = {
        "num_images": training.num_images,
        "kimg": training.num_images / 1000,
        "total_kimg": training.config.total_kimg,
        "resolution": stage.resolution,
        "lod": stage.lod,
        "batch_size": stage.batch_size,
        **{name: total / tally.steps for name, total in tally.sums.items()},
        "seconds_per_kimg": tally.seconds / tally.images * 1000,
        "images_per_second": tally.images / tally.seconds,
        "seconds": training.seconds,
    }
    with run.stats_path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    log.info(
        "%.2f of %g kimg  %dpx  G %.3f  D %.3f  R1 %.4f  %.1f s/kimg",
        line["kimg"], line["total_kimg"], stage.resolution, line["loss_g"], line["loss_d"], line["r1"],
        line["seconds_per_kimg"],
    )  # fmt: skip
    tracker.log_tick(line)


def _write_snapshot(run: Run, training: Training, tracker: Tracker) -> None:
    """Write a checkpoint and its sample grid."""
    name = checkpoint_name(training.num_images)
    dataset = run.record["dataset"]
    folder = run.checkpoints_dir / name
    lineage = {"run_id": run.id, "dataset": {k: dataset[k] for k in ("name", "version", "manifest_sha256")}}
    state = save_checkpoint(folder, training.networks, training.optimizers, {**lineage, **training.state()})
    prune_checkpoints(run.checkpoints(), training.config.keep_checkpoints)
    grid = run.grids_dir / f"{name}.png"
    _write_grid(grid, training, grid_metadata(folder, state))
    tracker.log_snapshot(folder, grid, training.num_images)


def _write_grid(path: Path, training: Training, metadata: dict[str, Any]) -> None:
    """Draw the averaged generator's images of fixed seeds."""
    training.show_present_lod()
    config = training.config
    columns = 8 if config.resolution <= 256 else 4
    seeds = range(columns * columns // 2)
    images = images_from_seeds(
        training.generator_ema, seeds, config.truncation_psi, truncation_cutoff=config.truncation_cutoff
    )
    shown = {**metadata, "seeds": list(seeds), "truncation_psi": config.truncation_psi}
    write_grid(images, path, shown, columns=columns)


def _write_result(run: Run, training: Training, stopped: bool) -> dict[str, Any]:
    """Write result.json: how far the run came and what it left."""
    kimg = training.num_images / 1000
    newest = run.newest_checkpoint().name
    gpu = torch.cuda.get_device_name(training.device) if training.device.type == "cuda" else None
    result = {
        "run_id": run.id,
        "stopped": stopped,
        "num_images": training.num_images,
        "kimg": kimg,
        "checkpoint": newest,
        "grid": f"{run.grids_dir.name}/{newest}.png",
        "seconds": training.total_seconds,
        "seconds_per_kimg": training.total_seconds / kimg,
        "device": gpu or training.device.type,
    }
    run.result_path.write_text(json.dumps(result, indent=2) + "\n")
    return result
