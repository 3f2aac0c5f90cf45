"""The metrics of tiny runs, by stand-ins: right numbers, right records."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

import tiny_run
from storage.code import code_digest
from storage.errors import ConfigError
from storage.runs import MetricRecord, Run, metrics_path, record_metrics, recorded_metrics
from storage.store import Store
from training.data import ImageArray
from training.drawing.images import images_from_seeds
from training.drawing.trained import load_generator
from training.extractors.efficientnet import EfficientNetLite0
from training.metrics import measure as measurements
from training.metrics.crops import RealCrops
from training.metrics.evaluate import best_checkpoint, evaluate
from training.metrics.formulas import frechet_distance
from training.metrics.settings import EvaluateConfig

CPU = torch.device("cpu")


STAND_INS = (
    "fd_efficientnet_lite0", "kid_efficientnet_lite0", "precision_efficientnet_lite0", "recall_efficientnet_lite0",
    "ppl_efficientnet_lite0_z_full", "ppl_efficientnet_lite0_w_end",
)  # fmt: skip


Records = dict[str, MetricRecord]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny trained run with two checkpoints."""
    store = Store(tmp_path_factory.mktemp("store"))
    return tiny_run.trained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(13)))


@pytest.fixture(scope="module")
def records(run: Run) -> Records:
    """Every stand-in, of the newest checkpoint."""
    return evaluate(run, run.newest_checkpoint(), EvaluateConfig(metrics=STAND_INS, num_images=12), CPU)


def test_records_say_what_numbers_depend_on(run: Run, records: Records) -> None:
    """Each number stands with extractor, hash, resize, counts, checkpoint, weights, dataset and seed, as on disk."""
    assert tuple(records) == STAND_INS
    for name, record in records.items():
        assert math.isfinite(record.value), name
        assert record.extractor == "efficientnet_lite0"
        assert record.weights_sha256 == tiny_run.LITE0_SHA256
        assert record.resize.startswith("224 px")
        assert record.num_fakes == 12
        assert record.checkpoint == run.newest_checkpoint().name
        assert (record.truncation_psi, record.seed, record.resolution) == (1.0, 0, 16)
        assert record.shown().keys() >= {
            "seconds",
            "generator_sha256",
            "dataset_manifest_sha256",
            "lod",
            "device",
        }
    assert records["fd_efficientnet_lite0"].num_reals == 13
    assert records["ppl_efficientnet_lite0_w_end"].value > 0
    assert recorded_metrics(run, run.newest_checkpoint()).items() >= records.items()


def test_real_crops_are_mirrored_where_the_run_mirrors(run: Run, tmp_path: Path) -> None:
    """Mirrored, each crop is itself or its mirror image, always the same one; a run without flips mirrors none."""
    plain, one, same = (
        np.concatenate([images for _, images in crops.batches(5)])
        for crops in (
            RealCrops.of(run.store, run.record.dataset, 16, is_mirrored=is_mirrored)
            for is_mirrored in (False, True, True)
        )
    )
    assert np.array_equal(one, same)
    flipped = [np.array_equal(image, real[..., ::-1]) for image, real in zip(one, plain, strict=True)]
    kept = [np.array_equal(image, real) for image, real in zip(one, plain, strict=True)]
    assert 0 < sum(flipped) < len(flipped)
    assert [not flip for flip in flipped] == kept
    store = Store(tmp_path)
    images = tiny_run.noise_images(12)
    found = []
    for flips in (True, False):
        of_run = tiny_run.trained(
            store,
            tiny_run.tiny_dataset(store, images),
            total_kimg=0.016,
            x_flips=flips,
            metrics_mirror_reals=True,
        )
        for mirror in (None, False):
            config = EvaluateConfig(metrics=("fd_efficientnet_lite0",), num_images=4, mirror_reals=mirror)
            record = evaluate(of_run, of_run.newest_checkpoint(), config, torch.device("cpu"))
            found.append(record["fd_efficientnet_lite0"].mirrors_reals)
    assert found == [True, False, False, False]


