"""The memorization audit: copies are flagged, strangers are not, and the closest pairs lead to their photographs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny_run
from storage.datasets.dataset import open_dataset, open_part
from storage.errors import ConfigError
from storage.lineage.trace import trace
from storage.runs import Run
from storage.store import Store
from training.config import TrainConfig
from training.data import ImageArray
from training.metrics import audit as auditing
from training.metrics import subject
from training.metrics.audit import AuditRecord, audit
from training.metrics.memorization import (
    References,
    calibrated_threshold,
    closest,
    coarse,
    copying,
    nearest,
    pixel_vectors,
    quantiles,
    share_nearer,
    unit_vectors,
)
from training.metrics.settings import AuditConfig
from training.metrics.subject import Subject
from training.networks import Generator
from training.process import images_of

CPU = torch.device("cpu")
NUM = 16


def pictures(num: int, seed: int, side: int = 32) -> Tensor:
    """Smooth random pictures (num, 3, side, side), uint8."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, 3, 6, 6, generator=rng)
    return (torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) * 255).byte()


def noisy(images: Tensor, amount: float, seed: int = 0) -> Tensor:
    """The same pictures a little off."""
    rng = torch.Generator().manual_seed(seed)
    return (images.float() + amount * torch.randn(images.shape, generator=rng)).clamp(0, 255).byte()


def test_copies_are_flagged_and_strangers_at_the_calibrations_rate() -> None:
    """A generator that copies is flagged nearly always; one that draws like the held-out set, about as often as it."""
    train, held_out = pixel_vectors(pictures(200, 0), 16), pixel_vectors(pictures(2000, 1), 16)
    threshold = calibrated_threshold(nearest(held_out, train).distance, 1)
    copies = pixel_vectors(noisy(pictures(200, 0), 8), 16)
    strangers = pixel_vectors(pictures(2000, 2), 16)
    assert share_nearer(nearest(copies, train).distance, threshold) > 0.99
    assert share_nearer(nearest(strangers, train).distance, threshold) == pytest.approx(0.01, abs=0.008)


def test_mirrored_copies_are_found_as_mirrored() -> None:
    """With the mirror images among the references, a mirrored copy is found and told; without them it is not."""
    images = pictures(50, 0)
    train, mirrored = pixel_vectors(images), pixel_vectors(images.flip(-1))
    copies = pixel_vectors(images.flip(-1))
    found = nearest(copies, train, mirrored)
    assert found.distance.max() == 0
    assert found.index.tolist() == list(range(50))
    assert found.mirrored.all()
    assert nearest(copies, train).distance.min() > 0
    assert not nearest(train, train, mirrored).mirrored.any()


def test_leave_one_out_excludes_the_picture_itself_and_its_mirror_image() -> None:
    """A crop among the references is not its own neighbour, nor is its mirror image; a second copy of it is."""
    half = pictures(20, 0)
    symmetric = torch.cat([half[..., :16], half[..., :16].flip(-1)], dim=-1)
    train = pixel_vectors(symmetric)
    own = np.arange(20)
    assert nearest(train, train, train, own).distance.min() > 0.01
    twice = torch.cat([train, train[:1]])
    alone = nearest(twice, twice, None, np.arange(21)).distance
    assert (alone == 0).sum() == 2


def test_nearest_equals_a_slow_search() -> None:
    """Chunks and all, the nearest is the nearest."""
    rng = torch.Generator().manual_seed(0)
    queries, references = torch.randn(1500, 4, generator=rng), torch.randn(70, 4, generator=rng)
    table = (queries[:, None] - references[None]).norm(dim=2)
    found = nearest(queries, references)
    assert np.array_equal(found.index, table.argmin(1).numpy())
    assert found.distance == pytest.approx(table.min(1).values.numpy(), abs=1e-6)


def test_vectors() -> None:
    """Pixel distances are RMS differences from 0 to 1; unit vectors have length 1."""
    black, white = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.full((1, 3, 64, 64), 255).byte()
    assert float(torch.dist(pixel_vectors(black), pixel_vectors(white))) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(unit_vectors(torch.randn(3, 5)).norm(dim=1), torch.ones(3))


