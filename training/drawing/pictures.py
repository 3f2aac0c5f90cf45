"""Images from a trained generator, each from its seed alone, and grids of them that say where they come from.

Not here: figures (`training.drawing.figures`), videos (`training.drawing.video`), projection and export.

    trained = open_trained(checkpoint, torch.device("cpu"))
    generate_grid(trained, range(16), Path("grid.png"), [0.7])
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from storage.errors import ConfigError, IntegrityError
from storage.lineage.origin import GRID_TEXT, PIXELS_SHA256, pixels_digest
from storage.local import whole_file
from training.data import ImageArray
from training.drawing.images import images_from_seeds, possible_psis
from training.drawing.marks import Signer, xmp_packet
from training.drawing.trained import Trained

MAX_PIXELS = 89_478_485
"""Of a picture: programs that open larger ones take them for an attack (Pillow's own limit)."""


def check_tiles(num: int, side_px: int, choose: str) -> None:
    """ConfigError where so many images of one side would make too large a picture; it says what to choose."""
    if num * side_px**2 > MAX_PIXELS:
        raise ConfigError(
            f"{num} images of {side_px} px are {num * side_px**2 / 1e6:.0f} million pixels in one picture, and "
            f"{MAX_PIXELS // side_px**2} such images fit into one: choose {choose}"
        )


def generate_grid(
    trained: Trained, seeds: Sequence[int], path: Path, psis: Sequence[float]
) -> dict[str, Any]:
    """Write a grid of images of `seeds`, and return the metadata it carries.

    With several psis, a row a seed and a column a psi; those that can be (`possible_psi`), each once.
    """
    psis = possible_psis(trained, psis)
    images = np.stack(
        [images_from_seeds(trained.generator, seeds, psi, truncation_cutoff=trained.cutoff) for psi in psis],
        axis=1,
    )
    shown = psis[0] if len(psis) == 1 else list(psis)
    metadata = {**trained.origin, "seeds": list(seeds), "truncation_psi": shown}
    columns = len(psis) if len(psis) > 1 else None
    return write_grid(
        images.reshape(-1, *images.shape[2:]), path, metadata, columns=columns, signer=trained.signer
    )


def generate_files(
    trained: Trained, seeds: Sequence[int], folder: Path, psis: Sequence[float], *, batch_size: int = 8
) -> list[Path]:
    """Write one PNG a seed and psi into `folder`, each with the metadata of a grid, and return their paths."""
    paths = []
    psis = possible_psis(trained, psis)
    for psi in psis:
        suffix = f"-psi{psi:g}" if len(psis) > 1 else ""
        for start in range(0, len(seeds), batch_size):
            batch = seeds[start : start + batch_size]
            images = images_from_seeds(trained.generator, batch, psi, truncation_cutoff=trained.cutoff)
            for seed, image in zip(batch, images, strict=True):
                paths.append(folder / f"seed{seed:05d}{suffix}.png")
                metadata = {**trained.origin, "kind": "image", "seeds": [seed], "truncation_psi": psi}
                write_png(image.transpose(1, 2, 0), paths[-1], metadata, trained.signer)
    return paths


def write_grid(
    images: ImageArray,
    path: Path,
    metadata: Mapping[str, Any],
    *,
    columns: int | None = None,
    signer: Signer | None = None,
) -> dict[str, Any]:
    """Tile images (N, 3, R, R) into a PNG, as `write_png`."""
    num, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return write_png(canvas, path, metadata, signer)


def write_png(
    pixels_HWC: ImageArray, path: Path, metadata: Mapping[str, Any], signer: Signer | None = None
) -> dict[str, Any]:
    """Write a picture (H, W, 3) with its marks, and return the metadata that it carries.

    That is `metadata` and a hash of the pixels, as JSON in a text chunk. XMP says that a model drew it, and a C2PA
    manifest where there is a signer.
    """
    carried = {**metadata, PIXELS_SHA256: pixels_digest(pixels_HWC)}
    text = PngInfo()
    text.add_itxt(GRID_TEXT, json.dumps(carried, sort_keys=True))
    text.add_itxt("XML:com.adobe.xmp", xmp_packet(carried))
    with whole_file(path) as partial:
        Image.fromarray(pixels_HWC).save(partial, format="PNG", pnginfo=text)
        if signer is not None:
            signer.sign(partial, "image/png", carried)
    return carried


def read_grid_metadata(path: Path) -> dict[str, Any]:
    """The metadata a grid was written with; IntegrityError where there is none."""
    with Image.open(path) as image:
        text = image.info.get(GRID_TEXT)
    if text is None:
        raise IntegrityError(f"{path} carries no {GRID_TEXT} text: it was not written here, or was re-saved")
    metadata: dict[str, Any] = json.loads(text)
    return metadata
