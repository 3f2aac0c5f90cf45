"""Commands between stores: pull, push. Not here: any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.output import console, print_value, say, warn
from flows.cli.parameters import FLAT, Json
from flows.cli.progress import bars, stage_report
from flows.options import StoreOptions
from flows.stages.work import Progress
from storage.errors import ConfigError, IntegrityError, NotFoundError, PipelineError, ServiceError
from storage.store import Store
from storage.wording import numbered

if TYPE_CHECKING:
    from storage.datasets.elsewhere import Copied, Report

Originals = Annotated[bool, Parameter(negative="", help="The photographs that the version was made of, too.")]


def pull(
    reference: Annotated[
        str, Parameter(help="NAME (its latest there) or NAME@VERSION; with --all the store.")
    ],
    source: Annotated[
        str | None,
        Parameter(
            help="The store that has it: a folder, s3://bucket/prefix or another URL of a bucket, or the http(s):// "
            "address of a plain web server. Credentials are taken from the environment.",
        ),
    ] = None,
    *,
    everything: Annotated[
        bool,
        Parameter(name="--all", negative="", help="Every version of every name that is there: a backup."),
    ] = False,
    originals: Originals = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Say how many files and bytes would come, and stop.")
    ] = False,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Bring a dataset version from another store, every byte checked by its hash.

    What is here and intact is not fetched again, so that the same command goes on after a kill. The version becomes
    what its name means here. Runs do not come.
    """
    from preprocessing.crawl.buried import check_not_buried
    from storage.datasets.pull import look, references_in
    from storage.datasets.pull import pull as pull_version
    from storage.remote import Remote

    if everything == (source is not None):
        raise ConfigError("say what to pull, and where from: likeness pull NAME STORE, or --all STORE")
    store = Store(options.store)
    remote = Remote(source or reference)
    references = references_in(remote) if everything else [reference]
    failed = 0
    for one in references:
        try:
            if dry_run:
                done = look(store, remote, one)
            else:
                with _bar("pull", json_) as report:
                    done = pull_version(
                        store,
                        remote,
                        one,
                        originals=originals,
                        backup=everything,
                        check=check_not_buried,
                        report=report,
                    )
        except ServiceError:
            raise
        except PipelineError as error:  # of one version, which keeps no other from coming
            if not everything:
                raise
            warn(str(error))
            failed += 1
        else:
            _answer(done, dry_run, originals, json_)
    if failed:
        raise IntegrityError(
            f"{failed} of {numbered(len(references), 'version')} of {remote.url} did not come"
        )


def push(
    reference: Annotated[str, Parameter(help="NAME (its latest) or NAME@VERSION.")],
    target: Annotated[
        str,
        Parameter(help="The store that gets it: a folder, s3://bucket/prefix or another URL of a bucket."),
    ],
    *,
    originals: Originals = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Say how many files and bytes would go, and stop.")
    ] = False,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Copy a dataset version to another store, every byte checked by its hash; the other way round than pull."""
    from preprocessing.crawl.buried import check_not_buried
    from storage.datasets.pull import pull as pull_version
    from storage.datasets.push import look
    from storage.datasets.push import push as push_version
    from storage.remote import Remote

    store = Store(options.store)
    if dry_run:
        try:
            there = Remote(target)
        except NotFoundError:  # a folder that is still to be made
            there = None
        return _answer(look(store, there, reference), dry_run, False, json_)
    remote = Remote(target, new=True)
    with _bar("push", json_) as report:
        if remote.local is None:
            done = push_version(store, remote, reference, originals=originals, report=report)
        else:
            done = pull_version(
                remote.local,
                Remote(str(store)),
                reference,
                originals=originals,
                check=check_not_buried,
                report=report,
            )
    _answer(done, False, originals, json_)


@contextmanager
def _bar(stage: str, is_quiet: bool) -> Iterator[Report]:
    """A bar that a copy draws on."""
    with bars(console(is_quiet)) as progress:
        draw = stage_report(progress)
        yield lambda done, total: draw(Progress(stage, done, total, "file", {}))


def _answer(done: Copied, dry_run: bool, originals: bool, json_: bool) -> None:
    if json_:
        return print_value({"dry_run": dry_run, **done.as_json()}, json_)
    files = f"{numbered(done.copied, 'file')}, {done.num_bytes / 1e6:.1f} MB"
    say(
        f"{done.dataset.reference}: {files} {'would be' if dry_run else 'were'} copied, "
        f"{numbered(done.here, 'file')} {'is' if done.here == 1 else 'are'} there already"
    )
    if originals and done.absent:
        warn(f"{numbered(done.absent, 'original')} of {done.dataset.reference} could not be had")
