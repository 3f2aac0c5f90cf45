"""Commands that run things: the demo, a folder to deploy from, the servers of one machine, the deployments.

Not here: any work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.output import answer, print_value, say
from flows.cli.parameters import FLAT, DryRun, Json
from flows.options import RunOptions, StoreOptions
from storage.store import Store


def demo(
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    dry_run: DryRun = False,
) -> None:
    """Run the whole pipeline once as Prefect flows, on the offline sample, and say where things are."""
    from flows.cli.demo import planned_demo, run_demo

    if dry_run:
        return print_value(planned_demo(options), compact=False)
    for line in run_demo(RunOptions(store=options.store)):
        say(line)


def init(
    folder: Annotated[Path, Parameter(help="The folder, made where it is not there.")] = Path(),
    *,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Lay prefect.yaml and prefect.toml into a folder, to deploy from it.

    They are the deployments and Prefect's settings. A file that is there and says something else is never written over.
    """
    from flows.operations.init import init_folder

    if dry_run:
        files = [path.name for path in init_folder(folder, dry_run=True)]
        return print_value({"folder": str(folder.resolve()), "to_write": files}, json_)
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
    dry_run: DryRun = False,
) -> None:
    """Start the Prefect server, the deployments, a worker for each pool, and MLflow, until Ctrl-C."""
    from flows.operations.services import planned_services, run_services

    if dry_run:
        return print_value(planned_services(port, mlflow_port, Store(options.store)), compact=False)
    run_services(port, mlflow_port, Store(options.store), say)


def deploy(*, dry_run: DryRun = False) -> None:
    """Make the work pools and the deployments of prefect.yaml.

    They are made on the server that Prefect is configured for.
    """
    from flows.operations.deploy import deploy as run_deploy
    from flows.operations.deploy import planned_deployments

    if dry_run:
        return print_value(planned_deployments(), compact=False)
    run_deploy(dict(os.environ))
