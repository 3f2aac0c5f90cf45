"""What the commands `repair` and `rebuild` do: mend a store from itself, and build again what that leaves.

A store in a bucket is mended in a copy on this machine (`storage.working_copy`). Not here: how things are mended
(`storage.repair`), and a build to compare (`flows.rebuild`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from flows.build import Run, run_with
from flows.options import BuildOptions
from flows.rebuild import Rebuilt, rebuild
from preprocessing.columns import IMAGE_SCHEMA
from storage.datasets.dataset import Dataset, open_dataset
from storage.errors import NotFoundError, PipelineError
from storage.repair import Repaired, mended_manifests, repair, versions_of
from storage.runs import find_run
from storage.store import Store
from storage.verify import told
from storage.working_copy import link_versions, shared_files, working_copy

logger = logging.getLogger(__name__)


def repaired(store: Store, reference: str | None, options: BuildOptions, *, dry: bool) -> Repaired:
    """Mend what `reference` names, or for None all; a version that is still damaged is built again."""
    with working_copy(store, without=_not_needed(store, reference), dry=dry) as copy:
        if copy == store:
            return _repaired(store, copy, reference, options, dry)
        manifests = mended_manifests(copy, dry=dry)
        link_versions(copy)
        result = _repaired(store, copy, reference, options, dry)
        return _as_in(store, copy, replace(result, mended={**manifests, **result.mended}))


def _not_needed(store: Store, reference: str | None) -> Collection[str]:
    """Folders of a store that mending does not read."""
    if reference is None:
        return ()
    try:
        find_run(store, reference)
    except PipelineError:
        return ("runs",)
    return ("chunks", "originals", "ledger")


def _repaired(store: Store, copy: Store, reference: str | None, options: BuildOptions, dry: bool) -> Repaired:
    first = repair(copy, reference, IMAGE_SCHEMA, dry=dry)
    if dry or not first.versions:
        return first
    mended = dict(first.mended)
    for version in first.versions:
        try:
            again = rebuild(version, options, run_with(lambda _: None))
        except PipelineError as error:
            logger.warning("%s cannot be built again: %s", version.reference, told(store, copy, str(error)))
            continue
        if again.is_same:
            mended[str(version.folder)] = "built again, the same to the byte"
        else:
            logger.warning(
                "%s is not what its build gives now: %s", version.reference, "; ".join(again.differences)
            )
    second = repair(copy, reference, IMAGE_SCHEMA, dry=False)
    return Repaired({**mended, **second.mended}, second.left, second.versions)


def _as_in(store: Store, copy: Store, result: Repaired) -> Repaired:
    """What came of a copy of a bucket, by what is in the bucket, where a version's files lie in chunks."""
    places = {
        str(version.folder / name): str(copy.path(key))
        for version in versions_of(copy)
        for name, key in shared_files(version).items()
    }
    mended: dict[str, str] = {}
    for path, how in result.mended.items():
        place, source = places.get(path, path), places.get(how, how)
        if place != source:
            mended.setdefault(told(store, copy, place), told(store, copy, source))
    left = []
    for problem in result.left:
        path = next((path for path in places if path in problem), "")
        left.append(told(store, copy, problem.replace(path, places[path]) if path else problem))
    return replace(result, mended=mended, left=list(dict.fromkeys(left)))


def rebuilt(store: Store, reference: str, options: BuildOptions, run: Run) -> Rebuilt:
    """Build the version that `reference` names again, by its record."""
    asked = version_asked(store, reference)
    with working_copy(store, without=("runs",)) as copy:
        link_versions(copy)
        return rebuild(Dataset(copy, asked.name, asked.version), options, run)


def version_asked(store: Store, reference: str) -> Dataset:
    """The version that NAME@VERSION names, damaged or not, or the latest of NAME."""
    name, _, version = reference.partition("@")
    found = [
        dataset for dataset in versions_of(store, name) if version and dataset.version.startswith(version)
    ]
    if len(found) == 1:
        return found[0]
    if version:
        known = ", ".join(dataset.version for dataset in versions_of(store, name)) or "none"
        raise NotFoundError(f"no one version {version!r} of {name!r} in {store}: there are {known}")
    return open_dataset(store, reference)
