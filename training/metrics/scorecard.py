"""A scorecard: whether a new generator may take the champion's place, each criterion with its interval and its limit.

    decision = judge(run, run.newest_checkpoint(), ScorecardConfig(), device)
    python -m training.metrics.scorecard store/runs/RUN CHECKPOINT --config '{"num_images": 2000}'

Both generators draw the same seeds, several sets of them, and are compared with the crops that the candidate learned
from; so a champion whose photographs had to be forgotten is compared too. The second form puts the decision on record
and prints its id: a process of its own, as training is. Not here: the arithmetic of a criterion
(`training.metrics.criteria`), and what follows from a decision (`storage.promotions`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from storage.datasets.dataset import open_recorded
from storage.environment import run_facts
from storage.errors import ConfigError, PipelineError
from storage.lineage.ancestry import withdrawn_behind
from storage.promotions import (
    Candidate,
    Criterion,
    Decision,
    alias_of,
    candidate_of,
    new_decision,
    put_decision,
)
from storage.runs import Run, stored_run
from training.checkpoint import read_state
from training.device import full_precision, resolve_device
from training.drawing.images import possible_psi
from training.drawing.trained import open_trained
from training.extractors import Extractor, check_extractor, open_extractor
from training.metric_names import MEASURES
from training.metrics import criteria
from training.metrics.audit import audit
from training.metrics.features import real_features
from training.metrics.formulas import lies_within
from training.metrics.measure import compared
from training.metrics.settings import AuditConfig, ScorecardConfig
from training.metrics.subject import Subject

TIMED = 5
"""How often each generator is timed."""


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Of one generator, by set of seeds: its metric, and which of the real crops lie within its neighbourhoods."""

    values: list[float]
    covered: list[Tensor]


def judge(
    run: Run,
    checkpoint: Path,
    config: ScorecardConfig,
    device: torch.device,
    *,
    withdrawn: int = 0,
) -> Decision:
    """Compare a checkpoint with the champion of its dataset's name; nothing is put on record but the audit.

    `withdrawn` is how many photographs of the version must not be used any more. ConfigError where it is the champion.
    """
    begun = time.perf_counter()
    name, state = run.record.dataset.name, read_state(checkpoint)
    candidate = candidate_of(run.id, checkpoint.name, state.generator_sha256, run.record.dataset)
    champion = alias_of(run.store, name).champion
    if champion is not None and champion.generator_sha256 == candidate.generator_sha256:
        raise ConfigError(f"{run.id}/{checkpoint.name} is the champion of {name} already")
    check_extractor(MEASURES[config.metric].extractor, config.place)
    found = list(_criteria(run, checkpoint, champion, config, device, withdrawn))
    return new_decision(
        name,
        candidate=candidate,
        **({"champion": champion} if champion else {}),
        outcome=criteria.outcome_of(found),
        criteria=found,
        **({"why": run.record.why} if run.record.why else {}),
        config=config.model_dump(mode="json"),
        config_sha256=config.digest(),
        seconds=round(time.perf_counter() - begun, 3),
        facts=run_facts(),
    )


def _criteria(
    run: Run,
    checkpoint: Path,
    champion: Candidate | None,
    config: ScorecardConfig,
    device: torch.device,
    withdrawn: int,
) -> Iterator[Criterion]:
    with torch.random.fork_rng(devices=[]), full_precision(device):
        new = Subject.of(run, checkpoint, device, psi=1.0, seed=config.seed, batch_size=config.batch_size)
        old, why_not = _rival(new, checkpoint, champion)
        extractor = open_extractor(MEASURES[config.metric].extractor, config.place, device)
        dataset = run.record.dataset
        reals = real_features(run.store, dataset, new.reals, extractor, config.num_reals, new.batch_size)
        ours = _measured(new, config, extractor, reals)
        theirs = _measured(old, config, extractor, reals) if old else None
        relative = [
            criteria.quality(config, ours.values, theirs.values if theirs else None),
            *_slices(run, new, ours, theirs, config),
            _speed(new, old, config),
        ]
    yield from criteria.left_to_a_person(relative, why_not)
    audited = audit(run, checkpoint, _audit_config(config), device)
    yield criteria.near_copies(config, audited.near_copies_in_either, audited.num_images)
    licenses = [row["license"] for row in open_recorded(run.store, dataset, f"run {run.id}").images()]
    yield criteria.licences(config, licenses, withdrawn)


