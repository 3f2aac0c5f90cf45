"""Training with labels: a column of the dataset as condition of both networks."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import tiny_run
from commands import likeness
from plain_networks import lrelu, unit
from storage.datasets.dataset import open_dataset
from storage.errors import ConfigError
from storage.runs import Run, find_run
from storage.store import Store
from training.checkpoint import read_state
from training.config import TrainConfig
from training.drawing.images import images_from_seeds
from training.drawing.trained import load_exported
from training.engine.gradients import GradientFunction
from training.engine.state import Training
from training.labels import labelled, labels_of
from training.loop import next_batch, train
from training.loss import DiscriminatorPhase, GeneratorPhase, draw_latents
from training.networks import Discriminator, Generator
from training.process import images_of, images_of_version
from training.schedule import stage_at
from training.tracking import Tracker

CPU = torch.device("cpu")
NUM = 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a dataset of pictures whose authors are not alike often: dark ones of A, bright ones of B and C."""
    store = Store(tmp_path_factory.mktemp("store"))
    rng = np.random.default_rng(0)
    images, authors = [], []
    for index in range(NUM):
        author = "A" if index < 12 else "B" if index < 18 else "C"
        low = 0 if author == "A" else 150
        images.append(rng.integers(low, low + 100, (16, 16, 3), dtype=np.uint8))
        authors.append(author)
    tiny_run.tiny_dataset(store, images, authors=authors)
    return store


def config_of(store: Store, **given: Any) -> TrainConfig:
    """A tiny config conditioned on the author."""
    config = TrainConfig.model_validate({**tiny_run.TINY, "label_column": "author", **given})
    return labelled(open_dataset(store, "faces"), config)


def test_labels_are_a_columns_values(store: Store) -> None:
    """Values are in order, each image has its own, and what cannot be a label is refused with what can."""
    dataset = open_dataset(store, "faces")
    config = config_of(store)
    assert config.label_values == ("A", "B", "C")
    labels = labels_of(dataset, config)
    assert labels is not None
    assert Counter(labels.values()) == {0: 12, 1: 6, 2: 2}
    assert {row["key"]: "ABC".index(row["author"]) for row in dataset.images()} == labels
    assert labels_of(dataset, TrainConfig()) is None
    for column, said in (
        ("mood", "label_column mood is no column of faces@.*: choose of .*author"),
        ("license", "license of faces@.* has 1 values: 2 to 1000 can be labels"),
        ("title", "label_column title is empty for 20 images"),
    ):
        with pytest.raises(ConfigError, match=said):
            labelled(dataset, TrainConfig(label_column=column))
    with pytest.raises(ConfigError, match="label_values has no 'C'"):
        labelled(dataset, TrainConfig(label_column="author", label_values=("A", "B")))
    with pytest.raises(ValueError, match="the traditional generator takes no labels"):
        TrainConfig(label_column="author", generator="traditional")


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_the_stream_has_each_images_label(store: Store, sampling: str) -> None:
    """Every image comes with its own label: as often as there are, or all labels alike and each of their images too."""
    config = config_of(store, label_sampling=sampling, x_flips=False)
    images = images_of_version(store, open_dataset(store, "faces").summary(), config)
    shown = list(islice(images.stream(0, 16), 6 * NUM))
    assert all((image.label == 0) == (image.pixels.mean() < 120) for image in shown)
    counts = Counter(image.label for image in shown)
    if sampling == "natural":
        assert counts == {0: 72, 1: 36, 2: 12}
    else:
        assert counts == {0: 40, 1: 40, 2: 40}
        for label, num in ((1, 6), (2, 2)):
            own = [image.pixels.tobytes() for image in shown if image.label == label]
            assert all(len(set(own[start : start + num])) == num for start in range(0, 36, num))
    later = list(islice(images.stream(31, 16), 20))
    assert [image.pixels.tobytes() for image in later] == [image.pixels.tobytes() for image in shown[31:51]]
    rows = [image.label for image in islice(images.stream(0, 16, batch_size=8, rows=(1, 5)), 10)]
    assert rows == [shown[8 * batch + row].label for batch in range(5) for row in (1, 5)]


