"""The golden store of `data/golden`, which an earlier version made: it opens, is intact, and all goes on from it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from distributed import LocalCluster
from PIL import Image
from safetensors.torch import load_file

import tiny_run
from flows.build import build, run_with
from flows.options import BuildOptions
from flows.recurate import crawled, recurate, recuration
from flows.stages.work import Progress
from preprocessing.config import BuildConfig
from preprocessing.records import SOURCE_COLUMNS
from preprocessing.sources.licenses import LicensesConfig
from storage.datasets.dataset import COLUMNS_OF, Dataset, TableName, dataset_names, open_dataset
from storage.datasets.lookup import find_rows
from storage.datasets.manifest import publish, record_build
from storage.datasets.parts import Parts
from storage.datasets.records import BuildRecord, Latest, Manifest
from storage.datasets.verify import verify
from storage.digest import bytes_digest, file_digest, json_digest
from storage.errors import ConfigError, FormatError, IntegrityError
from storage.lineage.trace import trace
from storage.records import StoredRecord
from storage.runs import (
    MetricRecord,
    Run,
    RunRecord,
    RunResult,
    create_run,
    list_runs,
    record_metrics,
    recorded_metrics,
)
from storage.store import Store, original_key
from storage.tables import FORMAT_KEY, get_table, put_table, table_of
from storage.verify import verify as verify_anything
from training.checkpoint import State
from training.config import TrainConfig
from training.drawing.images import images_from_seeds
from training.drawing.pictures import generate_grid
from training.drawing.trained import load_exported, load_generator, open_trained
from training.engine.state import Training
from training.journal import forget_later_stats, write_result, write_snapshot
from training.loop import train
from training.metrics.audit import AuditRecord
from training.metrics.evaluate import best_checkpoint, evaluate
from training.metrics.settings import EvaluateConfig
from training.process import images_of, train_folder
from training.tracking import TrackedRun, Tracker

GOLDEN = Path(__file__).with_name("data") / "golden"
VERSIONS = {
    "first": "71485f1fada17d957079da8a6698555820e25b56b590eff3df86f1f805a9fe42",
    "second": "74bfd02313603afd8ea68b6e553d972fe8e688d96e1da36db27b6fa5de500752",
    "web": "b440bae92356680ef76fd0a682ffb3f3607a83d85bea1661bb76c156439bc090",
}
"""sha256 of the manifests: a folder as first published, the same by other rules, and pictures that were fetched."""
FIRST, SECOND = (f"golden@{VERSIONS[name][:16]}" for name in ("first", "second"))
WEB = f"golden-web@{VERSIONS['web'][:16]}"
VERSION_2 = "07831156ef904daca3526b56578238bc3f14eea708394f92bef6aaec56767edd"
"""That of the second golden store, of format 2."""
ANNA = "850566706e68108318011694a9031afc5fb5ffe40cac018b31713ec9bc3ce293"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One Dask worker for all builds of this file."""
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of the golden folder, since opening a store may write into it."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


@pytest.fixture
def store(golden: Path) -> Store:
    """The golden store."""
    return Store(golden / "store")


@pytest.fixture
def run(store: Store) -> Run:
    """Its one training run."""
    [run] = list_runs(store)
    return run


@pytest.fixture
def later(store: Store) -> Store:
    """The golden store with the second one over it."""
    shutil.copytree(GOLDEN.with_name("golden2") / "store", store.root, dirs_exist_ok=True)
    return store


