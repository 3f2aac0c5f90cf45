"""Commands about what is there: trace, diff, verify, gc. They decode and draw nothing, and import nothing that does.

Not here: any work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.output import answer, console, print_value, say
from flows.cli.parameters import FLAT, DryRun, Json
from flows.options import BuildOptions, StoreOptions
from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.store import Store
from storage.wording import numbered


def trace(
    reference: Annotated[
        str,
        Parameter(
            help="A drawn file, an export, a run or RUN/CHECKPOINT, a dataset (NAME, NAME@VERSION or VERSION), a "
            "build, a shard, an image's key, a photograph's file, URL or sha256, its title, page, file name, author or "
            "licence."
        ),
    ],
    *,
    kind: Annotated[
        str | None, Parameter(name="--as", help="What the reference is, where it may be several things.")
    ] = None,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    near: Annotated[
        bool,
        Parameter(
            negative="", help="The file is a copy, resized or encoded again: look for it by its faces."
        ),
    ] = False,
    near_bits: Annotated[int, Parameter(help="In how many of 256 bits a face's hash may differ.")] = 36,
    limit: Annotated[int, Parameter(help="How many images to print of many.")] = 5,
    mermaid: Annotated[bool, Parameter(negative="", help="Print a Mermaid flowchart.")] = False,
    json_: Json = False,
) -> None:
    """Say what something was made of, down to photographs, and what was made of it, by files alone."""
    from storage.lineage import tree
    from storage.lineage.trace import trace as trace_reference

    if near and (kind is not None or not 0 <= near_bits <= 128):
        raise ConfigError("--near takes a file, no --as, and --near-bits of 0 to 128")
    if limit < 0 or (mermaid and json_):
        raise ConfigError("--limit is at least 0, and of --mermaid and --json one is printed")
    store = Store(options.store)
    if near:
        from flows.near import trace_near

        chain = trace_near(store, Path(reference), near_bits)
    else:
        chain = trace_reference(store, reference, kind)
    if json_:
        return print_value(chain.as_json(), json_)
    for line in (tree.mermaid if mermaid else tree.tree)(chain, limit):
        say(line)


def diff(
    first: Annotated[str, Parameter(help="A dataset version: NAME or NAME@VERSION.")],
    second: Annotated[str, Parameter(help="The one that it is compared with.")],
    *,
    limit: Annotated[int, Parameter(help="How many images, and changes of each fact, to print.")] = 10,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Say what differs between two versions of datasets: images, photographs, facts, settings, and what was counted."""
    from storage.datasets.dataset import open_dataset
    from storage.datasets.diff import diff as difference_of

    if limit < 0:
        raise ConfigError(f"--limit is {limit}: at least 0")
    store = Store(options.store)
    difference = difference_of(open_dataset(store, first), open_dataset(store, second), limit)
    answer(json_, difference.as_json(limit), *([] if json_ else difference.lines(limit)))


def verify(
    reference: Annotated[
        str | None,
        Parameter(
            help="A dataset (NAME or NAME@VERSION), an exported one, a run, a checkpoint's folder, or a drawn file."
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
    from storage.exports.check import record_of
    from storage.local import passed_over

    if (reference is None) != everything:
        raise ConfigError("say what to verify: likeness verify NAME, a run, a file and so on, or --all")
    is_file = reference is not None and Path(reference).is_file() and record_of(Path(reference)) is None
    if reference and is_file and reference.split("@")[0] not in dataset_names(store, passed_over):
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


def repair(
    reference: Annotated[
        str | None, Parameter(help="A dataset (NAME: all its versions; NAME@VERSION: one), or a run.")
    ] = None,
    *,
    everything: Annotated[
        bool, Parameter(name="--all", negative="", help="All that the store holds.")
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Only say what would be mended, and from what.")
    ] = False,
    options: Annotated[BuildOptions, FLAT] = BuildOptions(),
    json_: Json = False,
) -> None:
    """Mend what is damaged or missing, from whatever else the store holds; what cannot be is named.

    Each file that is put back has the hash on record of it. A version that needs it is built again from its
    photographs, and taken only where it is the same to the byte.
    """
    from flows.repair import repaired

    if (reference is None) != everything:
        raise ConfigError("say what to repair: likeness repair NAME, NAME@VERSION, a run, or --all")
    result = repaired(Store(options.store), reference, options, dry=dry_run)
    if json_:
        print_value({"dry_run": dry_run, **result.as_json()}, json_)
    else:
        for path, how in result.mended.items():
            say(f"{'would mend' if dry_run else 'mended'} {path}: {how}")
        for problem in result.left:
            say(problem)
    if result.left:
        raise IntegrityError(f"{numbered(len(result.left), 'problem')} cannot be mended from what is here")
    if not json_ and not result.mended:
        say("nothing is damaged")


def rebuild(
    reference: Annotated[str, Parameter(help="A version, NAME@VERSION; NAME means the latest.")],
    *,
    options: Annotated[BuildOptions, FLAT] = BuildOptions(),
    quiet: Annotated[bool, Parameter(negative="", help="Print no progress.")] = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Build a version again by its record: the same to the byte, or say which of its inputs is another.

    Names and records stay as they are. A version that is the same takes the place of what is damaged of it.
    """
    from flows.build import run_with
    from flows.cli.progress import bars, stage_report
    from flows.repair import rebuilt, version_asked
    from preprocessing.config import recorded_config

    store = Store(options.store)
    if dry_run:
        asked = version_asked(store, reference)
        config = recorded_config(asked).model_dump(mode="json")
        return print_value({"dataset": asked.reference, "config": config}, json_)
    with bars(console(quiet or json_)) as progress:
        result = rebuilt(store, reference, options, run_with(stage_report(progress)))
    if json_:
        print_value(result.as_json(), json_)
    if not result.is_same:
        why = "; ".join(result.differences) or "nothing on record says why"
        raise IntegrityError(f"{result.asked.reference} is not what its build gives now: {why}")
    if not json_:
        say(f"{result.asked.reference} was built again, the same to the byte")


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

    What a run was trained on or an export was made of stays, as do fetched photographs, which would be asked for again.
    Answers of services go when they are older than a day.
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
        "kept answer": len(garbage.answers),
    }
    listed = ", ".join(numbered(num, noun) for noun, num in counts.items())
    say(f"{'deleted' if delete else 'would go'}: {listed}, {facts['bytes'] / 1e6:.1f} MB")
    if not delete:
        say("nothing was deleted: --delete does it")
