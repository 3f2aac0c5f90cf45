"""What a drawn or exported file says of where it comes from: in itself where its format lets plain code read that,
and in a JSON file beside it otherwise.

    PNG            a text chunk
    safetensors    an entry of the header's metadata
    all others     FILE.json, which also holds the file's sha256

Not here: what the entries mean (`training.drawing.trained.Trained.origin`), and following them
(`storage.lineage.trace`).

    metadata = read_provenance(Path("mixing.png"))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from storage.digest import file_digest
from storage.errors import IntegrityError
from storage.local import whole_file, write_whole

GRID_TEXT = "likeness"
"""The entry, such as a PNG's text chunk, that says where a file comes from."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on a safetensors header."""


def sidecar_path(path: Path) -> Path:
    """The JSON file beside `path` that says where it comes from."""
    return path.with_name(f"{path.name}.json")


@contextmanager
def whole_with_sidecar(path: Path, metadata: Mapping[str, Any]) -> Iterator[Path]:
    """As `whole_file`, with a file beside it that says what it was made of, and its sha256.

    `metadata` may grow inside the block. The old file goes first and the new one comes last, so that none is ever
    beside words about another.
    """
    with whole_file(path) as partial:
        yield partial
        record = {GRID_TEXT: dict(metadata), "file": path.name, "sha256": file_digest(partial)}
        path.resolve().unlink(missing_ok=True)
        write_whole(sidecar_path(path), (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())


def read_provenance(path: Path) -> dict[str, Any] | None:
    """What `path` says it was made of, or None where it says nothing.

    IntegrityError where the file beside it tells of other bytes.
    """
    if sidecar_path(path).is_file() and (metadata := _of_sidecar(path)):
        return metadata
    text = _safetensors_text(path) if path.suffix == ".safetensors" else _png_text(path)
    read: dict[str, Any] | None = json.loads(text) if isinstance(text, str) else None
    return read


def _of_sidecar(path: Path) -> dict[str, Any] | None:
    beside = sidecar_path(path)
    try:
        record = json.loads(beside.read_bytes())
    except ValueError:
        return None  # some other program's, as where it has no such entry
    if not isinstance(record, dict) or GRID_TEXT not in record:
        return None
    if record.get("sha256") != file_digest(path):
        raise IntegrityError(f"{path} has changed since {beside.name} was written: its sha256 is another")
    metadata: dict[str, Any] = record[GRID_TEXT]
    return metadata


def _png_text(path: Path) -> Any:
    try:
        with Image.open(path) as image:
            return image.info.get(GRID_TEXT)
    except (UnidentifiedImageError, OSError):
        return None


def _safetensors_text(path: Path) -> Any:
    """Out of the header; read here, since storage needs no tensors and knows no torch."""
    with path.open("rb") as stream:
        num_bytes = int.from_bytes(stream.read(8), "little")
        if num_bytes > MAX_HEADER_BYTES:
            return None
        try:
            header = json.loads(stream.read(num_bytes))
        except ValueError:
            return None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata.get(GRID_TEXT) if isinstance(metadata, dict) else None
