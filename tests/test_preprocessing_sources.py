"""Sources of other packages: a kind is an entry point, and its source is like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import likeness

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
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from flows.cli.main import main
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.sources import open_source
source = open_source("diary:3", FetchConfig())
print(json.dumps([(item.ref, data.decode()) for item, data in source.read(source.items(2))]))
for name in ("diary:3", "dairy:3", "broken:"):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            main(["build", "--dry-run", "--json", "--store", sys.argv[1], "--source", name])
        except SystemExit:
            pass
    print(json.dumps([out.getvalue(), err.getvalue()]))
"""


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
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    found = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    listed, config, unknown, broken = map(json.loads, found.stdout.splitlines())
    assert listed == [["0.jpg", "the photograph of 0.jpg"], ["1.jpg", "the photograph of 1.jpg"]]
    assert json.loads(config[0])["config"]["source"] == "diary:3", config
    assert "sample:N, broken:, diary:" in unknown[1]
    assert "source broken: is of nowhere:open, which cannot be loaded" in broken[1]


def test_a_dry_run_says_what_it_will_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests, their time, and the rule that makes it, of as many photographs as are wanted; nobody is asked."""
    build = ["build", "--dry-run", "--json", "--store", str(tmp_path), "--limit", "500"]
    status, out, err = likeness(capsys, *build, "--source", "commons:Category:Ada")
    assert status == 0, err
    listing = json.loads(out)["listing"]
    assert (listing["photographs"], listing["requests"], listing["seconds"]) == (500, 10, 2.7)
    assert "200 requests a minute" in listing["rule"]
    assert listing["fetch_seconds"] == 50.0
