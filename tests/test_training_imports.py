"""training.imports: NVIDIA's layout is read whole or refused, and nothing in a pickle is ever run."""

from __future__ import annotations

import collections
import json
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_run
from commands import likeness
from plain_networks import made_random
from storage.digest import file_digest
from storage.errors import IntegrityError, NotFoundError, PipelineError, SourceError
from storage.imports import find_import
from storage.runs import create_run, find_run
from storage.store import Store
from training.config import TrainConfig
from training.drawing.images import images_from_seeds
from training.drawing.trained import open_imported
from training.engine.state import Training
from training.imports import read_networks, write_import
from training.initial import open_source, take_first_weights
from training.networks import Discriminator, Generator

SIDE = 256
LEVELS = 7
WIDTHS: dict[str, Any] = {"channel_base": 512, "max_channels": 8}
SOURCE = "raise SystemExit('the source in a network file was run')"


@pytest.fixture(scope="module")
def classes() -> Iterator[types.ModuleType]:
    """NVIDIA's modules by their names, with classes that are pickled as theirs are."""
    module = types.ModuleType("dnnlib.tflib.network")
    util = types.ModuleType("dnnlib.util")

    class Network:
        """Pickled as the dictionary of its state."""

        def __init__(self, state: dict[str, Any]) -> None:
            self.state = state

        def __getstate__(self) -> dict[str, Any]:
            return self.state

    class EasyDict(dict[str, Any]):
        """A dictionary."""

    for cls, home in ((Network, module), (EasyDict, util)):
        cls.__module__, cls.__qualname__ = home.__name__, cls.__name__
        setattr(home, cls.__name__, cls)
    names = {"dnnlib": types.ModuleType("dnnlib"), "dnnlib.tflib": types.ModuleType("dnnlib.tflib")}
    sys.modules.update({**names, module.__name__: module, util.__name__: util})
    module.EasyDict = EasyDict  # type: ignore[attr-defined]
    yield module
    for name in (*names, module.__name__, util.__name__):
        del sys.modules[name]


@pytest.fixture(scope="module")
def networks() -> tuple[Generator, Generator, Discriminator]:
    """A generator, another that stands for its average, and a discriminator, all of whose parameters are random."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"z_dim": 12, "w_dim": 12, "mapping_layers": 3, **WIDTHS}
    generators = [made_random(Generator(SIDE, **sizes)) for _ in range(2)]
    for generator in generators:
        generator.w_avg.normal_()
    first, second = generators
    return first, second, made_random(Discriminator(SIDE, **WIDTHS))


def array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """As numpy has it, C-contiguous."""
    return np.ascontiguousarray(tensor.detach().numpy())


def conv(tensor: Tensor) -> np.ndarray[Any, Any]:
    """(out, in, height, width) as TensorFlow has it."""
    return array(tensor.permute(2, 3, 1, 0))


def state(variables: dict[str, Any], components: dict[str, Any] | None = None) -> dict[str, Any]:
    """A network object's state."""
    return {
        "version": 3, "name": "n", "static_kwargs": {"num_channels": 3}, "components": components or {},
        "build_module_src": SOURCE, "build_func_name": "build", "variables": list(variables.items()),
    }  # fmt: skip


