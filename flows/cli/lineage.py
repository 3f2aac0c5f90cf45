"""Commands about what is there: trace, verify, gc. They decode and draw nothing, and import nothing that does.

Not here: any work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.output import answer, print_value, say
from flows.cli.parameters import FLAT, Json
from flows.options import StoreOptions
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.store import Store
from storage.wording import numbered


def trace(
    reference: Annotated[
        str,
        Parameter(
            help="A drawn or exported file, a checkpoint or run, a dataset (NAME or NAME@VERSION), an image's key, "
            "a photograph's file, URL or sha256."
        ),
    ],
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    limit: Annotated[int, Parameter(help="How many images of a dataset to print.")] = 5,
    json_: Json = False,
) -> None:
    """Say what something was made of, down to original photographs, by files alone."""
    from storage.lineage.trace import trace as trace_reference

    chain = trace_reference(Store(options.store), reference)
    if json_:
        return print_value(chain.as_json(), json_)
    for line in chain.lines(limit):
        say(line)


def verify(
    reference: Annotated[
        str | None,
        Parameter(
            help="A dataset (NAME or NAME@VERSION), a run, a checkpoint's folder, or a drawn or exported file."
        ),
    ] = None,
    *,
    everything: Annotated[
        bool, Parameter(name="--all", negative="", help="All that the store holds, chunks among it.")
    ] = False,
    fast: Annotated[
        bool,
        Parameter(
            negative="",
            help="Hash no file again that has the size and the time which it had when it was hashed last.",
        ),
    ] = False,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Check every hash of a dataset version, a run, a checkpoint or a whole store, or what a drawn file says of itself.

    Of a version: manifest, tables, shards, images, original photographs. Of a run: its record, its version's manifest,
    and every file of its checkpoints. Of a file: its lineage, its pixels, its IPTC mark, its C2PA manifest and whether
    the signature holds, and the way back to photographs.
    """
    store = Store(options.store)
    from storage.datasets.dataset import dataset_names

    if (reference is None) != everything:
        raise ConfigError("say what to verify: likeness verify NAME, a run, a file and so on, or --all")
    if reference and Path(reference).is_file() and reference.split("@")[0] not in dataset_names(store):
        return _verify_file(store, Path(reference), json_)
    _verify_stored(store, reference, fast, json_)


def _verify_stored(store: Store, reference: str | None, fast: bool, json_: bool) -> None:
    from storage.verify import verify as verify_reference

    name, checked = verify_reference(store, reference, fast=fast)
    if json_:
        print_value({**name, **checked.as_json()}, json_)
    [what] = name.values()
    if not json_:
        for problem in checked.problems:
            say(problem)
    if checked.problems:
        raise IntegrityError(f"{what} is not intact: {numbered(len(checked.problems), 'problem')}")
    if not json_:
        say(f"{what} is intact: {checked.summary()}")


def _verify_file(store: Store, path: Path, json_: bool) -> None:
    from flows.verify_file import verify_file

    verdict = verify_file(store, path)
    answer(json_, verdict.as_json(), *verdict.lines())
    if verdict.problems:
        raise IntegrityError("; ".join(verdict.problems))
    if verdict.says_nothing:
        raise NotFoundError(f"{path} says nothing of how it was made: there is nothing to hold it to")


def gc(
    *,
    keep: Annotated[int, Parameter(help="How many of the last versions of each name stay.")] = 3,
    grace_h: Annotated[float, Parameter(help="What is younger than so many hours stays.")] = 24.0,
    delete: Annotated[
        bool, Parameter(negative="", help="Delete it; without this, only say what would go.")
    ] = False,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Say what a store no longer needs, or delete it: old versions, and what only they were made of.

    What a run was trained on stays, as do fetched photographs, which would be asked for again.
    """
    from contextlib import nullcontext

    from storage.datasets.collect import alone, find_garbage
    from storage.datasets.collect import delete as delete_garbage

    if keep < 1 or grace_h < 0:
        raise ConfigError(f"--keep is {keep} and --grace-h {grace_h:g}: at least 1, and at least 0")
    store = Store(options.store)
    with alone(store) if delete else nullcontext():
        garbage = find_garbage(store, keep=keep, grace_s=grace_h * 3600)
        facts = {"deleted": delete, **garbage.as_json()}
        if delete:
            delete_garbage(garbage)
    if json_:
        return print_value(facts, json_)
    for reference in facts["versions"]:
        say(f"version {reference}")
    counts = {
        "version": len(garbage.versions),
        "original": len(garbage.originals),
        "chunk file": len(garbage.chunks),
        "leftover": len(garbage.leftovers),
    }
    listed = ", ".join(numbered(num, noun) for noun, num in counts.items())
    say(f"{'deleted' if delete else 'would go'}: {listed}, {facts['bytes'] / 1e6:.1f} MB")
    if not delete:
        say("nothing was deleted: --delete does it")