def silent(_: Progress) -> None:
    """A report to nobody."""


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
    """A version curated again is the version that a build of its kept photographs gives, to the byte."""
    dataset, config = recuration(store, FIRST, BuildConfig.model_validate({"curate": {"faces": "largest"}}))
    again = recurate(dataset, config, BuildOptions(store=store.root, scheduler=cluster), run_with(silent))
    photos = tmp_path / "photos"
    lines = {}
    for row in (*dataset.images(), *dataset.rejections()):
        path = photos / row["ref"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.original(row["photo_sha256"]))
        lines[row["ref"]] = {**{name: row.get(name) for name in SOURCE_COLUMNS}, "file": row["ref"]}
    (photos / "photos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    config = config.model_copy(update={"source": f"folder:{photos}"})
    options = BuildOptions(store=tmp_path / "other", scheduler=cluster)
    whole = build(config, options, run_with(silent))
    assert again.dataset.manifest == whole.dataset.manifest
    assert again.dataset.manifest.counts.rejected["not_largest"] == 1
    assert verify(again.dataset).problems == []
    shards = [path.read_bytes() for path in again.dataset.shard_paths]
    assert shards == [path.read_bytes() for path in whole.dataset.shard_paths]


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


def altered(path: Path, column: str, value: str) -> None:
    """Give a column of a table another value in its first row; the file is as good as it was."""
    table = pq.read_table(path)
    values = [value, *table[column].to_pylist()[1:]]
    number = table.column_names.index(column)
    table = table.set_column(number, column, pa.array(values, pa.string()))
    path.unlink()
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


@pytest.mark.parametrize("name", ["images", "rejections"])
@pytest.mark.parametrize("reference", [FIRST, "again"])
def test_an_altered_table_is_believed_by_none(store: Store, reference: str, name: TableName) -> None:
    """A licence that nobody gave, in a table of any format that is written anew, is what no reader takes."""
    publishing(store, "again")
    dataset = open_dataset(store, reference)
    key, photo = (dataset.images()[0][column] for column in ("key", "photo_sha256"))
    refused = dataset.rejections()[0]["photo_sha256"]
    path = dataset.folder / f"{name}.parquet"
    altered(path, "license", "CC0-1.0")
    reads: list[Callable[[], object]] = [
        lambda: open_dataset(store, reference).table(name).read(["license"]),
        lambda: open_dataset(store, reference).table(name).rows(),
        lambda: crawled(open_dataset(store, reference), LicensesConfig()),
        lambda: find_rows(open_dataset(store, reference), name, {"photo": photo if name == "images" else refused}),
    ]  # fmt: skip
    if name == "images":
        reads.append(lambda: trace(store, reference))
    for other in store.path("datasets").glob("*/*/manifest.json"):
        if other.parent != dataset.folder:
            shutil.rmtree(other.parent)
    for of in (key, photo) if name == "images" else (refused,):
        reads.append(lambda of=of: trace(store, of))  # type: ignore[misc]
    for read in reads:
        with pytest.raises(IntegrityError, match=rf"^{path} no longer holds") as info:
            read()
        assert "\n" not in str(info.value)
    [problem, *_] = verify(open_dataset(store, reference)).problems
    assert problem.startswith(f"{path} no longer holds")


# --------------------------------------------------------------------------------------------------------------
# Records of other versions

RECORDS: dict[str, type[StoredRecord]] = {
    "datasets/golden/*/manifest.json": Manifest,
    "datasets/golden/builds/*.json": BuildRecord,
    "datasets/golden/latest.json": Latest,
    "runs/*/run.json": RunRecord,
    "runs/*/checkpoints/*/state.json": State,
    "runs/*/result.json": RunResult,
    "runs/*/audit/*.json": AuditRecord,
}


@pytest.mark.parametrize("pattern", RECORDS)
def test_records_are_written_as_they_were_read(store: Store, pattern: str) -> None:
    """A record of the golden store comes back with all its fields, and with one that this version does not know."""
    for path in store.root.glob(pattern):
        value = json.loads(path.read_bytes())
        record = RECORDS[pattern].read(path)
        written = json.loads(record.as_bytes())
        if isinstance(record, AuditRecord):  # format 1 named the sheet by an absolute path
            assert (record.format, record.sheet) == (2, f"audit/{path.stem}.png")
            assert (path.parents[1] / record.sheet).is_file()
            written = {**written, "sheet": value["sheet"]}
            del written["format"]
        assert written == value
        path.write_text(json.dumps({**value, "mood": {"of": "tomorrow"}}))
        assert RECORDS[pattern].read(path).as_json()["mood"] == {"of": "tomorrow"}


def test_a_manifest_is_written_to_the_byte(store: Store) -> None:
    """The bytes that decide a version are those of a manifest that is read and written again."""
    for reference in (FIRST, SECOND, WEB):
        dataset = open_dataset(store, reference)
        assert dataset.manifest.as_bytes() == dataset.manifest_bytes


def of_format(path: Path, number: int) -> Path:
    """Give a record another format."""
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "format": number}))
    return path


