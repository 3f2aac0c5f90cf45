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
from training.drawing.previews import Colours, features
from training.drawing.settings import ExportPrecision, NoiseMode
from training.drawing.trained import Trained
from training.networks import Generator, TraditionalGenerator, blend, level_and_fade
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


class _Mapping(nn.Module):
    """z (1, Z) to untruncated w (1, D)."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.mapping = generator.mapping

    def forward(self, z: Tensor) -> Tensor:
        w: Tensor = self.mapping(z)
        return w


class _Lower(nn.Module):
    """w a layer (1, L, D) and noise a layer (1, 1, H, W) to features at the preview's level, and to the preview."""

    def __init__(self, generator: Generator, colours: Colours) -> None:
        super().__init__()
        self.generator, self.level = generator, colours.level
        self.register_buffer("weight_3C11", colours.weight_C3.T.contiguous()[:, :, None, None])
        self.register_buffer("bias_3", colours.bias_3)

    def forward(self, w: Tensor, noise: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        x_NCHW = features(self.generator, w, noise, self.level)
        small = nn.functional.conv2d(x_NCHW, self.get_buffer("weight_3C11"), self.get_buffer("bias_3"))
        return x_NCHW, small


class _Upper(nn.Module):
    """Features at the preview's level, w and the noise of the layers above it to images (1, 3, R, R)."""

    def __init__(self, generator: Generator, colours: Colours) -> None:
        super().__init__()
        self.generator, self.level = generator, colours.level

    def forward(self, x: Tensor, w: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
        generator, synthesis = self.generator, self.generator.synthesis
        top, fraction = level_and_fade(generator.resolution, generator.lod)
        first = 2 * self.level + 2
        previous = x
        for index in range(first, 2 * top + 2):
            if index % 2 == 0:
                previous = x
            x = synthesis.layers[index](x, w[:, index], noise[index - first] if noise else None, w.dtype)
        image: Tensor = synthesis.to_rgb[top](x)
        if fraction > 0:
            image = blend(image, upsample(synthesis.to_rgb[top - 1](previous)), fraction)
        return upsample(image, generator.resolution // image.shape[-1])


def export_parts(trained: Trained, folder: Path, colours: Colours) -> float:
    """Write mapping.onnx, lower.onnx and upper.onnx, between which pictures are steered and seen early.

    Returned is how far their picture is from torch's; ConfigError where that is not below `TOLERANCE`. Weights that are
    halves are stored as halves.
    """
    check_onnx()
    import onnxruntime

    generator = trained.style_generator("a page that draws")
    z_1Z, noise = inputs_from_seeds(generator, [1])
    first = 2 * colours.level + 2
    lower = _Lower(generator, colours)
    with torch.no_grad():
        w_1LD = generator.broadcast(generator.mapping(z_1Z)).contiguous()
        x_1CHW, _ = lower(w_1LD, noise)
    named = {f"noise_{index}": layer for index, layer in enumerate(noise)}
    parts: list[tuple[str, nn.Module, dict[str, Tensor], list[Tensor], list[str]]] = [
        ("mapping", _Mapping(generator), {"z": z_1Z}, [], ["w"]),
        ("lower", lower, {"w": w_1LD}, noise[:first], ["x", "small"]),
        ("upper", _Upper(generator, colours), {"x": x_1CHW, "w": w_1LD}, noise[first:], ["images"]),
    ]
    difference, before = 0.0, 0
    for name, module, given, layers, outputs in parts:
        path = folder / f"{name}.onnx"
        arguments = (*given.values(), layers) if layers else tuple(given.values())
        given = {**given, **{key: named[key] for key in list(named)[before : before + len(layers)]}}
        before += len(layers)
        with torch.no_grad(), _quiet():
            expected = module.eval()(*arguments)
            program = torch.onnx.export(
                module,
                arguments,
                input_names=list(given),
                output_names=outputs,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
        _halve(path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(outputs, {key: value.cpu().numpy() for key, value in given.items()})
        wanted = expected if isinstance(expected, tuple) else (expected,)
        for one, other in zip(found, wanted, strict=True):
            difference = max(difference, float(np.abs(one - other.cpu().numpy()).max()))
    if not difference < TOLERANCE:
        raise ConfigError(f"the ONNX parts differ by {difference:.2g} from torch, more than {TOLERANCE:g}")
    return difference


def _halve(path: Path) -> None:
    """Store as float16 the weights of a file that lose nothing by it, cast back as they are read."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.size >= 1024 and (halves.astype(np.float32) == values).all():
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(halves, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    onnx.save(model, str(path))


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