def generator_variables(g: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A generator's own, its mapping's and its synthesis network's variables."""
    own = {"lod": np.float32(0), "dlatent_avg": array(g.w_avg)}
    mapping: dict[str, Any] = {}
    for index, layer in enumerate(g.mapping.layers):
        mapping |= {f"Dense{index}/weight": array(layer.weight.T), f"Dense{index}/bias": array(layer.bias)}
    synthesis: dict[str, Any] = {"lod": np.float32(0), "4x4/Const/const": array(g.synthesis.const)}
    for index, layer in enumerate(g.synthesis.layers):
        side = 4 << (index // 2)
        place = ("Const", "Conv")[index] if index < 2 else ("Conv0_up", "Conv1")[index % 2]
        name = f"{side}x{side}/{place}"
        if layer.conv is not None:
            weight = layer.conv.weight
            # Their transposed convolution takes the kernel as it stands, where ours turns it over.
            is_turned = place == "Conv0_up" and side >= 128
            synthesis[f"{name}/weight"] = conv(weight.flip(2, 3) if is_turned else weight)
        synthesis[f"{name}/Noise/weight"] = array(layer.noise_strength)
        synthesis[f"{name}/bias"] = array(layer.bias)
        synthesis[f"{name}/StyleMod/weight"] = array(layer.style.weight.T)
        synthesis[f"{name}/StyleMod/bias"] = array(layer.style.bias)
        synthesis[f"noise{index}"] = (
            np.random.default_rng(index).normal(size=(1, 1, side, side)).astype(np.float32)
        )
    for level, layer in enumerate(g.synthesis.to_rgb):
        name = f"ToRGB_lod{LEVELS - 1 - level}"
        synthesis |= {f"{name}/weight": conv(layer.weight), f"{name}/bias": array(layer.bias)}
    return own, mapping, synthesis


def discriminator_variables(d: Any) -> dict[str, Any]:
    """A discriminator's variables."""
    found: dict[str, Any] = {"lod": np.float32(0)}

    def add(name: str, layer: Any, shaped: Callable[[Tensor], Any] = conv) -> None:
        found[f"{name}/weight"], found[f"{name}/bias"] = shaped(layer.weight), array(layer.bias)

    for level, layer in enumerate(d.from_rgb):
        add(f"FromRGB_lod{LEVELS - 1 - level}", layer)
    for index, block in enumerate(d.blocks):
        side = 8 << index
        add(f"{side}x{side}/Conv0", block.conv), add(f"{side}x{side}/Conv1_down", block.down)
    add("4x4/Conv", d.conv)
    add("4x4/Dense0", d.dense, lambda weight: array(weight.T)), add("4x4/Dense1", d.out, lambda w: array(w.T))
    return found


Change = Callable[[dict[str, Any]], None]


def written(
    path: Path, classes: Any, networks: Any, protocol: int = 4, change: Change = lambda parts: None
) -> Path:
    """A file in NVIDIA's layout of these networks, its parts changed before."""
    g, average, d = networks
    parts: dict[str, Any] = {"D": discriminator_variables(d)}
    for name, generator in (("G", g), ("Gs", average)):
        parts[name], parts[f"{name}.mapping"], parts[f"{name}.synthesis"] = generator_variables(generator)
    change(parts)
    objects = []
    for name in ("G", "D", "Gs"):
        components = classes.EasyDict(
            {
                part: classes.Network(state(parts[f"{name}.{part}"]))
                for part in ("mapping", "synthesis")
                if f"{name}.{part}" in parts
            }
        )
        objects.append(classes.Network(state(parts[name], components)))
    with path.open("wb") as file:
        pickle.dump(tuple(objects), file, protocol)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_networks_come_back_weight_by_weight(
    tmp_path: Path, classes: Any, networks: Any, protocol: int
) -> None:
    """Every weight of the three networks is where it was, noise too, and the source inside is not run."""
    found = read_networks(written(tmp_path / "n.pkl", classes, networks, protocol))
    assert (found.config.resolution, found.config.z_dim, found.config.mapping_layers) == (SIDE, 12, 3)
    for name, network in zip(("generator", "generator_ema", "discriminator"), networks, strict=True):
        expected = network.state_dict()
        tensors = getattr(found, name)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[key], expected[key]) for key in expected), name
    assert [tuple(x.shape) for x in found.noise.values()] == [
        (1, 1, 4 << (i // 2), 4 << (i // 2)) for i in range(14)
    ]


def test_kernels_of_fused_upsampling_are_turned_over(tmp_path: Path, classes: Any, networks: Any) -> None:
    """From 128 px on, and only there, what stands in the file is our kernel turned over in both axes."""
    held: dict[str, Any] = {}
    written(tmp_path / "n.pkl", classes, networks, change=held.update)
    layers = networks[1].synthesis.layers
    for side in (8, 64, 128, 256):
        index = 2 * (side.bit_length() - 3)
        weight = array(layers[index].conv.weight).transpose(2, 3, 1, 0)
        stored = held["Gs.synthesis"][f"{side}x{side}/Conv0_up/weight"]
        assert np.array_equal(stored, weight[::-1, ::-1] if side >= 128 else weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda parts: parts["Gs.synthesis"].pop("8x8/Conv1/bias"), "lacks 8x8/Conv1/bias"),
        (
            lambda parts: parts["D"].update(extra=np.zeros(2)),
            "the discriminator has extra, which has no place here",
        ),
        (
            lambda parts: parts["Gs.synthesis"].update({"4x4/Conv/bias": np.zeros(5, np.float32)}),
            "synthesis.layers.1.bias of the generator is",
        ),
        (lambda parts: parts["D"].update({"4x4/Conv/weight": np.zeros(3)}), "has 1 dimensions, not 4"),
        (
            lambda parts: parts["G"].update(dlatent_avg=np.full(12, np.nan, np.float32)),
            "w_avg of the generator has entries that are no finite numbers",
        ),
        (
            lambda parts: parts["Gs.mapping"].update({"LabelConcat/weight": np.zeros((1, 1))}),
            "it is conditioned on labels",
        ),
        (lambda parts: parts.pop("Gs.mapping"), "the generator has no mapping network"),
        (lambda parts: parts["D"].update(lod="3"), "has a variable that is no array of numbers"),
    ],
)
def test_other_networks_are_refused_by_name(
    tmp_path: Path, classes: Any, networks: Any, change: Change, said: str
) -> None:
    """A variable too many, too few or of another shape is named; nothing is guessed."""
    path = written(tmp_path / "n.pkl", classes, networks, change=change)
    with pytest.raises(IntegrityError, match=r"n\.pkl holds networks of another kind: ") as caught:
        read_networks(path)
    assert said in str(caught.value)