def test_networks_with_labels_are_the_originals() -> None:
    """A label's code stands beside z before both are normalised, and of the discriminator's logits its own counts."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channel_base": 64, "max_channels": 6, "num_labels": 3}
    generator = Generator(16, z_dim=8, w_dim=8, mapping_layers=2, **sizes).double()
    discriminator = Discriminator(16, **sizes).double()
    z, label_N = torch.randn(4, 8, dtype=torch.double), torch.tensor([2, 0, 1, 2])
    mapping: Any = generator.mapping
    x = unit(torch.cat([z, torch.stack([mapping.embedding[int(label)] for label in label_N])], 1))
    for layer in mapping.layers:
        weight = layer.weight * 0.01 * 2**0.5 / layer.weight.shape[1] ** 0.5
        x = lrelu(x @ weight.T + layer.bias * 0.01)
    torch.testing.assert_close(mapping(z, label_N), x)
    mapping.label = 1
    torch.testing.assert_close(mapping(z), mapping(z, torch.ones(4, dtype=torch.int64)))
    images = torch.randn(4, 3, 16, 16, dtype=torch.double)
    each = torch.stack([discriminator(images, None, torch.full((4,), label)) for label in range(3)], 1)
    torch.testing.assert_close(discriminator(images, None, label_N), each[torch.arange(4), label_N])
    assert not torch.allclose(each[:, 0], each[:, 1])


def gradients(phase: Any, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """A phase's gradients by name, plain and as recorded for the compiler, which are the same."""
    function = GradientFunction(phase, phase.network, compiled=False)
    found, _ = function(*inputs)
    graph = function.record(inputs)
    with torch.no_grad():
        recorded = graph(*(p for _, p in phase.named_parameters()), *inputs)
    for one, same in zip(recorded, found.values(), strict=False):
        torch.testing.assert_close(one, same, rtol=1e-9, atol=1e-11)
    names = {parameter: name for name, parameter in phase.network.named_parameters()}
    return {names[parameter]: gradient for parameter, gradient in found.items()}


def test_losses_with_labels_are_those_of_labelled_networks() -> None:
    """Both phases' gradients, R1's among them, are those of losses written out with the labels (float64)."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channel_base": 64, "max_channels": 6, "num_labels": 3}
    generator = Generator(16, z_dim=8, w_dim=8, mapping_layers=2, **sizes).double()
    discriminator = Discriminator(16, **sizes).double()
    rng = torch.Generator().manual_seed(1)
    latents = draw_latents(generator, 4, 0.9, rng)
    noise = [layer.double() for layer in latents.noise]
    z, label_N = latents.z_KNZ.double(), torch.tensor([2, 0, 1, 2])
    pixels = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=rng)
    given = (
        torch.zeros(()).double(),
        torch.zeros(()).double(),
        z,
        latents.crossover_N,
        latents.augmentation_NR,
    )
    codes = [generator.broadcast(generator.mapping(code, label_N)) for code in z]
    w = generator.mix(codes[0], codes[1], latents.crossover_N)
    fakes = generator.synthesis(w, noise)
    loss_g = F.softplus(-discriminator(fakes, None, label_N)).mean()
    names, parameters = zip(*generator.named_parameters(), strict=True)
    taken = torch.autograd.grad(loss_g, parameters, retain_graph=True, allow_unused=True)
    expected = {name: gradient for name, gradient in zip(names, taken, strict=True) if gradient is not None}
    found = gradients(GeneratorPhase(generator, discriminator), (*given, *noise, label_N))
    assert found.keys() == expected.keys()
    assert found["mapping.embedding"].abs().sum() > 0
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    reals = (pixels.double() / 127.5 - 1).requires_grad_()
    real = discriminator(reals, None, label_N)
    (slope,) = torch.autograd.grad(real.sum(), reals, create_graph=True)
    fake = discriminator(fakes.detach(), None, label_N)
    loss_d = F.softplus(-real).mean() + F.softplus(fake).mean() + 5 * slope.square().sum((1, 2, 3)).mean()
    names, parameters = zip(*discriminator.named_parameters(), strict=True)
    taken = torch.autograd.grad(loss_d, parameters, allow_unused=True)
    expected = {name: gradient for name, gradient in zip(names, taken, strict=True) if gradient is not None}
    phase = DiscriminatorPhase(generator, discriminator, 10.0)
    found = gradients(phase, (pixels, torch.empty(4, 0), *given, *noise, label_N))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def after(steps: int) -> Callable[[], bool]:
    """A request to stop after so many steps."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize(
    "given",
    [
        {"label_sampling": "balanced"},
        {"loss": "wgan_gp", "r1_gamma": 0},
        {"loss": "r3", "images_per_pass": 4},
        {"path_length_weight": 2.0, "path_length_interval": 2},
    ],
    ids=["logistic", "wgan_gp", "r3", "path_lengths"],
)
def test_a_resumed_run_with_labels_is_the_uninterrupted_one(store: Store, given: dict[str, Any]) -> None:
    """Whatever the loss, such a run trains, and stopped and resumed it ends in the same bytes."""
    config = config_of(store, total_kimg=0.048, **given)
    ends = []
    for stops in (False, True):
        run = tiny_run.untrained(
            store, open_dataset(store, "faces").summary(), **config.model_dump(mode="json")
        )
        if stops:
            train(run, config, images_of(run, config), CPU, Tracker(), after(3))
        train(run, config, images_of(run, config), CPU, Tracker())
        ends.append(read_state(run.newest_checkpoint()).sha256)
    assert ends[0] == ends[1]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("loss", ["logistic", "r3"])
