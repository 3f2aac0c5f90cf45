"""Where a training computes: what is asked for, or an error that says what there is."""

from __future__ import annotations

import pytest
import torch

from storage.errors import DeviceError
from training.device import is_nvidia, resolve_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_absent_gpu_is_an_error() -> None:
    """Asking for a GPU where there is none is an error; auto takes the CPU."""
    with pytest.raises(DeviceError, match="no GPU is usable here"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="an Apple GPU is here")
def test_an_absent_apple_gpu_is_an_error() -> None:
    """Asking for one where there is none is an error with what may be chosen."""
    with pytest.raises(DeviceError, match="no Apple GPU is usable here: choose cpu or auto"):
        resolve_device("mps")


def test_gpus_that_are_not_nvidias_compute_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of our own and compiled steps are for NVIDIA's alone; a torch for ROCm calls AMD's "cuda" too."""
    assert is_nvidia(torch.device("cuda"))
    assert not is_nvidia(torch.device("mps"))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not is_nvidia(torch.device("cuda"))
