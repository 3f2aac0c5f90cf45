"""Retraining: consent asked again, crawl refreshed, built, trained where there is reason to, judged, promoted or not.

    retrained = retrain("faces", RetrainConfig(), options, steps)

Whether to train is decided by what is on record, and said: a finished run of the same version and settings is not
trained again, and one that was killed is gone on with. So the same command may be given twice, or after a kill at any
step. Not here: Prefect (`flows.retrain`), a scorecard (`training.metrics.scorecard`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from flows.build import Result, Run, build
from flows.operations.training_process import begun_with, check_training, known_run, prepare_run
from flows.options import BuildAndTrainOptions
from flows.promote import judged, settle
from preprocessing.config import BuildConfig, recorded_config
from preprocessing.recheck import RecheckRecord, recheck
from preprocessing.sources.access import Secret, environment
from storage import runs
from storage.config import Config
from storage.datasets.dataset import Dataset, open_dataset, with_split
from storage.datasets.diff import diff
from storage.datasets.records import NAME_PATTERN, VersionName
from storage.errors import ConfigError, NotFoundError
from storage.lineage.ancestry import runs_behind, withdrawn_behind
from storage.promotions import Candidate, Decision, alias_of, last_decision
from storage.store import Store
from storage.withdrawals import withdrawals
from storage.wording import numbered
from training.config import TrainConfig
from training.labels import labelled
from training.metrics.settings import ScorecardConfig

DatasetName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]


class RetrainConfig(Config):
    """What a retraining does, and what it does not."""

    recheck: bool = Field(
        True, description="Ask again whether licences, pages and signals of the web's photographs still hold."
    )
    build: bool = Field(
        True, description="Build again, as the last build did; otherwise the latest version is trained on."
    )
    refresh: bool = Field(
        True, description="In the build, ask the web for what has changed, as --refetch does."
    )
    begin_with: Literal["champion", "nothing"] = Field(
        "champion",
        description="Whose weights to begin with; of a champion that learned from withdrawn photographs never.",
    )
    force: bool = Field(False, description="Train also where nothing has changed.")


class Steps(Protocol):
    """How steps are run: plainly, or as tasks."""

    @property
    def stage(self) -> Run:
        """Runs a step of the build."""
        ...

    def step(self, name: str, work: Callable[[], Result]) -> Result:
        """What `work` gives."""
        ...

    def train(self, run: runs.Run) -> None:
        """Train a run to its end."""
        ...

    def say(self, line: str) -> None:
        """Tell whoever follows."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is to be trained and why, or why nothing is."""

    dataset: Dataset
    why: str
    """What has changed since the champion, or the last run, learned; and who asked."""
    config: TrainConfig
    init_from: str | None
    begins: str
    """With whose weights, and why."""
    known: runs.Run | None
    """A run of the same version and settings."""

    @property
    def trains(self) -> bool:
        """Whether images are left to show."""
        return self.known is None or self.known.finished() is None


@dataclass(frozen=True)
class Retrained:
    """What came of it."""

    plan: Plan
    run: runs.Run | None = None
    decision: Decision | None = None
    is_champion: bool = False

    @property
    def state(self) -> str:
        """In a few words."""
        if self.decision is None:
            return "skipped"
        if self.is_champion:
            return "champion"
        return "waits for a person" if self.decision.waits else "refused"

    def summary(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "dataset": self.plan.dataset.reference,
            "state": self.state,
            "why": self.plan.why,
            "begins": self.plan.begins,
            "run": self.run.id if self.run else None,
            "decision": self.decision.decision if self.decision else None,
            "reasons": self.decision.reasons if self.decision else [],
        }


