"""How soon does the explorer show something, and how like the picture is its preview?

python benchmarks/explorer.py time RUN --store STORE     # likeness explore, by what it answers
python benchmarks/explorer.py slider RUN --store STORE   # a hand that drags truncation, in a real browser
python benchmarks/explorer.py previews                   # of the generator in the box, beside the shrunk picture
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.drawing.figures import fixed_noise
from training.drawing.images import synthesized, w_from_seeds
from training.drawing.previews import Preview, features, fit_colours
from training.drawing.trained import open_bundled

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browser import Browser, find_browser

SEEDS = range(100, 116)
MOVES = 50
"""Of a slider, 60 ms apart."""
DRAG = """(async () => {
  const input = document.querySelector('input[aria-label^="Truncation psi"]'), seen = new Set();
  performance.clearResourceTimings();
  for (let move = 1; move <= %d; move++) {
    input.value = move / %d;
    input.dispatchEvent(new Event("input", {bubbles: true}));
    await new Promise(resolve => setTimeout(resolve, 60));
    seen.add(document.getElementById("picture").toDataURL());
  }
  await new Promise(resolve => setTimeout(resolve, 2000));
  const asked = performance.getEntriesByType("resource").filter(one => one.name.includes("picture?"));
  const drawn = asked.filter(one => one.responseStatus === 200);
  const took = size => drawn.filter(one => one.name.includes(`size=${size}`)).map(one => one.duration);
  return {seen: seen.size, preview: took("preview"), full: took("full")};
})()"""


@contextmanager
def explored(run: str, store: Path) -> Iterator[str]:
    """The address of `likeness explore`."""
    words = [
        sys.executable, "-m", "flows.cli", "explore", run, "--json", "--port", "0", "--store", str(store)
    ]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            yield json.loads(serving.stdout.readline())["address"]
        finally:
            serving.terminate()


def time_answers(run: str, store: Path) -> None:
    """Print a line an answer: seconds since the command began, and what the answer took."""
    begun = time.perf_counter()
    with explored(run, store) as address:
        print(f"{time.perf_counter() - begun:6.1f}  there is an address")
        for name, path in (
            ("what there is to steer", "about"),
            ("preview", "picture?seed=0&page=a&size=preview"),
            ("what directions explain", "shares"),
            ("whole picture", "picture?seed=0&page=a"),
            *(("preview of another", f"picture?seed={seed}&page=a&size=preview") for seed in (1, 2, 3)),
            ("preview, moved", "picture?seed=3&page=a&size=preview&move=sefa.all.0:1"),
            ("preview, moved on", "picture?seed=3&page=a&size=preview&move=sefa.all.0:2"),
            ("saved", "download?seed=0"),
        ):
            asked = time.perf_counter()
            with urllib.request.urlopen(address + path) as answer:
                answer.read()
            now = time.perf_counter()
            print(f"{now - begun:6.1f}  {name}, {now - asked:.2f} s")


def drag(run: str, store: Path) -> None:
    """Print what a browser asked for while a slider was dragged, and how long each answer took."""
    program = find_browser()
    assert program is not None, "no Chromium is installed"

    async def dragged(profile: Path, address: str) -> dict[str, Any]:
        async with Browser(program, profile) as browser:
            await browser.open(address)
            await browser.until("document.querySelector('input[aria-label^=\"Truncation psi\"]') !== null")
            await asyncio.sleep(3)  # the first picture, and the directions
            found: dict[str, Any] = await browser.run(DRAG % (MOVES, MOVES))
            return found

    with explored(run, store) as address, tempfile.TemporaryDirectory() as profile:
        found = asyncio.run(dragged(Path(profile), address))
    print(f"{found['seen']} pictures seen in {MOVES} moves, 60 ms apart")
    for size in ("preview", "full"):
        took = sorted(found[size])
        if took:
            print(f"{size}: {len(took)}, {statistics.median(took):.0f} ms (median), {took[-1]:.0f} at most")


@torch.no_grad()
def compare_previews() -> None:
    """Print by how many grey levels, as the root of the mean square, small pictures differ from whole ones shrunk."""
    generator = open_bundled(torch.device("cpu")).style_generator("a benchmark")

    def off(one: Tensor, other: Tensor) -> float:
        return float((127.5 * (one.clamp(-1, 1) - other.clamp(-1, 1))).square().mean().sqrt())

    for level in (2, 3, 4):
        preview, colours = Preview.of(generator, level), fit_colours(generator, level, 8)
        rows = []
        for seed in SEEDS:
            w_1LD, noise = w_from_seeds(generator, [seed], 0.7), fixed_noise(generator, seed)
            whole = F.adaptive_avg_pool2d(synthesized(generator, w_1LD, noise), preview.side_px)
            x_NCHW = features(generator, w_1LD, noise, level)
            fitted = torch.einsum("nchw,cd->ndhw", x_NCHW, colours.weight_C3)
            fitted = fitted + colours.bias_3[:, None, None]
            small = preview.images(w_1LD, noise)
            rows.append(
                [off(one, whole) for one in (small, fitted, generator.synthesis.to_rgb[level](x_NCHW))]
            )
        small_off, fitted_off, stale_off = np.mean(rows, axis=0)
        print(
            f"{preview.side_px} px: {small_off:.1f}, fitted {fitted_off:.1f}, as it was left {stale_off:.1f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["time", "slider", "previews"])
    parser.add_argument("run", nargs="?", default="bundled")
    parser.add_argument("--store", type=Path, default=Path("store"))
    given = parser.parse_args()
    if given.what == "previews":
        compare_previews()
    else:
        {"time": time_answers, "slider": drag}[given.what](given.run, given.store)
