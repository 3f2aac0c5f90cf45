"""What a training run is between two steps: all that a checkpoint holds, and the step that moves it on.

Everything random in a step is drawn from (seed, images shown), so that the same state gives the same next one. Not
here: when there are steps, and of which images (`training.loop`); what is written down (`training.journal`); how a
phase's loss and its gradients come about (`training.loss`, `training.engine.gradients`).
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import TrainingError
from training.augment import AdaptiveStrength, draw_augmentation
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.device import is_nvidia
from training.engine.gradients import GradientFunction
from training.engine.ranks import GROUP, Ranks
from training.loss import (
    CriticPhase,
    DiscriminatorPhase,
    GeneratorPhase,
    PairingDiscriminatorPhase,
    PairingGeneratorPhase,
    PathLengthPhase,
    Phase,
    draw_directions,
    draw_latents,
    draw_shares,
    wasserstein_generator_loss,
)
from training.networks import (
    Discriminator,
    Generator,
    TraditionalGenerator,
    build_discriminator,
    build_generator,
)
from training.schedule import Stage, ema_beta, recorded_lod, stage_at, value_at

log = logging.getLogger(__name__)

ALONE = Ranks()
Passes = list[tuple[Tensor, ...]]
"""A phase's inputs, for each pass of a step."""
Share = Callable[[Tensor, int], Tensor]
"""Takes a pass's images out of a tensor in whose given dimension they lie."""
TERMS = GeneratorPhase.terms + DiscriminatorPhase.terms
"""Of a run without what is off by default."""
PENALTIES = {"r1", "r2"}
"""The terms that lazy regularization leaves out of most steps."""


