"""One picture of a dataset version: crops taken evenly from all of it, for a person to look at."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from storage.datasets.dataset import Dataset
from storage.shards import read_entry

COLUMNS, ROWS, CELL_PX = 8, 6, 96


def write_contact_sheet(dataset: Dataset) -> Path:
    """Write `contact-sheet.jpg` into the version's folder, beside what the manifest names, and return its path."""
    count = min(COLUMNS * ROWS, dataset.num_images)
    chosen = {i * dataset.num_images // count for i in range(count)}
    crops: list[Image.Image] = []
    position = 0
    for shard in dataset.manifest.shards:
        for entry in dataset.index(shard).entries:
            if entry.name.endswith(".json"):
                continue
            if position in chosen:
                image = Image.open(io.BytesIO(read_entry(dataset.shard_path(shard), entry)))
                crops.append(image.convert("RGB").resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS))
            position += 1
    sheet = Image.new("RGB", (COLUMNS * CELL_PX, -(-len(crops) // COLUMNS) * CELL_PX), "white")
    for number, crop in enumerate(crops):
        row, column = divmod(number, COLUMNS)
        sheet.paste(crop, (column * CELL_PX, row * CELL_PX))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    key = f"{dataset.key}/contact-sheet.jpg"
    dataset.store.put(key, buffer.getvalue())
    return dataset.store.path(key)
