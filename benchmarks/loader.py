"""Images a second from shards, decoded, against what training takes: the loader alone, on whatever machine.

    python benchmarks/loader.py store/datasets/faces/VERSION/shards --resolution 256 --training-images-per-second 600

Training's stream of batches (`RealImages.stream`, `next_batch`) over the tars of a folder, taken as many times under
other names as makes a dataset of at least `--images`. The first epoch decodes every image, and so does every later one
of a dataset whose pixels take more than 4 GiB; a smaller one is kept decoded, which the second figure shows. The
ratio is to what `benchmarks/training_step.py` says that training takes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

from storage.shards import index_name
from training.data import RealImages
from training.loop import next_batch


def images_per_second(images: RealImages, resolution: int, batch: int, num: int) -> list[float]:
    """Of the first and of the second epoch, each of `num` images."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stream = images.stream(0, resolution, batch_size=batch, rows=range(batch))
    found = []
    for _ in range(2):
        begun = time.perf_counter()
        for _ in range(num // batch):
            next_batch(stream, batch, device)
        found.append(num // batch * batch / (time.perf_counter() - begun))
    return found


def main() -> None:
    """Print a row for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shards", type=Path, help="folder of a dataset version's tars")
    parser.add_argument("--resolution", type=int, required=True, help="the dataset's; nothing is resampled")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=10_000, help="an epoch, at least")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--training-images-per-second", type=float, help="what training takes")
    given = parser.parse_args()
    paths = sorted(given.shards.glob("*.tar"))
    if not paths or not all(path.with_name(index_name(path.name)).is_file() for path in paths):
        parser.error(f"{given.shards} holds no tars with their index files")
    indices = [json.loads(path.with_name(index_name(path.name)).read_bytes()) for path in paths]
    num = sum(len({entry["name"].split(".")[0] for entry in index["entries"]}) for index in indices)
    times = -(-given.images // num)
    print(
        f"{num} images of {given.resolution} px in {len(paths)} shards, {times} times; {os.cpu_count()} cores"
    )
    print("threads | images/s, first epoch  second epoch | first, of what training takes")
    with tempfile.TemporaryDirectory() as folder:
        links = [Path(folder) / f"{copy:05d}-{path.name}" for copy in range(times) for path in paths]
        for link, path in zip(links, paths * times, strict=True):
            link.symlink_to(path.resolve())
            link.with_name(index_name(link.name)).symlink_to(path.resolve().with_name(index_name(path.name)))
        for threads in given.threads:
            images = RealImages(
                shard_paths=links, num_images=num * times, dataset_resolution=given.resolution,
                seed=0, x_flips=True, num_threads=threads,
            )  # fmt: skip
            first, second = images_per_second(images, given.resolution, given.batch, num * times)
            wanted = given.training_images_per_second
            ratio = f"{first / wanted:.2f}" if wanted else "-"
            print(f"{threads:<7} | {first:22.0f}  {second:12.0f} | {ratio}", flush=True)


if __name__ == "__main__":
    main()
