"""The help page of every command, as a file each: what docs/help holds, and a test compares with the commands.

    python -m flows.cli.help docs/help

Pages are of one width and without colours, whatever the terminal. Not here: what they say (the commands, and the
configs' fields).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from flows.cli.main import COMMANDS, GROUPS, app

WIDTH = 100


def pages() -> dict[str, str]:
    """Every help page by its file's name: likeness.txt lists the commands, figure-noise.txt is of `figure noise`."""
    return {f"{'-'.join(command) or 'likeness'}.txt": page(*command) for command in commands()}


def page(*command: str) -> str:
    """What `likeness COMMAND --help` prints."""
    printed = io.StringIO()
    console = Console(
        file=printed, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False
    )
    app.help_print(list(command), console=console)
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().rstrip().splitlines())


def commands() -> Iterator[tuple[str, ...]]:
    """The command itself, then each of its commands with theirs."""
    yield ()
    for name in COMMANDS:
        yield (name,)
        if name in GROUPS:
            yield from ((name, below) for below in app[name] if not below.startswith("-"))


def write_pages(folder: Path) -> None:
    """Write every page into a folder, and remove the pages of commands that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for path in folder.glob("*.txt"):
        if path.name not in texts:
            path.unlink()


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
