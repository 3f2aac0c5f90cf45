"""Compiled gradients: the plain ones, kept for the next process, compiled once where two ask at a time."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from contextlib import AbstractContextManager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.engine.gradients import GradientFunction, _one_at_a_time

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is here")


class Parabola(nn.Module):
    """A phase with one network of one weight."""

    form = False

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(3, 1)

    def forward(self, x_N3: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and its value."""
        loss = self.network(x_N3).square().mean()
        return loss, loss[None]


def compiled_gradients(x: Tensor) -> dict[str, int]:
    """The bias's gradient by a compiled function, and what the compiler says of its cache."""
    from torch._dynamo.utils import counters

    counters.clear()
    torch.manual_seed(0)
    phase = Parabola()
    gradients, (loss,) = GradientFunction(phase, phase.network, compiled=True)(x)
    plain, (expected,) = GradientFunction(phase, phase.network, compiled=False)(x)
    for parameter, gradient in plain.items():
        torch.testing.assert_close(gradients[parameter], gradient)
    torch.testing.assert_close(loss, expected)
    return dict(counters["inductor"])


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
def test_what_was_compiled_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second function of the same phase and inputs comes from the cache, other inputs do not."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # Here, not by other processes, and without vectors: which ones the CPU has is found by compiling more.
    monkeypatch.setattr(config, "compile_threads", 1)
    monkeypatch.setattr(config.cpp, "vec_isa_ok", False)
    assert compiled_gradients(torch.randn(4, 3))["fxgraph_cache_miss"] == 1
    again = compiled_gradients(torch.randn(4, 3))
    assert again["fxgraph_cache_hit"] == 1, again
    assert "fxgraph_cache_miss" not in again, again
    assert compiled_gradients(torch.randn(5, 3))["fxgraph_cache_miss"] == 1


def lock(rows: int) -> AbstractContextManager[None]:
    """That of the phase and inputs of so many rows."""
    phase, x = Parabola(), torch.zeros(rows, 3)
    return _one_at_a_time(GradientFunction(phase, phase.network, compiled=True).record([x]), [x])


def hold(holding: Event, let_go: Event, done: Event, folder: Path, rows: int) -> None:
    """Compile, as far as others can see, until half a second after it may end."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    with lock(rows):
        holding.set()
        let_go.wait(240)
        time.sleep(0.5)
        done.set()


def test_two_that_compile_the_same_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process compiles the same phase of the same inputs, this one waits; other inputs do not."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    spawning = multiprocessing.get_context("spawn")
    holding, let_go, done = (spawning.Event() for _ in range(3))
    same, other = lock(4), lock(5)
    process = spawning.Process(target=hold, args=(holding, let_go, done, tmp_path, 4))
    process.start()
    assert holding.wait(240)
    with other:
        assert not done.is_set(), "waited for other inputs"
    let_go.set()
    with same:
        assert done.is_set(), "did not wait for the same inputs"
    process.join(240)
    assert process.exitcode == 0
