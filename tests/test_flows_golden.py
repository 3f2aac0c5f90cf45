"""The golden store of `data/golden`, which an earlier version made: it opens, is intact, and all goes on from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import tiny_run
from flows.build import build, run_with
from flows.options import BuildOptions
from flows.recurate import crawled, recurate, recuration
from golden_store import (
    ANNA,
    CPU,
    FIRST,
    GOLDEN,
    SECOND,
    VERSIONS,
    WEB,
    golden,
    run,
    silent,
    store,
)
from preprocessing.config import BuildConfig, recorded_config
from preprocessing.records import SOURCE_COLUMNS
from preprocessing.sources.licenses import LicensesConfig
from storage.datasets.dataset import dataset_names, open_dataset
from storage.datasets.parts import Parts
from storage.datasets.records import BuildRecord, Latest, Manifest
from storage.datasets.verify import verify
from storage.digest import file_digest
from storage.lineage.trace import trace
from storage.records import StoredRecord
from storage.runs import (
    Run,
    RunRecord,
    RunResult,
    recorded_metrics,
)
from storage.store import Store, original_key
from storage.verify import verify as verify_anything
from training.checkpoint import State
from training.config import TrainConfig
from training.drawing.images import images_from_seeds
from training.drawing.pictures import generate_grid
from training.drawing.trained import load_exported, open_trained
from training.loop import train
from training.metrics.evaluate import evaluate
from training.metrics.settings import EvaluateConfig
from training.process import images_of
from training.tracking import TrackedRun, Tracker

__all__ = ["golden", "run", "store"]  # fixtures


VERSION_2 = "07831156ef904daca3526b56578238bc3f14eea708394f92bef6aaec56767edd"
"""That of the second golden store, of format 2."""


@pytest.fixture
def later(store: Store) -> Store:
    """The golden store with the second one over it."""
    shutil.copytree(GOLDEN.with_name("golden2") / "store", store.root, dirs_exist_ok=True)
    return store


def test_the_golden_folder_is_small() -> None:
    """All of it together takes less than a megabyte."""
    size = sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file())
    assert size < 1_000_000, size


@pytest.mark.parametrize(
    ("reference", "sha256"),
    [
        (FIRST, VERSIONS["first"]),
        (SECOND, VERSIONS["second"]),
        ("golden", VERSIONS["second"]),
        ("golden-web", VERSIONS["web"]),
    ],
)
def test_versions_are_named_as_ever(store: Store, reference: str, sha256: str) -> None:
    """A version, and the latest of a name, is the manifest of the digest that it had when it was published."""
    dataset = open_dataset(store, reference)
    assert dataset.manifest_sha256 == sha256
    assert dataset_names(store) == ["golden", "golden-web"]


@pytest.mark.parametrize(
    ("reference", "shards", "images", "originals"), [(FIRST, 2, 7, 10), (SECOND, 2, 6, 10), (WEB, 1, 2, 2)]
)
def test_versions_are_intact(store: Store, reference: str, shards: int, images: int, originals: int) -> None:
    """Every hash of a version holds, over as many shards, images and photographs as there were."""
    checked = verify(open_dataset(store, reference))
    assert checked.problems == []
    assert (checked.counts["shard"], checked.counts["original"]) == (shards, originals)
    assert open_dataset(store, reference).num_images == images


def test_damage_is_found(store: Store) -> None:
    """That a version is intact says something: a changed byte of a shard or of a photograph is named."""
    dataset = open_dataset(store, FIRST)
    damaged = [dataset.shard_paths[0], store.path(original_key(ANNA))]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    problems = "\n".join(verify(dataset).problems)
    assert all(str(path) in problems for path in damaged), problems


def test_tables_say_what_became_of_each_picture(store: Store) -> None:
    """Every picture is in the tables as an image or with its reason, with author and licence where a list had them."""
    always = ["anna.jpg", "bruno.webp", "clara.jpg", "david.jpg", "emma.jpg"]
    never = {
        "broken.jpg": "not_an_image",
        "fritz.jpg": "exposure",
        "twice/anna.jpg": "duplicate_photo",
        "wall.jpg": "no_face",
    }
    for reference, kept, rejected in (
        (FIRST, ["two.jpg", "two.jpg"], {"emma-small.jpg": "near_duplicate"}),
        (SECOND, ["emma-small.jpg"], {"two.jpg": "not_single"}),
    ):
        dataset = open_dataset(store, reference)
        images = dataset.images()
        assert sorted(row["ref"] for row in images) == sorted(always + kept)
        assert {row["ref"]: row["reason"] for row in dataset.rejections()} == never | rejected
        [bruno] = [row for row in images if row["ref"] == "bruno.webp"]
        assert (bruno["author"], bruno["license"]) == ("B. Brush", "CC-BY-4.0")
        [emma] = [row for row in images if row["ref"] == "emma.jpg"]
        assert (emma["author"], emma["license"]) == (None, None)
        assert [build.facts.host for build in dataset.builds()] == ["golden"]


RECORDS_2: dict[str, type[StoredRecord]] = {
    "datasets/golden2/*/manifest.json": Manifest,
    "datasets/golden2/*/*.parts.json": Parts,
    "datasets/golden2/builds/*.json": BuildRecord,
    "datasets/golden2/latest.json": Latest,
    "runs/*-golden2-*/run.json": RunRecord,
    "runs/*-golden2-*/result.json": RunResult,
    "runs/*-golden2-*/mlflow.json": TrackedRun,
    "runs/*-golden2-*/checkpoints/*/state.json": State,
}


def test_the_second_store_is_read_whole(later: Store) -> None:
    """A store of manifests of format 2 is intact, and its records are written to the byte as they were read."""
    dataset = open_dataset(later, "golden2")
    assert dataset.manifest_sha256 == VERSION_2
    assert verify_anything(later, None)[1].problems == []
    for pattern, kind in RECORDS_2.items():
        paths = list(later.root.glob(pattern))
        assert paths, pattern
        for path in paths:
            assert kind.read(path).as_bytes() == path.read_bytes(), path
    assert {row["ref"] for row in dataset.images()} == {
        row["ref"] for row in open_dataset(later, FIRST).images()
    }


def test_the_second_store_leads_to_photographs(later: Store) -> None:
    """Its grid, its run and a photograph are traced."""
    [grid] = later.root.glob("runs/*-golden2-*/grids/*.png")
    chain = trace(later, str(grid))
    assert [step.kind for step in chain.steps] == ["grid", "checkpoint", "training run", "dataset"]
    assert all(file_digest(Path(row["original"])) == row["photo_sha256"] for row in chain.images)
    assert f"golden2@{VERSION_2[:16]}" in {step.facts["reference"] for step in trace(later, ANNA).steps}


def test_the_second_store_is_trained_on_and_curated(later: Store) -> None:
    """Its run goes on, a new one begins, and what its crawl gave is taken from its tables."""
    [folder] = later.root.glob("runs/*-golden2-*")
    run = Run(folder)
    config = TrainConfig.model_validate({**run.record.config, "total_kimg": 0.048})
    assert train(run, config, images_of(run, config), CPU, Tracker())["num_images"] == 48
    tiny_run.trained(later, open_dataset(later, "golden2").summary(), total_kimg=0.016)
    again = crawled(open_dataset(later, "golden2"), LicensesConfig())
    assert (again.items.num_rows, again.photos.num_rows) == (11, 11)


DRAWN = {
    "drawn/grid.png": "grid",
    "drawn/mixing.png": "figure",
    "drawn/walk.mp4": "video",
    "drawn/projection.png": "projection",
    "drawn/projection.safetensors": "projection",
    "drawn/generator.safetensors": "export",
    "store/runs/*/grids/000000064.png": "grid",
    "store/runs/*/grids/000000096.png": "grid",
}


@pytest.mark.parametrize("pattern", DRAWN)
def test_what_was_drawn_leads_to_photographs(golden: Path, store: Store, run: Run, pattern: str) -> None:
    """A drawn or exported file leads over checkpoint, run and dataset to photographs, and their bytes are there."""
    [path] = golden.glob(pattern)
    chain = trace(store, str(path))
    assert [step.kind for step in chain.steps] == [DRAWN[pattern], "checkpoint", "training run", "dataset"]
    assert chain.steps[2].facts["id"] == run.id
    assert chain.steps[3].facts["reference"] == FIRST
    assert len(chain.images) == 7
    for row in chain.images:
        assert file_digest(Path(row["original"])) == row["photo_sha256"]


@pytest.mark.parametrize(
    "reference", [ANNA, ANNA[:12], "photograph"], ids=["sha256", "first digits", "its file"]
)
def test_a_photograph_leads_to_all_its_images(golden: Path, store: Store, run: Run, reference: str) -> None:
    """A photograph is found in every version and dataset, with the copy that was rejected and the run it trained."""
    if reference == "photograph":
        reference = str(golden / "photograph.jpg")
        Path(reference).write_bytes(store.original(ANNA))
    chain = trace(store, reference)
    assert {step.facts["reference"]: step.facts["training_runs"] for step in chain.steps} == {
        FIRST: [run.id],
        SECOND: [],
        WEB: [],
    }
    refs = {row["dataset"]: row["ref"] for row in chain.images}
    assert refs == {FIRST: "anna.jpg", SECOND: "anna.jpg", WEB: "http://127.0.0.1:8765/anna.jpg"}
    rejections = [(row["dataset"], row["ref"], row["reason"]) for row in chain.rejections]
    assert sorted(rejections) == [(name, "twice/anna.jpg", "duplicate_photo") for name in (FIRST, SECOND)]


def test_other_rules_give_what_a_build_gives(store: Store, cluster: str, tmp_path: Path) -> None:
    """A version curated again keeps what a build under those rules keeps; one that is built now, to the byte."""
    rules = BuildConfig.model_validate({"curate": {"faces": "largest"}})
    dataset, config = recuration(store, FIRST, rules)
    again = recurate(dataset, config, BuildOptions(store=store.root, scheduler=cluster), run_with(silent))
    assert again.dataset.manifest.counts.rejected["not_largest"] == 1
    assert verify(again.dataset).problems == []
    photos = tmp_path / "photos"
    lines = {}
    for row in (*dataset.images(), *dataset.rejections()):
        path = photos / row["ref"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.original(row["photo_sha256"]))
        lines[row["ref"]] = {**{name: row.get(name) for name in SOURCE_COLUMNS}, "file": row["ref"]}
    (photos / "photos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    config = config.model_copy(update={"source": f"folder:{photos}"})
    whole = build(config, BuildOptions(store=tmp_path / "whole", scheduler=cluster), run_with(silent)).dataset
    assert {row["ref"] for row in again.dataset.images()} == {row["ref"] for row in whole.images()}
    # The crops of that version are of an earlier alignment, whose bytes no build gives any more.
    former = config.model_copy(update={"curate": recorded_config(dataset).curate})
    options = BuildOptions(store=tmp_path / "first", scheduler=cluster)
    first = build(former, options, run_with(silent)).dataset
    again = recurate(*recuration(first.store, first.reference, rules), options, run_with(silent))
    assert again.dataset.manifest == whole.manifest
    shards = [path.read_bytes() for path in again.dataset.shard_paths]
    assert shards == [path.read_bytes() for path in whole.shard_paths]


def test_what_was_fetched_is_not_fetched_again(store: Store, cluster: str, tmp_path: Path) -> None:
    """A list whose server is gone is built from what was fetched of it, down to the page that was not there."""
    fetched = open_dataset(store, WEB)
    lines = [
        {"url": row["ref"], **{name: row.get(name) for name in SOURCE_COLUMNS}}
        for row in (*fetched.images(), *fetched.rejections())
        if row.get("reason") != "checksum_mismatch"
    ]
    urls = tmp_path / "urls.jsonl"
    urls.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"fetch": {"retries": 0}, "licenses": {"assume": "CC0-1.0"}}
    config = BuildConfig.model_validate(
        {"source": f"urls:{urls}", "name": "again", "resolution": 32, **settings}
    )
    again = build(config, BuildOptions(store=store.root, scheduler=cluster), run_with(silent))
    assert again.record.stages["crawl"] == {"photos": 2, "reused": 3, "http_status": 1}
    photos, were = ({row["photo_sha256"] for row in of.images()} for of in (again.dataset, fetched))
    assert photos == were


def test_training_goes_on_as_it_went(run: Run) -> None:
    """From the earlier checkpoint, training comes to the later one again, but for rounding on another kind of CPU."""
    earlier, later = run.checkpoints()
    was, reached = (load_file(folder / "generator.safetensors") for folder in (earlier, later))
    shutil.rmtree(later)
    config = TrainConfig.model_validate(run.record.config)
    result = train(run, config, images_of(run, config), CPU, Tracker())
    assert (result["num_images"], result["checkpoint"]) == (96, later.name)
    again = load_file(later / "generator.safetensors")
    assert again.keys() == reached.keys()
    moved = sum(float((reached[name] - was[name]).square().sum()) for name in reached) ** 0.5
    off = sum(float((reached[name] - again[name]).square().sum()) for name in reached) ** 0.5
    assert off < 0.1 * moved, (off, moved)
    ticks = [json.loads(line)["num_images"] for line in run.stats_path.read_text().splitlines()]
    assert ticks == [24, 48, 72, 96]


@pytest.mark.parametrize("reference", [SECOND, WEB])
def test_a_new_run_trains_on_it(store: Store, reference: str) -> None:
    """A version, of WebP or of PNG, trains a new run, whose grid leads to the version's photographs."""
    dataset = open_dataset(store, reference)
    run = tiny_run.trained(store, dataset.summary(), total_kimg=0.016)
    chain = trace(store, str(run.grids_dir / f"{run.newest_checkpoint().name}.png"))
    assert chain.steps[-1].facts["reference"] == reference
    assert {row["key"] for row in chain.images} == {row["key"] for row in dataset.images()}


