"""What commands have in common on the command line: which run and which of its weights, and how they answer.

Declarations alone, so that an option reads the same wherever it is. Not here: what a build or a training is run with
(`flows.config`), and the commands.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field

from flows.config import StoreOptions

FLAT = Parameter(name="*")
"""Of a config: its fields are options by their own names."""
RUN = Parameter(help="A run, by its id or folder, or one of its checkpoints' folders.", negative="")

DryRun = Annotated[bool, Parameter(negative="", help="Print the resolved config and stop.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object and nothing else.")]


class CheckpointOptions(StoreOptions):
    """Which weights are used."""

    checkpoint: str | None = Field(
        None, description="A checkpoint of the run, such as 000002500; unset: the newest."
    )


class DrawOptions(CheckpointOptions):
    """Which weights draw, and where."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU if there is one.")


Options = Annotated[DrawOptions, FLAT]
