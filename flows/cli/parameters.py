"""What commands have in common on the command line: which run and which of its weights, and how they answer.

Declarations alone, so that an option reads the same wherever it is. Not here: what a build or a training is run with
(`flows.options`), and the commands.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field

from flows.options import StoreOptions
from storage.errors import ConfigError

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


MAX_SEEDS = 10_000
MAX_PSI = 2.0
SEED_LIMIT = 2**63


def parse_seeds(text: str) -> list[int]:
    """Seeds from a list of numbers and ranges, such as "0-15,20", both ends included."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise ConfigError(f"seeds {text!r}: {part!r} is neither a number nor a range such as 0-15")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"seeds {text!r}: the range {part.strip()} runs backwards")
        if last >= SEED_LIMIT or len(seeds) + last - first >= MAX_SEEDS:
            raise ConfigError(f"seeds {text!r}: at most {MAX_SEEDS} seeds below 2^63")
        seeds.extend(range(first, last + 1))
    return seeds


def parse_psis(text: str) -> list[float]:
    """Truncations from a list of numbers, such as "1,0.7,0,-0.5"."""
    try:
        psis = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"psi {text!r} is not a list of numbers such as 1,0.7,0,-0.5") from None
    if not all(abs(psi) <= MAX_PSI for psi in psis):  # false for nan too
        raise ConfigError(f"psi {text!r}: each must be from {-MAX_PSI:g} to {MAX_PSI:g}")
    return psis
