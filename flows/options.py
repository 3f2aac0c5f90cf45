"""Where work runs, and where it is kept: options that never enter a version, nor change a byte of it."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from storage.config import Config, comma_separated


class StoreOptions(Config):
    """Where everything is kept; nothing here or below changes a result."""

    store: Path = Field(Path("./store"), description="Folder that holds photographs, datasets and runs.")


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

    tracking_uri: str | None = Field(
        None, description="MLflow tracking server; unset: a SQLite file in the store; none: no tracking."
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes of this machine that train the run together, each on a GPU of its own.",
    )


class BuildAndTrainOptions(BuildOptions, TrainOptions):
    """Where a build and the training after it run."""
