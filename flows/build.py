"""A build: the five stages in order, each run by whatever the caller hands in.

    build(config, options, run_with(report))        here and now, as the command line does
    build(config, options, run_as_tasks())          one Prefect task a stage, as the flow does

So the command line and Prefect share every line but the wrapper. Not here: the stages themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from flows.operations.cluster import open_workers
from flows.options import BuildOptions
from flows.pages.contact_sheet import write_contact_sheet
from flows.pages.report import write_report
from flows.room import check_room, room_named
from flows.stages.align import Aligned, align
from flows.stages.crawl import Crawled, crawl
from flows.stages.curate import curate
from flows.stages.publish import publish
from flows.stages.screen import forgotten_by_looks, screened, without
from flows.stages.shard import Sharded, shard
from flows.stages.work import Context, Report, reasons
from preprocessing.advice import advice, limits
from preprocessing.columns import FACE_FIELDS, REJECTED_SCHEMA
from preprocessing.config import BuildConfig
from preprocessing.curation.review import read_verdicts
from preprocessing.reject import CRAWL, Reason
from preprocessing.sources import open_source
from preprocessing.sources.access import Secret, environment
from preprocessing.sources.folder import FolderSource
from storage.datasets.attribution import write_attribution
from storage.datasets.dataset import Dataset
from storage.datasets.lookup import keep_lookup
from storage.datasets.manifest import record_build
from storage.datasets.records import BuildRecord
from storage.digest import json_digest
from storage.environment import run_facts
from storage.errors import ConfigError, EmptyDatasetError
from storage.gathered import Gathered
from storage.lineage.openlineage import build_job, reported, version_dataset
from storage.local import real_path
from storage.store import Store
from storage.tables import arrow, fitted, rows_holding
from storage.wording import numbered

Result = TypeVar("Result")


class Run(Protocol):
    """Runs one stage: hands it a report, and adds whatever its world adds to a call."""

    def __call__(self, name: str, work: Callable[[Report], Result]) -> Result:
        """What `work` gives; `name` is the stage's."""
        ...


@dataclass(frozen=True)
class Built:
    """A finished build."""

    dataset: Dataset
    record: BuildRecord
    contact_sheet: Path
    report: Path

    @property
    def state(self) -> str:
        """Whether the version is news."""
        if self.record.unchanged:
            return "unchanged, as the build before it"
        return "as an earlier build" if self.record.was_known else "new"

    @property
    def advice(self) -> str | None:
        """What took more than half, and the setting that changes it."""
        counts = self.dataset.manifest.counts
        return advice(counts.images, counts.rejected, self.record.config)

    def summary(self) -> dict[str, Any]:
        """What `likeness build --json` prints."""
        counts = self.dataset.manifest.counts
        return {
            "name": self.dataset.name,
            "version": self.dataset.version,
            "unchanged": self.record.unchanged,
            "overtaken_by": self.record.overtaken_by,
            "photos": counts.photos,
            "images": counts.images,
            "rejected": counts.rejected,
            "splits": counts.splits,
            "advice": self.advice,
            "limits": limits(self.record.config),
            "shards": len(self.dataset.manifest.shards),
            "seconds": self.record.seconds,
            "directory": str(self.dataset.folder),
        }


def run_with(report: Report) -> Run:
    """Just calls the stage."""

    def run(name: str, work: Callable[[Report], Result]) -> Result:
        return work(report)

    return run


def timed(run: Run, seconds: dict[str, float]) -> Run:
    """As `run`, and notes in `seconds` how long each stage took."""

    def run_timed(name: str, work: Callable[[Report], Result]) -> Result:
        clock = time.perf_counter()
        result = run(name, work)
        seconds[name] = time.perf_counter() - clock
        pa.default_memory_pool().release_unused()  # what a stage needed on its way is not held on to
        return result

    return run_timed


def check_build(config: BuildConfig, store: Store) -> None:
    """Raise for a source that is not there, or that holds the store, or for settings at odds, before it starts."""
    config.resolved()
    config.faces_identity()  # loads the user's models
    read_verdicts(config.curate.reviews)
    source = open_source(config.source, config.fetch, config.sources)
    if isinstance(source, FolderSource) and store.root.is_relative_to(real_path(source.root)):
        raise ConfigError(
            f"store {store} lies inside the source folder {source.root}, so a build would take its own results "
            f"for photographs: choose a --store elsewhere"
        )


def check_reasons(retry: Sequence[str]) -> None:
    """Raise ConfigError for what is no reason of a crawl."""
    reasons = sorted(reason.value for reason in CRAWL)
    if unknown := sorted(set(retry) - set(reasons)):
        raise ConfigError(f"retry {unknown[0]!r} is none of {', '.join(reasons)}")


