"""The catalogue: what it declares is what columns, settings, rules, presets, report and docs have, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preprocessing.columns import SCORE_FIELDS
from preprocessing.curation.rules import rules
from preprocessing.curation.settings import PRESETS, CurateConfig
from preprocessing.records import Scores
from preprocessing.reject import Reason
from preprocessing.scores.catalogue import BOUNDS, MEASURED, NUMBERS, SCORES, rules_table, scores_table
from preprocessing.scores.score import MEASURES, ScoreConfig
from storage.datasets.dataset import open_dataset
from storage.store import Store

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden" / "store"


def test_every_measured_score_has_one_function() -> None:
    """Functions and entries answer each other, in name and order, and a name stands for one score."""
    assert list(MEASURES) == [score.name for score in MEASURED] == [field.name for field in SCORE_FIELDS]
    assert len({score.name for score in SCORES}) == len(SCORES)


def test_what_is_measured_on_request_names_its_setting() -> None:
    """`measured_by` is a field of the config of scores, and off where none is given."""
    settings = [score.measured_by for score in SCORES if score.measured_by]
    assert settings
    for setting in settings:
        stage, _, field = setting.partition(".")
        assert stage == "scores"
        assert not ScoreConfig.model_fields[field].default


def test_scores_read_by_name_have_their_declared_type() -> None:
    """The attributes that `records.Scores` declares are scores of that kind."""
    kinds = {"float": "float", "int": "int", "text": "str", "vector": "tuple[float, ...]"}
    declared = {
        score.name: kinds[score.kind] + (" | None" if score.measured_by else "") for score in MEASURED
    }
    assert Scores.__annotations__.items() <= declared.items()


def test_bounds_are_on_numbers_and_each_has_its_setting() -> None:
    """Every bound is a field of CurateConfig with its description, and on a score that is a number."""
    settings = [bound.setting for _, bound in BOUNDS]
    assert len(set(settings)) == len(settings)
    assert all(score in NUMBERS for score, _ in BOUNDS)
    for _, bound in BOUNDS:
        assert CurateConfig.model_fields[bound.setting].description == bound.description
        assert (bound.setting in PRESETS["lenient"]) == (bound.presets is not None)


def test_rules_apply_in_the_order_of_their_reasons() -> None:
    """The first rule that fails is on record: the order is that of `Reason`, whatever the catalogue's."""
    reasons = [rule.reason for rule in rules(CurateConfig())]
    assert reasons == sorted(reasons, key=list(Reason).index)
    assert [rule.setting for rule in rules(CurateConfig())[:4]] == [
        "curate.min_quad_px",
        "curate.min_detector_score",
        "curate.min_feature_margin",
        "curate.max_padding_fraction",
    ]


@pytest.mark.parametrize(
    ("preset", "digest"),
    [
        ("lenient", "1ea7b0cd31654d2a74826d332aeb2f85757b925cfbd552bec7405b5b78188bed"),
        ("ffhq", "1b58218fb5ec95baeb310c7055f3f2c03fdd65b4aa0d45417dbeaa6d9ee75ec9"),
        ("none", "1c32a8161791eb2a5d72de8aa006a5b65d267b795342a06d8e287252bfb3b7ed"),
    ],
)
def test_presets_stay_what_they_were(preset: Any, digest: str) -> None:
    """A preset's config is part of every version built by it: it changes only where a setting is added on purpose."""
    assert CurateConfig(preset=preset).digest() == digest


def test_the_docs_hold_the_tables() -> None:
    """docs/curation.md has both tables as `python -m preprocessing.scores.catalogue` prints them."""
    docs = (ROOT / "docs" / "curation.md").read_text()
    assert f"\n\n{scores_table()}\n" in docs
    assert f"\n\n{rules_table()}\n" in docs
    command = [sys.executable, "-m", "preprocessing.scores.catalogue"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{scores_table()}\n{rules_table()}"


def test_the_catalogue_needs_no_picture() -> None:
    """Columns and catalogue are read without what decodes, detects or measures."""
    code = "import preprocessing.columns, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint(("cv2", "dlib", "PIL", "scipy", "torch"))


ENTRY = """
    Score(
        "face_share", "Face share", "Share of the photograph's width that the crop spans.",
        bounds=(
            Bound("min_face_share", "low", Reason.FILTERED, "Lowest share of the width.",
                  Presets(lenient=0.4, ffhq=0.6), ge=0),
        ),
    ),
)
# fmt: on
"""
FUNCTION = '''
    "face_share": lambda face: np.hypot(*(face.quad[3] - face.quad[0])) / face.photo_width_px,
}
"""How each score'''


COMMANDS = """
import io, json, runpy, sys
from contextlib import redirect_stdout
from distributed import LocalCluster
from flows.cli.main import main

def said(work, *arguments, **names):
    with redirect_stdout(io.StringIO()) as out:
        try:
            work(*arguments, **names)
        except SystemExit as end:
            assert not end.code, end.code
    return json.dumps(out.getvalue())

with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0",
                  worker_dashboard_address="127.0.0.1:0", memory_limit=0) as cluster:
    print(said(main, ["build", *sys.argv[1:], "--scheduler", cluster.scheduler_address]))
print(said(main, ["build", *sys.argv[1:], "--dry-run", "--curate.min-face-share", "0.5"]))
print(said(runpy.run_module, "preprocessing.scores.catalogue", run_name="__main__"))
"""


def test_a_new_score_is_one_entry_and_one_function(tmp_path: Path) -> None:
    """In a copy of the code, these two make a column, a rule, presets, an option, a report's section and docs."""
    copy = tmp_path / "code"
    for package in ("flows", "preprocessing", "storage", "training"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    insert(copy / "preprocessing/scores/catalogue.py", "\n)\n# fmt: on\n", ENTRY)
    insert(copy / "preprocessing/scores/score.py", '\n}\n"""How each score', FUNCTION)
    photos = tmp_path / "photos"
    photos.mkdir()
    golden = open_dataset(Store(shutil.copytree(GOLDEN, tmp_path / "golden")), "golden@71485f1fada17d95")
    for row in golden.images():
        if row["ref"] in ("david.jpg", "two.jpg"):  # the faces of two.jpg span 0.35 and 0.44 of it
            (photos / row["ref"]).write_bytes(golden.store.original(row["photo_sha256"]))

    store = Store(tmp_path / "store")
    words = ["--source", f"folder:{photos}", "--resolution", "32", "--json", "--store", str(store.root)]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *words],
        cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built, resolved, tables = map(json.loads, done.stdout.splitlines())
    assert json.loads(built)["rejected"] == {"filtered": 1}
    dataset = open_dataset(store, "faces")
    shares = {(row["ref"], row["face_index"]): round(row["face_share"], 2) for row in dataset.images()}
    assert shares == {("david.jpg", 0): 0.79, ("two.jpg", 0): 0.44}
    [rejection] = dataset.rejections()
    assert (rejection["ref"], rejection["detail"]) == ("two.jpg", "face_share 0.353 < 0.4")
    report = (dataset.folder / "report" / "index.html").read_text()
    assert 'id="face_share"' in report
    assert "0.400 or more" in report
    assert json.loads(resolved)["config"]["curate"]["min_face_share"] == 0.5
    assert "| `min_face_share` | `face_share` at least | `filtered` | 0.4 | 0.6 |\n" in tables


def insert(path: Path, before: str, text: str) -> None:
    """Replace the one place where `before` stands."""
    source = path.read_text()
    assert source.count(before) == 1, path
    path.write_text(source.replace(before, text))
