"""Photographs forgotten: found, kept out, curated away, erased, and a certificate of it.

    found = find(store, Asked(author=("A. Author",)))
    certificate = forget(store, found, BuildOptions(store=store.root), run_with(report))

What is to go is written down first, so that one that was killed goes on where it was (`unfinished`). Tombstones come
next: whatever is built from then on has none of it. Then each name whose latest version had some of it is curated
again, which gives the version that a build of the source without these photographs would give. Only then versions are
withdrawn and bytes erased, while no build works. Not here: which photographs are meant (`preprocessing.forgetting`).
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from flows.build import Run
from flows.operations.announce import announce
from flows.options import BuildOptions
from flows.pages.certificate import write_certificate_page
from flows.recurate import recurate
from preprocessing.asked import SELECTORS, Asked
from preprocessing.config import recorded_config
from preprocessing.crawl.ledger import Ledger
from preprocessing.forgetting import Found
from storage.bundled.generator import SHA256
from storage.datasets.dataset import Dataset, all_versions, latest_version
from storage.datasets.forget import (
    Gone,
    copies_of,
    erase_audits,
    erase_leftovers,
    erase_photographs,
    erase_texts,
    runs_of,
    touched,
    withdraw,
)
from storage.digest import bytes_digest
from storage.errors import ConfigError, EmptyDatasetError, NotFoundError
from storage.local import delete
from storage.store import Store, original_key
from storage.tombstones import Kind, Tombstones
from storage.withdrawals import (
    CERTIFICATE,
    FILE,
    INTENT,
    After,
    Before,
    Certificate,
    Intent,
    LearnedBundled,
    Withdrawal,
    certificates,
    intents,
    key_of,
)


@dataclass(frozen=True)
class Forgotten:
    """What was done, and where that is on record."""

    certificate: Certificate
    page: Path


def unfinished(store: Store, asked: Asked) -> Intent | None:
    """What was begun for the same request, and is not done yet."""
    return next((one for one in intents(store) if one.asked_digests == asked_digests(store, asked)), None)


def certified(store: Store, asked: Asked) -> Certificate | None:
    """The newest certificate of the same request."""
    newest = reversed(list(certificates(store)))
    return next((one for one in newest if one.asked_digests == asked_digests(store, asked)), None)


def asked_digests(store: Store, asked: Asked) -> list[str]:
    """What was asked for, as a certificate has it: digests under the store's key, which nobody else can compare."""
    tombstones = Tombstones(store)
    return sorted(
        tombstones.digest("ref", f"asked\0{name}\0{value}")
        for name in SELECTORS
        for value in getattr(asked, name)
    )


def forget(store: Store, found: Found, options: BuildOptions, run: Run) -> Forgotten:
    """Carry out what was found; ConfigError while a build works in the store, or a run is trained on it."""
    with _alone(store):
        intent = _intent(store, found)
        _check_no_training(store, intent)
        store.put(key_of(intent.forget, INTENT), intent.as_bytes())
        _bury(store, intent)
    return go_on(store, intent, options, run)


def go_on(store: Store, intent: Intent, options: BuildOptions, run: Run) -> Forgotten:
    """Carry out what was written down, whatever of it is done."""
    with _alone(store):
        _check_no_training(store, intent)
        tombstones_sha256 = _bury(store, intent)
    _curate_again(store, intent, options, run)
    with _alone(store):
        _check_no_training(store, intent)
        published = [_after(store, intent, name) for name in intent.names]
        records = {version.reference: _withdrawn(store, intent, version) for version in intent.versions}
        _erase(store, intent)
        certificate = Certificate.new(
            forget=intent.forget,
            asked_at=intent.asked_at,
            finished_at=_now(),
            likeness=metadata.version("likeness"),
            asked=intent.counts,
            asked_digests=intent.asked_digests,
            photographs=len(intent.photos),
            found_by=dict(Counter(intent.photos.values()).most_common()),
            images=len({sha256 for version in intent.versions for sha256 in version.images}),
            rejections=sum(version.rejections for version in intent.versions),
            tombstones=dict(Counter(kind for kind, _ in intent.tombstones).most_common()),
            tombstones_sha256=tombstones_sha256,
            withdrawn=[version.model_copy(update={"images": []}) for version in intent.versions],
            withdrawals=records,
            published=published,
            erased=intent.erased,
            runs=intent.runs,
            exports=intent.exports,
            bundled=intent.bundled,
        )
        done = tell(store, certificate)
        delete(store.path(key_of(intent.forget, INTENT)))
    return done