def test_a_newer_format_is_one_sentence(store: Store, run: Run) -> None:
    """Whoever reads a record of a newer format, of whichever kind, says which file it is and what to do."""
    checkpoint = run.newest_checkpoint()
    metrics = run.folder / "metrics" / f"{checkpoint.name}.json"
    values = json.loads(metrics.read_bytes())
    fd = {**values["fd_efficientnet_lite0"], "format": 8}
    dataset = open_dataset(store, FIRST)
    manifest = json.dumps({**dataset.manifest.as_json(), "format": 9}).encode()
    newer = Dataset(store, "golden", bytes_digest(manifest)[:16])
    shutil.copytree(dataset.folder, newer.folder)
    (newer.folder / "manifest.json").write_bytes(manifest)
    [build] = store.path("datasets/golden-web/builds").iterdir()
    reads: dict[Path, tuple[int, Callable[[], object]]] = {
        newer.folder / "manifest.json": (9, lambda: verify(open_dataset(store, newer.reference))),
        of_format(checkpoint / "state.json", 3): (3, lambda: open_trained(checkpoint, CPU)),
        of_format(build, 4): (4, lambda: recuration(store, "golden-web", BuildConfig())),
        of_format(store.path("datasets/golden/latest.json"), 5): (5, lambda: open_dataset(store, "golden")),
        metrics: (8, lambda: record_metrics(run, checkpoint, {})),
        of_format(run.folder / "run.json", 6): (6, lambda: trace(store, run.id)),
    }
    metrics.write_text(json.dumps({**values, "fd_efficientnet_lite0": fd}))
    for path, (number, read) in reads.items():
        with pytest.raises(FormatError) as info:
            read()
        newest = 2 if path.name == "manifest.json" else 1
        asked = (
            f"{path} has format {number}, and this version of likeness reads up to {newest}: use a newer one"
        )
        assert str(info.value).removeprefix("fd_efficientnet_lite0 in ") == asked


@pytest.mark.parametrize(
    "pattern", ["datasets/*/*/images.parquet", "chunks/align/*/*.parquet", "chunks/crawl/*/*.parquet"]
)
def test_a_newer_table_is_one_sentence(store: Store, pattern: str) -> None:
    """A version's table or a chunk says its format, and one of a newer format is named; an older one says none."""
    path = next(store.root.glob(pattern))
    key = str(path.relative_to(store.root))
    table, rows = pq.read_table(path), get_table(store, key, [])
    put_table(store, key, rows, table.schema)
    assert pq.read_schema(path).metadata[FORMAT_KEY] == b"1"
    assert get_table(store, key, table.schema.names) == rows
    pq.write_table(table.replace_schema_metadata({FORMAT_KEY: b"7"}), path)
    with pytest.raises(FormatError, match=rf"{path} has format 7, and .* reads up to 1: use a newer one"):
        get_table(store, key, [])


