"""flows.operations.team: a team's servers, each of them killed under a build and under a training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml
from mlflow import MlflowClient
from obstore.store import S3Store

from flows.operations.supervised import Supervised, answers
from flows.operations.team import (
    BUCKET,
    DATABASE,
    EVENTS,
    OBJECTS,
    S3_PORTS,
    Team,
    postgresql_command,
    prepare,
    s3_keys,
    server_environment,
    team_services,
    weed_arguments,
)
from served import BUILD, LONG, ROOT, TINY, ask, called, kimg, processes, runs, served, state, wait_for
from storage.errors import ConfigError, PipelineError, ServiceError
from storage.runs import list_runs
from storage.store import Store
from training.tracking import TrackedRun

PATIENCE_S = 400.0
pytestmark = pytest.mark.timeout(1500)
MORE = {"source": "sample:60", "name": "more", "resolution": 32, "curate": {"pdq_max_distance": None}}


def missing() -> str | None:
    """What of a team's servers is not installed here."""
    try:
        Team(Path("/tmp/team"), 1).check()
    except PipelineError as error:
        return str(error)
    return None


needs_servers = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that others may enter, as PostgreSQL must where root starts it."""
    path = Path(tempfile.mkdtemp(prefix="likeness-team-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def team(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """`likeness services --team`: the API's address, the store and the log."""
    with served(folder, "--team", "--s3-port", str(free_ports(S3_PORTS))) as running:
        yield running


def free_ports(num: int) -> int:
    """The first of so many ports in a row that nothing uses now, below those that are given to clients."""
    for first in range(18000, 30000, num):
        probes = [socket.socket() for _ in range(num)]
        try:
            for number, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + number))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no ports are free")


def test_the_data_s_own_postgresql_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest is taken for new data, that of the data for old; data of a version that is not here is told."""
    for version in ("9.6", "15", "17"):
        program = tmp_path / version / "bin" / "initdb"
        program.parent.mkdir(parents=True)
        program.touch()
    monkeypatch.setattr("flows.operations.team.PLACES", str(tmp_path))
    kept = tmp_path / "kept"
    assert postgresql_command("initdb", kept) == str(tmp_path / "17/bin/initdb")
    (kept / "data").mkdir(parents=True)
    (kept / "data/PG_VERSION").write_text("15\n")
    assert postgresql_command("initdb", kept) == str(tmp_path / "15/bin/initdb")
    (kept / "data/PG_VERSION").write_text("14\n")
    with pytest.raises(ServiceError, match="is of PostgreSQL 14, and 17, 15 is here: pg_upgrade moves it"):
        postgresql_command("initdb", kept)


def test_a_path_that_no_socket_may_have_is_told(tmp_path: Path) -> None:
    """Linux takes no socket in so long a folder; that is said before anything is made."""
    with pytest.raises(ConfigError, match="too long a path for a socket: name another with --team-folder"):
        Team(tmp_path / ("a" * 90), 1).check()


@needs_servers
def test_what_a_team_s_servers_keep_is_theirs_alone(tmp_path: Path, folder: Path) -> None:
    """Keys and folders cannot be read by others, and are not made twice; root's PostgreSQL must be able to enter."""
    team = Team(folder / "kept", 1)
    prepare(team)
    keys = s3_keys(team)
    prepare(team)
    assert s3_keys(team) == keys
    assert len(set(keys.values())) == 2
    private = {
        team.folder / "s3-keys.json",
        team.postgresql,
        team.redis,
        team.folder / "s3",
        team.folder / "logs",
    }
    assert {path.stat().st_mode & 0o077 for path in private} == {0}
    assert "AWS_SECRET_ACCESS_KEY" not in server_environment(team)
    assert not any(key in " ".join(s.command) for s in team_services(team).values() for key in keys.values())
    if os.geteuid() == 0:
        assert (team.postgresql / "data").stat().st_uid != 0
        tmp_path.chmod(0o700)
        with pytest.raises(ConfigError, match="cannot reach"):
            prepare(Team(tmp_path / "kept", 1))


