"""NVIDIA's StyleGAN 1 network files, as the layout of their pickles goes: read without running anything in them.

Such a file is a pickle of three network objects: the generator, the discriminator and the averaged generator. Beside
weights their state carries Python source, which is never looked at. The unpickler knows arrays of numbers, containers
and a holder for the network's class; a pickle that names anything else is refused, and so nothing else can be called.
The mapping is strict: each variable has its place, and each place its variable. Nothing of NVIDIA's code is here.

    networks = read_networks(Path("karras2019stylegan-ffhq-1024x1024.pkl"))
    write_import(store, "ffhq", networks, path)

Suffixes of their layout: convolutions are (height, width, in, out), dense layers (in, out).
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError, SourceError
from storage.imports import NAME_PATTERN, Import, ImportRecord, import_folder
from storage.local import check_file, whole_folder
from storage.store import Store
from training.checkpoint import weights_file
from training.config import TrainConfig
from training.networks import build_discriminator, build_generator

LICENSE = "CC-BY-NC-4.0"
"""Of the networks that NVIDIA published."""
MAX_BYTES = 2 * 2**30
FUSED_FROM_PX = 128
"""From here on their upsampling convolution is a transposed one, whose kernel is not turned over."""

Array = NDArray[Any]
Variables = dict[str, Tensor]


# --------------------------------------------------------------------------------------------------------------
# Pickles


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that no network file needs."""


class _Inert:
    """What stands in the place of a class or function that a pickle names; no state can be put into it from there."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it changes what it was given")


class _ArrayClass(_Inert):
    """`numpy.ndarray`, which is named and never called."""

    __slots__ = ()


class _ArrayBegun(_Inert):
    """What makes an empty array, whose content its state then brings."""

    __slots__ = ()

    def __call__(self, of: Any, shape: Any, kind: Any) -> _Array:
        return _Array()


class _Array:
    """An array that is being read; `value` once its state has come."""

    __slots__ = ("value",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise _Refused("it holds an array of objects")
        self.value: Array = np.frombuffer(data, dtype.value).reshape(shape, order="F" if is_fortran else "C")


class _Dtype:
    """A type of numbers."""

    __slots__ = ("value",)

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch("[iuf][1248]|b1", name):
            raise _Refused(f"it holds an array of {name!r}, and numbers are looked for")
        self.value = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order in (">", "<"):
            self.value = self.value.newbyteorder(order)


class _DtypeClass(_Inert):
    __slots__ = ()

    def __call__(self, *given: Any) -> _Dtype:
        return _Dtype(*given)


class _Scalar(_Inert):
    """A number of numpy's."""

    __slots__ = ()

    def __call__(self, dtype: Any, data: Any = None) -> Any:
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise _Refused("it holds a scalar that is no number")
        return np.frombuffer(data, dtype.value)[0].item()


class _Encoded(_Inert):
    """How older pickles write bytes: as text that each character of which is one byte."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise _Refused("it encodes text")
        return text.encode("latin1")


class _Network:
    """A holder for the state of a network object."""

    state: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _Refused("a network's state is no dictionary")
        self.state = state


class _EasyDict(dict[str, Any]):
    """A dictionary with attributes, of which none is used."""

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it changes what it was given")


_KNOWN: dict[tuple[str, str], Any] = {
    ("dnnlib.tflib.network", "Network"): _Network,
    ("dnnlib.util", "EasyDict"): _EasyDict,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _ArrayClass(),
    ("numpy", "dtype"): _DtypeClass(),
    ("_codecs", "encode"): _Encoded(),
    **{
        (f"{place}.multiarray", name): stand_in
        for place in ("numpy.core", "numpy._core")
        for name, stand_in in (("_reconstruct", _ArrayBegun()), ("scalar", _Scalar()))
    },
}
"""All that a pickle may name, and what it gets for it."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle gets for a name; refused where no network file has it."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise _Refused(f"it names {module}.{name}") from None


def _unpickled(path: Path) -> Any:
    """What a pickle holds; IntegrityError where it is none, or names what no network file needs."""
    try:
        check_file(path)
        if path.stat().st_size > MAX_BYTES:
            raise IntegrityError(f"{path} is no network file: it has more than {MAX_BYTES / 2**30:g} GiB")
        with path.open("rb") as stream:
            return _Unpickler(stream).load()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except _Refused as refused:
        raise IntegrityError(f"{path} is refused: {refused}, which no network file needs") from None
    except IntegrityError:
        raise
    except Exception as error:  # a pickle may fail in any way at all
        raise IntegrityError(f"{path} is no pickle that can be read: {type(error).__name__}") from error


# --------------------------------------------------------------------------------------------------------------
# Networks


@dataclass(frozen=True)
class ImportedNetworks:
    """The weights of a file by the names of `training.networks`, and the config of a run that has such networks."""

    config: TrainConfig
    generator: Variables
    generator_ema: Variables
    discriminator: Variables
    noise: Variables
    """The fixed noise of each layer (1, 1, H, W), of the averaged generator."""


