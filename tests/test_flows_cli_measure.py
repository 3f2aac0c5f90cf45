"""flows.cli.measure: the commands that measure a run, one JSON object for scripts, one sentence for errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny_run
from commands import likeness
from storage.digest import bytes_digest
from storage.runs import Run
from storage.store import Store
from training.metrics.settings import AuditConfig, EvaluateConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny trained run."""
    store = Store(tmp_path_factory.mktemp("store"))
    return tiny_run.trained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(12)), total_kimg=0.016)


def test_evaluate_by_id_and_by_checkpoint(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's id in its store and a checkpoint's folder measure the same; both forms of output have the number."""
    asked = ("--metrics", "fd_efficientnet_lite0, kid_efficientnet_lite0", "--images", "4", "--device", "cpu")
    status, out, err = likeness(capsys, "evaluate", run.id, "--store", str(run.store.root), *asked, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert (found["run"], found["checkpoint"]) == (run.id, run.newest_checkpoint().name)
    value = found["metrics"]["fd_efficientnet_lite0"]["value"]
    status, out, _ = likeness(capsys, "evaluate", str(run.newest_checkpoint()), *asked)
    assert status == 0
    assert f"fd_efficientnet_lite0: {value:.6g}  (4 generated, 12 real" in out


def test_a_dry_run_prints_the_whole_config(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run checks the checkpoint, the extractors and the held-out dataset, and prints every setting."""
    before = sorted(run.folder.rglob("*"))
    sha256 = "0" * 64
    words = ("--weights-sha256.weights-a.pth", sha256, "--batch-size", "5", "--dry-run", "--json")
    asked = ("evaluate", str(run.folder), "--metrics", "fd_efficientnet_lite0", "--reals", "9", *words)
    status, out, err = likeness(capsys, *asked)
    assert (status, err) == (0, "")
    config = EvaluateConfig(
        metrics=("fd_efficientnet_lite0",),
        num_reals=9,
        batch_size=5,
        weights_sha256={"weights-a.pth": sha256},
    )
    said = json.loads(out)
    assert (said["run"], said["checkpoint"]) == (run.id, run.newest_checkpoint().name)
    assert said["config"] == config.model_dump(mode="json")
    status, out, _ = likeness(capsys, "audit", str(run.folder), "--num-held-out", "11", *words)
    audit = AuditConfig(num_held_out=11, batch_size=5, weights_sha256={"weights-a.pth": sha256})
    assert json.loads(out)["config"] == audit.model_dump(mode="json")
    assert sorted(run.folder.rglob("*")) == before


def test_weights_of_another_hash_are_named(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The sha256 given for a weights file is the one that it must have."""
    (tmp_path / "weights-inception-2015-12-05-6726825d.pth").write_bytes(b"x")
    asked = ("evaluate", str(run.folder), "--metrics", "fid", "--weights", str(tmp_path), "--dry-run")
    option = "--weights-sha256.weights-inception-2015-12-05-6726825d.pth"
    _, _, err = likeness(capsys, *asked, option, "0" * 64)
    assert f"not {'0' * 64}" in err
    status, _, err = likeness(capsys, *asked, option, bytes_digest(b"x"))
    assert (status, err) == (0, "")


def test_audit(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The audit says shares, thresholds and where its sheet is, and what held-out photographs tell of copying."""
    tiny_run.tiny_dataset(run.store, tiny_run.noise_images(10, seed=9), "others")
    arguments = ("audit", str(run.folder), "--images", "4", "--pairs", "2", "--device", "cpu")
    status, out, _ = likeness(capsys, *arguments, "--held-out", "others", "--store", run.store.root)
    assert status == 0
    assert "4 pictures, 12 crops" in out
    assert "calibrated by dataset others@" in out
    for space in ("embedding", "pixels"):
        assert f"nearer to training crops than to as many held-out by {space} (" in out
        assert f"nearest to a training crop of all by {space} (" in out
    assert "; 50.0% without copying)" in out
    assert "; 54.5% without copying)" in out
    assert f"closest pairs {run.folder / 'audit' / run.newest_checkpoint().name}.png" in out
    _, out, _ = likeness(capsys, *arguments, "--json")
    said = json.loads(out)
    assert len(said["pairs"]) == 2
    assert said["held_out"]["method"].startswith("leave-one-out")
    assert said["copying"] == {}


def test_list_says_what_can_be_had(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every metric with its extractor; those whose weights are absent say so, and the stand-ins are there."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    status, out, _ = likeness(capsys, "evaluate", "--list", "--json")
    rows = {row["metric"]: row for row in json.loads(out)["metrics"]}
    assert status == 0
    assert rows["fd_efficientnet_lite0"]["problem"] is None
    assert "weights-inception-2015-12-05-6726825d.pth" in rows["fid"]["problem"]
    _, out, _ = likeness(capsys, "evaluate", "--list")
    assert "ppl_efficientnet_lite0_w_full     efficientnet_lite0  usable" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "a run and metrics are needed"),
        (["evaluate", "RUN", "--metrics", "is50k"], "'is50k' is none of the metrics fid, "),
        (["evaluate", "RUN", "--metrics", "fid"], "inception needs weights-inception"),
        (["evaluate", "RUN", "--metrics", "fid", "--images", "1"], "--images: Input should be greater than"),
        (["evaluate", "RUN", "--metrics", "fid", "--num-images=1"], "--num-images: Input should be greater"),
        (["evaluate", "RUN", "--metrics", "fid", "--dry-run"], "inception needs weights-inception"),
        (
            ["evaluate", "RUN", "--metrics", "fid", "--weights-sha256.a.pth", "x"],
            "--weights-sha256.a.pth: String",
        ),
        (
            ["evaluate", "RUN", "--metrics", "fid", "--checkpoint", "7"],
            "has no checkpoint '7' (kept are 0000",
        ),
        (["evaluate", "nobody", "--metrics", "fid"], "no training run 'nobody'"),
        (["audit"], "a run is needed"),
        (["audit", "RUN", "--held-out", "nobody"], "no dataset 'nobody'"),
        (["audit", "RUN", "--held-out", "nobody", "--dry-run"], "no dataset 'nobody'"),
        (["audit", "RUN", "--pairs", "0"], "--pairs: Input should be greater than or equal to 1"),
        (["audit", "RUN", "--percentile", "80"], "--percentile: Input should be less than 50"),
    ],
)
def test_errors_are_one_sentence(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    """A wrong request says what is wrong in one line and exits 1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    arguments = [str(run.folder) if argument == "RUN" else argument for argument in arguments]
    status, out, err = likeness(capsys, *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
