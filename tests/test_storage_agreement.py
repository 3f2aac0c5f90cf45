"""storage.agreement: a record that has no hash on record, and that was altered, disagrees with another one."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage.datasets.dataset import open_dataset
from storage.datasets.manifest import record_build
from storage.datasets.records import VersionName
from storage.digest import json_digest
from storage.exports.records import Exported
from storage.promotions import candidate_of, new_decision, promote, put_decision, roll_back
from storage.runs import CheckpointState, list_runs
from storage.store import Store
from storage.verify import verify

GOLDEN = Path(__file__).with_name("data") / "golden" / "store"
FIRST, OTHER = "71485f1fada17d95", "0123456789abcdef"
BUILD, LATEST = "datasets/golden/builds/*.json", "datasets/golden/latest.json"
CHAMPION, DECISION, EXPORT = (
    "promotions/golden/champion.json",
    "promotions/golden/decisions/*.json",
    "exports/golden/*.json",
)
STATE = "runs/*/checkpoints/000000096/state.json"
ALTERED: list[tuple[str, str, Any]] = [
    (LATEST, "version", FIRST),
    (LATEST, "version", OTHER),
    (LATEST, "build_id", "20260101-000000-golden-0000"),
    (LATEST, "asked_at", "2030-01-01T00:00:00+00:00"),
    (BUILD, "build_id", "20260101-000000-golden-0000"),
    (BUILD, "dataset", "golden-web"),
    (BUILD, "version", FIRST),
    (BUILD, "version", OTHER),
    (BUILD, "manifest_sha256", "0" * 64),
    (BUILD, "config.source", "folder:elsewhere"),
    (BUILD, "config.curate.faces", "none"),
    (BUILD, "config.name", "\ud800"),
    (BUILD, "config.resolution", float("inf")),
    (BUILD, "stages.shard.images", 7_000),
    (STATE, "num_images", 97),
    (STATE, "dataset.name", "faces"),
    (STATE, "config.seed", 7),
    (STATE, "config_sha256", "0" * 64),
    (CHAMPION, "name", "faces"),
    (CHAMPION, "moves.0.to.checkpoint", "000000001"),
    (CHAMPION, "moves.0.to.generator_sha256", "0" * 64),
    (CHAMPION, "moves.0.decision", "another"),
    (DECISION, "decision", "another"),
    (DECISION, "name", "faces"),
    (DECISION, "outcome", "refuse"),
    (DECISION, "config.limit", 2),
    (EXPORT, "out", "/elsewhere"),
    (EXPORT, "resolution", 64),
    (EXPORT, "dataset.manifest_sha256", "0" * 64),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden store with an export and a champion on record."""
    store = Store(shutil.copytree(GOLDEN, tmp_path_factory.mktemp("whole") / "store"))
    first, second = open_dataset(store, f"golden@{FIRST}"), open_dataset(store, "golden")
    [build] = second.builds()
    again = {
        "config": build.config,
        "config_sha256": build.config_sha256,
        "stages": build.stages,
        "facts": {},
    }
    record_build(second, again, datetime.now(UTC))
    named = VersionName(name="golden", version=FIRST, manifest_sha256=first.manifest_sha256)
    exported = Exported.new(
        dataset=named, layout="folder", resolution=32, images=first.num_images, out="/out", bytes=1,
        sha256="0" * 64, created_at="2026-11-28T00:00:00+00:00",
    )  # fmt: skip
    store.put(exported.key, exported.as_bytes())
    [run] = list_runs(store)
    checkpoint = run.newest_checkpoint()
    weights = CheckpointState.read(checkpoint / "state.json").sha256["generator_ema.safetensors"]
    config = {"limit": 1}
    decision = new_decision(
        "golden", candidate=candidate_of(run.id, checkpoint.name, weights, run.record.dataset), outcome="promote",
        criteria=[], config=config, config_sha256=json_digest(config), seconds=1.0, facts={},
    )  # fmt: skip
    put_decision(store, decision)
    promote(store, decision)
    return store.root


def test_records_as_they_are_written_agree(whole: Path) -> None:
    """Of a store in which nothing was altered none is named, by its name or as a whole."""
    store = Store(whole)
    assert verify(store, None)[1].problems == []
    assert verify(store, "golden")[1].problems == []


@pytest.mark.parametrize(("record", "field", "value"), ALTERED)
def test_an_altered_record_is_named(
    whole: Path, tmp_path: Path, record: str, field: str, value: object
) -> None:
    """One field of a record is another: the record is named, and of a dataset's also by its name alone."""
    store = Store(shutil.copytree(whole, tmp_path / "store"))
    path = max(store.root.glob(record))
    said = at = json.loads(path.read_bytes())
    *above, last = field.split(".")
    for name in above:
        at = at[int(name)] if isinstance(at, list) else at[name]
    assert at.get(last) != value
    at[last] = value
    path.write_text(json.dumps(said))
    found = verify(store, None)[1].problems
    assert any(str(path) in problem for problem in found), found
    if record.startswith("datasets"):
        assert any(str(path) in problem for problem in verify(store, "golden@7148")[1].problems)


def test_a_champion_that_was_rolled_back_to_agrees(whole: Path, tmp_path: Path) -> None:
    """A rollback follows no decision, and is none that is missing."""
    store = Store(shutil.copytree(whole, tmp_path / "store"))
    [run] = list_runs(store)
    first = candidate_of(run.id, run.newest_checkpoint().name, "0" * 64, run.record.dataset)
    champion = json.loads(store.get(CHAMPION))["moves"][0]["to"]
    second = new_decision(
        "golden", candidate=first.model_copy(update={"checkpoint": run.checkpoints()[0].name}), champion=champion,
        outcome="promote", criteria=[], config={}, config_sha256=json_digest({}), seconds=1.0, facts={},
    )  # fmt: skip
    put_decision(store, second)
    promote(store, second)
    assert any("names other weights than" in problem for problem in verify(store, None)[1].problems)
    roll_back(store, "golden", type(first).model_validate(champion))
    assert verify(store, None)[1].problems == []


def test_a_build_that_was_overtaken_agrees(whole: Path, tmp_path: Path) -> None:
    """Of two builds at once, whichever ends last, what each says of itself and of the name holds."""
    store = Store(shutil.copytree(whole, tmp_path / "store"))
    early = open_dataset(store, f"golden@{FIRST}")
    record_build(open_dataset(store, "golden"), {"facts": {}}, datetime.now(UTC))
    record_build(early, {"facts": {}}, datetime(2026, 1, 1, tzinfo=UTC))
    assert verify(store, "golden")[1].problems == []