class Bomb:
    """Pickled as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def opcodes(text: str) -> bytes:
    """A pickle of protocol 0 by its opcodes."""
    return text.encode()


def hostile(folder: Path) -> dict[str, bytes]:
    """Pickles that do something when they are loaded by Python's own unpickler, or try to get around ours."""
    mark = str(folder / "ran")
    objects = np.empty(1, dtype=object)
    objects[0] = Bomb(os.mkdir, mark)
    return {
        "system": pickle.dumps(Bomb(os.system, f"mkdir {mark}")),
        "mkdir in a network": pickle.dumps([[Bomb(os.mkdir, mark)]], 2),
        "eval": pickle.dumps(Bomb(eval, f"__import__('os').mkdir({mark!r})")),
        "getattr": pickle.dumps(Bomb(getattr, "x", "upper")),
        "array of objects": pickle.dumps(objects),
        "dotted name": b"\x80\x04\x8c\x14dnnlib.tflib.network\x8c\x1cNetwork.__init__.__globals__\x93.",
        "class rebuilt": b"\x80\x04\x8c\x14dnnlib.tflib.network\x8c\x07Network\x93}\x8c\x01aK\x01sb.",
        "attributes of a stand-in": opcodes("cnumpy\ndtype\n(N(dVx\nI1\nstb."),
        "attributes of a container": opcodes("ccollections\nOrderedDict\n(N(dVpop\nI1\nstb."),
        "called on nothing": opcodes("cnumpy\nndarray\n(I1000000000000\ntR."),
        "persistent": b"\x80\x04\x8c\x01aQ.",
        "extension": b"\x80\x04\x82\x01.",
        "codecs": pickle.dumps(Bomb(__import__("codecs").encode, "x", "rot13")),
        "deep": b"(" * 100_000 + b"." ,
        "cut short": pickle.dumps([np.zeros(1000)], 4)[:900],
        "nothing": b"",
        "text": b"this is no pickle",
        "huge": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    }  # fmt: skip


@pytest.mark.parametrize("name", list(hostile(Path("/nowhere"))))
def test_a_hostile_pickle_does_nothing(tmp_path: Path, name: str) -> None:
    """Whatever a pickle asks for beyond numbers, containers and networks is refused in one sentence and not done."""
    path = tmp_path / "h.pkl"
    path.write_bytes(hostile(tmp_path)[name])
    with pytest.raises(IntegrityError, match=r"h\.pkl (is refused|is no pickle|holds no three networks)"):
        read_networks(path)
    assert sorted(tmp_path.iterdir()) == [path]
    assert collections.OrderedDict().pop is not None


def test_what_is_refused_is_named(tmp_path: Path) -> None:
    """The sentence says which class or function the pickle asked for."""
    path = tmp_path / "h.pkl"
    path.write_bytes(pickle.dumps(Bomb(os.system, "true")))
    with pytest.raises(
        IntegrityError, match=r"is refused: it names (posix|nt|os)\.system, which no network file needs"
    ):
        read_networks(path)
    with pytest.raises(SourceError, match="cannot be read"):
        read_networks(tmp_path / "none.pkl")


