"""A build: the five stages in order, each run by whatever the caller hands in.

    build(config, options, run_with(report))        here and now, as the command line does
    build(config, options, run_as_tasks())          one Prefect task a stage, as the flow does

So the command line and Prefect share every line but the wrapper. Not here: the stages themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from flows import stages
from flows.cluster import open_client
from flows.config import BuildOptions
from flows.contact_sheet import write_contact_sheet
from flows.report import write_report
from flows.stages import Aligned, Context, Crawled, Report, Sharded
from preprocessing.config import BuildConfig
from preprocessing.sources import open_source
from preprocessing.sources.folder import FolderSource
from storage.datasets.dataset import Dataset
from storage.datasets.manifest import record_build
from storage.digest import json_digest
from storage.environment import run_facts
from storage.errors import ConfigError
from storage.store import Store

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Stage = Callable[Concatenate[Context, Report, Parameters], Result]


class Runner(Protocol):
    """Runs one stage: gives it a report, and adds whatever its world adds to a call."""

    def __call__(
        self,
        stage: Stage[Parameters, Result],
        context: Context,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """The stage's result."""


@dataclass(frozen=True)
class Built:
    """A finished build."""

    dataset: Dataset
    record: dict[str, Any]
    contact_sheet: Path
    report: Path

    def summary(self) -> dict[str, Any]:
        """What `likeness build --json` prints."""
        counts = self.dataset.manifest["counts"]
        return {
            "name": self.dataset.name,
            "version": self.dataset.version,
            "unchanged": self.record["unchanged"],
            "photos": counts["photos"],
            "images": counts["images"],
            "rejected": counts["rejected"],
            "shards": len(self.dataset.manifest["shards"]),
            "seconds": self.record["seconds"],
            "directory": str(self.dataset.folder),
        }


def run_with(report: Report) -> Runner:
    """A runner that just calls the stage."""

    def run(
        stage: Stage[Parameters, Result],
        context: Context,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        return stage(context, report, *args, **kwargs)

    return run


@dataclass(frozen=True)
class Timed:
    """A runner that also notes how many seconds each stage took."""

    run: Runner
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(
        self,
        stage: Stage[Parameters, Result],
        context: Context,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """The stage's result, its seconds noted under its name."""
        clock = time.perf_counter()
        result = self.run(stage, context, *args, **kwargs)
        self.seconds[stage.__name__] = time.perf_counter() - clock
        return result


def check_build(config: BuildConfig, store: Store) -> None:
    """Raise for a source that is not there, or that holds the store, or for settings at odds, before it starts."""
    config.resolved()
    config.faces.identity()  # loads the user's models
    source = open_source(config.source, config.fetch)
    if isinstance(source, FolderSource) and store.root.is_relative_to(source.root.resolve()):
        raise ConfigError(
            f"store {store.root} lies inside the source folder {source.root}, so a build would take its own results "
            f"for photographs: choose a --store elsewhere"
        )


def build(config: BuildConfig, options: BuildOptions, run: Runner) -> Built:
    """Build a dataset version from a source; the same photographs and config give the same version."""
    check_build(config, Store(options.store))
    return build_from(stages.crawl, config, options, run)


def build_from(
    crawl: Stage[[BuildConfig], Crawled], config: BuildConfig, options: BuildOptions, run: Runner
) -> Built:
    """As `build`, of the photographs that the stage `crawl` gives."""
    started, clock = datetime.now(UTC), time.perf_counter()
    store = Store(options.store)
    timed = Timed(run)
    with open_client(options.scheduler, options.workers) as client:
        context = Context(store, client, options.chunk_size, options.refetch)
        crawled = timed(crawl, context, config)
        aligned = timed(stages.align, context, config, crawled.photos)
        curated = timed(stages.curate, context, config, crawled.photos, aligned)
        sharded = timed(stages.shard, context, config, curated)
        rejections = [*crawled.rejections, *aligned.rejections, *curated.rejections]
        dataset = timed(stages.publish, context, config, crawled, rejections, sharded)
    sheet = write_contact_sheet(dataset)
    resolved = config.resolved()
    facts = {
        "config": resolved,
        "config_sha256": json_digest(resolved),
        "options": options.model_dump(mode="json"),
        "seconds": round(time.perf_counter() - clock, 3),
        "stages": {
            "crawl": crawled.counts(),
            "align": aligned.counts(),
            "curate": curated.counts(),
            "shard": sharded.counts(),
        },
        "timings": _timings(timed.seconds, crawled, aligned, sharded),
        "facts": run_facts(),
    }
    record = record_build(dataset, facts, started)
    report = write_report(dataset, record, crawled, aligned, curated)
    return Built(dataset, record, sheet, report)


def _timings(
    seconds: Mapping[str, float], crawled: Crawled, aligned: Aligned, sharded: Sharded
) -> dict[str, dict[str, Any]]:
    """Seconds of each stage and how many units it worked on; what an earlier build had done is not counted."""
    worked = {
        "crawl": (len(crawled.items) - crawled.reused, "photographs"),
        "align": (len({photo.sha256 for photo in crawled.photos}) - aligned.reused, "photographs"),
        "curate": (len(aligned.crops), "faces"),
        "shard": (len(sharded.images), "images"),
        "publish": (len(sharded.images), "images"),
    }
    return {
        stage: {
            "seconds": round(seconds[stage], 3),
            "done": done,
            "unit": unit,
            "per_second": round(done / max(seconds[stage], 1e-9), 3),
        }
        for stage, (done, unit) in worked.items()
    }
