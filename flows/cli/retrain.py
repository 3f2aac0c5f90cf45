"""The command `likeness retrain`. Not here: any work (`flows.retraining`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter
from rich.progress import Progress as Bars

from flows.build import Result, Run, run_with
from flows.cli.output import answer, console, print_value, warn
from flows.cli.parameters import FLAT, DryRun, Json
from flows.cli.progress import bars, stage_report
from flows.cli.promote import tell
from flows.operations.training_process import train_run, training_note
from flows.options import BuildAndTrainOptions
from flows.retraining import RetrainConfig, plan
from flows.retraining import retrain as run_retrain
from storage import runs
from storage.datasets.dataset import open_dataset
from storage.store import Store
from training.config import TrainConfig
from training.metrics.settings import ScorecardConfig


@dataclass(frozen=True)
class _Plain:
    """Each step here and now, with a bar."""

    progress: Bars
    options: BuildAndTrainOptions

    @property
    def stage(self) -> Run:
        """A build's stages."""
        return run_with(stage_report(self.progress))

    def step(self, name: str, work: Callable[[], Result]) -> Result:
        """A step whose length nobody knows."""
        bar = self.progress.add_task(name, total=None, unit="", note="")
        result = work()
        self.progress.update(bar, total=1, completed=1)
        return result

    def train(self, run: runs.Run) -> None:
        """The training process."""
        total = run.record.config_now["total_kimg"]
        bar = self.progress.add_task("train", total=total, unit="kimg", note="starting")

        def on_tick(row: dict[str, Any]) -> None:
            self.progress.update(bar, completed=round(row["kimg"], 2), note=training_note(row))

        train_run(run, self.options, on_tick, warn)

    def say(self, line: str) -> None:
        """Above the bars."""
        self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def retrain(
    name: Annotated[str, Parameter(help="A dataset's name.")],
    *,
    config: Annotated[RetrainConfig, FLAT] = RetrainConfig(),
    training: Annotated[TrainConfig, FLAT] = TrainConfig(),
    scorecard: Annotated[
        ScorecardConfig, Parameter(name="scorecard", negative_iterable=())
    ] = ScorecardConfig(),
    options: Annotated[BuildAndTrainOptions, FLAT] = BuildAndTrainOptions(),
    reason: Annotated[str | None, Parameter(help="Why, for the record.")] = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Ask for consent again, build again, train if there is reason to, and promote what a scorecard finds good.

    Trains as the champion was trained, or by what is given. Ends as `likeness promote` does.
    """
    given = training if training.model_fields_set else None
    if dry_run:
        store = Store(options.store)
        planned = plan(store, open_dataset(store, name), config, given, options, None, reason)
        value = {
            "dataset": planned.dataset.reference,
            "why": planned.why,
            "begins": planned.begins,
            "trains": planned.trains,
            "config": planned.config.model_dump(mode="json"),
            "retraining": config.model_dump(mode="json"),
            "scorecard": scorecard.model_dump(mode="json"),
        }
        return print_value(value, json_)
    with bars(console(json_)) as progress:
        steps = _Plain(progress, options)
        done = run_retrain(name, config, given, scorecard, options, steps, reason=reason)
    if done.decision is None:
        line = f"{done.plan.dataset.reference}: skipped: {done.plan.why}; {done.plan.begins} (--force trains again)"
        return answer(json_, done.summary(), line)
    tell(done.decision, json_, retraining=done.summary())
