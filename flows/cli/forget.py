"""The command `forget`.

Not here: any work (`flows.forget`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flows.cli.output import answer, console
from flows.cli.parameters import FLAT, Json
from flows.options import BuildOptions, RunOptions
from preprocessing.asked import Asked
from storage.errors import ConfigError, NotFoundError
from storage.store import Store
from storage.wording import numbered

if TYPE_CHECKING:
    from flows.forget import Forgotten
    from preprocessing.forgetting import Found


def forget(
    *,
    asked: Annotated[Asked, FLAT] = Asked(),
    yes: Annotated[
        bool,
        Parameter(
            name=["--yes", "--confirm"], negative="", help="Do it; without this, only say what would change."
        ),
    ] = False,
    limit: Annotated[int, Parameter(help="How many photographs and suggestions to print.")] = 20,
    options: Annotated[RunOptions, FLAT] = RunOptions(),
    json_: Json = False,
) -> None:
    """Forget photographs for good: out of every version, kept out of every later build, with a certificate.

    What is left is published as a version whose hash is that of a build of the source without them. Versions that held
    them are withdrawn, and their bytes erased. What was begun and killed goes on when it is asked for again.
    """
    if asked.is_empty:
        raise ConfigError(
            "say what to forget: --url, --author, --license, --hash, --image or --from-recheck, as often as need be"
        )
    from flows.build import run_with
    from flows.cli.progress import bars, stage_report
    from flows.forget import certified, go_on, tell, unfinished
    from flows.forget import forget as forget_found
    from flows.operations.announce import NOT_REACHED
    from preprocessing.forgetting import find

    store = Store(options.store)
    build = BuildOptions(store=store.place, workers=options.workers)
    intent = unfinished(store, asked)
    found = None if intent else find(store, asked)
    if found is not None and found.is_nothing:
        if (certificate := certified(store, asked)) is None:
            raise NotFoundError(_nothing(store, found))
        if yes and certificate.prefect == NOT_REACHED:
            certificate = tell(store, certificate).certificate
        return answer(
            json_,
            {"done": True, **certificate.as_json()},
            f"it was forgotten on {certificate.finished_at}: certificate {certificate.forget}",
        )
    if not yes:
        would: dict[str, Any] = {"done": False}
        if intent is not None:
            lines = [f"{intent.forget} was begun on {intent.asked_at}, and is not done"]
            would |= {"forget": intent.forget, "photographs": len(intent.photos)}
        else:
            assert found is not None
            would |= found.as_json()
            lines = list(_lines(found, limit))
        return answer(json_, would, *lines, "nothing was changed: --yes does it")
    with bars(console(json_)) as progress:
        run = run_with(stage_report(progress))
        if intent is not None:
            done = go_on(store, intent, build, run)
        else:
            assert found is not None
            done = forget_found(store, found, build, run)
    answer(json_, {"done": True, "page": str(done.page), **done.certificate.as_json()}, *_done(done))


def _nothing(store: Store, found: Found) -> str:
    learned = f"; {_of_bundled(found.bundled)}" if found.bundled else ""
    return (
        f"nothing of that is on record in {store}: looked through every version of every dataset, the ledger of "
        f"addresses, the originals, and the looks of all crops{learned}"
    )


def _of_bundled(photographs: int) -> str:
    return (
        f"the generator in the box learned from {numbered(photographs, 'photograph')} of these, and cannot be erased: "
        f"it is part of likeness"
    )


def _lines(found: Found, limit: int) -> Iterator[str]:
    """What would change, for people."""
    yield f"{numbered(len(found.photos), 'photograph')} would be forgotten"
    for why, num in Counter(found.photos.values()).most_common():
        yield f"  {num} {why}"
    for sha256, why in list(found.photos.items())[:limit]:
        yield f"    {sha256[:16]}  {why}"
    for names, noun in (
        (found.refs | found.nameless, "address"),
        (found.authors, "author of whom nothing stays"),
    ):
        for name in sorted(names)[:limit]:
            yield f"  {noun} {name}"
        if len(names) > limit:
            yield f"  and {len(names) - limit} more"
    for held in found.held:
        yield (
            f"  {held.dataset.reference} would be withdrawn: {numbered(held.photographs, 'photograph')} of it, "
            f"{numbered(len(held.images), 'image')}, {numbered(held.rejections, 'rejection')}"
        )
    for run in found.runs():
        yield f"  run {run} learned from such a version: its networks stay as they are"
    if found.bundled:
        yield f"  {_of_bundled(found.bundled)}"
    if found.suggestions:
        yield "  these may show the same person: look at them, and add --hash KEY for those that do"
        for one in found.suggestions[:limit]:
            yield f"    {one['key']}  {one['ref']}  distance {one['distance']}"


def _done(done: Forgotten) -> Iterator[str]:
    """What was done, for people."""
    certificate = done.certificate
    yield f"{numbered(certificate.photographs, 'photograph')} forgotten, {numbered(certificate.images, 'image')}"
    for version in certificate.withdrawn:
        yield f"  {version.reference} is withdrawn"
    for after in certificate.published:
        if after.version is None:
            yield f"  nothing is left of {after.name}"
        else:
            shards = f"{after.shards_written} of {numbered(after.shards, 'shard')} written"
            yield f"  {after.name}@{after.version} is what is left, {shards}"
    for run in certificate.runs:
        near = sum(one.is_near_copy for one in run.near_copies)
        said = numbered(near, "near copy").replace("copys", "copies") if run.audited else "not audited"
        through = f" through run {run.through}" if run.through else ""
        yield f"  run {run.run_id} learned from {run.dataset}{through}: {said}"
    if certificate.bundled is not None:
        yield f"  {_of_bundled(certificate.bundled.photographs)}"
    for export in certificate.exports:
        yield f"  {export.name} ({export.layout}) holds {export.dataset}, outside of the store"
    yield f"  certificate {done.page}"
