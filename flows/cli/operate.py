"""Commands that run things: the demo, a folder to deploy from, the servers of one machine, the deployments.

Not here: any work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.output import answer, print_value, say
from flows.cli.parameters import FLAT, DryRun, Json
from flows.options import RunOptions, StoreOptions
from storage.errors import ConfigError
from storage.local import real_path
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
        return print_value({"folder": str(real_path(folder)), "to_write": files}, json_)
    written = init_folder(folder)
    answer(
        json_,
        {"folder": str(real_path(folder)), "written": [path.name for path in written]},
        *(f"wrote {path}" for path in written),
        f"next, in {real_path(folder)}: likeness services",
    )


def services(
    *,
    port: Annotated[int, Parameter(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, Parameter(help="Port of the MLflow page.")] = 5000,
    files_port: Annotated[int, Parameter(help="Port where browsers find the store's files.")] = 4300,
    team: Annotated[
        bool,
        Parameter(help="On PostgreSQL, Redis and an S3 store, started too, and Prefect's services apart."),
    ] = False,
    team_folder: Annotated[
        Path, Parameter(help="Where --team keeps the data of PostgreSQL, Redis and the S3 store.")
    ] = Path(".services"),
    s3_port: Annotated[
        int, Parameter(help="Port of the S3 store of --team, which takes the seven after it too.")
    ] = 8333,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    dry_run: DryRun = False,
) -> None:
    """Start the Prefect server, the deployments, a worker for each pool, and MLflow, until Ctrl-C.

    What ends by itself is started again. All of it works in one store.
    """
    from flows.operations.services import Ports, planned_services, run_services
    from flows.operations.team import Team

    ports, store = Ports(port, mlflow_port, files_port), Store(options.store)
    store.check_is_folder(
        "likeness services", "MLflow keeps its database and artifacts in files of the store"
    )
    servers = Team(real_path(team_folder), s3_port) if team else None
    if dry_run:
        return print_value(planned_services(ports, store, servers), compact=False)
    run_services(ports, store, say, servers)


def worker(
    pools: Annotated[
        list[str], Parameter(name="pool", help="The work pool, such as gpu; several with --close.")
    ],
    /,
    *,
    limit: Annotated[
        int | None,
        Parameter(help="Runs at a time; unset: as many as the machine has GPUs in pool gpu, one in others."),
    ] = None,
    close: Annotated[bool, Parameter(help="Start none: only close such runs.")] = False,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
) -> None:
    """Close the runs that a dead worker left on this machine, then run Prefect's worker of a pool."""
    from flows.operations.worker import close_pools, run_worker

    store = Store(options.store)
    if close:
        return close_pools(pools, store, say)
    if len(pools) != 1:
        raise ConfigError(f"a worker is of one pool, not of {len(pools)}: start one for each")
    run_worker(pools[0], store, limit, say)


def deploy(
    *,
    reset: Annotated[
        bool, Parameter(help="Make everything as prefect.yaml says, what was changed on the server too.")
    ] = False,
    diff: Annotated[
        bool, Parameter(help="Say what the server has otherwise than prefect.yaml, and stop.")
    ] = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Make the work pools, the deployments and the automations of prefect.yaml that are missing.

    They are made on the server that Prefect is configured for. What was changed there, as a limit, a schedule or an
    automation, is left and told.
    """
    from flows.operations.deploy import deploy as run_deploy
    from flows.operations.deploy import differences, planned_deployments

    if dry_run:
        return print_value(planned_deployments(), compact=False)
    if diff:
        found = differences()
        return answer(json_, [vars(one) for one in found], *(map(str, found) if found else ["no difference"]))
    run_deploy(say, reset=reset)


def doctor(
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Say whether server, workers, runs, store, GPUs, models and versions are as they should be, and what to do.

    Ends with 1 where something is wrong, for a monitor to see. Nothing is changed, and no server is needed.
    """
    from flows.operations.doctor import findings

    found = []
    for finding in findings(options.store):
        found.append(finding)
        if not json_:
            say(str(finding))
    if json_:
        print_value([vars(finding) for finding in found], compact=True)
    if any(finding.state == "problem" for finding in found):
        raise SystemExit(1)
