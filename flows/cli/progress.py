"""Progress of long work on the terminal: a bar a stage, with its rate, its counts and the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from flows.stages.work import Progress, Report


class _Rate(ProgressColumn):
    """Units a second since the stage began."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {task.fields['unit']}/s" if speed else "", no_wrap=True)


class _Done(ProgressColumn):
    """How much of the whole is done, in parts of a unit too."""

    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{task.total:g}"
        return Text(f"{task.completed:g}/{total}".rjust(2 * len(total) + 1), no_wrap=True)


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Bars on `console` until the work ends; work that ends before its first bar leaves no line."""
    progress = _Bars(
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=12),
        _Done(),
        _Rate(),
        TimeRemainingColumn(),
        # as much of the note as there is room for: the other columns come first
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=console,
        expand=True,
    )
    try:
        yield progress
    finally:
        if progress.tasks:
            progress.stop()


class _Bars(Bars):
    """Bars that are drawn from the first one on."""

    def add_task(self, *arguments: Any, **fields: Any) -> TaskID:
        self.start()
        return super().add_task(*arguments, **fields)


def stage_report(progress: Bars) -> Report:
    """A report that draws a build's stages."""
    tasks: dict[str, TaskID] = {}

    def report(now: Progress) -> None:
        counts = (f"{name} {count}" for name, count in now.counts.items())
        note = "  ".join(filter(None, [*counts, now.about]))
        if now.stage not in tasks:
            tasks[now.stage] = progress.add_task(now.stage, total=now.total, unit=now.unit, note=note)
        progress.update(tasks[now.stage], completed=now.done, total=now.total, note=note)

    return report
