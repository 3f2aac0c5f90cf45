"""The golden store's records and tables: written as read, and one sentence where newer, damaged or altered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.build import run_with
from flows.options import BuildOptions
from flows.recurate import crawled, recurate, recuration
from golden_store import (
    CPU,
    FIRST,
    SECOND,
    WEB,
    golden,
    publishing,
    run,
    silent,
    store,
)
from preprocessing.config import BuildConfig
from preprocessing.sources.licenses import LicensesConfig
from storage.datasets.dataset import Dataset, TableName, open_dataset
from storage.datasets.lookup import find_rows
from storage.datasets.manifest import publish, record_build
from storage.datasets.records import BuildRecord, Latest, Manifest
from storage.datasets.verify import verify
from storage.digest import bytes_digest, json_digest
from storage.errors import ConfigError, FormatError, IntegrityError
from storage.lineage.trace import trace
from storage.records import StoredRecord
from storage.runs import (
    Run,
    RunRecord,
    RunResult,
    record_metrics,
)
from storage.store import Store
from storage.tables import FORMAT_KEY, get_table, put_table, table_of
from training.checkpoint import State
from training.drawing.pictures import generate_grid
from training.drawing.trained import open_trained
from training.metrics.audit import AuditRecord
from training.process import train_folder

__all__ = ["golden", "run", "store"]  # fixtures


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
        newer.folder / "manifest.json": (9, lambda: newer.manifest),
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
        newest = 3 if path.name == "manifest.json" else 1
        asked = (
            f"{path} has format {number}, and this version of likeness reads up to {newest}: use a newer one"
        )
        assert str(info.value).removeprefix("fd_efficientnet_lite0 in ") == asked
    [problem] = verify(Dataset(store, newer.name, newer.version)).problems
    assert problem.startswith(
        f"{newer.folder / 'manifest.json'} has format 9, and this version of likeness reads"
    )


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
