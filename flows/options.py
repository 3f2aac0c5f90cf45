"""Where work runs, and where it is kept: options that never enter a version, nor change a byte of it."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, field_serializer

from storage.config import Config, comma_separated, tracking_address
from storage.store import spelled

STORE = "LIKENESS_STORE"
"""A variable of the environment with the store that is worked in where none is named."""
PULL_FROM = "LIKENESS_PULL_FROM"
"""One with the store that versions are pulled from which that one lacks."""
STORE_URL = "LIKENESS_STORE_URL"
"""One with the address that serves the store's files to browsers."""
MLFLOW_URL = "LIKENESS_MLFLOW_URL"
"""One with the address of the MLflow page that shows the store's mlflow.db."""
SIGN = "LIKENESS_SIGN"
"""One with the two files that sign what is drawn: a key and its certificates."""
TRACKING_URI = "MLFLOW_TRACKING_URI"
"""MLflow's own, with the server that runs are sent to."""


class StoreOptions(Config):
    """Where everything is kept; nothing here or below changes a result."""

    store: Path = Field(
        default_factory=lambda: Path(os.environ.get(STORE, "./store")),
        description="Folder, or bucket such as s3://bucket/prefix, that holds photographs, datasets and runs; unset: "
        "$LIKENESS_STORE, or else ./store.",
    )

    @field_serializer("store", when_used="json")
    def _spelled(self, store: Path) -> str:
        return spelled(store)


class RunOptions(StoreOptions):
    """Where work runs."""

    workers: int | None = Field(
        None,
        ge=1,
        description="Processes that build, or threads that decode for training; unset: one a core, at most 4 threads.",
    )


class BuildOptions(RunOptions):
    """Where a build runs."""

    scheduler: str | None = Field(
        None, description="Address of a running Dask scheduler; unset starts local worker processes."
    )
    chunk_size: int = Field(64, ge=1, le=10_000, description="Photographs in one unit of work and of retry.")
    refetch: bool = Field(
        False, description="Ask again for all URLs, of those that were fetched only for what has changed."
    )
    retry: Annotated[tuple[str, ...], BeforeValidator(comma_separated)] = Field(
        (), description="Ask again for URLs that were refused for these reasons, such as http_status."
    )
    crawl_workers: int = Field(
        1, ge=1, le=16, description="Processes that fetch, each from hosts that no other asks."
    )


class TrainOptions(RunOptions):
    """Where training runs."""

    tracking_uri: Annotated[str | None, AfterValidator(tracking_address)] = Field(
        None,
        description="MLflow tracking server; unset: $MLFLOW_TRACKING_URI, or else a SQLite file in the store; none: no "
        "tracking.",
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes of this machine that train the run together, each on a GPU of its own.",
    )
    pull_from: str | None = Field(
        default_factory=lambda: os.environ.get(PULL_FROM),
        description="Another store, a folder or a URL, that a version is pulled from which is not here; unset: "
        "$LIKENESS_PULL_FROM.",
    )


class BuildAndTrainOptions(BuildOptions, TrainOptions):
    """Where a build and the training after it run."""
