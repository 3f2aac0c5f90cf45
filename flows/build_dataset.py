"""The flow `build-dataset`: photographs in, a dataset version out, one Prefect task a stage.

    prefect deployment run build-dataset/build-dataset --watch

When it is the top-level flow it emits `dataset.published`, which starts the training deployment; as part of
`build-and-train` it does not, so that one build leads to one training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.events import emit_event

from flows import artifacts
from flows.build import Built, Result, Run, build
from flows.operations.secrets import secret
from flows.options import BuildOptions
from flows.stages.work import Progress, Report
from preprocessing.config import BuildConfig

PUBLISHED = "dataset.published"


@flow(name="build-dataset", description="Crawl, align, curate, shard and publish an FFHQ-like dataset.")
def build_dataset(
    config: BuildConfig = BuildConfig(), options: BuildOptions = BuildOptions()
) -> dict[str, Any]:
    """Build a dataset version and return its summary.

    Args:
        config: What the dataset is made of, and how.
        options: Where it runs.
    """
    source = config.source.partition(":")[0]
    artifacts.describe(f"{config.name} {config.resolution}px {source}", dataset=config.name, source=source)
    built = build(config, options, run_as_tasks(), secret)
    artifacts.describe(None, version=built.dataset.version)
    _show(built)
    if is_top_level():
        emit_event(
            PUBLISHED,
            resource={
                "prefect.resource.id": f"dataset.{built.dataset.name}",
                "prefect.resource.name": built.dataset.reference,
            },
            payload={
                "reference": built.dataset.reference,
                "store": str(built.dataset.store),
                "unchanged": built.record.unchanged,
                "previous_version": built.record.previous_version,
                "counts": built.dataset.manifest.counts.model_dump(include={"photos", "images"}),
            },
        )
    return built.summary()


def run_as_tasks() -> Run:
    """Makes each stage a Prefect task with its progress and its table of counts."""

    def run(name: str, work: Callable[[Report], Result]) -> Result:
        # no parameters: Prefect would walk through every record it is passed
        @task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
        def run_stage() -> Result:
            bar = artifacts.ProgressArtifact(f"{name}-progress", name)

            def report(now: Progress) -> None:
                about = f"; {now.about}" if now.about else ""
                note = f"{now.done} of {now.total} {now.unit}{_listed(now.counts)}{about}"
                bar.update(now.done, now.total, note)

            result = work(report)
            counts = getattr(result, "counts", None)
            if counts is not None:
                artifacts.counts_table(f"{name}-counts", f"What {name} did", counts())
                get_run_logger().info("%s ended%s", name, _listed(counts()))
            return result

        return run_stage()

    return run


def _listed(counts: Mapping[str, int]) -> str:
    """What became of a stage's inputs, in a line, without what never came to be."""
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f": {said}" if said else ""


def is_top_level() -> bool:
    """Whether the running flow was started by nothing but a person, a schedule or an event."""
    context = FlowRunContext.get()
    return (
        context is not None and context.flow_run is not None and context.flow_run.parent_task_run_id is None
    )


def _show(built: Built) -> None:
    dataset = built.dataset
    summary = built.summary()
    artifacts.facts("dataset", f"Dataset {dataset.reference}", {"state": built.state, **summary})
    artifacts.link("report", f"Report of {dataset.reference}", built.report, dataset.store)
    artifacts.link("dataset-folder", f"Files of {dataset.reference}", dataset.folder, dataset.store)
    artifacts.picture("contact-sheet", f"Crops of {dataset.reference}", built.contact_sheet)
