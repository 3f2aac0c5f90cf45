"""Work pools, deployments and automations of prefect.yaml, made on the server that Prefect is configured for.

What is missing is made, a deployment's pool too. Of a deployment that is there, only what is the code's is renewed: its
entrypoint, its description and the form of its parameters. All else may be an operator's: a pool's limit and template,
a schedule that is paused, an automation. It stays, is told as a difference, and `reset` makes it as the file says.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from flows.operations.init import check_folder
from flows.operations.processes import PROCESS
from flows.operations.server import open_server
from storage.errors import ConfigError, ServiceError

PREFECT = [sys.executable, "-m", "prefect"]
MISSING = "missing"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Difference:
    """A setting that the server has otherwise than the file; `there` is MISSING where it lacks the whole thing."""

    of: str
    setting: str
    here: Any
    there: Any

    def __str__(self) -> str:
        if self.there == MISSING:
            return f"{self.of} is missing on the server"
        return f"{self.of}: {self.setting} is {self.there} on the server, and {self.here} in the file"


def planned_deployments() -> dict[str, Any]:
    """What `deploy` would make where nothing is there; ConfigError where no deployments are here."""
    project = _project()
    return {
        "pools": _pools(project),
        "deployments": [entry["name"] for entry in project["deployments"]],
        "automations": [entry["name"] for entry in project.get("automations", [])],
    }


def deployment_names() -> list[str]:
    """Of the prefect.yaml here."""
    return [entry["name"] for entry in _project()["deployments"]]


def deploy(say: Say, *, reset: bool = False) -> None:
    """Make what is missing, or with `reset` all, as the prefect.yaml here says; ServiceError where Prefect refuses."""
    project = _project()
    with open_server() as client:
        for pool in _pools(project):
            _make_pool(client, pool, reset, say)
        missing = []
        for entry in project["deployments"]:
            there = _deployment(client, entry)
            if there is None or reset:
                missing.append(entry["name"])
            else:
                _renew(client, project, entry, there)
                say(f"deployment {entry['name']} is there, and its code is renewed")
        if missing:
            _create(missing)
            say(f"made: {', '.join(f'deployment {name}' for name in missing)}")
        for spec in project.get("automations", []):
            _make_automation(client, spec, reset, say)
        for difference in _differences(client, project):
            say(f"{difference} (left as it is; likeness deploy --reset makes it as the file says)")


def differences() -> list[Difference]:
    """Where the server has something else than the prefect.yaml here says."""
    project = _project()
    with open_server() as client:
        return list(_differences(client, project))


def _project() -> dict[str, Any]:
    check_folder(Path.cwd())
    try:
        project = yaml.safe_load(Path("prefect.yaml").read_text(encoding="utf-8"))
        entries = project["deployments"]
        assert all(isinstance(entry["name"], str) and ":" not in entry["entrypoint"] for entry in entries)
    except (yaml.YAMLError, KeyError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"prefect.yaml has no list of deployments with name and entrypoint: {error}"
        ) from None
    assert isinstance(project, dict)
    return project


def _pools(project: Mapping[str, Any]) -> list[str]:
    return sorted({entry["work_pool"]["name"] for entry in project["deployments"] if "work_pool" in entry})


def _make_pool(client: SyncPrefectClient, name: str, reset: bool, say: Say) -> None:
    template = ProcessWorker.get_default_base_job_template()
    try:
        there = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=PROCESS, base_job_template=template))
        say(f"made: pool {name}")
    else:
        if reset:
            kept = template if there.type == PROCESS else there.base_job_template
            client.update_work_pool(
                name, WorkPoolUpdate(base_job_template=kept, concurrency_limit=None, is_paused=False)
            )


def _flow(entry: Mapping[str, Any]) -> Flow[..., Any]:
    return load_flow_from_entrypoint(entry["entrypoint"])


def _deployment(client: SyncPrefectClient, entry: Mapping[str, Any]) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(f"{_flow(entry).name}/{entry['name']}")
    except ObjectNotFound:
        return None


def _renew(
    client: SyncPrefectClient, project: Mapping[str, Any], entry: Mapping[str, Any], there: DeploymentResponse
) -> None:
    """Tell the server what is the code's of a deployment."""
    update = DeploymentUpdate(
        entrypoint=entry["entrypoint"],
        description=entry.get("description"),
        path=str(Path.cwd()),
        pull_steps=project.get("pull"),
        parameter_openapi_schema=parameter_schema(_flow(entry)).model_dump(),
    )
    if there.work_pool_name is None and "work_pool" in entry:  # its pool was deleted, and is there again
        update = update.model_copy(update={"work_pool_name": entry["work_pool"]["name"]})
    client.update_deployment(there.id, update)


