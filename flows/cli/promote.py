"""Commands about champions: promote, rollback. They import no torch, so that they start at once.

Not here: any work (`flows.promote`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flows.cli.output import answer, print_resolved, warn
from flows.cli.parameters import FLAT, RUN, DrawOptions, DryRun, Json, Options
from flows.options import StoreOptions
from storage.errors import ConfigError
from storage.promotions import last_decision
from storage.runs import find_checkpoint, find_run
from storage.store import Store
from training.metrics.settings import ScorecardConfig

if TYPE_CHECKING:
    from storage.promotions import Decision

REFUSED, WAITS = 1, 2
"""Exit statuses of a candidate that did not become the champion."""


def promote(
    run: Annotated[str, RUN],
    *,
    config: Annotated[ScorecardConfig, FLAT] = ScorecardConfig(),
    approve: Annotated[
        bool, Parameter(negative="", help="Make a run the champion that waits for a person.")
    ] = False,
    refuse: Annotated[bool, Parameter(negative="", help="Leave such a run as it is.")] = False,
    options: Options = DrawOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Compare a run with its dataset's champion by a scorecard, and let it take that place if it may.

    Ends with 0 where it is the champion then, with 1 where it was refused, and with 2 where it waits for a person.
    """
    from flows.promote import answer as give_answer
    from flows.promote import judged, settle

    if approve and refuse:
        raise ConfigError("--approve and --refuse are two answers: give one")
    if (approve or refuse) and config.model_fields_set:
        raise ConfigError("--approve and --refuse answer a scorecard that was taken: leave its settings out")
    store = Store(options.store)
    checkpoint = find_checkpoint(store, run, options.checkpoint).resolve()
    found = find_run(store, str(checkpoint.parent.parent))
    if dry_run:
        return print_resolved(json_, config, options, run=found.id, checkpoint=checkpoint.name)
    if approve or refuse:
        waiting = last_decision(store, found.record.dataset.name, found.id, options.checkpoint)
        name = waiting.candidate.checkpoint if waiting else None
        decision = give_answer(store, found, name, approve)
    else:
        decision = judged(found, checkpoint.name, config, options.device, warn)
        settle(store, decision)
    tell(decision, json_)


def tell(decision: Decision, json_: bool, **more: Any) -> None:
    """Print a decision, and end with its status."""
    who = f"{decision.candidate.run_id}/{decision.candidate.checkpoint}"
    value = {**more, "champion": decision.is_positive, "waits": decision.waits, **decision.as_json()}
    lines = [f"  {reason}" for reason in decision.reasons]
    if decision.is_positive:
        head = f"{who} is the champion of {decision.name}"
        former = f", after {decision.champion.run_id}" if decision.champion else ""
        lines.append(f"  next: likeness generate {decision.name}:champion --out grid.png")
        return answer(json_, value, head + former, *lines)
    head = f"{who} {'waits for a person' if decision.waits else 'was refused'}"
    if decision.waits:
        lines.append(f"  next: likeness promote {decision.candidate.run_id} --approve, or --refuse")
    answer(json_, value, head, *lines)
    raise SystemExit(WAITS if decision.waits else REFUSED)


def rollback(
    name: Annotated[str, Parameter(help="A dataset's name.")],
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    dry_run: Annotated[bool, Parameter(negative="", help="Say whom it would go back to, and stop.")] = False,
    json_: Json = False,
) -> None:
    """Make the former champion of a dataset's name the champion again, once its files are found to be whole."""
    from flows.promote import former_of, roll_back

    store = Store(options.store)
    if dry_run:
        champion, former = former_of(store, name)
        value = {"champion": champion.as_json(), "former": former.as_json()}
        return answer(json_, value, f"{name}: {champion.run_id} would give way to {former.run_id}")
    done = roll_back(store, name)
    moved: dict[str, Any] = {"left": done.left.as_json(), "champion": done.champion.as_json()}
    answer(
        json_,
        {**moved, "withdrawn": done.withdrawn},
        f"{done.champion.run_id}/{done.champion.checkpoint} is the champion of {name} again, after {done.left.run_id}",
    )
    if done.withdrawn:
        warn(f"it learned from {', '.join(done.withdrawn)}, withdrawn since: likeness retrain {name}")
