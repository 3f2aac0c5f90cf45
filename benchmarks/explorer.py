"""How soon does the explorer show something, and how like the picture is its preview?

python benchmarks/explorer.py time RUN --store STORE     # likeness explore, by what it answers
python benchmarks/explorer.py previews                   # of the generator in the box, beside the shrunk picture
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.drawing.figures import fixed_noise
from training.drawing.images import synthesized, w_from_seeds
from training.drawing.previews import Preview, features, fit_colours
from training.drawing.trained import open_bundled

SEEDS = range(100, 116)


def time_answers(run: str, store: Path) -> None:
    """Print a line an answer: seconds since the command began, and what the answer took."""
    words = [
        sys.executable,
        "-m",
        "flows.cli",
        "explore",
        run,
        "--json",
        "--port",
        "0",
        "--store",
        str(store),
    ]
    begun = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            address = json.loads(serving.stdout.readline())["address"]
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
        finally:
            serving.terminate()


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
    parser.add_argument("what", choices=["time", "previews"])
    parser.add_argument("run", nargs="?", default="bundled")
    parser.add_argument("--store", type=Path, default=Path("store"))
    given = parser.parse_args()
    compare_previews() if given.what == "previews" else time_answers(given.run, given.store)
