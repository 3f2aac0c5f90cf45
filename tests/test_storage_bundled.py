"""The generator in the box: its file is the one on record, it draws, what it drew leads to it, and it is no run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_run
from commands import likeness
from flows.cli.demo import draw_bundled
from flows.cli.main import main
from storage.bundled.generator import BUNDLED, FILE, SHA256
from storage.bundled.photographs import FILE as PORTRAITS
from storage.bundled.photographs import photographs
from storage.digest import file_digest
from storage.errors import IntegrityError
from storage.lineage.origin import read_provenance
from storage.lineage.trace import bundled_facts, trace
from storage.lineage.tree import tree
from storage.runs import find_run
from storage.store import Store
from training.drawing.images import images_from_seeds
from training.drawing.pictures import read_grid_metadata, write_grid
from training.drawing.settings import GenerateConfig
from training.drawing.trained import load_exported, open_bundled, read_exported
from training.networks import Generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two faces, drawn by the command."""
    out = tmp_path_factory.mktemp("drawn") / "grid.png"
    with pytest.raises(SystemExit) as info:
        main(
            ["generate", "bundled", "--seeds", "0,1", "--out", str(out), "--store", str(out.parent / "store")]
        )
    assert not info.value.code
    return out


def test_the_file_is_the_one_on_record() -> None:
    """The file, the code and the README name one sha256, it is at most 8 MB, and its header says where it is from."""
    assert SHA256 == "c74258c282968adf7fe21264aa2bb5d3ce4469bef2c73d71fcc9be7afe77602d"
    assert file_digest(FILE) == SHA256
    assert FILE.stat().st_size == 7_854_884 <= 8_000_000
    readme = FILE.with_name("README.md").read_text()
    says = read_provenance(FILE)
    assert says is not None
    assert {key: value for key, value in says.items() if key != "config"} == {
        "kind": "export",
        "precision": "fp16",
        "lod": 0.0,
        "run_id": "20261126-130729-congress-face128-1d54",
        "checkpoint": "002337824",
        "generator_sha256": "722e4db18d27fc5ae89dea3e8a945753573a87ff140b235ed30207eced74e30b",
        "dataset": "congress@a6b813ac0be272a2",
        "dataset_manifest_sha256": "a6b813ac0be272a2ee75e5ffcc28c1b8d9e14c4c4325f85bf7eb4772683eeff2",
    }
    assert (says["config"]["resolution"], says["config"]["w_dim"]) == (128, 128)
    for fact in (SHA256, says["run_id"], says["generator_sha256"], says["dataset_manifest_sha256"]):
        assert fact in readme


def test_its_portraits_are_public_domain_and_split_by_sha256() -> None:
    """Each of the 879 rows has the licence that trace states, and lies where its sha256 puts it."""
    rows = [json.loads(line) for line in FILE.with_name("portraits.jsonl").read_text().splitlines()]
    facts = bundled_facts()
    held_out = [row for row in rows if row["sha256"][0] in "01"]
    assert (len(rows), len(held_out)) == (879, 119)
    for row in rows:
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"])
        assert {key: row[key] for key in ("author", "license", "license_url")}.items() <= facts.items()
        assert row["file"].split("/")[0] == ("congress-held-out" if row in held_out else "congress")


def test_it_draws_in_full_precision_what_its_halves_say() -> None:
    """Halves in the file are float32 in memory, of the same values, as many as the README says."""
    generator = load_exported(FILE)
    halves, _ = read_exported(FILE)
    assert {tensor.dtype for tensor in halves.values()} == {torch.float16}
    for key, tensor in generator.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, halves[key].float()), key
    num = sum(parameter.numel() for parameter in generator.parameters())
    assert f"{num:,} parameters" in FILE.with_name("README.md").read_text()


def test_its_pictures_are_faces_of_128_px(grid: Path) -> None:
    """The command draws the images of its seeds, that differ, and are as smooth as photographs, not as noise."""
    with Image.open(grid) as image:
        pixels = np.asarray(image).astype(int)
    assert pixels.shape == (128, 256, 3)
    first, second = pixels[:, :128], pixels[:, 128:]
    assert np.abs(first - second).mean() > 10
    for face in (first, second):
        assert face.std() > 30
        assert np.abs(np.diff(face, axis=1)).mean() < 0.3 * face.std()