def test_metrics_are_deterministic_and_batches_do_not_matter(run: Run, records: Records) -> None:
    """Evaluated again, in other batches and with the reals from the cache, the numbers are the same."""
    asked = ("fd_efficientnet_lite0", "ppl_efficientnet_lite0_z_full", "recall_efficientnet_lite0")
    config = EvaluateConfig(metrics=asked, num_images=12, batch_size=5)
    cached = list(run.store.keys("cache/features"))
    again = evaluate(run, run.newest_checkpoint(), config, CPU)
    for name in asked:
        assert again[name].value == pytest.approx(records[name].value, rel=1e-3), name
    assert list(run.store.keys("cache/features")) == cached != []


def test_other_code_takes_no_cached_features(
    run: Run,
    records: Records,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Under another version of a library that decodes, the features of the reals are computed anew and kept apart."""
    (tmp_path / "pillow-99.dist-info").mkdir()
    (tmp_path / "pillow-99.dist-info" / "METADATA").write_text("Name: pillow\nVersion: 99\n")
    cached = set(run.store.keys("cache/features"))
    monkeypatch.syspath_prepend(tmp_path)
    request.addfinalizer(code_digest.cache_clear)
    code_digest.cache_clear()
    config = EvaluateConfig(metrics=("fd_efficientnet_lite0",), num_images=12)
    evaluate(run, run.newest_checkpoint(), config, CPU)
    assert len(set(run.store.keys("cache/features")) - cached) == 1


class SquaredDifference:
    """A distance of pictures that can be followed by hand."""

    name, weights_sha256, resize = "squared difference", "none", "none"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """(N,) of pictures (N, 3, R, R)."""
        return (a.double() - b.double()).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("space", ["z", "w"])
@pytest.mark.parametrize("sampling", ["full", "end"])
@torch.no_grad()
def test_path_lengths_are_those_followed_by_hand(
    run: Run, monkeypatch: pytest.MonkeyPatch, space: str, sampling: str
) -> None:
    """Each path: two latents, one noise, two points 1e-4 apart in the space named, faces cut out, in [0, 255]."""
    num = 200
    monkeypatch.setattr(measurements, "open_distance", lambda *_: SquaredDifference())
    checkpoint, name = run.newest_checkpoint(), f"ppl_efficientnet_lite0_{space}_{sampling}"
    found = evaluate(run, checkpoint, EvaluateConfig(metrics=(name,), num_images=num), CPU)[name].value
    generator = load_generator(checkpoint, CPU)
    lengths = []
    for seed in range(num):
        rng = torch.Generator().manual_seed(seed)
        first, second = (torch.randn(1, generator.z_dim, generator=rng) for _ in range(2))
        noise = list(generator.draw_noise(1, rng))
        start = torch.rand(1, generator=rng) if sampling == "full" else torch.zeros(1)
        pictures = []
        for t in (start, start + 1e-4):
            if space == "w":
                w = torch.lerp(generator.mapping(first), generator.mapping(second), t)
            else:
                a, b = first / first.norm(), second / second.norm()
                angle = torch.acos((a * b).sum())
                w = generator.mapping((a * ((1 - t) * angle).sin() + b * (t * angle).sin()) / angle.sin())
            image = generator.synthesis(generator.broadcast(w), noise, generator.lod)
            side = image.shape[-1]
            pictures.append(
                (image[..., side * 3 // 8 : side * 7 // 8, side // 4 : side * 3 // 4] + 1) * 127.5
            )
        lengths.append(float((pictures[0].double() - pictures[1].double()).square().mean()) / 1e-8)
    middle = sorted(lengths)[1:-1]  # the first and the last percentile of 200, the values around them in
    assert found == pytest.approx(sum(middle) / len(middle), rel=0.005)


def test_the_fakes_are_the_images_of_the_seeds(run: Run, records: Records) -> None:
    """The distance is that of the images that `likeness generate` draws from the untruncated seeds."""
    generator = load_generator(run.newest_checkpoint(), CPU)
    network = EfficientNetLite0(CPU)
    fakes = network.features(torch.from_numpy(images_from_seeds(generator, range(12), 1.0)))
    reals = network.features(torch.from_numpy(np.stack(tiny_run.noise_images(13)).transpose(0, 3, 1, 2)))
    value = records["fd_efficientnet_lite0"].value
    assert frechet_distance(reals, fakes) == pytest.approx(value, rel=1e-4)


def test_records_are_merged(run: Run, records: Records) -> None:
    """A later evaluation adds to the record and leaves the rest."""
    checkpoint = run.checkpoints()[0]
    for name in ("kid_efficientnet_lite0", "fd_efficientnet_lite0"):
        evaluate(run, checkpoint, EvaluateConfig(metrics=(name,), num_images=4), CPU)
    path = metrics_path(run, checkpoint)
    assert set(json.loads(path.read_text())) == {"kid_efficientnet_lite0", "fd_efficientnet_lite0"}
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


def test_evaluation_leaves_the_random_state_alone(run: Run) -> None:
    """The global random numbers go on as if nothing had been measured."""
    torch.manual_seed(5)
    np.random.seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    evaluate(run, run.newest_checkpoint(), EvaluateConfig(metrics=STAND_INS[:2], num_images=4), CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_the_best_checkpoint(run: Run) -> None:
    """Lowest for distances, highest for shares, None where nothing was measured."""
    first, last = run.checkpoints()[0], run.checkpoints()[-1]
    for checkpoint, value in ((first, 1.0), (last, 2.0)):
        path = metrics_path(run, checkpoint)
        path.parent.mkdir(exist_ok=True)
        kept = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**kept, "fid": {"value": value}, "recall": {"value": value}}))
    assert best_checkpoint(run, "fid") == first
    assert best_checkpoint(run, "recall") == last
    assert best_checkpoint(run, "kid") is None
    for checkpoint, value in ((first, math.nan), (last, 5.0)):
        record_metrics(run, checkpoint, {"kid": MetricRecord.new(value=value)})
    assert best_checkpoint(run, "kid") == last


@pytest.mark.parametrize("settings", [{"generator": "traditional"}, {"synthesis_input": "latent"}])
def test_where_images_are_not_of_w_alone_paths_are_in_z(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Paths in Z are measured; what is of W is refused in a sentence."""
    store = Store(tmp_path)
    run = tiny_run.trained(
        store, tiny_run.tiny_dataset(store, tiny_run.noise_images(5)), total_kimg=0.008, **settings
    )
    asked = EvaluateConfig(metrics=("ppl_efficientnet_lite0_z_end",), num_images=4)
    assert evaluate(run, run.newest_checkpoint(), asked, CPU)["ppl_efficientnet_lite0_z_end"].value > 0
    for name in ("ppl_efficientnet_lite0_w_full", "separability_w"):
        with pytest.raises(ConfigError, match="not made from w alone"):
            evaluate(run, run.newest_checkpoint(), EvaluateConfig(metrics=(name,)), CPU)


def test_unknown_names_list_the_known() -> None:
    """A metric that is none is refused with the names of all."""
    with pytest.raises(ValueError, match="'is50k' is none of the metrics fid, fd_efficientnet_lite0, kid"):
        EvaluateConfig(metrics=("is50k",))


# --------------------------------------------------------------------------------------------------------------
# The stand-in on real photographs


def test_stand_in_grows_with_blur_and_with_strangers(faces: Path) -> None:
    """On real portraits the stand-in's distance rises with blur and with foreign pictures, and KID with it."""
    pictures = tiny_run.portraits(faces, 48, 64)
    network = EfficientNetLite0(CPU)

    def features(images: Sequence[ImageArray]) -> Tensor:
        return network.features(torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2)))

    def blurred(radius: float) -> list[ImageArray]:
        return [
            np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(radius))) for p in pictures[24:]
        ]

    reals = features(pictures[:24])
    values = [frechet_distance(reals, features(blurred(radius))) for radius in (0, 1, 3)]
    assert values == sorted(values), values
    foreign = [*pictures[24:36], *tiny_run.noise_images(12, 64)]
    assert frechet_distance(reals, features(foreign)) > 1.5 * values[0]


def test_stand_in_distance(faces: Path) -> None:
    """The stand-in's distance is 0 for equal pictures, symmetric, and grows with blur."""
    network = EfficientNetLite0(CPU)
    picture = Image.fromarray(tiny_run.portraits(faces, 1, 128)[0])
    a, *others = (
        torch.from_numpy(np.array(picture.filter(ImageFilter.GaussianBlur(radius)))).permute(2, 0, 1)[None].float()
        for radius in (0, 0.5, 1, 3)
    )  # fmt: skip
    assert float(network(a, a)) == 0
    values = [float(network(a, other)) for other in others]
    assert values == sorted(values)
    assert values[0] > 0
    assert float(network(others[2], a)) == pytest.approx(values[2], rel=1e-5)
