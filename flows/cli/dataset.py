"""Commands that make datasets: build, align, curate.

Not here: any work, and commands that only read (`flows.cli.lineage`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from flows.cli.output import answer, console, print_value, say
from flows.cli.parameters import FLAT, DryRun, Json
from flows.options import BuildOptions, StoreOptions
from flows.stages.work import Inline, Workers
from preprocessing.config import BuildConfig
from preprocessing.faces import FacesConfig
from preprocessing.reject import LICENSING, Reason
from storage.errors import ConfigError, EmptyDatasetError, SourceError
from storage.store import Store
from storage.wording import numbered
from training.config import preset_for

if TYPE_CHECKING:  # what starts Dask is imported where it is needed
    from flows.build import Built
    from preprocessing.align_files import AlignedFile


def build(
    *,
    config: Annotated[BuildConfig, FLAT] = BuildConfig(),
    options: Annotated[BuildOptions, FLAT] = BuildOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Build a dataset version from photographs."""
    if dry_run:
        from flows.build import check_build
        from flows.stages.listing import planned

        check_build(config, Store(options.store))
        resolved = {"config": config.resolved(), "options": options.model_dump(mode="json")}
        if quota := planned(config):
            resolved["listing"] = quota
        return print_value(resolved, json_)
    from flows.build import build as run_build
    from flows.build import run_with
    from flows.cli.progress import bars, stage_report

    with bars(console(json_)) as progress:
        built = run_build(config, options, run_with(stage_report(progress)))
    if json_:
        return print_value(built.summary(), json_)
    say_built(built)


def align(
    photos: Annotated[list[Path], Parameter(help="Photographs, as files or folders.", negative="")],
    *,
    out: Annotated[Path, Parameter(help="Folder for the crops, made where it is not there.")],
    config: Annotated[FacesConfig, FLAT] = FacesConfig(),
    workers: Annotated[int, Parameter(help="Processes that align.", validator=validators.Number(gte=1))] = 1,
    dry_run: DryRun = False,
    json_: Annotated[
        bool,
        Parameter(name="--json", negative="", help="Print a line of JSON for each photograph as it is done."),
    ] = False,
) -> None:
    """Write the aligned faces of photographs as files: no store, no dataset, no curation."""
    from preprocessing.align_files import align_file, check_align, jobs, unreadable

    check_align(photos, out, config)
    min_quad_px = config.resolved().detect.min_quad_px
    assert min_quad_px is not None
    found = jobs(photos, out)
    if dry_run:
        if problems := unreadable(found):
            raise _not_aligned(problems, len(found))
        resolved = {"photos": [str(photo) for photo in photos], "out": str(out)}
        return print_value({**resolved, "config": config.resolved().model_dump(mode="json")}, json_)
    problems, num_crops = [], 0
    with _workers(min(workers, max(len(found), 1))) as pool:
        for result in pool.map(partial(align_file, config=config), found):
            num_crops += len(result.crops)
            if result.problem is not None:
                problems.append(result)
            if json_:
                print_value(result.as_json(), json_)
                continue
            for line in result.lines(min_quad_px):
                say(line)
    if problems:
        raise _not_aligned(problems, len(found))
    if not num_crops:
        raise EmptyDatasetError(f"no face was aligned: photographs looked at: {len(found)}")


def _not_aligned(problems: Sequence[AlignedFile], num_photos: int) -> SourceError:
    from preprocessing.align_files import printable

    first = f"{printable(problems[0].photo)}: {problems[0].problem}"
    return SourceError(f"{len(problems)} of {num_photos} photographs could not be aligned: {first}")


@contextmanager
def _workers(num: int) -> Iterator[Workers]:
    """This process, or several."""
    if num == 1:
        yield Inline()
        return
    from flows.operations.cluster import open_workers

    with open_workers(None, num) as workers:
        yield workers


