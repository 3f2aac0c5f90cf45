"""What a drawn or exported file says of where it comes from: in itself where its format lets plain code read that,
and in a JSON file beside it otherwise.

    PNG            a text chunk
    MP4            a box of its own, and FILE.json
    safetensors    an entry of the header's metadata
    all others     FILE.json, which also holds the file's sha256

Pictures and films also hold a hash of their pixels, so that altered ones are told from those that were drawn. Not
here: what the entries mean (`training.drawing.trained.Trained.origin`), following them (`storage.lineage.trace`), and
marks that others read (`training.drawing.marks`).

    metadata = read_provenance(Path("mixing.png"))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from storage.digest import bytes_digest, file_digest
from storage.errors import IntegrityError
from storage.lineage.mp4 import LINEAGE, media_digest, uuid_content
from storage.local import real_path, whole_file, write_whole
from storage.records import FileName, Part, Sha256, json_object, problem_of

GRID_TEXT = "likeness"
"""The entry, such as a PNG's text chunk, that says where a file comes from."""
PIXELS_SHA256 = "pixels_sha256"
"""The entry of a picture that `pixels_digest` of its pixels stands in."""
MEDIA_SHA256 = "media_sha256"
"""The entry of a film that the sha256 of its encoded frames stands in."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on a safetensors header."""


class Origin(Part):
    """What a file says it was drawn or exported by; `bundled` pictures name no run of theirs."""

    kind: str = "grid"
    run_id: FileName | None = None
    checkpoint: FileName | None = None
    generator_sha256: Sha256 | None = None
    dataset: str | None = None
    dataset_manifest_sha256: Sha256 | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, Any], path: Path) -> Origin:
        """What `path` says; IntegrityError where it is not what such files say."""
        try:
            return cls.model_validate(metadata)
        except ValidationError as error:
            raise IntegrityError(f"what {path} says of its origin is damaged: {problem_of(error)}") from error


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
        real_path(path).unlink(missing_ok=True)
        write_whole(sidecar_path(path), (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())


def read_provenance(path: Path) -> dict[str, Any] | None:
    """What `path` says it was made of, or None where it says nothing.

    IntegrityError where that cannot be read, or the file beside it tells of other bytes.
    """
    if sidecar_path(path).is_file() and (metadata := _of_sidecar(path)):
        return metadata
    is_network = path.suffix == ".safetensors"
    text = _safetensors_text(path) if is_network else _png_text(path) or _mp4_text(path)
    return json_object(text.encode(), f"what {path} says of its origin") if isinstance(text, str) else None


def pixels_digest(pixels_HWC: NDArray[np.uint8]) -> str:
    """sha256 of a picture's pixels and shape, the same in whatever file they lie."""
    shape = "x".join(map(str, pixels_HWC.shape)).encode()
    return bytes_digest(shape + b":" + np.ascontiguousarray(pixels_HWC).tobytes())


def pixels_hold(path: Path, metadata: Mapping[str, Any]) -> bool | None:
    """Whether a file's pixels are those that it was written with; None where it does not say which those were.

    Nothing here is drawn with further frames or with holes, so a picture that has any was altered.
    """
    if PIXELS_SHA256 in metadata:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                return False
            try:
                if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (
                    255,
                    255,
                ):
                    return False
                pixels = np.asarray(image.convert("RGB"))
            except (OSError, SyntaxError):  # a PNG that is cut, or of a wrong checksum
                return False
        return pixels_digest(pixels) == str(metadata[PIXELS_SHA256])
    if MEDIA_SHA256 in metadata:
        return media_digest(path) == str(metadata[MEDIA_SHA256])
    return None


def is_whole(path: Path) -> bool:
    """Whether all of a picture can be decoded."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


def check_pixels(path: Path, metadata: Mapping[str, Any]) -> None:
    """IntegrityError where a file's pixels are not those that it was written with."""
    if pixels_hold(path, metadata) is False:
        raise IntegrityError(f"{path} has other pixels than were drawn: it was altered")


def _of_sidecar(path: Path) -> dict[str, Any] | None:
    beside = sidecar_path(path)
    try:
        record = json.loads(beside.read_bytes())
    except (ValueError, RecursionError):
        return None  # some other program's, as where it has no such entry
    if not isinstance(record, dict) or GRID_TEXT not in record:
        return None
    if record.get("sha256") != file_digest(path):
        raise IntegrityError(f"{path} has changed since {beside.name} was written: its sha256 is another")
    if not isinstance(record[GRID_TEXT], dict):
        raise IntegrityError(f"{beside} is damaged: what it says of {path.name} is no JSON object")
    metadata: dict[str, Any] = record[GRID_TEXT]
    return metadata


def _png_text(path: Path) -> Any:
    try:
        with Image.open(path) as image:
            return image.info.get(GRID_TEXT)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None


def _mp4_text(path: Path) -> Any:
    content = uuid_content(path, LINEAGE)
    return None if content is None else content.decode("utf-8", "replace")


def _safetensors_text(path: Path) -> Any:
    """Out of the header; read here, since storage needs no tensors and knows no torch."""
    with path.open("rb") as stream:
        num_bytes = int.from_bytes(stream.read(8), "little")
        if num_bytes > MAX_HEADER_BYTES:
            return None
        try:
            header = json.loads(stream.read(num_bytes))
        except (ValueError, RecursionError):
            return None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata.get(GRID_TEXT) if isinstance(metadata, dict) else None
