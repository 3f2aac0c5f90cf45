"""flows.cli.train: a run that goes on does what was asked, or says why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from commands import full_disk, likeness
from storage.digest import json_digest
from storage.runs import Run, RunRecord, find_run
from storage.store import Store
from training.checkpoint import read_state
from training.config import CHANGEABLE

SETTINGS = [
    "--resolution", "8", "--channel-base", "64", "--max-channels", "8", "--z-dim", "8", "--w-dim", "8",
    "--mapping-layers", "2", "--batch-size", "8", "--snapshot-kimg", "0.048", "--tick-kimg", "0.024", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a small dataset."""
    root = tmp_path_factory.mktemp("store")
    tiny_run.tiny_dataset(Store(root), tiny_run.noise_images(6, 8))
    return root


def train(capsys: pytest.CaptureFixture[str], store: Path, *arguments: str) -> dict[str, Any]:
    """What `likeness train` says of a training that ends well."""
    words = ["train", *arguments, "--store", str(store), "--tracking-uri", "none", "--json"]
    status, out, err = likeness(capsys, *words)
    assert status == 0, err
    said: dict[str, Any] = json.loads(out)
    return said


def refused(capsys: pytest.CaptureFixture[str], store: Path, *arguments: str) -> str:
    """The one line that `likeness train` fails with."""
    status, out, err = likeness(capsys, "train", *arguments, "--store", str(store))
    assert (status, out, len(err.splitlines())) == (1, "", 1), err
    return err


def prepared(capsys: pytest.CaptureFixture[str], store: Path, *arguments: str) -> Run:
    """A run that has not begun."""
    said = train(capsys, store, "faces", *SETTINGS, "--prepare", *arguments)
    return find_run(Store(store), said["run"])


