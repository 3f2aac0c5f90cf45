"""Compiling ahead: the very phases, forms and inputs that training will ask for."""

import shutil

import pytest
import torch

from storage.runs import create_run
from storage.store import Store
from training.config import TrainConfig
from training.precompile import keep_compiled, precompile, tasks_of
from training.ranks import Ranks
from training.schedule import stage_at
from training.state import Training
from training.step import GradientFunction

TINY = {
    "max_channels": 4, "z_dim": 8, "w_dim": 8, "mapping_layers": 1, "resolution": 16, "start_resolution": 4,
    "stable_kimg": 0.024, "fade_kimg": 0.024, "total_kimg": 0.2, "batch_size": {"4": 8, "16": 4},
}  # fmt: skip


def kind(function, inputs):
    """What the cache tells compiled functions apart by: the phase, whether it fades, and its inputs' looks."""
    looks = tuple((tuple(x.shape), x.dtype, x.stride(), x.storage_offset()) for x in inputs)
    return (
        type(function._phase).__name__,
        getattr(function._phase, "r1_gamma", None),
        function._phase.form,
        looks,
    )


@pytest.mark.parametrize("given", [
    {}, {"augment": "ada", "r1_interval": 2}, {"loss": "wgan_gp", "path_length_weight": 2.0, "path_length_interval": 2},
    {"start_resolution": 16}, {"fade_kimg": 0.0},
])  # fmt: skip
def test_what_training_asks_for_is_compiled_before(given, monkeypatch):
    """All that a run computes, from its start or from any image on, is among what was compiled ahead."""
    config = TrainConfig.model_validate({**TINY, **given})
    asked, ahead = [], []
    plain = GradientFunction.__call__

    def called(function, *inputs):
        asked[-1].append(kind(function, inputs))
        return plain(function, *inputs)

    monkeypatch.setattr(GradientFunction, "__call__", called)
    monkeypatch.setattr(
        GradientFunction, "compile", lambda function, inputs: ahead.append(kind(function, inputs))
    )
    training = Training.begin(config, torch.device("cpu"))
    starts = []
    while training.num_images < config.total_kimg * 1000:
        stage = stage_at(config, training.num_images)
        starts.append(training.num_images)
        asked.append([])
        pixels = torch.zeros(stage.batch_size, 3, stage.resolution, stage.resolution, dtype=torch.uint8)
        training.step(stage, pixels)
    assert len({k for step in asked for k in step}) >= 2
    for index, start in enumerate(starts):
        ahead.clear()
        for stage, phase in tasks_of(config, start):
            training.compile(stage, phase)
        missing = {k for step in asked[index:] for k in step} - set(ahead)
        assert not missing, f"from image {start} on, not compiled ahead: {missing}"
        assert len(set(ahead)) == len(ahead), "compiled twice"


def test_each_rank_compiles_for_its_share():
    """Of two ranks, each compiles for half of a batch."""
    config = TrainConfig.model_validate(TINY)
    sizes = []
    for rank in (0, 1):
        training = Training.begin(config, torch.device("cpu"), Ranks(rank, 2))
        stage = stage_at(config, 0)
        training.gradients["generator"].compile = lambda inputs: sizes.append(inputs[2].shape[1])
        training.compile(stage, "generator")
    assert sizes == [4, 4]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is here")
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
def test_training_finds_what_was_compiled_ahead(tmp_path, monkeypatch):
    """What processes of their own compiled of a run, the process that trains it takes from the cache."""
    from torch._dynamo.utils import counters

    config = TrainConfig.model_validate(
        {**TINY, "resolution": 8, "start_resolution": 8, "num_cpu_threads": 1}
    )
    run = create_run(Store(tmp_path / "store"), {"name": "faces"}, config.model_dump(mode="json"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled(run)
    precompile(run.folder, torch.device("cpu"), rank=0, world=1, jobs=2)
    torch.set_num_threads(config.num_cpu_threads)
    training = Training.begin(config, torch.device("cpu"))
    for stage, phase in tasks_of(config, 0):
        counters.clear()
        training.compile(stage, phase)
        assert counters["inductor"]["fxgraph_cache_hit"] == 1, f"{phase}: {dict(counters['inductor'])}"