def curate(
    dataset: Annotated[
        str | None,
        Parameter(help="NAME or NAME@VERSION; with --explain, the dataset whose records are told too."),
    ] = None,
    *,
    explain: Annotated[
        str | None,
        Parameter(
            help="Build nothing, but say why this photograph passes or not: a file, or an image's key, a ref or a "
            "sha256 in the store."
        ),
    ] = None,
    config: Annotated[BuildConfig, FLAT] = BuildConfig(),
    options: Annotated[BuildOptions, FLAT] = BuildOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Publish a dataset again by other --curate rules, or explain one photograph's verdict.

    No photograph is decoded again. The rules are the ones given here, not those of the build with some replaced.
    """
    store = Store(options.store)
    if explain is not None:
        from preprocessing.explain import explain as explain_photo

        explanation = explain_photo(store, explain, config, dataset)
        if json_:
            return print_value(explanation.as_json(), json_)
        for line in explanation.lines():
            say(line)
        return None
    if dataset is None:
        raise ConfigError("a dataset is needed: likeness curate NAME, or likeness curate --explain PHOTO")
    from flows.recurate import recurate, recuration

    version, config = recuration(store, dataset, config)
    if dry_run:
        resolved = {"dataset": version.reference, "config": config.resolved()}
        return print_value({**resolved, "options": options.model_dump(mode="json")}, json_)
    from flows.build import run_with
    from flows.cli.progress import bars, stage_report

    with bars(console(json_)) as progress:
        built = recurate(version, config, options, run_with(stage_report(progress)))
    decoded = built.record.timings["align"]["done"]
    if json_:
        return print_value({**built.summary(), "of": version.reference, "decoded": decoded}, json_)
    say_built(built)
    say(
        f"  {numbered(decoded, 'photograph')} decoded again, since code, libraries or models have changed"
        if decoded
        else "  no photograph was decoded"
    )


def review(
    dataset: Annotated[str, Parameter(help="NAME or NAME@VERSION.")],
    *,
    out: Annotated[
        Path | None, Parameter(help="The page; unset: review.html in the version's folder.")
    ] = None,
    limit: Annotated[
        int, Parameter(help="Images on the page, taken evenly from all.", validator=validators.Number(gte=1))
    ] = 2000,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Write a page on which a person keeps or refuses the faces of a dataset by key, and saves the verdicts.

    The verdicts are a JSONL: likeness build --curate.reviews FILE takes them as a rule.
    """
    from flows.pages.review import page_of, write_review
    from storage.datasets.dataset import open_dataset

    version = open_dataset(Store(options.store), dataset)
    if dry_run:
        num_images = min(limit, version.num_images)
        return print_value(
            {"dataset": version.reference, "page": str(out or page_of(version)), "images": num_images}, json_
        )
    page, num_images = write_review(version, out, limit)
    answer(
        json_,
        {"dataset": version.reference, "page": str(page), "images": num_images},
        f"{page}  {numbered(num_images, 'image')} of {version.reference}: open it in a browser",
    )


def say_built(built: Built) -> None:
    """A finished build in a few lines."""
    summary = built.summary()
    say(f"dataset {built.dataset.reference} ({built.state})")
    images, photos = numbered(summary["images"], "image"), numbered(summary["photos"], "photograph")
    say(f"  {images} of {photos} in {numbered(summary['shards'], 'shard')}")
    if splits := summary["splits"]:
        say(f"  split into {', '.join(f'{name} {count:,}' for name, count in splits.items())}")
    for reason, count in summary["rejected"].items():
        hint = f" ({Reason(reason).meaning})" if reason in LICENSING else ""
        say(f"  {count} rejected: {reason}{hint}")
    missing = built.dataset.manifest.counts.images_missing
    for name, what in (("license", "licence"), ("author", "author")):
        if missing.get(name):
            say(f"  {numbered(missing[name], 'image')} whose photographs say no {what}")
    if built.record.overtaken_by:
        say(f"  {built.dataset.name} means the version of build {built.record.overtaken_by}, asked for later")
    if built.advice is not None:
        say(f"  {built.advice}")
    for limit in summary["limits"]:
        say(f"  {limit}")
    say(f"  contact sheet {built.contact_sheet}")
    say(f"  report {built.report}")
    preset = preset_for(built.dataset.manifest.resolution)
    where = "" if preset == "smoke" else " on a GPU, --preset smoke on a CPU"
    say(
        f"  took {summary['seconds']:.1f} s; next: likeness train {built.dataset.name} --preset {preset}{where}"
    )
