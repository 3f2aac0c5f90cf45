"""The metrics of a checkpoint: its images and the run's real crops through the extractors, each number on record.

    evaluate(run, run.newest_checkpoint(), EvaluateConfig(metrics=("fd_efficientnet_lite0",)), device)

Numbers go to <run>/metrics/<checkpoint>.json, each with all that it depends on; features of the real crops are kept
in the store's cache. The generated images are those that `likeness generate` draws of the same seeds. Nothing here
touches the global random state. Not here: formulas (`training.metrics`), networks (`training.features`).
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from storage.config import Config
from storage.digest import code_digest, json_digest
from storage.errors import ConfigError, NotFoundError
from storage.runs import Run
from storage.store import read_json
from training import metrics as formulas
from training.checkpoint import generator_sha256, read_state
from training.config import TrainConfig
from training.data import ImageArray
from training.features import (
    Attributes,
    Extractor,
    WeightsPlace,
    check_extractor,
    open_distance,
    open_extractor,
)
from training.generate import images_from_seeds, load_generator
from training.measures import MEASURES, STAND_IN, ExtractorName, Measure, MetricName
from training.networks import Generator, TraditionalGenerator
from training.ops import upsample
from training.reals import RealCrops
from training.tracking import Tracker

log = logging.getLogger(__name__)

Record = dict[str, Any]


class EvaluateConfig(Config):
    """Which metrics, and of how many images."""

    metrics: tuple[MetricName, ...] = Field(min_length=1, description="Names of metrics.")
    num_images: int | None = Field(
        None,
        ge=2,
        description="Generated samples; unset: as many as published figures are of, 50,000 images, 100,000 paths, "
        "200,000 for separability.",
    )
    num_reals: int | None = Field(None, ge=2, description="Real crops, the first so many; unset: all.")
    truncation_psi: float = Field(
        1.0, ge=0, le=2, description="Truncation; 1 is none, as for published figures."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="The first image's seed; the others follow it.")
    batch_size: int = Field(32, ge=1, le=4096, description="Images at a time; changes no number.")
    face_crop: bool = Field(
        True, description="Take path lengths on the part that shows the face, as for FFHQ."
    )
    weights: Path | None = Field(
        None, description="Folder of weights by their published names; unset: torch hub's cache."
    )
    weights_sha256: dict[str, str] = Field(
        {}, description="sha256 that a weights file must have, by its name, instead of the published one."
    )
    attributes: Path | None = Field(
        None, description="Folder of attribute classifiers, an ONNX file an attribute, for separability."
    )

    @property
    def place(self) -> WeightsPlace:
        """Where weights are."""
        return WeightsPlace(self.weights, self.weights_sha256, self.attributes)

    @property
    def measures(self) -> list[Measure]:
        """The metrics asked for, each once."""
        return [MEASURES[name] for name in dict.fromkeys(self.metrics)]


def check_evaluation(config: EvaluateConfig, train_config: TrainConfig) -> None:
    """Raise, before any work, the error that these metrics of such a run would end in."""
    for measure in config.measures:
        if measure.space == "w" and not train_config.draws_from_w:
            raise ConfigError(
                f"{measure.name} is of W, and this run's images are not made from w alone: ask for it in Z"
            )
        check_extractor(measure.extractor, config.place)


def evaluate(run: Run, checkpoint: Path, config: EvaluateConfig, device: torch.device) -> dict[str, Record]:
    """Measure a checkpoint and return, and put on record, {metric: {value, and what it depends on}}."""
    state = read_state(checkpoint)
    train_config = TrainConfig.model_validate(state["config"])
    check_evaluation(config, train_config)
    with torch.random.fork_rng(devices=[]), full_precision(device):
        subject = Subject.of(run, checkpoint, config, device)
        found: dict[str, Record] = {}
        for extractor in dict.fromkeys(measure.extractor for measure in config.measures):
            of_it = [measure for measure in config.measures if measure.extractor == extractor]
            image_measures = [m for m in of_it if m.family in ("frechet", "kernel", "precision", "recall")]
            if image_measures:
                found |= _by_features(subject, extractor, image_measures)
            for measure in of_it:
                if measure.family == "path":
                    found[measure.name] = _path_length(subject, measure)
            if extractor == "attributes":
                found |= _separabilities(subject, of_it)
    facts = {
        "checkpoint": checkpoint.name,
        "generator_sha256": generator_sha256(state),
        "dataset_manifest_sha256": run.record["dataset"]["manifest_sha256"],
        "resolution": train_config.resolution,
        "lod": subject.generator.lod,
        "truncation_psi": config.truncation_psi,
        "seed": config.seed,
        "device": device.type,
        "torch": torch.__version__,
    }
    records = {name: {**found[name], **facts} for name in dict.fromkeys(config.metrics)}
    write_merged(metrics_path(run, checkpoint), records)
    return records


def metrics_path(run: Run, checkpoint: Path) -> Path:
    """Where a checkpoint's metrics are on record."""
    return run.folder / "metrics" / f"{checkpoint.name}.json"


