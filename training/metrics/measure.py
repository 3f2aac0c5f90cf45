"""The metrics of a subject, each as its value and what that depends on: by features, by paths, by separability.

Not here: formulas (`training.metrics.formulas`), networks (`training.extractors`), the features of real crops
(`training.metrics.features`), which metrics are asked for and where the numbers go (`training.metrics.evaluate`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.extractors import open_distance, open_extractor
from training.extractors.attributes import Attributes
from training.extractors.weights import WeightsPlace
from training.metric_names import STAND_IN, ExtractorName, Measure
from training.metrics import formulas as formulas
from training.metrics.features import real_features
from training.metrics.subject import Subject
from training.networks import Generator
from training.ops import upsample

log = logging.getLogger(__name__)

Found = dict[str, Any]
"""A metric's value, and what it depends on."""


def by_features(
    subject: Subject,
    name: ExtractorName,
    measures: list[Measure],
    place: WeightsPlace,
    num_fakes: int,
    num_reals: int | None,
) -> dict[str, Found]:
    """The metrics, all of one extractor, that compare features of the reals with features of the fakes."""
    begun = time.perf_counter()
    extractor = open_extractor(name, place, subject.device)
    run = subject.run
    reals = real_features(
        run.store, run.record.dataset, subject.reals, extractor, num_reals, subject.batch_size
    )
    fakes = torch.cat([extractor.features(images) for images in subject.fakes(num_fakes)])
    shared_s = time.perf_counter() - begun
    records: dict[str, Found] = {}
    for families in (("frechet",), ("kernel",), ("precision", "recall")):
        asked = [measure for measure in measures if measure.family in families]
        if not asked:
            continue
        begun = time.perf_counter()
        values = compared(name, families[0], reals, fakes, subject.device)
        seconds = shared_s + time.perf_counter() - begun
        for measure in asked:
            records[measure.name] = {
                **_facts(values[measure.family], extractor, seconds),
                "num_reals": len(reals),
                "num_fakes": len(fakes),
            }
    return records


def compared(
    name: ExtractorName, family: str, reals: Tensor, fakes: Tensor, device: torch.device
) -> dict[str, float]:
    """What compares features (N, D) of reals and (M, D) of fakes, by family; of `precision` recall too."""
    return (_own if name == STAND_IN else _torch_fidelity)(family, reals, fakes, device)


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


# --------------------------------------------------------------------------------------------------------------
# By paths


@torch.no_grad()
def path_length(
    subject: Subject, measure: Measure, place: WeightsPlace, num: int, *, face_crop: bool
) -> Found:
    """The mean length of `num` paths in one latent space."""
    assert measure.space is not None
    assert measure.sampling is not None
    begun = time.perf_counter()
    generator, device, size = subject.generator, subject.device, subject.batch_size
    distance = open_distance(measure.extractor, place, device)
    seeds, lengths = subject.seeds(num), []
    for start in range(0, num, size):
        ends, noises, fractions = [], [], []
        for seed in seeds[start : start + size]:
            first, rng = subject.latent(seed)
            ends.append((first, torch.randn(1, generator.z_dim, generator=rng)))
            noises.append(generator.draw_noise(1, rng))
            fractions.append(formulas.path_fractions(1, measure.sampling, rng))
        noise = [torch.cat(layer).to(device) for layer in zip(*noises, strict=True)]
        mapping, synthesis = _halves(subject, noise, face_crop)
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
        "face_crop": face_crop,
        "max_px": formulas.MAX_PATH_PX,
        "epsilon": 1e-4,
    }


def _halves(
    subject: Subject, noise: list[Tensor], face_crop: bool
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The generator as a mapping and a synthesis with this noise, which gives pictures in [0, 255]."""
    generator, psi, cutoff = subject.generator, subject.psi, subject.cutoff

    def shown(images: Tensor) -> Tensor:
        x = (upsample(images, generator.resolution // images.shape[-1]) + 1) * 127.5
        return formulas.box_downsampled(formulas.face_crop(x) if face_crop else x)

    if not isinstance(generator, Generator):
        return lambda z: z, lambda z: shown(generator(z))
    if generator.synthesis.input is not None:  # z enters beside w
        return lambda z: z, lambda z: shown(generator(z, noise, psi=psi, cutoff=cutoff))

    def synthesis(w_ND: Tensor) -> Tensor:
        w_NLD = generator.truncate(generator.broadcast(w_ND), psi, cutoff)
        return shown(generator.synthesis(w_NLD, noise, generator.lod))

    return generator.mapping, synthesis


# --------------------------------------------------------------------------------------------------------------
# By separability


def separabilities(
    subject: Subject, measures: list[Measure], place: WeightsPlace, num: int
) -> dict[str, Found]:
    """Linear separability in the spaces asked for, of the same `num` images."""
    begun = time.perf_counter()
    classifiers = Attributes(place)
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


# --------------------------------------------------------------------------------------------------------------
# Of all of them


def _facts(value: float, extractor: Any, seconds: float) -> Found:
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
