"""Drawn faces as datasets, for tests of exports and imports: a folder of pictures, and what builds make of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.build import build, run_with
from flows.options import BuildOptions
from flows.stages.work import Inline
from preprocessing.imports import ImportConfig
from storage.datasets.dataset import Dataset
from storage.exports.pictures import Job
from storage.exports.records import Exported
from storage.exports.write import checked_job, export
from storage.store import Store

SIDE = 32
FACTS = ("author", "license", "license_url", "title", "page")
SUFFIX = {"PNG": "png", "WEBP": "webp", "JPEG": "jpg"}


@contextmanager
def in_this_process() -> Iterator[None]:
    """Builds without a cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.build.open_workers", lambda *_: nullcontext(Inline()))
        yield


def picture(seed: int, side: int = SIDE) -> Image.Image:
    """A random one."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def file_of(image: Image.Image, format: str = "PNG") -> bytes:
    """An image as a file, without loss where the format can."""
    buffer = io.BytesIO()
    image.save(buffer, format, **({"lossless": True} if format == "WEBP" else {}))
    return buffer.getvalue()


def drawn(folder: Path, facts: Sequence[Mapping[str, Any]], format: str = "PNG") -> Path:
    """A folder of pictures, with a line of `metadata.jsonl` for each."""
    folder.mkdir(parents=True)
    lines = []
    for number, fact in enumerate(facts):
        name = f"{number:03d}.{SUFFIX[format]}"
        (folder / name).write_bytes(file_of(picture(number), format))
        lines.append(json.dumps({"file_name": name, **fact}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def imported(store: Store, path: Path, name: str = "faces", **config: Any) -> Dataset:
    """What `likeness import-dataset` publishes."""
    resolved = ImportConfig(name=name, **config).build_config(path)
    return build(resolved, BuildOptions(store=store.root), run_with(lambda _: None)).dataset


def exported(dataset: Dataset, layout: str, out: Path, **options: Any) -> Exported:
    """What `likeness export-dataset` writes."""
    return export(*checked_job(dataset, layout, out, **options), out)


def place(folder: Path, layout: str) -> Path:
    """Where an export may go."""
    return folder / (f"{layout}.zip" if layout == "stylegan" else layout)


def contents(dataset: Dataset) -> dict[bytes, tuple[Any, ...]]:
    """The facts of each image of a version, by its pixels."""

    def pixels(row: dict[str, Any], data: bytes) -> tuple[bytes, tuple[Any, ...]]:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB").tobytes(), tuple(row[name] for name in FACTS)

    return dict(Job(dataset, dataset.resolution).each(pixels))