def _create(names: Sequence[str]) -> None:
    """Have Prefect make deployments of the file, with their schedules and triggers."""
    chosen = [argument for name in names for argument in ("--name", name)]
    done = subprocess.run(
        [*PREFECT, "--no-prompt", "deploy", *chosen], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise ServiceError(
            f"prefect deploy {' '.join(chosen)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def _make_automation(client: SyncPrefectClient, spec: Mapping[str, Any], reset: bool, say: Say) -> None:
    wanted = AutomationCore.model_validate(spec)
    found = client.read_automations_by_name(wanted.name)
    if found and not reset:
        return
    for automation in found:
        client.delete_automation(automation.id)
    client.create_automation(wanted)
    say(f"made: automation {wanted.name}")


def _differences(client: SyncPrefectClient, project: Mapping[str, Any]) -> Iterator[Difference]:
    for pool in _pools(project):
        try:
            there = client.read_work_pool(pool)
        except ObjectNotFound:
            yield Difference(f"pool {pool}", "", "there", MISSING)
            continue
        yield from _compared(
            f"pool {pool}",
            {"concurrency_limit": None, "is_paused": False},
            {"concurrency_limit": there.concurrency_limit, "is_paused": there.is_paused},
        )
        own = ProcessWorker.get_default_base_job_template()
        if there.type == PROCESS and there.base_job_template != own:
            yield Difference(f"pool {pool}", "base_job_template", "Prefect's own", "another")
    for entry in project["deployments"]:
        deployment = _deployment(client, entry)
        if deployment is None:
            yield Difference(f"deployment {entry['name']}", "", "there", MISSING)
        else:
            yield from _of_deployment(client, entry, deployment)
    for spec in project.get("automations", []):
        yield from _of_automation(client, AutomationCore.model_validate(spec))


def _of_deployment(
    client: SyncPrefectClient, entry: Mapping[str, Any], there: DeploymentResponse
) -> Iterator[Difference]:
    """How a deployment differs that is on the server."""
    of, limit = f"deployment {entry['name']}", there.global_concurrency_limit
    pool = entry.get("work_pool", {})
    wanted_limit = entry.get("concurrency_limit")
    yield from _compared(
        of,
        {
            "parameters": entry.get("parameters", {}),
            "tags": entry.get("tags") or [],
            "work_pool": pool.get("name"),
            "job_variables": pool.get("job_variables", {}),
            "concurrency_limit": wanted_limit["limit"] if isinstance(wanted_limit, dict) else wanted_limit,
            "schedules": {
                schedule.get("slug"): _of_file(schedule) for schedule in entry.get("schedules", [])
            },
            "paused": entry.get("paused") or False,
        },
        {
            "parameters": there.parameters,
            "tags": there.tags,
            "work_pool": there.work_pool_name,
            "job_variables": there.job_variables or {},
            "concurrency_limit": None if limit is None else limit.limit,
            "schedules": {
                schedule.slug: {
                    "active": schedule.active,
                    **{
                        name: getattr(schedule.schedule, name, None)
                        for name in ("cron", "interval", "rrule", "timezone")
                        if getattr(schedule.schedule, name, None) is not None
                    },
                }
                for schedule in there.schedules
            },
            "paused": there.paused,
        },
    )
    for number, spec in enumerate(entry.get("triggers", []), start=1):
        trigger = DeploymentEventTrigger.model_validate(
            {"name": f"{entry['name']}__automation_{number}", **spec}
        )
        trigger.set_deployment_id(there.id)
        yield from _of_automation(client, trigger.as_automation())


def _of_file(schedule: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "active": True,
        **{name: value for name, value in schedule.items() if name not in ("slug", "parameters")},
    }


def _of_automation(client: SyncPrefectClient, wanted: AutomationCore) -> Iterator[Difference]:
    found = client.read_automations_by_name(wanted.name)
    if not found:
        yield Difference(f"automation {wanted.name}", "", "there", MISSING)
        return
    here, there = (
        one.model_dump(mode="json", include={"enabled", "trigger", "actions"}, exclude={"trigger": {"id"}})
        for one in (wanted, found[0])
    )
    yield from _compared(f"automation {wanted.name}", _in_order(here), _in_order(there))


def _in_order(value: Any) -> Any:
    """What an automation says, its sets of names, which come in any order, sorted."""
    if isinstance(value, dict):
        return {name: _in_order(held) for name, held in value.items()}
    is_names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return sorted(value) if is_names else value


def _compared(of: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[Difference]:
    """The differences of what both say, down to the settings inside of settings."""
    for name in {**here, **there}:
        mine, theirs = here.get(name), there.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            for difference in _compared(of, mine, theirs):
                yield Difference(of, f"{name}.{difference.setting}", difference.here, difference.there)
        elif mine != theirs:
            yield Difference(of, str(name), mine, theirs)
