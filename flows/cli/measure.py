"""The commands `likeness evaluate` and `likeness audit`: what to measure of a run, and what came of it in few lines.

    likeness evaluate RUN --metrics fd_efficientnet_lite0,kid_efficientnet_lite0 --num-images 5000
    likeness audit RUN --num-images 1000 --held-out other-faces

Not here: any measuring (`training.metrics.evaluate`, `training.metrics.audit`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.output import answer, print_resolved
from flows.cli.parameters import FLAT, RUN, DrawOptions, DryRun, Json, Options
from storage.datasets.dataset import open_part
from storage.errors import ConfigError, PipelineError
from storage.runs import Run, find_checkpoint, find_run
from storage.store import Store
from storage.wording import numbered
from training.metric_names import MEASURES
from training.metrics.settings import AuditConfig, EvaluateConfig

if TYPE_CHECKING:  # torch is imported where it is needed
    from training.extractors.weights import WeightsPlace
    from training.metrics.audit import CopyingRecord

RunReference = Annotated[str | None, RUN]


def evaluate(
    run: RunReference = None,
    *,
    config: Annotated[EvaluateConfig, FLAT] = EvaluateConfig(),
    list_: Annotated[
        bool, Parameter(name="--list", negative="", help="Show all metrics, and which can be had here.")
    ] = False,
    options: Options = DrawOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Measure a checkpoint of a run: FID, path lengths and others.

    The numbers, and all they depend on, are kept in the run's folder.
    """
    if list_:
        return _list(config.place, json_)
    if run is None or not config.metrics:
        raise ConfigError(
            "a run and metrics are needed: likeness evaluate RUN --metrics A,B, or likeness evaluate --list"
        )
    found, folder = _measured(run, options)
    from training.checkpoint import read_state
    from training.config import TrainConfig
    from training.device import resolve_device
    from training.metrics.evaluate import check_evaluation
    from training.metrics.evaluate import evaluate as run_evaluate

    device = resolve_device(options.device)
    if dry_run:
        check_evaluation(config, TrainConfig.recorded(read_state(folder).config, f"checkpoint {folder}"))
        return print_resolved(json_, config, options, run=found.id, checkpoint=folder.name)
    measured = run_evaluate(found, folder, config, device)
    records = {name: record.shown() for name, record in measured.items()}
    lines = [f"checkpoint {folder.name} of {found.id}"]
    for name, record in records.items():
        of = f"{record['num_fakes']} generated" + (
            f", {record['num_reals']} real" if "num_reals" in record else ""
        )
        lines.append(f"  {name}: {record['value']:.6g}  ({of}, {record['seconds']:.1f} s)")
    answer(json_, {"run": found.id, "checkpoint": folder.name, "metrics": records}, *lines)


def audit(
    run: RunReference = None,
    *,
    config: Annotated[AuditConfig, FLAT] = AuditConfig(),
    options: Options = DrawOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Look for near-copies of training crops among generated pictures.

    The photographs behind the closest pairs are named, and the pairs are drawn on a sheet in the run's folder.
    """
    if run is None:
        raise ConfigError("a run is needed: likeness audit RUN")
    found, folder = _measured(run, options)
    if config.held_out is not None:
        open_part(found.store, config.held_out)  # a wrong name is told before anything is computed
    from training.device import resolve_device
    from training.metrics.audit import audit as run_audit
    from training.metrics.audit import check_audit

    device = resolve_device(options.device)
    if dry_run:
        check_audit(found, config)
        return print_resolved(json_, config, options, run=found.id, checkpoint=folder.name)
    record = run_audit(found, folder, config, device)
    result = {**record.shown(), "sheet": str(found.folder / record.sheet)}
    spaces = [
        f"  {facts['near_copies']:.2%} nearer than {facts['threshold']:.4g} by {space} "
        f"(held-out {facts['held_out_near_copies']:.2%})"
        for space, facts in result["spaces"].items()
    ]
    spaces += [line for space, facts in record.copying.items() for line in _between(space, facts)]
    pictures, crops = (
        numbered(result["num_images"], "picture"),
        numbered(result["num_training_crops"], "crop"),
    )
    answer(
        json_,
        result,
        f"checkpoint {folder.name} of {found.id}: {pictures}, {crops}",
        f"  calibrated by {result['held_out']['method']} ({result['held_out']['num_images']})",
        *spaces,
        f"  {result['near_copies_in_both']:.2%} by both; closest pairs {result['sheet']}",
    )


def _between(space: str, facts: CopyingRecord) -> Iterator[str]:
    """How pictures lie between training crops and held-out photographs."""
    nearer, nearest = facts.nearer_to_training, facts.nearest_is_training
    yield (
        f"  {nearer.value:.1%} nearer to training crops than to as many held-out by {space} "
        f"({nearer.low:.1%} to {nearer.high:.1%}; {nearer.expected:.1%} without copying)"
    )
    yield (
        f"  {nearest.value:.1%} nearest to a training crop of all by {space} "
        f"({nearest.low:.1%} to {nearest.high:.1%}; {nearest.expected:.1%} without copying)"
    )
    yield (
        f"  {facts.near_training:.2%} near-copies of as many training crops by {space}, "
        f"{facts.near_held_out:.2%} of held-out photographs"
    )


def _measured(reference: str, options: DrawOptions) -> tuple[Run, Path]:
    """The run and the checkpoint that a reference names."""
    store = Store(options.store)
    checkpoint = find_checkpoint(store, reference, options.checkpoint).resolve()
    if not (checkpoint.parent.parent / "run.json").is_file():
        raise ConfigError(
            f"checkpoint {reference} lies outside its run's folder, which is needed to measure it"
        )
    return find_run(store, str(checkpoint.parent.parent)), checkpoint


def _list(place: WeightsPlace, as_json: bool) -> None:
    """Every metric, its extractor, and why it cannot be had here, if it cannot."""
    from training.extractors import check_extractor

    rows = []
    for measure in MEASURES.values():
        try:
            check_extractor(measure.extractor, place)
            problem = None
        except PipelineError as error:
            problem = str(error)
        rows.append(
            {
                "metric": measure.name,
                "extractor": measure.extractor,
                "about": measure.about,
                "problem": problem,
            }
        )
    problems = dict.fromkeys(row["problem"] for row in rows if row["problem"])
    lines = [
        f"{row['metric']:<34}{row['extractor']:<20}{'not here' if row['problem'] else 'usable':<10}{row['about']}"
        for row in rows
    ]
    answer(as_json, {"metrics": rows}, *lines, *(f"not here: {problem}" for problem in problems))