def read_networks(path: Path) -> ImportedNetworks:
    """The three networks of a file; IntegrityError where it is no such file, or one of other networks."""
    loaded = _unpickled(path)
    is_three = isinstance(loaded, tuple | list) and len(loaded) == 3
    if not is_three or not all(isinstance(network, _Network) for network in loaded):
        raise IntegrityError(f"{path} holds no three networks: generator, discriminator, averaged generator")
    generator, discriminator, averaged = loaded
    try:
        config = _config_of(averaged)
        weights, _ = _generator_weights(generator, config)
        averaged_weights, noise = _generator_weights(averaged, config)
        return ImportedNetworks(
            config, weights, averaged_weights, _discriminator_weights(discriminator, config), noise
        )
    except _Unlike as error:
        raise IntegrityError(f"{path} holds networks of another kind: {error}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise IntegrityError(
            f"{path} holds networks of another kind: {problem['loc']}: {problem['msg']}"
        ) from None


class _Unlike(Exception):
    """The networks are not StyleGAN 1's."""


class _Taken:
    """A network's variables, each to be taken once."""

    def __init__(self, network: Any, part: str) -> None:
        state = getattr(network, "state", {})
        variables = state.get("variables")
        if not isinstance(variables, list | tuple):
            raise _Unlike(f"the {part} has no variables")
        self._part = part
        self._left: dict[str, Array] = {}
        for entry in variables:
            match entry:
                case (str() as name, _Array(value=value)):
                    self._left[name] = value
                case (str() as name, int() | float() as number):
                    self._left[name] = np.asarray(number)
                case _:
                    raise _Unlike(f"the {part} has a variable that is no array of numbers")

    def take(self, name: str, *dimensions: int) -> Tensor:
        """A variable as float32, its dimensions reordered."""
        if name not in self._left:
            raise _Unlike(f"the {self._part} lacks {name}")
        array = np.array(self._left.pop(name), dtype=np.float32)
        if dimensions and array.ndim != len(dimensions):
            raise _Unlike(f"{name} of the {self._part} has {array.ndim} dimensions, not {len(dimensions)}")
        return torch.from_numpy(np.ascontiguousarray(array.transpose(dimensions) if dimensions else array))

    def dense(self, name: str) -> Tensor:
        """A dense layer's weight as (out, in)."""
        return self.take(f"{name}/weight", 1, 0)

    def convolution(self, name: str) -> Tensor:
        """A convolution's weight as (out, in, height, width)."""
        return self.take(f"{name}/weight", 3, 2, 0, 1)

    def names(self, pattern: str) -> list[str]:
        """Those that are left and match."""
        return [name for name in self._left if re.fullmatch(pattern, name)]

    def close(self, *ignored: str) -> None:
        """Refuse what was not taken."""
        if left := sorted(self._left.keys() - set(ignored)):
            raise _Unlike(f"the {self._part} has {left[0]}, which has no place here")


def _component(network: Any, name: str) -> Any:
    components = getattr(network, "state", {}).get("components")
    if not isinstance(components, Mapping) or not isinstance(components.get(name), _Network):
        raise _Unlike(f"the generator has no {name} network")
    return components[name]


def _config_of(generator: Any) -> TrainConfig:
    """The settings whose networks have these shapes."""
    mapping = _Taken(_component(generator, "mapping"), "mapping network")
    synthesis = _Taken(_component(generator, "synthesis"), "synthesis network")
    if mapping.names("LabelConcat.*"):
        raise _Unlike("it is conditioned on labels")
    num_layers = len(mapping.names(r"Dense\d+/weight"))
    levels = len(synthesis.names(r"ToRGB_lod\d+/weight"))
    if num_layers == 0 or not 2 <= levels <= 9:
        raise _Unlike(f"it has {num_layers} dense layers and images of {levels} resolutions")
    first = mapping.dense("Dense0")
    widths = [synthesis.convolution(f"ToRGB_lod{levels - 1 - level}").shape[1] for level in range(levels)]
    # Half as many channels a level, up to a limit: base >> (level + 1).
    base = widths[-1] << levels
    return TrainConfig.model_validate(
        {
            "preset": "paper1024",
            "resolution": 4 << (levels - 1),
            "z_dim": first.shape[1],
            "w_dim": first.shape[0],
            "mapping_layers": num_layers,
            "channel_base": base,
            "max_channels": max(widths),
        }
    )


