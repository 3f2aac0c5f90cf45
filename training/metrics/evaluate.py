"""The metrics of a checkpoint, on request or while it is trained: which ones, of how many images, and on record where.

    evaluate(run, run.newest_checkpoint(), EvaluateConfig(metrics=("fd_efficientnet_lite0",)), device)

Numbers go to <run>/metrics/<checkpoint>.json, each with all that it depends on. Nothing here touches the global random
state. Not here: what is measured (`training.metrics.subject`), how (`training.metrics.measure`).
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch

from storage.errors import ConfigError
from storage.runs import MetricRecord, Run, record_metrics, recorded_metrics
from training.checkpoint import read_state
from training.config import TrainConfig
from training.device import full_precision
from training.extractors import check_extractor
from training.metric_names import MEASURES
from training.metrics.measure import Found, by_features, path_length, separabilities
from training.metrics.settings import EvaluateConfig
from training.metrics.subject import Subject

log = logging.getLogger(__name__)


def check_evaluation(config: EvaluateConfig, train_config: TrainConfig) -> None:
    """Raise, before any work, the error that these metrics of such a run would end in."""
    if not config.metrics:
        raise ConfigError(f"no metrics are named: choose of {', '.join(MEASURES)}")
    values = train_config.label_values
    if config.label is not None and config.label not in values:
        raise ConfigError(
            f"label {config.label} is none of the run's: {', '.join(values) or 'it has no labels'}"
        )
    for measure in config.measures:
        if values and config.label is None and measure.family in ("path", "separability"):
            raise ConfigError(
                f"{measure.name} is of images of one label: choose --label of {', '.join(values)}"
            )
        if measure.space == "w" and not train_config.draws_from_w:
            raise ConfigError(
                f"{measure.name} is of W, and this run's images are not made from w alone: ask for it in Z"
            )
        check_extractor(measure.extractor, config.place)


def evaluate(
    run: Run, checkpoint: Path, config: EvaluateConfig, device: torch.device
) -> dict[str, MetricRecord]:
    """Measure a checkpoint and return, and put on record, each metric's value and what it depends on."""
    state = read_state(checkpoint)
    train_config = TrainConfig.recorded(state.config, f"checkpoint {checkpoint}")
    check_evaluation(config, train_config)
    asked = train_config.metrics_mirror_reals if config.mirror_reals is None else config.mirror_reals
    mirrors_reals = asked and train_config.x_flips
    with torch.random.fork_rng(devices=[]), full_precision(device):
        subject = Subject.of(
            run,
            checkpoint,
            device,
            psi=config.truncation_psi,
            seed=config.seed,
            batch_size=config.batch_size,
            mirrors_reals=mirrors_reals,
            label=config.label,
        )
        found = _measured(subject, config)
    facts = {
        "checkpoint": checkpoint.name,
        "generator_sha256": state.generator_sha256,
        "dataset_manifest_sha256": run.record.dataset.manifest_sha256,
        "resolution": train_config.resolution,
        "lod": subject.generator.lod,
        "truncation_psi": subject.psi,
        "mirrors_reals": mirrors_reals,
        "seed": config.seed,
        "device": device.type,
        "torch": torch.__version__,
    }
    suffix = "" if config.label is None else f"[{config.label}]"
    if config.label is not None:
        facts["label"] = config.label
    records = {
        f"{name}{suffix}": MetricRecord.new(**found[name], **facts) for name in dict.fromkeys(config.metrics)
    }
    record_metrics(run, checkpoint, records)
    return records


def _measured(subject: Subject, config: EvaluateConfig) -> dict[str, Found]:
    """Each metric's value and what it depends on, an extractor at a time."""
    place = config.place
    found: dict[str, Found] = {}
    for extractor in dict.fromkeys(measure.extractor for measure in config.measures):
        of_it = [measure for measure in config.measures if measure.extractor == extractor]
        compared = [m for m in of_it if m.family in ("frechet", "kernel", "precision", "recall")]
        separated = [m for m in of_it if m.family == "separability"]
        if compared:
            num = config.num_fakes(compared[0])
            found |= by_features(subject, extractor, compared, place, num, config.num_reals)
        for measure in of_it:
            if measure.family == "path":
                num = config.num_fakes(measure)
                found[measure.name] = path_length(subject, measure, place, num, face_crop=config.face_crop)
        if separated:
            found |= separabilities(subject, separated, place, config.num_fakes(separated[0]))
    return found


def best_checkpoint(run: Run, metric: str) -> Path | None:
    """The checkpoint with the best recorded value of a metric; None where none has one."""
    values = {
        checkpoint: records[metric].value
        for checkpoint in run.checkpoints()
        if metric in (records := recorded_metrics(run, checkpoint)) and math.isfinite(records[metric].value)
    }
    if not values:
        return None
    choose = max if MEASURES[metric].best_is_highest else min
    return choose(values, key=values.__getitem__)
