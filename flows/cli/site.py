"""The command that writes a dataset's site.

Not here: what is on it (`flows.pages.site`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.output import answer, print_resolved
from flows.cli.parameters import FLAT, DryRun, Json
from flows.options import StoreOptions
from flows.pages.site import SiteConfig, write_site
from storage.datasets.dataset import open_dataset
from storage.store import Store
from storage.wording import numbered


def site(
    dataset: Annotated[str, Parameter(help="NAME or NAME@VERSION.")],
    *,
    out: Annotated[Path, Parameter(help="The site's folder, which is made.")],
    config: Annotated[SiteConfig, FLAT],
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Write a static site of a dataset: who is in it, under which licence, and whom to ask for removal.

    It needs no server and asks no other host: open its index.html from disk, or put the folder on any web server.
    """
    version = open_dataset(Store(options.store), dataset)
    if dry_run:
        return print_resolved(json_, config, options, dataset=version.reference)
    written = write_site(version, out, config)
    answer(
        json_,
        {"dataset": version.reference, **written.as_json()},
        f"site {written.index}",
        f"  {numbered(written.num_images, 'image')} of {version.reference} on {numbered(written.num_pages, 'page')}, "
        f"{written.num_bytes / 1e6:.1f} MB",
    )
