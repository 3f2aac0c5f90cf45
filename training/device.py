"""Which device a config means, and how exactly it computes; apart, so that asking does not load the networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from storage.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "mps" means here; DeviceError where it is not here.

    An AMD GPU is "cuda" to a torch that was built for ROCm. An Apple GPU, "mps", is taken where it is asked for.
    """
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps was asked for, but no Apple GPU is usable here: choose cpu or auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device cuda was asked for, but no GPU is usable here: choose cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def is_nvidia(device: torch.device) -> bool:
    """Whether kernels of our own and compiled steps are for it; other GPUs compute plainly."""
    return device.type == "cuda" and torch.version.hip is None


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No TF32: the differences that a path length is made of would drown in its rounding."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
