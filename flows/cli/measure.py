"""The commands `likeness evaluate` and `likeness audit`: what to measure of a run, and what came of it in few lines.

    likeness evaluate RUN --metrics fd_efficientnet_lite0,kid_efficientnet_lite0 --images 5000
    likeness audit RUN --images 1000 --held-out other-faces

Not here: any measuring (`training.metrics.evaluate`, `training.metrics.audit`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from cyclopts import Parameter

from flows.cli.output import answer
from flows.cli.parameters import RUN, DrawOptions, Json, Options
from storage.errors import ConfigError, PipelineError
from storage.runs import Run, find_checkpoint, find_run
from storage.store import Store
from training.device import resolve_device
from training.extractors import check_extractor
from training.extractors.weights import WeightsPlace
from training.metric_names import MEASURES
from training.metrics.audit import AuditConfig
from training.metrics.audit import audit as run_audit
from training.metrics.evaluate import EvaluateConfig
from training.metrics.evaluate import evaluate as run_evaluate

RunReference = Annotated[str | None, RUN]
Weights = Annotated[
    Path | None, Parameter(help="Folder of weights by their published names; unset: torch hub's cache.")
]


def evaluate(
    run: RunReference = None,
    *,
    metrics: Annotated[str | None, Parameter(help="Names, with commas; --list shows them.")] = None,
    images: Annotated[
        int | None, Parameter(help="Generated samples; unset: as many as published figures are of.")
    ] = None,
    reals: Annotated[int | None, Parameter(help="Real crops, the first so many; unset: all.")] = None,
    truncation_psi: Annotated[
        float, Parameter(help="Truncation; 1 is none, as for published figures.")
    ] = 1.0,
    seed: Annotated[int, Parameter(help="The first image's seed; the others follow it.")] = 0,
    batch_size: Annotated[int, Parameter(help="Images at a time; changes no number.")] = 32,
    face_crop: Annotated[bool, Parameter(help="Path lengths on the part that shows the face.")] = True,
    weights: Weights = None,
    attributes: Annotated[
        Path | None, Parameter(help="Folder of ONNX attribute classifiers, for separability.")
    ] = None,
    list_: Annotated[
        bool, Parameter(name="--list", negative="", help="Show all metrics, and which can be had here.")
    ] = False,
    options: Options = DrawOptions(),
    json_: Json = False,
) -> None:
    """Measure a checkpoint of a run; the numbers, and all they depend on, are kept in the run's folder."""
    if list_:
        return _list(WeightsPlace(weights, attributes=attributes), json_)
    if run is None or metrics is None:
        raise ConfigError(
            "a run and metrics are needed: likeness evaluate RUN --metrics A,B, or likeness evaluate --list"
        )
    found, folder = _measured(run, options)
    config = _config(
        EvaluateConfig,
        metrics=tuple(name.strip() for name in metrics.split(",")),
        num_images=images,
        num_reals=reals,
        truncation_psi=truncation_psi,
        seed=seed,
        batch_size=batch_size,
        face_crop=face_crop,
        weights=weights,
        attributes=attributes,
    )
    records = run_evaluate(found, folder, config, resolve_device(options.device))
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
    images: Annotated[int, Parameter(help="Generated pictures.")] = 1000,
    held_out: Annotated[
        str | None,
        Parameter(
            help="Dataset of photographs that were not trained on, to calibrate by; unset: training crops against "
            "the other training crops."
        ),
    ] = None,
    percentile: Annotated[
        float, Parameter(help="Percent of held-out photographs that pass for near-copies.")
    ] = 1.0,
    pairs: Annotated[int, Parameter(help="Closest pairs on record and on the sheet.")] = 16,
    extractor: Annotated[
        Literal["efficientnet_lite0", "inception", "vgg16"], Parameter(help="Network of the embedding.")
    ] = "efficientnet_lite0",
    truncation_psi: Annotated[float, Parameter(help="Truncation; 1 is none.")] = 1.0,
    seed: Annotated[int, Parameter(help="The first picture's seed; the others follow it.")] = 0,
    batch_size: Annotated[int, Parameter(help="Images at a time; changes no number.")] = 32,
    weights: Weights = None,
    options: Options = DrawOptions(),
    json_: Json = False,
) -> None:
    """Look for near-copies of training crops among generated pictures, and name the photographs behind them."""
    if run is None:
        raise ConfigError("a run is needed: likeness audit RUN")
    found, folder = _measured(run, options)
    config = _config(
        AuditConfig,
        num_images=images,
        held_out=held_out,
        percentile=percentile,
        num_pairs=pairs,
        extractor=extractor,
        truncation_psi=truncation_psi,
        seed=seed,
        batch_size=batch_size,
        weights=weights,
    )
    result = run_audit(found, folder, config, resolve_device(options.device))
    spaces = [
        f"  {facts['near_copies']:.2%} nearer than {facts['threshold']:.4g} by {space} "
        f"(held-out {facts['held_out_near_copies']:.2%})"
        for space, facts in result["spaces"].items()
    ]
    answer(
        json_,
        result,
        f"checkpoint {folder.name} of {found.id}: {images} pictures, {result['num_training_crops']} crops",
        f"  calibrated by {result['held_out']['method']} ({result['held_out']['num_images']})",
        *spaces,
        f"  {result['near_copies_in_both']:.2%} by both; closest pairs {result['sheet']}",
    )


def _config(kind: Any, **fields: Any) -> Any:
    """A config of the command's options; ConfigError names the option that is wrong."""
    options = {"num_images": "images", "num_reals": "reals", "num_pairs": "pairs"}
    try:
        return kind(**fields)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0])
        option = options.get(name, name).replace("_", "-")
        raise ConfigError(f"--{option}: {problem['msg'].removeprefix('Value error, ')}") from None


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
