"""What commands have in common on the command line: which run and which of its weights, and how they answer.

Declarations alone, so that an option reads the same wherever it is. Not here: what a build or a training is run with
(`flows.options`), and the commands.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import Field

from flows.options import SIGN, StoreOptions
from storage.errors import ConfigError


def shown(default: Any) -> str | None:
    """A default as one would type it: "0-15" for seeds, "1,0.7" for numbers; None where nothing is set."""
    if default in (None, (), {}):
        return None
    if not isinstance(default, tuple):
        return str(default)
    first, last = default[0], default[-1]
    if len(default) > 2 and isinstance(first, int) and default == tuple(range(first, last + 1)):
        return f"{first}-{last}"
    return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in default)


FLAT = Parameter(name="*", negative_iterable=(), show_default=shown)
"""Of a config: its fields are options by their own names."""
RUN = Parameter(
    help="A run, by its id or folder, one of its checkpoints' folders, or NAME:champion, a dataset's champion.",
    negative="",
)

DryRun = Annotated[bool, Parameter(negative="", help="Print the resolved config and stop.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object and nothing else.")]


class CheckpointOptions(StoreOptions):
    """Which weights are used."""

    checkpoint: str | None = Field(
        None, description="A checkpoint of the run, such as 000002500; unset: the newest."
    )


class DrawOptions(CheckpointOptions):
    """Which weights draw, and where."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto takes a GPU if there is one."
    )


LABEL = Field(None, description="Of a generator that was trained with labels: whose images are drawn.")


class ExportOptions(CheckpointOptions):
    """Which weights are written, and images of which label they draw."""

    label: str | None = LABEL


def _signing_files() -> tuple[Path, Path] | None:
    """What the environment signs with."""
    said = os.environ.get(SIGN)
    if not said:
        return None
    key, _, certificates = said.partition(os.pathsep)
    if not (key and certificates):
        raise ConfigError(f"${SIGN} is {said!r}, and not KEY{os.pathsep}CERTIFICATES, two files in PEM")
    return Path(key), Path(certificates)


class PictureOptions(DrawOptions):
    """Which weights draw, where, images of which label, and who signs what they drew."""

    label: str | None = LABEL

    sign: tuple[Path, Path] | None = Field(
        default_factory=_signing_files,
        description="Sign each picture and film as C2PA has it: a private key and its certificates, PEM files; unset: "
        f"$LIKENESS_SIGN, which has a {os.pathsep!r} between them, or else nothing is signed.",
    )


Options = Annotated[DrawOptions, FLAT]
Signed = Annotated[PictureOptions, FLAT]