@pytest.mark.parametrize("pattern", RECORDS)
def test_a_damaged_record_is_one_sentence(store: Store, pattern: str) -> None:
    """A record that is cut, empty, of another kind or without a field is named, and so is what is wrong with it."""
    path = next(store.root.glob(pattern))
    whole = path.read_bytes()
    field = next(name for name, field in RECORDS[pattern].model_fields.items() if field.is_required())
    without = {name: value for name, value in json.loads(whole).items() if name != field}
    damages = {
        whole[: len(whole) // 2]: "cannot be read as JSON",
        b"": "cannot be read as JSON",
        b"\xff\xfe": "cannot be read as JSON",
        b"[" * 100_000: "cannot be read as JSON",
        b"[]": "is no JSON object",
        b'{"format": "new"}': "its format is 'new'",
        json.dumps(without).encode(): f"it lacks {field}",
        json.dumps({**without, field: None}).encode(): f"{field}: Input should be",
    }
    for data, message in damages.items():
        path.write_bytes(data)
        with pytest.raises(IntegrityError) as info:
            RECORDS[pattern].read(path)
        assert str(info.value).startswith(f"{path} is damaged: ")
        assert message in str(info.value)
        assert "\n" not in str(info.value)


def of_tomorrow(store: Store) -> Dataset:
    """The fetched pictures as another version of likeness may have left them.

    It measured a score and gave reasons that this one does not know, and its build had a setting more and one less.
    """
    web = open_dataset(store, WEB)
    [build] = web.builds()
    images, rejections = web.images(), web.rejections()
    [bruno] = [row for row in open_dataset(store, FIRST).images() if row["ref"] == "bruno.webp"]
    common = dict.fromkeys(rejections[0])
    rejections += [
        {**common, "ref": "http://127.0.0.1:8765/asked.jpg", "reason": "asked_not_to"},
        {**common, "ref": "http://127.0.0.1:8765/bruno.webp", "reason": "withdrawn",
         "photo_sha256": bruno["photo_sha256"], "detail": "by its author"},
    ]  # fmt: skip
    schemas = [pq.read_schema(web.folder / f"{name}.parquet") for name in ("images", "rejections")]
    with_smile = schemas[0].append(pa.field("smile", pa.float64()))
    dataset = publish(
        store, "tomorrow",
        settings={"resolution": 32, "source": web.manifest.source, "config": web.manifest.config, "mood": "fine"},
        images=[table_of(({**row, "smile": 0.5} for row in images), with_smile)], image_schema=with_smile,
        rejections=[table_of(rejections, schemas[1])], rejection_schema=schemas[1],
        shards=[{**shard.as_json(), "object": f"{web.key}/{shard.file}"} for shard in web.manifest.shards],
        num_photos=web.manifest.counts.photos + 2,
    )  # fmt: skip
    config = {name: value for name, value in build.config.items() if name != "shard"}
    config["detect"] = {**config["detect"], "patience": 3}
    record_build(
        dataset, {"config": {**config, "mood": "fine"}, "facts": {"weather": "rain"}}, datetime.now(UTC)
    )
    return dataset


def test_what_is_not_known_survives(store: Store, cluster: str, caplog: pytest.LogCaptureFixture) -> None:
    """Reasons, scores and settings of another version are read, verified, traced, curated; what is left out is told."""
    dataset = open_dataset(store, of_tomorrow(store).name)
    assert verify(dataset).problems == []
    assert [row["smile"] for row in dataset.images()] == [0.5, 0.5]
    assert dataset.manifest.as_json()["mood"] == "fine"
    assert dataset.builds()[0].facts.as_json() == {"weather": "rain"}
    [refused] = trace(store, "http://127.0.0.1:8765/asked.jpg").rejections
    assert refused["reason"] == "asked_not_to"

    of, config = recuration(store, "tomorrow", BuildConfig.model_validate({"curate": {"faces": "largest"}}))
    assert "does not know and ignores: detect.patience, mood" in caplog.text
    assert config.shard == BuildConfig().shard
    again = recurate(of, config, BuildOptions(store=store.root, scheduler=cluster), run_with(silent))
    reasons = {row["ref"].rpartition("/")[2]: row["reason"] for row in again.dataset.rejections()}
    assert (reasons["asked.jpg"], reasons["bruno.webp"]) == ("asked_not_to", "withdrawn")
    assert again.dataset.manifest.counts.rejected["withdrawn"] == 1
    assert "another version" in (again.report.parent / "withdrawn.html").read_text()
    assert "withdrawn" in again.report.read_text()


def test_a_run_of_another_version_is_drawn_and_not_trained(
    golden: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A setting that this version does not know is ignored where pictures are drawn, and never where a run goes on."""
    for path in (run.folder / "run.json", run.newest_checkpoint() / "state.json"):
        value = json.loads(path.read_bytes())
        del value["config"]["keep_best"]
        config = {**value["config"], "mood": "fine"}
        path.write_text(json.dumps({**value, "config": config, "config_sha256": json_digest(config)}))
    generate_grid(open_trained(run.newest_checkpoint(), CPU), range(4), golden / "again.png", [0.7])
    assert caplog.text.count("ignores: mood") == 1
    with pytest.raises(ConfigError, match=f"run {run.id} has settings .* does not know: mood"):
        train_folder(run.folder, "none")


# --------------------------------------------------------------------------------------------------------------
# Kills


class Killed(BaseException):
    """No code of ours catches it."""


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> bool:
    """Whether the process that does `work` dies before its file or folder of that number has its name.

    What it had written lies where a kill leaves it.
    """
    written, replace = 0, os.replace

    def counted(source: Path, target: Path) -> None:
        nonlocal written
        written += 1
        if written == number:
            replace(source, Path(source).with_name(".left.partial"))
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted)
        try:
            work()
        except Killed:
            return True
    return False


def all_is_accepted(store: Store) -> None:
    """Every reader takes everything that the store says it has."""
    for name in dataset_names(store):
        assert open_dataset(store, name).builds()
    for path in store.path("datasets").glob("*/*/manifest.json"):
        dataset = Dataset(store, path.parents[1].name, path.parent.name)
        assert verify(dataset).problems == []
        trace(store, str(dataset.folder))
    assert trace(store, ANNA).images
    for run in list_runs(store):
        trace(store, run.id)
        best_checkpoint(run, "fd_efficientnet_lite0")
        for checkpoint in run.checkpoints():
            trace(store, str(checkpoint))
            load_generator(checkpoint, CPU)
            recorded_metrics(run, checkpoint)
        for grid in run.grids_dir.glob("*.png"):
            trace(store, str(grid))
        if run.result_path.exists():
            assert run.result.num_images
        if run.checkpoints():
            config = TrainConfig.model_validate(run.record.config)
            Training.begin(config, CPU).load(run.newest_checkpoint())
            forget_later_stats(run.stats_path, 96)


def publishing(store: Store, name: str) -> None:
    """Publish what the golden store holds under a name, and put the build on record."""
    dataset = open_dataset(store, FIRST)
    images, rejections = (dataset.table(name).read() for name in COLUMNS_OF)
    manifest = dataset.manifest
    shards = []
    for shard in manifest.shards:
        [packed] = [
            path for path in store.path("chunks/shard").glob("*.tar") if file_digest(path) == shard.sha256
        ]
        shards.append({**shard.as_json(), "object": f"chunks/shard/{packed.name}"})
    again = publish(
        store, name,
        settings={"resolution": 32, "source": manifest.source, "config": manifest.config},
        images=[images], image_schema=images.schema, rejections=[rejections], rejection_schema=rejections.schema,
        shards=shards, num_photos=manifest.counts.photos,
    )  # fmt: skip
    assert again.images() == dataset.images()
    record_build(again, {"facts": {}}, datetime.now(UTC))


def snapshotting(run: Run) -> None:
    """Write a checkpoint of the run, where only one may stay, and its end."""
    config = TrainConfig.model_validate({**run.record.config, "keep_checkpoints": 1})
    training = Training.begin(config, CPU)
    training.load(run.newest_checkpoint())
    training.num_images += 8
    write_snapshot(run, training, Tracker())
    write_result(run, training, stopped=True)


def measuring(run: Run) -> None:
    """Put a metric of the newest checkpoint on record."""
    record_metrics(run, run.newest_checkpoint(), {"fid": MetricRecord.new(value=1.0)})


WORK: dict[str, tuple[int, Callable[[Store], object]]] = {
    "a new dataset": (11, lambda store: publishing(store, "other")),
    "a dataset again": (11, lambda store: publishing(store, "golden")),
    "a new run": (
        1,
        lambda store: create_run(store, open_dataset(store, FIRST).summary(), {"preset": "smoke"}),
    ),
    "a snapshot": (5, lambda store: snapshotting(list_runs(store)[0])),
    "a resumption": (1, lambda store: forget_later_stats(list_runs(store)[0].stats_path, 64)),
    "metrics": (1, lambda store: measuring(list_runs(store)[0])),
}


@pytest.mark.parametrize("what", WORK)
def test_a_kill_between_two_writes_leaves_what_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whichever of its files a process dies at, all that is in the store then is read, and the work can be done."""
    num_written, work = WORK[what]
    for number in count(1):
        store = Store(shutil.copytree(GOLDEN / "store", tmp_path / str(number)))
        was_killed = killed_at(number, monkeypatch, partial(work, store))
        all_is_accepted(store)
        if not was_killed:
            break
        work(store)
    assert number == num_written + 1
