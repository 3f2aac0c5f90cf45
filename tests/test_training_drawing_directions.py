"""training.drawing.directions and edits: directions are those that the mathematics names, and move pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny_run
from commands import likeness
from storage.errors import ConfigError
from storage.lineage.trace import trace
from storage.runs import Run
from storage.store import Store
from training.drawing.directions import blocks_of, direction_of, directions, moved
from training.drawing.edits import edited, sources_of
from training.drawing.images import images_from_w, w_from_seeds
from training.drawing.projection import project, save_projection
from training.drawing.settings import DirectionsConfig, EditConfig, ProjectConfig
from training.drawing.trained import Trained, open_trained, read_exported
from training.networks import Generator


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained run of 16 px, which has coarse and middle layers."""
    store = Store(tmp_path_factory.mktemp("store"))
    return tiny_run.trained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(8)))


@pytest.fixture(scope="module")
def trained(run: Run) -> Trained:
    """Its generator."""
    return open_trained(run.newest_checkpoint(), torch.device("cpu"))


@pytest.fixture(scope="module")
def generator(trained: Trained) -> Generator:
    """As a style-based one."""
    return trained.style_generator("a test")


def test_sefa_is_what_styles_change_most(generator: Generator) -> None:
    """No unit step of w changes the styles of a block more than its first direction, whose share says how much."""
    rng = torch.Generator().manual_seed(0)
    for block in ("all", "coarse", "middle"):
        found = directions(generator, DirectionsConfig(methods=("sefa",), blocks=(block,), num_directions=8))
        styles = [generator.synthesis.layers[index].style for index in found[0].layers]
        weights = torch.cat([style.weight * style.weight_scale for style in styles])
        powers = [float((weights @ one.vector_D).square().sum()) for one in found]
        others = torch.nn.functional.normalize(torch.randn(200, 8, generator=rng), dim=1)
        assert powers == sorted(powers, reverse=True)
        assert powers[0] >= float((others @ weights.T).square().sum(dim=1).max())
        assert np.isclose(powers[0] / float(weights.square().sum()), found[0].share, rtol=1e-4)


def test_components_are_what_w_varies_by(generator: Generator) -> None:
    """No direction has a larger deviation of w than the first component, and a strength of 1 is that deviation."""
    found = directions(generator, DirectionsConfig(methods=("pca",), blocks=("all",), num_directions=8))
    w_ND = generator.mapping(torch.randn(5000, 8, generator=torch.Generator().manual_seed(7)))
    rng = torch.Generator().manual_seed(0)
    others = torch.nn.functional.normalize(torch.randn(200, 8, generator=rng), dim=1)
    largest = float((w_ND @ found[0].vector_D).std())
    assert largest >= float((w_ND @ others.T).std(dim=0).max())
    assert np.isclose(largest, found[0].deviation, rtol=0.1)
    assert np.isclose(sum(one.share for one in found), 1)


def test_directions_follow_from_the_checkpoint(run: Run, generator: Generator) -> None:
    """Opened again they are the same to the bit, of unit length, at right angles, upright, and found by their names."""
    again = open_trained(run.newest_checkpoint(), torch.device("cpu")).style_generator("a test")
    state = torch.get_rng_state()
    config = DirectionsConfig(num_directions=3)
    for first, second in zip(directions(generator, config), directions(again, config), strict=True):
        assert first.name == second.name
        assert torch.equal(first.vector_D, second.vector_D)
        named = direction_of(generator, first.name)
        assert torch.equal(named.vector_D, first.vector_D)
        assert (named.layers, named.deviation) == (first.layers, first.deviation)
        assert first.vector_D[first.vector_D.abs().argmax()] > 0
    one, two, _ = directions(
        generator, DirectionsConfig(methods=("sefa",), blocks=("all",), num_directions=3)
    )
    assert abs(float(one.vector_D @ two.vector_D)) < 1e-5
    assert abs(float(one.vector_D.norm()) - 1) < 1e-5
    assert torch.equal(torch.get_rng_state(), state)


