"""training.drawing.export: a generator that leaves as safetensors or ONNX draws what it drew here."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from storage.errors import ConfigError, IntegrityError, NotFoundError
from storage.lineage.origin import read_provenance, sidecar_path
from training.config import TrainConfig
from training.drawing import export
from training.drawing.export import export_onnx, export_parts, export_safetensors
from training.drawing.images import images_from_seeds, inputs_from_seeds, synthesized
from training.drawing.previews import fit_colours
from training.drawing.trained import Trained, load_exported
from training.networks import build_generator

ORIGIN = {"run_id": "run", "checkpoint": "000001500", "generator_sha256": "ab" * 32, "dataset": "faces@v1"}


def trained(lod: float = 0.0, **settings: Any) -> Trained:
    """A small generator whose styles, noise and mean w matter."""
    torch.manual_seed(0)
    sizes = {
        "resolution": 8,
        "channel_base": 64,
        "max_channels": 8,
        "z_dim": 8,
        "w_dim": 8,
        "mapping_layers": 2,
    }
    config = TrainConfig(**{**sizes, **settings})
    generator = build_generator(config)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(parameter, 0.3)
    for name, buffer in generator.named_buffers():
        if name == "w_avg":
            buffer.normal_()
    generator.lod = lod
    return Trained(generator.requires_grad_(False), config, dict(ORIGIN))


@pytest.mark.parametrize("kind", ["style", "traditional"])
def test_safetensors_round_trip(tmp_path: Path, kind: str) -> None:
    """What is read back draws the same to the bit, at the same level of detail, and is the same file again."""
    was = trained(lod=0.5, generator=kind)
    metadata = export_safetensors(was, tmp_path / "g.safetensors")
    export_safetensors(was, tmp_path / "again.safetensors")
    read = load_exported(tmp_path / "g.safetensors")
    assert read.lod == 0.5
    assert (images_from_seeds(read, [1, 2], 1) == images_from_seeds(was.generator, [1, 2], 1)).all()
    assert (tmp_path / "g.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert read_provenance(tmp_path / "g.safetensors") == metadata
    assert metadata.items() >= ORIGIN.items()


@pytest.mark.parametrize("kind", ["style", "traditional"])
def test_half_precision_halves_the_file_and_draws_nearly_the_same(tmp_path: Path, kind: str) -> None:
    """Weights of fp16 are read as float32, and no pixel is more than a few grey levels away."""
    was = trained(generator=kind, resolution=32, max_channels=64, channel_base=1024)
    export_safetensors(was, tmp_path / "full.safetensors")
    metadata = export_safetensors(was, tmp_path / "half.safetensors", precision="fp16")
    assert (metadata["precision"], read_provenance(tmp_path / "half.safetensors")) == ("fp16", metadata)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full
    read = load_exported(tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in read.state_dict().values()} == {torch.float32}
    images = [images_from_seeds(generator, range(8), 1).astype(int) for generator in (read, was.generator)]
    difference = np.abs(images[0] - images[1])
    assert 0 < difference.max() <= 3, difference.max()
    assert difference.mean() < 0.1, difference.mean()


def test_weights_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    """A weight above what fp16 holds is named, and no file is written."""
    was = trained()
    bias = dict(was.generator.named_parameters())["mapping.layers.0.bias"]
    bias.fill_(1e5)
    with pytest.raises(
        ConfigError, match=r"mapping\.layers\.0\.bias has weights that are no finite numbers in fp16"
    ):
        export_safetensors(was, tmp_path / "g.safetensors", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_no_exports(tmp_path: Path) -> None:
    """What is not there, is no safetensors, or was not written here is told apart."""
    from safetensors.torch import save_file

    with pytest.raises(NotFoundError, match="not there"):
        load_exported(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, world")
    with pytest.raises(IntegrityError, match="cannot be read as safetensors"):
        load_exported(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(IntegrityError, match="was not exported here"):
        load_exported(tmp_path / "other.safetensors")


def run_onnx(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The file's images."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {given.name for given in session.get_inputs()} == inputs.keys()
    images: np.ndarray = session.run(["images"], inputs)[0]
    return images


def test_onnx_with_an_imports_own_noise(tmp_path: Path) -> None:
    """The fixed noise that an imported network brought is that of all images; a run has none."""
    was = trained()
    noise = tuple(torch.randn_like(layer) for layer in inputs_from_seeds(was.generator, [0])[1])
    with pytest.raises(ConfigError, match="noise own is that of an imported network: choose const or input"):
        export_onnx(was, tmp_path / "g.onnx", noise="own")
    metadata = export_onnx(dataclasses.replace(was, noise=noise), tmp_path / "g.onnx", noise="own")
    assert metadata["noise"] == "own"
    z = torch.randn(3, 8)
    expected = was.generator(z, [layer.expand(3, -1, -1, -1) for layer in noise], psi=1.0)
    found = run_onnx(tmp_path / "g.onnx", {"z": z.numpy(), "psi": np.array(1.0, np.float32)})
    assert np.abs(found - expected.numpy()).max() < 1e-4


def test_onnx_is_torch_with_constant_noise(tmp_path: Path) -> None:
    """For a batch never exported nor checked and a psi of its own, images are torch's with one noise for all."""
    was = trained(truncation_cutoff=2)
    path = tmp_path / "new" / "g.onnx"
    metadata = export_onnx(was, path, noise_seed=4)
    assert 0 <= metadata["max_difference"] < 1e-4
    assert read_provenance(path) == metadata
    z = torch.randn(7, 8)
    expected = was.generator(
        z,
        [layer.expand(7, -1, -1, -1) for layer in inputs_from_seeds(was.generator, [4])[1]],
        psi=0.3,
        cutoff=2,
    )
    found = run_onnx(path, {"z": z.numpy(), "psi": np.array(0.3, np.float32)})
    assert np.abs(found - expected.numpy()).max() < 1e-4
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=r"g\.onnx has changed since g\.onnx\.json"):
        read_provenance(path)


