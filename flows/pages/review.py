"""The page on which a person looks at a dataset's faces, and keeps or refuses each by a key.

One file that needs no other and no network: crops are data URIs, and its script saves verdicts in the browser and as a
JSONL. Not here: what verdicts mean to a build (`preprocessing.curation.review`).
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from flows.pages.rendered import rendered
from storage.datasets.dataset import Dataset
from storage.errors import ConfigError
from storage.local import write_whole
from storage.shards import read_entry

CROP_PX = 256
JPEG_QUALITY = 85


def page_of(dataset: Dataset) -> Path:
    """Where the page of a version is written, unless elsewhere is asked for."""
    return dataset.folder / "review.html"


def write_review(dataset: Dataset, out: Path | None, limit: int) -> tuple[Path, int]:
    """Write the page, of so many images at most; where it is, and how many images it has."""
    path = page_of(dataset) if out is None else out
    images = _images(dataset, limit)
    page = rendered("review.html", reference=dataset.reference, images=images)
    try:
        write_whole(path, page.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return path, len(images)


def _images(dataset: Dataset, limit: int) -> list[dict[str, Any]]:
    """What the page says of each image, and the image itself."""
    rows = {row["key"]: row for row in dataset.images()}
    count = min(limit, dataset.num_images)
    chosen = {number * dataset.num_images // count for number in range(count)}
    found, position = [], 0
    for shard in dataset.manifest.shards:
        for entry in dataset.index(shard).entries:
            if entry.name.endswith(".json"):
                continue
            if position in chosen:
                row = rows[entry.name.partition(".")[0]]
                found.append(
                    {
                        "image": row["image_sha256"],
                        "photo": row["photo_sha256"],
                        "face_index": row["face_index"],
                        "ref": row["ref"],
                        "data": _data_uri(read_entry(dataset.shard_path(shard), entry)),
                    }
                )
            position += 1
    return found


def _data_uri(data: bytes) -> str:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((CROP_PX, CROP_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