SERVERS = {
    DATABASE: ("postgres", "-D", "postgresql/data"),
    EVENTS: ("redis-server", "redis/socket"),
    OBJECTS: ("weed", "/s3"),
    "Prefect server": ("prefect server start",),
    "Prefect services": ("prefect server services start",),
    "MLflow": ("mlflow server",),
}
"""What is in the command line of each, beside its folder or the address of the API in its environment."""


def kill(api: str, folder: Path, *words: str) -> int:
    """Kill the processes with these words that belong to these services, and say how many."""
    found = 0
    for process in processes(*words):
        if f"{folder}/" in " ".join(process.cmdline()) or process.environ().get("PREFECT_API_URL") == api:
            process.kill()
            found += 1
    return found


def version_of(store: Path, name: str) -> str:
    """The one version of a name."""
    [version] = [path.parent.name for path in store.glob(f"datasets/{name}/*/manifest.json")]
    return version


@pytest.mark.services
@needs_servers
def test_a_team_builds_and_trains(team: tuple[str, Path, Path]) -> None:
    """A build's event, through Redis, starts a training whose checkpoint MLflow serves from S3 over HTTP."""
    api, store, log = team
    build = ask(api, "build-dataset", {"config": BUILD})
    wait_for("build", lambda: state(api, build) == "Completed", PATIENCE_S, log)
    wait_for("training", lambda: runs(api, "train", "COMPLETED"), PATIENCE_S, log)
    [run] = list_runs(Store(store))
    tracked = TrackedRun.read(run.folder / "mlflow.json")
    [model] = MlflowClient(tracked.tracking_uri).search_model_versions("name = 'sample'")
    assert model.tags["dataset"] == f"sample@{version_of(store, 'sample')}"
    assert model.source.startswith("mlflow-artifacts:/")
    checkpoint = run.newest_checkpoint()
    path = f"checkpoints/{checkpoint.name}/generator.safetensors"
    place = f"{tracked.experiment_id}/{tracked.run_id}/artifacts/{path}"
    address = f"{tracked.tracking_uri}/api/2.0/mlflow-artifacts/artifacts/{place}"
    served_bytes = httpx.get(address, timeout=60).content
    assert served_bytes == (checkpoint / "generator.safetensors").read_bytes()
    assert not (store / "mlflow.db").exists()


