"""The metrics of a training config, measured at its snapshots while training goes on.

Not here: the loop that asks for them (`training.loop`), and how a checkpoint is measured
(`training.metrics.evaluate`).
"""

from __future__ import annotations

from pathlib import Path

import torch

from storage.runs import Run
from training.config import TrainConfig
from training.metrics.evaluate import check_evaluation, evaluate, log
from training.metrics.settings import EvaluateConfig
from training.tracking import Tracker


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
        values = {name: record.value for name, record in records.items()}
        log.info(
            "%s  %s", checkpoint.name, "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        )
        tracker.log_tick({"num_images": num_images, **values})
