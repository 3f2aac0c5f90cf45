"""What a trained generator is used for, as commands: each writes its file, which `likeness trace` follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_run
from commands import full_disk, likeness
from flows.cli.main import main
from preprocessing.portrait import identity_distance, portrait
from preprocessing.sources.sample import scene_bytes
from storage.config import Config
from storage.datasets.dataset import open_dataset
from storage.errors import ConfigError, IntegrityError, SourceError
from storage.lineage.trace import trace
from storage.runs import Run, create_run
from storage.store import Store
from training.checkpoint import save_checkpoint
from training.config import TrainConfig
from training.drawing.pictures import MAX_PIXELS
from training.drawing.settings import (
    ExportConfig,
    GenerateConfig,
    MixingConfig,
    NoiseConfig,
    ProjectConfig,
    TruncationConfig,
    VideoConfig,
)
from training.drawing.trained import load_exported, read_exported
from training.engine.state import Training

SIZES = {"resolution": 16, "channel_base": 64, "max_channels": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2}
COMMANDS = {
    "generate": ["generate", "--out", "x.png"],
    "truncation": ["figure", "truncation", "--out", "x.png"],
    "mixing": ["figure", "mixing", "--out", "x.png"],
    "noise": ["figure", "noise", "--out", "x.png"],
    "video": ["video", "--out", "x.mp4"],
    "project": ["project", "--out", "x.png"],
    "export": ["export", "--out", "x.safetensors"],
}
CONFIGS: dict[str, Config] = {
    "generate": GenerateConfig(),
    "truncation": TruncationConfig(),
    "mixing": MixingConfig(),
    "noise": NoiseConfig(),
    "video": VideoConfig(),
    "project": ProjectConfig(distance="features"),
    "export": ExportConfig(),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a dataset."""
    root = tmp_path_factory.mktemp("store")
    tiny_run.tiny_dataset(Store(root), tiny_run.noise_images(3, 32), "s")
    return root


def new_run(store: Path, **settings: Any) -> Run:
    """A run of fresh weights with two checkpoints."""
    config = TrainConfig(**{**SIZES, "total_kimg": 20, **settings})
    dataset = open_dataset(Store(store), "s").summary()
    run = create_run(Store(store), dataset, config.model_dump(mode="json"))
    training = Training.begin(config, torch.device("cpu"))
    for num_images in (10_000, 20_000):
        training.num_images = num_images
        state = {"run_id": run.id, "dataset": dataset, **training.state()}
        save_checkpoint(
            run.checkpoints_dir / f"{num_images:09d}", training.networks, training.optimizers, state
        )
    return run


@pytest.fixture(scope="module")
def style(store: Path) -> Run:
    """A run of the style-based generator."""
    return new_run(store)


@pytest.fixture(scope="module")
def traditional(store: Path) -> Run:
    """A run of the traditional generator."""
    return new_run(store, generator="traditional")


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What the command prints with --json, which is one object and nothing else."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as info:
        main([*arguments, "--json"])
    output = capsys.readouterr()
    assert not info.value.code, output.err
    value: dict[str, Any] = json.loads(output.out)
    return value


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command fails with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as info:
        main(arguments)
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert (info.value.code, output.out, len(lines)) == (1, "", 1), output.err
    return lines[0]


