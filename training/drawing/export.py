"""A run's averaged generator as one file that other programs read: safetensors for torch, ONNX for the rest.

Both carry where they come from: safetensors in its header (`training.drawing.trained.load_exported` reads the generator
back), ONNX in its metadata and in a JSON file beside it. The extra `export` installs what ONNX needs. Not here:
checkpoints, which also hold what training needs to go on.

    export_onnx(trained, Path("generator.onnx"), noise="const")
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from storage.errors import ConfigError
from storage.lineage.origin import GRID_TEXT, whole_with_sidecar
from storage.local import whole_file
from training.drawing.images import inputs_from_seeds, synthesized
from training.drawing.settings import ExportPrecision, NoiseMode
from training.drawing.trained import Trained
from training.networks import Generator, TraditionalGenerator
from training.ops import upsample

OPSET = 18
TOLERANCE = 1e-3
"""Largest difference from torch's images, in [-1, 1], that an ONNX file may have."""
CHECKED_BATCHES = (1, 2, 5)
CHECKED_PSIS = (1.0, 0.5)


def export_metadata(trained: Trained) -> dict[str, Any]:
    """What an exported file says of itself: the origin, the config and the level of detail of the generator."""
    config = trained.config.model_dump(mode="json")
    return {**trained.origin, "kind": "export", "config": config, "lod": trained.generator.lod}


def export_safetensors(
    trained: Trained, path: Path, *, precision: ExportPrecision = "fp32"
) -> dict[str, Any]:
    """Write mapping, synthesis and w_avg to `path`, and return the metadata in its header.

    fp16 halves the file; ConfigError where a weight is too large for it.
    """
    metadata = {**export_metadata(trained), "precision": precision}
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    tensors = {
        key: value.cpu().to(dtype).contiguous() for key, value in trained.generator.state_dict().items()
    }
    for key, value in tensors.items():
        if not value.isfinite().all():
            raise ConfigError(
                f"{key} has weights that are no finite numbers in {precision}: nothing was written"
            )
    # One entry: the library writes several in a random order, and the same generator is to be the same bytes.
    with whole_file(path) as partial:
        partial.write_bytes(save(tensors, {GRID_TEXT: json.dumps(metadata, sort_keys=True)}))
    return metadata


class ExportedGenerator(nn.Module):
    """What an ONNX file computes, under names of its own: images of z, psi and noise.

    z (N, Z), psi (), and noise (N, 1, H, W) a layer, or that of `noise` where it is constant, give images
    (N, 3, R, R) in about [-1, 1]. The traditional generator takes z alone.
    """

    def __init__(
        self, generator: Generator | TraditionalGenerator, cutoff: int, noise: Sequence[Tensor] | None
    ) -> None:
        super().__init__()
        self.generator, self.cutoff = generator, cutoff
        self.num_constants = len(noise or ())
        for index, layer in enumerate(noise or ()):
            self.register_buffer(f"noise_{index}", layer)

    def forward(self, z: Tensor, psi: Any = None, noise: Sequence[Tensor] = ()) -> Tensor:
        """Images, always at the generator's full resolution."""
        generator = self.generator
        if isinstance(generator, TraditionalGenerator):
            images = generator(z)
            return upsample(images, generator.resolution // images.shape[-1])
        constants = [self.get_buffer(f"noise_{index}") for index in range(self.num_constants)]
        w = generator.truncate(generator.broadcast(generator.mapping(z)), psi, self.cutoff)
        return synthesized(generator, w, constants or noise, z)


def export_onnx(
    trained: Trained, path: Path, *, noise: NoiseMode = "const", noise_seed: int = 0
) -> dict[str, Any]:
    """Write an ONNX file that takes batches of any size, run it, and return its metadata.

    Its `max_difference` is from torch's images over several batches and psis; ConfigError, and no file, where that
    is not below `TOLERANCE`.
    """
    check_onnx()
    generator = trained.generator
    if noise == "own" and not trained.noise:
        raise ConfigError("noise own is that of an imported network: choose const or input")
    fixed = list(trained.noise) if noise == "own" else inputs_from_seeds(generator, [noise_seed])[1]
    wrapped = ExportedGenerator(generator, trained.cutoff, None if noise == "input" else fixed).eval()
    example = _example(generator, 2, 0.7, noise, seed=0)
    metadata = {**export_metadata(trained), "noise": noise if fixed else "none"}
    if fixed and noise == "const":
        metadata["noise_seed"] = noise_seed
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            wrapped,
            tuple(example.values()),
            input_names=_names(example),
            output_names=["images"],
            dynamic_shapes=_dynamic(example),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[GRID_TEXT] = json.dumps(metadata, sort_keys=True)
    with whole_with_sidecar(path, metadata) as partial:
        with _quiet():
            program.save(str(partial), external_data=False)
        difference = largest_difference(wrapped, partial, noise)
        if not difference < TOLERANCE:
            raise ConfigError(
                f"the ONNX file's images differ by {difference:.2g} from torch's, more than {TOLERANCE:g}: "
                "it was not kept"
            )
        metadata["max_difference"] = difference
    return metadata


def largest_difference(wrapped: ExportedGenerator, path: Path, noise: NoiseMode) -> float:
    """Between what onnxruntime makes of the file and torch of the module, over several batches and psis."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for seed, num in enumerate(CHECKED_BATCHES):
        for psi in CHECKED_PSIS:
            inputs = _example(wrapped.generator, num, psi, noise, seed=seed + 1)
            with torch.no_grad():
                expected = wrapped(*inputs.values()).cpu().numpy()
            feed = dict(zip(_names(inputs), _flat(inputs), strict=True))
            found = session.run(["images"], {name: tensor.cpu().numpy() for name, tensor in feed.items()})[0]
            assert found.shape == expected.shape
            largest = max(largest, float(np.abs(found - expected).max()))
    return largest


def _example(
    generator: Generator | TraditionalGenerator, num: int, psi: float, noise: NoiseMode, *, seed: int
) -> dict[str, Any]:
    """Arguments of `ExportedGenerator.forward` for `num` images."""
    latents, layers = inputs_from_seeds(generator, range(seed * 1000, seed * 1000 + num))
    if isinstance(generator, TraditionalGenerator):
        return {"z": latents}
    arguments: dict[str, Any] = {"z": latents, "psi": torch.tensor(psi, device=latents.device)}
    return {**arguments, "noise": layers} if noise == "input" else arguments


def _names(example: dict[str, Any]) -> list[str]:
    """The file's inputs: z, psi, noise_0 and so on."""
    layers = [f"noise_{index}" for index in range(len(example.get("noise", ())))]
    return [name for name in example if name != "noise"] + layers


def _flat(example: dict[str, Any]) -> list[Tensor]:
    return [
        tensor for value in example.values() for tensor in (value if isinstance(value, list) else [value])
    ]


def _dynamic(example: dict[str, Any]) -> tuple[Any, ...]:
    """Which dimensions vary: the first of all but psi."""
    batch = {0: "batch"}
    shapes = {"z": batch, "psi": {}, "noise": [batch] * len(example.get("noise", ()))}
    return tuple(shapes[name] for name in example)


def check_onnx() -> None:
    """ConfigError where ONNX cannot be written or run here."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"ONNX needs {package}: pip install 'likeness[export]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings of its own workings; what it wrote is compared afterwards."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