class Tally:
    """Sums since the last tick, kept on the training device so that no step waits for them."""

    def __init__(self, device: torch.device, terms: tuple[str, ...] = TERMS) -> None:
        self._terms = terms
        self.images = 0
        self.seconds_before = 0.0
        """The run's seconds when it began."""
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        self.counts = torch.zeros(len(terms), dtype=torch.int64, device=device)
        """How many steps each term's sum is of."""
        exact = torch.float32 if device.type == "mps" else torch.float64  # which an Apple GPU does not know
        self.sums = torch.zeros(len(terms), dtype=exact, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self.most_in_a_row = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, num: int, terms: Tensor, is_skipped: Tensor) -> None:
        """Count one step; left out are terms that it did not come to, which are nan, and all of a skipped one."""
        self.images += num
        self.steps += ~is_skipped
        is_there = ~(terms.isnan() | is_skipped)
        self.counts += is_there
        self.sums += torch.where(is_there, terms.to(self.sums.dtype), 0.0)
        self.skipped += is_skipped
        self.skipped_in_a_row.add_(1).mul_(is_skipped)
        torch.maximum(self.most_in_a_row, self.skipped_in_a_row, out=self.most_in_a_row)

    def means(self) -> dict[str, float]:
        """The mean of each term over the steps that it is of; lazy penalties may be of none, and are left out then."""
        means = zip(self._terms, (self.sums / self.counts).tolist(), self.counts.tolist(), strict=True)
        return {name: mean for name, mean, count in means if count}

    def state(self) -> dict[str, Any]:
        """Its numbers as JSON, exactly."""
        numbers = {name: x for name, x in vars(self).items() if name != "_terms"}
        return {name: x.tolist() if isinstance(x, Tensor) else x for name, x in numbers.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for name, value in state.items():
            present = getattr(self, name)
            setattr(self, name, present.new_tensor(value) if isinstance(present, Tensor) else value)


@dataclass
class Training:
    """All that a checkpoint holds, and the step that moves it on."""

    config: TrainConfig
    device: torch.device
    generator: Generator | TraditionalGenerator
    generator_ema: Generator | TraditionalGenerator
    discriminator: Discriminator
    optimizers: dict[str, torch.optim.Adam]
    gradients: dict[str, GradientFunction]
    """By the names of `phases_of`."""
    is_compiled: bool
    augmentation: AdaptiveStrength
    tally: Tally
    path_length_mean: Tensor
    """The running mean of path length regularization; stays 0 without it."""
    ranks: Ranks
    num_images: int = 0
    resolution: int = 0
    """The resolution of the last step; 0 before the first."""
    lod: float | None = None
    """The level of detail of the last step; None before the first."""
    seconds: float = 0.0
    """Time spent in steps, over every session of the run."""

    @classmethod
    def begin(cls, config: TrainConfig, device: torch.device, ranks: Ranks = ALONE) -> Training:
        """A run's state before its first image."""
        on_gpu = device.type == "cuda"
        is_compiled = config.compile and is_nvidia(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            generator, discriminator = build_generator(config), build_discriminator(config)
        for network in (generator, discriminator):
            network.to(device)
            if on_gpu:
                network.to(memory_format=torch.channels_last)
        freeze_highest(discriminator, config.freeze_d)
        averaged = copy.deepcopy(generator).requires_grad_(False)  # before, as it draws in fp32
        set_precision(config, device, generator, discriminator)
        betas = (config.adam_beta1, config.adam_beta2)
        return cls(
            config=config,
            device=device,
            generator=generator,
            generator_ema=averaged,
            discriminator=discriminator,
            optimizers={
                name: torch.optim.Adam(network.parameters(), betas=betas, eps=1e-8, fused=True)
                for name, network in (("generator", generator), ("discriminator", discriminator))
            },
            gradients={
                name: GradientFunction(phase, phase.network, compiled=is_compiled)
                for name, phase in phases_of(config, generator, discriminator).items()
            },
            is_compiled=is_compiled,
            augmentation=AdaptiveStrength(config.augment_p, config.ada_target, config.ada_kimg, device),
            tally=Tally(device, terms_of(config)),
            path_length_mean=torch.zeros((), device=device),
            ranks=ranks,
        )

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks under the names they have in a checkpoint."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_ema": self.generator_ema,
        }

    def enter(self, stage: Stage) -> None:
        """Take up a stage, before each step: Adam's moments start afresh where a resolution begins, which is where its
        fade does, and where a fade ends if the config says so.
        """
        fade_ended = self.lod is not None and math.ceil(stage.lod) != math.ceil(self.lod)
        if stage.resolution != self.resolution or (fade_ended and self.config.adam_restarts_after_fade):
            for optimizer in self.optimizers.values():
                optimizer.state.clear()
        self.resolution, self.lod = stage.resolution, stage.lod

    def step(self, stage: Stage, pixels_N3RR: Tensor, label_N: Tensor | None = None) -> None:
        """One step of both networks on real images, uint8 and on the device. Nothing in it waits for a GPU.

        The images are this rank's of the batch; random numbers are drawn for the whole batch, on every rank alike.
        Networks that take labels make fakes of the real images' labels.
        """
        config, num = self.config, len(pixels_N3RR) * self.ranks.world
        rng = step_rng(config.seed, self.num_images, self.device)
        self._set_lod(recorded_lod(config, stage.lod) if self.is_compiled else stage.lod)

        has_penalty = config.loss == "wgan_gp" or self.num_images // num % config.r1_interval == 0
        phase = "discriminator" if has_penalty else "discriminator_alone"
        gradients, (terms_d, w_D) = self._mean_over_passes(
            phase, self._discriminator_inputs(stage, pixels_N3RR, label_N, rng)
        )
        self.ranks.mean_([*gradients.values(), terms_d, w_D])
        if config.w_avg_updates == "both":
            self._move_w_avg(w_D)
        skipped_d = self._descend("discriminator", gradients, stage.learning_rate)

        gradients, (terms_g, w_D) = self._mean_over_passes(
            "generator", self._generator_inputs(stage, pixels_N3RR, label_N, rng)
        )
        self.ranks.mean_([*gradients.values(), terms_g, w_D])
        if "path_length" in self.gradients:
            terms_g = torch.cat([terms_g, self._regularize_paths(gradients, stage, num, label_N, rng)])
        skipped_g = self._descend("generator", gradients, stage.learning_rate)
        if "path_length" in self.gradients:
            self.path_length_mean = torch.where(skipped_g, self.path_length_mean, terms_g[-1])
        self._move_w_avg(w_D)
        average_into(self.generator_ema, self.generator, ema_beta(num, config.ema_half_life_kimg))
        if config.augment == "ada":
            self.augmentation.update(terms_d[-1], num)  # real_sign

        self.num_images += num
        terms = torch.cat([terms_g, terms_d])
        for name in () if has_penalty else PENALTIES & set(terms_of(config)):
            terms[terms_of(config).index(name)] = torch.nan
        self.tally.add(num, terms, skipped_d | skipped_g)

    def compile(self, stage: Stage, phase: str) -> None:
        """Have the cache hold a phase as the steps of such a stage need it; nothing is trained."""
        num, rng = stage.batch_size, step_rng(self.config.seed, 0, self.device)
        self._set_lod(recorded_lod(self.config, stage.lod))
        shape = (num // self.ranks.world, stage.resolution, stage.resolution, 3)
        pixels = colours_first(torch.zeros(shape, dtype=torch.uint8, device=self.device))
        label_N = torch.zeros(len(pixels), dtype=torch.int64, device=self.device)
        if phase == "generator":
            passes = self._generator_inputs(stage, pixels, label_N, rng)
        elif phase == "path_length":
            passes = self._path_inputs(stage, num, label_N, rng)
        else:
            passes = self._discriminator_inputs(stage, pixels, label_N, rng)
        self.gradients[phase].compile(passes[0])

    def _mean_over_passes(
        self, phase: str, passes: Passes
    ) -> tuple[dict[nn.Parameter, Tensor], list[Tensor]]:
        """A phase's gradients and its other outputs, as means over the passes, each of as many images."""
        gradients, others = self.gradients[phase](*passes[0])
        if len(passes) == 1:
            return gradients, list(others)
        parameters, num = list(gradients), len(gradients)
        sums = [tensor.clone() for tensor in (*gradients.values(), *others)]  # which the next pass overwrites
        for inputs in passes[1:]:
            gradients, others = self.gradients[phase](*inputs)
            torch._foreach_add_(sums, [*gradients.values(), *others])
        torch._foreach_div_(sums, len(passes))
        return dict(zip(parameters, sums, strict=False)), sums[num:]

    def _shares(self, stage: Stage, num: int, *, compared: bool) -> list[Share]:
        """How each pass of a step takes its images out of this rank's `num`: whole groups where they are compared."""
        passes = num_passes(
            num, value_at(self.config.images_per_pass, stage.resolution, num), compared=compared
        )
        if passes == 1:
            return [_whole]
        parts = [Ranks(index, passes) for index in range(passes)]
        return [part.own if compared else part.part for part in parts]

    def images_at_once(self, stage: Stage) -> int:
        """How many images this process computes with in a pass."""
        num = stage.batch_size // self.ranks.world
        limit = value_at(self.config.images_per_pass, stage.resolution, num)
        return num // num_passes(num, limit, compared=True)

    def _discriminator_inputs(
        self, stage: Stage, pixels_N3RR: Tensor, label_N: Tensor | None, rng: torch.Generator
    ) -> Passes:
        """What the discriminator's phases take in each pass, with or without a penalty."""
        config, num = self.config, len(pixels_N3RR) * self.ranks.world
        augments = config.augment != "none"
        latents = draw_latents(self.generator, num, config.mixing_probability, rng, augments=augments)
        drawn_reals = draw_augmentation(num, rng) if augments else latents.augmentation_NR
        own, fade, p = self.ranks.own, self._fade(stage), self.augmentation.p
        mixed = (own(draw_shares(num, rng)),) if config.loss == "wgan_gp" else ()
        latents, drawn_reals = latents.of(own), own(drawn_reals)
        passes = []
        for of in self._shares(stage, len(pixels_N3RR), compared=True):
            fakes = latents.of(of)
            inputs = (of(pixels_N3RR, 0), of(drawn_reals, 0), fade, p, *fakes[:3], *fakes.noise)
            passes.append((*inputs, *self._labels(label_N, of), *(of(share, 0) for share in mixed)))
        return passes

    def _labels(self, label_N: Tensor | None, of: Share) -> tuple[Tensor, ...]:
        """What a phase takes after the noise: a pass's labels, where the networks take any."""
        if not self.config.label_values:
            return ()
        assert label_N is not None, "these networks need labels"
        return (of(label_N, 0),)

    def _generator_inputs(
        self, stage: Stage, pixels_N3RR: Tensor, label_N: Tensor | None, rng: torch.Generator
    ) -> Passes:
        """What the generator's phase takes in each pass: real images too, where each fake is paired with one."""
        if self.config.loss == "r3":
            return self._discriminator_inputs(stage, pixels_N3RR, label_N, rng)
        num = len(pixels_N3RR) * self.ranks.world
        augments = self.config.augment != "none"
        latents = draw_latents(self.generator, num, self.config.mixing_probability, rng, augments=augments)
        latents, fade, p = latents.of(self.ranks.own), self._fade(stage), self.augmentation.p
        passes: Passes = []
        for of in self._shares(stage, len(pixels_N3RR), compared=True):
            fakes = latents.of(of)
            passes.append((fade, p, *fakes[:3], *fakes.noise, *self._labels(label_N, of)))
        return passes

    def _path_inputs(self, stage: Stage, num: int, label_N: Tensor | None, rng: torch.Generator) -> Passes:
        """What path length regularization takes in each pass, of half a batch: differentiating twice needs memory."""
        half = max(num // 2, 1)  # StyleGAN2, section 3
        latents = draw_latents(self.generator, half, self.config.mixing_probability, rng)
        directions = draw_directions(half, stage.resolution, rng)
        latents, directions = latents.of(self.ranks.part), self.ranks.part(directions)
        passes = []
        firsts = None if label_N is None else label_N[: len(directions)]
        for of in self._shares(stage, len(directions), compared=False):
            fakes, labels = latents.of(of), self._labels(firsts, of)
            passes.append(
                (
                    self.path_length_mean,
                    of(directions, 0),
                    self._fade(stage),
                    *fakes[:2],
                    *fakes.noise,
                    *labels,
                )
            )
        return passes

    def _fade(self, stage: Stage) -> Tensor:
        return torch.full((), stage.lod % 1, device=self.device)

    def _regularize_paths(
        self,
        gradients: dict[nn.Parameter, Tensor],
        stage: Stage,
        num: int,
        label_N: Tensor | None,
        rng: torch.Generator,
    ) -> Tensor:
        """Add path length regularization to the generator's gradients where its turn has come; its terms."""
        if self.num_images // num % self.config.path_length_interval:
            return torch.stack([torch.full_like(self.path_length_mean, torch.nan), self.path_length_mean])
        added, (terms,) = self._mean_over_passes("path_length", self._path_inputs(stage, num, label_N, rng))
        self.ranks.mean_([*added.values(), terms])
        for parameter, gradient in added.items():
            gradients[parameter] = gradients[parameter] + gradient
        return terms

    def check_health(self) -> None:
        """Wait for the steps under way; TrainingError where too many in a row were skipped."""
        if int(self.tally.most_in_a_row) >= self.config.max_skipped_steps:
            raise TrainingError(
                f"training diverged before image {self.num_images}: {int(self.tally.most_in_a_row)} steps in a row "
                f"had gradients that are not finite (max_skipped_steps {self.config.max_skipped_steps})"
            )

    def end_tally(self) -> Tally | None:
        """The tally so far, a new one begun; None where every step in it was skipped, and it goes on."""
        ended = self.tally
        if int(ended.steps) == 0:
            return None
        self.tally = Tally(self.device, terms_of(self.config))
        self.tally.seconds_before = self.seconds
        self.tally.skipped_in_a_row.copy_(ended.skipped_in_a_row)
        return ended

    def state(self) -> dict[str, Any]:
        """What state.json says beside the hashes."""
        return {
            "num_images": self.num_images,
            "resolution": self.resolution,
            "lod": self.lod,
            "seconds": self.seconds,
            "augmentation": self.augmentation.state(),
            "tally": self.tally.state(),
            **({"path_length_mean": float(self.path_length_mean)} if "path_length" in self.gradients else {}),
            "config": self.config.model_dump(mode="json"),
            "config_sha256": self.config.digest(),
        }

    def load(self, folder: Path) -> None:
        """Take up the state of a checkpoint."""
        state = load_checkpoint(folder, self.networks, self.optimizers)
        self.num_images = state.num_images
        self.resolution, self.lod = state.resolution, state.lod
        self.seconds = state.seconds
        self.augmentation.load(state.augmentation)
        self.tally.load(state.tally)
        self.path_length_mean.fill_(state.path_length_mean)

    def show_present_lod(self) -> None:
        """Set the level of detail for pictures: that of the images shown by now."""
        self._set_lod(stage_at(self.config, self.num_images).lod)

    def _set_lod(self, lod: float) -> None:
        for network in (self.generator, self.generator_ema, self.discriminator):
            network.lod = lod

    def _move_w_avg(self, w_D: Tensor) -> None:
        if isinstance(self.generator, Generator):
            self.generator.update_w_avg(w_D, self.config.w_avg_beta)

    def _descend(self, name: str, gradients: dict[nn.Parameter, Tensor], learning_rate: float) -> Tensor:
        """One Adam step of one network; whether it was skipped, its gradients not being finite."""
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        is_skipped = ~torch.isfinite(torch.nn.utils.get_total_norm(gradients.values()))
        optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]  # the fused Adam's own switch
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return is_skipped


# --------------------------------------------------------------------------------------------------------------
# What a config makes of a run


def terms_of(config: TrainConfig) -> tuple[str, ...]:
    """The names of a run's terms, in the order they are summed in."""
    of_paths = PathLengthPhase.terms if config.path_length_weight > 0 else ()
    of_discriminator = {
        "logistic": DiscriminatorPhase.terms,
        "wgan_gp": CriticPhase.terms,
        "r3": PairingDiscriminatorPhase.terms,
    }
    return GeneratorPhase.terms + of_paths + of_discriminator[config.loss]


def phases_of(
    config: TrainConfig, generator: Generator | TraditionalGenerator, discriminator: Discriminator
) -> dict[str, Phase]:
    """What a step differentiates: `generator`, and `discriminator` with its penalty.

    `discriminator_alone` is without R1 and R2, for the steps that lazy regularization leaves out; WGAN-GP has none.
    `path_length` only where it has a weight.
    """
    phases: dict[str, Phase]
    if config.loss == "wgan_gp":
        if config.r1_gamma > 0:
            log.warning("r1_gamma %g is ignored: wgan_gp has a penalty of its own", config.r1_gamma)
        phases = {
            "generator": GeneratorPhase(generator, discriminator, wasserstein_generator_loss),
            "discriminator": CriticPhase(generator, discriminator),
        }
    else:
        is_paired = config.loss == "r3"
        of_discriminator = PairingDiscriminatorPhase if is_paired else DiscriminatorPhase
        phases = {
            "generator": (PairingGeneratorPhase if is_paired else GeneratorPhase)(generator, discriminator),
            "discriminator": of_discriminator(generator, discriminator, config.r1_gamma, config.r1_interval),
            "discriminator_alone": of_discriminator(generator, discriminator, r1_gamma=0.0),
        }
    if config.path_length_weight > 0 and isinstance(generator, Generator):
        phases["path_length"] = PathLengthPhase(
            generator, config.path_length_weight, config.path_length_interval
        )
    return phases


def freeze_highest(discriminator: Discriminator, num: int) -> None:
    """Train all but the `num` highest resolutions, which images come in by (Mo et al. 2020)."""
    for level in range(len(discriminator.from_rgb) - num, len(discriminator.from_rgb)):
        discriminator.from_rgb[level].requires_grad_(False)
        discriminator.blocks[level - 1].requires_grad_(False)


def set_precision(
    config: TrainConfig,
    device: torch.device,
    generator: Generator | TraditionalGenerator,
    discriminator: Discriminator,
) -> None:
    """Have a GPU compute in the config's precision: the whole process in TF32, these networks in bfloat16."""
    if device.type != "cuda":
        if config.precision == "bf16":
            log.warning("precision bf16 is ignored on a %s: it computes in fp32", device.type)
        return
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, for what is not in bfloat16
    if config.precision == "bf16":
        synthesis = generator.synthesis if isinstance(generator, Generator) else generator
        synthesis.dtype = torch.bfloat16
        discriminator.dtype = torch.bfloat16


# --------------------------------------------------------------------------------------------------------------
# Parts of a step


def num_passes(num: int, limit: int, *, compared: bool) -> int:
    """In how many equal passes `num` images are shown, at most `limit` at a time: as few as can be.

    Where the discriminator compares images, each pass is of whole groups.
    """
    units = num // GROUP if compared else num
    fewest = math.ceil(num / limit)
    return next((passes for passes in range(fewest, units + 1) if units % passes == 0), 1)


def _whole(batch: Tensor, dim: int = 0) -> Tensor:
    return batch


def step_rng(seed: int, num_images: int, device: torch.device) -> torch.Generator:
    """The random numbers of the step that begins after `num_images` images."""
    digest = hashlib.sha256(f"{seed}:{num_images}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def colours_first(images_NHW3: Tensor) -> Tensor:
    """The same images as (N, 3, H, W), in the layout of their device's convolutions."""
    images = images_NHW3.permute(0, 3, 1, 2)
    return images if images.device.type == "cuda" else images.contiguous()  # channels last is a GPU's


@torch.no_grad()
def average_into(averaged: nn.Module, network: nn.Module, beta: float) -> None:
    """averaged = beta * averaged + (1 - beta) * network; buffers are copied."""
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - beta)
    for kept, buffer in zip(averaged.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)