def build(config: BuildConfig, options: BuildOptions, run: Run, secret: Secret = environment) -> Built:
    """Build a dataset version from a source; the same photographs and config give the same version.

    `secret` gives the keys of services by their names.
    """
    store = Store(options.store)
    check_build(config, store)
    check_reasons(options.retry)
    check_room(config, store, open_source(config.source, config.fetch, config.sources))

    def asked(context: Context, report: Report, config: BuildConfig) -> Crawled:
        found = crawl(context, report, config, options.retry, options.crawl_workers)
        return screened(found, context, config)

    return build_from(asked, config, options, run, secret)


def build_from(
    crawl: Callable[[Context, Report, BuildConfig], Crawled],
    config: BuildConfig,
    options: BuildOptions,
    run: Run,
    secret: Secret = environment,
) -> Built:
    """As `build`, of the photographs that the stage `crawl` gives."""
    store = Store(options.store)
    job = build_job(config.name, config.source, config.resolved())
    with room_named(store), store.in_use(), reported(store, job) as outcome:
        built = _build_from(crawl, config, options, run, secret)
        outcome.outputs.append(version_dataset(built.dataset))
        outcome.facts["buildId"] = built.record.build_id
        return built


def _build_from(
    crawl: Callable[[Context, Report, BuildConfig], Crawled],
    config: BuildConfig,
    options: BuildOptions,
    run: Run,
    secret: Secret,
) -> Built:
    started, clock = datetime.now(UTC), time.perf_counter()
    store = Store(options.store)
    seconds: dict[str, float] = {}
    run = timed(run, seconds)
    with open_workers(options.scheduler, options.workers) as workers:
        context = Context(store, workers, options.chunk_size, options.refetch, Gathered, secret)
        crawled = run("crawl", lambda report: crawl(context, report, config))
        _check_any(crawled)
        columns = config.columns_to_judge()

        def faces_of(found: Crawled) -> Aligned:
            photos = with_said(found) if config.aligned else found.photos
            return run("align", lambda report: align(context, report, config, photos, FACE_FIELDS, columns))

        aligned = faces_of(crawled)
        if len(refs := forgotten_by_looks(crawled, aligned.faces, store)):
            crawled = without(crawled, refs)
            _check_any(crawled)
            aligned = faces_of(crawled)
        curated = run("curate", lambda report: curate(report, config, crawled.photos, aligned))
        sharded = run("shard", lambda report: shard(context, report, config, crawled, aligned, curated))
        stages = (crawled, aligned, curated)
        rejections = pa.concat_tables([fitted(stage.rejections, REJECTED_SCHEMA) for stage in stages])
        dataset = run(
            "publish",
            lambda report: publish(store, report, config, crawled, rejections, sharded, curated.splits),
        )
    sheet = write_contact_sheet(dataset)
    write_attribution(dataset)
    keep_lookup(dataset)
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
        "timings": _timings(seconds, crawled, aligned, sharded),
        "facts": run_facts(),
    }
    record = record_build(dataset, facts, started)
    report = write_report(dataset, record.as_json(), crawled, aligned, curated, rejections)
    return Built(dataset, record, sheet, report)


def with_said(found: Crawled) -> pa.Table:
    """The photographs of a crawl, each with what its source says of it."""
    items = found.items.take(arrow(rows_holding(found.items["ref"], found.photos["ref"])))
    return found.photos.append_column("said", items["said"])


def _check_any(crawled: Crawled) -> None:
    if not crawled.photos.num_rows:
        raise _nothing_had(crawled)


def _nothing_had(crawled: Crawled) -> EmptyDatasetError:
    """Why there is no photograph to look for faces in, and what the most frequent reason means."""
    if not crawled.items.num_rows:
        return EmptyDatasetError(
            "every photograph of the source has a tombstone: there is nothing to build from"
        )
    found = reasons(crawled.rejections)
    counts = ", ".join(f"{count} {reason}" for reason, count in found.items())
    most = Reason(max(found, key=lambda reason: found[reason]))
    return EmptyDatasetError(
        f"none of {numbered(crawled.items.num_rows, 'photograph')} could be had; rejected: {counts} ({most.meaning})"
    )


def _timings(
    seconds: Mapping[str, float], crawled: Crawled, aligned: Aligned, sharded: Sharded
) -> dict[str, dict[str, Any]]:
    """Seconds of each stage and how many units it worked on; what an earlier build had done is not counted."""
    worked = {
        "crawl": (crawled.items.num_rows - crawled.reused, "photographs"),
        "align": (pc.count_distinct(crawled.photos["sha256"]).as_py() - aligned.reused, "photographs"),
        "curate": (aligned.faces.num_rows, "faces"),
        "shard": (sharded.num_images, "images"),
        "publish": (sharded.num_images, "images"),
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
