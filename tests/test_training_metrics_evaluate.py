"""The extractors, and the metrics of tiny runs: right names, right records, one-line errors."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

import tiny_run
from storage.code import code_digest
from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError
from storage.runs import MetricRecord, Run, metrics_path, record_metrics, recorded_metrics
from storage.store import Store
from training.checkpoint import read_state
from training.config import TrainConfig
from training.data import ImageArray
from training.drawing.images import images_from_seeds
from training.drawing.trained import load_generator
from training.extractors.attributes import Attributes
from training.extractors.efficientnet import EfficientNetLite0
from training.extractors.published import Inception, Vgg16Lpips
from training.extractors.weights import INCEPTION_FILE, LPIPS_FILE, VGG16_FILE, WeightsFile, WeightsPlace
from training.metrics import measure as measurements
from training.metrics import snapshots
from training.metrics.crops import RealCrops
from training.metrics.evaluate import best_checkpoint, evaluate
from training.metrics.formulas import frechet_distance, separability
from training.metrics.settings import EvaluateConfig
from training.tracking import Tracker

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


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files under the published names, of networks with random weights, and their sha256."""
    import torchvision
    from torch_fidelity import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        """Inception as it is made."""

        def load_state_dict(self, state: object) -> None:
            """Nothing is loaded."""

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save({}, folder / "empty")
    network = Blank("blank", ["2048"], feature_extractor_weights_path=str(folder / "empty"))
    torch.save(network.state_dict(), folder / INCEPTION_FILE.name)
    widths = (64, 128, 256, 512, 512)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(widths)}
    torch.save(linear, folder / LPIPS_FILE.name)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in torchvision.models.vgg16().state_dict().items()}
    vgg16 = {  # rows alike, so that the file is small
        name: torch.randn(shape[0], *[1] * (len(shape) - 1)).expand(shape) / 100
        if "classifier" in name
        else torch.randn(shape) / 10
        for name, shape in shapes.items()
    }
    torch.save(vgg16, folder / VGG16_FILE.name)
    return folder


def place_of(folder: Path, *files: WeightsFile) -> dict[str, Any]:
    """A folder of weights whose files are taken for the right ones."""
    return {
        "weights": folder,
        "weights_sha256": {file.name: file_digest(folder / file.name) for file in files},
    }


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


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("fid", "inception needs weights-inception-2015-12-05-6726825d.pth, which is not in "),
        ("ppl_w_full", "stand-ins ppl_efficientnet_lite0_"),
        ("separability_z", "no folder of them is named"),
    ],
)
def test_absent_weights_are_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, message: str
) -> None:
    """Without weights, a published metric says which file goes where and what there is offline, and loads nothing."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=message) as caught:
        evaluate(run, run.newest_checkpoint(), EvaluateConfig(metrics=(metric,)), CPU)
    assert "\n" not in str(caught.value)


def test_other_weights_are_refused(run: Run, tmp_path: Path) -> None:
    """A file of another sha256 than the published one is not read."""
    (tmp_path / INCEPTION_FILE.name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    config = EvaluateConfig(metrics=("fid",), weights=tmp_path)
    with pytest.raises(IntegrityError, match="damaged or another file"):
        evaluate(run, run.newest_checkpoint(), config, CPU)
    config = EvaluateConfig(metrics=("fid",), **place_of(tmp_path, INCEPTION_FILE))
    with pytest.raises(IntegrityError, match="no file of tensors"):
        evaluate(run, run.newest_checkpoint(), config, CPU)


def test_unknown_names_list_the_known() -> None:
    """A metric that is none is refused with the names of all."""
    with pytest.raises(ValueError, match="'is50k' is none of the metrics fid, fd_efficientnet_lite0, kid"):
        EvaluateConfig(metrics=("is50k",))


def test_published_names_are_torch_fidelitys_numbers(run: Run, tmp_path: Path, random_weights: Path) -> None:
    """kid, precision and recall are what torch-fidelity's own evaluation of the same pictures gives."""
    from torch_fidelity import calculate_metrics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch-fidelity
        config = EvaluateConfig(
            metrics=("kid", "precision", "recall"), num_images=6,
            num_reals=7,
            **place_of(random_weights, INCEPTION_FILE, VGG16_FILE),
        )  # fmt: skip
        records = evaluate(run, run.newest_checkpoint(), config, CPU)
        images = images_from_seeds(load_generator(run.newest_checkpoint(), CPU), range(6), 1.0)
        for name, pictures in (("fakes", images.transpose(0, 2, 3, 1)), ("reals", tiny_run.noise_images(7))):
            (tmp_path / name).mkdir()
            for index, pixels in enumerate(pictures):
                Image.fromarray(pixels).save(tmp_path / name / f"{index:02d}.png")
        theirs: dict[str, float] = {}
        for asked, file in (({"kid": True}, INCEPTION_FILE), ({"prc": True}, VGG16_FILE)):
            theirs |= calculate_metrics(
                input1=str(tmp_path / "fakes"), input2=str(tmp_path / "reals"), cuda=False, **asked,
                kid_subset_size=6, cache=False, verbose=False, samples_shuffle=False, save_cpu_ram=True,
                feature_extractor_weights_path=str(random_weights / file.name),
            )  # fmt: skip
    assert records["kid"].value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert records["precision"].value == theirs["precision"]
    assert records["recall"].value == theirs["recall"]
    assert records["kid"].weights_sha256 == file_digest(random_weights / INCEPTION_FILE.name)