def test_the_same_images_are_drawn(golden: Path, run: Run) -> None:
    """The checkpoint draws the grid that it drew, to within a step of rounding, and so does the exported generator."""
    trained = open_trained(run.newest_checkpoint(), CPU)
    generate_grid(trained, range(4), golden / "again.png", [0.7])
    was, again = (
        np.asarray(Image.open(path)).astype(int) for path in (golden / "drawn/grid.png", golden / "again.png")
    )
    assert was.shape == (32, 32, 3)
    assert np.abs(was - again).max() <= 1
    exported = load_exported(golden / "drawn/generator.safetensors")
    one, other = (images_from_seeds(generator, range(4), 0.7) for generator in (trained.generator, exported))
    assert np.array_equal(one, other)


def test_the_same_is_measured(run: Run) -> None:
    """A metric on record is read as it was, and measures the same, to within what other processors round."""
    checkpoint = run.newest_checkpoint()
    recorded = recorded_metrics(run, checkpoint)
    assert recorded.keys() == {"fd_efficientnet_lite0", "ppl_efficientnet_lite0_w_end"}
    config = EvaluateConfig(metrics=("fd_efficientnet_lite0",), num_images=16)
    [again] = evaluate(run, checkpoint, config, CPU).values()
    assert again.value == pytest.approx(recorded["fd_efficientnet_lite0"].value, rel=1e-3)
    assert recorded_metrics(run, checkpoint).keys() == recorded.keys()
