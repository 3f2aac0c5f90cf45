"""A tiny trained run, in a store of its own, for tests of what is measured of runs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from storage.datasets.manifest import publish, record_build
from storage.datasets.records import VersionSummary
from storage.digest import bytes_digest, file_digest
from storage.runs import Run, create_run
from storage.shards import Sample, index_json, index_name, write_shard
from storage.store import Store
from storage.tables import table_of
from training.config import TrainConfig
from training.data import ImageArray
from training.loop import train
from training.process import images_of
from training.tracking import Tracker

TINY: dict[str, Any] = {
    "resolution": 16, "start_resolution": 8, "channel_base": 64, "max_channels": 8, "z_dim": 8, "w_dim": 8,
    "mapping_layers": 2, "stable_kimg": 0.008, "fade_kimg": 0.008, "total_kimg": 0.032,
    "batch_size": {"4": 8}, "snapshot_kimg": 0.016, "tick_kimg": 0.016, "keep_checkpoints": 10, "device": "cpu",
    "x_flips": True,
}  # fmt: skip
GROWING: dict[str, Any] = {
    **TINY, "stable_kimg": 0.03, "fade_kimg": 0.02, "total_kimg": 0.1, "batch_size": {"4": 8, "16": 4},
    "snapshot_kimg": 0.04, "tick_kimg": 0.02,
}  # fmt: skip
"""Of a run with more than one step at each stage of its growth."""
PATHS = {"path_length_weight": 2, "path_length_interval": 2}
"""What regularizes path lengths in every second step."""


LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the weights that stand-ins are measured by: other ones would change every number."""


def tiny_dataset(
    store: Store,
    images_HWC: Sequence[ImageArray],
    name: str = "faces",
    authors: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    photos: Sequence[str] = (),
) -> VersionSummary:
    """Square images published as a version of a dataset, each as of a photograph; what a run records of it.

    `photos` are sha256s of the first photographs; the others have their own.
    """
    schema = IMAGE_SCHEMA if splits is None else IMAGE_SCHEMA.append(pa.field("split", pa.string()))
    samples, rows = [], []
    names = [f"Author {index}" for index in range(len(images_HWC))]
    for index, pixels in enumerate(images_HWC):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        sha256 = bytes_digest(file.getvalue())
        samples.append(Sample(sha256[:16], "png", file.getvalue(), b"{}"))
        photo_sha256 = photos[index] if index < len(photos) else bytes_digest(b"photograph" + file.getvalue())
        facts = {
            "key": sha256[:16], "image_sha256": sha256, "photo_sha256": photo_sha256, "face_index": 0,
            "ref": f"{index}.jpg", "page": f"https://photos.example/{index}", "author": (authors or names)[index],
            "license": "CC-BY-4.0", "shard": "shards/00000.tar",
        }  # fmt: skip
        facts |= {} if splits is None else {"split": splits[index]}
        rows.append({**dict.fromkeys(IMAGE_SCHEMA.names), **facts})
    path = store.path("cache/packed.tar")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = write_shard(path, samples)
    index_bytes = index_json(written)
    key = f"chunks/shard/{written.sha256}.tar"
    store.put(key, path)
    store.put(index_name(key), index_bytes)
    for row, entry in zip(rows, written.entries[::2], strict=True):
        row |= {"offset": entry.offset, "size": entry.size}
    shard = {
        "file": "shards/00000.tar", "object": key, "sha256": file_digest(path), "images": len(rows),
        "size": path.stat().st_size, "index_sha256": bytes_digest(index_bytes),
    }  # fmt: skip
    settings = {"resolution": len(images_HWC[0])}
    dataset = publish(
        store,
        name,
        settings=settings,
        images=[table_of(rows, schema)],
        image_schema=schema,
        rejections=[],
        rejection_schema=REJECTION_SCHEMA,
        shards=[shard],
        num_photos=len(rows),
    )
    record_build(dataset, {"config_sha256": "0", "facts": {"code_commit": None}}, datetime.now(UTC))
    return dataset.summary()


def noise_images(num: int, side: int = 16, seed: int = 0) -> list[ImageArray]:
    """Random pictures (side, side, 3)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(num)]


def untrained(store: Store, dataset: VersionSummary, **overrides: Any) -> Run:
    """A run that has not begun."""
    config = TrainConfig.model_validate({**TINY, **overrides})
    return create_run(store, dataset, config.model_dump(mode="json"))


def trained(store: Store, dataset: VersionSummary, tracker: Tracker | None = None, **overrides: Any) -> Run:
    """A run trained to its end."""
    run = untrained(store, dataset, **overrides)
    finish(run, tracker)
    return run


def finish(run: Run, tracker: Tracker | None = None) -> None:
    """Train a run to its end."""
    config = TrainConfig.model_validate(run.record.config)
    train(run, config, images_of(run, config), torch.device("cpu"), tracker or Tracker())


def portraits(faces: Path, num: int, side: int) -> list[ImageArray]:
    """Real portraits, cut square from the middle and shrunk."""
    pictures = []
    for path in sorted(faces.glob("*/*.jpg"))[:num]:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        edge = min(rgb.size)
        left, top = (rgb.width - edge) // 2, (rgb.height - edge) // 4
        square = rgb.crop((left, top, left + edge, top + edge))
        pictures.append(np.asarray(square.resize((side, side), Image.Resampling.LANCZOS)))
    return pictures
