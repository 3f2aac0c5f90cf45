"""Progress of long work on the terminal: a bar a stage, with its rate, its counts and the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from flows.stages.work import Progress, Report


class _Rate(ProgressColumn):
    """Units a second since the stage began."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {task.fields['unit']}/s" if speed else "", no_wrap=True)


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Bars on `console` until the work ends."""
    with Bars(
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    ) as progress:
        yield progress


def stage_report(progress: Bars) -> Report:
    """A report that draws a build's stages."""
    tasks: dict[str, TaskID] = {}

    def report(now: Progress) -> None:
        note = "  ".join(f"{name} {count}" for name, count in now.counts.items())
        if now.stage not in tasks:
            tasks[now.stage] = progress.add_task(now.stage, total=now.total, unit=now.unit, note=note)
        progress.update(tasks[now.stage], completed=now.done, total=now.total, note=note)

    return report
