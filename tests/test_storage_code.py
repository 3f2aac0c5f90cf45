"""storage.code: what changes a result changes the digest that it is kept under, and nothing else does."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from storage.code import NOT_TOUCHING, PACKAGES, ROOT, TOUCHING, code_digest, code_of

ENTRIES = ("flows.stages.align", "flows.stages.shard", "training.metrics.features")
"""Where the work starts whose results are kept under its code."""
EXPECTED = {
    "flows.stages.align": {
        "preprocessing.faces",
        "preprocessing.photo.align",
        "preprocessing.photo.decode",
        "preprocessing.photo.detect",
        "preprocessing.photo.encode",
        "preprocessing.records",
        "preprocessing.reject",
        "preprocessing.scores.models",
        "preprocessing.scores.pose",
        "preprocessing.scores.score",
        "storage.tables",
    },
    "flows.stages.shard": {"storage.shards", "storage.digest", "storage.tables"},
    "training.metrics.features": {
        "training.data",
        "training.extractors.efficientnet",
        "training.extractors.published",
        "training.metrics.crops",
    },
}
OUTSIDE = {
    "flows.stages.align": r"flows\.(build|cli|operations|pages)"
    r"|preprocessing\.(columns|config|crawl|curation|scores\.catalogue|sources)|training",
    "flows.stages.shard": r"flows\.(build|cli|operations|pages)"
    r"|preprocessing\.(config|crawl|curation|faces|scores)|training",
    "training.metrics.features": r"flows|preprocessing"
    r"|training\.(networks|loss|loop|engine|drawing|metrics\.measure)",
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's packages."""
    root = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def modules(root: Path) -> dict[str, Path]:
    """Every module of the packages in a folder, with its file."""
    found = {}
    for path in (path for package in PACKAGES for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if path.name == "__init__.py" else parts)] = path
    return found


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_module_of_the_closure_counts(entry: str, copied: Path) -> None:
    """With one statement more in any one module that the work reaches, the digest is another, each time."""
    files, code = modules(copied), code_of(entry, copied)
    seen = {"none": code.digest()}
    for module in code.sources:
        before = files[module].read_text()
        files[module].write_text(f"{before}\nALTERED = True\n")
        seen[module] = code_of(entry, copied).digest()
        files[module].write_text(before)
    assert len(set(seen.values())) == len(seen), seen
    assert code_of(entry, copied).digest() == seen["none"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_other_module_counts(entry: str, copied: Path) -> None:
    """With every other module of the project altered, report and command line among them, the digest is the same."""
    code = code_of(entry, copied)
    others = {module: path for module, path in modules(copied).items() if module not in code.sources}
    assert {"flows.pages.report", "flows.cli.dataset", "flows.operations.cluster"} < others.keys()
    before = {path: path.read_text() for path in others.values()}
    for path in before:
        path.write_text(f"import altered\n{before[path]}")
    try:
        assert code_of(entry, copied) == code
    finally:
        for path, text in before.items():
            path.write_text(text)


@pytest.mark.parametrize("entry", ENTRIES)
def test_words_and_layout_do_not_count(entry: str, copied: Path, tmp_path: Path) -> None:
    """Without its comments and layout, and with other docstrings, all code has the digest that it had."""
    code = code_of(entry, copied)
    files = modules(copied)
    for module in code.sources:
        tree = ast.parse(files[module].read_text())
        for node in ast.walk(tree):
            match node:
                case ast.Expr(value=ast.Constant(value=str()) as text):
                    text.value = "Other words."
        path = tmp_path / files[module].relative_to(copied)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# another comment\n{ast.unparse(tree)}\n")
        assert path.read_text() != files[module].read_text()
    assert code_of(entry, tmp_path) == code


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_closure_is_what_the_work_needs(entry: str) -> None:
    """What decides the bytes is reached; what decides where, when and how they are shown is not."""
    reached = code_of(entry).sources.keys()
    assert reached >= EXPECTED[entry], EXPECTED[entry] - reached
    assert not [module for module in reached if re.match(OUTSIDE[entry], module)]


def test_versions_are_those_installed() -> None:
    """The digest of faces holds the versions of the libraries that decode, find, crop and measure."""
    versions = code_of("flows.stages.align").versions
    assert versions["numpy"] == np.__version__
    assert versions.keys() >= {
        "dlib-bin",
        "opencv-python-headless",
        "pdqhash",
        "pillow",
        "pillow-heif",
        "scipy",
        "simplejpeg",
        "torch",
    }


def test_another_version_is_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of a library that touches pixels gives another digest, and so does none."""
    before = code_of("flows.stages.align")
    for name in ("simplejpeg", "pyarrow"):
        folder = tmp_path / f"{name}-99.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        other = code_of("flows.stages.align")
        assert other.versions == {**before.versions, "simplejpeg": "99"}
        assert other.digest() != before.digest()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "path", [])
        none = code_of("flows.stages.align")
        assert set(none.versions.values()) == {None}
        assert none.digest() != before.digest()


def test_the_lists_name_what_is_installed() -> None:
    """No library is on both lists, and every distribution has a place in the lock: none is always missing."""
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert {name for names in TOUCHING.values() for name in names} <= locked
    assert not TOUCHING.keys() & NOT_TOUCHING


@pytest.mark.parametrize("entry", ENTRIES)
def test_it_does_not_matter_where_the_code_lies(entry: str, copied: Path) -> None:
    """The digest that results are kept under is that of the same code in any folder."""
    assert code_digest(entry) == code_of(entry, copied).digest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of five modules, of which storage.work is where the work starts."""
    for package in ("storage", "storage/deep"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "storage" / "leaf.py").write_text("VALUE = 1")
    (tmp_path / "storage" / "deep" / "leaf.py").write_text("from ..leaf import VALUE")
    return tmp_path


@pytest.mark.parametrize(
    "statement",
    [
        "import storage.deep.leaf",
        "import storage.deep.leaf as leaf",
        "from storage.deep import leaf",
        "from storage.deep import leaf as other, nothing",
        "from storage.deep.leaf import VALUE",
        "from storage.deep.leaf import *",
        "from .deep import leaf",
        "from .deep.leaf import VALUE",
        "def work():\n    from storage.deep import leaf",
        "class Work:\n    async def work(self):\n        import storage.deep.leaf",
        "try:\n    import storage.deep.leaf\nexcept ImportError:\n    pass",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import storage.deep.leaf",
        "match 1:\n    case _:\n        import storage.deep.leaf",
    ],
)
def test_imports_of_every_form_are_followed(statement: str, root: Path) -> None:
    """However a module is imported, it is reached with its packages and with what it imports itself."""
    (root / "storage" / "work.py").write_text(statement)
    expected = {"storage", "storage.work", "storage.deep", "storage.deep.leaf", "storage.leaf"}
    assert code_of("storage.work", root).sources.keys() == expected


@pytest.mark.parametrize("condition", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_imports_for_types_are_not(condition: str, root: Path) -> None:
    """What is imported for types alone never runs, and is no part of the code."""
    work = root / "storage" / "work.py"
    work.write_text("import typing")
    without = code_of("storage.work", root)
    work.write_text(f"import typing\nif {condition}:\n    import prefect\n    from storage.deep import leaf")
    assert code_of("storage.work", root).sources.keys() == without.sources.keys()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("import prefect", "storage.work imports prefect, which is on neither list"),
        ("def work():\n    from torchvision.ops import nms", "storage.work imports torchvision"),
        ("import storage.gone", "storage.gone is no module"),
        ("import importlib\nimportlib.import_module('storage.leaf')", "storage.work imports by a name"),
        ("from importlib import import_module as by_name", "storage.work imports by a name"),
        ("__import__('storage.leaf')", "storage.work imports by a name"),
    ],
)
def test_what_cannot_be_known_is_an_error(statement: str, message: str, root: Path) -> None:
    """A library on neither list, a module that is not there and an import by a computed name are named."""
    (root / "storage" / "work.py").write_text(statement)
    with pytest.raises(ValueError, match=re.escape(message)):
        code_of("storage.work", root)


