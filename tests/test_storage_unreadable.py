"""Stores that were damaged, or made by somebody else: one sentence, and nothing is read or written outside."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from commands import likeness
from golden_store import publishing
from storage.datasets.dataset import Dataset, dataset_names, latest_version, open_dataset
from storage.datasets.manifest import record_build
from storage.datasets.records import Latest
from storage.datasets.verify import verify
from storage.digest import bytes_digest, json_digest
from storage.errors import IntegrityError, NotFoundError, PipelineError
from storage.lineage.trace import trace
from storage.runs import Run, find_run
from storage.shards import Entry, read_entry, read_index
from storage.store import Store, original_key

GOLDEN = Path(__file__).with_name("data") / "golden"
FIRST, SECOND = "golden@71485f1fada17d95", "golden@74bfd02313603afd"
ANNA = "850566706e68108318011694a9031afc5fb5ffe40cac018b31713ec9bc3ce293"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The golden store."""
    return Store(shutil.copytree(GOLDEN / "store", tmp_path / "store"))


def only(paths: Any) -> Path:
    """The one path that there is."""
    [path] = paths
    return Path(path)


# --------------------------------------------------------------------------------------------------------------
# One record that cannot be read

UNREADABLE: dict[str, tuple[str, bytes]] = {
    "a run, by a power cut": ("runs/*/run.json", b""),
    "a run of a newer version": ("runs/*/run.json", b'{"format": 9}'),
    "a build": ("datasets/golden/builds/*-6d3f.json", b'{"build_id": 7'),
    "a manifest": ("datasets/golden/71485f1fada17d95/manifest.json", b"{}"),
    "a table": ("datasets/golden/71485f1fada17d95/images.parquet", b"PAR1"),
    "the latest": ("datasets/golden/latest.json", b'{"vers'),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_one_bad_record_ends_no_other_trace(
    store: Store, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """What is traced in the rest of the store is told, and the record that could not be read is named."""
    pattern, data = UNREADABLE[what]
    path = only(store.root.glob(pattern))
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        chain = trace(store, ANNA)
        trace(store, SECOND)
        trace(store, "golden-web")
    found = {step.facts["reference"] for step in chain.steps}
    assert found >= {SECOND, "golden-web@b440bae92356680e"}
    assert (FIRST in found) is (what not in ("a manifest", "a table"))
    if what not in ("a build", "the latest"):
        assert str(path) in caplog.text
        assert caplog.text.count(f"{path} ") <= 3, "once a trace is enough"


def test_what_only_a_bad_version_could_tell_is_an_error(store: Store) -> None:
    """Where all that can be read holds no such photograph, the version that cannot be is the answer."""
    for other in ("golden/74bfd02313603afd", "golden-web"):
        shutil.rmtree(store.path(f"datasets/{other}"))
    path = store.path("datasets/golden/71485f1fada17d95/manifest.json")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=rf"{path} no longer has the sha256 of its version"):
        trace(store, ANNA)


def test_builds_are_read_but_for_those_that_cannot_be(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged record of a build is named; one that is the only one is the error of whoever needs it."""
    first, second = sorted(store.path("datasets/golden/builds").iterdir())
    first.write_bytes(b"")
    assert [build.version for build in open_dataset(store, SECOND).builds()] == [SECOND.partition("@")[2]]
    assert f"{first} is damaged" in caplog.text
    second.write_bytes(b"")
    with pytest.raises(IntegrityError, match=f"{first} is damaged"):
        open_dataset(store, SECOND).builds()


# --------------------------------------------------------------------------------------------------------------
# Which version a name means


@pytest.mark.parametrize("harm", [b"", b'{"version": "74bfd0231', b'{"version": "../../up"}', None])
def test_a_pointer_is_mended(store: Store, caplog: pytest.LogCaptureFixture, harm: bytes | None) -> None:
    """Where latest.json is cut short, foreign or gone, the build that was asked for last says what it held."""
    path = store.path("datasets/golden/latest.json")
    path.unlink() if harm is None else path.write_bytes(harm)
    assert dataset_names(store) == ["golden", "golden-web"]
    assert open_dataset(store, "golden").reference == SECOND
    assert f"{path} is " in caplog.text
    caplog.clear()
    assert open_dataset(store, "golden").reference == SECOND
    assert caplog.text == ""
    assert Latest.read(path).version == SECOND.partition("@")[2]


def test_a_pointer_without_builds_is_not_guessed(store: Store) -> None:
    """Where no build says which it was, a damaged pointer stays an error, and versions can be named."""
    shutil.rmtree(store.path("datasets/golden/builds"))
    path = store.path("datasets/golden/latest.json")
    path.write_bytes(b"")
    with pytest.raises(IntegrityError, match=f"{path} is damaged"):
        open_dataset(store, "golden")
    assert open_dataset(store, FIRST).reference == FIRST


def test_what_was_asked_last_is_the_latest(store: Store) -> None:
    """Of two builds of a name the one that was asked for later has it, whichever ends first, and it is said."""
    asked = datetime.now(UTC) - timedelta(seconds=60)
    early, late = open_dataset(store, FIRST), open_dataset(store, SECOND)
    first = record_build(late, {"facts": {}}, asked + timedelta(microseconds=1))
    assert latest_version(store, "golden") == late.version
    second = record_build(early, {"facts": {}}, asked)
    assert latest_version(store, "golden") == late.version
    assert (first.overtaken_by, second.overtaken_by) == (None, first.build_id)
    assert second.previous_version == late.version
    third = record_build(early, {"facts": {}}, asked + timedelta(seconds=1))
    assert latest_version(store, "golden") == early.version
    assert third.overtaken_by is None
    os.remove(store.path("datasets/golden/latest.json"))
    assert latest_version(store, "golden") == early.version


def test_a_clock_that_was_wrong_holds_no_name(store: Store) -> None:
    """A build that says it was asked for tomorrow has the name until the next one ends."""
    early, late = open_dataset(store, FIRST), open_dataset(store, SECOND)
    record_build(late, {"facts": {}}, datetime.now(UTC) + timedelta(days=1))
    record_build(early, {"facts": {}}, datetime.now(UTC))
    assert latest_version(store, "golden") == early.version


# --------------------------------------------------------------------------------------------------------------
# Stores of somebody else


def resealed(store: Store, change: Callable[[dict[str, Any]], object]) -> Dataset:
    """A version whose manifest was changed by somebody who knows how versions are named."""
    dataset = open_dataset(store, FIRST)
    value = json.loads(dataset.manifest_bytes)
    change(value)
    data = json.dumps(value).encode()
    folder = store.path(f"datasets/golden/{bytes_digest(data)[:16]}")
    shutil.copytree(dataset.folder, folder)
    (folder / "manifest.json").write_bytes(data)
    return Dataset(store, "golden", folder.name)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda value: value["images"].update(file="../../../../outside.parquet"), "images.file"),
        (lambda value: value["rejections"].update(file="/etc/passwd"), "rejections.file"),
        (lambda value: value["shards"][0].update(file="shards/../../../x.tar"), "shards.0.file"),
        (lambda value: value["shards"][0].update(file="shards/\0.tar"), "shards.0.file"),
        (lambda value: value["shards"][0].update(index_sha256=None), "shards.0.index_sha256"),
        (lambda value: value["shards"][0].update(sha256="../up"), "shards.0.sha256"),
        (lambda value: value["images"].update(parts="../parts.json"), "images.parts"),
        (lambda value: value["images"].pop("sha256"), "images: it has no sha256"),
        (lambda value: value.update(shards={}), "shards"),
        (lambda value: value.update(resolution="big"), "resolution"),
    ],
)
def test_a_hostile_manifest_is_one_sentence(
    store: Store, change: Callable[[dict[str, Any]], object], field: str
) -> None:
    """A name that leads outside, or a field of another kind, is refused before anything it names is opened."""
    dataset = resealed(store, change)
    for read in (
        lambda: dataset.table("images"),
        lambda: dataset.shard_paths,
        lambda: trace(store, dataset.reference),
    ):
        with pytest.raises(IntegrityError) as info:
            read()
        assert str(info.value).startswith(f"{dataset.folder / 'manifest.json'} is damaged: {field}")
        assert "\n" not in str(info.value)
    [problem] = verify(dataset).problems
    assert field in problem


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "../a.png", "offset": 0, "size": 1, "sha256": "0" * 64},
        {"name": "a.png", "offset": -1, "size": 1, "sha256": "0" * 64},
        {"name": "a.png", "offset": 0, "size": "many", "sha256": "0" * 64},
        {"name": "a.png", "offset": 0, "size": 1, "sha256": "none"},
        {"name": "a.png", "offset": 0, "size": 1},
        7,
    ],
)
def test_a_hostile_index_is_one_sentence(entry: object) -> None:
    """An index whose entries are not entries is refused as a whole."""
    data = json.dumps({"sha256": "0" * 64, "entries": [entry]}).encode()
    with pytest.raises(IntegrityError, match="a shard's index is damaged: ") as info:
        read_index(data)
    assert "\n" not in str(info.value)


def test_an_entry_beyond_its_tar_takes_no_memory(tmp_path: Path) -> None:
    """A size that no file has is refused before so much is asked for."""
    path = tmp_path / "a.tar"
    path.write_bytes(b"x" * 1024)
    with pytest.raises(IntegrityError, match=r"a\.png in .*a\.tar no longer has"):
        read_entry(path, Entry("a.png", 512, 1 << 60, "0" * 64))


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record on disk, its config's hash made to hold."""
    value = json.loads(path.read_bytes())
    change(value)
    if "config_sha256" in value:
        value["config_sha256"] = json_digest(value["config"])
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda value: value["dataset"].update(name="../golden"), "dataset.name"),
        (lambda value: value["dataset"].update(version="../../../etc"), "dataset.version"),
        (lambda value: value["dataset"].update(directory="/etc"), "dataset.directory"),
        (lambda value: value["dataset"].update(shards=["../x"]), "dataset.shards.0"),
        (lambda value: value["dataset"].update(manifest_sha256="short"), "dataset.manifest_sha256"),
        (lambda value: value.update(config=[]), "config"),
        (lambda value: value.update(facts="none"), "facts"),
    ],
)
def test_a_hostile_run_is_one_sentence(
    store: Store, change: Callable[[dict[str, Any]], object], field: str
) -> None:
    """A run whose record leads outside is named, and so is the field."""
    path = only(store.root.glob("runs/*/run.json"))
    run_id = path.parent.name
    rewritten(path, change)
    with pytest.raises(IntegrityError, match=f"{path} is damaged: {field}"):
        trace(store, run_id)


