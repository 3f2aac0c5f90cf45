"""The command `likeness`: the configs as options, and the same functions that the flows run.

    likeness build --source folder:photos --name faces --resolution 256
    likeness train faces --preset smoke
    likeness generate RUN --seeds 0-15 --out grid.png

Results go to standard output, progress and errors to standard error. Not here: any work.
"""

from __future__ import annotations

import ast
import errno
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pydantic
from cyclopts import App, CycloptsError, MissingArgumentError

from flows.cli.output import warn
from storage.errors import IntegrityError, PipelineError
from storage.local import FULL, MISPLACED, REFUSED
from storage.wording import without_user

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

app = App(
    name="likeness",
    help="Face photographs into an FFHQ-like dataset and a style-based GAN, with the origin of every pixel on record.",
    version=lambda: metadata.version("likeness"),
    version_flags=["--version"],
)

COMMANDS = {
    "build": "dataset",
    "align": "dataset",
    "curate": "dataset",
    "ledger": "web",
    "recheck": "web",
    "review": "dataset",
    "site": "site",
    "import-dataset": "exports",
    "train": "train",
    "import-network": "networks",
    "generate": "draw",
    "figure": "draw",
    "video": "draw",
    "project": "draw",
    "directions": "draw",
    "edit": "draw",
    "explore": "explore",
    "export": "draw",
    "evaluate": "measure",
    "audit": "measure",
    "retrain": "retrain",
    "promote": "promote",
    "rollback": "promote",
    "trace": "lineage",
    "diff": "lineage",
    "verify": "lineage",
    "forget": "forget",
    "export-dataset": "exports",
    "repair": "lineage",
    "rebuild": "lineage",
    "gc": "lineage",
    "pull": "stores",
    "push": "stores",
    "demo": "operate",
    "init": "operate",
    "services": "operate",
    "worker": "operate",
    "deploy": "operate",
    "doctor": "operate",
}
"""Each command's file, in the pipeline's order; a file is imported when one of its commands is asked for."""

GROUPS = {"figure": "Draw the paper's figures with a trained generator."}
"""What the commands that have commands of their own do; the others say it in their docstrings."""


def described(file: str) -> dict[str, str]:
    """What each command of a file does, by its docstring, which is read without importing the file."""
    source = Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {function.name: ast.get_docstring(function) or "" for function in functions}


HELP = {name: text for file in dict.fromkeys(COMMANDS.values()) for name, text in described(file).items()}
for order, (name, file) in enumerate(COMMANDS.items()):
    function = name.replace("-", "_")
    about = GROUPS.get(name) or HELP[function]
    app.command(f"flows.cli.{file}:{function}", name=name, help=about, sort_key=order)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a PipelineError or a wrong option prints one sentence and exits 1."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = _with_negatives([token for token in tokens if token != "--debug"])
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except (PipelineError, CycloptsError, pydantic.ValidationError) as error:
        if debug:
            traceback.print_exc()
        warn(_sentence(error, tokens))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:  # as of `likeness trace faces | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        if error.errno not in (*FULL, *REFUSED, *MISPLACED):
            raise
        if debug:
            traceback.print_exc()
        which = "written" if error.errno in (*FULL, errno.EROFS) else "read or written"
        warn(f"{error.filename or 'a file'} cannot be {which}: {error.strerror}")
        raise SystemExit(1) from None


def _with_negatives(tokens: Sequence[str]) -> list[str]:
    """The tokens, a list of numbers that begins with a negative one joined to its option: it looks like an option."""
    joined: list[str] = []
    for token in tokens:
        is_list = re.fullmatch(r"-[\d.]+(,-?[\d.]+)+", token)
        if is_list and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={token}"
        else:
            joined.append(token)
    return joined


def _terminate(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM as on Ctrl-C, so that what was started is stopped too."""
    raise SystemExit(128 + number)


def build_dataset_main() -> None:
    """`build-dataset ...`: run the deployment of that name, with every flag passed on to Prefect."""
    os.execv(
        sys.executable,
        [sys.executable, "-m", "prefect", "deployment", "run", "build-dataset/build-dataset", *sys.argv[1:]],
    )


def _sentence(error: Exception, tokens: Sequence[str]) -> str:
    """An error in one line: for a wrong setting its option as it was typed, and what is valid."""
    cause = error if isinstance(error, pydantic.ValidationError) else error.__cause__
    if isinstance(error, IntegrityError):  # of a record, and of no option
        cause = None
    if isinstance(cause, pydantic.ValidationError):
        problems: dict[str, str] = {}  # the first of each: a list says the same of many numbers
        for problem in cause.errors(include_url=False):
            path = ".".join(str(part).replace("_", "-") for part in problem["loc"] if isinstance(part, str))
            message = f"{problem['msg'].removeprefix('Value error, ')}{_given(problem)}"
            problems.setdefault(
                path or message, f"{_as_typed(path, error, tokens)}: {message}" if path else message
            )
        return "; ".join(problems.values())
    sentence = " ".join(str(error).split())
    argument = error.argument if isinstance(error, MissingArgumentError) else None
    if not isinstance(error, MissingArgumentError) or argument is None or "Did you mean" in sentence:
        return sentence
    if argument.tokens or error.keyword is not None:  # typed, without a value
        return sentence
    command, name = " ".join(error.command_chain or ()), argument.name
    if argument.field_info.is_positional:
        name = name.removeprefix("--").upper()
    about = argument.parameter.help or ""
    return f"{command} needs {name}. {about} likeness {command} --help lists every setting."


def _given(problem: ErrorDetails) -> str:
    """The value that is wrong, where the message does not name it."""
    given = problem["input"]
    if isinstance(given, dict):
        return ""
    if isinstance(given, list | tuple):
        given = ",".join(map(str, given))
    if isinstance(given, str):
        given = without_user(given)
    is_named = re.search(rf"(?<!\w){re.escape(str(given))}(?!\w)", problem["msg"])
    return "" if is_named and problem["type"] == "value_error" else f" (given {given!r})"


def _as_typed(path: str, error: Exception, tokens: Sequence[str]) -> str:
    """The option of a config's field, by whichever of its names was typed."""
    option, typed = f"--{path}", {token.partition("=")[0] for token in tokens}
    argument = error.argument if isinstance(error, CycloptsError) else None
    for field in argument.children if argument is not None else ():
        if option in field.names:
            return next((name for name in field.names if name in typed), option)
    return option
