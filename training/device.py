"""Which device a config means; apart, so that asking does not load the networks."""

from __future__ import annotations

import torch

from storage.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here; DeviceError where it is not here."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device cuda was asked for, but no GPU is usable here: choose cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
