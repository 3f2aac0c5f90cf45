"""The command `likeness`: the configs as options, and the same functions that the flows run.

    likeness build --source folder:photos --name faces --resolution 256
    likeness train faces --preset smoke
    likeness generate RUN --seeds 0-15 --out grid.png

Results go to standard output, progress and errors to standard error. Not here: any work.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from types import FrameType

import pydantic
from cyclopts import App, CycloptsError

from flows.cli.output import warn
from storage.errors import PipelineError

app = App(
    name="likeness",
    help="Face photographs into an FFHQ-like dataset and a style-based GAN, with the origin of every pixel on record.",
    version=lambda: metadata.version("likeness"),
    version_flags=["--version"],
)

COMMANDS = {
    "build": ("dataset", "Build a dataset version from photographs."),
    "align": (
        "dataset",
        "Write the aligned faces of photographs as files: no store, no dataset, no curation.",
    ),
    "curate": (
        "dataset",
        "Publish a dataset again by other --curate rules, or explain one photograph's verdict.",
    ),
    "train": ("train", "Train a style-based GAN on a dataset, in a process of its own."),
    "generate": (
        "draw",
        "Draw images of seeds with a trained generator, as one grid that knows where it came from.",
    ),
    "figure": ("draw", "Draw the paper's figures with a trained generator."),
    "video": ("draw", "Film a smooth closed walk through the styles of seeds, noise held still, as H.264."),
    "project": ("draw", "Find the w that draws a photograph best."),
    "export": ("draw", "Write the averaged generator as one file, for torch or as ONNX."),
    "evaluate": ("measure", "Measure a checkpoint: FID, path lengths and others."),
    "audit": ("measure", "Look for near-copies of training crops among generated pictures."),
    "trace": ("lineage", "Say what something was made of, down to original photographs, by files alone."),
    "verify": ("lineage", "Check every hash of a dataset version, down to original photographs."),
    "demo": ("operate", "Run the whole pipeline once as Prefect flows, on the offline sample."),
    "init": ("operate", "Lay prefect.yaml and prefect.toml into a folder, to deploy from it."),
    "services": (
        "operate",
        "Start the Prefect server, the deployments, their workers, and MLflow, until Ctrl-C.",
    ),
    "deploy": ("operate", "Make the work pools and the deployments of prefect.yaml."),
}
"""Each command's file and what it does; a file is imported when one of its commands is asked for."""

for name, (file, text) in COMMANDS.items():
    app.command(f"flows.cli.{file}:{name}", name=name, help=text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a PipelineError or a wrong option prints one sentence and exits 1."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except (PipelineError, CycloptsError, pydantic.ValidationError) as error:
        if debug:
            traceback.print_exc()
        warn(_sentence(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:  # as of `likeness trace faces | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def _terminate(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM as on Ctrl-C, so that what was started is stopped too."""
    raise SystemExit(128 + number)


def build_dataset_main() -> None:
    """`build-dataset ...`: run the deployment of that name, with every flag passed on to Prefect."""
    os.execv(
        sys.executable,
        [sys.executable, "-m", "prefect", "deployment", "run", "build-dataset/build-dataset", *sys.argv[1:]],
    )


def _sentence(error: Exception) -> str:
    """An error in one line: for a wrong setting its field and what is valid."""
    cause = error if isinstance(error, pydantic.ValidationError) else error.__cause__
    if isinstance(cause, pydantic.ValidationError):
        problems = []
        for problem in cause.errors(include_url=False):
            field = ".".join(str(part).replace("_", "-") for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            given = "" if isinstance(problem["input"], dict) else f" (given {problem['input']!r})"
            problems.append(f"--{field}: {message}{given}" if field else message)
        return "; ".join(problems)
    return " ".join(str(error).split())
