"""Commands that run things: the demo, a folder to deploy from, the servers of one machine, the deployments.

Not here: any work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.output import answer, say
from flows.cli.parameters import FLAT, Json
from flows.options import RunOptions, StoreOptions
from storage.store import Store


def demo(
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
) -> None:
    """Run the whole pipeline once as Prefect flows, on the offline sample, and say where things are."""
    from flows.cli.demo import run_demo

    for line in run_demo(RunOptions(store=options.store)):
        say(line)


def init(
    folder: Annotated[Path, Parameter(help="The folder, made where it is not there.")] = Path(),
    *,
    json_: Json = False,
) -> None:
    """Lay prefect.yaml, the deployments, and prefect.toml, Prefect's settings, into a folder, to run services in it.

    A file that is there and says something else is never written over.
    """
    from flows.operations.init import init_folder

    written = init_folder(folder)
    answer(
        json_,
        {"folder": str(folder.resolve()), "written": [path.name for path in written]},
        *(f"wrote {path}" for path in written),
        f"next, in {folder.resolve()}: likeness services",
    )


def services(
    *,
    port: Annotated[int, Parameter(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, Parameter(help="Port of the MLflow page.")] = 5000,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
) -> None:
    """Start the Prefect server, the deployments, a worker for each pool, and MLflow, until Ctrl-C."""
    from flows.operations.services import run_services

    run_services(port, mlflow_port, Store(options.store), say)


def deploy() -> None:
    """Make the work pools and the deployments of prefect.yaml, on the server that Prefect is configured for."""
    from flows.operations.deploy import deploy as run_deploy

    run_deploy(dict(os.environ))
