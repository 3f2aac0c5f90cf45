"""Compiling ahead: the very phases, forms and inputs that training will ask for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.datasets.records import VersionSummary
from storage.runs import create_run
from storage.store import Store
from training.config import TrainConfig
from training.data import Shown
from training.engine import precompile
from training.engine.gradients import GradientFunction
from training.engine.precompile import beside, keep_compiled_in, tasks_of
from training.engine.ranks import Ranks
from training.engine.state import Training
from training.loop import next_batch
from training.schedule import recorded_lod, stage_at, stages_from

TINY = {
    "max_channels": 4, "z_dim": 8, "w_dim": 8, "mapping_layers": 1, "resolution": 16, "start_resolution": 4,
    "stable_kimg": 0.024, "fade_kimg": 0.024, "total_kimg": 0.2, "batch_size": {"4": 8, "16": 4},
}  # fmt: skip

DATASET = VersionSummary(
    name="faces", version="ab" * 8, manifest_sha256="ab" * 32, directory="datasets/faces/abababababababab",
    resolution=16, num_images=1, shards=[],
)  # fmt: skip


def kind(function: GradientFunction, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
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
    {"loss": "r3", "r1_interval": 2}, {"start_resolution": 16}, {"fade_kimg": 0.0},
])  # fmt: skip
def test_what_training_asks_for_is_compiled_before(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a run computes, from its start or from any image on, is among what was compiled ahead."""
    config = TrainConfig.model_validate({**TINY, **given})
    asked: list[list[Any]] = []
    ahead: list[Any] = []
    plain = GradientFunction.__call__

    def called(function: GradientFunction, *inputs: Tensor) -> Any:
        asked[-1].append(kind(function, inputs))
        return plain(function, *inputs)

    monkeypatch.setattr(GradientFunction, "__call__", called)
    monkeypatch.setattr(
        GradientFunction, "compile", lambda function, inputs: ahead.append(kind(function, inputs))
    )
    training = Training.begin(config, torch.device("cpu"))
    training.is_compiled = True
    starts = []
    while training.num_images < config.total_kimg * 1000:
        stage = stage_at(config, training.num_images)
        starts.append(training.num_images)
        asked.append([])
        image = Shown(np.zeros((stage.resolution, stage.resolution, 3), np.uint8), True)
        training.step(
            stage, *next_batch(iter([image] * stage.batch_size), stage.batch_size, torch.device("cpu"))
        )
    assert len({k for step in asked for k in step}) >= 2
    for index, start in enumerate(starts):
        ahead.clear()
        for stage, phase in tasks_of(config, start):
            training.compile(stage, phase)
        missing = {k for step in asked[index:] for k in step} - set(ahead)
        assert not missing, f"from image {start} on, not compiled ahead: {missing}"
        assert len(set(ahead)) == len(ahead), "compiled twice"


def noted_kind(found: list[Any], function: GradientFunction, inputs: Sequence[Tensor]) -> None:
    """Note what would be compiled."""
    found.append(kind(function, inputs))


