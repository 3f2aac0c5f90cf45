"""The flow `build-and-train`: both in order, without a server's triggers.

python -m flows.build_and_train
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.build_dataset import build_dataset
from flows.options import BuildAndTrainOptions
from flows.train import train
from preprocessing.config import BuildConfig
from training.config import TrainConfig


@flow(name="build-and-train", description="Build a dataset version, then train on exactly that version.")
def build_and_train(
    build: BuildConfig = BuildConfig(),
    training: TrainConfig = TrainConfig(),
    options: BuildAndTrainOptions = BuildAndTrainOptions(),
) -> dict[str, Any]:
    """Build, train on the version built, and return both summaries.

    Args:
        build: What the dataset is made of, and how.
        training: How to train on it.
        options: Where both run.
    """
    built = build_dataset(build, options)
    trained = train(f"{built['name']}@{built['version']}", training, options)
    return {"dataset": built, "training": trained}
