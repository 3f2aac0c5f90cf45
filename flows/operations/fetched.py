"""What a training needs of another store: the version that it trains on, pulled before it begins, if it is not here.

    likeness train faces --pull-from s3://bucket/store

So a worker on another machine needs no more than that store's address and the Prefect API's. Every byte is checked by
its hash as it comes, and what is here already is not asked for again (`storage.datasets.pull`).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TypeVar

from flows.options import STORE, StoreOptions
from storage.datasets.dataset import open_dataset, open_part
from storage.errors import NotFoundError
from storage.store import Store
from storage.wording import numbered

Options = TypeVar("Options", bound=StoreOptions)

log = logging.getLogger(__name__)


def on_this_machine(options: Options) -> Options:
    """The options with the worker's own store, where the one that they name is a folder of another machine.

    The event of a build names the builder's.
    """
    own = os.environ.get(STORE)
    if own is None or options.store == Path(own):
        return options
    named = Store(options.store)
    if named.mirror is not None or named.root.is_dir():  # a bucket is the same on every machine
        return options
    log.warning("there is no store %s on this machine: %s is worked in", options.store, own)
    return options.model_copy(update={"store": Path(own)})


def fetch_version(store: Store, reference: str, pull_from: str | None) -> str:
    """The reference of what to train on, pulled from the other store first, unless it names a version that is here.

    A bare NAME means its latest there. Errors are those of `likeness pull`.
    """
    whole, colon, split = reference.partition(":")
    if pull_from is None or ("@" in whole and _is_here(store, whole)):
        return reference
    from preprocessing.crawl.buried import check_not_buried
    from storage.datasets.pull import pull
    from storage.remote import Remote

    remote = Remote(pull_from)
    if remote.local == store or pull_from == str(store):
        return reference
    done = pull(store, remote, whole, check=check_not_buried)
    told = (
        done.dataset.reference,
        pull_from,
        numbered(done.copied, "file"),
        done.num_bytes / 1e6,
        done.here,
    )
    log.info("%s was pulled from %s: %s, %.1f MB; %d were here", *told)
    return f"{done.dataset.reference}{colon}{split}"


def newer_version(store: Store, reference: str) -> str | None:
    """The version that its name means by now, where a reference names another one."""
    whole, at, _ = reference.partition(":")[0].partition("@")
    if not at:
        return None
    named, latest = open_dataset(store, reference.partition(":")[0]), open_dataset(store, whole)
    return None if named.version == latest.version else latest.reference


def _is_here(store: Store, reference: str) -> bool:
    try:
        open_part(store, reference)
    except NotFoundError:
        return False
    return True
