"""Published metrics and classifiers: torch-fidelity's numbers, weights from a folder, one-line errors."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny_run
from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError
from storage.runs import Run
from storage.store import Store
from training.data import ImageArray
from training.drawing.images import images_from_seeds
from training.drawing.trained import load_generator
from training.extractors.attributes import Attributes
from training.extractors.published import Inception, Vgg16Lpips
from training.extractors.weights import INCEPTION_FILE, LPIPS_FILE, VGG16_FILE, WeightsFile, WeightsPlace
from training.metrics.crops import RealCrops
from training.metrics.evaluate import evaluate
from training.metrics.formulas import frechet_distance, separability
from training.metrics.settings import EvaluateConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny trained run."""
    store = Store(tmp_path_factory.mktemp("store"))
    return tiny_run.trained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(13)))


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