@pytest.mark.parametrize(
    "given", [{"augment": "ada"}, {"loss": "wgan_gp"}, {"loss": "r3"}, {"path_length_weight": 2.0}]
)
def test_of_two_ranks_each_takes_half_a_batch(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled for two ranks is for half of a batch, and the same for both, in whatever phase."""
    config = TrainConfig.model_validate({**TINY, **given})
    asked: dict[int, list[Any]] = {0: [], 1: []}
    for rank, found in asked.items():
        training = Training.begin(config, torch.device("cpu"), Ranks(rank, 2))
        for phase, function in training.gradients.items():
            monkeypatch.setattr(function, "compile", partial(noted_kind, found, function))
            training.compile(stage_at(config, 0), phase)
    assert asked[0] == asked[1]
    assert next(shape for shape, *_ in asked[0][0][-1] if len(shape) == 3)[1] == 4  # the latents


@pytest.mark.parametrize(
    "given", [{}, {"loss": "wgan_gp"}, {"path_length_weight": 2.0, "path_length_interval": 1}]
)
def test_a_held_resolution_trains_as_by_its_own_step(given: dict[str, Any]) -> None:
    """The step that a resolution faded in by, with nothing of the level below showing, is its own step."""
    config = TrainConfig.model_validate({**TINY, "ema_half_life_kimg": 0.01, **given})
    held = [stage_at(config, num) for num in (60, 100)]
    assert [(stage.resolution, stage.lod) for stage in held] == [(8, 1.0), (16, 0.0)]
    for stage in held:
        own, kept = (Training.begin(config, torch.device("cpu")) for _ in range(2))
        kept.is_compiled = True
        pixels = torch.randint(
            256, (stage.batch_size, 3, stage.resolution, stage.resolution), dtype=torch.uint8
        )
        for _ in range(3):
            own.step(stage, pixels)
            kept.step(stage, pixels)
        assert own.generator.lod == stage.lod
        assert (kept.generator.lod == stage.lod) == (stage.lod == 0)
        for name, network in own.networks.items():
            torch.testing.assert_close(kept.networks[name].state_dict(), network.state_dict())
        torch.testing.assert_close(kept.tally.means(), own.tally.means())
        kept.show_present_lod()
        assert kept.generator.lod == stage_at(config, kept.num_images).lod


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is here")
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
def test_training_finds_what_was_compiled_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What processes of their own compiled of a run, the process that trains it takes from the cache."""
    from torch._dynamo.utils import counters

    config = TrainConfig.model_validate(
        {**TINY, "resolution": 8, "start_resolution": 8, "num_cpu_threads": 1}
    )
    run = create_run(Store(tmp_path / "store"), DATASET, config.model_dump(mode="json"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled_in(run.store)
    command = [
        sys.executable,
        "-m",
        "training.engine.precompile",
        str(run.folder),
        "--device",
        "cpu",
        "--jobs",
        "2",
    ]
    subprocess.run(command, cwd=Path(__file__).parent.parent, check=True)
    torch.set_num_threads(config.num_cpu_threads)
    training = Training.begin(config, torch.device("cpu"))
    assert {phase for _, phase in tasks_of(config, 0)} == {"discriminator", "generator"}
    for stage, phase in tasks_of(config, 0):
        counters.clear()
        training.compile(stage, phase)
        assert counters["inductor"]["fxgraph_cache_hit"] == 1, f"{phase}: {dict(counters['inductor'])}"


@pytest.mark.parametrize("kimg", [(0.1, 0.1), (0.0, 0.1), (0.1, 0.0), (0.033, 0.05), (0.12, 0.12)])
def test_no_kind_of_stage_is_missed_or_made_up(kimg: tuple[float, float]) -> None:
    """From every image on, the stages ahead are of the kinds that a scan of the schedule meets, in their order."""
    stable, fade = kimg
    for start, resolution in ((8, 64), (4, 32), (32, 32)):
        config = TrainConfig.model_validate(
            {"stable_kimg": stable, "fade_kimg": fade, "start_resolution": start, "resolution": resolution,
             "total_kimg": 0.7, "batch_size": {"4": 8}}
        )  # fmt: skip
        scanned = [stage_at(config, image) for image in range(700)]
        kinds = [(stage.resolution, recorded_lod(config, stage.lod) % 1 > 0) for stage in scanned]
        for image in range(0, 700, 7):
            stages = stages_from(config, image)
            ahead = [(stage.resolution, recorded_lod(config, stage.lod) % 1 > 0) for stage in stages]
            assert ahead == list(dict.fromkeys(kinds[image:])), f"from image {image} of {config.stable_kimg}"


# --------------------------------------------------------------------------------------------------------------
# The process beside training


@pytest.mark.parametrize(("free_gib", "jobs"), [(80, "8"), (16, "2"), (5, None)])
def test_one_process_a_machine_compiles_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: int, jobs: str | None
) -> None:
    """The first rank of a machine starts it, for all ranks, and it takes at most a quarter of the memory."""
    started = []
    monkeypatch.setattr(precompile, "beside", lambda command, log: started.append(command) or nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_gib * 2**30, 80 * 2**30))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)))
    config = TrainConfig.model_validate(TINY)
    run = create_run(Store(tmp_path / "store"), DATASET, config.model_dump(mode="json"))
    for ranks in (Ranks(3, 4, local_rank=1), Ranks(2, 4, local_rank=0)):
        with precompile.compiling_ahead(run, config, ranks, torch.device("cuda")):
            pass
    found = [dict(zip(command[4::2], command[5::2], strict=True)) for command in started]
    assert found == ([{"--device": "cuda", "--world": "4", "--jobs": jobs}] if jobs else [])


def is_gone(group: int, seconds: float = 120.0) -> bool:
    """Whether no process of a group is left, or soon will be."""
    for _ in range(round(seconds / 0.05)):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def written(path: Path) -> int:
    """The number that a process writes to a file, once it has."""
    while not path.is_file() or not path.read_text().endswith("\n"):
        time.sleep(0.02)
    return int(path.read_text())


@pytest.mark.parametrize("leader", ["sleep 100", "exit 0"])
def test_all_that_ran_beside_ends(tmp_path: Path, leader: str) -> None:
    """At the exit the process and its children are gone, also where it ended before they did."""
    script = f"echo $$ > {tmp_path}/group; sleep 100 & {leader}"
    with beside(["sh", "-c", script], tmp_path / "log"):
        group = written(tmp_path / "group")
        time.sleep(0.2)
        os.killpg(group, 0)
    assert is_gone(group)


def test_a_failure_beside_training_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process that failed is warned of, with the file it wrote to; one that is merely ended is not."""
    with beside(["sh", "-c", f"echo $$ > {tmp_path}/failing; exit 3"], tmp_path / "failed"):
        os.waitid(os.P_PID, written(tmp_path / "failing"), os.WEXITED | os.WNOWAIT)
    with beside(["sleep", "100"], tmp_path / "ended"):
        pass
    (warning,) = caplog.messages
    assert "status 3" in warning
    assert str(tmp_path / "failed") in warning


def test_what_ran_beside_a_killed_process_ends(tmp_path: Path) -> None:
    """Where training is killed outright, the process that compiled for it ends with all of its group."""
    compiling = (
        "import subprocess, time; from training.engine.precompile import end_with_parent; end_with_parent(); "
        f"subprocess.Popen(['sleep', '100']); open({str(tmp_path / 'ready')!r}, 'w').close(); time.sleep(100)"
    )
    training = (
        "import sys; from pathlib import Path; import subprocess, time; "
        f"p = subprocess.Popen([sys.executable, '-c', {compiling!r}], start_new_session=True); "
        f"Path({str(tmp_path / 'group')!r}).write_text(str(p.pid)); time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", training], cwd=Path(__file__).parent.parent)
    begun = time.monotonic()
    while not (tmp_path / "ready").is_file():
        assert time.monotonic() - begun < 240, "never began"
        time.sleep(0.05)
    group = int((tmp_path / "group").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert is_gone(group)
