"""What commands print on standard output: lines for people, or one JSON object for scripts."""

from __future__ import annotations

import json
from typing import Any


def print_value(value: Any, compact: bool) -> None:
    """A value as JSON: on one line where `compact`."""
    print(json.dumps(value, indent=None if compact else 2, ensure_ascii=False))


def answer(as_json: bool, value: Any, *lines: str) -> None:
    """What came of a command: `value` for scripts, `lines` for people."""
    if as_json:
        return print_value(value, compact=True)
    for line in lines:
        say(line)


def say(line: str) -> None:
    """One line, at once."""
    print(line, flush=True)