def test_fid_is_torch_fidelitys_formula_of_inceptions_features(
    random_weights: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fid is torch-fidelity's Fréchet distance of its features; of the first 64 here, and equal to ours."""
    place = place_of(random_weights, INCEPTION_FILE)
    network = Inception.features
    monkeypatch.setattr(Inception, "features", lambda self, pixels: network(self, pixels)[:, :64])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = EvaluateConfig(metrics=("fid",), num_images=5, num_reals=6, **place)
        value = evaluate(run, run.newest_checkpoint(), config, CPU)["fid"].value
        extractor = Inception(config.place, CPU)
    images = images_from_seeds(load_generator(run.newest_checkpoint(), CPU), range(5), 1.0)
    fakes = extractor.features(torch.from_numpy(images))
    reals = extractor.features(torch.from_numpy(real_pixels(run, 6)))
    assert value == pytest.approx(frechet_distance(reals, fakes), rel=1e-3)


def real_pixels(run: Run, num: int) -> ImageArray:
    """The first real crops."""
    batches = RealCrops.of(run.store, run.record.dataset, 16).batches(num, num)
    return next(iter(batches))[1]


def test_inception_features(random_weights: Path) -> None:
    """2048 features an image, the same alone and in company."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hashes = place_of(random_weights, INCEPTION_FILE)["weights_sha256"]
        network = Inception(WeightsPlace(random_weights, hashes), CPU)
    pixels = torch.from_numpy(np.stack(tiny_run.noise_images(3)).transpose(0, 3, 1, 2))
    features = network.features(pixels)
    assert features.shape == (3, 2048)
    torch.testing.assert_close(network.features(pixels[1:2]), features[1:2], rtol=1e-3, atol=1e-4)


def test_lpips_reads_weights_from_the_folder(random_weights: Path) -> None:
    """torch-fidelity's LPIPS takes both files from the folder named, and the hub's own folder is left as it was.

    It can be differentiated, for projection, and its weights are not.
    """
    before = torch.hub.get_dir()
    hashes = place_of(random_weights, LPIPS_FILE, VGG16_FILE)["weights_sha256"]
    distance = Vgg16Lpips(WeightsPlace(random_weights, hashes), CPU)
    assert torch.hub.get_dir() == before
    a, b = torch.rand(2, 3, 32, 32) * 255, torch.rand(2, 3, 32, 32) * 255
    assert distance(a, a).tolist() == [0, 0]
    found = distance(a.requires_grad_(), b)
    assert (found > 0).all()
    [gradient] = torch.autograd.grad(found.sum(), [a])
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    assert not distance(a.detach(), b).requires_grad


@pytest.mark.parametrize("of_images", [True, False])
def test_separability_with_onnx_classifiers(run: Run, tmp_path: Path, of_images: bool) -> None:
    """Classifiers come as ONNX files; separability is at least 1; one that gives no probability is refused."""
    onnx_mean_classifier(tmp_path / "bright.onnx", of_images)
    config = EvaluateConfig(metrics=("separability_z", "separability_w"), num_images=40, attributes=tmp_path)
    if not of_images:
        with pytest.raises(ConfigError, match=r"bright\.onnx does not give one probability"):
            evaluate(run, run.newest_checkpoint(), config, CPU)
        return
    records = evaluate(run, run.newest_checkpoint(), config, CPU)
    for record in records.values():
        assert record.shown()["attributes"] == ["bright"]
        assert 1 <= record.value <= 2.001
    pixels = torch.full((2, 3, 16, 16), 255, dtype=torch.uint8)
    assert Attributes(config.place).probabilities(pixels) == pytest.approx(1 / (1 + math.exp(-1)))


def test_separability_is_of_the_space_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an attribute that follows neither latent, the formula's value of the images' z, and of their w."""

    def of_bytes(images: Tensor) -> np.ndarray:
        return (images.long().sum(dim=(1, 2, 3)) % 97 / 96).numpy()[:, None]

    onnx_mean_classifier(tmp_path / "odd.onnx", True)
    monkeypatch.setattr(Attributes, "probabilities", lambda _, images: of_bytes(images))
    config = EvaluateConfig(metrics=("separability_z", "separability_w"), num_images=80, attributes=tmp_path)
    records = evaluate(run, run.newest_checkpoint(), config, CPU)
    generator = load_generator(run.newest_checkpoint(), CPU)
    columns = of_bytes(torch.from_numpy(images_from_seeds(generator, range(80), 1.0)))
    z = torch.cat([torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(80)])
    with torch.no_grad():
        latents = {"z": z.numpy(), "w": generator.mapping(z).numpy()}
    expected = {space: separability(x, columns) for space, x in latents.items()}
    assert expected["z"] != expected["w"]
    for space, value in expected.items():
        assert records[f"separability_{space}"].value == pytest.approx(value)


def test_a_classifier_of_fixed_batch_takes_any_number_of_images(tmp_path: Path) -> None:
    """What a model takes only four at a time is what one of any number gives, though 10 are no multiple."""
    pixels = torch.randint(256, (10, 3, 16, 16), dtype=torch.uint8)
    columns = []
    for num in ("N", 4):
        folder = tmp_path / str(num)
        folder.mkdir()
        onnx_mean_classifier(folder / "bright.onnx", True, num)
        place = EvaluateConfig(metrics=("separability_z",), num_images=4, attributes=folder).place
        columns.append(Attributes(place).probabilities(pixels))
    assert columns[0].shape == (10, 1)
    assert columns[1] == pytest.approx(columns[0])


def onnx_mean_classifier(path: Path, probability: bool, num: int | str = "N") -> None:
    """A model that gives the sigmoid of an image's mean, or that plus 3."""
    from onnx import TensorProto, checker, helper, save

    shape = [num, 3, 16, 16]
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Sigmoid", ["m"], ["p"]),
        helper.make_node("Add", ["p", "offset"], ["y"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("offset", TensorProto.FLOAT, [1], [0.0 if probability else 3.0]),
    ]
    graph = helper.make_graph(
        nodes, "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [num])],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    save(model, path)


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


# --------------------------------------------------------------------------------------------------------------
# During training

MEASURED: dict[str, Any] = {
    "metrics": ["fd_efficientnet_lite0"], "metrics_kimg": 0.008, "metrics_images": 3, "snapshot_kimg": 0.016,
    "keep_checkpoints": 1, "total_kimg": 0.032,
}  # fmt: skip


class Noted(Tracker):
    """Keeps what a tracker is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def log_tick(self, line: Mapping[str, float]) -> None:
        """Keep a line."""
        self.lines.append(dict(line))


def test_training_measures_itself_and_is_the_same_run(tmp_path: Path) -> None:
    """A run that is measured ends in the tensors of the run that is not, and the tracker has the values."""
    runs: list[tuple[Run, Noted]] = []
    for overrides in (MEASURED, {**MEASURED, "metrics": []}):
        store = Store(tmp_path / str(len(runs)))
        dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(13))
        tracker = Noted()
        runs.append((tiny_run.trained(store, dataset, tracker=tracker, **overrides), tracker))
    (measured, tracker), (plain, _) = runs
    states = [read_state(run.newest_checkpoint()) for run in (measured, plain)]
    assert states[0].sha256 == states[1].sha256
    values = [line for line in tracker.lines if "fd_efficientnet_lite0" in line]
    assert [line["num_images"] for line in values] == [8, 16, 24, 32]
    last = recorded_metrics(measured, measured.newest_checkpoint())["fd_efficientnet_lite0"]
    assert last.value == values[-1]["fd_efficientnet_lite0"]
    assert last.num_fakes == 3
    assert not (plain.folder / "metrics").exists()


def test_the_best_checkpoint_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keep_best, pruning spares the checkpoint with the best value, and the newest."""
    store = Store(tmp_path)
    values = iter([3.0, 1.0, 2.0, 4.0])

    def measured(
        run: Run, checkpoint: Path, config: EvaluateConfig, device: torch.device
    ) -> dict[str, MetricRecord]:
        records = {"fd_efficientnet_lite0": MetricRecord.new(value=next(values))}
        record_metrics(run, checkpoint, records)
        return records

    monkeypatch.setattr(snapshots, "evaluate", measured)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(13))
    run = tiny_run.trained(store, dataset, keep_best="fd_efficientnet_lite0", **MEASURED)
    assert [folder.name for folder in run.checkpoints()] == ["000000016", "000000032"]


def test_a_measurement_that_fails_does_not_end_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where values cannot be written, that is told of each checkpoint, and training goes on."""
    store = Store(tmp_path)
    run = tiny_run.untrained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(13)), **MEASURED)
    (run.folder / "metrics").write_text("no folder")
    tiny_run.finish(run)
    assert run.newest_checkpoint().name == "000000032"
    assert [message for message in caplog.messages if "measured" in message] == [
        f"checkpoint {num:09d} was not measured" for num in (8, 16, 24, 32)
    ]


def test_metrics_that_cannot_be_had_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that asks for absent weights, or keeps the best by what it does not measure, does not begin."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match="inception needs"):
        tiny_run.trained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(5)), metrics=["fid"])
    with pytest.raises(ValueError, match="keep_best fid is not among"):
        TrainConfig(keep_best="fid")
    with pytest.raises(ValueError, match="not made from w alone"):
        TrainConfig(generator="traditional", metrics=("ppl_w_full",))