@pytest.mark.parametrize(
    ("name", "more", "kind"),
    [
        ("generate", ["--seeds", "0-3", "--truncation-psi", "1,0.5"], "grid"),
        ("truncation", ["--seeds", "0,1", "--psis", "1,0,-0.5"], "figure"),
        ("mixing", ["--rows", "0", "--columns", "1,2"], "figure"),
        ("noise", ["--seed", "3", "--realisations", "5"], "figure"),
        ("video", ["--seeds", "0-2", "--seconds", "0.5", "--fps", "8"], "video"),
        ("project", ["--steps", "3", "--distance", "pixels"], "projection"),
        ("export", [], "export"),
    ],
)
def test_each_file_leads_back_to_photographs(
    style: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    more: list[str],
    kind: str,
) -> None:
    """Every command's file is traced to its checkpoint, run, dataset and images, with the settings it records."""
    command = COMMANDS[name]
    out = tmp_path / "new" / command[-1]
    words = [style.folder.name]
    if name == "project":
        (tmp_path / "photo.jpg").write_bytes(scene_bytes(1))
        words.append(str(tmp_path / "photo.jpg"))
    said = called(capsys, *command[:-2], *words, "--out", str(out), "--store", str(style.store.root), *more)
    files = [out, *([Path(said["w"])] if name == "project" else [])]
    for file in files:
        chain = trace(style.store, str(file))
        assert [step.kind for step in chain.steps] == [kind, "checkpoint", "training run", "dataset"]
        assert chain.steps[0].facts["checkpoint"] == "000020000"
        rows = open_dataset(style.store, "s").images()
        assert {image["key"] for image in chain.images} == {row["key"] for row in rows}
    assert (
        chain.steps[0].facts.items()
        >= {k: v for k, v in said.items() if k not in ("out", "w", "kind")}.items()
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_prints_the_whole_config(
    style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A dry run opens the checkpoint, prints every setting of the config, and writes nothing."""
    words = [style.id]
    if name == "project":
        words.append(str(Path(__file__)))
    command = COMMANDS[name]
    out = tmp_path / command[-1]
    said = called(
        capsys, *command[:-2], *words, "--out", str(out), "--store", str(style.store.root), "--dry-run"
    )
    assert (said["run"], said["checkpoint"], said["out"]) == (style.id, "000020000", str(out))
    assert said["config"] == CONFIGS[name].model_dump(mode="json")
    assert said["options"]["store"] == str(style.store.root)
    assert list(tmp_path.iterdir()) == []


def test_settings_reach_the_drawing(style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What no command could set before is set: a projection's rate and exploration, a figure's one noise."""
    words = [style.id, "--store", str(style.store.root)]
    (tmp_path / "photo.jpg").write_bytes(scene_bytes(1))
    said = called(
        capsys,
        *("project", *words, str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "p.png")),
        *("--steps", "1", "--distance", "pixels", "--learning-rate", "0.2", "--exploration", "0"),
    )
    assert (said["learning_rate"], said["exploration"]) == (0.2, 0.0)
    out = ("--out", str(tmp_path / "t.png"))
    figure = ("figure", "truncation", *words, "--seeds", "0,1", "--psis", "1", *out)
    assert called(capsys, *figure, "--noise-seed", "7")["noise_seed"] == 7
    assert "noise_seed" not in called(capsys, *figure)


def test_a_checkpoint_is_chosen(style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its name in the run, or by its folder; one that is not there is told beside those that are."""
    store = ["--store", str(style.store.root)]
    for words in ([style.id, "--checkpoint", "000010000"], [str(style.checkpoints()[0])]):
        said = called(capsys, "generate", *words, "--out", str(tmp_path / "a.png"), "--seeds", "0", *store)
        assert said["checkpoint"] == "000010000"
    line = refused(
        capsys, "generate", style.id, "--checkpoint", "5", "--out", str(tmp_path / "b.png"), *store
    )
    assert "has no checkpoint '5' (kept are 000010000, 000020000)" in line


def test_separate_images_are_the_grids(
    style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file a seed and psi, each that place of the grid, and each traced."""
    words = [style.id, "--store", str(style.store.root), "--seeds", "0-2", "--truncation-psi", "1,0.5"]
    called(capsys, "generate", *words, "--out", str(tmp_path / "grid.png"))
    files = called(capsys, "generate", *words, "--out", str(tmp_path / "all"), "--separate")["files"]
    names = [f"seed0000{seed}-psi{psi}.png" for psi in ("1", "0.5") for seed in range(3)]
    assert [Path(file).name for file in files] == names
    with Image.open(tmp_path / "grid.png") as image:
        grid = np.asarray(image).astype(int)
    for index, file in enumerate(files):
        top, left = index % 3 * 16, index // 3 * 16
        with Image.open(file) as image:
            assert np.abs(np.asarray(image) - grid[top : top + 16, left : left + 16]).max() <= 1
    assert trace(style.store, files[0]).steps[0].kind == "image"


def test_exports_are_read_back(style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exported file holds the averaged weights; the projected w has a row a layer."""
    store = ["--store", str(style.store.root)]
    called(capsys, "export", style.id, "--out", str(tmp_path / "g.safetensors"), *store)
    assert load_exported(tmp_path / "g.safetensors").resolution == 16
    Image.new("RGB", (40, 40), (200, 10, 10)).save(tmp_path / "red.png")
    words = [style.id, str(tmp_path / "red.png"), "--out", str(tmp_path / "p.png"), "--steps", "2", *store]
    said = called(capsys, "project", *words, "--space", "w+", "--distance", "pixels")
    assert (said["aligned"], said["photo"]) == (False, "red.png")
    assert read_exported(Path(said["w"]))[0]["w"].shape == (6, 8)
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == (34, 16)
        assert image.getpixel((3, 3)) == (200, 10, 10)


@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("truncation", "truncation"),
        ("mixing", "style mixing"),
        ("noise", "the figure of noise"),
        ("video", "a walk through styles"),
        ("project", "projection"),
    ],
)
def test_the_traditional_generator_is_refused(
    traditional: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, purpose: str
) -> None:
    """What has neither w nor noise cannot be mixed, truncated or projected on; one line says so."""
    command = COMMANDS[name]
    words = [traditional.id, *(["photo.jpg"] if name == "project" else [])]
    out = tmp_path / command[-1]
    line = refused(capsys, *command[:-2], *words, "--out", str(out), "--store", str(traditional.store.root))
    assert f"{purpose} needs a style-based generator: run {traditional.id} trained the traditional" in line
    assert not out.exists()


def test_a_generator_that_z_enters_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Config C's images are no function of w: one line says so, and plain generation works."""
    run = new_run(store, synthesis_input="latent")
    where = ["--store", str(store)]
    line = refused(capsys, "figure", "truncation", run.id, "--out", str(store / "t.png"), *where)
    assert f"truncation needs images made from w alone: run {run.id}" in line
    called(capsys, "generate", run.id, "--out", str(store / "g.png"), *where)


def test_the_figure_of_noise_needs_noise(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A generator trained without noise has none to show."""
    run = new_run(store, noise=False)
    line = refused(capsys, "figure", "noise", run.id, "--out", str(store / "n.png"), "--store", str(store))
    assert "trained without noise" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--truncation-psi", "a"], "--truncation-psi: Input should be a valid number"),
        (["generate", "--seeds", "0-x"], "--seeds: '0-x' is neither a number nor a range such as 0-15"),
        (["figure", "truncation", "--psis", "1,nan"], "--psis: Input should be a finite number"),
        (["figure", "truncation", "--psis", "1,3"], "--psis: Input should be less than or equal to 2"),
        (["figure", "truncation", "--cutoff", "-1"], "--cutoff: Input should be greater than or equal to 0"),
        (["figure", "mixing", "--layers", "fine"], "choose coarse, middle or all"),
        (["figure", "mixing", "--layers", "thick"], "thick"),
        (["figure", "noise", "--num-realisations", "0"], "--num-realisations: Input should be greater than"),
        (["figure", "noise", "--realisations", "0"], "--realisations: Input should be greater than"),
        (["figure", "noise", "--crops=17"], "--crops: Input should be less than or equal to 16 (given '17')"),
        (["video", "--seeds", "4"], "--seeds: a walk needs two seeds or more (given '4')"),
        (["video", "--seconds", "0"], "--seconds: Input should be greater than 0"),
        (["video", "--seconds", "0.1", "--fps", "1"], "less than one frame"),
        (["project", "/no/photo.jpg"], "/no/photo.jpg cannot be read"),
        (["project", "x.jpg", "--steps", "0"], "--steps: Input should be greater than or equal to 1"),
        (["export", "--noise-seed", "-1"], "--noise-seed: Input should be greater than or equal to 0"),
        (["export", "--precision", "fp16", "--format", "onnx"], "precision fp16 is for safetensors"),
        (["project", "/no/photo.jpg", "--dry-run"], "/no/photo.jpg cannot be read"),
        (["figure", "mixing", "--layers", "fine", "--dry-run"], "choose coarse, middle or all"),
        (["figure", "dance"], "dance"),
    ],
)
def test_mistakes_are_one_sentence(
    style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """A wrong request says what is wrong in one line, exits 1, and writes nothing."""
    group = 2 if arguments[0] == "figure" else 1
    words = [*arguments[:group], style.id, *arguments[group:]]
    out = tmp_path / {"video": "x.mp4", "export": "x.safetensors"}.get(arguments[0], "x.png")
    line = refused(capsys, *words, "--out", str(out), "--store", str(style.store.root))
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "name", "message"),
    [
        (["generate"], "x.jpg", "is to be a .png, or with --separate a folder"),
        (["generate", "--separate"], "x.png", "is to be a folder, with --separate"),
        (["figure", "truncation"], "x.gif", "the file is to end in .png"),
        (["figure", "mixing"], "x", "the file is to end in .png"),
        (["figure", "noise"], "x.webp", "the file is to end in .png"),
        (["video"], "x.gif", "the file is to end in .mp4"),
        (["project", __file__], "x.safetensors", "the file is to end in .png"),
        (["export"], "x.pkl", "is to end in .safetensors, as its --format"),
        (["export", "--format", "onnx"], "x.safetensors", "is to end in .onnx, as its --format"),
    ],
)
def test_a_file_is_called_what_it_is(
    style: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    name: str,
    message: str,
) -> None:
    """A suffix that promises another format than is written is refused, and nothing is written."""
    group = 2 if arguments[0] == "figure" else 1
    words = [*arguments[:group], style.id, *arguments[group:]]
    line = refused(capsys, *words, "--out", str(tmp_path / name), "--store", str(style.store.root))
    assert message in line
    assert str(tmp_path / name) in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--seeds", "0-5592"],
        ["figure", "truncation", "--seeds", "0-1118", "--psis", "1,0.8,0.6,0.4,0.2"],
        ["figure", "mixing", "--rows", "0-27", "--columns", "0-98", "--layers", "all"],
    ],
)
def test_pictures_are_bounded_by_pixels(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A picture of more pixels than other programs open is refused before it is drawn, with what fits."""
    run = new_run(store, resolution=128, channel_base=16)
    group = 2 if arguments[0] == "figure" else 1
    words = [*arguments[:group], run.id, *arguments[group:], "--out", str(tmp_path / "x.png"), "--dry-run"]
    line = refused(capsys, *words, "--store", str(store))
    assert "million pixels in one picture, and 5461 such images fit into one: choose fewer" in line
    assert MAX_PIXELS == 1024**3 // 4 // 3, "Pillow's own bound, which reading photographs lifts"


@pytest.mark.parametrize("name", ["generate", "mixing", "video", "project", "export"])
def test_a_full_disk_is_one_sentence(
    style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Where there is no room, here by a limit on a file's size, one line names the file, and nothing of it stays."""
    command = COMMANDS[name]
    out = tmp_path / "made" / command[-1]
    out.parent.mkdir()
    words = [*command[:-2], style.id]
    if name == "project":
        (tmp_path / "photo.png").write_bytes(scene_bytes(1))
        words += [str(tmp_path / "photo.png"), "--steps", "1", "--distance", "pixels"]
    if name == "video":
        words += ["--seconds", "1", "--fps", "4"]
    with full_disk(100):
        status, _, err = likeness(capsys, *words, "--out", out, "--store", style.store.root)
    lines = [line for line in err.splitlines() if line.startswith("likeness: ")]
    assert (status, lines) == (1, [f"likeness: --out {out} cannot be written: File too large"]), err
    assert "Traceback" not in err
    assert list(out.parent.iterdir()) == []


def test_identity_is_compared(tmp_path: Path) -> None:
    """Crops of one person lie within 0.6 and of two beyond it; where there is no face there is no distance."""
    crops = []
    for number in (0, 1, 2, 3):
        (tmp_path / "scene.jpg").write_bytes(scene_bytes(number))
        crops.append(portrait(tmp_path / "scene.jpg", 128, "always")[0])
    assert identity_distance(crops[0], crops[0]) == 0
    for first, second in ((0, 2), (1, 3)):
        assert (identity_distance(crops[first], crops[second]) or 1) < 0.4
        assert (identity_distance(crops[0], crops[1 if first == 0 else 3]) or 0) > 0.6
    assert identity_distance(crops[0], np.zeros_like(crops[0])) is None


def test_what_cannot_be_written_is_named(
    style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "x.png")
    line = refused(capsys, "figure", "mixing", style.id, "--out", out, "--store", str(style.store.root))
    assert f"--out {out} cannot be written" in line


def test_a_portrait_is_aligned_unless_it_is_square(tmp_path: Path) -> None:
    """A photograph gives its face at the side asked for, a square one itself; what shows no face says so."""
    photo = tmp_path / "photo.png"
    (tmp_path / "scene.jpg").write_bytes(scene_bytes(1))
    with Image.open(tmp_path / "scene.jpg") as scene:
        scene.convert("RGB").crop((0, 0, scene.width, scene.height - 1)).save(photo)
    pixels, facts = portrait(photo, 64)
    assert pixels.shape == (64, 64, 3)
    assert facts["aligned"] is True
    with pytest.raises(ConfigError, match="not square"):
        portrait(photo, 64, "never")
    crop = tmp_path / "crop.png"
    Image.fromarray(pixels).save(crop)
    assert portrait(crop, 64)[1]["shows_face"] is True
    blank = tmp_path / "blank.png"
    Image.new("RGB", (50, 50)).save(blank)
    pixels, facts = portrait(blank, 64)
    assert (pixels.shape, facts["aligned"], facts["shows_face"]) == ((50, 50, 3), False, False)
    with pytest.raises(SourceError, match=r"shows no face that can be aligned \(no_face"):
        portrait(blank, 64, "always")
    with pytest.raises(SourceError, match="cannot be read"):
        portrait(tmp_path / "nothing.png", 64)


def test_a_photograph_is_not_projected_onto_itself(
    style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By whatever name it goes: it would be written over."""
    photo, link = tmp_path / "photo.png", tmp_path / "link.png"
    Image.new("RGB", (16, 16), "gray").save(photo)
    link.symlink_to(photo)
    before = photo.read_bytes()
    for out in (photo, link):
        words = ["project", style.id, photo, "--out", out, "--steps", 1, "--store", style.store.root]
        status, _, err = likeness(capsys, *words, "--distance", "pixels")
        assert (status, "is the photograph itself" in err) == (1, True), err
    assert photo.read_bytes() == before


def test_a_square_picture_without_a_face_is_warned_of(
    style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is projected all the same, since it may be a crop that the detector misses; with a face nothing is said."""
    (tmp_path / "scene.jpg").write_bytes(scene_bytes(1))
    Image.fromarray(portrait(tmp_path / "scene.jpg", 64, "always")[0]).save(tmp_path / "face.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "blank.png")
    for name, is_warned in (("blank.png", True), ("face.png", False)):
        words = [style.id, str(tmp_path / name), "--steps", "1", "--distance", "pixels"]
        where = ["--out", str(tmp_path / "p.png"), "--store", str(style.store.root)]
        status, _, err = likeness(capsys, "project", *words, *where)
        assert status == 0
        assert ("no face that fills half of it was found" in err) == is_warned


def test_a_changed_video_is_told(style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record beside a film is of its bytes; without the record the film speaks for itself."""
    out = tmp_path / "v.mp4"
    words = [style.id, "--out", str(out), "--seeds", "0,1", "--seconds", "0.5", "--fps", "4"]
    called(capsys, "video", *words, "--store", str(style.store.root))
    out.write_bytes(out.read_bytes() + b"x")
    assert "v.mp4 has changed since" in refused(capsys, "trace", str(out), "--store", str(style.store.root))
    (tmp_path / "v.mp4.json").write_text("[]")
    assert trace(style.store, str(out)).steps[0].facts["seeds"] == [0, 1]


def test_a_picture_is_traced_by_the_weights_that_drew_it(
    style: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a checkpoint's files, a picture needs the averaged generator's alone; with other weights it is refused."""
    out = tmp_path / "grid.png"
    called(capsys, "generate", style.id, "--seeds", "0", "--out", str(out), "--store", str(style.store.root))
    checkpoint = style.newest_checkpoint()
    kept = {path: path.read_bytes() for path in checkpoint.glob("*.safetensors")}
    try:
        for path in kept:
            if path.name != "generator_ema.safetensors":
                path.unlink()
        assert trace(style.store, str(out)).steps[1].kind == "checkpoint"
        with pytest.raises(IntegrityError, match="is missing"):
            trace(style.store, str(checkpoint))
        drawing = checkpoint / "generator_ema.safetensors"
        drawing.write_bytes(kept[drawing] + b"x")
        with pytest.raises(IntegrityError, match="no longer has its recorded sha256"):
            trace(style.store, str(out))
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
