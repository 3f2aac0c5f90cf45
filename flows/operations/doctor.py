"""Whether everything that likeness needs works here, and what to do where it does not.

    likeness doctor

Asks the machine, the store and the Prefect server's plain HTTP interface. So it needs neither Prefect nor torch to be
imported, and says what it can where there is no server. Nothing is changed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sqlite3
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

from flows.operations.gpus import free_cards, visible_cards
from flows.operations.processes import living_flow_runs, worker_name
from flows.options import TRACKING_URI
from storage.environment import PROJECT_ROOT
from storage.errors import PipelineError
from storage.exports.under_way import left_over
from storage.local import PARTIAL, passed_over
from storage.runs import list_runs
from storage.store import Store
from storage.wording import numbered

State = Literal["ok", "warning", "problem"]
TIMEOUT_S = 10.0
PENDING_S = 300.0
"""A run that is about to start for longer will not."""
LOOK_S = 2.0
"""How long litter is looked for."""
LOW_BYTES, NO_BYTES = 20 * 2**30, 2 * 2**30
"""Room on a disk that is little, and that is none."""
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
    """The HTTP interface of a Prefect server."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def get(self, path: str) -> Any:
        """What it answers; OSError where it does not."""
        return self._asked(urllib.request.Request(f"{self.url}{path}"))

    def post(self, path: str, body: Any) -> Any:
        """What it answers to a question that is an object."""
        headers = {"Content-Type": "application/json"}
        return self._asked(urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers))

    @staticmethod
    def _asked(request: urllib.request.Request) -> Any:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)


def findings(store: Store) -> Iterator[Finding]:
    """Everything that is looked at, one by one."""
    yield from _versions()
    yield from _models()
    yield from _gpus()
    yield from _store(store)
    yield from _runs(store)
    yield from _mlflow(store)
    yield from _server(store)


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
    if not there:
        yield Finding("GPUs", "ok", "none: training is on the CPU")
        return
    free = free_cards(there)
    yield Finding("GPUs", "ok", f"{numbered(len(there), 'GPU')}, {len(free)} free of trainings")