def test_onnx_is_torch_with_noise_as_input(tmp_path: Path) -> None:
    """Each image's own noise comes in; a generator in the middle of a fade fills the full resolution."""
    was = trained(lod=1.5, resolution=16)
    export_onnx(was, tmp_path / "g.onnx", noise="input")
    z, noise = inputs_from_seeds(was.generator, [3, 4, 5])
    inputs = {"z": z.numpy(), "psi": np.array(0.7, np.float32)}
    inputs |= {f"noise_{index}": layer.numpy() for index, layer in enumerate(noise)}
    found = run_onnx(tmp_path / "g.onnx", inputs)
    expected = images_from_seeds(was.generator, [3, 4, 5], 0.7)
    assert found.shape == (3, 3, 16, 16)
    assert np.abs((found + 1) * 127.5 - expected)[(expected > 0) & (expected < 255)].max() < 1


def test_the_traditional_generator_takes_z_alone(tmp_path: Path) -> None:
    """It has neither psi nor noise."""
    was = trained(generator="traditional")
    metadata = export_onnx(was, tmp_path / "g.onnx")
    z = torch.randn(3, 8)
    assert np.abs(run_onnx(tmp_path / "g.onnx", {"z": z.numpy()}) - was.generator(z).numpy()).max() < 1e-4
    assert metadata["noise"] == "none"
    assert "noise_seed" not in metadata


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where onnxruntime's images are not torch's, there is one sentence and no file."""
    monkeypatch.setattr(export, "largest_difference", lambda *_: 0.01)
    with pytest.raises(ConfigError, match=r"differ by 0\.01 from torch's, more than 0\.001"):
        export_onnx(trained(generator="traditional"), tmp_path / "g.onnx")
    assert not (tmp_path / "g.onnx").exists()
    assert not sidecar_path(tmp_path / "g.onnx").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX needs the extra, and the error says how to get it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"ONNX needs onnx: pip install 'likeness\[export\]'"):
        export_onnx(trained(), tmp_path / "g.onnx")


@pytest.mark.parametrize(("settings", "lod"), [
    ({"generator": "traditional"}, 1.0),  # above it is grown up
    ({"synthesis_input": "latent"}, 0.0),
    pytest.param({"synthesis_input": "latent"}, 1.0, marks=pytest.mark.slow),
])  # fmt: skip
def test_other_generators_are_exported(tmp_path: Path, settings: dict[str, Any], lod: float) -> None:
    """The traditional generator, and one whose synthesis begins with z, grown up or not, at their full resolution."""
    was = trained(lod, **settings)
    metadata = export_onnx(was, tmp_path / "g.onnx")
    assert metadata["max_difference"] < export.TOLERANCE
    module = export.ExportedGenerator(was.generator, 8, None)
    z, noise = inputs_from_seeds(was.generator, [4])
    arguments = (z,) if "generator" in settings else (z, torch.tensor(1.0), noise)
    images = module(*arguments)
    expected = images_from_seeds(was.generator, [4], 1)
    assert images.shape == expected.shape == (1, 3, 8, 8)
    assert np.abs(((images.numpy() + 1) * 127.5).clip(0, 255) - expected).max() <= 1


@pytest.mark.parametrize("noise", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_parts_draw_the_picture_together(tmp_path: Path, noise: bool) -> None:
    """The three parts, one after another, give torch's picture, while a generator grows, with noise and without."""
    was = trained(lod=0.5, resolution=32, noise=noise)
    generator = was.style_generator("a test")
    colours = fit_colours(generator, 1, was.cutoff, 4)
    assert export_parts(was, tmp_path, colours) < 1e-4
    mapping, lower, upper = (
        onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("mapping", "lower", "upper")
    )
    z_1Z, layers = inputs_from_seeds(generator, [7])
    named = {f"noise_{index}": layer.numpy() for index, layer in enumerate(layers)}
    [w_1D] = mapping.run(["w"], {"z": z_1Z.numpy()})
    w_1LD = np.repeat(w_1D[:, None], generator.synthesis.num_layers, 1)
    first, second = dict(list(named.items())[:4]), dict(list(named.items())[4:])
    x, small = lower.run(["x", "small"], {"w": w_1LD, **first})
    [images] = upper.run(["images"], {"x": x, "w": w_1LD, **second})
    expected = synthesized(generator, torch.from_numpy(w_1LD), layers)
    assert small.shape == (1, 3, 8, 8)
    assert np.abs(images - expected.numpy()).max() < 1e-4