def test_a_seed_is_a_picture(grid: Path) -> None:
    """Python draws what the command drew, and another seed's noise and latent give another picture."""
    trained = open_bundled(CPU)
    assert isinstance(trained.generator, Generator)
    images = images_from_seeds(trained.generator, [1], 0.7, truncation_cutoff=trained.cutoff)
    with Image.open(grid) as image:
        drawn = np.asarray(image)[:, 128:].astype(int)
    assert np.abs(images[0].transpose(1, 2, 0) - drawn).max() <= 1


def test_a_picture_leads_to_the_generator_in_the_box(grid: Path, tmp_path: Path) -> None:
    """Its chain ends there, with licence and dataset; the name and the file itself are the same last step."""
    store = Store(tmp_path)
    chain = trace(store, str(grid))
    assert [step.kind for step in chain.steps] == ["grid", "bundled generator"]
    drawn, generator = (step.facts for step in chain.steps)
    assert drawn["bundled_sha256"] == generator["sha256"] == file_digest(FILE)
    assert generator["file"] == str(FILE)
    for key in ("run_id", "checkpoint", "generator_sha256", "dataset", "dataset_manifest_sha256"):
        assert drawn[key] == generator[key]
    assert (generator["license"], generator["photographs"]) == ("PDM-1.0", "not in this store")
    assert any(line.endswith(" license: PDM-1.0") for line in tree(chain, 5))
    assert trace(store, BUNDLED).steps == trace(store, str(FILE)).steps == chain.steps[1:]


def test_another_dataset_of_that_name_is_told(grid: Path, tmp_path: Path) -> None:
    """Where the store has a version under the name of the one that it learned from, its manifest must be that one's."""
    store = Store(tmp_path)
    tiny_run.tiny_dataset(store, tiny_run.noise_images(2), "congress")
    [version] = store.path("datasets/congress").glob("*/manifest.json")
    version.parent.rename(version.parent.with_name("a6b813ac0be272a2"))
    with pytest.raises(IntegrityError, match=r"a6b813ac0be272a2/manifest\.json is not the version"):
        trace(store, str(grid))


def test_other_weights_than_those_in_the_box_are_told(grid: Path, tmp_path: Path) -> None:
    """A picture by another file of that name, as another release may hold, is refused."""
    with Image.open(grid) as image:
        pixels = np.asarray(image)
    metadata = {**read_grid_metadata(grid), "bundled_sha256": "ab" * 32}
    write_grid(pixels.transpose(2, 0, 1)[None], tmp_path / "other.png", metadata)
    with pytest.raises(
        IntegrityError, match=r"other\.png was drawn from other weights than the generator in"
    ):
        trace(Store(tmp_path), str(tmp_path / "other.png"))


def test_a_file_that_changed_is_not_drawn_with(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flipped bit of the file is found before it draws, and before a picture is traced to it."""
    data = bytearray(FILE.read_bytes())
    data[-1] ^= 1
    (tmp_path / FILE.name).write_bytes(data)
    monkeypatch.setattr("storage.bundled.generator.FILE", tmp_path / FILE.name)
    with pytest.raises(IntegrityError, match="is missing or has changed"):
        open_bundled(CPU)
    with pytest.raises(IntegrityError, match="is missing or has changed"):
        trace(Store(tmp_path), str(grid))


def test_an_export_of_it_keeps_its_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exported again, in full precision, it draws the same and is traced to the box."""
    out = tmp_path / "g.safetensors"
    status, said, _ = likeness(capsys, "export", "bundled", "--out", out)
    assert (status, said) == (0, f"{out}, from the generator in the box\n")
    images = [images_from_seeds(load_exported(path), [5], 0.7) for path in (out, FILE)]
    assert (images[0] == images[1]).all()
    assert [step.kind for step in trace(Store(tmp_path), str(out)).steps] == ["export", "bundled generator"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "bundled", "--metrics", "fid"], "has no run here to measure or to go on with"),
        (["audit", "bundled"], "has no run here to measure or to go on with"),
        (["train", "--resume", "bundled"], "has no run here to measure or to go on with"),
        (["train", "--resume", "bundled", "--dry-run"], "has no run here to measure or to go on with"),
        (["generate", "bundled", "--out", "x.png", "--checkpoint", "1"], "leave --checkpoint out"),
    ],
)
def test_what_needs_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    """Measuring and resuming say in one sentence that there is no run, and choosing a checkpoint that there is one."""
    status, out, err = likeness(capsys, *command, "--store", tmp_path)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "bundled" in err
    assert message in err


