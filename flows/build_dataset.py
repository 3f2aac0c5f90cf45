"""The flow `build-dataset`: photographs in, a dataset version out, one Prefect task a stage.

    prefect deployment run build-dataset/build-dataset --watch

When it is the top-level flow it emits `dataset.published`, which starts the training deployment; as part of
`build-and-train` it does not, so that one build leads to one training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow, task
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
    """Build a dataset version and return its summary."""
    built = build(config, options, run_as_tasks(), secret)
    _show(built)
    if is_top_level():
        emit_event(
            PUBLISHED,
            resource={
                "prefect.resource.id": f"dataset.{built.dataset.name}",
                "prefect.resource.name": built.dataset.reference,
            },
            payload={"reference": built.dataset.reference, "store": str(built.dataset.store.root)},
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
                bar.update(now.done, now.total, f"{now.done} of {now.total} {now.unit}")

            result = work(report)
            counts = getattr(result, "counts", None)
            if counts is not None:
                artifacts.counts_table(f"{name}-counts", f"What {name} did", counts())
            return result

        return run_stage()

    return run


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
    artifacts.link("report", f"Report of {dataset.reference}", built.report)
    artifacts.link("dataset-folder", f"Files of {dataset.reference}", dataset.folder)
    artifacts.picture("contact-sheet", f"Crops of {dataset.reference}", built.contact_sheet)