def retrain(
    name: str,
    config: RetrainConfig,
    training: TrainConfig | None,
    scorecard: ScorecardConfig,
    options: BuildAndTrainOptions,
    steps: Steps,
    *,
    source: BuildConfig | None = None,
    secret: Secret = environment,
    reason: str | None = None,
    flow_run_id: str | None = None,
) -> Retrained:
    """Do all of it for a dataset's name, and return what came of it.

    `training` None is as the champion was trained, or the last run of the name; `source` None as the last build.
    """
    store = Store(options.store)
    if source is None:
        open_dataset(store, name)  # a wrong name is told before anything is done
    with _alone(store, name, steps):
        asked = _asked_again(store, name, config, source, steps)
        dataset = _built(store, name, config, options, steps, source, secret)
        planned = plan(store, dataset, config, training, options, asked, reason)
        steps.say(f"{dataset.reference}: {planned.why}; {planned.begins}")
        return _followed(store, name, planned, scorecard, options, steps, flow_run_id)


@contextmanager
def _alone(store: Store, name: str, steps: Steps) -> Iterator[None]:
    """Be the only retraining of a name: what is asked for meanwhile comes after it, and finds what it left."""
    key = f"promotions/{name}/.retraining.lock"
    with store.locked(key, wait=False) as is_mine:
        if is_mine:
            yield
            return
    steps.say(f"waiting for another retraining of {name}")
    with store.locked(key):
        yield


def _followed(
    store: Store,
    name: str,
    planned: Plan,
    scorecard: ScorecardConfig,
    options: BuildAndTrainOptions,
    steps: Steps,
    flow_run_id: str | None,
) -> Retrained:
    """Train as planned, unless it was, and settle who is champion."""
    run = planned.known or prepare_run(
        planned.dataset.summary().part,
        planned.config,
        options,
        None,
        planned.init_from,
        flow_run_id,
        planned.why,
    )
    decision = last_decision(store, name, run.id)
    if not planned.trains and decision is not None:
        if decision.outcome != "promote" or _was_champion(store, decision):
            return Retrained(planned)
    else:
        if planned.trains:
            steps.train(run)
        device = run.record.config_now["device"]
        decision = steps.step("judge", lambda: judged(run, None, scorecard, device, steps.say))
    return Retrained(planned, run, decision, settle(store, decision))


def _was_champion(store: Store, decision: Decision) -> bool:
    """Whether a decision was done, though a rollback may have undone it."""
    return any(move.decision == decision.decision for move in alias_of(store, decision.name).moves)


def _asked_again(
    store: Store, name: str, config: RetrainConfig, source: BuildConfig | None, steps: Steps
) -> RecheckRecord | None:
    """The recheck of what is published now, if anything is."""
    if not config.recheck:
        return None
    try:
        dataset = open_dataset(store, name)
        fetch = (source or recorded_config(dataset)).fetch
    except NotFoundError:  # nothing was published, or by no build that is on record
        return None
    record = steps.step("recheck", lambda: recheck(dataset, fetch))
    if record.photographs:
        steps.say(
            f"{numbered(record.photographs, 'photograph')} asked again, {len(record.withdrawn)} withdrawn"
        )
    return record


def _built(
    store: Store,
    name: str,
    config: RetrainConfig,
    options: BuildAndTrainOptions,
    steps: Steps,
    source: BuildConfig | None,
    secret: Secret,
) -> Dataset:
    if not config.build:
        return open_dataset(store, name)
    settings = source or recorded_config(open_dataset(store, name))
    settings = settings.model_copy(update={"name": name})
    refreshing = options.model_copy(update={"refetch": config.refresh or options.refetch})
    return build(settings, refreshing, steps.stage, secret).dataset


def plan(
    store: Store,
    dataset: Dataset,
    config: RetrainConfig,
    training: TrainConfig | None,
    options: BuildAndTrainOptions,
    asked: RecheckRecord | None = None,
    reason: str | None = None,
) -> Plan:
    """What to train of a version, with whose weights, and why; nothing is made yet."""
    champion = alias_of(store, dataset.name).champion
    before = _before(store, dataset.name, champion)
    if before is not None and before.record.dataset.split is not None:
        dataset = with_split(dataset, before.record.dataset.split)
    chosen = training_of(dataset, training, before)
    check_training(store, dataset.summary().part, chosen, options)
    chosen = labelled(dataset, chosen)
    known = None if config.force else known_run(store, dataset, chosen)
    init_from, begins = _first_weights(store, config, chosen, champion)
    changed = _changes(store, before, dataset, asked)
    why = "; ".join(filter(None, [changed, reason, "forced" if config.force else None]))
    if known is not None:
        done = "finished already" if known.finished() else "begun already"
        begins = f"run {known.id} of this version and these settings is {done}"
    return Plan(dataset, why, chosen, init_from, begins, known)


