"""The whole pipeline once, as Prefect flows on a server of its own: what `make demo` runs.

It ends with faces of the generator in the box, which the few minutes of its own training cannot give.

Offline, on the embedded sample (`sample:`, two people only: a sample, never a dataset). Prefect's state goes to
the folder that PREFECT_HOME or prefect.toml names, else to ./.prefect; never to the user's home.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.options import BuildAndTrainOptions, RunOptions, StoreOptions
from preprocessing.config import BuildConfig
from preprocessing.curation.settings import CurateConfig
from storage.store import Store
from storage.wording import numbered
from training.config import TrainConfig
from training.drawing.settings import GenerateConfig

# the sample varies two photographs, which are near-duplicates of each other on purpose
BUILD = BuildConfig(
    source="sample:", name="sample", resolution=64, curate=CurateConfig(pdq_max_distance=None)
)
TRAINING = TrainConfig(preset="smoke")


def planned_demo(options: StoreOptions) -> dict[str, Any]:
    """What `run_demo` would build and train, after a build's checks."""
    from flows.build import check_build

    check_build(BUILD, Store(options.store))
    return {
        "build": BUILD.resolved(),
        "training": TRAINING.model_dump(mode="json"),
        "options": options.model_dump(mode="json"),
    }


def run_demo(options: RunOptions) -> Iterator[str]:
    """Run the flow `build-and-train` on the sample, then yield where things are, a line each."""
    _keep_prefect_here()
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

    from flows.build_and_train import build_and_train

    store = Store(options.store)
    store.check_is_folder("likeness demo", "it shows files that a folder has")
    options = BuildAndTrainOptions(store=store.root, workers=options.workers)
    with temporary_settings({PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True}, restore_defaults={PREFECT_API_URL}):
        result = build_and_train(BUILD, TRAINING, options)
    dataset, training = result["dataset"], result["training"]
    reference = f"{dataset['name']}@{dataset['version']}"
    run_folder = store.path(f"runs/{training['run']}")
    grids = sorted((run_folder / "grids").glob("*.png"))
    yield ""
    yield f"dataset        {reference}{' (unchanged)' if dataset['unchanged'] else ''}"
    images, photos = numbered(dataset["images"], "image"), numbered(dataset["photos"], "photograph")
    yield f"               {images} of {photos}"
    yield f"               rejected: {_counts(dataset['rejected'])}"
    yield f"shards         {dataset['directory']}/shards"
    yield f"contact sheet  {dataset['directory']}/contact-sheet.jpg"
    yield f"training run   {run_folder}"
    yield f"               {training['kimg']:.1f} kimg, {training['seconds_per_kimg']:.1f} s/kimg"
    yield f"its grid       {grids[-1]}, what these few minutes came to"
    yield f"faces          {draw_bundled(store)}, by the generator in the box"
    yield ""
    yield "look further:"
    yield "  likeness explore bundled    (a page to steer the generator in the box by)"
    yield "  likeness generate bundled --seeds 16-31 --out faces.png"
    yield f"  likeness trace {grids[-1]} --store {store.root}"
    yield f"  likeness verify {dataset['name']} --store {store.root}"
    yield f"  mlflow ui --backend-store-uri sqlite:///{store.root}/mlflow.db"
    yield "  prefect server start    (then http://127.0.0.1:4200 shows these flow runs)"
    yield "(commands are in .venv/bin)"


def draw_bundled(store: Store, config: GenerateConfig = GenerateConfig()) -> Path:
    """A grid as `likeness generate bundled` draws it, in the store."""
    import torch

    from training.drawing.pictures import generate_grid
    from training.drawing.trained import open_bundled

    path = store.path("bundled.png")
    generate_grid(open_bundled(torch.device("cpu")), config.seeds, path, config.truncation_psi)
    return path


def _keep_prefect_here() -> None:
    """Point Prefect into the working folder before it is imported."""
    os.environ.setdefault("PREFECT_HOME", str(Path(".prefect").resolve()))
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


def _counts(rejected: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in rejected.items()) or "none"