def test_a_run_of_another_version_than_it_says_is_refused(store: Store) -> None:
    """A run whose dataset was swapped for another, or is gone, is not traced as if nothing were."""
    path = only(store.root.glob("runs/*/run.json"))
    rewritten(path, lambda value: value["dataset"].update(version=SECOND.partition("@")[2]))
    with pytest.raises(IntegrityError, match=r"manifest\.json is not the version that run .* was trained on"):
        trace(store, path.parent.name)
    rewritten(path, lambda value: value["dataset"].update(version="0" * 16))
    with pytest.raises(NotFoundError, match="was trained on golden@0000000000000000, which is not in"):
        trace(store, path.parent.name)


def test_a_hostile_checkpoint_is_one_sentence(store: Store) -> None:
    """A checkpoint names files beside it, and no others."""
    path = only(store.root.glob("runs/*/checkpoints/000000096/state.json"))
    rewritten(path, lambda value: value["sha256"].update({"../../run.json": "0" * 64}))
    with pytest.raises(IntegrityError, match=f"{path} is damaged: sha256"):
        trace(store, str(path.parent))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no JSON object"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"run_id": "/etc"}', "run_id"),
        ('{"run_id": "../elsewhere", "checkpoint": "000000096"}', "run_id"),
        ('{"run_id": "a", "checkpoint": "../../.."}', "checkpoint"),
        ('{"run_id": "a", "generator_sha256": 7}', "generator_sha256"),
        ('{"seeds": [1]}', "does not say by which run and checkpoint"),
    ],
)
def test_a_hostile_picture_is_one_sentence(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """A picture's text leads to runs of the store, by their names, and nowhere else."""
    path = tmp_path / "grid.png"
    said = PngImagePlugin.PngInfo()
    said.add_text("likeness", text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=said)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IntegrityError) as info:
        trace(store, str(path))
    assert str(path) in str(info.value)
    assert message in str(info.value)
    assert len(str(info.value)) < 400