def test_order_and_quantiles() -> None:
    """Pairs are ordered by their distance over the threshold, in whichever space that is less."""
    assert closest([np.array([3.0, 1.0, 2.0]), np.array([0.1, 9.0, 0.5])], [1.0, 1.0], 2) == [0, 2]
    assert quantiles(np.arange(101.0)) == {
        "min": 0,
        "1%": 1,
        "5%": 5,
        "25%": 25,
        "50%": 50,
        "75%": 75,
        "max": 100,
    }


# --------------------------------------------------------------------------------------------------------------
# Three samples


def points(num: int, seed: int, spread: float = 1.0) -> Tensor:
    """Points of one distribution (num, 8)."""
    return spread * torch.randn(num, 8, generator=torch.Generator().manual_seed(seed))


def test_copies_of_as_many_are_nearer_to_training() -> None:
    """Of copies nearly all are nearer to training crops than to as many held-out photographs, wherever they lie; and
    the other way round nearly none.
    """
    training, held_out = References(points(100, 0)), References(points(100, 1))
    copies = training.vectors_MD.repeat(3, 1) + 0.01 * points(300, 2)
    found = copying(copies, training, held_out, 0.1)
    assert found.nearer_to_training.value > 0.99
    assert found.nearer_to_training.low > 0.8
    assert (found.near_training, found.near_held_out) == (1, 0)
    turned = copying(copies, held_out, training, 0.1)
    assert turned.nearer_to_training.value < 0.01
    assert (turned.near_training, turned.near_held_out) == (0, 1)


@pytest.mark.parametrize(("num_training", "num_held_out"), [(100, 100), (400, 60), (60, 400)])
@pytest.mark.parametrize("spread", [1.0, 0.7])
def test_strangers_are_as_near_to_both(num_training: int, num_held_out: int, spread: float) -> None:
    """Points that copy nothing are as near to both, also where they are drawn to the middle and so are near to all:
    the interval holds what is expected nineteen times in twenty, or nearly, however many are held out.
    """
    values, held = [], []
    for seed in range(40):
        training = References(points(num_training, 3 * seed))
        held_out = References(points(num_held_out, 3 * seed + 1))
        found = copying(points(100, 3 * seed + 2, spread), training, held_out, 0.1, seed)
        for share in (found.nearer_to_training, found.nearest_is_training):
            values.append(share.value - share.expected)
            held.append(share.low <= share.expected <= share.high)
        assert found.nearer_to_training.expected == 0.5
    for of in (slice(0, None, 2), slice(1, None, 2)):
        assert np.mean(values[of]) == pytest.approx(0, abs=0.05)
        assert np.mean(held[of]) > 0.85


@pytest.mark.parametrize("num_held_out", [60, 600])
def test_copies_show_in_how_rarely_a_held_out_photograph_is_the_nearest(num_held_out: int) -> None:
    """Where half the pictures copy, a held-out photograph is the nearest of all half as often as is expected."""
    training, held_out, pictures = points(600, 0), points(num_held_out, 1), points(300, 2)
    pictures[::2] = training[:150] + 0.01 * points(150, 3)
    share = copying(pictures, References(training), References(held_out), 0.1).nearest_is_training
    assert share.expected == pytest.approx(600 / (600 + num_held_out))
    assert (1 - share.value) / (1 - share.expected) == pytest.approx(0.5, abs=0.1)
    assert share.low > share.expected


def test_as_many_crops_are_all_choices_of_them() -> None:
    """The share over as many training crops is the mean over random choices of them, drawn one by one."""
    rng = np.random.default_rng(0)
    training, held_out, pictures = points(50, 0), points(12, 1), points(80, 2)
    drawn, near = [], []
    to_held_out = nearest(pictures, held_out).distance
    for _ in range(400):
        few = nearest(pictures, training[rng.permutation(50)[:12]]).distance
        drawn.append((few < to_held_out).mean())
        near.append((few < 2).mean())
    found = copying(pictures, References(training), References(held_out), 2)
    assert found.nearer_to_training.value == pytest.approx(np.mean(drawn), abs=0.01)
    assert found.near_training == pytest.approx(np.mean(near), abs=0.01)
    assert found.near_held_out == (to_held_out < 2).mean()


