"""Commands that hand datasets to other programs, and take theirs: export-dataset, import-dataset.

Not here: any work, a trained network's export (`flows.cli.draw`) and somebody else's networks (`flows.cli.networks`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from flows.cli.output import answer, console, print_value
from flows.cli.parameters import FLAT, DryRun, Json
from flows.options import BuildOptions, StoreOptions
from preprocessing.imports import ImportConfig
from storage.exports.layouts import LayoutName
from storage.store import Store
from storage.wording import numbered


def export_dataset(
    dataset: Annotated[str, Parameter(help="NAME or NAME@VERSION.")],
    *,
    format: Annotated[
        LayoutName,
        Parameter(help="FFHQ's folders and JSON, StyleGAN's ZIP, a plain folder, or what its name says."),
    ],
    out: Annotated[Path, Parameter(help="The folder, or for stylegan the .zip; nothing is written over.")],
    resolution: Annotated[
        int | None,
        Parameter(
            help="A smaller side of the images, px; unset: theirs.", validator=validators.Number(gte=4)
        ),
    ] = None,
    label: Annotated[
        str | None, Parameter(help="For stylegan: the column whose values are the labels.")
    ] = None,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    dry_run: Annotated[bool, Parameter(negative="", help="Say how many images and bytes, and stop.")] = False,
    json_: Json = False,
) -> None:
    """Write a dataset version for other programs, with licences, authors and the way back to it.

    Pixels are the same, bit for bit, but at another --resolution. The same version gives the same bytes.
    """
    from storage.datasets.dataset import open_dataset
    from storage.exports.write import checked_job, export, plan

    version = open_dataset(Store(options.store), dataset)
    job, layout = checked_job(version, format, out, resolution=resolution, label=label)
    if dry_run:
        planned = plan(job, layout)
        line = f"{version.reference}: {numbered(planned.images, 'image')}, about {planned.bytes / 1e6:.1f} MB"
        return answer(json_, {**planned.as_json(), "out": str(out)}, f"{line} in {out}; nothing was written")
    done = export(job, layout, out)
    if json_:
        return print_value({**done.shown(), "dataset": version.reference}, json_)
    answer(
        False,
        None,
        f"{out}  {numbered(done.images, 'image')} of {version.reference}, {done.bytes / 1e6:.1f} MB",
        f"  sha256 {done.sha256}",
    )
    return None


def import_dataset(
    path: Annotated[Path, Parameter(help="A folder or a ZIP, such as export-dataset writes.")],
    *,
    config: Annotated[ImportConfig, FLAT],
    options: Annotated[BuildOptions, FLAT] = BuildOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Publish aligned faces of other programs as a dataset version: each as it is, with what is said of it.

    FFHQ's folders and JSON, StyleGAN's ZIP, a plain folder with metadata.jsonl, a repository of Hugging Face,
    Croissant. Nothing is unpacked, no face is looked for, and what is refused is counted.
    """
    from flows.build import build as run_build
    from flows.build import check_build, run_with

    resolved = config.build_config(path)
    if dry_run:
        check_build(resolved, Store(options.store))
        return print_value({"config": resolved.resolved(), "options": options.model_dump(mode="json")}, json_)
    from flows.cli.dataset import say_built
    from flows.cli.progress import bars, stage_report

    with bars(console(json_)) as progress:
        built = run_build(resolved, options, run_with(stage_report(progress)))
    if json_:
        return print_value(built.summary(), json_)
    say_built(built)
    return None
