"""Who may import whom, and deployments that fit their flows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "storage": [
        "prefect",
        "dask",
        "distributed",
        "flows",
        "preprocessing",
        "training",
        "torch",
        "cv2",
        "dlib",
    ],
    "preprocessing": ["prefect", "dask", "distributed", "flows", "training", "torch"],
    "training": ["prefect", "dask", "distributed", "flows", "preprocessing", "cv2", "dlib"],
}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_keep_to_their_side(package: str) -> None:
    """Importing every module of a package imports nothing that it must not know."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    )
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert package in loaded
    assert loaded.isdisjoint(FORBIDDEN[package]), loaded & set(FORBIDDEN[package])


def deployments() -> list[dict[str, Any]]:
    """The deployments of prefect.yaml."""
    listed: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return listed


@pytest.mark.parametrize("deployment", deployments(), ids=lambda deployment: deployment["name"])
def test_deployments_fit_their_flows(deployment: dict[str, Any]) -> None:
    """Entrypoints are modules, flow and deployment share a name, and the parameters are valid for the flow."""
    import importlib

    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert flow.name == deployment["name"]
    flow.validate_parameters(deployment["parameters"])


def test_no_flow_file_is_named_like_a_package() -> None:
    """A module of flows/ that shares a package's name would shadow it when Prefect loads a script."""
    assert not {path.stem for path in (ROOT / "flows").glob("*.py")} & {"flows", *FORBIDDEN}


def test_the_schedule_has_a_time_zone() -> None:
    """The weekly retraining is on, and says in which time zone."""
    [schedule] = [s for deployment in deployments() for s in deployment.get("schedules", [])]
    assert schedule["active"] is True
    assert schedule["timezone"]