def test_an_import_draws_and_is_traced(
    tmp_path: Path, classes: Any, networks: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command keeps the weights; pictures are the network's, and lead to the file, its licence and its origin."""
    path = written(tmp_path / "karras.pkl", classes, networks)
    where = ("--store", str(tmp_path / "store"))
    words = (
        "import-network",
        str(path),
        "--name",
        "ffhq",
        "--origin",
        "https://example.org/karras.pkl",
        *where,
    )
    status, out, err = likeness(capsys, *words, "--dry-run", "--json")
    assert (status, json.loads(out)["config"]["resolution"]) == (0, 256)
    assert not (tmp_path / "store").exists()
    status, out, err = likeness(capsys, *words)
    assert (status, err) == (0, "")
    assert "import ffhq: generator and discriminator of 256 px, CC-BY-NC-4.0" in out
    store = Store(tmp_path / "store")
    imported = find_import(store, "ffhq")
    trained = open_imported(imported, torch.device("cpu"))
    averaged = networks[1]
    expected = images_from_seeds(averaged, [0, 1], 0.7)
    assert np.array_equal(images_from_seeds(trained.generator, [0, 1], 0.7), expected)
    status, _, err = likeness(
        capsys, "generate", "ffhq", "--seeds", "0,1", "--out", str(tmp_path / "g.png"), *where
    )
    assert (status, err) == (0, "")
    status, out, _ = likeness(capsys, "trace", str(tmp_path / "g.png"), "--json", *where)
    chain = json.loads(out)["chain"]
    assert [step["kind"] for step in chain] == ["grid", "imported network"]
    assert chain[0]["imported"] == chain[1]["name"] == "ffhq"
    assert (chain[1]["license"], chain[1]["origin"]) == ("CC-BY-NC-4.0", "https://example.org/karras.pkl")
    assert chain[1]["file_sha256"] == file_digest(path)
    status, out, _ = likeness(capsys, "trace", "ffhq", *where)
    assert (status, "imported network" in out) == (0, True)
    status, _, err = likeness(capsys, *words)
    assert (status, "there is an import 'ffhq'" in err) == (1, True)
    weights = imported.folder / "generator_ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="no longer has its recorded sha256"):
        open_imported(imported, torch.device("cpu"))


def test_a_run_begins_with_an_import(tmp_path: Path, classes: Any, networks: Any) -> None:
    """Of a smaller resolution too, with the weights of the levels that both have; the record has the licence."""
    store = Store(tmp_path / "store")
    write_import(store, "ffhq", written(tmp_path / "n.pkl", classes, networks))
    source = open_source(store, "ffhq")
    sizes = {"z_dim": 12, "w_dim": 12, "mapping_layers": 3, **WIDTHS}
    config = source.fitted(TrainConfig.model_validate({"resolution": 32, "device": "cpu", **sizes}))
    assert config.start_resolution == 32
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(4, 32))
    run = create_run(store, dataset, config.model_dump(mode="json"), init_from=source.record)
    training = Training.begin(config, torch.device("cpu"))
    take_first_weights(training, run)
    for name, network in zip(("generator", "generator_ema", "discriminator"), networks, strict=True):
        theirs = network.state_dict()
        assert all(torch.equal(x, theirs[key]) for key, x in training.networks[name].state_dict().items()), (
            name
        )
    record = find_run(store, run.id).record.init_from
    assert record is not None
    assert (record.imported, record.license) == ("ffhq", "CC-BY-NC-4.0")
    assert record.file_sha256 == file_digest(tmp_path / "n.pkl")


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    """A file that is refused, or a name that is none, makes no import."""
    path = tmp_path / "h.pkl"
    path.write_bytes(b"no")
    store = Store(tmp_path / "store")
    for name in ("ffhq", "FFHQ", "../x", ""):
        with pytest.raises(PipelineError):
            write_import(store, name, path)
    assert not list((tmp_path / "store").rglob("*"))
    with pytest.raises(NotFoundError, match="no import 'ffhq'"):
        find_import(store, "ffhq")
