"""Which device a config means, and how exactly it computes; apart, so that asking does not load the networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from storage.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here; DeviceError where it is not here."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device cuda was asked for, but no GPU is usable here: choose cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


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
