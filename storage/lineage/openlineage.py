"""Builds and trainings as OpenLineage tells them to other programs: an event as each starts, and one as it ends.

    with reported(store, build_job("faces", "folder:photos", config)) as outcome:
        ...
        outcome.outputs.append(version_dataset(dataset))

Events are lines of `lineage/events.jsonl` in the store, and go to a server too where OpenLineage's own settings name
one: OPENLINEAGE_URL, OPENLINEAGE_API_KEY, OPENLINEAGE_CONFIG, OPENLINEAGE__TRANSPORT__... in the environment;
OPENLINEAGE_DISABLED=true tells nobody. They mirror records that lie elsewhere, so that one that cannot be told is a
warning. What our facets hold is in `facets.json` beside this file. Not here: the records.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from storage.datasets.dataset import Dataset
from storage.digest import json_digest
from storage.environment import Facts, run_facts
from storage.errors import PipelineError
from storage.local import make_folder
from storage.runs import CheckpointState, Run
from storage.store import Store

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent

logger = logging.getLogger(__name__)

EVENTS = "lineage/events.jsonl"
"""An event a line, in the store."""
NAMESPACE = "likeness"
"""Of jobs and datasets, where OPENLINEAGE_NAMESPACE names no other."""
SCHEMA = "urn:likeness:openlineage:1#/$defs/"
"""What our facets are said to be of."""
SETTINGS = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
"""How the names of settings begin that name a server."""


@dataclass(frozen=True)
class Job:
    """What is told of: its kind, build or training, its name, the datasets that it reads, and what was asked of it."""

    kind: str
    name: str
    inputs: tuple[InputDataset, ...]
    facts: Mapping[str, Any]
    """Of the run's facet, that of `facets.json` which its kind names."""


@dataclass
class Outcome:
    """What a job made, and facts that were not known when it started; filled while it runs."""

    outputs: list[OutputDataset] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    """Whether it ended because it was asked to."""


@contextmanager
def reported(store: Store, job: Job) -> Iterator[Outcome]:
    """Tell that a job starts, and when the block ends that it is complete, was stopped, or has failed, and why."""
    from openlineage.client.uuid import generate_new_uuid

    run_id, outcome = str(generate_new_uuid()), Outcome()

    def tell(state: str, problem: BaseException | None = None) -> None:
        _tell(store, lambda: _event(state, run_id, job, outcome, problem))

    tell("START")
    try:
        yield outcome
    except Exception as error:
        tell("FAIL", error)
        raise
    except BaseException:  # Ctrl-C, or SIGTERM
        tell("ABORT")
        raise
    tell("ABORT" if outcome.stopped else "COMPLETE")


def build_job(name: str, source: str, config: Mapping[str, Any]) -> Job:
    """A build of a dataset's name from a source, as the settings name it, by a resolved config."""
    from openlineage.client.event_v2 import InputDataset

    facts = {"config": dict(config), "configSha256": json_digest(config), **_code(run_facts())}
    return Job("build", f"build.{name}", (InputDataset(_namespace(), f"source/{source}"),), facts)


def training_job(run: Run, dataset: Dataset) -> Job:
    """A run that starts or goes on, on a version."""
    from openlineage.client.event_v2 import InputDataset

    config = run.record.config_now
    facts = {"trainingRun": run.id, "config": config, "configSha256": json_digest(config)}
    made = InputDataset(_namespace(), f"dataset/{dataset.name}", facets=_facets(dataset))
    return Job("training", f"train.{dataset.name}", (made,), facts | _code(run.record.facts))


def version_dataset(dataset: Dataset) -> OutputDataset:
    """A version as what a build made."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    _producer()
    size = sum(shard.size for shard in dataset.manifest.shards)
    facet = statistics.OutputStatisticsOutputDatasetFacet(
        rowCount=dataset.num_images, size=size, fileCount=len(dataset.manifest.shards)
    )
    return OutputDataset(
        _namespace(),
        f"dataset/{dataset.name}",
        facets=_facets(dataset),
        outputFacets={"outputStatistics": facet},
    )


def checkpoint_dataset(run: Run) -> OutputDataset:
    """A run's newest checkpoint as what a training made."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import DatasetFacet, dataset_version_dataset

    _producer()
    folder = run.newest_checkpoint()
    sha256 = CheckpointState.read(folder / "state.json").sha256
    said = {"trainingRun": run.id, "checkpoint": folder.name, "sha256": dict(sha256)}
    version = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=folder.name)
    facets = {"version": version, "likeness_checkpoint": _facet(DatasetFacet, "CheckpointDatasetFacet", said)}
    return OutputDataset(_namespace(), f"run/{run.id}", facets=facets)