def recorded_metrics(run: Run, checkpoint: Path) -> dict[str, Record]:
    """What was measured of a checkpoint so far."""
    path = metrics_path(run, checkpoint)
    return read_json(path) if path.is_file() else {}


def best_checkpoint(run: Run, metric: str) -> Path | None:
    """The checkpoint with the best recorded value of a metric; None where none has one."""
    values = {
        checkpoint: record[metric]["value"]
        for checkpoint in run.checkpoints()
        if metric in (record := recorded_metrics(run, checkpoint))
    }
    if not values:
        return None
    choose = max if MEASURES[metric].best_is_highest else min
    return choose(values, key=lambda checkpoint: float(values[checkpoint]))


# --------------------------------------------------------------------------------------------------------------
# What is measured


@dataclass(frozen=True)
class Subject:
    """A generator, the real crops it learned from, and how both are looked at."""

    run: Run
    config: EvaluateConfig
    generator: Generator | TraditionalGenerator
    cutoff: int
    reals: RealCrops
    device: torch.device

    @classmethod
    def of(cls, run: Run, checkpoint: Path, config: EvaluateConfig, device: torch.device) -> Subject:
        """A checkpoint's averaged generator and its run's crops."""
        generator = load_generator(checkpoint, device)
        cutoff = TrainConfig.model_validate(read_state(checkpoint)["config"]).truncation_cutoff
        reals = RealCrops.of(run.store, run.record["dataset"], generator.resolution)
        return cls(run, config, generator, cutoff, reals, device)

    def num_fakes(self, measure: Measure) -> int:
        """How many samples a metric is of."""
        return self.config.num_images or measure.published_samples

    def fakes(self, num: int) -> Iterator[Tensor]:
        """Batches of uint8 images (N, 3, R, R) of the seeds from `seed` on, on the device."""
        first, size = self.config.seed, self.config.batch_size
        for start in range(first, first + num, size):
            seeds = range(start, min(start + size, first + num))
            images = images_from_seeds(
                self.generator,
                seeds,
                self.config.truncation_psi if isinstance(self.generator, Generator) else 1.0,
                truncation_cutoff=self.cutoff,
                batch_size=size,
            )
            yield torch.from_numpy(images).to(self.device)

    def image(self, seed: int) -> ImageArray:
        """The image (3, R, R) of one seed."""
        psi = self.config.truncation_psi if isinstance(self.generator, Generator) else 1.0
        return images_from_seeds(self.generator, [seed], psi, truncation_cutoff=self.cutoff)[0]  # type: ignore[no-any-return]

    @torch.no_grad()
    def latents_in(self, space: str | None, num: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The latents (N, D), in Z or W, of the same seeds."""
        first = self.config.seed
        z_NZ = torch.cat([_draw(self.generator, seed)[0] for seed in range(first, first + num)])
        if space == "z" or not isinstance(self.generator, Generator):
            return z_NZ.numpy()
        parts = [self.generator.mapping(part.to(self.device)) for part in torch.split(z_NZ, 4096)]
        w_ND: np.ndarray[Any, np.dtype[np.float32]] = torch.cat(parts).cpu().numpy()
        return w_ND


def _draw(generator: Generator | TraditionalGenerator, seed: int) -> tuple[Tensor, torch.Generator]:
    """The latent (1, Z) of a seed, as `images_from_seeds` draws it, and the generator after it."""
    rng = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(1, generator.z_dim, generator=rng), rng


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No TF32: the differences that a path length is made of would drown in its rounding."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


# --------------------------------------------------------------------------------------------------------------
# By features


def _by_features(subject: Subject, name: ExtractorName, measures: list[Measure]) -> dict[str, Record]:
    """The metrics that compare features of the reals with features of the fakes."""
    begun = time.perf_counter()
    extractor = open_extractor(name, subject.config.place, subject.device)
    reals = real_features(subject, extractor)
    num = subject.num_fakes(measures[0])
    fakes = torch.cat([extractor.features(images) for images in subject.fakes(num)])
    shared_s = time.perf_counter() - begun
    compare = _own if name == STAND_IN else _torch_fidelity
    records: dict[str, Record] = {}
    for families in (("frechet",), ("kernel",), ("precision", "recall")):
        asked = [measure for measure in measures if measure.family in families]
        if not asked:
            continue
        begun = time.perf_counter()
        values = compare(families[0], reals, fakes, subject.device)
        seconds = shared_s + time.perf_counter() - begun
        for measure in asked:
            records[measure.name] = {
                **_facts(values[measure.family], extractor, seconds),
                "num_reals": len(reals),
                "num_fakes": len(fakes),
            }
    return records


def _own(family: str, reals: Tensor, fakes: Tensor, device: torch.device) -> dict[str, float]:
    """Our formulas."""
    if family == "frechet":
        return {family: formulas.frechet_distance(reals, fakes)}
    if family == "kernel":
        return {family: formulas.kernel_distance(reals, fakes)}
    precision, recall = formulas.precision_recall(reals.to(device), fakes.to(device))
    return {"precision": precision, "recall": recall}


def _torch_fidelity(family: str, reals: Tensor, fakes: Tensor, device: torch.device) -> dict[str, float]:
    """torch-fidelity's formulas, so that numbers under published names are its numbers."""
    from torch_fidelity import (
        KEY_METRIC_FID,
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
        metric_fid,
        metric_kid,
        metric_prc,
    )

    if family == "frechet":
        statistics = [metric_fid.fid_features_to_statistics(features) for features in (fakes, reals)]
        found = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
        return {family: found[KEY_METRIC_FID]}
    if family == "kernel":
        size = min(1000, len(reals), len(fakes))
        found = metric_kid.kid_features_to_metric(fakes, reals, kid_subset_size=size, verbose=False)
        return {family: found[KEY_METRIC_KID_MEAN]}
    found = metric_prc.prc_features_to_metric(fakes, reals, save_cpu_ram=True, verbose=False)
    return {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}


def real_features(subject: Subject, extractor: Extractor) -> Tensor:
    """Features (N, D) of the real crops, from the store's cache or into it."""
    config, reals, store = subject.config, subject.reals, subject.run.store
    identity = {
        "dataset": subject.run.record["dataset"]["manifest_sha256"],
        "resolution": reals.resolution,
        "num_reals": min(config.num_reals or reals.num_images, reals.num_images),
        "extractor": [extractor.name, extractor.weights_sha256, extractor.resize],
        "code": code_digest(("training.features", "training.reals", "training.data"), ("torch",)),
    }
    key = f"cache/features/{json_digest(identity)}.npy"
    if store.exists(key):
        return torch.from_numpy(np.load(store.path(key)))
    batches = reals.batches(config.batch_size, config.num_reals)
    features = torch.cat([extractor.features(torch.from_numpy(images)) for _, images in batches])
    file = io.BytesIO()
    np.save(file, features.numpy())
    store.put(key, file.getvalue())
    return features


# --------------------------------------------------------------------------------------------------------------
# By paths and by planes


@torch.no_grad()
def _path_length(subject: Subject, measure: Measure) -> Record:
    """The mean length of paths in one latent space."""
    assert measure.space is not None
    assert measure.sampling is not None
    begun = time.perf_counter()
    generator, config, device = subject.generator, subject.config, subject.device
    distance = open_distance(measure.extractor, config.place, device)
    num = subject.num_fakes(measure)
    lengths = []
    for start in range(0, num, config.batch_size):
        ends, noises, fractions = [], [], []
        for seed in range(config.seed + start, config.seed + min(start + config.batch_size, num)):
            first, rng = _draw(generator, seed)
            ends.append((first, torch.randn(1, generator.z_dim, generator=rng)))
            noises.append(generator.draw_noise(1, rng))
            fractions.append(formulas.path_fractions(1, measure.sampling, rng))
        noise = [torch.cat(layer).to(device) for layer in zip(*noises, strict=True)]
        mapping, synthesis = _halves(subject, noise)
        values = formulas.path_lengths(
            torch.cat([first for first, _ in ends]).to(device),
            torch.cat([second for _, second in ends]).to(device),
            torch.cat(fractions).to(device),
            space=measure.space,
            mapping=mapping,
            synthesis=synthesis,
            distance=distance,
        )
        lengths.append(values.double().cpu().numpy())
    value = formulas.trimmed_mean(np.concatenate(lengths))
    return {
        **_facts(value, distance, time.perf_counter() - begun),
        "num_fakes": num,
        "face_crop": config.face_crop,
        "max_px": formulas.MAX_PATH_PX,
        "epsilon": 1e-4,
    }


def _halves(
    subject: Subject, noise: list[Tensor]
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The generator as a mapping and a synthesis with this noise, which gives pictures in [0, 255]."""
    generator, config = subject.generator, subject.config

    def shown(images: Tensor) -> Tensor:
        x = (upsample(images, generator.resolution // images.shape[-1]) + 1) * 127.5
        return formulas.box_downsampled(formulas.face_crop(x) if config.face_crop else x)

    if not isinstance(generator, Generator):
        return lambda z: z, lambda z: shown(generator(z))
    if generator.synthesis.input is not None:  # z enters beside w
        psi, cutoff = config.truncation_psi, subject.cutoff
        return lambda z: z, lambda z: shown(generator(z, noise, psi=psi, cutoff=cutoff))

    def synthesis(w_ND: Tensor) -> Tensor:
        w_NLD = generator.truncate(generator.broadcast(w_ND), config.truncation_psi, subject.cutoff)
        return shown(generator.synthesis(w_NLD, noise, generator.lod))

    return generator.mapping, synthesis


def _separabilities(subject: Subject, measures: list[Measure]) -> dict[str, Record]:
    """Linear separability in the spaces asked for, of the same images."""
    begun = time.perf_counter()
    classifiers = Attributes(subject.config.place)
    num = subject.num_fakes(measures[0])
    columns = np.concatenate([classifiers.probabilities(images) for images in subject.fakes(num)])
    shared_s = time.perf_counter() - begun
    records = {}
    for measure in measures:
        begun = time.perf_counter()
        value = formulas.separability(subject.latents_in(measure.space, num), columns)
        seconds = shared_s + time.perf_counter() - begun
        records[measure.name] = {
            **_facts(value, classifiers, seconds),
            "num_fakes": num,
            "attributes": classifiers.names,
        }
    return records


def _facts(value: float, extractor: Any, seconds: float) -> Record:
    """What every record says."""
    if not math.isfinite(value):
        log.warning("a metric by %s is %s", extractor.name, value)
    return {
        "value": value,
        "extractor": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "resize": extractor.resize,
        "seconds": round(seconds, 3),
    }


def write_merged(path: Path, records: Record) -> None:
    """Add records to a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    merged = {**(read_json(path) if path.is_file() else {}), **records}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(dict(sorted(merged.items())), indent=2) + "\n")
    os.replace(partial, path)


# --------------------------------------------------------------------------------------------------------------
# During training


class SnapshotMetrics:
    """Measures the metrics of a training config at its snapshots; a failure is told and does not end training.

    Everything is made anew at each measurement and let go after it, so that training has its memory to itself.
    """

    def __init__(self, run: Run, config: TrainConfig, device: torch.device) -> None:
        """Check now what can be checked: ConfigError where a metric cannot be had."""
        self._run, self._device = run, device
        self._config: EvaluateConfig | None = None
        if config.metrics:
            self._config = EvaluateConfig(metrics=config.metrics, num_images=config.metrics_images)
            check_evaluation(self._config, config)

    def __call__(self, checkpoint: Path, num_images: int, tracker: Tracker) -> None:
        """Measure a checkpoint; its numbers go to the run's metrics folder, to the log and to the tracker."""
        if self._config is None:
            return
        try:
            records = evaluate(self._run, checkpoint, self._config, self._device)
        except Exception:  # a gauge must not end days of training
            log.warning("checkpoint %s was not measured", checkpoint.name, exc_info=True)
            return
        values = {name: record["value"] for name, record in records.items()}
        log.info(
            "%s  %s", checkpoint.name, "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        )
        tracker.log_tick({"num_images": num_images, **values})


# --------------------------------------------------------------------------------------------------------------
# By reference


def find_checkpoint(run: Run, name: str | None) -> Path:
    """A run's checkpoint by its name, or its newest; NotFoundError lists what there is."""
    if name is None:
        return run.newest_checkpoint()
    checkpoints = {checkpoint.name: checkpoint for checkpoint in run.checkpoints()}
    if name not in checkpoints:
        raise NotFoundError(
            f"run {run.id} has no checkpoint {name!r}: it has {', '.join(checkpoints) or 'none yet'}"
        )
    return checkpoints[name]
