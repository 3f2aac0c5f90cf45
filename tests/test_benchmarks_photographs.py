"""A benchmark that is given no photograph says so, in one sentence, before it measures anything."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
GIVEN = {
    "alignment": ["{}"],
    "copies": ["{}"],
    "detectors": ["{}"],
    "face_model": ["{}"],
    "fidelity": ["--photos", "{}"],
    "large_photographs": ["{}"],
    "lost_faces": ["{}"],
    "near_duplicates": ["{}"],
    "thresholds": ["{}"],
}
"""The benchmarks that take photographs, and how."""


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a benchmark says that ends in an error."""
    module = benchmark(name, monkeypatch)
    monkeypatch.setattr(sys, "argv", [name, *(word.format(folder) for word in GIVEN[name])])
    with pytest.raises(SystemExit) as info:
        module.main()
    assert info.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("name", GIVEN)
def test_no_photograph_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder and one that is not there are named."""
    for folder in (tmp_path, tmp_path / "none"):
        error = said(name, folder, monkeypatch, capsys)
        assert "no photograph" in error or "not there" in error
        assert str(folder) in error


@pytest.mark.parametrize("name", ["alignment", "detectors", "lost_faces"])
def test_files_that_are_no_photographs_are_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder in which nothing can be read is one without photographs."""
    (tmp_path / "notes.txt").write_text("no picture")
    assert "no photograph" in said(name, tmp_path, monkeypatch, capsys)


def test_every_benchmark_of_photographs_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that take folders of photographs are in the list above."""
    taking = {path.stem for path in BENCHMARKS.glob("*.py") if "from photographs import" in path.read_text()}
    assert taking == set(GIVEN) - {"large_photographs"}


def test_intervals_hold_for_few_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nobody nothing is known, of one person next to nothing, and more looks at one do not make it narrower."""
    detectors = benchmark("detectors", monkeypatch)
    assert detectors.interval(0, 0, 0) == "none (0 to 100)"
    assert detectors.interval(1, 1, 1) == "100.0 (21 to 100)"
    assert detectors.interval(0, 1, 1) == "0.0 (0 to 79)"
    assert detectors.interval(9, 9, 1) == "100.0 (21 to 100)"
    assert detectors.interval(40, 40, 40) == "100.0 (91 to 100)"
    assert detectors.Tally().row() == "0 | none (0 to 100) | 0 | -, - | 0"


def test_skin_without_colour_is_in_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grey photograph, and a face whose cheeks lie outside, have no angle."""
    detectors = benchmark("detectors", monkeypatch)
    landmarks = np.random.default_rng(0).uniform(10, 90, (68, 2))
    grey, skin = (np.full((100, 100, 3), colour, np.uint8) for colour in ((120, 120, 120), (200, 150, 120)))
    assert detectors.skin_group(detectors.skin_angle(grey, landmarks)) == "ITA not measured"
    assert detectors.skin_group(detectors.skin_angle(skin, landmarks)) != "ITA not measured"
    assert detectors.skin_group(detectors.skin_angle(skin, landmarks + 500)) == "ITA not measured"
