"""What a shard costs: packed beside webdataset's TarWriter, and read in any order beside webdataset's reader in order.

    python benchmarks/shards.py [--images 2000] [--bytes 6000 22000]

Images are bytes drawn by lot, of the sizes that a JPEG and a lossless WebP have at 128 px, and their facts are as large
as a build's. Packing hashes the tar and every entry, and makes the index; TarWriter hashes nothing. A read is of an
image, its hash checked, as training reads; webdataset goes through the whole tar and checks nothing. All in one
process, by CPU seconds, the best of some rounds, each into new files; pages are in the cache.

Not here: decoding (`loader.py`), and what a build does around it (`incremental.py`).
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import webdataset

from storage.digest import bytes_digest
from storage.shards import Entry, Sample, index_json, open_index, read_entry, write_shard

FACTS_BYTES = 3000
IMAGES_PER_SHARD = 100
ROUNDS = 5


def drawn(num: int, size: int) -> list[Sample]:
    """Samples of bytes drawn by lot; the hash of an image is known, as where it is read to be packed."""
    samples = []
    for number in range(num):
        image = os.urandom(size)
        facts = b"{" + b"x" * (FACTS_BYTES - 2) + b"}"
        samples.append(Sample(f"{number:016x}", "webp", image, facts, bytes_digest(image)))
    return samples


def shards_of(samples: list[Sample]) -> list[list[Sample]]:
    """As many in each as a build's shards have."""
    return [samples[start : start + IMAGES_PER_SHARD] for start in range(0, len(samples), IMAGES_PER_SHARD)]


def pack(folder: Path, samples: list[Sample]) -> None:
    """Tars with all hashes, and their indexes."""
    for number, shard in enumerate(shards_of(samples)):
        checked = [  # as a build does, which reads each image from where it lies
            Sample(sample.key, sample.suffix, sample.image, sample.metadata, bytes_digest(sample.image))
            for sample in shard
        ]
        index = write_shard(folder / f"{number:05d}.tar", checked)
        (folder / f"{number:05d}.index.json").write_bytes(index_json(index))


def pack_by_webdataset(folder: Path, samples: list[Sample]) -> None:
    """Tars, without hashes."""
    for number, shard in enumerate(shards_of(samples)):
        with webdataset.TarWriter(str(folder / f"{number:05d}.tar"), encoder=False) as writer:
            for sample in shard:
                writer.write({"__key__": sample.key, "webp": sample.image, "json": sample.metadata})


def read_by_lot(places: list[tuple[Path, Entry]]) -> None:
    """Every image once, in an order drawn by lot."""
    for path, image in random.Random(0).sample(places, len(places)):
        read_entry(path, image)


def read_by_webdataset(paths: list[Path]) -> None:
    """Every sample once, in order."""
    urls = [str(path) for path in paths]
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        assert sample["webp"]


def rate(num: int, work: Callable[[Path], object]) -> float:
    """Images a CPU second, the best of some rounds, each of which is given an empty folder."""
    seconds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            clock = time.process_time()
            work(Path(folder))
            seconds.append(time.process_time() - clock)
    return num / min(seconds)


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--bytes", type=int, nargs="+", default=[6000, 22_000])
    arguments = parser.parse_args()
    for size in arguments.bytes:
        print(f"{size:>6} bytes: {line(drawn(arguments.images, size))}", flush=True)


def line(samples: list[Sample]) -> str:
    """What was measured of some samples."""
    num = len(samples)
    with tempfile.TemporaryDirectory() as folder:
        pack(Path(folder), samples)
        paths = sorted(Path(folder).glob("*.tar"))
        indexes = [open_index(path.with_suffix(".index.json"), None) for path in paths]
        places = [
            (path, entry) for path, index in zip(paths, indexes, strict=True) for entry in index.entries[::2]
        ]
        packed = rate(num, partial(pack, samples=samples))
        by_them = rate(num, partial(pack_by_webdataset, samples=samples))
        read = rate(num, lambda _: read_by_lot(places))
        in_order = rate(num, lambda _: read_by_webdataset(paths))
    hashed = rate(num, lambda _: [bytes_digest(sample.image) for sample in samples])
    return (
        f"packed {packed:,.0f} a CPU second with hashes and index, {packed / by_them:.1f} times TarWriter's "
        f"{by_them:,.0f}; read in any order {read:,.0f}, {read / in_order:.1f} times webdataset's {in_order:,.0f} in "
        f"order; hashed alone {hashed:,.0f}"
    )


if __name__ == "__main__":
    main()
