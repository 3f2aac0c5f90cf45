"""The command `likeness explore`: a page to steer a trained generator by, served on this machine or as a file.

    likeness explore RUN
    likeness explore bundled --port 8100
    likeness explore bundled --static explorer.html --runtime node_modules/onnxruntime-web

Not here: the page and its server (`flows.explorer`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from flows.cli.draw import RunName, opened, run_name
from flows.cli.output import answer, print_resolved
from flows.cli.parameters import FLAT, DryRun, Json, PictureOptions, Signed
from storage.bundled.generator import BUNDLED_SHA256
from storage.config import Config
from storage.imports import IMPORTED
from storage.runs import find_checkpoint
from storage.store import Store


class ExploreConfig(Config):
    """Where the page is: on this machine, or in a file."""

    static: Path | None = Field(
        None, description="Write the page as one HTML file that needs no server, and serve nothing."
    )
    runtime: Path = Field(
        Path("node_modules/onnxruntime-web"),
        description="The folder of npm's package onnxruntime-web, which draws in a page without a server.",
    )
    port: int = Field(8765, ge=0, le=65_535, description="Port on 127.0.0.1; 0: any that is free.")


def explore(
    run: RunName,
    *,
    config: Annotated[ExploreConfig, FLAT] = ExploreConfig(),
    options: Signed = PictureOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Steer a generator in the browser: seeds, truncation, directions, mixing, noise, and the run's checkpoints.

    The page is served to this machine alone, until Ctrl-C, and asks nobody else for anything.
    """
    if config.static is not None:  # as an export: the file is the same wherever it is made
        options = options.model_copy(update={"device": "cpu"})
    trained = opened(run, options)
    from flows.explorer.server import Explorer, serve
    from flows.explorer.static import check_runtime, write_static
    from training.device import resolve_device

    store = Store(options.store)
    trained.style_generator("the explorer")
    checkpoints = {}
    if not trained.origin.keys() & {BUNDLED_SHA256, IMPORTED}:
        checkpoint = find_checkpoint(store, run, options.checkpoint)
        beside = sorted(path.parent for path in checkpoint.parent.glob("[0-9]*/state.json"))
        checkpoints = {path.name: path for path in beside}
    if dry_run:
        if config.static is not None:
            check_runtime(config.runtime)
        return print_resolved(
            json_, config, options, run=run_name(trained), checkpoint=str(trained.origin.get("checkpoint"))
        )
    if config.static is not None:
        made = write_static(trained, config.static, config.runtime)
        line = (
            f"{config.static}, {made['num_bytes'] / 1e6:.0f} MB, opens from disk and asks nobody for anything"
        )
        return answer(json_, {"out": str(config.static), **made}, line)
    explorer = Explorer(trained, checkpoints, store, resolve_device(options.device))
    name = run_name(trained)

    def ready(address: str) -> None:
        answer(json_, {"run": name, "address": address}, f"{name} at {address} (Ctrl-C ends it)")

    serve(explorer, config.port, ready)
