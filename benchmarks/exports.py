"""How long exports and their imports take, beside a plain copy of the same files.

    python benchmarks/exports.py FOLDER [--images 1670] [--side 256]

FOLDER holds photographs, of which squares are cut, and mirrored where they are too few. Each export is compared with
copying what it wrote, file by file, in the same run.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image, ImageOps

from flows.build import build, run_with
from flows.options import BuildOptions
from preprocessing.imports import ImportConfig
from storage.datasets.dataset import Dataset
from storage.exports.layouts import LAYOUTS
from storage.exports.write import checked_job, export
from storage.local import sync_all


def squares(photos: Path, folder: Path, num: int, side: int) -> None:
    """So many square pictures as lossless WebP."""
    folder.mkdir()
    paths = sorted(photos.rglob("*.jpg"))
    for number in range(num):
        with Image.open(paths[number // 2 % len(paths)]) as image:
            square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
        square = ImageOps.mirror(square) if number % 2 else square
        square.save(folder / f"{number:05d}.webp", lossless=True, method=0, quality=0)


def imported(path: Path, store: Path, name: str) -> Dataset:
    """A version of what lies at `path`."""
    config = ImportConfig(name=name).build_config(path)
    return build(config, BuildOptions(store=store), run_with(lambda _: None)).dataset


def copied(source: Path, target: Path) -> None:
    """Every file, and all on the disk."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    sync_all(target.parent)


def taken(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of CPU with those of child processes."""
    clock, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - clock, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """Of this process and the ended ones that it started."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Measure every format once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=1670)
    parser.add_argument("--side", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        squares(arguments.photos, folder / "squares", arguments.images, arguments.side)
        dataset = imported(folder / "squares", folder / "store", "faces")
        print(f"{dataset.num_images} images of {arguments.side} px; load {os.getloadavg()[0]:.1f}")
        print("format          MB   export s (CPU)   copy s (CPU)   import s (CPU)")
        for layout in LAYOUTS:
            out = folder / (f"{layout}.zip" if layout == "stylegan" else layout)
            job, found = checked_job(dataset, layout, out)
            wrote = taken(partial(export, job, found, out))
            copy = taken(partial(copied, out, folder / "copy"))
            read = taken(partial(imported, out, folder / "second", layout))
            size = sum(path.stat().st_size for path in (out, *out.rglob("*")) if path.is_file()) / 1e6
            seconds = "   ".join(f"{wall:6.1f} ({cpu:4.1f})" for wall, cpu in (wrote, copy, read))
            print(f"{layout:12} {size:5.0f}   {seconds}", flush=True)
            shutil.rmtree(folder / "copy") if out.is_dir() else (folder / "copy").unlink()


if __name__ == "__main__":
    main()