def tell(store: Store, certificate: Certificate) -> Forgotten:
    """Write a certificate down, and tell Prefect, which may not have been reached before."""
    store.put(key_of(certificate.forget, CERTIFICATE), certificate.as_bytes())
    certificate = certificate.model_copy(update={"prefect": announce(store, certificate)})
    store.put(key_of(certificate.forget, CERTIFICATE), certificate.as_bytes())
    return Forgotten(certificate, write_certificate_page(store, certificate))


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Work where no build does."""
    with store.locked(".lock", wait=False) as is_mine:
        if not is_mine:
            raise ConfigError(
                f"a build or an export works in {store} now, and might still use what is to be forgotten: wait "
                f"for it, and ask again"
            )
        store.refresh()
        yield


def _check_no_training(store: Store, intent: Intent) -> None:
    for run, version in runs_of(store, intent.versions):
        try:
            with run.locked():
                pass
        except ConfigError:
            raise ConfigError(
                f"run {run.id} is being trained on {version.reference}, which is to be withdrawn: stop it, and ask "
                "again"
            ) from None


def _intent(store: Store, found: Found) -> Intent:
    """All that is needed to carry it out, whatever is left of the store by then."""
    versions = [
        Before(
            name=held.dataset.name,
            version=held.dataset.version,
            manifest_sha256=held.dataset.manifest_sha256,
            photographs=held.photographs,
            images=sorted(set(held.images)),
            num_images=len(set(held.images)),
            rejections=held.rejections,
            shards=[shard.sha256 for shard in held.dataset.manifest.shards],
        )
        for held in found.held
    ]
    names = {version.name: version.version for version in versions}
    latest = {name: latest_version(store, name) for name in names}
    asked_at = datetime.now(UTC)
    return Intent.new(
        forget=f"{asked_at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        asked_at=asked_at.isoformat(timespec="seconds"),
        asked=found.asked.model_dump(mode="json"),
        counts=found.asked.counts(),
        asked_digests=asked_digests(store, found.asked),
        photos=dict(sorted(found.photos.items())),
        urls=sorted(found.addresses),
        refs=sorted(found.refs | found.nameless),
        texts=sorted(found.texts),
        authors=sorted(found.authors),
        tombstones=sorted(_tombstones(found)),
        versions=versions,
        names={
            version.name: version.version for version in versions if latest[version.name] == version.version
        },
        runs=touched(store, versions),
        exports=copies_of(store, versions),
        bundled=LearnedBundled(sha256=SHA256, photographs=found.bundled) if found.bundled else None,
        erased={
            "originals": sum(store.exists(original_key(sha256)) for sha256 in found.photos),
            "addresses": len(found.asked_for),
        },
        shards=sorted({shard.sha256 for version in all_versions(store) for shard in version.manifest.shards}),
    )


def _tombstones(found: Found) -> set[tuple[Kind, str]]:
    """Those of addresses and hashes; of an author who was asked for; of looks, but where a licence was asked for."""
    rows: set[tuple[Kind, str]] = {("url", address.buried_as) for address in found.addresses.values()}
    rows |= {("ref", ref) for ref in found.nameless}
    rows |= {("author", author) for author in found.asked.author}
    rows |= {("sha256", sha256) for sha256 in found.photos}
    rows |= {("crop_pdq", pdq) for pdq in found.crop_pdqs}
    return rows | {("photo_pdq", pdq) for pdq in found.photo_pdqs}


def _bury(store: Store, intent: Intent) -> str | None:
    return Tombstones(store).bury(intent.tombstones, "forgotten", intent.asked_at)  # type: ignore[arg-type]


def _curate_again(store: Store, intent: Intent, options: BuildOptions, run: Run) -> None:
    """Publish what is left of each name, unless that was done, or a build has done it since."""
    for name, version in intent.names.items():
        dataset = Dataset(store, name, version)
        if latest_version(store, name) == version and store.exists(f"{dataset.key}/manifest.json"):
            with suppress(EmptyDatasetError):  # nothing is left
                recurate(dataset, recorded_config(dataset), options, run)


def _after(store: Store, intent: Intent, name: str) -> After:
    """What a name means now."""
    before, version = intent.names[name], latest_version(store, name)
    if version is None or version == before:
        return After(name=name, before=before)
    dataset = Dataset(store, name, version)
    build = dataset.builds()[-1]
    return After(
        name=name,
        before=before,
        version=version,
        manifest_sha256=dataset.manifest_sha256,
        config_sha256=build.config_sha256,
        code_commit=build.facts.code_commit,
        shards=len(dataset.manifest.shards),
        shards_written=len({shard.sha256 for shard in dataset.manifest.shards} - set(intent.shards)),
    )


def _withdrawn(store: Store, intent: Intent, version: Before) -> str:
    """Put the record of its withdrawal in the place of a version; the sha256 of that."""
    dataset = Dataset(store, version.name, version.version)
    path = dataset.folder / FILE
    try:
        withdrawal = Withdrawal.read(path)
    except NotFoundError:
        latest = latest_version(store, version.name)
        withdrawal = Withdrawal.new(
            dataset=version.name,
            version=version.version,
            manifest_sha256=version.manifest_sha256,
            manifest=dataset.manifest_bytes.decode(),
            withdrawn_at=intent.asked_at,
            forget=intent.forget,
            photographs=version.photographs,
            successor=None if latest in _versions(intent, version.name) else latest,
        )
    withdraw(dataset, withdrawal)
    return bytes_digest(path.read_bytes())


def _versions(intent: Intent, name: str) -> set[str]:
    return {version.version for version in intent.versions if version.name == name}


def _erase(store: Store, intent: Intent) -> None:
    """Bytes, crops, shards, and all texts that say whose they are."""
    gone = Gone.of(intent.photos, intent.refs)
    erase_photographs(store, gone)
    Ledger(store).erase(intent.urls, intent.photos)
    erase_texts(store, gone, [*intent.authors, *intent.texts])
    erase_leftovers(store)
    erase_audits(store, intent.versions)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