def _rival(new: Subject, checkpoint: Path, champion: Candidate | None) -> tuple[Subject | None, str | None]:
    """The champion, drawing the seeds of the candidate; why a person decides where figures alone cannot."""
    if champion is None:
        return None, None
    store = new.run.store
    run = stored_run(store, champion.run_id)
    trained = open_trained(run.checkpoint(champion.checkpoint), new.device)
    mine = read_state(checkpoint).config
    if trained.config.label_values != tuple(mine.get("label_values") or ()):
        return None, "the champion has other labels, so nothing was compared"
    if trained.generator.resolution != new.generator.resolution:
        return None, f"the champion draws {trained.generator.resolution} px, so nothing was compared"
    old = dataclasses.replace(
        new,
        generator=trained.generator,
        psi=possible_psi(trained.generator, new.psi),
        cutoff=trained.cutoff,
    )
    return old, "the champion learned from photographs that were withdrawn" if withdrawn_behind(run) else None


def _measured(subject: Subject, config: ScorecardConfig, extractor: Extractor, reals: Tensor) -> _Measured:
    measure = MEASURES[config.metric]
    values, covered = [], []
    for number in range(config.seed_sets):
        drawn = dataclasses.replace(subject, seed=config.seed + number * config.num_images)
        fakes = torch.cat([extractor.features(images) for images in drawn.fakes(config.num_images)])
        found = compared(measure.extractor, measure.family, reals, fakes, subject.device)
        values.append(found[measure.family])
        covered.append(lies_within(reals.to(subject.device), fakes.to(subject.device)).cpu())
    return _Measured(values, covered)


def _slices(
    run: Run, subject: Subject, ours: _Measured, theirs: _Measured | None, config: ScorecardConfig
) -> Iterator[Criterion]:
    """The share of real crops that a generator comes near to, by the values of columns."""
    dataset = open_recorded(run.store, run.record.dataset, f"run {run.id}")
    rows = {row["key"]: row for row in dataset.images()}
    keys = subject.reals.order()[: len(ours.covered[0])]
    for column in config.slices:
        groups = criteria.groups([rows[key].get(column) for key in keys], config.min_slice)
        recalls = {
            value: [_recalls(ours, chosen), _recalls(theirs, chosen) if theirs else None]
            for value, chosen in groups.items()
        }
        yield criteria.slices(config, column, recalls)


def _recalls(measured: _Measured, chosen: Sequence[int]) -> list[float]:
    return [float(covered[list(chosen)].double().mean()) for covered in measured.covered]


def _speed(new: Subject, old: Subject | None, config: ScorecardConfig) -> Criterion:
    """Both draw the same images in turn, after each has drawn them once."""
    subjects = [new, *([old] if old else [])]
    seconds = np.array([[_timed(subject) for subject in subjects] for _ in range(TIMED + 1)][1:])
    return criteria.speed(config, (seconds / new.batch_size).T.tolist())


def _timed(subject: Subject) -> float:
    begun = time.perf_counter()
    subject.images(subject.seeds(subject.batch_size))  # which are on the CPU when it returns
    return time.perf_counter() - begun


def _audit_config(config: ScorecardConfig) -> AuditConfig:
    return AuditConfig(
        num_images=config.audit_images,
        held_out=config.held_out,
        seed=config.seed,
        batch_size=config.batch_size,
    )


def main(arguments: list[str] | None = None) -> int:
    """Judge a checkpoint, put the decision on record, print its id, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.metrics.scorecard", description="Compare a checkpoint with the champion."
    )
    parser.add_argument("run_folder", type=Path, help="folder that holds run.json")
    parser.add_argument("checkpoint", help="its name")
    parser.add_argument("--config", default="{}", help="a ScorecardConfig as JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--withdrawn", type=int, default=0, help="photographs that must not be used")
    given = parser.parse_args(arguments)
    try:
        config = ScorecardConfig.model_validate(json.loads(given.config))
        run = Run(given.run_folder.resolve())
        checkpoint = run.checkpoint(given.checkpoint)
        decision = judge(run, checkpoint, config, resolve_device(given.device), withdrawn=given.withdrawn)
        put_decision(run.store, decision)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 1
    print(decision.decision)
    return 0


if __name__ == "__main__":
    sys.exit(main())
