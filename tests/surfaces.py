"""What others rely on, as text: deployments' parameters, a manifest's keys, tables' columns, public names.

    python tests/surfaces.py        writes tests/data anew, after a change that is meant

Not here: the help pages (`flows.cli.help`), and the records that today's code must be able to read (`data/golden`).
"""

from __future__ import annotations

import ast
import atexit
import importlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from distributed import LocalCluster

from flows.build import build, run_with
from flows.options import BuildOptions
from preprocessing.config import BuildConfig
from preprocessing.crawl.rows import LEDGER_SCHEMA
from storage.datasets.dataset import Dataset

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
PACKAGES = ("flows", "preprocessing", "storage", "training")
BY_CONTENT = ("counts.rejected", "shards[].images")
"""Of a manifest, whose keys are content: not frozen."""


def public_names() -> str:
    """Every name without an underscore that a module defines, where it is defined."""
    found = []
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found += [
            f"{module}.{name}"
            for name in defined(ast.parse(path.read_text(encoding="utf-8")))
            if name[0] != "_"
        ]
    return lines(sorted(set(found)))


def defined(module: ast.Module) -> Iterator[str]:
    """The functions, classes and variables at a module's top."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))


@cache
def built() -> Dataset:
    """A version of two photographs, built here."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    config = BuildConfig.model_validate({"source": "sample:2", "resolution": 32})
    threads: dict[str, Any] = {"processes": False, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with LocalCluster(n_workers=1, threads_per_worker=1, **threads) as cluster:
        options = BuildOptions(store=Path(folder), scheduler=cluster.scheduler_address)
        return build(config, options, run_with(lambda _: None)).dataset


def table_columns() -> str:
    """The columns of every table that a build leaves in its store, with their types."""
    root = built().store.root
    tables = {
        re.sub(r"[0-9a-f]{16,}", "*", str(path.relative_to(root))): pq.read_schema(path)
        for path in root.rglob("*.parquet")
    }
    tables["ledger/segments/*/*.parquet"] = LEDGER_SCHEMA  # of what is fetched
    return lines(f"{table} {column}" for table in sorted(tables) for column in columns(tables[table]))


def columns(schema: pa.Schema) -> Iterator[str]:
    """Name and type of each column."""
    for field in schema:
        yield f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"


def manifest_keys() -> str:
    """The keys of a version's manifest, by their paths."""
    manifest = json.loads(built().store.path(f"{built().key}/manifest.json").read_bytes())
    return lines(dict.fromkeys(keys(manifest)))


def keys(value: Any, path: str = "") -> Iterator[str]:
    """The paths to all that is no object and no list of objects."""
    if isinstance(value, dict) and path not in BY_CONTENT:
        for key in sorted(value):
            yield from keys(value[key], f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for part in value:
            yield from keys(part, f"{path}[]")
    else:
        yield path


def parameter_schema(deployment: str) -> str:
    """The JSON schema of a deployment's parameters, as Prefect makes its form of it."""
    from prefect.utilities.callables import parameter_schema as schema_of

    [entrypoint] = [each["entrypoint"] for each in deployments() if each["name"] == deployment]
    module, _, name = entrypoint.rpartition(".")
    schema = schema_of(getattr(importlib.import_module(module), name))
    return json.dumps(schema.model_dump_for_openapi(), indent=2, ensure_ascii=False) + "\n"


def deployments() -> list[dict[str, Any]]:
    """Those of prefect.yaml."""
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return found


def lines(texts: Any) -> str:
    """A text with a line each."""
    return "".join(f"{text}\n" for text in texts)


SURFACES: dict[str, Callable[[], str]] = {
    "public_names.txt": public_names,
    "table_columns.txt": table_columns,
    "manifest_keys.txt": manifest_keys,
    **{
        f"schemas/{each['name']}.json": lambda name=each["name"]: parameter_schema(name)  # type: ignore[misc]
        for each in deployments()
    },
}
"""Each file of tests/data, and what it is to hold."""


if __name__ == "__main__":
    for file, surface in SURFACES.items():
        path = DATA / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(surface(), encoding="utf-8")