@pytest.mark.usefixtures("trained_here")
def test_a_run_extended_is_the_run_that_was_longer(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    """96 images and then on to 192 end in the bytes of 192 at once, and the record says when it became that."""
    longer = train(capsys, store, "faces", *SETTINGS, "--total-kimg", "0.192")
    first = train(capsys, store, "faces", *SETTINGS, "--total-kimg", "0.096")
    on = train(capsys, store, "--resume", first["run"], "--total-kimg", "0.192", "--keep-checkpoints", "2")
    assert (on["kimg"], on["stopped"]) == (0.192, False)
    ends = [read_state(Path(said["checkpoint"])) for said in (on, longer)]
    assert ends[0].sha256 == ends[1].sha256
    record = find_run(Store(store), first["run"]).record
    [change] = record.changes
    assert (change.num_images, change.config) == (96, {"total_kimg": 0.192, "keep_checkpoints": 2})
    assert change.config_sha256 == json_digest({**record.config, **change.config}) != record.config_sha256
    assert record.config["total_kimg"] == 0.096
    assert (record.config_now["total_kimg"], ends[0].config["total_kimg"]) == (0.192, 0.192)
    stats = [Path(said["checkpoint"]).parent.parent / "stats.jsonl" for said in (on, longer)]
    lines = [[json.loads(line)["loss_d"] for line in path.read_text().splitlines()] for path in stats]
    assert lines[0] == lines[1]


@pytest.mark.usefixtures("trained_here")
def test_a_finished_run_has_nothing_left_to_do(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    """It says so in one line, at once: no process is started, and nothing in the folder changes."""
    said = train(capsys, store, "faces", *SETTINGS, "--total-kimg", "0.016")
    run = find_run(Store(store), said["run"])
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"}
    status, out, err = likeness(capsys, "train", "--resume", run.id, "--store", str(store))
    assert (status, err) == (0, "")
    assert out == f"run {run.id}: nothing left to do of its 0.016 kimg; --total-kimg extends it\n"
    assert train(capsys, store, "--resume", run.id) == said
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"} == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seed", "1", "was begun with seed 0 and cannot go on with 1"),
        ("--preset", "face128", "was begun with "),
        ("--r1-gamma", "3", "was begun with r1_gamma 10.0 and cannot go on with 3.0"),
        (
            "--learning-rate",
            "0.1",
            'was begun with learning_rate {"4": 0.005} and cannot go on with {"4": 0.1}',
        ),
        ("--keep-best", "fd_efficientnet_lite0", "is not among the metrics measured during training"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_refused(
    capsys: pytest.CaptureFixture[str], store: Path, option: str, value: str, message: str
) -> None:
    """An option that would make another run of it is refused by name, and the record stays as it was."""
    run = prepared(capsys, store)
    record = (run.folder / "run.json").read_bytes()
    assert message in refused(capsys, store, "--resume", run.id, option, value)
    assert (run.folder / "run.json").read_bytes() == record


def test_an_option_that_is_the_default_counts(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    """What is given is applied though it is a preset's value; what is as it was changes nothing. A dry run shows it."""
    run = prepared(capsys, store, "--total-kimg", "5", "--seed", "3")
    dry = train(capsys, store, "--resume", run.id, "--total-kimg", "10", "--dry-run")
    assert (dry["config"]["total_kimg"], dry["config"]["seed"]) == (10.0, 3)
    assert find_run(Store(store), run.id).record.changes == []
    assert "begun with seed 3 and cannot go on with 0" in refused(
        capsys, store, "--resume", run.id, "--seed", "0"
    )
    dry = train(capsys, store, "faces", *SETTINGS, "--resume", run.id, "--seed", "3", "--dry-run")
    assert dry["config"] == run.record.config


@pytest.mark.usefixtures("trained_here")
def test_what_was_shown_cannot_be_taken_back(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    """A run shorter than what it has been shown is refused."""
    said = train(capsys, store, "faces", *SETTINGS, "--total-kimg", "0.04")
    line = refused(capsys, store, "--resume", said["run"], "--total-kimg", "0.02")
    assert f"total_kimg 0.02 is less than the 0.04 kimg that run {said['run']} has been shown" in line


@pytest.mark.usefixtures("trained_here")
def test_every_change_is_on_record(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    """Settings and processes that change stand in the record one after the other; `likeness trace` shows them."""
    run = prepared(capsys, store, "--total-kimg", "0.016")
    train(capsys, store, "--resume", run.id, "--processes", "2")
    train(capsys, store, "--resume", run.id, "--total-kimg", "0.032", "--processes", "2")
    train(capsys, store, "--resume", run.id, "--total-kimg", "0.048")
    record = find_run(Store(store), run.id).record
    assert [(c.num_images, c.config, c.processes) for c in record.changes] == [
        (0, {}, 2), (16, {"total_kimg": 0.032}, None), (32, {"total_kimg": 0.048}, 1),
    ]  # fmt: skip
    assert RunRecord.of_bytes(record.as_bytes(), "run.json") == record
    status, out, _ = likeness(capsys, "trace", run.id, "--store", str(store), "--json")
    assert status == 0
    assert '"total_kimg": 0.048' in out


def test_a_record_that_was_edited_is_refused(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    """A config by hand, as it was begun or of a change, is not the one that the record's hash is of."""
    run = prepared(capsys, store)
    path = run.folder / "run.json"
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "config": {**record["config"], "seed": 5}}))
    assert "its config is not the one that its config_sha256 is of" in refused(
        capsys, store, "--resume", run.id
    )
    change = {
        "changed_at": "now",
        "num_images": 0,
        "config": {"seed": 5},
        "config_sha256": record["config_sha256"],
    }
    path.write_text(json.dumps({**record, "changes": [change]}))
    assert "its config is not the one that its config_sha256 is of" in refused(
        capsys, store, "--resume", run.id
    )


def test_one_rate_and_one_batch_hold_everywhere(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    """A number alone is understood for all resolutions, whatever the preset says of some; a wrong one is refused."""
    words = ["--preset", "paper256", "--resolution", "8", "--learning-rate", "0.002", "--batch-size", "16"]
    config = train(capsys, store, "faces", *words, "--dry-run")["config"]
    assert (config["learning_rate"], config["batch_size"]) == ({"4": 0.002}, {"4": 16})
    line = refused(capsys, store, "faces", "--learning-rate", "2")
    assert "--learning-rate.4: Input should be less than or equal to 1" in line


def test_wrong_names_are_told_before_torch_is_loaded(store: Path) -> None:
    """A run or dataset that is not there is told at once, not after the seconds that torch takes to import."""
    dataset = tiny_run.tiny_dataset(Store(store), tiny_run.noise_images(6, 8))
    run = tiny_run.untrained(Store(store), dataset, resolution=8)
    (run.checkpoints_dir / "000000008").mkdir(parents=True)
    (run.checkpoints_dir / "000000008" / "state.json").write_text("{}")
    no_dataset, no_run = "no dataset 'nobody'", "no training run 'nobody'"
    messages = {
        "train nobody": no_dataset,
        "train --resume nobody": no_run,
        "train faces --init-from nobody": no_run,
        "generate nobody --out x.png": no_run,
        "figure mixing nobody --out x.png": no_run,
        "video nobody --out x.mp4": no_run,
        "project nobody photo.jpg --out x.png": no_run,
        "export nobody --out x.safetensors": no_run,
        "evaluate nobody --metrics fid": no_run,
        "audit nobody": no_run,
        f"audit {run.id} --held-out nobody": no_dataset,
    }
    code = (
        "import contextlib, io, json, sys\nfrom flows.cli.main import main\n"
        "for words in sys.argv[2:]:\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        try:\n            main([*words.split(), '--store', sys.argv[1]])\n"
        "        except SystemExit as end:\n            status = end.code\n"
        "    print(json.dumps([status, 'torch' in sys.modules, said.getvalue()]))"
    )
    words = [sys.executable, "-c", code, str(store), *messages]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    for line, (command, message) in zip(done.stdout.splitlines(), messages.items(), strict=True):
        status, has_torch, said = json.loads(line)
        assert (status, has_torch) == (1, False), command
        assert message in said, command


def test_a_full_disk_ends_training_in_one_sentence(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    """Where a checkpoint finds no room, one line names the run's folder and what goes on; no half of one stays."""
    run = prepared(capsys, store, "--total-kimg", "0.016")
    words = ["train", "--resume", run.id, "--store", str(store), "--tracking-uri", "none"]
    with full_disk(4000):
        status, out, err = likeness(capsys, *words)
    lines = [line for line in err.splitlines() if line.startswith("likeness: ")]
    said = f"likeness: training of {run.id} ended: there is no room left to write in {run.folder}, at 0"
    [line] = lines
    assert (status, line.startswith(said)) == (1, True), err
    assert f"once there is, likeness train --resume {run.id} --store {store} goes on" in line
    assert "Traceback" not in out + err
    assert not list(run.folder.rglob(".*.partial"))
    assert run.checkpoints() == []


def test_what_may_change_is_said_in_the_docs() -> None:
    """docs/config.md names each setting that a run may go on with another value of."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "config.md").read_text()
    section = text.partition("### Going on")[2].partition("\n### ")[0]
    assert all(f"`{name}`" in section for name in CHANGEABLE), section