def _store(store: Store) -> Iterator[Finding]:
    """Whether the store can be written to, has room, and is tidy."""
    if not store.root.is_dir():
        yield Finding("store", "ok", f"{store.root} is not there yet: the first build makes it")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=store.root, suffix=PARTIAL) as file:
            file.write(b"likeness doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        todo = "see who owns it, and what docs/operations.md says of several users"
        yield Finding("store", "problem", f"{store.root} cannot be written to: {error.strerror}", todo)
    else:
        yield Finding("store", "ok", f"{store.root} can be written to")
    free = shutil.disk_usage(store.root).free
    state: State = "problem" if free < NO_BYTES else "warning" if free < LOW_BYTES else "ok"
    says = f"{free / 2**30:.1f} GiB are free in {store.root}"
    yield Finding("room", state, says, None if state == "ok" else "likeness gc says what may go")
    litter, is_all = _litter(store)
    exports = left_over(store)
    if exports:
        says = f"exports that were killed have left {', '.join(map(str, exports))}"
        yield Finding(
            "exports", "warning", says, "the next export-dataset deletes it, or likeness gc --delete"
        )
    if litter:
        more = "" if is_all else " or more"
        says = f"{numbered(litter, 'file')}{more} of processes that were killed"
        yield Finding("litter", "warning", says, "likeness gc --delete, while nothing works")
    else:
        yield Finding("litter", "ok", "none" if is_all else f"none that {LOOK_S:g} s of looking found")


def _litter(store: Store) -> tuple[int, bool]:
    """How many files are left that a kill cut short, and whether there was time to look everywhere."""
    found, deadline = 0, time.monotonic() + LOOK_S
    for _, folders, files in os.walk(store.root):
        found += sum(name.endswith(PARTIAL) for name in (*folders, *files))
        if time.monotonic() > deadline:
            return found, False
    return found, True


def _runs(store: Store) -> Iterator[Finding]:
    """Which runs are being trained, and whether a record cannot be read."""
    trained = []
    for run in list_runs(store, passed_over):
        try:
            if run.finished() is None and is_trained(store, run.id):
                trained.append(run.id)
        except (PipelineError, OSError) as error:
            yield Finding("runs", "problem", str(error), "likeness verify says more of a run's files")
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
        yield _mlflow_server(Server(served_at))
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


def _mlflow_server(server: Server) -> Finding:
    """Whether a tracking server answers, and keeps artifacts itself."""
    try:
        answer = server.get("/api/2.0/mlflow/experiments/get-by-name?experiment_name=likeness")
        root = str(answer["experiment"]["artifact_location"])
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return Finding("MLflow", "ok", f"{server.url} answers: the first training makes its experiment")
        return Finding("MLflow", "problem", f"{server.url} refuses: {error}", "see its log")
    except (OSError, ValueError, KeyError, TypeError) as error:
        todo = f"start it, or unset {TRACKING_URI}"
        return Finding("MLflow", "problem", f"no MLflow answers at {server.url}: {error}", todo)
    if root.startswith(("file:", "/", ".")):
        todo = "start it with --serve-artifacts, and a database whose experiment was made over http"
        return Finding("MLflow", "problem", f"{server.url} has each machine write artifacts to {root}", todo)
    return Finding("MLflow", "ok", f"{server.url} serves artifacts")


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
    return tracked.get("ended") is False and not is_trained(store, folder.name)


def _server(store: Store) -> Iterator[Finding]:
    """What the Prefect server says of itself, its workers and its runs."""
    url = server_url()
    if url is None:
        yield Finding("server", "warning", "none is configured", "set PREFECT_API_URL, or likeness init here")
        return
    server = Server(url)
    looks: list[Callable[[Server, Store], Iterator[Finding]]] = [_health, _leases, _pools, _flow_runs]
    try:
        for look in looks:
            yield from look(server, store)
    except (OSError, ValueError, KeyError, TypeError) as error:
        todo = "start it: likeness services, or prefect server start"
        yield Finding("server", "problem", f"no Prefect server answers at {url}: {error}", todo)


def _health(server: Server, store: Store) -> Iterator[Finding]:
    version = server.get("/admin/version")
    ours = next((one.version for one in distributions(name="prefect")), None)
    if version == ours:
        yield Finding("server", "ok", f"Prefect {version} answers at {server.url}")
    else:
        says = f"Prefect {version} answers at {server.url}, and {ours} is installed here"
        yield Finding("server", "warning", says, "make them the same")


def _leases(server: Server, store: Store) -> Iterator[Finding]:
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


def _pools(server: Server, store: Store) -> Iterator[Finding]:
    """Whether every pool of a deployment has a worker that lives."""
    pools = {pool["name"]: pool for pool in server.post("/work_pools/filter", {})}
    deployments = server.post("/deployments/filter", {})
    if not deployments:
        yield Finding("deployments", "problem", "none on the server", "likeness deploy")
    for name in sorted({one["work_pool_name"] for one in deployments if one["work_pool_name"]}):
        if name not in pools:
            yield Finding(f"pool {name}", "problem", "is not there", "likeness deploy")
            continue
        workers = server.post(f"/work_pools/{name}/workers/filter", {})
        online = [worker["name"] for worker in workers if worker["status"] == "ONLINE"]
        if pools[name]["is_paused"]:
            yield Finding(f"pool {name}", "warning", "is paused", f"prefect work-pool resume {name}")
        if online:
            yield Finding(f"pool {name}", "ok", f"workers online: {', '.join(online)}")
        else:
            yield Finding(f"pool {name}", "problem", "has no worker", f"likeness worker {name}")


def _flow_runs(server: Server, store: Store) -> Iterator[Finding]:
    """Whether a run is shown as working that nobody works on."""
    kinds = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    runs = server.post("/flow_runs/filter", kinds)
    living, dead = living_flow_runs(), []
    for run in runs:
        if run["id"] not in living and (why := _why_dead(run, store)):
            dead.append(f"{run['name']} ({run['state_name']}: {why})")
    if dead:
        todo = "likeness worker POOL closes those of its machine at its start; Retry goes on"
        yield Finding("flow runs", "problem", f"nobody works on {', '.join(dead)}", todo)
    else:
        yield Finding("flow runs", "ok", f"{numbered(len(runs), 'run')} under way")


def _why_dead(run: dict[str, Any], store: Store) -> str | None:
    """Why a run without a process here is nobody's, None where another machine may work on it."""
    pool, signed_by = run["work_pool_name"], run["labels"].get("prefect.worker.name")
    trained = next((tag.removeprefix("run:") for tag in run["tags"] if tag.startswith("run:")), None)
    if pool is not None and signed_by == worker_name(pool):
        return "its process on this machine is gone"
    if run["state_type"] == "PENDING":
        since = datetime.now(UTC) - datetime.fromisoformat(run["state"]["timestamp"])
        return f"for {since.total_seconds():.0f} s" if since.total_seconds() > PENDING_S else None
    if trained is not None and store.exists(f"runs/{trained}/lock") and not is_trained(store, trained):
        return f"the lock of {trained} is free"
    return None