def training_of(dataset: Dataset, asked: TrainConfig | None, before: runs.Run | None) -> TrainConfig:
    """How to train: as asked, or as the run before; the resolution, where none is asked for, is the version's.

    A run before that was of a lower resolution than its version stays so.
    """
    if asked is None and before is not None:
        *_, first = runs_behind(before)  # whose start is no other network's
        was = before.record.config
        is_whole = was["resolution"] == before.record.dataset.resolution
        resolution = dataset.resolution if is_whole else was["resolution"]
        start = min(first.record.config.get("start_resolution", 8), resolution)
        changed = {"resolution": resolution, "start_resolution": start, "label_values": (), "freeze_d": 0}
        recorded = {**was, **changed}
        own = TrainConfig.recorded(recorded, f"run {before.id}")
        own.model_fields_set.discard("start_resolution")
        return own
    asked = asked or TrainConfig()
    if "resolution" in asked.model_fields_set:
        return asked
    return TrainConfig.model_validate({**_given(asked), "resolution": dataset.resolution})


def _given(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", include=config.model_fields_set | {"preset"})


def _before(store: Store, name: str, champion: Candidate | None) -> runs.Run | None:
    """The champion's run, or the newest of the name."""
    if champion is not None:
        return runs.stored_run(store, champion.run_id)
    of_name = [run for run in runs.list_runs(store) if run.record.dataset.name == name]
    return of_name[-1] if of_name else None


def _first_weights(
    store: Store, config: RetrainConfig, training: TrainConfig, champion: Candidate | None
) -> tuple[str | None, str]:
    """A reference to the networks to begin with, if there are any that may be, and a sentence of it."""
    if champion is None:
        return None, "begins with nothing: there is no champion yet"
    if config.begin_with == "nothing":
        return None, "begins with nothing, as asked for"
    run = runs.stored_run(store, champion.run_id)
    if behind := withdrawn_behind(run):
        return (
            None,
            f"begins with nothing: the champion learned from {behind[0].reference}, which was withdrawn",
        )
    folder = str(run.checkpoint(champion.checkpoint))
    try:
        begun_with(store, training, folder)
    except ConfigError as error:  # networks of another shape
        return None, f"begins with nothing: {error}"
    return folder, f"begins with the champion, {champion.run_id}/{champion.checkpoint}"


def _changes(store: Store, before: runs.Run | None, dataset: Dataset, asked: RecheckRecord | None) -> str:
    """What became of the photographs since a run learned from them: "unchanged", "+214, 3 withdrawn"."""
    if before is None:
        return "the first training"
    learned: VersionName = before.record.dataset
    if learned.manifest_sha256 == dataset.manifest_sha256:
        return "unchanged"
    gone = list(withdrawals(store, learned.name, learned.version))
    if gone:
        return f"{gone[0].photographs} withdrawn since"
    old = Dataset(store, learned.name, learned.version)
    if not store.exists(f"{old.key}/manifest.json"):
        return f"another version than {learned.reference}, which is not here any more"
    photographs = diff(old, dataset, 0).photographs
    removed = photographs.removed["photo_sha256"].to_pylist()
    refused = {one.photo_sha256 for one in asked.withdrawn} if asked else set()
    withdrawn = sum(sha256 in refused for sha256 in removed)
    counts = {
        f"+{photographs.added.num_rows}": photographs.added.num_rows,
        f"{withdrawn} withdrawn": withdrawn,
        f"{len(removed) - withdrawn} gone": len(removed) - withdrawn,
    }
    return ", ".join(said for said, num in counts.items() if num) or "the same photographs, other images"
