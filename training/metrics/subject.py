"""What is measured of a run: a checkpoint's generator, with the images of its seeds, and the crops it learned from.

    subject = Subject.of(run, run.newest_checkpoint(), device, psi=1.0)
    for images_N3RR in subject.fakes(1000): ...

The generated images are those that `likeness generate` draws of the same seeds. Not here: what is made of them
(`training.metrics.measure`, `training.metrics.audit`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.datasets.dataset import open_recorded
from storage.runs import Run
from training.data import ImageArray
from training.drawing.images import images_from_seeds, possible_psi
from training.drawing.trained import open_trained
from training.labels import labels_of
from training.metrics.crops import RealCrops
from training.networks import Generator, TraditionalGenerator


@dataclass(frozen=True)
class Subject:
    """A generator, the real crops it learned from, and how its images are drawn."""

    run: Run
    generator: Generator | TraditionalGenerator
    reals: RealCrops
    device: torch.device
    psi: float
    """Truncation, on the first `cutoff` layers; 1 where the generator has no w."""
    cutoff: int
    seed: int
    """The first image's; the others follow it."""
    batch_size: int
    """Images at a time; changes none of them."""
    labels: tuple[int, ...] = ()
    """Those that images are drawn of, each as often as it stands here; none where there are no labels."""

    @classmethod
    def of(
        cls,
        run: Run,
        checkpoint: Path,
        device: torch.device,
        *,
        psi: float,
        seed: int = 0,
        batch_size: int = 32,
        mirrors_reals: bool = False,
        label: str | None = None,
    ) -> Subject:
        """A checkpoint's averaged generator and its run's crops, of one label if it is given."""
        trained = open_trained(checkpoint, device)
        generator, config = trained.generator, trained.config
        dataset = open_recorded(run.store, run.record.dataset, f"run {run.id}")
        of_dataset = labels_of(dataset, config) or {}
        keys = dataset.keys
        if label is not None:
            trained.of_label(label)  # which is where it is refused
            wanted = config.label_values.index(label)
            of_dataset = {key: value for key, value in of_dataset.items() if value == wanted}
            keys = frozenset(of_dataset)
        return cls(
            run=run,
            generator=generator,
            reals=dataclasses.replace(
                RealCrops.of(run.store, run.record.dataset, generator.resolution, is_mirrored=mirrors_reals),
                keys=keys,
            ),
            device=device,
            psi=possible_psi(generator, psi),
            cutoff=trained.cutoff,
            seed=seed,
            batch_size=batch_size,
            labels=tuple(of_dataset[key] for key in sorted(of_dataset)),
        )

    def label_of(self, seed: int) -> int:
        """The label of a seed's image, as likely as it is in the dataset."""
        return self.labels[int(np.random.default_rng((seed, 3)).integers(len(self.labels)))]

    def seeds(self, num: int) -> range:
        """The seeds of the first `num` images."""
        return range(self.seed, self.seed + num)

    def images(self, seeds: range) -> ImageArray:
        """The images (N, 3, R, R) of seeds."""
        return images_from_seeds(
            self.generator,
            seeds,
            self.psi,
            truncation_cutoff=self.cutoff,
            batch_size=self.batch_size,
            labels=[self.label_of(seed) for seed in seeds] if self.labels else None,
        )

    def fakes(self, num: int) -> Iterator[Tensor]:
        """Batches of the first `num` images, uint8 (N, 3, R, R), on the device."""
        seeds = self.seeds(num)
        for start in range(0, num, self.batch_size):
            yield torch.from_numpy(self.images(seeds[start : start + self.batch_size])).to(self.device)

    def latent(self, seed: int) -> tuple[Tensor, torch.Generator]:
        """The latent (1, Z) of a seed, as `images_from_seeds` draws it, and the generator after it."""
        rng = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(1, self.generator.z_dim, generator=rng), rng

    @torch.no_grad()
    def latents_in(self, space: str | None, num: int) -> NDArray[np.float32]:
        """The latents (N, D), in Z or W, of the first `num` images."""
        z_NZ = torch.cat([self.latent(seed)[0] for seed in self.seeds(num)])
        if space == "z" or not isinstance(self.generator, Generator):
            return z_NZ.numpy()
        parts = [self.generator.mapping(part.to(self.device)) for part in torch.split(z_NZ, 4096)]
        w_ND: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return w_ND