def _generator_weights(network: Any, config: TrainConfig) -> tuple[Variables, Variables]:
    own = _Taken(network, "generator")
    mapping = _Taken(_component(network, "mapping"), "mapping network")
    synthesis = _Taken(_component(network, "synthesis"), "synthesis network")
    found: Variables = {"w_avg": own.take("dlatent_avg")}
    own.close("lod")
    for index in range(config.mapping_layers):
        found[f"mapping.layers.{index}.weight"] = mapping.dense(f"Dense{index}")
        found[f"mapping.layers.{index}.bias"] = mapping.take(f"Dense{index}/bias")
    mapping.close()
    noise: Variables = {}
    found["synthesis.const"] = synthesis.take("4x4/Const/const")
    levels = _levels(config)
    for index, (side, place) in enumerate(_layers(levels)):
        ours = f"synthesis.layers.{index}"
        if place != "Const":
            weight = synthesis.convolution(f"{side}x{side}/{place}")
            is_fused = place == "Conv0_up" and side >= FUSED_FROM_PX
            found[f"{ours}.conv.weight"] = weight.flip(2, 3).contiguous() if is_fused else weight
        found[f"{ours}.noise_strength"] = synthesis.take(f"{side}x{side}/{place}/Noise/weight")
        found[f"{ours}.bias"] = synthesis.take(f"{side}x{side}/{place}/bias")
        found[f"{ours}.style.weight"] = synthesis.dense(f"{side}x{side}/{place}/StyleMod")
        found[f"{ours}.style.bias"] = synthesis.take(f"{side}x{side}/{place}/StyleMod/bias")
        noise[f"noise_{index}"] = synthesis.take(f"noise{index}", 0, 1, 2, 3)
    for level in range(levels):
        found |= _colours(synthesis, f"ToRGB_lod{levels - 1 - level}", f"synthesis.to_rgb.{level}")
    synthesis.close("lod")
    _check_shapes(found, dict(_empty(config)["generator"].state_dict()), "generator")
    return found, noise


def _discriminator_weights(network: Any, config: TrainConfig) -> Variables:
    theirs = _Taken(network, "discriminator")
    found: Variables = {}
    levels = _levels(config)
    for level in range(levels):
        found |= _colours(theirs, f"FromRGB_lod{levels - 1 - level}", f"from_rgb.{level}")
    for level in range(1, levels):
        side = 4 << level
        for place, ours in (("Conv0", "conv"), ("Conv1_down", "down")):
            found[f"blocks.{level - 1}.{ours}.weight"] = theirs.convolution(f"{side}x{side}/{place}")
            found[f"blocks.{level - 1}.{ours}.bias"] = theirs.take(f"{side}x{side}/{place}/bias")
    found["conv.weight"] = theirs.convolution("4x4/Conv")
    found["conv.bias"] = theirs.take("4x4/Conv/bias")
    for place, ours in (("Dense0", "dense"), ("Dense1", "out")):
        found[f"{ours}.weight"] = theirs.dense(f"4x4/{place}")
        found[f"{ours}.bias"] = theirs.take(f"4x4/{place}/bias")
    theirs.close("lod")
    _check_shapes(found, dict(_empty(config)["discriminator"].state_dict()), "discriminator")
    return found


def _levels(config: TrainConfig) -> int:
    return int(math.log2(config.resolution)) - 1


def _layers(levels: int) -> Iterator[tuple[int, str]]:
    """The resolution and the name of each of the synthesis network's layers, in order."""
    yield from ((4, "Const"), (4, "Conv"))
    for level in range(1, levels):
        yield from ((4 << level, "Conv0_up"), (4 << level, "Conv1"))


def _colours(theirs: _Taken, place: str, ours: str) -> Variables:
    return {f"{ours}.weight": theirs.convolution(place), f"{ours}.bias": theirs.take(f"{place}/bias")}


def _empty(config: TrainConfig) -> dict[str, torch.nn.Module]:
    with torch.device("meta"):
        return {"generator": build_generator(config), "discriminator": build_discriminator(config)}


def _check_shapes(found: Variables, expected: dict[str, Tensor], part: str) -> None:
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise _Unlike(f"{name} of the {part} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}")
        if not found[name].isfinite().all():
            raise _Unlike(f"{name} of the {part} has entries that are no finite numbers")


# --------------------------------------------------------------------------------------------------------------
# Into a store


def free_folder(store: Store, name: str) -> Path:
    """Where an import of this name is to lie; ConfigError where it is no name, or something lies there."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(
            f"--name {name!r} is to be of small letters, digits, - and _, and to begin with one"
        )
    folder = import_folder(store, name)
    if folder.exists():
        raise ConfigError(f"there is an import {name!r} in {store}: choose another --name")
    return folder


def write_import(
    store: Store, name: str, path: Path, *, license: str = LICENSE, origin: str | None = None
) -> Import:
    """Read a network file and keep its weights under a name; what was there under it stays, and is an error."""
    folder = free_folder(store, name)
    networks = read_networks(path)
    tensors = {
        weights_file("generator"): networks.generator,
        weights_file("generator_ema"): networks.generator_ema,
        weights_file("discriminator"): networks.discriminator,
        weights_file("noise"): networks.noise,
    }
    with whole_folder(folder) as partial:
        for file, content in tensors.items():
            (partial / file).write_bytes(save(content))
        record = ImportRecord.new(
            name=name,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            file=path.name,
            file_sha256=file_digest(path),
            license=license,
            origin=origin,
            config=networks.config.model_dump(mode="json"),
            sha256={file: file_digest(partial / file) for file in sorted(tensors)},
        )
        (partial / "import.json").write_bytes(record.as_bytes())
    return Import(folder)
