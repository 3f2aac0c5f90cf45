"""A run's curves in one picture: losses, what steers augmentation, and scores over its images; how near copies come.

    python benchmarks/run_curves.py store/runs/RUN --out curves.png

From the files that training, `likeness evaluate` and `likeness audit` leave in the run's folder: of a score, every
checkpoint that was measured; of audits, the newest checkpoint's. Needs matplotlib, which `pip install
likeness[sample]` brings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

SMOOTHED_KIMG = 4.0
"""Curves of single steps are means over about so many thousand images."""


def smoothed(lines: list[dict[str, Any]], name: str) -> np.ndarray[Any, Any]:
    """A statistic's running mean."""
    values = np.array([line.get(name, np.nan) for line in lines], float)  # a lazy penalty may be of no step
    apart = max(lines[-1]["kimg"] / len(lines), 1e-9)
    width = max(1, min(len(values), round(SMOOTHED_KIMG / apart)))
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def of_checkpoints(folder: Path) -> list[tuple[float, dict[str, Any]]]:
    """What JSON files named after checkpoints say, by kimg."""
    return [(int(path.stem) / 1000, json.loads(path.read_bytes())) for path in sorted(folder.glob("*.json"))]


def draw(run: Path, out: Path) -> None:
    """Draw what the run's folder holds."""
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    kimg = [line["kimg"] for line in lines]
    scores, audits = of_checkpoints(run / "metrics"), of_checkpoints(run / "audit")
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")

    for name, label in (("loss_g", "generator"), ("loss_d", "discriminator")):
        axes[0, 0].plot(kimg, smoothed(lines, name), label=label)
    axes[0, 0].set_title("loss")
    for name, label in (
        ("real_sign", "mean sign of real logits"),
        ("augment_p", "p of augmentation"),
        ("r1", "R1"),
    ):
        if any(name in line for line in lines):
            axes[0, 1].plot(kimg, smoothed(lines, name), label=label)
    axes[0, 1].set_title("augmentation, and R1")

    for name in sorted({name for _, record in scores for name in record}):
        measured = [(at, record[name]) for at, record in scores if name in record]
        if len(measured) > 1:
            counts = " and ".join(str(num) for num in sorted({found["num_fakes"] for _, found in measured}))
            points = [(at, found["value"]) for at, found in measured]
            axes[1, 0].plot(*zip(*points, strict=True), marker="o", label=f"{name}, of {counts}")
    axes[1, 0].set_yscale("symlog", linthresh=0.01)
    axes[1, 0].set_title("scores")
    if audits:
        draw_audit(axes[1, 1], *audits[-1])

    grown = [
        at for at, a, b in zip(kimg[1:], lines, lines[1:], strict=False) if a["resolution"] != b["resolution"]
    ]
    for axis in axes.flat:
        if axis is not axes[1, 1]:
            axis.set_xlabel("thousands of images; a resolution begins at each upright line")
            for at in grown:
                axis.axvline(at, color="0.9", zorder=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(
                fontsize="small", loc="lower left", bbox_to_anchor=(0, 1.08), ncols=2, borderaxespad=0
            )
    figure.savefig(out, dpi=90)


def draw_audit(axis: Axes, kimg: float, audit: dict[str, Any]) -> None:
    """Draw how far generated and held-out images are from their nearest training crops, by shares of them."""
    for space, colour in (("embedding", "C0"), ("pixels", "C1")):
        found = audit["spaces"][space]
        for what, style in (("generated", "-"), ("held_out", "--")):
            shares = {name: value for name, value in found[what].items() if name not in ("min", "max")}
            percent = [float(name.rstrip("%")) for name in shares]
            label = f"{space}, {what.replace('_', '-')}"
            axis.plot(percent, list(shares.values()), style, marker="o", color=colour, label=label)
        axis.axhline(found["threshold"], color=colour, linestyle=":", label=f"{space}, a near-copy below")
    axis.set_xscale("log")
    axis.set_xlabel("percentile of the images")
    axis.set_title(f"distance to the nearest training crop, {kimg:.0f} kimg")


def main() -> None:
    """Draw one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    given = parser.parse_args()
    stats = given.run_folder / "stats.jsonl"
    if not stats.is_file() or not stats.read_text().strip():
        parser.error(f"{stats} holds nothing: this is no training run that began")
    draw(given.run_folder, given.out)
    print(given.out)


if __name__ == "__main__":
    main()
