"""Images from seeds, and grids that carry where they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from storage.errors import IntegrityError
from training.checkpoint import State, read_state, save_checkpoint
from training.config import TrainConfig
from training.drawing.images import images_from_seeds, pixels
from training.drawing.pictures import generate_files, generate_grid, read_grid_metadata, write_grid
from training.drawing.trained import Trained, grid_metadata, load_generator
from training.engine.state import Training
from training.networks import TraditionalGenerator

CONFIG = TrainConfig(
    resolution=16, channel_base=64, max_channels=8, z_dim=8, w_dim=8, stable_kimg=1, fade_kimg=1, total_kimg=4
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint in the middle of the fade from 8 to 16, with noise that matters."""
    training = Training.begin(CONFIG, torch.device("cpu"))
    training.num_images = 1500
    for name, parameter in training.generator_ema.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.3)
    folder = tmp_path / "000001500"
    dataset = {"name": "faces", "version": "ab" * 8, "manifest_sha256": "ab" * 32}
    state = {"run_id": "run", "dataset": dataset, **training.state()}
    save_checkpoint(folder, training.networks, training.optimizers, state)
    return folder


def test_load_generator_at_its_level(checkpoint: Path) -> None:
    """The generator comes back with the averaged weights, at the level of detail of its images shown."""
    generator = load_generator(checkpoint, torch.device("cpu"))
    assert generator.lod == 0.5
    assert (generator.synthesis.layers[0].noise_strength == 0.3).all()
    assert images_from_seeds(generator, [0], 0.7).shape == (1, 3, 16, 16)


def test_young_generators_fill_the_full_resolution(checkpoint: Path) -> None:
    """Images of a generator that has not grown up are upscaled to its full resolution."""
    generator = load_generator(checkpoint, torch.device("cpu"))
    generator.lod = 1.0
    images = images_from_seeds(generator, [0], 0.7)
    assert images.shape == (1, 3, 16, 16)
    assert np.array_equal(images[..., ::2, ::2], images[..., 1::2, 1::2])


def test_a_seed_is_its_image_whatever_stands_beside(checkpoint: Path) -> None:
    """A seed gives the same image alone, in company, and in another batch size; others give others."""
    generator = load_generator(checkpoint, torch.device("cpu"))
    together = images_from_seeds(generator, range(10), 0.7, batch_size=4).astype(int)
    alone = images_from_seeds(generator, [6], 0.7)[0].astype(int)
    assert np.abs(together[6] - alone).max() <= 1
    assert np.abs(together[5] - alone).max() > 1


def test_the_traditional_generator_says_truncation_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """Truncation asked of a generator without w is ignored with a warning."""
    generator = TraditionalGenerator(8, z_dim=4, channel_base=64, max_channels=4).requires_grad_(False)
    images = images_from_seeds(generator, [0, 1], 0.5)
    assert images.shape == (2, 3, 8, 8)
    assert "truncation_psi 0.5 is ignored" in caplog.text


def test_the_record_has_the_truncation_that_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a generator without w, grids and files say psi 1, and a psi that cannot be makes no second picture."""
    generator = TraditionalGenerator(8, z_dim=4, channel_base=64, max_channels=4).requires_grad_(False)
    trained = Trained(generator, CONFIG, {"run_id": "run"})
    assert generate_grid(trained, [0, 1], tmp_path / "grid.png", [0.5, 0.7])["truncation_psi"] == 1
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (16, 8)
    [file] = generate_files(trained, [3], tmp_path, [0.5, 1.0])
    assert read_grid_metadata(file)["truncation_psi"] == 1
    assert "truncation_psi 0.7 is ignored" in caplog.text


def test_pixels_are_rounded() -> None:
    """The nearest of 256 levels, within 0 and 255."""
    levels = torch.arange(1, 255)
    for offset in (-0.4, 0.4):
        assert np.array_equal(pixels((levels + offset) / 127.5 - 1), levels.numpy())
    assert pixels(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


def test_grid_metadata_round_trip(checkpoint: Path, tmp_path: Path) -> None:
    """A grid's PNG says which run, checkpoint, weights, dataset and seeds made it."""
    state = load_state(checkpoint)
    metadata = {**grid_metadata(checkpoint, state), "seeds": [0, 1, 2], "truncation_psi": 0.7}
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 4), dtype=np.uint8)
    carried = write_grid(images, tmp_path / "new" / "grid.png", metadata)
    read = read_grid_metadata(tmp_path / "new" / "grid.png")
    assert read == carried == {**metadata, "pixels_sha256": read["pixels_sha256"]}
    assert read["generator_sha256"] == state.generator_sha256
    assert read["dataset"] == f"faces@{'ab' * 8}"
    assert read["dataset_manifest_sha256"] == "ab" * 32


def load_state(checkpoint: Path) -> State:
    """The checkpoint's state.json."""
    return read_state(checkpoint)


def test_grid_layout(tmp_path: Path) -> None:
    """Images stand in rows, in the order given; the rest of the last row is black."""
    images = np.stack([np.full((3, 2, 2), value, np.uint8) for value in (10, 20, 30)])
    write_grid(images, tmp_path / "grid.png", {}, columns=2)
    with Image.open(tmp_path / "grid.png") as image:
        pixels = np.asarray(image)
    assert pixels[::2, ::2, 0].tolist() == [[10, 20], [30, 0]]


def test_pictures_from_elsewhere_are_told(tmp_path: Path) -> None:
    """A PNG that was not written here has no metadata to read, and the error says so."""
    Image.new("RGB", (2, 2)).save(tmp_path / "other.png")
    with pytest.raises(IntegrityError, match=r"other\.png carries no likeness text"):
        read_grid_metadata(tmp_path / "other.png")