def test_a_picture_leads_to_no_run_outside(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that lies in the working folder, and not in the store, is not the one that a picture names."""
    shutil.copytree(only(store.root.glob("runs/*")), tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert find_run(store, "mine").folder == tmp_path / "mine"
    said = PngImagePlugin.PngInfo()
    said.add_text("likeness", json.dumps({"run_id": "mine", "checkpoint": "000000096"}))
    Image.new("RGB", (4, 4)).save("grid.png", pnginfo=said)
    with pytest.raises(NotFoundError, match="no training run 'mine'"):
        trace(store, "grid.png")


LINKED = (
    "datasets/golden/71485f1fada17d95/images.parquet", "datasets/golden/71485f1fada17d95/manifest.json",
    "datasets/golden/71485f1fada17d95", "datasets", "datasets/golden/71485f1fada17d95/shards",
)  # fmt: skip


@pytest.mark.parametrize("linked", LINKED)
def test_no_link_leads_out(store: Store, tmp_path: Path, linked: str) -> None:
    """What lies outside is not read through a link in the store, intact though it be."""
    path, outside = store.path(linked), tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)

    def read() -> list[Path]:
        dataset = open_dataset(store, FIRST)
        dataset.images()
        return dataset.shard_paths

    with pytest.raises(IntegrityError, match=rf"{path} leads out of the store"):
        read()


def test_nothing_is_written_through_a_link(store: Store, tmp_path: Path) -> None:
    """A name that is a link out of the store is not written to, nor is what it leads to."""
    outside = tmp_path / "outside"
    outside.write_text("mine")
    path = store.path("datasets/golden/latest.json")
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(IntegrityError, match=rf"{path} leads out of the store"):
        record_build(open_dataset(store, FIRST), {"facts": {}}, datetime.now(UTC))
    with pytest.raises(IntegrityError, match="leads out of the store"):
        store.put("a/../../b", b"")
    assert outside.read_text() == "mine"
    assert not (tmp_path / "b").exists()


def test_a_link_within_the_store_is_followed(store: Store) -> None:
    """A folder that was moved within the store and linked to is read as ever."""
    moved = store.path("elsewhere")
    shutil.move(store.path("datasets"), moved)
    store.path("datasets").symlink_to(moved)
    assert verify(open_dataset(store, FIRST)).problems == []


@pytest.mark.parametrize("victim", ["runs/*/run.json", "datasets/golden/latest.json"])
def test_a_pipe_is_not_waited_for(store: Store, victim: str) -> None:
    """A record that is a named pipe, which nobody writes to, is no file."""
    path = only(store.root.glob(victim))
    path.unlink()
    os.mkfifo(path)
    shutil.rmtree(store.path("datasets/golden/builds"))
    run = Run(only(store.root.glob("runs/*")))

    def read() -> object:
        return run.record if "runs" in victim else open_dataset(store, "golden")

    with pytest.raises(PipelineError, match="cannot be read: it is no file"):
        read()


@pytest.mark.parametrize("sha256", ["../../../etc/passwd", "0" * 63, "G" * 64, ""])
def test_a_photograph_goes_by_its_sha256_alone(sha256: str) -> None:
    """What a table calls a photograph's sha256 is no path."""
    with pytest.raises(IntegrityError, match="is no sha256 of a photograph"):
        original_key(sha256)


@pytest.mark.parametrize(
    "key", ["forgets/20260101-000000-abcd/intent.json", "datasets/golden/rechecks/x.json"]
)
def test_verify_goes_on_behind_a_damaged_record(
    store: Store, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """A request to forget or a recheck that cannot be read is a problem that names its file, as any other."""
    store.put(key, b'{"a": 1}' if "intent" in key else b"{")
    status, out, _ = likeness(capsys, "verify", "--all", "--store", store.root)
    assert status == 1
    assert f"{store.path(key)} is damaged" in out


def test_a_damaged_record_is_no_wrong_option(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence about a record that lacks its fields names its file, and no option."""
    key = "forgets/20260101-000000-abcd/intent.json"
    store.put(key, b'{"a": 1}')
    status, _, err = likeness(capsys, "forget", "--url", "anna.jpg", "--store", store.root)
    assert (status, str(store.path(key)) in err, "--" in err) == (1, True, False), err


@pytest.mark.parametrize("harm", [os.mkfifo, Path.mkdir, lambda path: None])
def test_a_tar_that_is_no_file_is_one_sentence(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """An image of a tar that is a pipe, a folder, or not there is an error that names it, and nothing is waited for."""
    path = tmp_path / "a.tar"
    harm(path)
    with pytest.raises(IntegrityError, match=str(path)):
        read_entry(path, Entry("a.png", 0, 5, "0" * 64))


def test_a_table_of_other_kinds_is_one_sentence(store: Store) -> None:
    """A column of a kind that no table of ours has, and a column twice, are damage that names the file."""
    publishing(store, "today")
    dataset = open_dataset(store, "today")
    path = dataset.folder / "images.parquet"
    table = pq.read_table(path)
    authors = pa.array([b"\xff"] * table.num_rows)
    for other in (
        table.set_column(table.column_names.index("author"), "author", authors),
        table.append_column("author", table["title"]),
    ):
        path.unlink()
        pq.write_table(other, path)
        problems = verify(Dataset(store, dataset.name, dataset.version)).problems
        assert any(str(path) in problem for problem in problems), problems
        with pytest.raises(IntegrityError, match=str(path)):
            Dataset(store, dataset.name, dataset.version).images()


@pytest.mark.parametrize("name", [b"two\nlines", b"\xff\xfe"])
def test_a_name_that_no_store_has_is_one_sentence(
    store: Store, capsys: pytest.CaptureFixture[str], name: bytes
) -> None:
    """A file whose name is no text, or two lines, is told in a sentence that says where it is."""
    odd = os.fsencode(store.path("originals/ab")) + b"/" + name
    os.makedirs(os.path.dirname(odd), exist_ok=True)
    with open(odd, "wb"):
        pass
    for command in (("verify", "--all"), ("gc",), ("repair", "--all")):
        status, out, err = likeness(capsys, *command, "--store", store.root)
        assert (status, err.count("\n")) == (1, 1), err
        lines = [
            line for line in (*out.splitlines(), *err.splitlines()) if str(store.path("originals")) in line
        ]
        assert lines, (out, err)
        assert lines == [line for line in out.splitlines() or err.splitlines() if line]