def test_small_changes_are_seen(root: Path) -> None:
    """Programs that differ in one constant, name, operator, order or place have digests of their own."""
    programs = [
        "x = 1",
        "x = 1.0",
        "x = True",
        "x = '1'",
        "x = b'1'",
        "x = None",
        "x = ...",
        "x: int",
        "x: int = 1",
        "x += 1",
        "y = 1",
        "x = -1",
        "x = y = 1",
        "x, y = 1, 2",
        "x = a + b",
        "x = b + a",
        "x = a - b",
        "x = a < b",
        "x = a <= b",
        "x = [a, b]",
        "x = [[a], b]",
        "x = [a, [b]]",
        "x = (a, b)",
        "x = {a: b}",
        "x = {**b}",
        "x = {a, b}",
        "x = f(a)",
        "x = f(*a)",
        "x = f(**a)",
        "x = f(a=a)",
        "x = a.f",
        "x = a['f']",
        "x = a[1:]",
        "x = a[:1]",
        "x = a[::1]",
        "x = f'{a}'",
        "x = f'{a!r}'",
        "x = f'{a:1}'",
        "if a:\n    x = 1",
        "if a:\n    pass\nelse:\n    x = 1",
        "if a:\n    x = 1\ny = 1",
        "if a:\n    x = 1\n    y = 1",
        "def x(): return 'text'",
        "def x(): 'text'",
        "def x(a, /): pass",
        "def x(a): pass",
        "def x(*, a): pass",
        "def x(*, a=None): pass",
        "def x(*a): pass",
        "async def x(a): pass",
        "from storage.leaf import VALUE",
        "from storage.leaf import VALUE as x",
        "from .leaf import VALUE",
    ]
    seen = {}
    for program in programs:
        (root / "storage" / "work.py").write_text(program)
        seen[program] = code_of("storage.work", root).sources["storage.work"]
    assert len(set(seen.values())) == len(programs), seen
