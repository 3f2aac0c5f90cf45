"""A process that aligns photographs keeps the memory that it frees."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from preprocessing.photo.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
def work():
    for _ in range(20):
        np.ones(20_000_000, np.uint8)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that a process asked for in its work, in an environment such as Dask's workers have."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 3:
        pytest.skip("the allocator is not glibc's")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_pages_are_asked_for_once() -> None:
    """Work that takes and frees the same memory again asks the system for next to none."""
    pages = 20 * 20_000_000 // resource.getpagesize()
    assert faults("give back") > pages / 20, "the test would not notice"
    assert faults("keep") < pages / 100