def _facets(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import DatasetFacet, dataset_version_dataset, datasource_dataset

    _producer()
    manifest = dataset.manifest
    said = {
        "reference": dataset.reference,
        "manifestSha256": dataset.manifest_sha256,
        "resolution": dataset.resolution,
        "images": dataset.num_images,
        "photographs": manifest.counts.photos,
        "rejected": dict(manifest.counts.rejected),
    }
    return {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=dataset.manifest_sha256),
        "dataSource": datasource_dataset.DatasourceDatasetFacet(
            name=dataset.reference, uri=dataset.folder.as_uri()
        ),
        "likeness_version": _facet(DatasetFacet, "VersionDatasetFacet", said),
    }


def _code(facts: Facts) -> dict[str, Any]:
    return {
        "codeCommit": facts.code_commit,
        "lockSha256": facts.lock_sha256,
        "packages": dict(facts.packages),
    }


def _event(
    state: str,
    run_id: str,
    job: Job,
    outcome: Outcome,
    problem: BaseException | None,
) -> RunEvent:
    from openlineage.client import event_v2
    from openlineage.client.facet_v2 import RunFacet, error_message_run, job_type_job, processing_engine_run

    version = _producer().rpartition(":")[2]
    facts = {**job.facts, **outcome.facts}
    facets: dict[str, Any] = {
        f"likeness_{job.kind}": _facet(RunFacet, f"{job.kind.capitalize()}RunFacet", facts),
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(version=version, name="likeness"),
    }
    if problem is not None:
        said = str(problem) if isinstance(problem, PipelineError) else f"{type(problem).__name__}: {problem}"
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(said, "PYTHON")
    kind = job_type_job.JobTypeJobFacet(
        processingType="BATCH", integration="LIKENESS", jobType=job.kind.upper()
    )
    return event_v2.RunEvent(
        eventType=event_v2.RunState[state],
        eventTime=datetime.now(UTC).isoformat(timespec="milliseconds"),
        run=event_v2.Run(run_id, facets=facets),
        job=event_v2.Job(_namespace(), job.name, facets={"jobType": kind}),
        inputs=list(job.inputs),
        outputs=list(outcome.outputs),
        producer=_producer(),
    )


def _facet(base: Any, name: str, facts: Mapping[str, Any]) -> Any:
    """A facet of our own, with these facts."""
    made = base().with_additional_properties(**facts)
    made._schemaURL = f"{SCHEMA}{name}"
    return made


def _producer() -> str:
    """Who says all this, which every facet is told too."""
    from openlineage.client.facet_v2 import set_producer

    producer = f"urn:likeness:{run_facts().packages.get('likeness') or '0'}"
    set_producer(producer)
    return producer


def _namespace() -> str:
    return os.environ.get("OPENLINEAGE_NAMESPACE") or NAMESPACE


def _tell(store: Store, made: Callable[[], RunEvent]) -> None:
    """Write an event down, and send it where a server is named; a warning where either cannot be done."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").lower() == "true":
        return
    from openlineage.client.serde import Serde

    try:
        event = made()
        line = json.dumps(json.loads(Serde.to_json(event)), separators=(",", ":")).encode() + b"\n"
        path = store.file(EVENTS)
        make_folder(path.parent, durable=False)
        with path.open("ab", buffering=0) as file:
            file.write(line)
    except Exception as error:
        logger.warning("an OpenLineage event is not written to %s: %s", store.path(EVENTS), error)
        return
    if any(name.startswith(SETTINGS) for name in os.environ):
        try:
            from openlineage.client import OpenLineageClient

            transport = (
                OpenLineageClient().transport
            )  # what the client would add to an event is not in the file
            transport.emit(event)
            transport.close()
        except Exception as error:
            logger.warning(
                "OpenLineage's server did not take an event, which %s has: %s", store.path(EVENTS), error
            )
