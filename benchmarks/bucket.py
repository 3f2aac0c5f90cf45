"""Images a second that training reads from a store in a bucket, against one in a folder: first epoch, and later ones.

    python benchmarks/bucket.py --images 10000 --endpoint http://127.0.0.1:5555

The dataset is drawn: smooth pictures with some noise, as WebP of about the size of a face. It is published in a folder
and pushed to a bucket on the server at `--endpoint`, which speaks S3 without looking at credentials. A first epoch from
the bucket begins with nothing on this machine; a later one reads what the first has brought, and one with little room
asks for each image. No pixels are kept between epochs. Folder and bucket take turns, and the best of `--rounds` counts.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

import training.data
from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from storage.cut import keys_of, leaves
from storage.datasets.dataset import open_dataset
from storage.datasets.manifest import publish, record_build
from storage.datasets.push import push
from storage.digest import bytes_digest
from storage.mirror import CACHE, CACHE_BYTES
from storage.remote import Remote
from storage.shards import Sample, index_json, index_name, write_shard
from storage.store import Store
from storage.tables import table_of
from training.config import TrainConfig
from training.loop import next_batch
from training.process import images_of_version

PER_SHARD = 128
BUCKET = "likeness-benchmark"


def drawn(number: int, side: int) -> bytes:
    """A picture as WebP."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    pixels = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += rng.integers(-12, 13, pixels.shape, np.int16)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "WEBP", quality=95, method=0)
    return file.getvalue()


def publish_drawn(store: Store, num: int, side: int) -> None:
    """A version of so many pictures, cut as a build would cut it."""
    images = sorted((bytes_digest(data), data) for data in (drawn(number, side) for number in range(num)))
    rows, shards = [], []
    for leaf in leaves(keys_of(pa.array([sha256 for sha256, _ in images])), PER_SHARD):
        mine = images[leaf.start : leaf.stop]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "new.tar"
            index = write_shard(path, [Sample(sha256[:16], "webp", data, b"{}") for sha256, data in mine])
            key = f"chunks/shard/{index.sha256}.tar"
            store.put(key, path)
            size = path.stat().st_size
        store.put(index_name(key), index_json(index))
        file = f"shards/{leaf.name}-{index.sha256[:16]}.tar"
        shards.append(
            {
                "file": file,
                "object": key,
                "sha256": index.sha256,
                "size": size,
                "images": len(mine),
                "index_sha256": bytes_digest(index_json(index)),
            }
        )
        for (sha256, _), entry in zip(mine, index.entries[::2], strict=True):
            known = {"key": sha256[:16], "image_sha256": sha256, "photo_sha256": sha256, "face_index": 0}
            known |= {"ref": sha256, "shard": file, "offset": entry.offset, "size": entry.size}
            rows.append({**dict.fromkeys(IMAGE_SCHEMA.names), **known})
    dataset = publish(
        store,
        "drawn",
        settings={"resolution": side},
        images=[table_of(rows, IMAGE_SCHEMA)],
        image_schema=IMAGE_SCHEMA,
        rejections=[],
        rejection_schema=REJECTION_SCHEMA,
        shards=shards,
        num_photos=num,
    )
    record_build(dataset, {"config_sha256": "0"}, datetime.now(UTC))


def images_per_second(store: Store, side: int, threads: int) -> float:
    """Of one epoch, opening the version included."""
    config = TrainConfig.model_validate({"resolution": side, "preset": "smoke"})
    begun = time.perf_counter()
    images = images_of_version(store, open_dataset(store, "drawn").summary(), config, threads)
    stream = images.stream(0, side, batch_size=32, rows=range(32))
    batches = images.num_images // 32
    for _ in range(batches):
        next_batch(stream, 32, torch.device("cpu"))
    del stream  # which ends its threads
    return batches * 32 / (time.perf_counter() - begun)


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--endpoint", required=True, help="address of a server that speaks S3")
    given = parser.parse_args()
    os.environ |= {"AWS_ENDPOINT_URL": given.endpoint, "AWS_REGION": "us-east-1"}
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "somebody")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "secret")
    training.data.KEPT_BYTES = 0
    url = f"s3://{BUCKET}/{os.getpid()}"
    asked = urllib.request.Request(f"{given.endpoint}/{BUCKET}", method="PUT")
    urllib.request.urlopen(asked).close()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Store(Path(folder) / "store")
        publish_drawn(here, given.images, given.side)
        dataset = push(here, Remote(url), "drawn").dataset
        shards = dataset.manifest.shards
        print(
            f"{given.images} images of {given.side} px, {dataset.num_bytes / given.images / 1000:.1f} kB each, in "
            f"{len(shards)} tars of {dataset.num_bytes / len(shards) / 1e6:.1f} MB; {given.threads} threads, "
            f"{os.cpu_count()} cores",
            file=sys.stderr,
        )
        for number in range(given.rounds):
            os.environ[CACHE] = f"{folder}/{number}"
            there = Store(url)
            for way, store in (
                ("folder", here),
                ("bucket, first epoch", there),
                ("bucket, later epochs", there),
            ):
                found.setdefault(way, []).append(images_per_second(store, given.side, given.threads))
        os.environ |= {CACHE: f"{folder}/little", CACHE_BYTES: str(dataset.num_bytes // 4)}
        found["bucket, little room"] = [images_per_second(Store(url), given.side, given.threads)]
    local = max(found["folder"])
    for way, rates in found.items():
        each = ", ".join(f"{rate:.0f}" for rate in rates)
        print(f"{way:22} {max(rates):6.0f} images/s   {max(rates) / local:.2f} of the folder   ({each})")


if __name__ == "__main__":
    main()