def test_mirror_images_count_alike_in_both() -> None:
    """A mirrored copy of a training crop is nearer to training, one of a held-out photograph nearer to that."""
    both = [pixel_vectors(pictures(40, seed)) for seed in (0, 1)]
    mirrored = [pixel_vectors(pictures(40, seed).flip(-1)) for seed in (0, 1)]
    training, held_out = (References(*pair) for pair in zip(both, mirrored, strict=True))
    for copies, expected in zip(mirrored, (1, 0), strict=True):
        assert copying(copies, training, held_out, 0.01).nearer_to_training.value == expected


# --------------------------------------------------------------------------------------------------------------
# The audit of a run


@pytest.fixture(scope="module")
def crops() -> list[ImageArray]:
    """The training crops, (side, side, 3)."""
    return list(pictures(NUM, 0, 16).permute(0, 2, 3, 1).numpy())


@pytest.fixture(scope="module")
def run(crops: list[ImageArray], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny trained run on crops with photographs on record."""
    store = Store(tmp_path_factory.mktemp("store"))
    return tiny_run.trained(store, tiny_run.tiny_dataset(store, crops))


def copying_crops(crops: list[ImageArray]) -> Callable[..., ImageArray]:
    """Draws, for each seed, a training crop, mirrored for odd seeds."""

    def images_from_seeds(generator: Generator, seeds: Sequence[int], psi: float, **_: Any) -> ImageArray:
        chosen = [crops[seed % len(crops)].transpose(2, 0, 1) for seed in seeds]
        flipped = [crop[..., ::-1] if seed % 2 else crop for seed, crop in zip(seeds, chosen, strict=True)]
        return np.ascontiguousarray(np.stack(flipped))

    return images_from_seeds


def test_an_honest_generator_copies_nothing(run: Run) -> None:
    """A generator hardly trained has no near-copies; the audit says how it was calibrated and by what."""
    result = audit(run, run.newest_checkpoint(), AuditConfig(num_images=8, num_pairs=3), CPU)
    assert result.near_copies_in_both == 0
    assert result.held_out["method"].startswith("leave-one-out")
    assert result.held_out["num_images"] == NUM
    assert (result.num_training_crops, result.mirror_images) == (NUM, True)
    assert result.weights_sha256 == tiny_run.LITE0_SHA256
    kept = json.loads((run.folder / "audit" / f"{run.newest_checkpoint().name}.json").read_text())
    assert kept == result.as_json()
    assert result.copying == {}
    del kept["copying"]
    assert (
        AuditRecord.of_value(kept, "an audit before there were held-out photographs to compare with").copying
        == {}
    )


def test_a_copying_generator_is_caught_with_its_sources(
    run: Run, crops: list[ImageArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a generator that hands out training crops, mirrored or not, all are near-copies in both spaces, and each
    pair names the crop and its photograph's page, licence and author.
    """
    monkeypatch.setattr(subject, "images_from_seeds", copying_crops(crops))
    result = audit(run, run.newest_checkpoint(), AuditConfig(num_images=12, num_pairs=5, seed=3), CPU)
    assert result.near_copies_in_both == 1
    rows = {row["ref"]: row for row in trace(run.store, run.id).images}
    for pair in result.pairs:
        row = rows[f"{pair['seed'] % NUM}.jpg"]
        for space in ("embedding", "pixels"):
            hit = pair[space]
            assert hit["is_near_copy"]
            assert (hit["key"], hit["mirrored"]) == (row["key"], bool(pair["seed"] % 2))
            assert hit["source"]["page"] == row["page"]
            assert hit["source"]["license"] == "CC-BY-4.0"
            assert hit["source"]["photo_sha256"] == row["photo_sha256"]
    with Image.open(run.folder / result.sheet) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (5 * 16, 3 * 16, 3)
    assert np.array_equal(pixels[:, :16], pixels[:, 16:32])
    assert np.array_equal(pixels[:, :16], pixels[:, 32:])
    kinds = [step.kind for step in trace(run.store, str(run.folder / result.sheet)).steps]
    assert kinds == ["audit", "checkpoint", "training run", "dataset"]


def test_half_a_copying_generator_and_other_settings(
    run: Run, crops: list[ImageArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are a share of what is generated, at the truncation asked for; the percentile sets the threshold."""
    psis = set()

    def half_copied(generator: Generator, seeds: Sequence[int], psi: float, **others: Any) -> ImageArray:
        psis.add(psi)
        images = copying_crops(crops)(generator, seeds, psi, **others)
        images[[seed % 2 == 1 for seed in seeds]] = 0
        return images

    monkeypatch.setattr(subject, "images_from_seeds", half_copied)
    checkpoint = run.newest_checkpoint()
    result = audit(run, checkpoint, AuditConfig(num_images=12, truncation_psi=0.6), CPU)
    assert psis == {0.6}
    assert result.near_copies_in_either == result.near_copies_in_both == 0.5
    apart = [space["held_out_near_copies"] for space in result.spaces.values()]
    assert 0 < max(apart) <= result.held_out_near_copies_in_either <= sum(apart)
    for percentile, quantile in ((5.0, "5%"), (25.0, "25%")):
        result = audit(run, checkpoint, AuditConfig(num_images=4, percentile=percentile), CPU)
        for space in result.spaces.values():
            assert space["threshold"] == pytest.approx(space["held_out"][quantile])


def test_held_out_photographs_of_another_dataset(
    run: Run, crops: list[ImageArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another dataset calibrates, but for the photographs in it that were trained on; one of those alone is refused.

    Pictures are compared with it too: those of a generator that hands out crops, mirrored or not, are nearer to
    training, all of them in both spaces.
    """
    others = list(pictures(20, 9, 16).permute(0, 2, 3, 1).numpy())
    tiny_run.tiny_dataset(run.store, [*others, *crops[:4]], "others")
    result = audit(run, run.newest_checkpoint(), AuditConfig(num_images=4, held_out="others"), CPU)
    about = result.held_out
    assert about["method"].startswith("dataset others@")
    assert (about["num_images"], about["num_left_out_as_trained_on"]) == (20, 4)
    assert set(result.copying) == {"embedding", "pixels"}
    for between in result.copying.values():
        nearer = between.nearer_to_training
        assert 0 <= nearer.low <= nearer.value <= nearer.high <= 1
        assert between.nearest_is_training.expected == NUM / (NUM + NUM)
    monkeypatch.setattr(subject, "images_from_seeds", copying_crops(crops))
    fewer = AuditConfig(num_images=4, held_out="others", num_held_out=10)
    result = audit(run, run.newest_checkpoint(), fewer, CPU)
    assert result.held_out["num_images"] == 10
    for between in result.copying.values():
        assert between.nearest_is_training.value == 1
        assert between.nearer_to_training.value > 0.5
    with pytest.raises(ConfigError, match="name another dataset"):
        audit(run, run.newest_checkpoint(), AuditConfig(num_images=4, held_out="faces"), CPU)


def test_a_split_is_trained_on_and_another_held_out(tmp_path: Path) -> None:
    """A run of a split sees and is measured by its images alone; those of another one calibrate its audit."""
    store = Store(tmp_path)
    crops = list(pictures(30, 0, 16).permute(0, 2, 3, 1).numpy())
    splits = ["test" if number % 3 == 0 else "train" for number in range(30)]
    tiny_run.tiny_dataset(store, crops, splits=splits)
    part = open_part(store, "faces:train")
    run = tiny_run.trained(store, part.summary())
    assert (run.record.dataset.num_images, run.record.dataset.split) == (20, "train")
    images = images_of(run, TrainConfig.model_validate(run.record.config))
    shown = {image.pixels.tobytes() for image in islice(images.stream(0, 16), 40)}
    wanted = {crop.tobytes() for crop, split in zip(crops, splits, strict=True) if split == "train"}
    assert shown == wanted
    measured = Subject.of(run, run.newest_checkpoint(), CPU, psi=1.0).reals
    assert frozenset(key for keys, _ in measured.batches(7) for key in keys) == part.keys
    result = audit(run, run.newest_checkpoint(), AuditConfig(num_images=4, held_out="faces:test"), CPU)
    assert result.num_training_crops == 20
    assert (result.held_out["num_images"], result.held_out["num_left_out_as_trained_on"]) == (10, 0)
    assert result.held_out["method"].endswith(":test")
    with pytest.raises(ConfigError, match="name another dataset"):
        audit(run, run.newest_checkpoint(), AuditConfig(num_images=4, held_out="faces:train"), CPU)
    chain = trace(store, run.id)
    assert frozenset(row["key"] for row in chain.images) == part.keys


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("faces:exam", "its splits are test, train"),
        ("plain:test", "built without --splits"),
        ("faces:", "no split ''"),
    ],
)
def test_a_split_that_is_not_there_is_named(tmp_path: Path, reference: str, message: str) -> None:
    """Whoever names a split that a version lacks is told which it has; a split is not taken for all of a version."""
    store = Store(tmp_path)
    crops = list(pictures(4, 0, 16).permute(0, 2, 3, 1).numpy())
    tiny_run.tiny_dataset(store, crops, splits=["train", "train", "train", "test"])
    tiny_run.tiny_dataset(store, crops, "plain")
    with pytest.raises(ConfigError, match=message):
        open_part(store, reference)
    with pytest.raises(ConfigError, match="all of a version is meant here: give faces"):
        open_dataset(store, "faces:test")


def test_embeddings_are_of_a_quarter() -> None:
    """Pictures are shrunk by area to a quarter of their side, small ones less, before they are embedded."""
    images = pictures(2, 0, 128)
    shrunk = torch.nn.functional.avg_pool2d(images.float(), 4).round().byte()
    assert torch.equal(coarse(images), shrunk)
    assert coarse(pictures(1, 0, 32)).shape[-1] == 16
    assert coarse(pictures(1, 0, 8)).shape[-1] == 8


def test_few_calibrate_where_there_are_many(tmp_path: Path) -> None:
    """Of more crops than calibrate, every so many does, and none of them meets itself."""
    store = Store(tmp_path)
    crops = list(pictures(25, 0, 16).permute(0, 2, 3, 1).numpy())
    run = tiny_run.trained(store, tiny_run.tiny_dataset(store, crops))
    result = audit(run, run.newest_checkpoint(), AuditConfig(num_images=4, num_held_out=10), CPU)
    assert result.held_out["num_images"] == len(range(0, 25, 3))
    for name, space in result.spaces.items():
        assert space["held_out"]["min"] > 0, name


def test_mirror_images_are_looked_at_where_they_were_trained_on(
    crops: list[ImageArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without flips has not seen mirror images, and none is found; embeddings are of shrunk pictures."""
    store = Store(tmp_path)
    run = tiny_run.trained(store, tiny_run.tiny_dataset(store, crops), x_flips=False)
    monkeypatch.setattr(subject, "images_from_seeds", copying_crops(crops))
    sizes = []
    monkeypatch.setattr(auditing, "coarse", lambda images: sizes.append(len(images)) or coarse(images))
    result = audit(run, run.newest_checkpoint(), AuditConfig(num_images=4, num_pairs=4), CPU)
    assert not any(pair[space]["mirrored"] for pair in result.pairs for space in ("embedding", "pixels"))
    for pair in result.pairs:
        assert (pair["pixels"]["distance"] == 0) == (pair["seed"] % 2 == 0)
    assert sum(sizes) == NUM + 4
