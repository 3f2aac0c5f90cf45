"""Sources of other packages: a kind is an entry point, and its source is like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

from preprocessing.records import Item
from preprocessing.sources.access import Access


@dataclass(frozen=True)
class Diary:
    """A photograph a day."""

    num_days: int
    kind: ClassVar[str] = "diary"

    def description(self):
        return {"kind": self.kind, "num_days": self.num_days}

    def items(self, limit=None):
        days = range(self.num_days)[:limit]
        return [Item(f"{day}.jpg", license="CC0-1.0", author="Ann") for day in days]

    def read(self, items):
        for item in items:
            yield item, b"the photograph of " + item.ref.encode()


def open_diary(argument: str, access: Access) -> Diary:
    return Diary(int(argument))
'''
READ = """
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.sources import open_source
source = open_source("diary:3", FetchConfig())
print([(item.ref, data.decode()) for item, data in source.read(source.items(2))])
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python, with a folder of installed packages."""
    path = os.pathsep.join([str(ROOT), str(folder)])
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )


def test_a_package_adds_a_source(tmp_path: Path) -> None:
    """What an installed package names under `likeness.sources` is opened by its kind, and listed where a kind is wrong.

    A plug-in that cannot be loaded is one sentence.
    """
    facts = tmp_path / "diary-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: diary\nVersion: 1.0\n")
    names = "[likeness.sources]\ndiary = diary:open_diary\nbroken = nowhere:open\n"
    (facts / "entry_points.txt").write_text(names)
    (tmp_path / "diary.py").write_text(PLUGIN)
    found = run(tmp_path, "-c", READ)
    wanted = [("0.jpg", "the photograph of 0.jpg"), ("1.jpg", "the photograph of 1.jpg")]
    assert found.stdout.strip() == repr(wanted), found.stderr
    build = [
        "-m",
        "flows.cli",
        "build",
        "--dry-run",
        "--json",
        "--store",
        str(tmp_path / "store"),
        "--source",
    ]
    built = run(tmp_path, *build, "diary:3")
    assert json.loads(built.stdout)["config"]["source"] == "diary:3", built.stderr
    assert "sample:N, broken:, diary:" in run(tmp_path, *build, "dairy:3").stderr
    assert (
        "source broken: is of nowhere:open, which cannot be loaded" in run(tmp_path, *build, "broken:").stderr
    )


def test_a_dry_run_says_what_it_will_ask(tmp_path: Path) -> None:
    """Requests, their time, and the rule that makes it, of as many photographs as are wanted; nobody is asked."""
    build = ["-m", "flows.cli", "build", "--dry-run", "--json", "--store", str(tmp_path), "--limit", "500"]
    found = run(tmp_path, *build, "--source", "commons:Category:Ada")
    listing = json.loads(found.stdout)["listing"]
    assert (listing["photographs"], listing["requests"], listing["seconds"]) == (500, 10, 2.7)
    assert "200 requests a minute" in listing["rule"]
    assert listing["fetch_seconds"] == 50.0