def test_a_move_keeps_to_its_layers(generator: Generator) -> None:
    """Strength 0 changes nothing, others move the block's layers by as many deviations, and no other layer."""
    direction = direction_of(generator, "sefa.coarse.0")
    assert list(direction.layers) == [0, 1, 2, 3]
    w_LD = w_from_seeds(generator, [3])[0]
    w_SLD = moved(w_LD, direction, [0.0, 2.0])
    assert torch.equal(w_SLD[0], w_LD)
    assert torch.equal(w_SLD[1, 4:], w_LD[4:])
    steps = ((w_SLD[1] - w_LD)[:4] @ direction.vector_D) / direction.deviation
    assert torch.allclose(steps, torch.full((4,), 2.0), atol=1e-4)
    assert torch.equal(moved(w_LD, direction, [1.0], [5])[0, :5], w_LD[:5])


def test_only_blocks_that_are_there(generator: Generator) -> None:
    """A generator of 16 px has no fine layers: they are passed over, or said to be missing where they are asked for."""
    assert blocks_of(generator) == ["all", "coarse", "middle"]
    assert {one.block for one in directions(generator)} == {"all", "coarse", "middle"}
    for name, message in (
        ("sefa.fine.0", "no fine layers: choose all, coarse, middle"),
        ("sefa.all", "METHOD.BLOCK.NUMBER"),
        ("age", "METHOD.BLOCK.NUMBER"),
        ("sefa.all.8", "a block has 8, numbered from 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            direction_of(generator, name)
    with pytest.raises(ConfigError, match="no fine layers"):
        directions(generator, DirectionsConfig(blocks=("fine",)))


def test_directions_are_written(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A figure with a row each, and their vectors, traced, and readable by the same people; twice the same bytes."""
    for name in ("a.png", "b.png"):
        words = ("directions", run.id, "--out", tmp_path / name, "--num-directions", "2", "--json")
        status, out, err = likeness(capsys, *words, "--store", run.store.root)
        assert status == 0, err
    said = json.loads(out)
    assert [*said["found"]] == [
        f"{method}.{block}.{index}"
        for method in ("sefa", "pca")
        for block in ("all", "coarse", "middle")
        for index in (0, 1)
    ]
    for suffix in (".png", ".safetensors"):
        first, second = ((tmp_path / name).with_suffix(suffix) for name in ("a.png", "b.png"))
        assert first.read_bytes() == second.read_bytes()
        chain = trace(run.store, str(first))
        assert [step.kind for step in chain.steps][1:] == ["checkpoint", "training run", "dataset"]
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.png").stat().st_mode
    tensors, metadata = read_exported(tmp_path / "a.safetensors")
    assert tensors["pca.middle"].shape == (2, 8)
    assert metadata["directions"] == [*said["found"]]


def projected(trained: Trained, path: Path, seed: int, noise: str = "fixed") -> Path:
    """A picture of the generator's own, projected in few steps."""
    generator = trained.style_generator("a test")
    config = ProjectConfig.model_validate({"steps": 5, "distance": "pixels", "seed": seed, "noise": noise})
    target = images_from_w(generator, w_from_seeds(generator, [seed]), [])[0].transpose(1, 2, 0)
    result = project(generator, target, config)
    return save_projection(result, path, {**trained.origin, **config.model_dump(mode="json")})


@pytest.mark.parametrize("noise", ["fixed", "optimised"])
def test_projections_are_edited(trained: Trained, tmp_path: Path, noise: str) -> None:
    """At strength 0 a projection is drawn as it was found, and from one to another both ends are themselves."""
    generator = trained.style_generator("a test")
    files = (
        projected(trained, tmp_path / "a.png", 1, noise),
        projected(trained, tmp_path / "b.png", 2, noise),
    )
    config = EditConfig(projected=files, direction="pca.all.0", strengths=(0.0, 2.0))
    sources = sources_of(trained, config)
    rows = edited(generator, sources, config)
    assert rows.shape == (2, 2, 3, 16, 16)
    for row, one in zip(rows, sources, strict=True):
        assert (row[0] == images_from_w(generator, one.w_LD[None], one.noise)[0]).all()
        assert (row[1] != row[0]).any()
    config = EditConfig(projected=files, between=4)
    [line] = edited(generator, sources_of(trained, config), config)
    assert len(line) == 4
    assert np.abs(line[0].astype(int) - rows[0, 0]).max() <= 1
    assert np.abs(line[-1].astype(int) - rows[1, 0]).max() <= 1


def test_an_edit_is_traced(
    run: Run, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says which projections it moved, by sha256, and by what; a list that begins with a negative number is one."""
    file = projected(trained, tmp_path / "a.png", 1)
    words = ["edit", run.id, "--projected", file, "--direction", "sefa.middle.1", "--strengths", "-1.5,0,1"]
    out = tmp_path / "e.png"
    status, _, err = likeness(capsys, *words, "--layers", "4-5", "--out", out, "--store", run.store.root)
    assert status == 0, err
    facts = trace(run.store, str(out)).steps[0].facts
    assert (facts["direction"], facts["strengths"], facts["layers"]) == (
        "sefa.middle.1",
        [-1.5, 0, 1],
        [4, 5],
    )
    assert len(facts["projected"][0]["sha256"]) == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--direction", "sefa.all.0"], "whose pictures are edited is not said"),
        (["--seeds", "0", "--projected", "a.safetensors"], "seeds and projected were both given"),
        (["--seeds", "0"], "give a direction, or between"),
        (["--seeds", "0", "--between", "3"], "between needs two projections, or two seeds"),
        (["--seeds", "0", "--direction", "sefa.fine.0"], "this generator has no fine layers"),
        (
            ["--seeds", "0", "--direction", "pca.all.0", "--layers", "6"],
            "this generator has 6, numbered from 0",
        ),
        (["--projected", "no.safetensors", "--direction", "pca.all.0"], "no.safetensors is not there"),
    ],
)
def test_mistakes_are_one_sentence(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """A wrong edit says what is wrong in one line, and writes nothing."""
    out = tmp_path / "x.png"
    status, said, err = likeness(capsys, "edit", run.id, *words, "--out", out, "--store", run.store.root)
    assert (status, said, len(err.splitlines()), out.exists()) == (1, "", 1, False), err
    assert message in err


def test_a_projection_on_other_weights_is_refused(run: Run, trained: Trained, tmp_path: Path) -> None:
    """w means nothing to another generator."""
    file = projected(trained, tmp_path / "a.png", 1)
    other = open_trained(run.checkpoints()[0], torch.device("cpu"))
    with pytest.raises(Exception, match="was projected on other weights"):
        sources_of(other, EditConfig(projected=(file,), direction="pca.all.0"))


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"w": (6, 8)}, "not JSON", "cannot be read as JSON"),
        ({"w": (6, 8)}, "[]", "is no JSON object"),
        ({"w": (2, 8)}, {"seed": 1}, "not of this generator's shape"),
        ({"w": (6, 9)}, {"seed": 1}, "not of this generator's shape"),
        ({"w": (6, 8)}, {}, "not of this generator's shape"),
        ({"w": (6, 8), "noise_0": (1, 1, 4, 4)}, {"seed": 1}, "not of this generator's shape"),
    ],
)
def test_a_damaged_projection_is_one_sentence(
    run: Run,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tensors: dict[str, tuple[int, ...]],
    metadata: dict[str, int] | str,
    message: str,
) -> None:
    """Whatever its tensors and its text are, it is named, and nothing is drawn."""
    file, out = tmp_path / "a.safetensors", tmp_path / "x.png"
    text = metadata if isinstance(metadata, str) else json.dumps({**trained.origin, **metadata})
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, file, {"likeness": text})
    words = ["edit", run.id, "--projected", file, "--direction", "pca.all.0", "--out", out]
    status, _, err = likeness(capsys, *words, "--store", run.store.root)
    assert (status, len(err.splitlines()), out.exists()) == (1, 1, False), err
    assert str(file) in err
    assert message in err


def test_of_a_list_the_first_mistake_is_told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A range of numbers that are all too large is one clause, not one a number."""
    words = [
        "edit",
        run.id,
        "--seeds",
        "0",
        "--direction",
        "pca.all.0",
        "--layers",
        "0-99",
        "--out",
        tmp_path / "x.png",
    ]
    status, _, err = likeness(capsys, *words, "--store", run.store.root)
    assert (status, err) == (1, "likeness: --layers: Input should be less than or equal to 64 (given 65)\n")
