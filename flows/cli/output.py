"""What commands print: answers on standard output, as lines or one JSON object; the rest on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from storage.config import Config


def print_value(value: Any, compact: bool) -> None:
    """A value as JSON: on one line where `compact`."""
    print(json.dumps(value, indent=None if compact else 2, ensure_ascii=False))


def answer(as_json: bool, value: Any, *lines: str) -> None:
    """What came of a command: `value` for scripts, `lines` for people."""
    if as_json:
        return print_value(value, compact=True)
    for line in lines:
        say(line)


def print_resolved(as_json: bool, config: Config, options: Config, **of: str) -> None:
    """What a dry run prints: what the work would be of, and with which settings, all of them."""
    settings = {"config": config.model_dump(mode="json"), "options": options.model_dump(mode="json")}
    print_value({**of, **settings}, as_json)


def say(line: str) -> None:
    """One line, at once."""
    print(line, flush=True)


def warn(line: str) -> None:
    """One line on standard error, under the program's name."""
    print(f"likeness: {line}", file=sys.stderr)


def console(quiet: bool) -> Console:
    """Where progress is drawn: standard error."""
    return Console(stderr=True, quiet=quiet)