@pytest.mark.services
@needs_servers
def test_a_build_survives_its_servers(team: tuple[str, Path, Path], folder: Path, tmp_path: Path) -> None:
    """While each server is killed in turn, and at last the worker, a build ends with the version of a plain command."""
    api, store, log = team
    options = [f"--{name}={value}" for name, value in MORE.items() if isinstance(value, str | int)]
    command = [sys.executable, "-m", "flows.cli", "build", *options, "--curate.pdq-max-distance=none"]
    done = subprocess.run([*command, "--store", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    build = ask(api, "build-dataset", {"config": MORE})
    wait_for("build", lambda: state(api, build) == "Running", PATIENCE_S, log)
    for words in SERVERS.values():
        assert kill(api, folder, *words) >= 1, words
    wait_for("server", lambda: state(api, build), PATIENCE_S, log)
    kill(api, folder, "worker start", "--pool dataset")
    wait_for("end", lambda: state(api, build) in ("Completed", "Crashed", "Failed"), PATIENCE_S, log)
    if state(api, build) != "Completed":
        retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        called("POST", f"{api}/flow_runs/{build}/set_state", retry)
        wait_for("retry", lambda: state(api, build) == "Completed", PATIENCE_S, log)
    assert version_of(store, "more") == version_of(tmp_path, "more")


@pytest.mark.services
@needs_servers
def test_a_training_survives_its_servers(team: tuple[str, Path, Path], folder: Path) -> None:
    """While each server is killed once a training goes on, and stays one run; it ends when it is told to."""
    api, store, log = team
    training = ask(api, "train", {"dataset": "sample", "config": LONG})
    wait_for("training", lambda: kimg(store) > 0.1, PATIENCE_S, log)  # more than any run before was shown
    trained = max(store.glob("runs/*"))
    for words in SERVERS.values():
        assert kill(api, folder, *words) >= 1, words
        reached = kimg(store)
        wait_for("progress", lambda: kimg(store) > reached + 0.03, PATIENCE_S, log)  # noqa: B023
    wait_for("server", lambda: state(api, training), PATIENCE_S, log)
    assert state(api, training) == "Running"
    assert max(store.glob("runs/*")) == trained
    called("POST", f"{api}/flow_runs/{training}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for("cancelling", lambda: state(api, training) == "Cancelled", PATIENCE_S, log)
    after = ask(api, "train", {"dataset": "sample", "config": {**TINY, "seed": 1}})
    wait_for("next training", lambda: state(api, after) == "Completed", PATIENCE_S, log)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what is to come within two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 240 MB, which can be filled."""
    place = folder / "small"
    place.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=240m", "tmpfs", str(place)], check=False)
    if made.returncode != 0:
        pytest.skip("this user may mount nothing")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.services
@needs_servers
def test_an_s3_store_takes_files_again_after_its_disk_was_full(small_disk: Path, folder: Path) -> None:
    """It is started again once there is room, since it would refuse for ever; what it took before is there."""
    team = s3_team(small_disk, folder)
    said: list[str] = []
    kept = Supervised({OBJECTS: team_services(team)[OBJECTS]}, dict(os.environ), said.append)
    try:
        kept.bring_up([OBJECTS])
        fill_and_empty(team, small_disk, lambda: kept.tend([OBJECTS]))
        assert said[0] == f"{OBJECTS} is started again: its disk was full, and has room now"
    finally:
        kept.stop()


@pytest.mark.services
@needs_servers
def test_a_container_s_s3_store_ends_when_its_disk_has_room_again(small_disk: Path, folder: Path) -> None:
    """By the script of compose.yaml, and the same one starts it anew; told to end, it ends with its server."""
    team = s3_team(small_disk, folder)
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["s3"]
    assert service["restart"] == "unless-stopped"
    shell, option, script, name = service["entrypoint"]
    begin = folder / "entrypoint.sh"  # of the image
    begin.write_text('#!/bin/sh\nexec "$@"\n')
    begin.chmod(0o755)
    script = (
        script.replace("$$", "$")
        .replace("/entrypoint.sh", str(begin))
        .replace("/data", str(team.folder / "s3"))
    )
    command = [shell, option, script, name, *weed_arguments(team)]
    running: list[subprocess.Popen[bytes]] = []

    def tend() -> None:
        if not running or running[-1].poll() is not None:
            running.append(
                subprocess.Popen(command, env={**os.environ, **s3_keys(team)}, start_new_session=True)
            )

    try:
        fill_and_empty(team, small_disk, tend, lambda: len(running) == 2)
        running[-1].terminate()
        assert running[-1].wait(60) is not None
        assert not answers(f"{team.s3_url}/healthz")
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def s3_team(small_disk: Path, folder: Path) -> Team:
    """A team whose S3 store has its files on a small disk, and known keys."""
    team = Team(small_disk / "team", free_ports(S3_PORTS))
    for path in (team.folder, team.folder / "s3", team.folder / "logs"):
        path.mkdir(exist_ok=True)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "word"}
    (team.folder / "s3-keys.json").write_text(json.dumps(keys))
    return team


def fill_and_empty(
    team: Team, small_disk: Path, tend: Callable[[], None], is_anew: Callable[[], bool] = lambda: True
) -> None:
    """Fill the disk until the store takes nothing, and make room: it takes files again, and has what it had."""
    bucket = S3Store(
        BUCKET, endpoint=team.s3_url, region="us-east-1", client_options={"allow_http": True},
        aws_access_key_id="key", aws_secret_access_key="word", retry_config={"max_retries": 0},
    )  # fmt: skip

    def takes(name: str) -> bool:
        tend()
        try:
            bucket.put(name, name.encode() * 20_000)
        except Exception:  # as many kinds as it has ways to refuse
            return False
        return True

    filler = small_disk / "filler"
    until(lambda: takes("before"))
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**12))
    until(lambda: not takes("meanwhile"))
    time.sleep(10)  # a disk is full for longer than one look at it takes
    filler.unlink()
    until(lambda: takes("after") and is_anew())
    assert bytes(bucket.get("before").bytes()) == b"before" * 20_000
