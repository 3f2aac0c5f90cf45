"""The photographs that a benchmark is given: files of folders, and one sentence where there is none.

Not here: reading sources (`preprocessing.sources`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def files(given: Sequence[Path], parser: argparse.ArgumentParser) -> list[Path]:
    """Every file of these folders and of those in them, in order; ends the program where there is none."""
    for folder in given:
        if not folder.exists():
            parser.error(f"{folder} is not there")
    found = sorted(
        path
        for folder in given
        for path in ([folder] if folder.is_file() else folder.rglob("*"))
        if path.is_file()
    )
    if not found:
        parser.error(f"no photograph in {', '.join(map(str, given)) or 'no folder'}")
    return found


def need(count: int, what: str, given: Sequence[Path], parser: argparse.ArgumentParser) -> None:
    """End the program where nothing that it could measure was found."""
    if not count:
        parser.error(f"no {what} in {', '.join(map(str, given))}")
