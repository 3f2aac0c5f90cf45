"""The docs: every file, module and page that they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "storage").rglob("*.md")])
    if path.name not in ("CHANGELOG.md", "log.md")  # which tell of what was
]
TOPS = ("benchmarks", "docs", "flows", "preprocessing", "storage", "tests", "training")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
FILE = re.compile(rf"(?<![\w/.])((?:{'|'.join(TOPS)})/[\w/.-]+\.(?:json|jsonl|md|png|py|toml|txt|yaml))\b")
MARK = re.compile(rb"^(?:<{7}|>{7}) ", re.MULTILINE)
NAME = re.compile(r"`((?:flows|preprocessing|storage|training)(?:\.\w+)+)")


def is_there(name: str) -> bool:
    """Whether a dotted name is a package, a module, or stands in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        module = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if module.is_file():
            rest = parts[length:]
            return not rest or re.search(rf"\b{rest[0]}\b", module.read_text()) is not None
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    """Links lead to files, and paths and modules exist: none is left behind when something moves."""
    text = page.read_text()
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [file for file in FILE.findall(text) if not (ROOT / file).exists()]
    missing += [name for name in NAME.findall(text) if not is_there(name)]
    assert missing == []


def test_docstrings_name_modules_that_are_there() -> None:
    """What a module says that it does not do, is done where it says."""
    sources = [path for top in TOPS for path in (ROOT / top).rglob("*.py")]
    named = {name for path in sources for name in NAME.findall(path.read_text())}
    assert len(named) > 50
    assert sorted(name for name in named if not is_there(name)) == []


def test_no_file_holds_what_a_merge_left() -> None:
    """Neither code nor docs have both sides of a merge in them, which a docstring hides from every other check."""
    files = [
        path
        for top in TOPS
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".md", ".js", ".html")
    ]
    marked = [
        path for path in (*files, *ROOT.glob("*.*")) if path.is_file() and MARK.search(path.read_bytes())
    ]
    assert len(files) > 500
    assert not marked