def test_its_name_is_reserved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a run of the store has the name, each command says so, and the run goes by its folder."""
    store = Store(tmp_path)
    run = tiny_run.untrained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(8)))
    folder = run.folder.rename(run.folder.with_name(BUNDLED))
    out = tmp_path / "x.png"
    for command in (["generate", BUNDLED, "--out", out], ["audit", BUNDLED], ["trace", BUNDLED]):
        status, _, err = likeness(capsys, *command, "--store", tmp_path)
        assert (status, len(err.splitlines())) == (1, 1)
        assert (
            f"'bundled' is reserved for the generator in the box: name the run {folder} by its folder" in err
        )
    assert not out.exists()
    assert find_run(store, str(folder)).id == BUNDLED


def test_the_demo_ends_with_faces_from_the_box(tmp_path: Path) -> None:
    """Its second grid lies in the store, and is traced to the box."""
    path = draw_bundled(Store(tmp_path), GenerateConfig(seeds=(3, 4)))
    assert path == tmp_path / "bundled.png"
    assert read_grid_metadata(path)["seeds"] == [3, 4]
    assert trace(Store(tmp_path), str(path)).steps[-1].kind == "bundled generator"


def test_a_dry_run_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says the run as it was typed and the checkpoint behind it, and writes nothing."""
    words = ("generate", "bundled", "--out", tmp_path / "x.png", "--dry-run", "--json")
    status, out, _ = likeness(capsys, *words)
    said = json.loads(out)
    assert (status, said["run"], said["checkpoint"]) == (0, "bundled", "002337824")
    assert list(tmp_path.iterdir()) == []


def test_its_photographs_are_found_by_their_bytes(grid: Path, tmp_path: Path) -> None:
    """In whatever version a store has them, beside others: the trace leads to them, and from each of them back."""
    store = Store(tmp_path)
    theirs = sorted(photographs())[:2]
    tiny_run.tiny_dataset(store, tiny_run.noise_images(3, seed=1), "others")
    tiny_run.tiny_dataset(store, tiny_run.noise_images(5), "people", photos=theirs)
    chain = trace(store, str(grid))
    assert [step.kind for step in chain.steps] == ["grid", "bundled generator", "dataset"]
    assert chain.steps[1].facts["photographs"] == f"2 of {len(photographs())} are here, in another version"
    assert sorted(row["photo_sha256"] for row in chain.images) == theirs
    assert {row["dataset"].partition("@")[0] for row in chain.images} == {"people"}
    back = trace(store, theirs[0])
    assert [(made.kind, made.name) for made in back.made][1:] == [("bundled generator", "bundled")]
    assert any(line.startswith("└─ bundled generator bundled") for line in tree(back, 5))
    [other] = {row["photo_sha256"] for row in trace(store, "others").images[:1]}
    assert [made.kind for made in trace(store, other).made] == ["dataset"]


def test_its_photographs_are_those_that_its_record_names() -> None:
    """760 of 879 of the file's rows: by the rule that README.md states, a sha256 that begins with neither 0 nor 1."""
    rows = [json.loads(line) for line in PORTRAITS.read_text(encoding="utf-8").splitlines()]
    assert photographs() == {row["sha256"] for row in rows if row["sha256"][0] not in "01"}
    assert (len(rows), len(photographs())) == (879, 760)