def test_a_gpu_trains_with_labels(store: Store, loss: str) -> None:
    """Compiled, with either loss, a run with labels trains to its end with finite losses."""
    config = config_of(store, total_kimg=0.048, loss=loss, label_sampling="balanced", device="cuda")
    run = tiny_run.untrained(store, open_dataset(store, "faces").summary(), **config.model_dump(mode="json"))
    assert not train(run, config, images_of(run, config), torch.device("cuda"), Tracker())["stopped"]
    lines = [json.loads(line) for line in run.stats_path.read_text().splitlines()]
    assert lines
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_the_generator_learns_what_a_label_looks_like(store: Store) -> None:
    """After a short training, pictures of the dark label are darker than those of the bright one."""
    given = {
        "total_kimg": 2.4,
        "resolution": 8,
        "start_resolution": 8,
        "learning_rate": 0.005,
        "r1_gamma": 1.0,
    }
    config = config_of(store, label_sampling="balanced", w_avg_beta=0.9, ema_half_life_kimg=0.2, **given)
    training = Training.begin(config, CPU)
    reals = images_of_version(store, open_dataset(store, "faces").summary(), config).stream(0, 8)
    while training.num_images < config.total_kimg * 1000:
        stage = stage_at(config, training.num_images)
        training.enter(stage)
        training.step(stage, *next_batch(reals, 8, CPU))
    generator = training.generator_ema
    assert isinstance(generator, Generator)
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    noise = generator.draw_noise(64, torch.Generator().manual_seed(0))
    means = [generator(z, noise, label_N=torch.full((64,), label)).mean().item() for label in (0, 1)]
    assert means[0] < means[1] - 0.3, means


@pytest.fixture(scope="module")
def trained(store: Store) -> Run:
    """A run with labels, by the command."""
    config = config_of(store, total_kimg=0.016)
    run = tiny_run.untrained(store, open_dataset(store, "faces").summary(), **config.model_dump(mode="json"))
    train(run, config, images_of(run, config), CPU, Tracker())
    return run


def test_the_command_names_the_column(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """The values are filled in and recorded, and `likeness trace` shows the column."""
    where = ("--store", str(store.root))
    words = ("train", "faces", "--resolution", "16", "--label-column", "author", "--prepare", "--json")
    status, out, err = likeness(capsys, *words, *where)
    assert status == 0, err
    run = find_run(store, json.loads(out)["run"])
    assert run.record.config["label_values"] == ["A", "B", "C"]
    status, out, _ = likeness(capsys, "trace", run.id, *where)
    assert (status, "label column: author" in out) == (0, True)


def test_pictures_are_of_a_label(trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`generate --label` draws one, which the picture says; without it, or with a wrong one, the labels are listed."""
    where = ("--store", str(trained.store.root))
    drawn = {}
    for label in ("A", "B"):
        out = tmp_path / f"{label}.png"
        status, said, err = likeness(
            capsys,
            "generate",
            trained.id,
            "--seeds",
            "0-3",
            "--label",
            label,
            "--out",
            str(out),
            "--json",
            *where,
        )
        assert status == 0, err
        assert (json.loads(said)["label"], json.loads(said)["label_column"]) == (label, "author")
        drawn[label] = out.read_bytes()
        status, said, _ = likeness(capsys, "trace", str(out), *where)
        assert (status, f"label: {label}" in said) == (0, True)
    assert drawn["A"] != drawn["B"]
    exported = tmp_path / "g.safetensors"
    status, _, err = likeness(capsys, "export", trained.id, "--label", "B", "--out", str(exported), *where)
    assert status == 0, err
    images = images_from_seeds(load_exported(exported), range(4), 0.7)
    pixels = np.asarray(Image.open(tmp_path / "B.png"))
    assert np.array_equal(images[0].transpose(1, 2, 0), pixels[:16, :16])
    for more in ((), ("--label", "Z")):
        status, _, err = likeness(
            capsys, "generate", trained.id, *more, "--out", str(tmp_path / "x.png"), *where
        )
        assert (status, "draws images by author: choose --label of A, B, C" in err) == (1, True)
    status, _, err = likeness(
        capsys, "generate", "bundled", "--label", "A", "--out", str(tmp_path / "x.png"), *where
    )
    assert (status, "was trained without labels" in err) == (1, True)


def test_metrics_are_of_all_or_of_a_label(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a label, only its crops and pictures are measured, under a name of its own."""
    where = ("--store", str(trained.store.root), "--device", "cpu", "--json")
    words = ("evaluate", trained.id, "--metrics", "fd_efficientnet_lite0", "--num-images", "6")
    found: dict[str, Any] = {}
    for more in ((), ("--label", "B")):
        status, out, err = likeness(capsys, *words, *more, *where)
        assert status == 0, err
        found |= json.loads(out)["metrics"]
    assert found["fd_efficientnet_lite0"]["num_reals"] == NUM
    of_b = found["fd_efficientnet_lite0[B]"]
    assert (of_b["num_reals"], of_b["label"]) == (6, "B")
    assert of_b["value"] != found["fd_efficientnet_lite0"]["value"]
    status, _, err = likeness(capsys, *words, "--label", "Z", *where)
    assert (status, "label Z is none of the run's: A, B, C" in err) == (1, True)
